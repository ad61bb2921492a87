"""Decoding of frames: greedy against a plain loop, scores by teacher forcing, places by attention, phrases."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from multitask_models import DECODERS, PROMPT, alone, build_multitask, random_features

from transformers_fastconformer import (
    CompiledPhrases,
    DecodingOptions,
    FastConformerForMultitask,
    PhraseBoosting,
    SearchOptions,
)
from transformers_fastconformer.decoding.phrase_boosting import build_phrase_automaton
from transformers_fastconformer.decoding.token_places import place_tokens

LENGTHS = [160, 97, 56]


def decode_by_loop(model: FastConformerForMultitask, clip: dict[str, torch.Tensor], prompt: list[int]) -> list[int]:
    """Tokens of one clip: the whole text goes through the decoder anew for each token."""
    encoded = model.encode(**clip)
    limit = int(model.config.limit_new_tokens(encoded.padded_lengths, len(prompt))[0])
    tokens = list(prompt)
    while len(tokens) - len(prompt) < limit:
        logits = model(encoder_outputs=encoded, decoder_input_ids=torch.tensor([tokens]), use_cache=False).logits
        tokens.append(int(logits[0, -1].argmax()))
        if tokens[-1] in model.config.end_token_ids:
            tokens.pop()
            break
    return tokens[len(prompt) :]


@torch.no_grad()
@pytest.mark.parametrize("shape", DECODERS)
@pytest.mark.parametrize("seed", [0, 1])
def test_greedy_decoding_of_a_batch_is_that_of_a_plain_loop(shape: dict[str, Any], seed: int) -> None:
    model = build_multitask(seed, **shape)
    inputs = random_features(LENGTHS)
    prompts = [PROMPT, [6, 7, 8, 3, 10, 11], PROMPT]
    output = model.generate(**inputs, prompt_ids=prompts, return_dict_in_generate=True)
    found = [
        row[:count].tolist() for row, count in zip(output.sequences, output.sequence_lengths.tolist(), strict=True)
    ]
    expected = [decode_by_loop(model, alone(inputs, clip), prompt) for clip, prompt in enumerate(prompts)]
    assert found == expected
    assert len({token for row in found for token in row}) > 2
    assert torch.equal(model.generate(**inputs, prompt_ids=prompts), output.sequences)


@torch.no_grad()
@pytest.mark.parametrize("shape", DECODERS)
def test_log_probabilities_are_those_of_teacher_forcing(shape: dict[str, Any]) -> None:
    model = build_multitask(**shape)
    inputs = random_features(LENGTHS)
    output = model.generate(**inputs, prompt_ids=PROMPT, return_dict_in_generate=True)
    tokens = torch.cat([torch.tensor([PROMPT] * 3), output.sequences], dim=1)
    logits = model(**inputs, decoder_input_ids=tokens).logits
    log_probs = logits.log_softmax(dim=-1)[:, len(PROMPT) - 1 : -1]
    log_probs = log_probs.gather(2, output.sequences[..., None])[..., 0]
    for row, expected, count in zip(output.log_probs, log_probs, output.sequence_lengths.tolist(), strict=True):
        torch.testing.assert_close(row[:count], expected[:count], rtol=1e-4, atol=1e-5)
        assert (row[count:] == 0).all()


def test_a_clip_without_frames_has_no_tokens() -> None:
    model = build_multitask()
    inputs = random_features([56, 0])
    output = model.generate(**inputs, prompt_ids=PROMPT, return_dict_in_generate=True)
    assert output.sequence_lengths[1] == 0
    expected = model.generate(**random_features([56]), prompt_ids=PROMPT)
    assert torch.equal(output.sequences[:1], expected)


@torch.no_grad()
def test_tokens_are_placed_by_the_attention_of_their_step() -> None:
    model = build_multitask(3)
    inputs = random_features(LENGTHS)
    encoded = model.encode(**inputs)
    texts = [[7, 8, 9, 7, 12], [], [20]]
    found = model.place_tokens(encoded.last_hidden_state, encoded.encoder_lengths, PROMPT, texts)
    for clip, text in enumerate(texts):
        count = int(encoded.encoder_lengths[clip])
        clip_encoded = model.encode(**alone(inputs, clip))
        steps = []
        for number in range(len(text)):
            tokens = torch.tensor([PROMPT + text[:number]])
            output = model(encoder_outputs=clip_encoded, decoder_input_ids=tokens, output_attentions=True)
            heads = torch.cat([of_layer[0] for of_layer in output.cross_attentions])
            steps.append(heads[:, -1, :count])  # (heads, frames), of the last token
        expected = place_tokens(torch.stack(steps, dim=1)).tolist() if steps else []
        assert found[clip] == expected
        assert len(found[clip]) == len(text)


def test_phrases_are_for_greedy_decoding() -> None:
    """Each clip has its own; with other ways to search they are refused by name."""
    model = build_multitask()
    size = model.config.num_tokens
    plain = model.generate(**random_features([97, 61]), prompt_ids=PROMPT)
    boosting = PhraseBoosting(["x"], strength=50.0)
    phrases = CompiledPhrases(boosting, build_phrase_automaton([([7], 1)], boosting, size, 1.0))
    arguments = {**random_features([97, 61]), "prompt_ids": PROMPT}
    found = model.generate(**arguments, boosting=[None, phrases])
    before, after = (
        [[token for token in row if token != model.config.pad_token_id] for row in rows.tolist()]
        for rows in (plain, found)
    )
    assert after[0] == before[0]
    assert after[1] != before[1]
    with pytest.raises(ValueError, match=r"boosting=.*None with other ways than greedy"):
        model.generate(**arguments, boosting=phrases, num_beams=2)
    with pytest.raises(ValueError, match=r"search=.*None with boosting or language_model"):
        model.check_decoding(DecodingOptions(boosting=phrases, search=SearchOptions(num_beams=2)))
    model.config.beam_size = 2
    with pytest.raises(ValueError, match=r"beam_size=2.*1 with boosting or language_model"):
        model.generate(**arguments, boosting=phrases)
