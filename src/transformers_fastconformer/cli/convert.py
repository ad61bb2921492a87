"""`fastconformer convert`: a `.nemo` checkpoint to a Transformers folder, with proof; or from and to other forms."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from ..audio.files import read_audio
from ..demonstration import CHECKPOINT_PATH, CLIP_PATHS
from ..feature_extraction_fastconformer import FastConformerFeatureExtractor
from ..inference.loading import check_device
from ..interop import (
    ExportResult,
    check_output,
    convert_transformers_checkpoint,
    export_to_transformers,
    is_transformers_checkpoint,
)
from ..nemo.archive import CONFIG_MEMBER
from ..nemo.convert import convert_nemo_checkpoint
from ..nemo.hub import ARCHIVE_SUFFIX
from ..nemo.model_card import insert_verification
from ..nemo.reference import require_nemo
from ..nemo.verify import VerificationReport, describe_row, verify_conversion

CONFIG_FILE = "config.json"
OWN_FORMAT = "fastconformer"
TRANSFORMERS_FORMAT = "transformers"


def convert(
    model_name: Annotated[
        str | None,
        typer.Option(
            "--model_name",
            help="Hub repository, .nemo file, or folder that holds one; or the folder of a checkpoint of this package "
            "or of Transformers' own Parakeet classes. Without it the demonstration checkpoint of the package.",
        ),
    ] = None,
    output_dir: Annotated[
        Path | None, typer.Option("--output_dir", help="Folder to write; it must not exist or be empty.")
    ] = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="Run NeMo and this package side by side and compare every stage.")
    ] = False,
    device: Annotated[str | None, typer.Option(help="Where verification runs: cpu (default), cuda, cuda:1.")] = None,
    dtype: Annotated[
        str, typer.Option(help="Precision of the weights: auto (as stored), float32, float16, bfloat16.")
    ] = "auto",
    audio: Annotated[list[Path] | None, typer.Option(help="Speech to verify on; may be given several times.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what is in the output folder.")] = False,
    push_to_hub: Annotated[
        str | None, typer.Option("--push_to_hub", help="Hub repository to upload the folder to.")
    ] = None,
    output_format: Annotated[
        str,
        typer.Option(
            "--format",
            help="What to write: fastconformer (for the classes of this package) or transformers (for Transformers' "
            "own ParakeetFor... and NemotronAsrStreaming... classes).",
        ),
    ] = OWN_FORMAT,
    head: Annotated[
        str | None,
        typer.Option(help="With --format transformers, the head of a hybrid to write: transducer or ctc."),
    ] = None,
) -> None:
    """Convert a .nemo checkpoint to a folder that Transformers loads; --verify proves that the numbers are NeMo's."""
    console = Console(highlight=False)
    source = model_name or str(CHECKPOINT_PATH)
    if output_dir is None and not verify and push_to_hub is None:
        raise ValueError("nothing to do: give --output_dir, --push_to_hub or --verify.")
    if not verify and (device is not None or audio):
        raise ValueError("--device and --audio belong to a verification; give --verify too.")
    is_export = _check_format(output_format, head)
    is_archive = _check_source(source, is_export, verify, dtype)
    verification_device = check_device(device or "cpu")
    if verify:  # all that can fail before anything is written
        require_nemo()
        for path in audio or []:
            read_audio(path)
    if is_export and output_dir is not None:
        check_output(output_dir, overwrite)
    with tempfile.TemporaryDirectory(dir=_nearest_folder(output_dir) if is_export else None) as temporary:
        written = output_dir or Path(temporary) / "written"
        folder = Path(temporary) / "converted" if is_export else written
        place = written if output_dir else "a temporary folder"
        passed = True
        if is_archive:
            result = convert_nemo_checkpoint(source, folder, dtype=dtype, overwrite=overwrite)
        elif is_transformers_checkpoint(source):
            convert_transformers_checkpoint(source, folder, overwrite=overwrite)
        else:
            folder = Path(source)
        if not is_export:
            console.print(f"Converted {source} to {place}.", soft_wrap=True)
        if verify:
            clips = load_clips(audio or list(CLIP_PATHS), sampling_rate_of(folder))
            # Weights as stored are compared in float32, rounded ones with what rounding costs NeMo.
            precision = "float32" if dtype == "auto" else dtype
            report = verify_conversion(result.archive_path, folder, clips, device=verification_device, dtype=precision)
            report.save(folder)
            insert_verification(folder, report.to_markdown())
            show_report(console, report)
            passed = report.passed
        if is_export and passed:
            show_export(console, export_to_transformers(folder, written, head=head, overwrite=overwrite), str(place))
        if push_to_hub is not None and passed:
            _push(written, push_to_hub)
            console.print(f"Uploaded to {push_to_hub}.")
    if not passed:
        raise typer.Exit(1)


