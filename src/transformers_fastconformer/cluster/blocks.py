"""Blocks of recordings that are about as long as one another, each a task for a worker."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ..inference.many_files import pack_clips
from ..inference.options import TranscriptionOptions
from ..inference.reading import measure_clip
from ..validation import is_number, require
from .packages import import_arrow
from .rows import AUDIO_COLUMNS, find_rows, read_rows

# Seconds of audio in a task: minutes of a processor, seconds of a GPU, and what is done again where a worker is lost.
TASK_SECONDS = 600.0
# A recording of unknown length counts as one of the common ones.
UNKNOWN_SECONDS = 60.0
# Tasks that each worker has at least where there is little to do, so that they end at about the same time.
TASKS_OF_WORKER = 4
# Threads that read headers, which mostly wait for the disk.
HEADER_THREADS = 8


def plan_tasks(
    lengths_seconds: Sequence[float | None],
    options: TranscriptionOptions,
    task_seconds: float = TASK_SECONDS,
    num_workers: int = 1,
) -> list[list[int]]:
    """
    Numbers of the clips of each task, the longest first.

    A task is a row of whole batches of `pack_clips`, so that results do not depend on how the work was shared.

    Args:
        lengths_seconds: Length of each clip; None: not known.
        options: How to transcribe, with the sizes of batches.
        task_seconds: Seconds of audio in a task, about; a longer clip is a task of its own.
        num_workers: Workers among which the tasks are shared: of little audio they are shorter.
    """
    known = [UNKNOWN_SECONDS if seconds is None else seconds for seconds in lengths_seconds]
    limit = min(task_seconds, sum(known) / (TASKS_OF_WORKER * num_workers))
    tasks: list[list[int]] = []
    seconds = limit
    for pack in pack_clips(lengths_seconds, options.batch_size, options.batch_seconds):
        if seconds >= limit:
            tasks.append([])
            seconds = 0.0
        tasks[-1] += pack
        seconds += sum(known[number] for number in pack)
    return tasks


def plan_blocks(
    sources: Sequence[str | os.PathLike[str]],
    task_seconds: float = TASK_SECONDS,
    options: TranscriptionOptions | None = None,
) -> list[Any]:
    r"""
    Blocks for `ray.data.from_arrow`, each with recordings of about `task_seconds` together, the longest first.

    Lengths are read from the headers of files, and from `duration` of manifests. Recordings of the same lengths are
    next to one another, so that batches have little padding.

    Args:
        sources: Paths and addresses of recordings, manifests (`.jsonl`, `.json`), tables (`.csv`) and folders.
        task_seconds (`float`, defaults to 600): Seconds of audio in a block, about; a longer recording has its own.
        options ([`TranscriptionOptions`], *optional*): How to transcribe, for the sizes of batches.

    Returns:
        `pyarrow.Table`s with a row for each recording: `audio_filepath`, and all that manifests say.

    Raises:
        ValueError: for a folder or manifest that cannot be read, and for a line of one that is not accepted.
        ImportError: the extra `ray` is not installed; the message holds the command.
    """
    arrow = import_arrow()
    require(is_number(task_seconds) and task_seconds > 0, "task_seconds", task_seconds, "more than 0 seconds")
    rows = find_rows(sources)
    table = arrow.Table.from_pylist(rows, schema=_schema_of(rows, arrow))
    columns = {name: table[name].to_pylist() for name in table.column_names if name in _READ}
    clips = [row.clip for row in read_rows(columns, AUDIO_COLUMNS[0])] if rows else []
    with ThreadPoolExecutor(HEADER_THREADS) as pool:
        lengths = list(pool.map(lambda clip: None if clip is None else measure_clip(clip), clips))
    return [table.take(task) for task in plan_tasks(lengths, options or TranscriptionOptions(), task_seconds)]


_READ = (AUDIO_COLUMNS[0], "offset", "duration", "channel")


def _schema_of(rows: Sequence[dict[str, Any]], arrow: Any) -> Any:
    """One schema for all blocks; a column whose values have several types is refused by name."""
    fields = []
    for name in dict.fromkeys(name for row in rows for name in row):
        try:
            fields.append(arrow.field(name, arrow.array([row.get(name) for row in rows]).type))
        except (arrow.ArrowInvalid, arrow.ArrowTypeError) as error:
            raise ValueError(f"The values of {name!r} are of several types; expected one type. {error}") from error
    return arrow.schema(fields)
