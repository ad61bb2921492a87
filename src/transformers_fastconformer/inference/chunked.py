"""
Features of clips of any length to tokens: windows through the encoder, their frames joined, one decoding per clip.

Nothing is merged. Windows overlap, each encoder frame of a clip is taken from one of them, and decoding goes over the
frames in order with its state carried along, as if the encoder had seen the clip at once. What differs from that is
the context of each frame alone: what lies beyond its window.

One thing follows from that for transducers with full attention: to an encoder whose window starts behind the last
token, the next word is the first of an utterance, and it is encoded as such. A prediction network that remembers the
words before the pause does not expect that, and the word is lost (see `docs/usage.md` for figures). So it starts anew
where the window does not hold the last token.
"""

from __future__ import annotations

import copy
import math
import numbers
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, zip_longest
from typing import Any, NamedTuple

import torch
from transformers import PreTrainedModel

from ..configuration_fastconformer import FastConformerConfig
from ..decoding.confidence import ConfidenceOptions, ctc_confidence
from ..decoding.ctc import ctc_greedy_decode
from ..decoding.state import TransducerState
from ..frames import reduced_lengths, subsampled_lengths
from ..modeling.masking import resolve_context
from ..modeling.outputs import FastConformerGenerateOutput
from ..modeling.prompt import check_language
from ..modeling.transducer import FastConformerForTransducer, FastConformerTransducerPreTrainedModel
from .chunk_plan import Window, WindowPlan, plan_windows
from .clip_features import ClipFeatures, StreamedFeatures

# Context on each side of a window, where nothing else is asked for: a share of it, but what a word needs, as long as
# a third is left in the middle. With less, words at the borders are lost (see `docs/usage.md` for the figures).
DEFAULT_STRIDE_SHARE = 1 / 6
DEFAULT_STRIDE_LEAST_SECONDS = 0.8
DEFAULT_STRIDE_MOST_SHARE = 1 / 3
# Encoder frames on each side that "local" lets a model with full attention see: what the authors of published
# checkpoints give for long audio.
LOCAL_CONTEXT = (128, 128)

Clip = ClipFeatures | StreamedFeatures


@dataclass
class _Decoded:
    """What decoding has found so far in one clip."""

    tokens: list[int] = field(default_factory=list)
    frame_indices: list[int] = field(default_factory=list)
    durations: list[int] = field(default_factory=list)
    log_probs: list[float] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    num_frames: int = 0


class _Piece(NamedTuple):
    """
    Encoder frames of a clip that are decoded at a time.

    Args:
        window_start: First frame of the clip that the encoder saw for them.
        frames: (frames, size), those that are kept of its output.
    """

    window_start: int
    frames: torch.Tensor


def mel_frames_per_encoder_frame(config: FastConformerConfig) -> int:
    """Mel frames from one encoder frame to the next, a reduction among the blocks included."""
    front_factor = 1 if config.subsampling_type == "none" else config.subsampling_factor
    return front_factor * (config.reduction_factor if config.reduction_type else 1)


def count_encoder_frames(config: FastConformerConfig, mel_length: int) -> int:
    """Encoder frames of a clip, as the encoder counts them when it sees the clip at once."""
    frames = subsampled_lengths(
        mel_length, config.subsampling_type, config.subsampling_factor, config.causal_downsampling
    )
    return reduced_lengths(frames, config.reduction_type, config.reduction_factor)


