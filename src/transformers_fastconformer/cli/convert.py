"""`fastconformer convert`: a `.nemo` checkpoint to a Transformers folder, with proof; or from and to other forms."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from huggingface_hub import HfApi
from rich.console import Console
from rich.table import Table

from ..audio.files import read_audio
from ..checkpoints.int8_form import write_int8_checkpoint
from ..checkpoints.model_card import insert_verification
from ..checkpoints.output_folder import check_output
from ..demonstration import CLIP_PATHS
from ..feature_extraction_fastconformer import FastConformerFeatureExtractor
from ..inference.loading import DEMONSTRATION_NAME, DEMONSTRATION_NAMES, checkpoint_of_name, choose_device
from ..interop import (
    ExportResult,
    convert_transformers_checkpoint,
    export_to_transformers,
    is_transformers_checkpoint,
)
from ..nemo.archive import CONFIG_MEMBER
from ..nemo.convert import convert_nemo_checkpoint
from ..nemo.locate import ARCHIVE_SUFFIX
from ..nemo.reference import require_nemo
from ..nemo.stage_comparison import VerificationReport, describe_row
from ..nemo.verify import verify_conversion
from ..temporary_files import TemporaryFolder
from .exit_codes import ExitCode, failing_as_input

CONFIG_FILE = "config.json"
VERIFICATION_DEVICE = "cpu"


class StoredPrecision(str, Enum):
    """Precision of the weights that are written."""

    AUTO = "auto"
    FLOAT32 = "float32"
    FLOAT16 = "float16"
    BFLOAT16 = "bfloat16"
    INT8 = "int8"


class CheckpointFormat(str, Enum):
    """Form of the checkpoint that is written, named after the package whose classes load it."""

    FASTCONFORMER = "fastconformer"
    TRANSFORMERS = "transformers"


class WrittenHead(str, Enum):
    """Head of a hybrid that is written, in a format that has only one head."""

    TRANSDUCER = "transducer"
    CTC = "ctc"


ModelOption = Annotated[
    str,
    typer.Option(
        help="Hub repository, .nemo file, or folder that holds one; or the folder of a checkpoint of this package "
        f"or of Transformers' own Parakeet classes; {', '.join(DEMONSTRATION_NAMES)}: the "
        "spoken-digit models of the package."
    ),
]
OutputDirOption = Annotated[
    Path | None, typer.Option("--output_dir", help="Folder to write; it must not exist or be empty.")
]
VerifyOption = Annotated[
    bool, typer.Option("--verify", help="Run NeMo and this package side by side and compare every stage.")
]
DeviceOption = Annotated[
    str | None,
    typer.Option(
        help="Where the verification runs: cpu, cuda, cuda:1, or auto (the first there is of cuda, mps, cpu). "
        f"Default: {VERIFICATION_DEVICE}."
    ),
]
DtypeOption = Annotated[
    StoredPrecision,
    typer.Option(
        metavar="NAME",
        help="Precision: auto (weights as stored, computed in float32), float32, float16, bfloat16, or int8 (8 bits "
        "in the blocks of the encoder, for CPUs, the rest as stored; of a folder of this package too).",
    ),
]
AudioOption = Annotated[
    list[Path] | None, typer.Option(help="Speech for the verification; may be given several times.")
]
OverwriteOption = Annotated[bool, typer.Option("--overwrite", help="Replace what is in the output folder.")]
PushToHubOption = Annotated[str | None, typer.Option("--push_to_hub", help="Hub repository to upload the folder to.")]
OutputFormatOption = Annotated[
    CheckpointFormat,
    typer.Option(
        "--format",
        metavar="NAME",
        help="Whose classes load what is written: fastconformer (those of this package) or transformers "
        "(Transformers' own ParakeetFor... and NemotronAsrStreaming... classes).",
    ),
]
HeadOption = Annotated[
    WrittenHead | None,
    typer.Option(metavar="NAME", help="With --format transformers, the head of a hybrid to write: transducer or ctc."),
]


def convert(
    model: ModelOption = DEMONSTRATION_NAME,
    output_dir: OutputDirOption = None,
    verify: VerifyOption = False,
    device: DeviceOption = None,
    dtype: DtypeOption = StoredPrecision.AUTO,
    audio: AudioOption = None,
    overwrite: OverwriteOption = False,
    push_to_hub: PushToHubOption = None,
    output_format: OutputFormatOption = CheckpointFormat.FASTCONFORMER,
    head: HeadOption = None,
) -> None:
    """Convert a .nemo checkpoint to a folder that Transformers loads; --verify proves that the numbers are NeMo's.

    The exit code is 1 for a checkpoint that cannot be converted and for a verification whose numbers differ.
    """
    is_export = output_format is CheckpointFormat.TRANSFORMERS
    if output_dir is None and not verify and push_to_hub is None:
        raise ValueError("nothing to do: give --output_dir, --push_to_hub or --verify.")
    if not verify and (device is not None or audio):
        raise ValueError("--device and --audio belong to a verification; give --verify too.")
    if head is not None and not is_export:
        raise ValueError("--head belongs to --format transformers; this package keeps both heads of a hybrid.")
    is_int8 = dtype is StoredPrecision.INT8
    if is_int8 and is_export:
        raise ValueError("--dtype int8 belongs to --format fastconformer; Transformers' own classes lack such a form.")
    source = str(checkpoint_of_name(model))
    is_archive = _check_source(source, is_export, verify, dtype.value)
    if output_dir is not None:
        check_output(output_dir, overwrite)
    verification = _Verification(list(audio or CLIP_PATHS), device, dtype) if verify else None
    console = Console(highlight=False)
    is_staged = is_export or is_int8
    with TemporaryFolder(_nearest_folder(output_dir) if is_staged else None) as temporary:
        written = output_dir or temporary / "written"
        folder = temporary / "converted" if is_staged else written
        place = str(written) if output_dir else "a temporary folder"
        if is_archive or is_transformers_checkpoint(source):
            stored_dtype = StoredPrecision.AUTO if is_int8 else dtype
            archive_path = _convert_to_ours(source, folder, is_archive, stored_dtype.value, overwrite)
        else:
            folder, archive_path = Path(source), None
        if not is_staged:
            console.print(f"Converted {source} to {place}.", markup=False, soft_wrap=True)
        if verification is not None and not verification.run(console, archive_path, folder):
            raise typer.Exit(ExitCode.INPUTS_FAILED)
        if is_int8:
            with failing_as_input():
                write_int8_checkpoint(folder, written, overwrite=overwrite)
            verified = " The verification is that of the weights before they were rounded." if verify else ""
            console.print(f"Stored {source} in 8 bits in {place}.{verified}", markup=False, soft_wrap=True)
        if is_export:
            exported = export_to_transformers(folder, written, head=head and head.value, overwrite=overwrite)
            show_export(console, exported, place)
        if push_to_hub is not None:
            _push(written, push_to_hub)
            console.print(f"Uploaded to {push_to_hub}.", markup=False)


def _convert_to_ours(source: str, folder: Path, is_archive: bool, dtype: str, overwrite: bool) -> Path | None:
    """Write a folder in the form of this package; returns the path of the archive that it was made from, if any."""
    with failing_as_input():
        if is_archive:
            return convert_nemo_checkpoint(source, folder, dtype=dtype, overwrite=overwrite).archive_path
        convert_transformers_checkpoint(source, folder, overwrite=overwrite)
    return None


class _Verification:
    """
    Comparison with NeMo that the user asked for.

    Args:
        clip_paths: Audio that both transcribe.
        device: Device on which both run; None: the CPU.
        dtype: Precision of the weights that are written.

    Raises:
        ImportError: when NeMo is not installed.
        ValueError: for audio that cannot be read, and for a device that this machine does not have.
        FileNotFoundError: when an audio file does not exist.
    """

    def __init__(self, clip_paths: list[Path], device: str | None, dtype: StoredPrecision) -> None:
        # Everything that can fail is done here, before anything is written.
        self._device = choose_device(device or VERIFICATION_DEVICE)
        require_nemo()
        for path in clip_paths:
            read_audio(path)
        self._clip_paths = clip_paths
        # Weights as stored are compared in float32; the error of rounded ones is compared with NeMo's after rounding.
        is_as_stored = dtype in (StoredPrecision.AUTO, StoredPrecision.INT8)
        self._dtype = "float32" if is_as_stored else dtype.value

    def run(self, console: Console, archive_path: Path | None, folder: Path) -> bool:
        """Compare, write the report into the folder and show it; true if all stages agree."""
        assert archive_path is not None  # a verification of another form was refused
        clips = load_clips(self._clip_paths, sampling_rate_of(folder))
        report = verify_conversion(archive_path, folder, clips, device=self._device, dtype=self._dtype)
        report.save(folder)
        insert_verification(folder, report.to_markdown())
        show_report(console, report)
        return report.passed


def _check_source(source: str, is_export: bool, verify: bool, dtype: str) -> bool:
    """
    Tell whether the source is a `.nemo` checkpoint, and not a folder in another form.

    Raises:
        ValueError: for options that do not go with that form.
    """
    folder = Path(source)
    holds_archive = (folder / CONFIG_MEMBER).is_file() or any(folder.glob(f"*{ARCHIVE_SUFFIX}"))
    if holds_archive or not (folder / CONFIG_FILE).is_file():
        return True
    is_int8 = dtype == StoredPrecision.INT8.value
    if not is_export and not is_int8 and not is_transformers_checkpoint(source):
        raise ValueError(f"{source} is in the form of this package or of others already; expected a .nemo checkpoint.")
    if verify or (dtype != StoredPrecision.AUTO.value and not is_int8):
        option = "--verify" if verify else f"--dtype {dtype}"
        raise ValueError(f"{option} belongs to a .nemo checkpoint; {source} is a folder of another form.")
    return False


def _nearest_folder(path: Path | None) -> Path | None:
    """The nearest folder that exists: temporary files are written next to the output, where there is room for them."""
    return next((parent for parent in path.absolute().parents if parent.is_dir()), None) if path else None


def show_export(console: Console, result: ExportResult, place: str) -> None:
    """Say what was written for Transformers' own classes, and what was left out since they have no place for it."""
    console.print(f"Wrote a checkpoint of {result.class_name} to {place}.", soft_wrap=True)
    for option, reason in result.options_left_out.items():
        console.print(f"Left out: {option} ({reason}).", markup=False, soft_wrap=True)
    parts = sorted({name.partition(".")[0] for name in result.tensors_left_out})
    if parts:
        console.print(f"Left out: the other head ({', '.join(parts)}).", markup=False, soft_wrap=True)


def _push(folder: Path, repository: str) -> None:
    api = HfApi()
    try:
        api.create_repo(repository, exist_ok=True)
        api.upload_folder(repo_id=repository, folder_path=str(folder))
    except Exception as error:  # errors of a connection come from the HTTP library, which differs between versions
        raise OSError(f"{repository} cannot be uploaded: {error}") from error


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
    """Sampling rate of the model in a converted folder, in Hz."""
    return FastConformerFeatureExtractor.from_pretrained(folder).sampling_rate


def load_clips(paths: list[Path], sampling_rate: int) -> dict[str, np.ndarray]:
    """Samples of audio files, by name."""
    return {path.name: read_audio(path, sampling_rate) for path in paths}
