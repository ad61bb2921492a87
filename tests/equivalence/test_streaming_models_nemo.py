"""
Tokens of live streams next to NeMo's `conformer_stream_step`, chunk by chunk: every head, on real speech.

NeMo runs each stream alone, from its own `CacheAwareStreamingAudioBuffer`; ours are streams of one batch. The mel
frames are those of NeMo's buffer, which counts the masked frame after the last one.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from balance import balance_classes
from families import PROMPTS, STREAMING, event_tokenizer, tagged_tokenizer
from nemo_streams import cut_chunks, run_streams

from transformers_fastconformer import (
    FastConformerForCTC,
    FastConformerForRNNT,
    FastConformerForTDT,
    StreamingSchedule,
    share_as_ctc,
)

pytestmark = pytest.mark.nemo

CONTEXTS = [[14, 6], [14, 1], [14, 0]]
STREAM: dict[str, Any] = {
    "preprocessor": {"normalize": "NA", "features": 80},
    "encoder": {**STREAMING, "att_context_size": CONTEXTS},
}
PROMPT = "de-DE"
# kind, overrides of NeMo's configuration, our class
MODELS: dict[str, tuple[str, dict[str, Any], Any]] = {
    "ctc": ("ctc", STREAM, FastConformerForCTC),
    "rnnt": ("rnnt", STREAM, FastConformerForRNNT),
    "tdt": ("tdt", STREAM, FastConformerForTDT),
    "hybrid rnnt-ctc": ("hybrid_rnnt_ctc", STREAM, FastConformerForRNNT),
    "hybrid tdt-ctc": ("hybrid_tdt_ctc", STREAM, FastConformerForTDT),
    "end of utterance": (
        "rnnt",
        {**STREAM, "nemo_class": "EncDecRNNTBPEEOUModel", "tokenizer": event_tokenizer},
        FastConformerForRNNT,
    ),
    "language prompts": (
        "rnnt",
        {**STREAM, **PROMPTS, "nemo_class": "EncDecRNNTBPEModelWithPrompt", "tokenizer": tagged_tokenizer},
        FastConformerForRNNT,
    ),
}
MAX_SECONDS = 5


@pytest.fixture(scope="module")
def waveforms(speech_batches: dict[str, list[np.ndarray]]) -> list[np.ndarray]:
    """Three real clips of different lengths, silence, and one shorter than a chunk."""
    clips = [clips[0] for clips in speech_batches.values() if len(clips) == 1][:3]
    clips = [clip[: 16000 * (MAX_SECONDS - index)] for index, clip in enumerate(clips)]
    return [*clips, np.zeros(20000, dtype=np.float32), clips[0][:3000]]


def _collapse(classes: list[int], blank: int) -> list[int]:
    kept = [token for token, before in zip(classes, [blank, *classes[:-1]], strict=True) if token != before]
    return [token for token in kept if token != blank]


@torch.no_grad()
def run_nemo(model: Any, waveform: np.ndarray, head: str) -> tuple[torch.Tensor, list[list[int]]]:
    """The mel frames of a stream in NeMo's buffer, (frames, mels), and all tokens found after each chunk."""
    from nemo.collections.asr.parts.utils.streaming_utils import CacheAwareStreamingAudioBuffer

    buffer = CacheAwareStreamingAudioBuffer(model=model, online_normalization=False)
    buffer.append_audio(waveform, stream_id=-1)
    state = model.encoder.get_initial_cache_state(batch_size=1)
    names = ("cache_last_channel", "cache_last_time", "cache_last_channel_len")
    classes, hypotheses, tokens = None, None, []
    for arguments in cut_chunks(buffer):
        classes, texts, *state, hypotheses = model.conformer_stream_step(
            **arguments,
            **dict(zip(names, state, strict=True)),
            previous_hypotheses=hypotheses,
            previous_pred_out=classes,
            return_transcription=True,
        )
        found = classes[0].tolist() if head == "ctc" else list(map(int, texts[0].y_sequence))
        tokens.append(_collapse(found, len(model.tokenizer.vocab)) if head == "ctc" else found)
    return buffer.buffer[0].T, tokens


def run_ours(
    model: Any, clips: list[torch.Tensor], schedule: StreamingSchedule, **options: Any
) -> list[list[list[int]]]:
    """All tokens of each stream found after each of its chunks."""
    state: Any = None
    tokens: list[list[int]] = [[] for _ in clips]
    after: list[list[list[int]]] = [[] for _ in clips]
    for frames, lengths in run_streams(model, clips, schedule, **options):
        hypotheses, state = model.decode_frames(frames, lengths, state=state)
        for row, length in enumerate(hypotheses.token_lengths.tolist()):
            tokens[row] = tokens[row] + hypotheses.tokens[row, :length].tolist()
            if lengths[row] > 0:
                after[row].append(tokens[row])
    return after


@pytest.mark.parametrize("name", MODELS)
def test_tokens_are_those_of_nemo(
    name: str, build_nemo_model: Callable[..., Any], waveforms: list[np.ndarray], tmp_path: Path
):
    kind, overrides, model_class = MODELS[name]
    nemo = build_nemo_model(kind, **overrides)
    is_prompted = "PromptModel" in type(nemo).__name__ or "WithPrompt" in type(nemo).__name__
    balance_classes(nemo, waveforms[0], 3 if is_prompted else None)
    nemo.save_to(str(tmp_path / "model.nemo"))
    ours = model_class.from_pretrained(str(tmp_path / "model.nemo")).eval()
    options: dict[str, Any] = {}
    if hasattr(nemo, "decoding"):
        # The class of end-of-utterance models asks for times, with which NeMo 3.0 cannot join two chunks' hypotheses.
        nemo.decoding.compute_timestamps = False
    if is_prompted:
        nemo.set_inference_prompt(PROMPT)
        options["language"] = PROMPT
    heads = ["ctc"] if kind == "ctc" else ["transducer", "ctc"] if kind.startswith("hybrid") else ["transducer"]
    num_tokens = 0
    for head in heads:
        if kind.startswith("hybrid"):
            nemo.change_decoding_strategy(decoder_type="ctc" if head == "ctc" else "rnnt")
        decoder = share_as_ctc(ours) if head == "ctc" and kind != "ctc" else ours
        for context in CONTEXTS:
            nemo.encoder.set_default_att_context_size(context)
            expected = [run_nemo(nemo, waveform, head) for waveform in waveforms]
            schedule = StreamingSchedule.of(ours.config, context)
            found = run_ours(decoder, [features for features, _ in expected], schedule, **options)
            assert found == [tokens for _, tokens in expected], (head, context)
            num_tokens += sum(len(tokens[-1]) for _, tokens in expected)
    print(f"\n{name}: {num_tokens} tokens")
    assert num_tokens > 50
