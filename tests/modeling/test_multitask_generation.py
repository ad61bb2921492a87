"""`generate` through Transformers: the same as the fast way where both may go, and what only Transformers has."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from multitask_models import PROMPT, build_multitask, random_features
from transformers import GenerationConfig
from transformers.generation.stopping_criteria import MaxLengthCriteria

from transformers_fastconformer import (
    ConfidenceOptions,
    DecodingOptions,
    FastConformerForMultitask,
    SearchOptions,
)
from transformers_fastconformer.decoding.confidence import measure_confidence
from transformers_fastconformer.modeling.multitask_generation import cut_sequences

LENGTHS = [160, 97, 56]


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("strategy", ["beam", "greedy"])
def test_greedy_by_transformers_is_the_fast_way(seed: int, strategy: str) -> None:
    model = build_multitask(seed, decoding_strategy=strategy)
    inputs = random_features(LENGTHS)
    prompts = [PROMPT, [7, 8, 6, 3, 10, 11], [3, 10, 11]]
    fast = model.generate(**inputs, prompt_ids=prompts)
    output = model.generate(**inputs, prompt_ids=prompts, output_scores=True, return_dict_in_generate=True)
    assert torch.equal(output.sequences, fast)
    assert len(output.scores) >= fast.shape[1]


def test_beams_find_texts_that_are_no_worse() -> None:
    model = build_multitask()
    inputs = random_features(LENGTHS)

    def score(sequences: torch.Tensor) -> torch.Tensor:
        tokens = torch.cat([torch.tensor([PROMPT] * 3), sequences], dim=1)
        log_probs = model(**inputs, decoder_input_ids=tokens).logits.log_softmax(dim=-1)[:, len(PROMPT) - 1 : -1]
        chosen = log_probs.gather(2, sequences[..., None])[..., 0]
        return (chosen * (sequences != 5)).sum(dim=1)

    greedy = model.generate(**inputs, prompt_ids=PROMPT)
    beams = model.generate(**inputs, prompt_ids=PROMPT, num_beams=4, length_penalty=0.0)
    longest = max(greedy.shape[1], beams.shape[1])
    pad = torch.nn.functional.pad
    worse = score(pad(beams, (0, longest - beams.shape[1]), value=5)) < (
        score(pad(greedy, (0, longest - greedy.shape[1]), value=5)) - 1e-3
    )
    assert not worse.any()


def test_beams_need_a_padding() -> None:
    model = build_multitask(beam_size=3)
    model.config.pad_token_id = model.generation_config.pad_token_id = None
    with pytest.raises(ValueError, match=r"beam_size=3 is not supported; expected 1 without config\.pad_token_id"):
        model.generate(**random_features(LENGTHS), prompt_ids=PROMPT)


def test_arguments_do_not_switch_beams_off() -> None:
    model = build_multitask(beam_size=3)
    inputs = random_features(LENGTHS)
    with pytest.raises(ValueError, match=r"num_beams=None is not supported; expected a number: .* 3 beams of NeMo's"):
        model.generate(**inputs, prompt_ids=PROMPT, output_scores=True, return_dict_in_generate=True)
    for given in ({"num_beams": 1}, {"do_sample": True}, {"generation_config": GenerationConfig(num_beams=2)}):
        output = model.generate(**inputs, prompt_ids=PROMPT, output_scores=True, return_dict_in_generate=True, **given)
        assert output.scores is not None


def test_sequences_of_several_samples_and_beams() -> None:
    model = build_multitask()
    inputs = random_features(LENGTHS)
    torch.manual_seed(0)
    samples = model.generate(**inputs, prompt_ids=PROMPT, do_sample=True, num_return_sequences=4, temperature=2.0)
    assert samples.shape[0] == 12
    assert not torch.equal(samples[0], samples[1])
    beams = model.generate(**inputs, prompt_ids=PROMPT, num_beams=3, num_return_sequences=3)
    assert beams.shape[0] == 9


def test_limits_are_those_of_each_clip_for_beams_too() -> None:
    model = build_multitask(max_generation_delta=0)
    inputs = random_features(LENGTHS)
    beams = model.generate(**inputs, prompt_ids=PROMPT, num_beams=2)
    lengths = (beams != 5).cumsum(dim=1).amax(dim=1)
    limits = model.config.limit_new_tokens(model.encode(**inputs).padded_lengths, len(PROMPT))
    assert (lengths <= limits).all()


def test_cross_attentions_come_with_each_step() -> None:
    model = build_multitask()
    output = model.generate(
        **random_features(LENGTHS), prompt_ids=PROMPT, output_attentions=True, return_dict_in_generate=True
    )
    assert output.cross_attentions[0][0].shape == (3, 2, len(PROMPT), 21)
    assert output.cross_attentions[1][1].shape == (3, 2, 1, 21)


@pytest.mark.parametrize(
    "arguments",
    [
        {"max_new_tokens": 3},
        {"max_length": len(PROMPT) + 3},
        {"generation_config": GenerationConfig(max_new_tokens=3)},
        {"max_new_tokens": 3, "do_sample": True, "top_k": 1},
        {"stopping_criteria": [MaxLengthCriteria(len(PROMPT) + 3)]},
    ],
)
def test_tokens_are_limited_as_asked(arguments: dict[str, Any]) -> None:
    model = build_multitask()
    inputs = random_features(LENGTHS)
    whole = model.generate(**inputs, prompt_ids=PROMPT)
    assert torch.equal(model.generate(**inputs, prompt_ids=PROMPT, **arguments), whole[:, :3])


def test_decoder_tokens_are_a_prompt() -> None:
    model = build_multitask()
    inputs = random_features([97])
    expected = model.generate(**inputs, prompt_ids=PROMPT)
    assert torch.equal(model.generate(**inputs, decoder_input_ids=torch.tensor([PROMPT])), expected)
    encoded = model.encode(**inputs)
    assert torch.equal(model.generate(encoder_outputs=encoded, prompt_ids=PROMPT), expected)


def test_sequences_are_cut_at_their_end() -> None:
    rows = torch.tensor([[7, 8, 4, 9], [7, 5, 8, 9], [4, 4, 4, 4]])
    assert cut_sequences(rows, [4], 5, torch.tensor([4, 3, 4])).tolist() == [[7, 8, 5], [7, 5, 8], [5, 5, 5]]


@pytest.mark.parametrize("name", ["beam_size", "num_beam"])
@pytest.mark.parametrize("others", [{}, {"num_beams": 2}])
def test_arguments_that_nothing_reads_are_refused(name: str, others: dict[str, Any]) -> None:
    model = build_multitask()
    with pytest.raises(ValueError, match=f"^{name}: not an argument of generate; expected some of language, "):
        model.generate(**random_features(LENGTHS), prompt_ids=PROMPT, **{name: 3}, **others)


def test_a_mask_that_hides_tokens_of_a_prompt_is_refused() -> None:
    model = build_multitask()
    inputs = random_features(LENGTHS)
    tokens, mask = torch.tensor([PROMPT] * 3), torch.ones(3, len(PROMPT), dtype=torch.int64)
    found = model.generate(**inputs, decoder_input_ids=tokens, decoder_attention_mask=mask)
    assert torch.equal(found, model.generate(**inputs, prompt_ids=PROMPT))
    mask[0, 0] = 0
    with pytest.raises(
        ValueError, match="decoder_attention_mask hides tokens of decoder_input_ids; expected only ones"
    ):
        model.generate(**inputs, decoder_input_ids=tokens, decoder_attention_mask=mask)


def test_a_training_batch_is_no_prompt() -> None:
    model, ids = build_multitask(), torch.tensor([[*PROMPT, 20], [*PROMPT, 21]])
    with pytest.raises(ValueError, match="decoder_input_ids of the shape of labels"):
        model.generate(**random_features([97, 64]), decoder_input_ids=ids, labels=ids)


def test_the_positions_are_made_once() -> None:
    decoder = build_multitask().decoder
    table = decoder.position_table(torch.float32, torch.device("cpu"))
    assert decoder.position_table(torch.float32, torch.device("cpu")) is table


def test_a_cache_of_a_fixed_size_is_refused() -> None:
    model = build_multitask()
    with pytest.raises(ValueError, match="cache_implementation='static' is not supported; expected"):
        model.generate(**random_features(LENGTHS), prompt_ids=PROMPT, cache_implementation="static")


SEARCHES: list[dict[str, Any]] = [
    {"num_beams": 3},
    {"num_beams": 4, "length_penalty": 0.2, "early_stopping": True},
    {"no_repeat_ngram_size": 2},
    {"repetition_penalty": 1.5},
    {"do_sample": True, "temperature": 0.7, "top_k": 5},
    {"num_beams": 1},
]


def scores_of(
    model: FastConformerForMultitask, encoded: Any, texts: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities and confidences of the tokens of texts, by teacher forcing."""
    tokens = torch.cat([torch.tensor([PROMPT] * len(texts)), texts], dim=1)
    logits = model(encoder_outputs=encoded, decoder_input_ids=tokens).logits[:, len(PROMPT) - 1 : -1]
    log_probs = logits.log_softmax(dim=-1)
    of_tokens = log_probs.gather(2, texts[..., None])[..., 0]
    return of_tokens, measure_confidence(log_probs, log_probs.shape[-1], ConfidenceOptions())


