"""One step of live streams through the encoder: a chunk of mel frames and a cache in, the next encoder frames out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from ..kernels.few_rows import preferring_few_rows
from ..kernels.parameter_cache import ParameterCache
from .encoder_cache import FastConformerEncoderCache, StreamCounts
from .masking import lengths_to_mask
from .positions import sinusoids
from .ring_attention import RingStep, RingTables
from .steady_step import (
    StepPart,
    StepTables,
    count_kept_frames,
    finish_front,
    run_blocks,
    run_captured,
    see_window,
)
from .streaming_schedule import StreamingSchedule

# Of each encoder those of the schedules, dtypes and devices that it has streamed with.
_kept_tables: ParameterCache[dict[Any, StepTables]] = ParameterCache()


@torch.no_grad()
def run_streams(
    encoder: Any,
    input_features: torch.Tensor,
    mel_lengths: Sequence[int],
    is_last: Sequence[bool],
    cache: FastConformerEncoderCache,
    activities: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Encode a chunk of each stream that has one.

    Args:
        encoder: A [`FastConformerEncoder`] in evaluation.
        input_features: (streams, mel frames, mels), of the encoder's dtype.
        mel_lengths: Mel frames of each stream's chunk; 0 for those that sit the step out.
        is_last: True for each stream that ends with this chunk.
        cache: State of the streams, changed in place.
        activities: (streams, frames, 2), of the speaker to follow and of the others in the frames of the chunk; None:
            everybody is followed.

    Returns:
        (streams, frames, size) and the frames of each stream, (streams,).

    Raises:
        ValueError: for a chunk of another number of mel frames than the schedule has, and one after the last.
    """
    _check_chunks(cache, mel_lengths, is_last)
    pieces: list[list[torch.Tensor]] = [[] for _ in mel_lengths]
    waiting = list(range(len(mel_lengths)))
    while True:
        parts = [
            part
            for row in waiting
            if (part := _plan_part(cache.schedule, row, cache.counts[row], mel_lengths[row], is_last[row])) is not None
        ]
        if parts:
            with preferring_few_rows():
                frames = _run_parts(encoder, input_features, parts, cache, activities)
            if not any(is_last) and len(parts) == len(pieces):  # the usual case
                return frames, _full_lengths(frames)
            for part, rows in zip(parts, frames, strict=True):
                pieces[part.row].append(rows[: part.given_frames])
        # With a look-ahead, NeMo goes on at the end with ever fewer mel frames.
        waiting = [part.row for part in parts if is_last[part.row] and not part.is_last]
        if not waiting:
            break
        mel_lengths = [0] * len(mel_lengths)
    for row, ends in enumerate(is_last):
        if ends:
            cache.update_counts(row, has_ended=True)
    return _join(encoder, pieces, input_features)


def _check_chunks(cache: FastConformerEncoderCache, mel_lengths: Sequence[int], is_last: Sequence[bool]) -> None:
    for row, (mel_length, ends) in enumerate(zip(mel_lengths, is_last, strict=True)):
        if mel_length == 0 and not ends:
            continue
        if cache.counts[row].has_ended:
            raise ValueError(
                f"stream {row} has ended with its last chunk; expected a fresh stream (`cache.reset([{row}])`)."
            )
        accepted = cache.next_mel_frames(row)
        if mel_length != accepted and not (ends and mel_length < accepted):
            raise ValueError(
                f"input_features has {mel_length} mel frames for stream {row}; expected {accepted}, the next chunk by "
                f"its schedule, 0 to sit this step out, or with is_last=True {accepted} or fewer."
            )


