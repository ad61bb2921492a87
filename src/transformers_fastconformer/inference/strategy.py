"""
Strategies for passing a clip through the encoder: whole, whole with local attention, or in chunks.

With `"auto"` the length of the clip, the free memory and an estimate of the work decide.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from typing import Any, NamedTuple

from ..configuration_fastconformer import FastConformerConfig
from ..modeling.masking import resolve_context, sees_all
from ..modeling.recognizer import FastConformerRecognizer
from .chunk_plan import WindowPlan, plan_windows
from .estimates import LOCAL_BAND_FRAMES, estimate_encoder_work, estimate_one_pass_bytes
from .free_memory import available_bytes
from .multitask_plan import is_multitask
from .options import ChunkOptions, TranscriptionOptions
from .pause_cuts import CutRules, plan_cuts

# Default context on each side of a window, which is what a word and what it leans on need: longer windows need no more
# of it. Short ones have a sixth of the window, but at least as much as a word, as long as a third is left in the
# middle; with less, words at the borders are lost (figures in `docs/benchmarks/long-audio.md`).
MAX_DEFAULT_STRIDE_SECONDS = 2.0
DEFAULT_STRIDE_SHARE = 1 / 6
MIN_DEFAULT_STRIDE_SECONDS = 0.8
MAX_DEFAULT_STRIDE_SHARE = 1 / 3
# Default windows. With full attention longer ones take more time than they save in context (and less than 10 % is
# encoded twice); with local attention longer ones leave the caches of a CPU.
DEFAULT_CHUNK_SECONDS = 60.0
DEFAULT_LOCAL_CHUNK_SECONDS = 120.0
# Default windows are not cut shorter than this where memory is scarce.
MIN_DEFAULT_CHUNK_SECONDS = 15.0
# Encoder frames on each side that "local" lets a model with full attention see: the values that the authors of
# published checkpoints give for long audio.
LOCAL_CONTEXT = (128, 128)

# Clips of up to so long are seen whole by "auto", whatever would take less time: their result is NeMo's.
MAX_WHOLE_SECONDS = 60.0
# Longest clip in one pass with full attention that the authors of published checkpoints give: 24 minutes.
MAX_FULL_SECONDS = 24 * 60.0
# "auto" takes one pass with the model's own attention, whose result is NeMo's, as long as it is not estimated to take
# more than so many times the work of the fastest strategy.
MAX_FULL_WORK = 1.15
# Largest share of the memory that is free before a clip goes through the encoder that "auto" takes.
MAX_MEMORY_SHARE = 0.5


class ChosenStrategy(NamedTuple):
    """
    Strategy that was chosen for a clip, with the model and the plan that carry it out.

    Args:
        name: `"full"`, `"local"` or `"chunked"`.
        model: The model to use: the one given, or one that shares its parameters.
        plan: Plan by which the clip is cut; None: it is not cut.
        batch_size: Clips, or windows of one, that the encoder sees at a time, at most.
        restarts: True if decoding starts anew where a window does not hold the last token, see `chunked.py`.
        reason: One line that says why; empty where the caller chose.
        cuts: Rules by which the clips of a multitask model are cut, in place of a plan; None: they are not cut.
    """

    name: str
    model: FastConformerRecognizer
    plan: WindowPlan | None
    batch_size: int
    restarts: bool
    reason: str = ""
    cuts: CutRules | None = None


def check_strategy(config: FastConformerConfig, frame_seconds: float, chunking: ChunkOptions) -> None:
    """
    Check that a model can carry out a strategy, before anything is computed.

    Args:
        config: The model's configuration.
        frame_seconds: Seconds from one encoder frame to the next, by the processor.
        chunking: The strategy, the lengths of chunks and of their context.

    Raises:
        ValueError: for a strategy or lengths that the model cannot carry out.
    """
    plan_chunks(config, frame_seconds, chunking)
    if chunking.strategy == "local" and not config.has_relative_positions:
        raise ValueError(
            "strategy='local' is not supported for a model with "
            f"position_embedding_type={config.position_embedding_type!r}; expected 'auto', 'full' or 'chunked'."
        )


def choose_strategy(
    model: FastConformerRecognizer,
    mel_length: int,
    frame_seconds: float,
    options: TranscriptionOptions,
    num_clips: int = 1,
) -> ChosenStrategy:
    """
    Choose the strategy for a clip.

    `"auto"` is `"chunked"` where a length of chunks is given. Else it is `"full"` for a clip that fits into half of
    the free memory in one pass, if it is at most `MAX_WHOLE_SECONDS` long, if its attention is limited anyway, or
    if that is at most `MAX_FULL_WORK` times the
    estimated work of the fastest strategy; otherwise that one: `"local"` in long windows, or `"chunked"` for a model
    whose attention cannot be made local.

    Args:
        model: A model with a head.
        mel_length: Mel frames of the clip.
        frame_seconds: Seconds from one encoder frame to the next.
        options: The options that the caller gave.
        num_clips: Number of clips of that length that go through the encoder together.

    Raises:
        ValueError: for a strategy that `check_strategy` refuses.
    """
    config: Any = model.config
    if is_multitask(model):
        return _choose_for_multitask(model, mel_length, frame_seconds, options)
    check_strategy(config, frame_seconds, options.chunking)
    clip = _Clip(model, mel_length, frame_seconds, options, num_clips)
    name = options.chunking.strategy
    if name != "auto":
        return clip.carry_out(name, options.chunking)
    if options.chunking.chunk_length_s:
        return clip.carry_out("chunked", replace(options.chunking, strategy="chunked"))
    return clip.choose()


def _choose_for_multitask(
    model: FastConformerRecognizer, mel_length: int, frame_seconds: float, options: TranscriptionOptions
) -> ChosenStrategy:
    """The strategy of a model whose decoder writes the text of a window as a whole."""
    config: Any = model.config
    cuts = plan_cuts(options.chunking, frame_seconds, config.mel_frames_per_encoder_frame)
    num_frames = max(config.count_encoder_frames(mel_length), 1)
    longest = num_frames if cuts is None or num_frames <= cuts.whole_frames else cuts.max_frames
    is_cut = cuts is not None and num_frames > cuts.whole_frames
    name = "chunked" if is_cut or options.chunking.strategy == "chunked" else "full"
    reason = ""
    if is_cut and options.chunking.strategy == "auto" and not options.chunking.chunk_length_s:
        reason = "the clip is longer than those that the model was trained with"
    mel_frames = min(longest * config.mel_frames_per_encoder_frame, max(mel_length, 1))
    needed_bytes = estimate_one_pass_bytes(config, mel_frames, model.dtype.itemsize, device_type=model.device.type)
    fitting = int(MAX_MEMORY_SHARE * available_bytes(model.device) // max(needed_bytes, 1))
    in_seconds = int(options.batch_seconds / (longest * frame_seconds))
    batch_size = max(min(options.batch_size, in_seconds, fitting), 1) if is_cut else options.batch_size
    return ChosenStrategy(name, model, None, batch_size, False, reason, cuts)


class _Clip:
    """
    A clip for which a strategy is chosen.

    Args:
        model, mel_length, frame_seconds, options, num_clips: See `choose_strategy`.
    """

    def __init__(
        self,
        model: FastConformerRecognizer,
        mel_length: int,
        frame_seconds: float,
        options: TranscriptionOptions,
        num_clips: int,
    ) -> None:
        self.model = model
        self.config: Any = model.config
        self.mel_length = mel_length
        self.frame_seconds = frame_seconds
        self.options = options
        # A clip too short for a frame costs nothing, and ratios need something.
        self.num_frames = max(self.config.count_encoder_frames(mel_length), 1)
        self.num_clips = num_clips

    @cached_property
    def max_bytes(self) -> float:
        """Memory that "auto" takes at most."""
        return MAX_MEMORY_SHARE * available_bytes(self.model.device)

    def carry_out(self, name: str, chunking: ChunkOptions, reason: str = "") -> ChosenStrategy:
        """The strategy of a name, with its windows."""
        is_local = name == "local"
        model = share_with_local_attention(self.model) if is_local else self.model
        plan = plan_chunks(self.config, self.frame_seconds, chunking)
        return ChosenStrategy(name, model, plan, self._batch_size(plan, is_local), sees_all(self.config), reason)

    def choose(self) -> ChosenStrategy:
        """The fastest strategy of those that fit and are as good in words."""
        is_limited = not sees_all(self.config)
        seconds = self.num_frames * self.frame_seconds
        others = {name: chunking for name in ("local", "chunked") if (chunking := self._chunk(name)) is not None}
        fits = self._needed_bytes(None, is_local=False) * self.num_clips <= self.max_bytes
        if is_limited and (fits or not others):
            return self._take("full", None, "the attention of the model is limited, so one pass is linear in time")
        if not others:
            return self._choose_whole(fits)
        works = {name: self._estimate(name, chunking) for name, chunking in others.items()}
        fastest = min(works, key=works.__getitem__)
        if is_limited:
            return self._take(fastest, others[fastest], self._explain_memory())
        full = self._estimate("full", None) / works[fastest]
        if fits and seconds <= MAX_WHOLE_SECONDS:
            return self._take("full", None, f"clips of up to {MAX_WHOLE_SECONDS:g} s are seen whole")
        if fits and seconds <= MAX_FULL_SECONDS and full <= MAX_FULL_WORK:
            return self._take("full", None, f"by estimate one pass takes {full:.2f} times as long as {fastest!r}")
        if not fits:
            return self._take(fastest, others[fastest], self._explain_memory())
        compared = {"full": full, **{name: work / works[fastest] for name, work in works.items() if name != fastest}}
        slower = " and ".join(f"{name!r} {ratio:.2f}" for name, ratio in compared.items())
        return self._take(fastest, others[fastest], f"others would take longer by estimate, {slower} times as long")

    def _choose_whole(self, fits: bool) -> ChosenStrategy:
        """For a model whose clips cannot be cut."""
        can_be_local = self.config.has_relative_positions
        if can_be_local and not (fits and self.num_frames * self.frame_seconds <= MAX_FULL_SECONDS):
            return self._take("local", None, "the clips of this model cannot be cut, and it is too long for one pass")
        return self._take("full", None, "the clips of this model cannot be cut")

    def _chunk(self, name: str) -> ChunkOptions | None:
        """Default windows of a strategy that fit into memory; None for a model that it is not for."""
        if name == "local" and not (sees_all(self.config) and self.config.has_relative_positions):
            return None
        seconds = DEFAULT_LOCAL_CHUNK_SECONDS if name == "local" else DEFAULT_CHUNK_SECONDS
        while True:
            chunking = ChunkOptions(name, seconds)
            try:
                plan = plan_chunks(self.config, self.frame_seconds, chunking)
            except ValueError:  # of models whose clips cannot be cut
                return None
            assert plan is not None
            if self._count(plan, name == "local") >= 1 or seconds / 2 < MIN_DEFAULT_CHUNK_SECONDS:
                return chunking
            seconds /= 2

    def _batch_size(self, plan: WindowPlan | None, is_local: bool) -> int:
        """Number of clips, or of windows of a plan, that the encoder sees at a time."""
        if plan is None:
            return self.options.batch_size
        longest_seconds = min(plan.window_frames, self.num_frames) * self.frame_seconds
        in_seconds = int(self.options.batch_seconds / longest_seconds)
        return max(min(self.options.batch_size, in_seconds, self._count(plan, is_local)), 1)

    def _count(self, plan: WindowPlan, is_local: bool) -> int:
        """Number of windows of a plan that fit into memory together."""
        return int(self.max_bytes // self._needed_bytes(plan, is_local))

    def _needed_bytes(self, plan: WindowPlan | None, is_local: bool) -> int:
        """Memory that the whole clip, or a window of it, takes, with attention that is made local or is limited."""
        mel_length = self.mel_length
        if plan is not None:
            mel_length = min(plan.window_frames * self.config.mel_frames_per_encoder_frame, mel_length)
        is_limited = is_local or not sees_all(self.config)
        dtype, device = self.model.dtype, self.model.device
        return estimate_one_pass_bytes(self.config, mel_length, dtype.itemsize, is_limited, device.type)

    def _estimate(self, name: str, chunking: ChunkOptions | None) -> float:
        """Work of a strategy."""
        plan = None if chunking is None else plan_chunks(self.config, self.frame_seconds, chunking)
        keys = LOCAL_BAND_FRAMES if name == "local" else None
        windows_per_batch = 1 if plan is None else self._batch_size(plan, name == "local")
        return estimate_encoder_work(self.config, self.num_frames, plan, keys, windows_per_batch)

    def _take(self, name: str, chunking: ChunkOptions | None, reason: str) -> ChosenStrategy:
        return self.carry_out(name, ChunkOptions(name) if chunking is None else chunking, reason)

    def _explain_memory(self) -> str:
        gigabytes = self._needed_bytes(None, is_local=False) * self.num_clips / 1e9
        return f"one pass takes {gigabytes:.1f} GB by estimate, more than half of what is free"


def plan_chunks(config: FastConformerConfig, frame_seconds: float, chunking: ChunkOptions) -> WindowPlan | None:
    """
    Plan the windows into which clips are cut for a model.

    Args:
        config: The model's configuration.
        frame_seconds: Seconds from one encoder frame to the next, by the processor.
        chunking: Lengths of chunks and of their context.

    Returns:
        The plan, or None for whole clips.

    Raises:
        ValueError: for a chunk that is only context, and for a model whose clips cannot be cut.
    """
    chunk_length_s = chunking.chunk_length_s
    if not chunk_length_s:
        if chunking.strategy != "chunked":
            return None
        chunk_length_s = DEFAULT_CHUNK_SECONDS
    if not config.reduction.is_proportional:
        # A window would be masked in its middle.
        raise ValueError(
            f"chunk_length_s={chunk_length_s} is not supported for a model with "
            f"reduction_type={config.reduction_type!r} and reduction_factor={config.reduction_factor}; expected None."
        )
    default_seconds = min(
        max(chunk_length_s * DEFAULT_STRIDE_SHARE, MIN_DEFAULT_STRIDE_SECONDS),
        chunk_length_s * MAX_DEFAULT_STRIDE_SHARE,
        MAX_DEFAULT_STRIDE_SECONDS,
    )
    left_seconds, right_seconds = (default_seconds if stride is None else stride for stride in chunking.strides)
    context = resolve_context(config.attention_context_style, config.attention_context)
    align_frames = 1 if config.has_local_attention else context.chunk_frames
    return plan_windows(chunk_length_s, left_seconds, right_seconds, frame_seconds, align_frames)


def share_with_local_attention(model: FastConformerRecognizer) -> FastConformerRecognizer:
    """
    Make a model whose attention is a sliding window of `LOCAL_CONTEXT` out of one with full attention.

    All parameters and buffers are shared and the given model does not change, so that others may use it meanwhile. A
    model whose attention is limited already is returned as it is.

    Raises:
        ValueError: for a model with absolute positions, whose attention cannot be limited.
    """
    config: Any = model.config
    if not sees_all(config):
        return model
    return model.with_attention_context(
        LOCAL_CONTEXT, attention_context_style="regular", position_embedding_type="rel_pos_local_attn"
    )