def _check_format(output_format: str, head: str | None) -> bool:
    """Whether to write what Transformers' own classes load."""
    if output_format not in (OWN_FORMAT, TRANSFORMERS_FORMAT):
        raise ValueError(f"--format {output_format} is not supported; expected {OWN_FORMAT} or {TRANSFORMERS_FORMAT}.")
    if head is not None and output_format == OWN_FORMAT:
        raise ValueError("--head belongs to --format transformers; this package keeps both heads of a hybrid.")
    return output_format == TRANSFORMERS_FORMAT


def _check_source(source: str, is_export: bool, verify: bool, dtype: str) -> bool:
    """Whether the source is a `.nemo` checkpoint, and not a folder in another form."""
    folder = Path(source)
    holds_archive = (folder / CONFIG_MEMBER).is_file() or any(folder.glob(f"*{ARCHIVE_SUFFIX}"))
    if holds_archive or not (folder / CONFIG_FILE).is_file():
        return True
    if not is_export and not is_transformers_checkpoint(source):
        raise ValueError(f"{source} is in the form of this package or of others already; expected a .nemo checkpoint.")
    if verify or dtype != "auto":
        option = "--verify" if verify else f"--dtype {dtype}"
        raise ValueError(f"{option} belongs to a .nemo checkpoint; {source} is a folder of another form.")
    return False


def _nearest_folder(path: Path | None) -> Path | None:
    """The folder that is there already, to write beside the output and not where temporary files have little room."""
    return next((parent for parent in path.absolute().parents if parent.is_dir()), None) if path else None


def show_export(console: Console, result: ExportResult, place: str) -> None:
    """Say what was written for Transformers' own classes, and what they have no place for."""
    console.print(f"Wrote a checkpoint of {result.class_name} to {place}.", soft_wrap=True)
    for option, reason in result.options_left_out.items():
        console.print(f"Left out: {option} ({reason}).", markup=False, soft_wrap=True)
    parts = sorted({name.partition(".")[0] for name in result.tensors_left_out})
    if parts:
        console.print(f"Left out: the other head ({', '.join(parts)}).", markup=False, soft_wrap=True)


def _push(folder: Path, repository: str) -> None:
    from huggingface_hub import HfApi

    api = HfApi()
    api.create_repo(repository, exist_ok=True)
    api.upload_folder(repo_id=repository, folder_path=str(folder))


def show_report(console: Console, report: VerificationReport) -> None:
    """Print the table of a verification and its verdict."""
    table = Table(title=f"Compared with {report.reference}, {report.dtype} on {report.device}", title_justify="left")
    table.add_column("stage", no_wrap=True)
    for name in ("max diff.", "mean diff.", "limit", "clips"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("result")
    for row in report.rows:
        verdict = "[green]pass[/]" if row.passed else "[bold red]FAIL[/]"
        table.add_row(row.stage, *describe_row(row), str(row.clips), verdict)
    console.print(table)
    for row in report.rows:
        if row.detail:
            console.print(f"{row.stage}: {row.detail}", markup=False)
    failures = sum(not row.passed for row in report.rows)
    console.print(
        f"[bold green]All {len(report.rows)} stages agree.[/]"
        if report.passed
        else f"[bold red]{failures} of {len(report.rows)} stages differ.[/]"
    )


def sampling_rate_of(folder: Path) -> int:
    """Rate that the model of a converted folder wants, in Hz."""
    return FastConformerFeatureExtractor.from_pretrained(folder).sampling_rate


def load_clips(paths: list[Path], sampling_rate: int) -> dict[str, np.ndarray]:
    """Name to samples of audio files."""
    return {path.name: read_audio(path, sampling_rate) for path in paths}