def plan_chunks(
    config: FastConformerConfig,
    frame_seconds: float,
    chunk_length_s: float | None,
    stride_length_s: float | Sequence[float] | None = None,
) -> WindowPlan | None:
    """
    How clips are cut for a model.

    Args:
        config: The model's.
        frame_seconds: Seconds from one encoder frame to the next, as the processor has it.
        chunk_length_s: Seconds that the encoder sees at once, context included; None or 0: whole clips.
        stride_length_s: Seconds of context on each side, one number for both or (left, right); None: a sixth of the
            chunk, at least 0.8 s, at most a third of the chunk.

    Returns:
        The plan, or None for whole clips.

    Raises:
        ValueError: for lengths that are no lengths, a stride without a chunk, and a chunk that is all context.
    """
    if not (chunk_length_s is None or _is_duration(chunk_length_s)):
        raise ValueError(f"chunk_length_s={chunk_length_s!r} is not supported; expected seconds, 0 or more, or None.")
    strides: list[Any] = list(stride_length_s) if isinstance(stride_length_s, list | tuple) else [stride_length_s] * 2
    if stride_length_s is not None and not (len(strides) == 2 and all(map(_is_duration, strides))):
        raise ValueError(
            f"stride_length_s={stride_length_s!r} is not supported; expected seconds, 0 or more, one number for both "
            "sides or two."
        )
    if not chunk_length_s:
        if stride_length_s:
            raise ValueError(
                f"stride_length_s={stride_length_s} needs chunk_length_s; found chunk_length_s={chunk_length_s}."
            )
        return None
    if config.reduction_type == "pooling" and config.reduction_factor > 2:
        # Its lengths are no multiples of the frames (see `reduced_lengths`): a window would be masked in its middle.
        raise ValueError(
            f"chunk_length_s={chunk_length_s} is not supported for a model with reduction_type='pooling' and "
            f"reduction_factor={config.reduction_factor}; expected None."
        )
    default_seconds = min(
        max(chunk_length_s * DEFAULT_STRIDE_SHARE, DEFAULT_STRIDE_LEAST_SECONDS),
        chunk_length_s * DEFAULT_STRIDE_MOST_SHARE,
    )
    left_seconds, right_seconds = (default_seconds if stride is None else stride for stride in strides)
    is_local = config.position_embedding_type == "rel_pos_local_attn"
    context = resolve_context(config.attention_context_style, config.attention_context)
    align_frames = 1 if is_local else context.chunk_frames
    return plan_windows(chunk_length_s, left_seconds, right_seconds, frame_seconds, align_frames)


def sees_all(config: FastConformerConfig) -> bool:
    """Whether a frame of the encoder depends on all that is in front of it in its window."""
    if config.position_embedding_type == "rel_pos_local_attn":
        return False
    return resolve_context(config.attention_context_style, config.attention_context).left_frames is None


def share_with_local_attention(model: PreTrainedModel) -> PreTrainedModel:
    """
    A model with full attention as one whose attention is a sliding window of `LOCAL_CONTEXT`.

    All parameters and buffers are shared and nothing of the model changes, so that others may use it meanwhile. A
    model whose attention is limited already is given back as it is.

    Raises:
        ValueError: for a model with absolute positions, which cannot look at a window.
    """
    config: Any = model.config
    if not sees_all(config):
        return model
    # What is in the memo is taken as it is: tensors, and all modules in which nothing asks the configuration.
    fixed = [part for part in model.modules() if not any(hasattr(inner, "config") for inner in part.modules())]
    kept: dict[int, Any] = {id(part): part for part in chain(model.parameters(), model.buffers(), fixed)}
    shared: Any = copy.deepcopy(model, kept)
    shared.set_attention_context(
        LOCAL_CONTEXT, attention_context_style="regular", position_embedding_type="rel_pos_local_attn"
    )
    return shared


def _is_duration(value: object) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool) and 0 <= float(value) < math.inf


