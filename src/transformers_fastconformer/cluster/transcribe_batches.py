"""Transcription of the batches of a Ray data set: a row a recording, in and out."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..inference.file import check_options
from ..inference.loading import AUTO_DEVICE, DEFAULT_MODEL, load_model
from ..inference.many_files import transcribe_clips
from ..inference.options import TranscriptionOptions
from .finished_rows import FinishedRows
from .packages import import_arrow
from .rows import SAMPLE_COLUMNS, Row, columns_of, find_audio_column, key_of, read_rows
from .tables import COLUMNS, describe_error, describe_transcript, to_table


class TranscribeBatches:
    r"""
    Class for `ray.data.Dataset.map_batches` that transcribes recordings.

    ```python
    clips = ray.data.from_arrow(plan_blocks(["talks/", "more.jsonl"]))
    texts = clips.map_batches(
        TranscribeBatches,
        fn_constructor_kwargs={"model": "nvidia/parakeet-tdt-0.6b-v3", "finished_dir": "/shared/finished"},
        batch_size=None,
        compute=ray.data.ActorPoolStrategy(size=8),
        num_gpus=1,
    )
    texts.write_parquet("/shared/texts")
    ```

    A batch has a column with the audio, the first that there is of `audio_filepath` (a path or address, as in
    manifests), `file_name`, `audio` (a mapping with `"bytes"`, `"path"` or `"array"`, as `datasets` has it), `bytes`
    (of `ray.data.read_binary_files`), `amplitude` with `sample_rate` (of `ray.data.read_audio`) and `path`; `offset`
    and `duration` are those of a part of a file in seconds, `channel` is `"mix"` or a number. All other columns are
    kept; bytes and samples are not.

    The rows of a batch are sorted by length and go through the model in batches of at most `batch_size` recordings and
    `batch_seconds`, and those that are longer in windows. Rows come back in their order, with `pred_text`, `words`,
    `word_starts`, `word_ends`, `segments`, `segment_starts`, `segment_ends` (times in seconds of the file),
    `duration_seconds`, `strategy`, and where they are asked for `confidence`, `word_confidences` and `language`. A
    recording that cannot be transcribed has its reason in `error`, which is null for the others.

    Args:
        model (`str`, defaults to `"nvidia/parakeet-tdt-0.6b-v3"`): Checkpoint as `load_model` takes it; a path must be
            there on all machines.
        head (`str`, defaults to `"auto"`): As in [`load_model`].
        device (`str`, defaults to `"auto"`): As in [`load_model`]; `"auto"` is the GPU that Ray has given the worker,
            if it has.
        dtype (`str`, defaults to `"auto"`): As in [`load_model`].
        options ([`TranscriptionOptions`], *optional*): How to transcribe.
        audio_column (`str`, *optional*): Column with the audio; None: the first of those above.
        finished_dir (`str`, *optional*): Folder, the same on all machines, that keeps the rows of each batch that is
            done. The same work over again takes from it what is there: recordings that did not change, with the same
            model and options, and without an error. None: nothing is kept.
        keywords: Fields of [`TranscriptionOptions`], [`DecodingOptions`] and [`ChunkOptions`] by name.

    Raises:
        ValueError: for an option that is not accepted or that the model does not have, and for a batch without audio.
        OSError: when the checkpoint cannot be had, or `finished_dir` cannot be written to.
        ImportError: when an extra is not installed; the message holds the command.
    """

    def __init__(
        self,
        model: str | Path = DEFAULT_MODEL,
        head: str = "auto",
        device: str = AUTO_DEVICE,
        dtype: str = "auto",
        options: TranscriptionOptions | None = None,
        audio_column: str | None = None,
        finished_dir: str | os.PathLike[str] | None = None,
        **keywords: Any,
    ) -> None:
        import_arrow()
        self._options = TranscriptionOptions.of(options, keywords)
        self._audio_column = audio_column
        self._finished = None if finished_dir is None else FinishedRows(finished_dir)
        self._worker = load_model(model, head, device, dtype)
        check_options(*self._worker, self._options)
        chosen, confidence = self._options, self._options.decoding.confidence
        self._described = {
            "model": str(model),
            "head": type(self._worker[0]).__name__,
            "dtype": dtype,
            "timestamps": chosen.timestamps,
            "confidence": repr(confidence),
            "detect_language": chosen.detect_language,
            **chosen.describe(),
        }

    def __call__(self, batch: Any) -> Any:
        """
        Transcribe a batch.

        Args:
            batch: A mapping of columns to arrays, a `pandas.DataFrame` or a `pyarrow.Table`.

        Returns:
            A `pyarrow.Table` with as many rows, in the same order.
        """
        columns = columns_of(batch)
        audio_column = find_audio_column(list(columns), self._audio_column)
        rows = read_rows(columns, audio_column)
        kept = _keep(batch, columns, audio_column)
        if self._finished is None:
            return to_table(self._transcribe(rows), kept)
        keys = ["" if row.clip is None else key_of(row.clip, self._described) for row in rows]
        done = self._finished.take(keys)
        remaining = [number for number, key in enumerate(keys) if key not in done]
        found = self._transcribe([rows[number] for number in remaining])
        if remaining:
            self._finished.add(
                [keys[number] for number in remaining], [rows[number].name for number in remaining], found
            )
        new = dict(zip(remaining, found, strict=True))
        return to_table([done[key] if number not in new else new[number] for number, key in enumerate(keys)], kept)

    def _transcribe(self, rows: Sequence[Row]) -> list[dict[str, Any]]:
        described = [{} if row.error is None else describe_error(row.error) for row in rows]
        numbers = [number for number, row in enumerate(rows) if row.clip is not None]
        clips = [clip for row in rows if (clip := row.clip) is not None]
        for place, transcript, error in transcribe_clips([self._worker], clips, self._options):
            number = numbers[place]
            if transcript is None:
                assert error is not None
                described[number] = describe_error(error)
            else:
                described[number] = describe_transcript(transcript, clips[place].start_seconds)
        return described


def _keep(batch: Any, columns: Mapping[str, Sequence[Any]], audio_column: str) -> dict[str, Any]:
    """Columns that go along, but for audio, and for those of an earlier transcript."""
    arrow = import_arrow()
    kept: dict[str, Any] = {}
    for name, values in columns.items():
        is_audio = name == audio_column and any(not isinstance(value, str | None) for value in values)
        if is_audio or name in (*SAMPLE_COLUMNS, *COLUMNS):
            continue
        try:
            kept[name] = batch[name] if isinstance(batch, arrow.Table) else arrow.array(values, from_pandas=True)
        except (arrow.ArrowInvalid, arrow.ArrowTypeError) as error:
            raise ValueError(f"The column {name!r} cannot be kept; expected values of one type. {error}") from error
    return kept
