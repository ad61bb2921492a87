"""Decoding of frames by a prompted decoder: greedily, by NeMo's beams, by a search of Transformers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from transformers import DynamicCache, EncoderDecoderCache

from ..decoding.attention_beam import decode_attention_by_beams
from ..decoding.attention_greedy import decode_attention_greedily
from ..decoding.confidence import TokenScore
from ..decoding.hypotheses import Hypotheses
from ..decoding.options import DecodingOptions
from ..decoding.token_places import place_tokens
from ..validation import require
from .finite_check import OVERFLOW_HINT, FiniteCheck
from .masking import lengths_to_mask
from .multitask_generation import check_num_beams, generate_by_transformers
from .multitask_networks import derive_attention_decoder
from .outputs import FastConformerMultitaskEncoderOutput


@dataclass
class ModuleState:
    """
    State of decoding by the modules as they are.

    Args:
        frames: (batch, frames, decoder_hidden_size).
        lengths: (batch,), frames that count.
        past: Keys and values of the tokens so far, and of the frames; changed in place.
    """

    frames: torch.Tensor
    lengths: torch.Tensor
    past: EncoderDecoderCache

    def select(self, clips: torch.Tensor) -> ModuleState:
        """The state of some clips, by their numbers (n,)."""
        if self.past.get_seq_length() > 0:
            self.past.batch_select_indices(clips)
        return ModuleState(self.frames[clips], self.lengths[clips], self.past)

    def reorder(self, parents: torch.Tensor) -> ModuleState:
        """The state of texts that go on from others over the same frames, by their numbers (n,)."""
        self.past.self_attention_cache.batch_select_indices(parents)
        return self


def mask_frames(lengths: torch.Tensor, num_frames: int) -> torch.Tensor:
    """Frames that are attended to: (batch, 1, 1, frames); of a clip without frames the first, for a softmax."""
    return lengths_to_mask(lengths.clamp(min=1), num_frames)[:, None, None]


def decode_prompted(
    model: Any,
    frames: torch.Tensor,
    lengths: torch.Tensor,
    decoding: DecodingOptions,
    prompts: Sequence[Sequence[int]],
    limits: torch.Tensor,
    with_log_probs: bool,
    beam_size: int | None,
) -> Hypotheses:
    """
    Decode clips after their prompts, those whose prompts have one length together.

    Args:
        model: The model.
        frames: (batch, frames, decoder_hidden_size).
        lengths: (batch,), frames of each clip that count.
        decoding: Options of decoding; those of the prompt are not read.
        prompts: Ids of the prompt of each clip.
        limits: (batch,), most tokens of each clip after its prompt.
        with_log_probs: Compute the log-probability of each token.
        beam_size: Texts that a beam search holds; 1 is greedy decoding, None that of the checkpoint.

    Returns:
        The hypotheses, without prompt and end.
    """
    states_check = FiniteCheck("last_hidden_state", frames, lengths, OVERFLOW_HINT)
    search = decoding.search
    if search is not None:
        require(beam_size is None, "beam_size", beam_size, "None next to options of a search")
        check_num_beams(search.arguments, None, model.config.beam_size)
        beam_size = 1
    beam_size = model.config.beam_size if beam_size is None else beam_size
    # Texts of a beam that have ended go on with the padding.
    has_padding = beam_size == 1 or model.config.pad_token_id is not None
    require(has_padding, "beam_size", beam_size, "1 without config.pad_token_id")
    options: dict[str, Any] = {
        "with_log_probs": with_log_probs,
        "score": None if decoding.confidence is None else TokenScore(decoding.confidence),
    }
    scorer = decoding.make_scorer(len(prompts), model.config.num_tokens)
    decode: Any = partial(_decode_group, beam_size=beam_size)
    if search is not None and not search.is_greedy:
        require(scorer is None, "search", search, "None with boosting or language_model")
        decode = partial(_search_group, search=search.arguments)
    require(scorer is None or beam_size == 1, "beam_size", beam_size, "1 with boosting or language_model")
    groups: dict[int, list[int]] = {}
    for clip, prompt in enumerate(prompts):
        groups.setdefault(len(prompt), []).append(clip)
    parts = []
    for clips in groups.values():
        rows = torch.tensor(clips, dtype=torch.int64, device=frames.device)
        tokens = torch.tensor([list(prompts[clip]) for clip in clips], dtype=torch.int64, device=frames.device)
        if scorer is not None:
            options |= {"scorer": scorer.select(clips), "end_id": model.config.eos_token_id}
        parts.append(decode(model, frames[rows], lengths[rows], tokens, limits[rows], **options))
    states_check.finish()
    clips = [clip for group in groups.values() for clip in group]
    return Hypotheses.concatenate(parts, model.padding_id).select(_inverse(clips))


def _decode_group(
    model: Any,
    frames: torch.Tensor,
    lengths: torch.Tensor,
    prompts: torch.Tensor,
    limits: torch.Tensor,
    beam_size: int,
    **options: Any,
) -> Hypotheses:
    """Decode clips whose prompts have one length, by the fast form of the decoder where there is one."""
    networks = derive_attention_decoder(model.decoder, model.token_head)
    step: Any = partial(_step_of_modules, model)
    start: Any = ModuleState(frames, lengths, EncoderDecoderCache(DynamicCache(), DynamicCache()))
    if networks is not None:
        mask = mask_frames(lengths, frames.shape[1])
        step, start = networks.step, networks.start(frames, None if bool(mask.all()) else mask)
    padding_id = model.padding_id
    if beam_size == 1:
        return decode_attention_greedily(
            step, start, prompts, limits, model.config.end_token_ids, padding_id, **options
        )
    ends, penalty = (model.config.eos_token_id, model.config.pad_token_id), model.config.beam_length_penalty
    ids = [end for end in ends if end is not None]
    return decode_attention_by_beams(
        step, start, prompts, limits, ids, padding_id, beam_size, penalty, options["score"]
    )


def _step_of_modules(model: Any, tokens: torch.Tensor, state: ModuleState) -> tuple[torch.Tensor, ModuleState]:
    """One step of decoding by the modules as they are."""
    states = model.decode_tokens(tokens, None, state.frames, state.lengths, state.past, False, False)
    logits = model.token_head(states.last_hidden_state[:, -1:], model.decoder.embedding.weight)
    return logits[:, 0], state


def _search_group(
    model: Any,
    frames: torch.Tensor,
    lengths: torch.Tensor,
    prompts: torch.Tensor,
    limits: torch.Tensor,
    search: dict[str, Any],
    score: TokenScore | None,
    with_log_probs: bool,
) -> Hypotheses:
    """Decode clips whose prompts have one length by a search of Transformers."""
    encoded = FastConformerMultitaskEncoderOutput(last_hidden_state=frames, encoder_lengths=lengths)
    config = getattr(model, "generation_config", None)
    tokens = generate_by_transformers(model, encoded, prompts.tolist(), limits, config, dict(search))
    places = torch.arange(1, tokens.shape[1] + 1, dtype=torch.int64, device=tokens.device)
    is_token = tokens != model.padding_id
    counts = (is_token * places).amax(dim=1) if tokens.shape[1] else torch.zeros_like(limits)
    zeros = torch.zeros(tokens.shape, dtype=torch.float32, device=tokens.device)
    log_probs, scores = zeros, None if score is None else zeros
    if tokens.shape[1] and (with_log_probs or score is not None):
        # What the search leaves of them is of all its texts: one more pass, over those that it found.
        states = model.decode_tokens(
            torch.cat([prompts, tokens[:, :-1]], dim=1), None, frames, lengths, None, False, False
        )
        written = states.last_hidden_state[:, prompts.shape[1] - 1 :]
        logits = model.token_head(written, model.decoder.embedding.weight).flatten(0, 1)
        is_text = places <= counts[:, None]
        of_tokens = logits.float().log_softmax(dim=-1).gather(1, tokens.flatten()[:, None])
        log_probs = of_tokens.view_as(tokens).masked_fill(~is_text, 0.0)
        if score is not None:
            scores = score(logits, tokens.flatten()).view_as(tokens).masked_fill(~is_text, 0.0)
    return Hypotheses(tokens, counts, torch.zeros_like(tokens), log_probs, None, scores)


def place_texts(
    model: Any,
    frames: torch.Tensor,
    lengths: torch.Tensor,
    prompt_ids: Sequence[int],
    texts: Sequence[Sequence[int]],
) -> list[list[int]]:
    """Encoder frames at which the tokens of texts are said, see `FastConformerForMultitask.place_tokens`."""
    places: list[list[int]] = []
    # One by one: the probabilities of all layers are large.
    for of_clip, count, text in zip(frames, lengths.tolist(), texts, strict=True):
        if not text:
            places.append([])
            continue
        tokens = torch.tensor([[*prompt_ids, *text[:-1]]], dtype=torch.int64, device=frames.device)
        states = model.decode_tokens(
            tokens, None, of_clip[None, :count], lengths.new_tensor([count]), None, False, True
        )
        weights = torch.cat([of_layer[0] for of_layer in states.cross_attentions])  # (heads, tokens, frames)
        places.append(place_tokens(weights[:, len(prompt_ids) - 1 :]).tolist())
    return places


def _inverse(order: list[int]) -> list[int]:
    """Places of the numbers 0 to n - 1 in an order of them."""
    places = [0] * len(order)
    for place, number in enumerate(order):
        places[number] = place
    return places