@torch.no_grad()
def transcribe_features(
    model: PreTrainedModel,
    clips: Sequence[Clip],
    plan: WindowPlan | None = None,
    batch_size: int = 1,
    language: str | None = None,
    max_symbols_per_step: int | None = None,
    confidence: ConfidenceOptions | None = None,
    on_progress: Callable[[list[int]], None] | None = None,
) -> FastConformerGenerateOutput:
    """
    Greedy decoding of whole clips or of their windows; what `generate` returns for a batch of whole clips.

    Frames of windows are decoded as they come and then dropped, so that memory does not grow with the length of the
    clips beyond their features and their tokens.

    Args:
        model: A model with a head.
        clips: Features of whole clips, so that normalisation is over the whole clip.
        plan: How clips are cut; None: not at all.
        batch_size: Most windows, or clips, that the encoder sees at a time.
        language: Code of the language, for models with prompts.
        max_symbols_per_step: Most tokens on one frame, for transducers; None is `config.max_symbols_per_step`.
        confidence: Which confidences to return; None: none.
        on_progress: Called with the encoder frames of each clip that are done, whenever there are more.

    Returns:
        [`FastConformerGenerateOutput`] on the CPU; frames count from the start of each clip.

    Raises:
        ValueError: for options that the model does not have.
    """
    config: Any = model.config
    is_transducer = isinstance(model, FastConformerForTransducer)
    check_decoding_options(model, language, max_symbols_per_step)
    check_batch_size(batch_size)
    if plan is None:
        plan = WindowPlan(max((count_encoder_frames(config, clip.mel_length) for clip in clips), default=1) + 1, 0, 0)
    decoded = [_Decoded() for _ in clips]
    for first in range(0, len(clips), batch_size):
        group = slice(first, min(first + batch_size, len(clips)))
        state: Any = None
        for pieces in _encode_in_rounds(model, clips[group], plan, batch_size, language):
            if is_transducer:
                if state is not None and sees_all(config):
                    state = _restart(model, state, pieces, decoded[group])
                state = _decode_transducer(model, pieces, state, max_symbols_per_step, confidence, decoded[group])
            else:
                state = _decode_ctc(model, pieces, state, confidence, decoded[group])
            if on_progress is not None:
                on_progress([clip.num_frames for clip in decoded])
    decoder_type = model.decoder_type if isinstance(model, FastConformerForTransducer) else "ctc"
    return _join(decoded, config.pad_token_id, decoder_type, confidence)


def check_batch_size(batch_size: int) -> None:
    """Raise a `ValueError` for no batch."""
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size} is not supported; expected 1 or more.")


def check_decoding_options(model: PreTrainedModel, language: str | None, max_symbols_per_step: int | None) -> None:
    """Raise a `ValueError` for options of decoding that the model does not have, before anything is computed."""
    check_language(model.config, language)
    if max_symbols_per_step is None:
        return
    if not isinstance(model, FastConformerForTransducer):
        raise ValueError(f"max_symbols_per_step={max_symbols_per_step} is not supported by a CTC head; expected None.")
    model.resolve_max_symbols(max_symbols_per_step)


# The encoder