def _plan_part(
    schedule: StreamingSchedule, row: int, counts: StreamCounts, mel_length: int, ends: bool
) -> StepPart | None:
    """What is computed of a stream; None if it is nothing."""
    front = schedule.subsampling
    is_first = counts.mel_frames == 0
    num_mel_frames = counts.waiting_mel_frames + mel_length
    if mel_length == 0 and not ends:
        return None
    least = front.first_mel_frames if is_first and not schedule.is_exact else schedule.min_last_mel_frames
    if num_mel_frames < least:
        return None
    first_mel_frame, known_frames = 0, front.overlap_frames
    if is_first:
        first_mel_frame, known_frames = front.overlap_mel_frames, 0
    elif schedule.is_exact and counts.known_frames < front.overlap_frames:
        # The overlap reaches to before the stream.
        known_frames = counts.known_frames
        first_mel_frame = front.overlap_mel_frames - (counts.mel_frames - counts.waiting_mel_frames)
    num_mel_frames += front.overlap_mel_frames - first_mel_frame
    num_frames = schedule.count_frames(num_mel_frames, known_frames)
    if num_frames == 0:
        return None
    taken = schedule.count_taken_mel_frames(is_first)
    rest = counts.waiting_mel_frames + mel_length - taken
    is_last = ends and (schedule.is_exact or rest < front.factor)
    given_frames = num_frames if schedule.is_exact and ends else min(num_frames, schedule.chunk_frames)
    return StepPart(
        row, mel_length, first_mel_frame, num_mel_frames, known_frames, num_frames, given_frames, taken, is_last
    )


def _run_parts(
    encoder: Any,
    input_features: torch.Tensor,
    parts: Sequence[StepPart],
    cache: FastConformerEncoderCache,
    activities: torch.Tensor | None,
) -> torch.Tensor:
    """A step: (streams of the step, frames, size); moves the cache on."""
    starts = any(cache.counts[part.row].mel_frames == 0 for part in parts)
    tables = _find_tables(encoder, cache, starts)
    # A captured step is told no speaker.
    given = None if activities is not None else run_captured(encoder, input_features, parts, cache, tables)
    if given is None:
        frames = _run_front(encoder, input_features, parts, cache)
        if activities is not None:
            activities = activities[[part.row for part in parts], : frames.shape[1]]
        hidden_states = finish_front(encoder, frames, activities)
        ring, padding_mask, kept_frames = _find_places(encoder, hidden_states, parts, cache, tables)
        given = run_blocks(
            encoder,
            hidden_states,
            list(zip(cache.keys, cache.values, cache.convolutions, strict=True)),
            tables,
            ring,
            padding_mask,
            kept_frames,
            max(part.given_frames for part in parts),
            starts,
            activities,
        )
    _move_on(cache, parts)
    return given


def _run_front(
    encoder: Any, input_features: torch.Tensor, parts: Sequence[StepPart], cache: FastConformerEncoderCache
) -> torch.Tensor:
    """The front of the encoder, without the frames that it made before; keeps the mel frames that it sees again."""
    groups: dict[tuple[int, ...], list[StepPart]] = {}
    for part in parts:
        waiting = cache.counts[part.row].waiting_mel_frames
        groups.setdefault((part.first_mel_frame, part.known_frames, waiting), []).append(part)
    if len(groups) == 1:
        return _run_front_alike(encoder, input_features, parts, cache)
    num_frames = max(part.num_frames for part in parts)
    outputs: dict[int, torch.Tensor] = {}
    for group in groups.values():
        frames = _run_front_alike(encoder, input_features, group, cache)
        frames = nn.functional.pad(frames, (0, 0, 0, num_frames - frames.shape[1]))
        outputs.update(zip([part.row for part in group], frames, strict=True))
    return torch.stack([outputs[part.row] for part in parts])


def _run_front_alike(
    encoder: Any, input_features: torch.Tensor, parts: Sequence[StepPart], cache: FastConformerEncoderCache
) -> torch.Tensor:
    """The same for streams whose windows start alike."""
    overlap = cache.schedule.subsampling.overlap_mel_frames
    waiting = cache.counts[parts[0].row].waiting_mel_frames
    rows = [part.row for part in parts]
    is_whole = len(rows) == cache.num_streams
    kept = cache.mel if is_whole else cache.mel[rows]
    new = input_features if is_whole else input_features[rows]
    new_mel_frames = [part.new_mel_frames for part in parts]
    lengths = None
    if len(set(new_mel_frames)) > 1:
        lengths = torch.tensor([part.num_mel_frames for part in parts], dtype=torch.int64, device=new.device)
    new = new[:, : max(new_mel_frames)]
    num_frames = max(part.num_frames for part in parts)
    frames, following = see_window(encoder, kept, new, parts[0], overlap + waiting, num_frames, lengths)
    if is_whole:
        cache.mel.copy_(following)
    else:
        cache.mel[rows] = following.to(cache.mel.dtype)
    return frames


