"""The model of Canary's shape: teacher forcing, caches, losses, saving."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from multitask_models import DECODERS, PROMPT, alone, build_multitask, random_features
from transformers import AutoModel, AutoModelForSpeechSeq2Seq

from transformers_fastconformer import FastConformerForMultitask

LENGTHS = [160, 97, 56]


@torch.no_grad()
@pytest.mark.parametrize("shape", DECODERS)
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


def test_more_tokens_than_positions_are_refused() -> None:
    with pytest.raises(ValueError, match="34"):
        build_multitask()(**random_features([56]), decoder_input_ids=torch.ones(1, 34, dtype=torch.int64))
