"""`fastconformer export-onnx`: a checkpoint out to ONNX, in the form that another runtime loads."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from ..checkpoints.output_folder import check_output
from ..export.graphs import check_packages
from ..export.onnx import export_onnx as write_onnx
from ..inference.loading import DEFAULT_MODEL, load_model
from .exit_codes import InputError, failing_as_input
from .model_options import Head, HeadOption, ModelOption


class Target(str, Enum):
    """Program that loads what is written."""

    ONNX_ASR = "onnx-asr"
    SHERPA_ONNX = "sherpa-onnx"
    PLAIN = "plain"


TargetOption = Annotated[
    Target,
    typer.Option(
        metavar="NAME",
        help="Program that loads the folder: onnx-asr, sherpa-onnx (whole recordings), or plain for one of your own.",
    ),
]
OutputOption = Annotated[Path, typer.Option("--output_dir", help="Folder to write, whole or not at all.")]
OverwriteOption = Annotated[bool, typer.Option("--overwrite", help="Replace a folder that is not empty.")]


def export_onnx(
    output_dir: OutputOption,
    model: ModelOption = None,
    target: TargetOption = Target.ONNX_ASR,
    head: HeadOption = Head.AUTO,
    overwrite: OverwriteOption = False,
) -> None:
    """Write ONNX graphs of a checkpoint with the files that another runtime reads next to them.

    ONNX Runtime runs the graphs next to the model before the folder appears. The exit code is 1 for a model that the
    runtime cannot express.
    """
    check_output(output_dir, overwrite)
    check_packages()
    name = DEFAULT_MODEL if model is None else model
    loaded = load_model(name, head.value, "cpu", "float32")
    try:
        with failing_as_input():
            result = write_onnx(loaded, output_dir, target=target.value, source=name, overwrite=overwrite)
    except RuntimeError as error:  # a graph that differs from the model
        raise InputError(str(error)) from error
    console = Console(highlight=False)

    def say(line: str) -> None:
        console.print(line, markup=False, soft_wrap=True)

    say(f"Wrote {result.folder} for {result.target}:")
    for file_name, num_bytes in result.files.items():
        say(f"  {file_name}  {num_bytes / 1e6:.1f} MB")
    say("Largest differences to the model in ONNX Runtime, as a share of each stage's largest magnitude:")
    for stage, difference in result.differences.items():
        say(f"  {stage}  {difference:.1e}")