@torch.no_grad()
@pytest.mark.parametrize("search", SEARCHES)
def test_a_search_of_options_is_that_of_arguments(search: dict[str, Any]) -> None:
    model = build_multitask(beam_size=2)
    inputs = random_features(LENGTHS)
    encoded = model.encode(**inputs)
    given = {"num_beams": 1, **search}
    torch.manual_seed(1)
    expected = model.generate(**inputs, prompt_ids=PROMPT, **given)
    torch.manual_seed(1)
    options = DecodingOptions(search=SearchOptions(**given), confidence=ConfidenceOptions())
    found, _ = model.decode_frames(
        encoded.last_hidden_state,
        encoded.encoder_lengths,
        options,
        prompt_ids=PROMPT,
        padded_lengths=encoded.padded_lengths,
    )
    assert torch.equal(found.tokens, expected)
    log_probs, confidences = scores_of(model, encoded, found.tokens)
    is_token = torch.arange(found.tokens.shape[1]) < found.token_lengths[:, None]
    assert torch.equal(is_token, (found.tokens != model.config.pad_token_id))
    torch.testing.assert_close(found.log_probs[is_token], log_probs[is_token], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found.scores[is_token], confidences[is_token], atol=1e-4, rtol=1e-4)
    assert not found.scores[~is_token].any()
    torch.manual_seed(1)
    again = model.generate(**inputs, prompt_ids=PROMPT, decoding=DecodingOptions(search=SearchOptions(**given)))
    assert torch.equal(again, expected)


