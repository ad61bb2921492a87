"""`fastconformer demo`: converts, verifies and transcribes with the checkpoint that the package carries, offline."""

from __future__ import annotations

import importlib.util
import time
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from ..audio.files import read_audio
from ..demonstration import CHECKPOINT_PATH, CLIP_PATHS, EXPECTATIONS_PATH
from ..inference.file import transcribe_waveforms
from ..inference.loading import load_model
from ..nemo.convert import convert_nemo_checkpoint
from ..nemo.verify import verify_against_stored, verify_conversion
from ..temporary_files import TemporaryFolder
from .convert import load_clips, sampling_rate_of, show_report
from .exit_codes import ExitCode


def demo(
    nemo: Annotated[
        bool | None,
        typer.Option(
            "--nemo/--no_nemo",
            help="Verify next to NeMo, or against outputs of NeMo that are stored; default: NeMo if it is installed.",
        ),
    ] = None,
) -> None:
    """Convert the demonstration checkpoint, verify it, and transcribe a clip with word times. Needs no network."""
    console = Console(highlight=False)
    start = time.perf_counter()
    with TemporaryFolder() as temporary:
        folder = temporary / "fastconformer-digits"
        convert_nemo_checkpoint(CHECKPOINT_PATH, folder)
        sampling_rate = sampling_rate_of(folder)
        console.rule("1. Convert")
        for path in sorted(folder.iterdir()):
            console.print(f"  {path.name}  {path.stat().st_size:,} bytes")

        console.rule("2. Verify")
        clips = load_clips(list(CLIP_PATHS), sampling_rate)
        if nemo if nemo is not None else _nemo_is_installed():
            report = verify_conversion(CHECKPOINT_PATH, folder, clips)
        else:
            report = verify_against_stored(EXPECTATIONS_PATH, folder, clips)
        show_report(console, report)

        console.rule("3. Transcribe")
        for head in ("transducer", "ctc"):
            model, processor = load_model(folder, head)
            waveform = read_audio(CLIP_PATHS[0], sampling_rate)
            transcript = transcribe_waveforms(model, processor, [waveform], timestamps=["word"])[0]
            assert transcript.timestamps is not None
            console.print(f"{CLIP_PATHS[0].name}, {head}: [bold]{transcript.text}[/]")
            table = Table()
            for column in ("word", "start (s)", "end (s)"):
                table.add_column(column, justify="left" if column == "word" else "right")
            for word in transcript.timestamps["word"]:
                table.add_row(word["word"], f"{word['start']:.2f}", f"{word['end']:.2f}")
            console.print(table)
    console.print(f"Done in {time.perf_counter() - start:.1f} s.")
    if not report.passed:
        raise typer.Exit(ExitCode.INPUTS_FAILED)


def _nemo_is_installed() -> bool:
    """Look for the part of NeMo that is run: an empty folder called `nemo` counts as a package too."""
    try:
        return importlib.util.find_spec("nemo.collections") is not None
    except ModuleNotFoundError:
        return False
