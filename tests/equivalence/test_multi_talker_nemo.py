"""
A multi-talker model that follows speakers, next to NeMo's `EncDecMultiTalkerRNNTBPEModel` with the same targets: whole
clips in one batch, and live streams chunk by chunk.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from balance import balance_classes
from families import STREAMING
from nemo_streams import cut_chunks, make_buffer, run_streams

from transformers_fastconformer import (
    EngineOptions,
    FastConformerForRNNT,
    StreamingEngine,
    StreamingSchedule,
    StreamOptions,
    export_nemo,
    follow_speaker,
    load_model,
)
from transformers_fastconformer.nemo.convert import convert_nemo_checkpoint

pytestmark = pytest.mark.nemo

CONTEXTS = [[14, 6], [14, 1], [14, 0]]
# Layers with kernels, and whether others have theirs.
KERNELS = {"before the first block": ([0], True), "only the speaker": ([0, 1], False), "after blocks": ([1, 2], True)}
NUM_FRAMES = 5


@pytest.fixture(scope="module")
def waveforms(speech_batches: dict[str, list[np.ndarray]]) -> list[np.ndarray]:
    clips = [clips[0] for clips in speech_batches.values() if len(clips) == 1][:2]
    return [clips[0][:64000], clips[1][:40000], clips[0][16000:80000]]


def build(name: str, build_nemo_model: Callable[..., Any], waveform: np.ndarray, folder: Path) -> tuple[Any, Any]:
    """NeMo's model, and ours of its archive."""
    layers, has_background = KERNELS[name]
    nemo = build_nemo_model(
        "rnnt",
        nemo_class="EncDecMultiTalkerRNNTBPEModel",
        preprocessor={"normalize": "NA", "features": 80},
        encoder={**STREAMING, "att_context_size": CONTEXTS},
        sections={"spk_kernel_type": "ff", "spk_kernel_layers": layers, "add_bg_spk_kernel": has_background},
    )
    balance_classes(nemo, waveform, None)
    nemo.save_to(str(folder / "model.nemo"))
    convert_nemo_checkpoint(folder / "model.nemo", folder / "converted")
    return nemo, FastConformerForRNNT.from_pretrained(folder / "converted").eval()


