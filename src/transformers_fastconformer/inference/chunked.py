"""
Features of clips of any length to tokens: windows through the encoder, their frames joined, one decoding per clip.

Nothing is merged. Windows overlap, each encoder frame of a clip is taken from one of them, and decoding goes over the
frames in order with its state carried along, as if the encoder had seen the clip at once. Only the context of each
frame differs from that: it ends at the borders of the window.

This has a consequence for transducers with full attention: to an encoder whose window starts after the last token,
the next word is the first of an utterance, and is encoded as such. A prediction network that remembers the words
before the pause does not expect that, and the word is lost (see `docs/usage.md` for figures). So the prediction
network starts anew where the window does not hold the last token.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any, ClassVar, NamedTuple

import torch

from ..decoding.hypotheses import Hypotheses, TokenTable
from ..decoding.options import DEFAULT_DECODING, DecodingOptions
from ..modeling.masking import sees_all
from ..modeling.outputs import FastConformerGenerateOutput
from ..modeling.recognizer import FastConformerRecognizer
from ..validation import require_count
from .chunk_plan import Window, WindowPlan
from .clip_features import Clip, FollowedClip


@dataclass
class _Decoded:
    """Tokens that decoding has found so far in one clip, with their frames and scores."""

    COLUMNS: ClassVar[tuple[str, ...]] = ("tokens", "frame_indices", "durations", "log_probs", "scores")

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


@torch.no_grad()
def transcribe_features(
    model: FastConformerRecognizer,
    clips: Sequence[Clip],
    plan: WindowPlan | None = None,
    batch_size: int = 1,
    decoding: DecodingOptions = DEFAULT_DECODING,
    on_frames: Callable[[list[int]], None] | None = None,
    restarts: bool | None = None,
) -> FastConformerGenerateOutput:
    """
    Decode whole clips or their windows, with the output of `generate` for a batch of whole clips.

    Frames of windows are decoded as they come and then dropped, so that only features and tokens take more memory for
    longer clips. A beam search begins each window with the best text of the windows before it.

    Args:
        model: A model with a head.
        clips: Features of whole clips, so that normalisation is over the whole clip.
        plan: Plan by which clips are cut; None: they are not cut.
        batch_size: Windows, or clips, that the encoder sees at a time.
        decoding: Options of decoding.
        on_frames: Called with the encoder frames of each clip that are done, whenever more of them are.
        restarts: True if the prediction network starts anew where a window does not hold the last token; None: if the
            model has full attention. A model with local attention that was trained with full attention needs it too.

    Returns:
        [`FastConformerGenerateOutput`] on the CPU; frames count from the start of each clip.

    Raises:
        ValueError: for options that the model does not have.
    """
    config: Any = model.config
    model.check_decoding(decoding)
    decoding.require_one_text()
    require_count("batch_size", batch_size)
    if plan is None:
        plan = WindowPlan(max((config.count_encoder_frames(clip.mel_length) for clip in clips), default=1) + 1, 0, 0)
    if restarts is None:
        restarts = sees_all(config)
    decoded = [_Decoded() for _ in clips]
    for first in range(0, len(clips), batch_size):
        group = slice(first, min(first + batch_size, len(clips)))
        state: Any = None
        for pieces in _encode_in_rounds(model, clips[group], plan, batch_size, decoding):
            frames, lengths = _pad_pieces(pieces)
            if state is not None and restarts and (clips_to_restart := _find_forgotten(pieces, decoded[group])):
                state = model.restart_clips(state, frames, clips_to_restart)
            hypotheses, state = model.decode_frames(frames, lengths, decoding, state)
            _add(decoded[group], hypotheses, lengths.tolist(), getattr(state, "revised_scores", None))
            if on_frames is not None:
                on_frames([clip.num_frames for clip in decoded])
    return _join(decoded, config.pad_token_id, model.decoder_type, decoding)


# The encoder


def _encode_in_rounds(
    model: FastConformerRecognizer,
    clips: Sequence[Clip],
    plan: WindowPlan,
    batch_size: int,
    decoding: DecodingOptions,
) -> Iterator[list[_Piece | None]]:
    """
    Kept frames of the next window of every clip, as long as a clip has windows; None for a clip that has ended.

    The encoder sees about `batch_size` windows at a time: several of each clip where there are few clips left.
    """
    config: Any = model.config
    waiting = [list(plan.windows(config.count_encoder_frames(clip.mel_length))) for clip in clips]
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
        for (index, window, _), frames in zip(chosen, _encode(model, clips, chosen, decoding), strict=True):
            pieces[index].append(_Piece(window.start, frames))
        for following in zip_longest(*pieces):
            yield list(following)


def _encode(
    model: FastConformerRecognizer,
    clips: Sequence[Clip],
    chosen: Sequence[tuple[int, Window, bool]],
    decoding: DecodingOptions,
) -> list[torch.Tensor]:
    """Kept encoder frames of some windows: `chosen` has of each its clip's number, itself, and if it is the last."""
    config: Any = model.config
    pieces, mel_lengths = [], []
    for index, window, is_last in chosen:
        clip = clips[index]
        start, stop = window.mel_range(config.mel_frames_per_encoder_frame, clip.mel_length, is_last)
        # A masked frame of the clip follows its last one: a clip without frames is not an empty tensor.
        pieces.append(clip.rows(start, stop + 1 if is_last else stop))
        mel_lengths.append(stop - start)
    batch = torch.nn.utils.rnn.pad_sequence(pieces, batch_first=True).to(model.device)  # (windows, mel frames, mels)
    lengths = torch.tensor(mel_lengths, dtype=torch.int64, device=model.device)
    told = _tell_speakers(model, clips, chosen, mel_lengths)
    encoded: Any = model.encode(batch, input_lengths=lengths, language=decoding.language, **told)
    rows = encoded.last_hidden_state  # (windows, frames, size)
    return [rows[row, window.kept_rows] for row, (_, window, _) in enumerate(chosen)]