def _find_places(
    encoder: Any,
    hidden_states: torch.Tensor,
    parts: Sequence[StepPart],
    cache: FastConformerEncoderCache,
    tables: StepTables,
) -> tuple[RingStep, torch.Tensor | None, int | list[int]]:
    """Places of the step in the rings, its padding mask, and the frames of each stream that the next step is after."""
    device = hidden_states.device
    num_frames = hidden_states.shape[1]
    row_numbers = [part.row for part in parts]
    rows = None
    if row_numbers != list(range(cache.num_streams)):
        rows = torch.tensor(row_numbers, dtype=torch.int64, device=device)
    new_frames = [part.num_frames for part in parts]
    ring = tables.ring.locate(rows, [cache.counts[row].known_frames for row in row_numbers], new_frames, num_frames)
    padding_mask = None
    if min(new_frames) < num_frames:
        padding_mask = lengths_to_mask(torch.tensor(new_frames, dtype=torch.int64, device=device), num_frames)
    kept = [count_kept_frames(encoder, cache.schedule, frames) for frames in new_frames]
    return ring, padding_mask, kept[0] if len(set(kept)) == 1 else kept


def _find_tables(encoder: Any, cache: FastConformerEncoderCache, starts: bool) -> StepTables:
    """The tables of a schedule, made once for given weights, whose values are looked at when a stream starts."""
    weights = [block.self_attn.relative_k_proj.weight for block in encoder.layers]
    kept = _kept_tables.get(encoder, weights, dict, reads_values=starts)
    key = (cache.schedule, cache.dtype, cache.device)
    if key not in kept:
        kept[key] = _build_tables(encoder, cache)
    return kept[key]


# What inference mode makes could not be used outside of it.
@torch.inference_mode(False)
@torch.no_grad()
def _build_tables(encoder: Any, cache: FastConformerEncoderCache) -> StepTables:
    schedule = cache.schedule
    ring = RingTables.build(schedule.context_window, schedule.left_frames, schedule.step_frames, cache.device)
    table = sinusoids(ring.build_distances(), encoder.config.hidden_size, cache.dtype)
    keys = [block.self_attn.project_distances(table).to(cache.dtype).contiguous() for block in encoder.layers]
    return StepTables(ring, keys)


def _move_on(cache: FastConformerEncoderCache, parts: Sequence[StepPart]) -> None:
    """Count what the step has done."""
    for part in parts:
        counts = cache.counts[part.row]
        cache.update_counts(
            part.row,
            mel_frames=counts.mel_frames + part.new_mel_frames,
            waiting_mel_frames=max(counts.waiting_mel_frames + part.new_mel_frames - part.taken_mel_frames, 0),
            known_frames=counts.known_frames + max(part.num_frames - cache.schedule.lookahead_frames, 0),
            encoder_frames=counts.encoder_frames + part.given_frames,
        )


def _full_lengths(frames: torch.Tensor) -> torch.Tensor:
    return torch.full((frames.shape[0],), frames.shape[1], dtype=torch.int64, device=frames.device)


def _join(
    encoder: Any, pieces: Sequence[Sequence[torch.Tensor]], input_features: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Padded frames of all streams, and how many each has."""
    rows = [piece for row in pieces for piece in row]
    some = rows[0] if rows else input_features.new_zeros(0, encoder.config.output_size)
    joined = [torch.cat(list(row)) if row else some[:0] for row in pieces]
    lengths = torch.tensor([row.shape[0] for row in joined], dtype=torch.int64, device=some.device)
    return nn.utils.rnn.pad_sequence(joined, batch_first=True), lengths
