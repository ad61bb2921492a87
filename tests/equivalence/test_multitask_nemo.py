"""Canary in NeMo and here, with perturbed random weights: frames, teacher forcing, and texts singly and in batches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from families import balance_decoder, canary_overrides
from nemo_models import ModelBuilder
from tolerances import FLOAT32_SHARE
from transformers import AutoModelForSpeechSeq2Seq

from transformers_fastconformer import convert_nemo_checkpoint

pytestmark = pytest.mark.nemo

SHAPES: dict[str, dict[str, Any]] = {
    "all parts": {},
    "norms after the sums": {"is_pre_norm": False},
    "as flash": {"has_projection": False, "num_frames_layers": 0, "prompt_format": "canary2"},
    "as v2": {"has_projection": False, "num_frames_layers": 0, "prompt_format": "canary2", "is_aggregate": False},
    "learned positions": {"has_learned_positions": True, "num_frames_layers": 0},
    "no last norm, gelu": {"has_final_norm": False, "activation": "gelu"},
}
LENGTHS = [301, 161, 96, 57]


@pytest.fixture(scope="module", params=list(SHAPES), ids=list(SHAPES))
def pair(request: Any, build_nemo_model: ModelBuilder, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """A model of NeMo and the folder that it was converted to."""
    folder = tmp_path_factory.mktemp("canary")
    nemo = build_nemo_model("ctc", **canary_overrides(**SHAPES[request.param]))
    balance_decoder(nemo)
    nemo.save_to(str(folder / "a.nemo"))
    convert_nemo_checkpoint(folder / "a.nemo", folder / "out")
    return nemo, folder / "out"


def features_of(lengths: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(len(lengths), 16, max(lengths) + 1, generator=generator), torch.tensor(lengths)


def share(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max())


@torch.inference_mode()
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_frames_and_log_probabilities(pair: tuple[Any, Path], attention: str) -> None:
    nemo, folder = pair
    nemo.eval()
    model = AutoModelForSpeechSeq2Seq.from_pretrained(folder, attn_implementation=attention).eval()
    features, lengths = features_of(LENGTHS)
    tokens = torch.randint(0, model.config.num_tokens, (4, 11), generator=torch.Generator().manual_seed(0))
    token_lengths = torch.tensor([11, 11, 7, 3])
    expected, frame_lengths, frames, _ = nemo.forward(
        processed_signal=features,
        processed_signal_length=lengths,
        transcript=tokens,
        transcript_length=token_lengths,
    )
    output = model(features.transpose(1, 2), input_lengths=lengths, decoder_input_ids=tokens)
    assert torch.equal(output.encoder_lengths, frame_lengths)
    log_probs = output.logits.log_softmax(dim=-1)
    for clip, (count, num_tokens) in enumerate(zip(frame_lengths.tolist(), token_lengths.tolist(), strict=True)):
        assert share(output.encoder_last_hidden_state[clip, :count], frames[clip, :count]) <= FLOAT32_SHARE
        assert share(log_probs[clip, :num_tokens], expected[clip, :num_tokens]) <= FLOAT32_SHARE


@torch.inference_mode()
@pytest.mark.parametrize("strategy", ["greedy", "beam"])
@pytest.mark.parametrize("delta", [-1, 3])
def test_texts_of_clips_and_of_a_batch(pair: tuple[Any, Path], strategy: str, delta: int) -> None:
    nemo, folder = pair
    from omegaconf import open_dict

    decoding = nemo.cfg.decoding
    with open_dict(decoding):
        decoding.strategy = strategy
        decoding[strategy].max_generation_delta = delta
    nemo.change_decoding_strategy(decoding)
    model = AutoModelForSpeechSeq2Seq.from_pretrained(folder).eval()
    model.config.decoding_strategy, model.config.max_generation_delta = strategy, delta
    features, lengths = features_of(LENGTHS)
    prompt = [model.config.bos_token_id, 20, 21, 22]
    expected = []
    for clip, length in enumerate(LENGTHS):
        nemo.eval()
        _, _, frames, mask = nemo.forward(
            processed_signal=features[clip : clip + 1, :, : length + 1],
            processed_signal_length=lengths[clip : clip + 1],
        )
        (hypothesis,) = nemo.decoding.decode_predictions_tensor(
            encoder_hidden_states=frames,
            encoder_input_mask=mask,
            decoder_input_ids=torch.tensor([prompt]),
            return_hypotheses=True,
        )
        expected.append(hypothesis.y_sequence.tolist())
    # NeMo 3.0 goes on after an end that comes first in its beam search; see `differences-from-nemo.md`.
    expected = [[] if tokens and tokens[0] == model.config.eos_token_id else tokens for tokens in expected]
    output = model.generate(
        features.transpose(1, 2), input_lengths=lengths, prompt_ids=prompt, return_dict_in_generate=True
    )
    found = [
        row[:count].tolist() for row, count in zip(output.sequences, output.sequence_lengths.tolist(), strict=True)
    ]
    assert found == expected
    assert len({token for tokens in found for token in tokens}) > 4
    by_transformers = model.generate(
        features.transpose(1, 2),
        input_lengths=lengths,
        prompt_ids=prompt,
        output_scores=True,
        return_dict_in_generate=True,
    )
    assert torch.equal(by_transformers.sequences, output.sequences)


@torch.inference_mode()
@pytest.mark.parametrize(("beam_size", "length_penalty"), [(2, 0.0), (4, 0.0), (3, 0.8)])
def test_beams(pair: tuple[Any, Path], beam_size: int, length_penalty: float) -> None:
    nemo, folder = pair
    from omegaconf import open_dict

    decoding = nemo.cfg.decoding
    with open_dict(decoding):
        decoding.strategy = "beam"
        decoding.beam.max_generation_delta = 5
        decoding.beam.beam_size, decoding.beam.length_penalty = beam_size, length_penalty
    nemo.change_decoding_strategy(decoding)
    model = AutoModelForSpeechSeq2Seq.from_pretrained(folder).eval()
    config = model.config
    config.decoding_strategy, config.max_generation_delta = "beam", 5
    config.beam_size, config.beam_length_penalty = beam_size, length_penalty
    features, lengths = features_of(LENGTHS)
    prompt = [config.bos_token_id, 20, 21, 22]
    expected = []
    for clip, length in enumerate(LENGTHS):
        nemo.eval()
        _, _, frames, mask = nemo.forward(
            processed_signal=features[clip : clip + 1, :, : length + 1],
            processed_signal_length=lengths[clip : clip + 1],
        )
        (hypothesis,) = nemo.decoding.decode_predictions_tensor(
            encoder_hidden_states=frames,
            encoder_input_mask=mask,
            decoder_input_ids=torch.tensor([prompt]),
            return_hypotheses=True,
        )
        expected.append(hypothesis.y_sequence.tolist())
    output = model.generate(
        features.transpose(1, 2), input_lengths=lengths, prompt_ids=prompt, return_dict_in_generate=True
    )
    found = [
        row[:count].tolist() for row, count in zip(output.sequences, output.sequence_lengths.tolist(), strict=True)
    ]
    assert found == expected
    greedy = model.generate(features.transpose(1, 2), input_lengths=lengths, prompt_ids=prompt, num_beams=1)
    assert not torch.equal(greedy, output.sequences)