def _tell_speakers(
    model: FastConformerRecognizer,
    clips: Sequence[Clip],
    chosen: Sequence[tuple[int, Window, bool]],
    mel_lengths: Sequence[int],
) -> dict[str, Any]:
    """Activities of the speakers whom the model is to follow in some windows; nothing where there are none."""
    config: Any = model.config
    pieces = []
    for (index, window, _), mel_length in zip(chosen, mel_lengths, strict=True):
        clip = clips[index]
        if isinstance(clip, FollowedClip):
            num_frames = config.subsampling.count_frames(mel_length)
            pieces.append(clip.speaker_activities[window.start : window.start + num_frames])
    if not pieces:
        return {}
    return {"speaker_activities": torch.nn.utils.rnn.pad_sequence(pieces, batch_first=True)}


# Decoding


def _pad_pieces(pieces: Sequence[_Piece | None]) -> tuple[torch.Tensor, torch.Tensor]:
    """(clips, frames, size) and the frames of each clip that count."""
    some = next(piece.frames for piece in pieces if piece is not None)
    filled = [some[:0] if piece is None else piece.frames for piece in pieces]
    lengths = torch.tensor([frames.shape[0] for frames in filled], dtype=torch.int64, device=some.device)
    return torch.nn.utils.rnn.pad_sequence(filled, batch_first=True), lengths


def _find_forgotten(pieces: Sequence[_Piece | None], decoded: Sequence[_Decoded]) -> list[int]:
    """Numbers of the clips whose window does not hold their last token."""
    return [
        clip
        for clip, (piece, found) in enumerate(zip(pieces, decoded, strict=True))
        if piece is not None and found.frame_indices and found.frame_indices[-1] < piece.window_start
    ]


def _add(
    decoded: Sequence[_Decoded],
    hypotheses: Hypotheses,
    num_frames: Sequence[int],
    revised_scores: torch.Tensor | None,
) -> None:
    """
    Add what was found in the next frames of each clip.

    Args:
        decoded: Tokens of the clips so far, changed in place.
        hypotheses: Tokens found in the next frames, with frames counted from the first of these.
        num_frames: Number of these frames of each clip.
        revised_scores: (clips,), new score of the last token found before, where these frames changed it; else NaN.
    """
    columns = {name: getattr(hypotheses, name) for name in _Decoded.COLUMNS}
    rows = {name: values.tolist() for name, values in columns.items() if values is not None}
    revised = [math.nan] * len(decoded) if revised_scores is None else revised_scores.tolist()
    for clip, (found, token_length) in enumerate(zip(decoded, hypotheses.token_lengths.tolist(), strict=True)):
        if not math.isnan(revised[clip]):
            found.scores[-1] = revised[clip]
        for name, values in rows.items():
            getattr(found, name).extend(values[clip][:token_length])
        first_new = len(found.frame_indices) - token_length
        found.frame_indices[first_new:] = [frame + found.num_frames for frame in found.frame_indices[first_new:]]
        found.num_frames += num_frames[clip]


def _join(
    decoded: Sequence[_Decoded], padding_id: int, decoder_type: str, decoding: DecodingOptions
) -> FastConformerGenerateOutput:
    """Padded tensors of all clips."""
    token_lengths = torch.tensor([len(clip.tokens) for clip in decoded], dtype=torch.int64, device="cpu")
    table = TokenTable(torch.arange(len(decoded), device="cpu").repeat_interleave(token_lengths), len(decoded))

    def fill(name: str, dtype: torch.dtype, padding: int = 0) -> torch.Tensor:
        values = [value for clip in decoded for value in getattr(clip, name)]
        return table.fill(torch.tensor(values, dtype=dtype, device="cpu"), padding)

    hypotheses = Hypotheses(
        tokens=fill("tokens", torch.int64, padding_id),
        token_lengths=token_lengths,
        frame_indices=fill("frame_indices", torch.int64),
        log_probs=fill("log_probs", torch.float32),
        durations=fill("durations", torch.int64) if decoder_type == "tdt" else None,
        scores=None if decoding.confidence is None else fill("scores", torch.float32),
    )
    encoder_lengths = torch.tensor([clip.num_frames for clip in decoded], dtype=torch.int64, device="cpu")
    return FastConformerGenerateOutput.of(hypotheses, encoder_lengths, decoder_type, decoding)
