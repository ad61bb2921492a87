"""A streaming Sortformer next to NeMo's: probabilities of every chunk, and the frames that its cache keeps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from families import SORTFORMER_SECTIONS

from transformers_fastconformer import FastConformerForDiarization
from transformers_fastconformer.diarization.speaker_stream import SpeakerStreams
from transformers_fastconformer.diarization.turns import SpeakerTurnOptions, find_turns
from transformers_fastconformer.nemo.convert import convert_nemo_checkpoint

pytestmark = pytest.mark.nemo

# (chunk, left, right, queue, update, cache), speakers
CASES = {
    "queue": ((6, 1, 2, 10, 8, 24), 4),
    "no queue": ((5, 1, 1, 0, 5, 20), 4),
    "one speaker": ((4, 0, 0, 6, 9, 12), 1),
    "two speakers": ((7, 2, 3, 3, 2, 16), 2),
    "three speakers": ((6, 1, 2, 10, 30, 24), 3),
    "eight speakers": ((6, 1, 7, 12, 9, 48), 8),
}
TOLERANCE = 5e-6


def build(builder: Callable[..., Any], numbers: tuple[int, ...], num_speakers: int) -> Any:
    chunk, left, right, queue, update, cache = numbers
    sections = {
        **SORTFORMER_SECTIONS,
        "max_num_of_spks": num_speakers,
        "sortformer_modules": {
            **SORTFORMER_SECTIONS["sortformer_modules"],
            "num_spks": num_speakers,
            "chunk_len": chunk,
            "chunk_left_context": left,
            "chunk_right_context": right,
            "fifo_len": queue,
            "spkcache_update_period": update,
            "spkcache_len": cache,
            "spkcache_sil_frames_per_spk": 2,
        },
        "streaming_mode": True,
    }
    return builder(
        "ctc",
        nemo_class="SortformerEncLabelModel",
        tokenizer="char",
        without=("decoder", "labels"),
        preprocessor={"features": 128, "normalize": "NA"},
        encoder={"d_model": 32, "xscaling": True},
        sections=sections,
    )


def speak(model: Any, features: torch.Tensor) -> None:
    """Let each speaker speak in about a third of the frames: the head's biases move."""
    with torch.no_grad():
        encoded, lengths = model.frontend_encoder(features[None].transpose(1, 2), torch.tensor([len(features)]))
        probabilities = model.forward_infer(encoded, lengths)[0].double()
        logits = probabilities.clamp(1e-9, 1 - 1e-9).logit()
        head = model.sortformer_modules.single_hidden_to_spks
        scale = 3.0 / logits.std(dim=0)
        head.weight.mul_(scale[:, None].float())
        head.bias.copy_(((head.bias.double() - logits.quantile(0.65, dim=0)) * scale).float())


@pytest.mark.parametrize("case", CASES)
def test_every_chunk_is_nemos(
    case: str, build_nemo_model: Callable[..., Any], tmp_path: Path, monkeypatch: Any
) -> None:
    numbers, num_speakers = CASES[case]
    model = build(build_nemo_model, numbers, num_speakers).eval()
    generator = torch.Generator().manual_seed(5)
    # Stretches of other sounds, so that speakers change.
    steps = torch.randn(90, 128, generator=generator).repeat_interleave(61, dim=0)[:5003]
    features = steps + 0.5 * torch.randn(5003, 128, generator=generator)
    speak(model, features)
    archive, folder = tmp_path / "model.nemo", tmp_path / "out"
    model.save_to(str(archive))
    convert_nemo_checkpoint(archive, folder)
    ours = FastConformerForDiarization.from_pretrained(folder).eval()
    assert (ours.config.num_speakers, ours.config.is_streaming) == (num_speakers, True)

    modules, kept = model.sortformer_modules, []
    choose = modules._get_topk_indices

    def note(scores: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        places, is_silence = choose(scores)
        kept.append(torch.where(is_silence, -1, places)[0])
        return places, is_silence

    monkeypatch.setattr(modules, "_get_topk_indices", note)
    with torch.no_grad():
        expected = model.forward_streaming(features.T[None], torch.tensor([len(features)]))[0]

    streams = SpeakerStreams(ours)
    found, choices = [], []
    # In pieces of any length, next to another recording that begins later.
    pieces = features.split([1, 700, 3, 999, 1300, 2000])
    for number, piece in enumerate(pieces):
        is_last = number == len(pieces) - 1
        together = {0: piece} | ({1: features[: 300 + number]} if number == 2 else {})
        for start in range(0, len(piece), 8):
            part = {0: piece[start : start + 8]} | ({1: together[1]} if start == 0 and 1 in together else {})
            end = is_last and start + 8 >= len(piece)
            found.append(streams.push(part, {0: end})[0])
            state = None if end else streams.state_of(0).kept_frames
            if state is not None and (not choices or state is not choices[-1]):
                choices.append(state)
    result = torch.cat(found)
    assert result.shape == expected.shape
    assert float((result - expected).abs().max()) <= TOLERANCE
    assert len(kept) >= 40
    assert 0 <= len(kept) - len(choices) <= 3  # the last ones came with the end
    assert all(torch.equal(one, other) for one, other in zip(choices, kept, strict=False))
    heard = (expected > 0.5).float().mean(dim=0)
    assert bool(((heard > 0.02) & (heard < 0.98)).any())


@pytest.mark.parametrize("name", ["dihard3", "callhome", "v1-dihard3", "v1-callhome", "plain", "short"])
def test_turns_are_nemos(name: str) -> None:
    from nemo.collections.asr.parts.utils.vad_utils import ts_vad_post_processing
    from omegaconf import OmegaConf

    options = {
        "plain": SpeakerTurnOptions(),
        "short": SpeakerTurnOptions(0.6, 0.4, min_speech_seconds=0.2, min_silence_seconds=0.3),
    }.get(name) or SpeakerTurnOptions.named(name)
    generator = torch.Generator().manual_seed(3)
    smooth = torch.nn.functional.avg_pool1d(torch.randn(1, 2, 406, generator=generator), 7, 1)[0].T
    probabilities = torch.sigmoid(4 * smooth)  # (400, 2)
    # NeMo 3.0 mixes up stretches whose padding begins before the recording.
    probabilities[:2] = 0.0
    turns = find_turns(probabilities.numpy(), 0.08, 400 * 0.08, options)
    parameters = OmegaConf.create(
        {
            "onset": options.onset,
            "offset": options.offset,
            "pad_onset": options.pad_onset_seconds,
            "pad_offset": options.pad_offset_seconds,
            "min_duration_on": options.min_speech_seconds,
            "min_duration_off": options.min_silence_seconds,
        }
    )
    for speaker in range(2):
        segments = ts_vad_post_processing(probabilities[:, speaker], parameters, unit_10ms_frame_count=8)
        expected = sorted(map(tuple, segments.tolist()))
        own = [(turn.start, turn.end) for turn in turns if turn.speaker == speaker]
        assert len(own) == len(expected) > 5
        for one, other in zip(own, expected, strict=True):
            assert one[0] == pytest.approx(other[0], abs=1e-4)
            # NeMo 3.0 ends a turn that lasts to the end of the recording 10 ms before it, or beyond it.
            assert one[1] == pytest.approx(min(other[1], 32.0), abs=0.0101 if one[1] > 31.9 else 1e-4)