def draw_probabilities(num_clips: int, num_frames: int, num_speakers: int = 3) -> torch.Tensor:
    """(clips, frames, speakers): speakers who go on for a while."""
    generator = torch.Generator().manual_seed(3)
    drawn = torch.rand(num_clips, num_frames // NUM_FRAMES + 1, num_speakers, generator=generator)
    return drawn.repeat_interleave(NUM_FRAMES, dim=1)[:, :num_frames]


def set_targets(nemo: Any, activities: torch.Tensor) -> None:
    nemo.set_speaker_targets(activities[..., 0], activities[..., 1])


@pytest.mark.parametrize("name", KERNELS)
@torch.no_grad()
def test_a_batch_of_followed_speakers(
    name: str, build_nemo_model: Callable[..., Any], waveforms: list[np.ndarray], tmp_path: Path
) -> None:
    nemo, ours = build(name, build_nemo_model, waveforms[0], tmp_path)
    lengths = torch.tensor([len(waveform) for waveform in waveforms])
    batch = torch.nn.utils.rnn.pad_sequence([torch.from_numpy(one) for one in waveforms], batch_first=True)
    nemo.preprocessor.featurizer.dither, nemo.preprocessor.featurizer.pad_to = 0.0, 0
    features, mel_lengths = nemo.preprocessor(input_signal=batch, length=lengths)
    # Every speaker of every clip, in one batch.
    num_rows = ours.config.subsampling.count_rows(features.shape[2])
    probabilities = draw_probabilities(len(waveforms), num_rows)
    clips = torch.arange(len(waveforms)).repeat_interleave(3)
    activities = torch.stack(
        [follow_speaker(one, speaker) for one in probabilities for speaker in range(probabilities.shape[2])]
    )
    set_targets(nemo, activities)
    expected, frame_lengths = nemo.encoder(audio_signal=features[clips], length=mel_lengths[clips])
    everybody = ours.encode(features.transpose(1, 2)[clips], input_lengths=mel_lengths[clips]).last_hidden_state
    found = ours.encode(
        features.transpose(1, 2)[clips], input_lengths=mel_lengths[clips], speaker_activities=activities
    )
    assert found.encoder_lengths.tolist() == frame_lengths.tolist()
    scale = float(expected.abs().max())
    for row, length in enumerate(frame_lengths.tolist()):
        difference = found.last_hidden_state[row, :length] - expected[row, :, :length].T
        assert float(difference.abs().max()) <= 5e-6 * scale
        assert float((everybody[row, :length] - expected[row, :, :length].T).abs().max()) > 1e-3 * scale
    hypotheses = nemo.decoding.rnnt_decoder_predictions_tensor(expected, frame_lengths, return_hypotheses=True)
    tokens = ours.generate(
        features.transpose(1, 2)[clips],
        input_lengths=mel_lengths[clips],
        speaker_activities=activities,
        return_dict_in_generate=True,
    )
    texts = [list(map(int, hypothesis.y_sequence)) for hypothesis in hypotheses]
    rows = zip(tokens.sequences, tokens.sequence_lengths, strict=True)
    assert [row[:count].tolist() for row, count in rows] == texts
    assert len({tuple(text) for text in texts}) > 3  # speakers say other things

    export_nemo(tmp_path / "converted", tmp_path / "back.nemo")
    convert_nemo_checkpoint(tmp_path / "back.nemo", tmp_path / "again")
    again = FastConformerForRNNT.from_pretrained(tmp_path / "again").state_dict()
    assert all(torch.equal(tensor, again[key]) for key, tensor in ours.state_dict().items())


class Following:
    """A model whose streams each follow a speaker, (streams, frames, 2)."""

    def __init__(self, model: Any, activities: torch.Tensor) -> None:
        self.model, self.activities = model, activities
        self.config, self.dtype, self.device = model.config, model.dtype, model.device

    def encode(self, features: torch.Tensor, cache: Any, **arguments: Any) -> Any:
        size = cache.schedule.chunk_frames
        starts = [counts.encoder_frames for counts in cache.counts]
        told = torch.stack([self.activities[row, start : start + size] for row, start in enumerate(starts)])
        return self.model.encode(features, cache=cache, speaker_activities=told, **arguments)


@pytest.mark.parametrize("context", CONTEXTS, ids=str)
@pytest.mark.parametrize("name", KERNELS)
@torch.no_grad()
def test_streams_of_followed_speakers(
    name: str, context: list[int], build_nemo_model: Callable[..., Any], waveforms: list[np.ndarray], tmp_path: Path
) -> None:
    nemo, ours = build(name, build_nemo_model, waveforms[0], tmp_path)
    nemo.encoder.set_default_att_context_size(context)
    nemo.decoding.compute_timestamps = False
    nemo.preprocessor.featurizer.dither, nemo.preprocessor.featurizer.pad_to = 0.0, 0
    clips = []
    for waveform in waveforms:
        features, length = nemo.preprocessor(
            input_signal=torch.from_numpy(waveform)[None], length=torch.tensor([len(waveform)])
        )
        clips.append(features[0, :, : int(length)].T)
    schedule = StreamingSchedule.of(ours.config, context)
    probabilities = draw_probabilities(len(clips), 200)
    activities = torch.stack([follow_speaker(one, row % 3) for row, one in enumerate(probabilities)])

    state: Any = None
    found: list[list[torch.Tensor]] = [[] for _ in clips]
    tokens: list[list[int]] = [[] for _ in clips]
    after: list[list[list[int]]] = [[] for _ in clips]
    for frames, lengths in run_streams(Following(ours, activities), clips, schedule):
        hypotheses, state = ours.decode_frames(frames, lengths, state=state)
        for row, length in enumerate(lengths.tolist()):
            tokens[row] = tokens[row] + hypotheses.tokens[row, : int(hypotheses.token_lengths[row])].tolist()
            if length:
                found[row].append(frames[row, :length])
                after[row].append(tokens[row])

    steps: list[torch.Tensor] = []
    step_encoder = nemo.encoder.cache_aware_stream_step

    def note(**arguments: Any) -> Any:
        output = step_encoder(**arguments)
        steps.append(output[0])
        return output

    nemo.encoder.cache_aware_stream_step = note
    num_tokens = 0
    for row, clip in enumerate(clips):
        caches = nemo.encoder.get_initial_cache_state(batch_size=1)
        names = ("cache_last_channel", "cache_last_time", "cache_last_channel_len")
        previous, hypotheses, start = None, None, 0
        for step, arguments in enumerate(cut_chunks(make_buffer(nemo, [clip]))):
            size = len(found[row][step])
            set_targets(nemo, activities[row : row + 1, start : start + size])
            previous, texts, *caches, hypotheses = nemo.conformer_stream_step(
                **arguments,
                **dict(zip(names, caches, strict=True)),
                previous_hypotheses=hypotheses,
                previous_pred_out=previous,
                return_transcription=True,
            )
            start += size
            expected = steps.pop()[0].T
            difference = found[row][step] - expected[:size]
            assert float(difference.abs().max()) <= 5e-6 * float(expected.abs().max())
            assert after[row][step] == list(map(int, texts[0].y_sequence)), (row, step)
        assert step + 1 == len(after[row])
        num_tokens += len(after[row][-1])
    assert num_tokens > 10


@torch.no_grad()
def test_streams_of_an_engine(
    build_nemo_model: Callable[..., Any], waveforms: list[np.ndarray], tmp_path: Path
) -> None:
    from nemo.collections.asr.parts.utils.streaming_utils import CacheAwareStreamingAudioBuffer

    nemo, _ = build("before the first block", build_nemo_model, waveforms[0], tmp_path)
    nemo.encoder.set_default_att_context_size([14, 1])
    nemo.decoding.compute_timestamps = False
    engine = StreamingEngine(*load_model(tmp_path / "converted"), EngineOptions(attention_context=[14, 1]))
    probabilities = draw_probabilities(1, 200)[0]
    streams = {speaker: engine.open(StreamOptions(follows_speaker=True)) for speaker in range(3)}
    said = dict.fromkeys(streams, "")
    # What is said comes before it is known who speaks.
    for start in range(0, 40000, 3000):
        samples = waveforms[0][start : min(start + 3000, 40000)]
        updates = engine.step(dict.fromkeys(streams.values(), samples))
        for speaker, stream in streams.items():
            said[speaker] += updates[stream].committed
            engine.follow(stream, follow_speaker(probabilities, speaker)[start // 1280 : (start + 3000) // 1280])
    for speaker, stream in streams.items():
        engine.follow(stream, follow_speaker(probabilities, speaker)[(start + 3000) // 1280 :])
        said[speaker] += engine.finish(stream).committed
    for speaker in streams:
        buffer = CacheAwareStreamingAudioBuffer(model=nemo, online_normalization=False)
        buffer.append_audio(waveforms[0][:40000], stream_id=-1)
        caches = nemo.encoder.get_initial_cache_state(batch_size=1)
        names = ("cache_last_channel", "cache_last_time", "cache_last_channel_len")
        previous, hypotheses = None, None
        for step, arguments in enumerate(cut_chunks(buffer)):
            set_targets(nemo, follow_speaker(probabilities, speaker)[None, 2 * step : 2 * step + 2])
            previous, texts, *caches, hypotheses = nemo.conformer_stream_step(
                **arguments,
                **dict(zip(names, caches, strict=True)),
                previous_hypotheses=hypotheses,
                previous_pred_out=previous,
                return_transcription=True,
            )
        assert said[speaker].strip() == nemo.tokenizer.ids_to_text(texts[0].y_sequence.tolist()).strip()
    assert len(set(said.values())) == 3
