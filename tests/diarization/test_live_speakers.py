"""Speakers of live words: those of the whole recording, as soon as they are known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diarizers import build_diarizer, make_extractor

from transformers_fastconformer import (
    DiarizationOptions,
    LiveSpeakers,
    StreamUpdate,
    StreamWord,
    assign_speakers,
    diarize,
)
from transformers_fastconformer.diarization.attribution import name_speaker

RATE = 16000


@pytest.fixture(scope="module")
def diarizer():
    model, extractor = build_diarizer(), make_extractor()
    features = extractor(make_samples(33.0), sampling_rate=RATE, return_tensors="pt")["input_features"]
    with torch.no_grad():  # each speaker speaks in about a third of the frames
        logits = model(features).logits[0]
        head, scale = model.speaker_head.out_proj, 3.0 / logits.std(dim=0)
        head.weight.mul_(scale[:, None])
        head.bias.copy_((head.bias - logits.quantile(0.65, dim=0)) * scale)
    return model, extractor


def make_samples(seconds: float, seed: int = 0) -> np.ndarray:
    generator = torch.Generator().manual_seed(seed)
    loudness = torch.rand(int(seconds * 2) + 1, generator=generator).repeat_interleave(RATE // 2)
    samples = torch.randn(int(seconds * RATE), generator=generator) * 0.2
    return (samples * loudness[: len(samples)]).clamp(-1, 1).numpy()


def make_word(number: int) -> StreamWord:
    start = 0.3137 * number
    return StreamWord(f"word{number}", 0, 1, start, start + 0.2413)


@pytest.mark.parametrize("piece_seconds", [0.1, 0.73, 40.0])
def test_speakers_are_those_of_the_whole_recording(diarizer, piece_seconds: float) -> None:
    samples = make_samples(33.0)
    expected = diarize(samples, diarizer)
    words = [make_word(number) for number in range(104)]
    live = LiveSpeakers(diarizer)
    live.open(7)
    found, size, told = [], round(piece_seconds * RATE), 0
    for start in range(0, len(samples), size):
        end = start + size
        # The text is ahead of the speakers, as it is with a short latency.
        ready = sum(word.end * RATE <= end for word in words)
        update = StreamUpdate(words=words[told:ready], is_final=end >= len(samples))
        told = ready
        found += live.step({7: samples[start:end]}, {7: update})[7]
        if not update.is_final:
            assert all(word.end * RATE <= end for word, _ in found)
    assert [word for word, _ in found] == words
    assert live.turns(7) == expected.turns
    assert len({turn.speaker for turn in expected.turns}) > 1
    whole = assign_speakers([{"start": word.start, "end": word.end} for word in words], expected.turns)
    same = [speaker == name_speaker(one) for (_, speaker), one in zip(found, whole, strict=True)]
    # A word in a gap may belong to a turn that begins later than anybody waits for.
    assert sum(same) >= 0.95 * len(words)
    live.close(7)
    live.open(7)
    live.close(7)


def test_streams_do_not_disturb_one_another(diarizer) -> None:
    one, other = make_samples(9.0, 1), make_samples(6.0, 2)
    live = LiveSpeakers(diarizer, DiarizationOptions(turns="callhome"))
    live.open(1)
    live.open(2)
    nothing = StreamUpdate()
    for second in range(9):
        piece = slice(second * RATE, (second + 1) * RATE)
        samples = {1: one[piece]} | ({2: other[piece]} if second < 6 else {})
        broken = StreamUpdate(error=ValueError("not samples"))
        live.step({2: np.full(5, np.nan)}, {2: broken}) if second == 3 else None
        live.step(samples, dict.fromkeys(samples, nothing))
    for number, samples in ((1, one), (2, other)):
        live.step({}, {number: StreamUpdate(is_final=True)})
        assert live.turns(number) == diarize(samples, diarizer, DiarizationOptions(turns="callhome")).turns


def test_empty_streams_and_what_is_refused(diarizer) -> None:
    live = LiveSpeakers(diarizer)
    live.open(0)
    words = [make_word(0)]
    assert live.step({}, {0: StreamUpdate(words=words, is_final=True)}) == {0: [(words[0], None)]}
    assert live.turns(0) == []
    with pytest.raises(ValueError, match="has ended"):
        live.step({}, {0: StreamUpdate()})
    with pytest.raises(ValueError, match="is open"):
        live.open(0)
    with pytest.raises(ValueError, match=r"stream_id=5 is not open; expected one of \[0\]"):
        live.turns(5)
    with pytest.raises(ValueError, match="is_streaming=False"):
        LiveSpeakers((build_diarizer(is_streaming=False), make_extractor()))
    with pytest.raises(ValueError, match="normalize='per_feature'"):
        LiveSpeakers((build_diarizer(), make_extractor(normalize="per_feature")))
    with pytest.raises(ValueError, match="is_whole=True"):
        LiveSpeakers(diarizer, DiarizationOptions(is_whole=True))
