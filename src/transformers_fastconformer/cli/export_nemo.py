"""`fastconformer export-nemo`: a checkpoint of this package back to a `.nemo` archive."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from ..checkpoint_sources import ORIGINAL_CONFIG_FILE
from ..nemo.archive_writer import check_archive_path
from ..nemo.export import export_nemo as write_nemo
from .exit_codes import failing_as_input

FolderArgument = Annotated[
    Path, typer.Argument(metavar="FOLDER", help="Folder of a checkpoint of this package, converted or fine-tuned.")
]
OutputOption = Annotated[Path, typer.Option(help="Archive to write; its name ends in .nemo.")]
OriginalOption = Annotated[
    Path | None,
    typer.Option(
        help="The .nemo archive, or the folder converted from it, that the model began with: its configuration is "
        f"taken for all that the model does not say. Default: {ORIGINAL_CONFIG_FILE} in FOLDER, if there is one."
    ),
]
OverwriteOption = Annotated[bool, typer.Option("--overwrite", help="Replace a file at the output.")]


def export_nemo(
    folder: FolderArgument, output: OutputOption, original: OriginalOption = None, overwrite: OverwriteOption = False
) -> None:
    """Write a .nemo archive that NeMo restores, from a folder of this package.

    The exit code is 1 for a checkpoint that NeMo has no form for.
    """
    check_archive_path(output, overwrite)
    with failing_as_input():
        result = write_nemo(folder, output, original=original, overwrite=overwrite)
    kept = "with the configuration that it began with" if result.is_config_kept else "with a configuration of its own"
    console = Console(highlight=False)
    console.print(f"Wrote {result.path}: {result.nemo_class}, {kept}.", markup=False, soft_wrap=True)