@torch.no_grad()
@pytest.mark.parametrize("method", ["entropy", "max_prob"])
def test_nemos_beams_have_confidences(method: str) -> None:
    model = build_multitask(1, beam_size=3)
    inputs = random_features(LENGTHS)
    options = ConfidenceOptions(method=method)
    output = model.generate(**inputs, prompt_ids=PROMPT, confidence=options, return_dict_in_generate=True)
    log_probs, confidences = scores_of(model, model.encode(**inputs), output.sequences)
    if method == "max_prob":
        size = float(model.config.vocab_size) ** options.alpha
        confidences = ((options.alpha * log_probs).exp() * size - 1) / (size - 1)
    assert int(output.sequence_lengths.sum()) > 5
    for row, count in enumerate(output.sequence_lengths.tolist()):
        torch.testing.assert_close(
            output.token_confidences[row, :count], confidences[row, :count], atol=1e-4, rtol=1e-4
        )


def test_contradictions_and_empty_batches_are_refused() -> None:
    model = build_multitask(beam_size=2)
    inputs = random_features(LENGTHS)
    decoding = DecodingOptions(search=SearchOptions(num_beams=3))
    with pytest.raises(ValueError, match="num_beams=2 contradicts decoding, which has 3"):
        model.generate(**inputs, prompt_ids=PROMPT, decoding=decoding, num_beams=2)
    encoded = model.encode(**inputs)
    lacking = DecodingOptions(search=SearchOptions(repetition_penalty=2.0))
    with pytest.raises(ValueError, match="num_beams=None is not supported; expected a number: this checkpoint"):
        model.decode_frames(encoded.last_hidden_state, encoded.encoder_lengths, lacking, prompt_ids=PROMPT)
    none = {"input_features": torch.zeros(0, 98, 16), "input_lengths": torch.zeros(0, dtype=torch.int64)}
    for call in (
        lambda: model.generate(**none, prompt_ids=PROMPT),
        lambda: model(**none, decoder_input_ids=torch.zeros(0, 3, dtype=torch.int64)),
        lambda: model.encode(**none),
        lambda: model.decode_frames(torch.zeros(0, 5, 24), torch.zeros(0, dtype=torch.int64), prompt_ids=PROMPT),
    ):
        with pytest.raises(ValueError, match="the number of clips=0 is not supported; expected 1 or more"):
            call()


def test_clips_without_frames_have_no_tokens() -> None:
    model = build_multitask()
    inputs = {"input_features": torch.zeros(2, 98, 16), "input_lengths": torch.tensor([0, 97])}
    output = model.generate(**inputs, prompt_ids=PROMPT, return_dict_in_generate=True)
    assert output.sequence_lengths.tolist()[0] == 0
    beams = model.generate(**inputs, prompt_ids=PROMPT, num_beams=2)
    assert set(beams[0].tolist()) <= {model.config.pad_token_id}
