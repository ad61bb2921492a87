"""The model of Canary's shape: teacher forcing, caches, losses, and greedy decoding against a plain loop."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from multitask_models import PROMPT, build_multitask, random_features
from transformers import AutoModel, AutoModelForSpeechSeq2Seq

from transformers_fastconformer import (
    CompiledPhrases,
    DecodingOptions,
    FastConformerForMultitask,
    PhraseBoosting,
    SearchOptions,
)
from transformers_fastconformer.decoding.phrase_boosting import build_phrase_automaton
from transformers_fastconformer.decoding.token_places import place_tokens

SHAPES: list[dict[str, Any]] = [
    {},
    {"decoder_pre_norm": False, "transformer_encoder_pre_norm": False},
    {"decoder_hidden_size": 32, "num_transformer_encoder_layers": 0, "decoder_learned_positions": True},
    {"decoder_final_norm": False, "decoder_activation": "gelu", "decoding_strategy": "greedy"},
]
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


def alone(inputs: dict[str, torch.Tensor], clip: int) -> dict[str, torch.Tensor]:
    length = int(inputs["input_lengths"][clip])
    return {
        "input_features": inputs["input_features"][clip : clip + 1, : length + 1],
        "input_lengths": inputs["input_lengths"][clip : clip + 1],
    }


@torch.no_grad()
@pytest.mark.parametrize("shape", SHAPES)
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
@pytest.mark.parametrize("shape", SHAPES)
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


@torch.no_grad()
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_padding_and_neighbours_change_nothing(shape: dict[str, Any], attention: str) -> None:
    model = build_multitask(**shape)
    model.set_attn_implementation(attention)
    inputs = random_features(LENGTHS)
    tokens = torch.randint(0, 37, (3, 7), generator=torch.Generator().manual_seed(0))
    logits = model(**inputs, decoder_input_ids=tokens).logits
    for clip in range(3):
        by_itself = model(**alone(inputs, clip), decoder_input_ids=tokens[clip : clip + 1, :5]).logits[0]
        torch.testing.assert_close(logits[clip, :5], by_itself, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_tokens_that_do_not_count_change_nothing() -> None:
    model = build_multitask()
    inputs = random_features(LENGTHS)
    tokens = torch.randint(0, 37, (3, 5), generator=torch.Generator().manual_seed(0))
    expected = model(**inputs, decoder_input_ids=tokens).logits
    padded = torch.cat([torch.full((3, 2), 5), tokens], dim=1)
    mask = torch.tensor([[0, 0, 1, 1, 1, 1, 1]] * 3)
    found = model(**inputs, decoder_input_ids=padded, decoder_attention_mask=mask).logits[:, 2:]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_a_cache_gives_the_logits_of_the_whole() -> None:
    model = build_multitask()
    encoded = model.encode(**random_features(LENGTHS))
    tokens = torch.randint(0, 37, (3, 6), generator=torch.Generator().manual_seed(0))
    whole = model(encoder_outputs=encoded, decoder_input_ids=tokens, use_cache=False)
    assert whole.past_key_values is None
    first = model(encoder_outputs=encoded, decoder_input_ids=tokens[:, :4])
    parts = [first.logits]
    for place in (4, 5):
        output = model(
            encoder_outputs=encoded,
            decoder_input_ids=tokens[:, place : place + 1],
            past_key_values=first.past_key_values,
            logits_to_keep=1,
        )
        parts.append(output.logits)
    torch.testing.assert_close(torch.cat(parts, dim=1), whole.logits, rtol=1e-4, atol=1e-5)


def test_labels_give_a_loss_and_gradients_everywhere() -> None:
    model = build_multitask().train()
    labels = torch.tensor([[3, 10, 11, 20, 4], [3, 10, 11, 4, -100]])
    output = model(**random_features([97, 56]), labels=labels)
    tokens = torch.tensor([[6, 3, 10, 11, 20], [6, 3, 10, 11, 4]])
    model.eval()
    again = model(**random_features([97, 56]), labels=labels, decoder_input_ids=tokens)
    no_norm = model(**random_features([97, 56]), labels=labels)
    torch.testing.assert_close(again.loss, no_norm.loss)
    of_labels = again.logits.log_softmax(dim=-1).gather(2, labels.clamp(min=0)[..., None])[..., 0]
    expected = -of_labels[labels != -100].mean()
    torch.testing.assert_close(again.loss, expected, rtol=1e-4, atol=1e-5)
    assert again.past_key_values is None
    output.loss.backward()
    without = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert not without


@torch.no_grad()
def test_states_and_attentions_are_returned_where_they_are_asked_for() -> None:
    model = build_multitask()
    inputs, tokens = random_features([97]), torch.tensor([PROMPT])
    output = model(**inputs, decoder_input_ids=tokens, output_hidden_states=True, output_attentions=True)
    assert [states.shape for states in output.decoder_hidden_states] == [(1, 4, 24)] * 3
    assert [probabilities.shape for probabilities in output.decoder_attentions] == [(1, 2, 4, 4)] * 2
    assert [probabilities.shape for probabilities in output.cross_attentions] == [(1, 2, 4, 13)] * 2
    assert len(output.encoder_hidden_states) == 3
    assert len(output.encoder_attentions) == 2


@torch.no_grad()
def test_saving_and_loading_keeps_all(tmp_path: Path) -> None:
    model = build_multitask()
    model.save_pretrained(tmp_path)
    loaded = AutoModelForSpeechSeq2Seq.from_pretrained(tmp_path).eval()
    assert type(loaded) is FastConformerForMultitask
    inputs = random_features(LENGTHS)
    assert torch.equal(loaded.generate(**inputs, prompt_ids=PROMPT), model.generate(**inputs, prompt_ids=PROMPT))
    bare = AutoModel.from_pretrained(tmp_path).eval()
    assert type(bare).__name__ == "FastConformerModel"
    expected = model.encoder(**inputs).last_hidden_state
    assert torch.equal(bare(**inputs).last_hidden_state, expected)


def test_a_clip_without_frames_has_no_tokens() -> None:
    model = build_multitask()
    inputs = random_features([56, 0])
    output = model.generate(**inputs, prompt_ids=PROMPT, return_dict_in_generate=True)
    assert output.sequence_lengths[1] == 0
    expected = model.generate(**random_features([56]), prompt_ids=PROMPT)
    assert torch.equal(output.sequences[:1], expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prompt_ids": None}, "prompt_ids"),
        ({"prompt_ids": [[3], [4], [5]]}, "number of prompts"),
        ({"prompt_ids": [3, 40]}, "40"),
        ({"prompt_ids": PROMPT, "language": "de"}, "source_lang='de'"),
        ({"prompt_ids": PROMPT, "max_symbols_per_step": 3}, "max_symbols_per_step=3"),
        ({"prompt_ids": PROMPT, "max_new_tokens": 0}, "max_new_tokens"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_multitask().generate(**random_features([97, 56]), **arguments)


def test_more_tokens_than_positions_are_refused() -> None:
    with pytest.raises(ValueError, match="34"):
        build_multitask()(**random_features([56]), decoder_input_ids=torch.ones(1, 34, dtype=torch.int64))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([[3, 10, 99]] * 3, "labels hold the id 99; expected ids below"),
        ([[3, -1, 11]] * 3, "labels hold the id -1; expected ids below"),
        ([[3, 10, 11]], r"labels has shape \(1, 3\); expected \(3, tokens\)"),
        ([3, 10, 11], r"labels has shape \(3,\); expected \(3, tokens\)"),
    ],
)
def test_labels_that_are_no_tokens_are_refused(labels: list[Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_multitask()(**random_features(LENGTHS), labels=torch.tensor(labels))


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
