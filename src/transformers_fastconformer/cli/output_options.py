"""Options of the transcripts that a command writes, and the place that they name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from ..writers.formats import FORMATS, PAUSE_FORMATS, STREAM_FORMATS, SUBTITLE_FORMATS, SYNONYMS, list_formats
from ..writers.subtitles import SubtitleRules
from .folder_output import FolderOutput
from .transcribe_inputs import AudioInput
from .transcribe_outputs import Output, StandardOutput

SUBTITLES_PANEL = f"Subtitles ({', '.join(SUBTITLE_FORMATS)})"

FormatsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--format",
        help=f"{list_formats()}; several with commas or given again. Default: txt, for manifests jsonl.",
    ),
]
OutputDirOption = Annotated[
    Path | None,
    typer.Option(
        "--output_dir",
        help="Write a file for each input and format here, and not to the standard output. What is there already "
        "is not done again.",
    ),
]
OverwriteOption = Annotated[bool, typer.Option("--overwrite", help="Do again what is in --output_dir already.")]
MaxLineCharactersOption = Annotated[
    int | None,
    typer.Option("--max_line_characters", help="Characters in a line. Default: 42.", rich_help_panel=SUBTITLES_PANEL),
]
MaxLinesOption = Annotated[
    int | None,
    typer.Option("--max_lines", help="Lines in a subtitle. Default: 2.", rich_help_panel=SUBTITLES_PANEL),
]
MaxSecondsOption = Annotated[
    float | None,
    typer.Option("--max_seconds", help="Longest subtitle. Default: 7.", rich_help_panel=SUBTITLES_PANEL),
]
MinSecondsOption = Annotated[
    float | None,
    typer.Option(
        "--min_seconds",
        help="Shortest subtitle, where the next one leaves the time. Default: 0.83.",
        rich_help_panel=SUBTITLES_PANEL,
    ),
]
MaxCharactersPerSecondOption = Annotated[
    float | None,
    typer.Option(
        "--max_characters_per_second",
        help="Reading speed: a subtitle stays so long where the next one leaves the time. Default: 20.",
        rich_help_panel=SUBTITLES_PANEL,
    ),
]
PauseSecondsOption = Annotated[
    float | None,
    typer.Option(
        "--pause_seconds",
        help="A pause that ends a subtitle, or a segment of rttm. Default: 1.",
        rich_help_panel=SUBTITLES_PANEL,
    ),
]
MinGapSecondsOption = Annotated[
    float | None,
    typer.Option(
        "--min_gap_seconds",
        help="Shortest time between two subtitles. Default: 0.08.",
        rich_help_panel=SUBTITLES_PANEL,
    ),
]


def parse_formats(formats: Sequence[str]) -> tuple[str, ...]:
    """
    Names of formats, each once, without synonyms.

    Raises:
        ValueError: for a name that is not a format.
    """
    names = [name.strip() for text in formats for name in text.split(",")]
    for name in names:
        if name not in FORMATS and name not in SYNONYMS:
            raise ValueError(f"--format {name} is not supported; expected some of {', '.join(FORMATS)}.")
    return tuple(dict.fromkeys(SYNONYMS.get(name, name) for name in names))


def make_rules(given: dict[str, Any], formats: Sequence[str]) -> SubtitleRules:
    """
    Rules of subtitles.

    Args:
        given: Rules by name; None: the default.
        formats: Formats that are written.

    Raises:
        ValueError: for a rule that none of the formats has, and for a value that is not accepted.
    """
    wanted = {name: value for name, value in given.items() if value is not None}
    for name in wanted:
        users = PAUSE_FORMATS if name == "pause_seconds" else SUBTITLE_FORMATS
        if not any(user in formats for user in users):
            raise ValueError(f"--{name} belongs to --format {', '.join(users)}; found --format {','.join(formats)}.")
    return SubtitleRules(**wanted)


def choose_output(
    inputs: Sequence[AudioInput],
    formats: Sequence[str],
    output_dir: Path | None,
    overwrite: bool,
    rules: SubtitleRules,
) -> Output:
    """
    The place of the transcripts.

    Raises:
        ValueError: for formats that cannot stand together on the standard output, and for a folder that cannot be
            written to.
    """
    if output_dir is not None:
        return FolderOutput(output_dir, inputs, formats, rules, overwrite)
    if overwrite:
        raise ValueError("--overwrite belongs to --output_dir.")
    if len(formats) > 1:
        raise ValueError(f"--format {','.join(formats)}: several formats need --output_dir.")
    (name,) = formats
    if name not in STREAM_FORMATS and len(inputs) > 1:
        raise ValueError(
            f"--format {name} takes one file at a time; found {len(inputs)}. With --output_dir it takes many."
        )
    return StandardOutput(inputs, name, rules)
