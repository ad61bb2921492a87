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
    SHERPA_ONNX_STREAMING = "sherpa-onnx-streaming"
    PLAIN = "plain"


TargetOption = Annotated[
    Target,
    typer.Option(
        metavar="NAME",
        help="Program that loads the folder: onnx-asr, sherpa-onnx (whole recordings), sherpa-onnx-streaming (live), "
        "or plain for one of your own.",
    ),
]
OutputOption = Annotated[Path, typer.Option("--output_dir", help="Folder to write, whole or not at all.")]
OverwriteOption = Annotated[bool, typer.Option("--overwrite", help="Replace a folder that is not empty.")]
Int8Option = Annotated[
    bool, typer.Option("--int8", help="Graphs with 8-bit weights (*.int8.onnx) in place of those in float32.")
]
VerifyOption = Annotated[
    bool, typer.Option("--verify", help="Transcribe clips by the target's own package too, which must be installed.")
]
AudioOption = Annotated[
    list[Path] | None,
    typer.Option(
        "--verify_audio", help="Audio file for --verify and --int8, any number of times. Default: two clips of digits."
    ),
]


def export_onnx(
    output_dir: OutputOption,
    model: ModelOption = None,
    target: TargetOption = Target.ONNX_ASR,
    head: HeadOption = Head.AUTO,
    int8: Int8Option = False,
    verify: VerifyOption = False,
    verify_audio: AudioOption = None,
    overwrite: OverwriteOption = False,
) -> None:
    """Write ONNX graphs of a checkpoint with the files that another runtime reads next to them.

    ONNX Runtime runs the graphs next to the model before the folder appears. The exit code is 1 for a model that the
    runtime cannot express.
    """
    if verify_audio and not (verify or int8):
        raise typer.BadParameter("--verify_audio belongs to --verify and --int8.")
    check_output(output_dir, overwrite)
    check_packages()
    name = DEFAULT_MODEL if model is None else model
    loaded = load_model(name, head.value, "cpu", "float32")
    try:
        with failing_as_input():
            result = write_onnx(
                loaded,
                output_dir,
                target=target.value,
                source=name,
                overwrite=overwrite,
                int8=int8,
                verify=verify,
                verify_audio=verify_audio,
            )
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
    if result.int8_differences:
        say("Differences of 8 bits to float32, root mean squares as a share of each stage's:")
    for stage, difference in result.int8_differences.items():
        say(f"  {stage}  {difference:.3f}")
    if result.tokens is not None:
        counts = result.tokens
        say(f"{counts.differences} of {counts.tokens} tokens of {counts.clips} clips differ, from the same features.")
    if result.texts:
        num_alike = sum(check.found == check.expected for check in result.texts)
        say(f"{result.target} gives the text of the model for {num_alike} of {len(result.texts)} clips.")
    for check in result.texts:
        if check.found != check.expected:
            say(f"  {check.clip}: {check.found!r} for {check.expected!r}")