def _encode_in_rounds(
    model: PreTrainedModel,
    clips: Sequence[Clip],
    plan: WindowPlan,
    batch_size: int,
    language: str | None,
) -> Iterator[list[_Piece | None]]:
    """
    The kept frames of the next window of every clip, until there are none; None for a clip that has ended.

    The encoder sees about `batch_size` windows at a time: several of each clip where there are few clips left.
    """
    config: Any = model.config
    waiting = [list(plan.windows(count_encoder_frames(config, clip.mel_length))) for clip in clips]
    while any(waiting):
        active = sum(1 for windows in waiting if windows)
        windows_each = max(batch_size // active, 1)
        chosen = [
            (index, window, window is windows[-1])
            for index, windows in enumerate(waiting)
            for window in windows[:windows_each]
        ]
        waiting = [windows[windows_each:] for windows in waiting]
        pieces: list[list[_Piece | None]] = [[] for _ in clips]
        for (index, window, _), frames in zip(chosen, _encode(model, clips, chosen, language), strict=True):
            pieces[index].append(_Piece(window.start, frames))
        for following in zip_longest(*pieces):
            yield list(following)


def _encode(
    model: PreTrainedModel,
    clips: Sequence[Clip],
    chosen: Sequence[tuple[int, Window, bool]],
    language: str | None,
) -> list[torch.Tensor]:
    """Kept encoder frames of some windows, each the number of a clip, the window, and whether it is its last."""
    config: Any = model.config
    pieces, mel_lengths = [], []
    for index, window, is_last in chosen:
        clip = clips[index]
        start, stop = window.mel_range(mel_frames_per_encoder_frame(config), clip.mel_length, is_last)
        # A masked frame of the clip follows its last one: a clip without frames is not an empty tensor.
        pieces.append(clip.rows(start, stop + 1 if is_last else stop))
        mel_lengths.append(stop - start)
    batch = torch.nn.utils.rnn.pad_sequence(pieces, batch_first=True).to(model.device)  # (windows, mel frames, mels)
    inputs: dict[str, Any] = {"input_features": batch, "input_lengths": torch.tensor(mel_lengths, device=model.device)}
    if isinstance(model, FastConformerTransducerPreTrainedModel):
        encoded: Any = model.encode(**inputs, language=language)
    else:
        encoder: Any = model.encoder
        encoded = encoder(**inputs, return_dict=True)
    rows = encoded.last_hidden_state  # (windows, frames, size)
    return [rows[row, window.kept_rows] for row, (_, window, _) in enumerate(chosen)]


# The heads


def _pad_pieces(pieces: Sequence[_Piece | None]) -> tuple[torch.Tensor, torch.Tensor]:
    """(clips, frames, size) and the frames of each clip that count."""
    some = next(piece.frames for piece in pieces if piece is not None)
    filled = [some[:0] if piece is None else piece.frames for piece in pieces]
    lengths = torch.tensor([frames.shape[0] for frames in filled], device=some.device)
    return torch.nn.utils.rnn.pad_sequence(filled, batch_first=True), lengths


def _restart(
    model: Any, state: TransducerState, pieces: Sequence[_Piece | None], decoded: Sequence[_Decoded]
) -> TransducerState:
    """The state with the prediction network at its start for clips whose window does not hold their last token."""
    forgotten = [
        clip
        for clip, (piece, found) in enumerate(zip(pieces, decoded, strict=True))
        if piece is not None and found.frame_indices and found.frame_indices[-1] < piece.window_start
    ]
    if not forgotten:
        return state
    device = state.frames_ahead.device
    clips = torch.tensor(forgotten, device=device)
    frames, _ = _pad_pieces([pieces[clip] for clip in forgotten])
    no_frames = torch.zeros(len(forgotten), dtype=torch.int64, device=device)
    _, start = model.decode_frames(frames[:, :1], no_frames)
    return replace(
        state,
        predictor_output=state.predictor_output.index_copy(0, clips, start.predictor_output),
        predictor_state=tuple(
            part.index_copy(1, clips, new)
            for part, new in zip(state.predictor_state, start.predictor_state, strict=True)
        ),
    )


def _decode_transducer(
    model: Any,
    pieces: Sequence[_Piece | None],
    state: TransducerState | None,
    max_symbols_per_step: int | None,
    confidence: ConfidenceOptions | None,
    decoded: Sequence[_Decoded],
) -> TransducerState:
    """Decode the next frames of every clip from where the state stands; what is found is added to `decoded`."""
    frames, lengths = _pad_pieces(pieces)
    hypotheses, state = model.decode_frames(frames, lengths, max_symbols_per_step, state, confidence)
    _add(decoded, hypotheses, lengths.tolist())
    return state


def _decode_ctc(
    model: Any,
    pieces: Sequence[_Piece | None],
    last_frames: list[torch.Tensor] | None,
    confidence: ConfidenceOptions | None,
    decoded: Sequence[_Decoded],
) -> list[torch.Tensor]:
    """
    The same for CTC. The last frames before go in again, and the token that they would give is dropped: that joins a
    token on both sides of a border before repetitions are merged. For confidences these are all the frames of a token
    that may go on, as its confidence is of them all.

    Args:
        last_frames: (frames, classes) of each clip, log-probabilities; None at the start, a blank.
    """
    frames, lengths = _pad_pieces(pieces)
    config = model.config
    log_probs = model.ctc_head(frames).float().log_softmax(dim=-1)  # (clips, frames, classes)
    if last_frames is None:
        blank = log_probs.new_full((1, log_probs.shape[2]), float("-inf"))
        blank[:, config.blank_token_id] = 0.0
        last_frames = [blank] * len(pieces)
    num_frames = lengths.tolist()
    rows = [
        torch.cat([last, row[:length]]) for last, row, length in zip(last_frames, log_probs, num_frames, strict=True)
    ]
    joined = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    joined_lengths = torch.tensor([row.shape[0] for row in rows], device=joined.device)
    hypotheses = ctc_greedy_decode(joined, joined_lengths, config.blank_token_id, config.pad_token_id)
    if confidence is not None:
        scores = ctc_confidence(joined, joined_lengths, hypotheses.frame_indices, hypotheses.token_lengths, confidence)
        hypotheses = hypotheses._replace(scores=scores)
    _add(decoded, hypotheses, num_frames, [last.shape[0] for last in last_frames])
    if confidence is None:
        return [row[-1:].clone() for row in rows]
    return [row[-_count_last_repetitions(row, config.blank_token_id) :].clone() for row in rows]


def _count_last_repetitions(log_probs: torch.Tensor, blank_id: int) -> int:
    """Frames at the end of (frames, classes) that have the token of the last one; of a blank one is enough."""
    best = log_probs.argmax(dim=-1).tolist()
    if best[-1] == blank_id:
        return 1
    return next((count for count, token in enumerate(reversed(best)) if token != best[-1]), len(best))


def _add(
    decoded: Sequence[_Decoded],
    hypotheses: Any,
    num_frames: Sequence[int],
    repeated_frames: Sequence[int] | None = None,
) -> None:
    """
    Add what was found in the next frames of each clip.

    Of the frames that went in before nothing is added; their token, if any, is the last that was found, and what it
    scores now is for good.
    """
    names = ("tokens", "frame_indices", "durations", "log_probs", "scores")
    columns = {name: getattr(hypotheses, name, None) for name in names}
    rows = {name: None if values is None else values.tolist() for name, values in columns.items()}
    for clip, (found, token_length) in enumerate(zip(decoded, hypotheses.token_lengths.tolist(), strict=True)):
        repeated = 0 if repeated_frames is None else repeated_frames[clip]
        frame_indices = (rows["frame_indices"] or [])[clip][:token_length]
        first = sum(1 for frame in frame_indices if frame < repeated)
        if first and rows["scores"] is not None:
            found.scores[-1] = rows["scores"][clip][first - 1]
        found.frame_indices += [frame - repeated + found.num_frames for frame in frame_indices[first:]]
        for name in ("tokens", "durations", "log_probs", "scores"):
            values = rows[name]
            if values is not None:
                getattr(found, name).extend(values[clip][first:token_length])
        found.num_frames += num_frames[clip]


def _join(
    decoded: Sequence[_Decoded], padding_id: int, decoder_type: str, confidence: ConfidenceOptions | None
) -> FastConformerGenerateOutput:
    """Padded tensors of all clips."""
    num_tokens = max((len(clip.tokens) for clip in decoded), default=0)

    def table(name: str, fill: float, dtype: torch.dtype) -> torch.Tensor:
        rows = [getattr(clip, name) for clip in decoded]
        padded = [row + [fill] * (num_tokens - len(row)) for row in rows]
        return torch.tensor(padded, dtype=dtype).reshape(len(decoded), num_tokens)

    return FastConformerGenerateOutput(
        sequences=table("tokens", padding_id, torch.int64),
        sequence_lengths=torch.tensor([len(clip.tokens) for clip in decoded], dtype=torch.int64),
        frame_indices=table("frame_indices", 0, torch.int64),
        durations=table("durations", 0, torch.int64) if decoder_type == "tdt" else None,
        log_probs=table("log_probs", 0.0, torch.float32),
        token_confidences=None if confidence is None else table("scores", 0.0, torch.float32),
        confidence_aggregation=None if confidence is None else confidence.aggregation,
        encoder_lengths=torch.tensor([clip.num_frames for clip in decoded], dtype=torch.int64),
        decoder_type=decoder_type,
    )
