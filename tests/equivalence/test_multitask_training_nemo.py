"""Losses of Canary in NeMo's training step and here, from waveforms and transcripts."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from families import balance_decoder, canary_overrides
from nemo_models import ModelBuilder
from transformers import AutoModelForSpeechSeq2Seq, AutoProcessor

from transformers_fastconformer import convert_nemo_checkpoint

pytestmark = pytest.mark.nemo

TEXTS = ["the children walk to school", "one two three", "speech is turned into features, features into text."]


@pytest.mark.parametrize("masks_prompt", [True, False])
@pytest.mark.parametrize("shape", [{}, {"prompt_format": "canary2", "is_aggregate": False}], ids=["canary", "v2"])
def test_losses_are_those_of_nemos_training_step(
    build_nemo_model: ModelBuilder, tmp_path: Path, masks_prompt: bool, shape: dict[str, Any]
) -> None:
    from nemo.collections.asr.data.audio_to_text_lhotse_prompted import PromptedAudioToTextMiniBatch
    from omegaconf import open_dict

    nemo = build_nemo_model("ctc", **canary_overrides(**shape))
    balance_decoder(nemo)
    with open_dict(nemo.cfg):
        nemo.cfg.use_loss_mask_for_prompt = masks_prompt
        nemo.cfg.loss.label_smoothing = 0.1
    nemo.loss.label_smoothing = nemo.loss._label_smoothing = 0.1
    nemo.save_to(str(tmp_path / "a.nemo"))
    convert_nemo_checkpoint(tmp_path / "a.nemo", tmp_path / "out")
    rng = np.random.default_rng(0)
    waveforms = [rng.normal(0, 0.1, count).astype(np.float32) for count in (32000, 24000, 16000)]

    # NeMo: the tokens of its own prompts, collated as its data set does.
    slots = {"source_lang": "en", "target_lang": "en", "pnc": "yes"}
    if nemo.prompt_format == "canary":
        slots["task"] = "asr"
    else:
        slots |= {
            "decodercontext": "",
            "emotion": "<|emo:undefined|>",
            "itn": "no",
            "timestamp": "no",
            "diarize": "no",
        }
    rows = [
        nemo.prompt.encode_dialog(
            [
                {"role": "user", "slots": slots},
                {"role": "assistant", "slots": {"text": text, nemo.prompt.PROMPT_LANGUAGE_SLOT: "en"}},
            ]
        )
        for text in TEXTS
    ]

    def collate(name: str) -> tuple[torch.Tensor, torch.Tensor]:
        tokens = [row[name] for row in rows]
        lengths = torch.tensor([len(item) for item in tokens])
        padding = nemo.tokenizer.pad_id
        return torch.nn.utils.rnn.pad_sequence(tokens, batch_first=True, padding_value=padding), lengths

    audio = torch.nn.utils.rnn.pad_sequence([torch.tensor(waveform) for waveform in waveforms], batch_first=True)
    batch = PromptedAudioToTextMiniBatch(
        audio, torch.tensor(list(map(len, waveforms))), *collate("answer_ids"), *collate("context_ids"),
        *collate("input_ids"),
    )  # fmt: skip
    nemo.eval()
    nemo._optimizer = torch.optim.SGD(nemo.parameters(), lr=0.1)
    nemo._trainer = SimpleNamespace(log_every_n_steps=1000, barebones=True)
    expected = nemo.training_step(batch, 0)["loss"]

    processor = AutoProcessor.from_pretrained(tmp_path / "out")
    assert processor.learns_prompt is not masks_prompt
    model = AutoModelForSpeechSeq2Seq.from_pretrained(tmp_path / "out").eval()
    inputs = processor(waveforms, text=TEXTS, sampling_rate=16000, source_lang="en", target_lang="en")
    found = model(**inputs).loss
    assert torch.allclose(found, expected, rtol=1e-5)
    # Without the mask the prompt counts: another loss, so that the test can fail.
    processor.learns_prompt = masks_prompt
    assert not torch.allclose(model(**processor(waveforms, text=TEXTS, sampling_rate=16000)).loss, expected, rtol=1e-3)
    found.backward()
    nemo.zero_grad()
    expected.backward()
    theirs = nemo.transf_decoder.decoder.layers[0].first_sub_layer.query_net.weight.grad
    assert torch.allclose(model.decoder.layers[0].self_attn.q_proj.weight.grad, theirs, rtol=1e-4, atol=1e-7)
