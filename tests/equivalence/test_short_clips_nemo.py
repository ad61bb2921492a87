"""Clips around the boundaries of the first frames, through the whole chain, beside NeMo on the demonstration model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from transformers_fastconformer import FastConformerProcessor, ParakeetTDTForCTC, ParakeetTDTForTDT
from transformers_fastconformer.audio.files import read_audio
from transformers_fastconformer.demonstration import CHECKPOINT_PATH, CLIP_PATHS
from transformers_fastconformer.nemo.convert import convert_nemo_checkpoint
from transformers_fastconformer.nemo.converted_runner import ConvertedRunner
from transformers_fastconformer.nemo.reference import NemoRunner
from transformers_fastconformer.nemo.stage_comparison import compare_outputs

pytestmark = pytest.mark.nemo

HOP_SAMPLES = 160
NUM_SAMPLES = (1, 159, 160, 161, 319, 400)
TEXTS = ["three one four one five nine", "two seven one eight zero six"]
HEADS = {"tdt": ParakeetTDTForTDT, "ctc": ParakeetTDTForCTC}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("nemo.collections.asr", reason="needs NeMo")
    path = tmp_path_factory.mktemp("short-clips") / "converted"
    convert_nemo_checkpoint(CHECKPOINT_PATH, path)
    return path


@pytest.fixture(scope="module")
def nemo(folder: Path) -> NemoRunner:
    return NemoRunner(CHECKPOINT_PATH)


@pytest.fixture(scope="module", params=["sdpa", "eager"])
def converted(folder: Path, request: pytest.FixtureRequest) -> ConvertedRunner:
    return ConvertedRunner(folder, attn_implementation=request.param)


@pytest.fixture(scope="module")
def speech() -> list[np.ndarray]:
    return [read_audio(path) for path in CLIP_PATHS]


def cut(waveform: np.ndarray, num_samples: int) -> np.ndarray:
    """From the loudest sample on."""
    start = min(int(np.abs(waveform).argmax()), len(waveform) - num_samples)
    return waveform[start : start + num_samples]


@pytest.mark.parametrize("num_samples", NUM_SAMPLES)
def test_short_clips_equal_nemo_alone_and_among_longer_ones(
    num_samples: int, nemo: NemoRunner, converted: ConvertedRunner, speech: list[np.ndarray]
) -> None:
    short = cut(speech[0], num_samples)
    mel_frames = num_samples // HOP_SAMPLES
    for name, clips in {
        "alone": [short],
        "twice": [short, short],
        "between longer ones": [speech[0], short, speech[1]],
    }.items():
        reference = nemo.run(name, clips)
        ours = converted.run(name, clips, reference.joint_targets)
        rows = compare_outputs([reference], [ours])
        failures = [row for row in rows if not row.passed]
        assert not failures, (name, failures)
        assert {
            "features",
            "encoder",
            "CTC log-probabilities",
            "joint log-probabilities",
            "tdt: text",
            "ctc: text",
        } <= {row.stage for row in rows}
        assert [len(tensor) for tensor in ours.tensors["features"]] == [len(clip) // HOP_SAMPLES for clip in clips]
        assert len(ours.tensors["encoder"][len(clips) // 2]) == min(mel_frames, 1)
        for tensors in ours.tensors.values():
            assert all(torch.isfinite(tensor).all() for tensor in tensors)
        for head in HEADS:
            texts = [hypothesis.text for hypothesis in ours.hypotheses[head]]
            assert texts == ([TEXTS[0], "", TEXTS[1]] if len(clips) == 3 else [""] * len(clips))


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("num_samples", NUM_SAMPLES)
def test_nothing_is_nan_on_the_way_that_users_go(
    num_samples: int, head: str, folder: Path, speech: list[np.ndarray]
) -> None:
    """Padding included, which the comparison with NeMo leaves out."""
    processor = FastConformerProcessor.from_pretrained(folder)
    model = HEADS[head].from_pretrained(folder).eval()
    short = cut(speech[0], num_samples)
    for clips in ([short], [speech[0], short, speech[1]]):
        inputs = processor(clips, sampling_rate=16000, return_tensors="pt")
        assert torch.isfinite(inputs["input_features"]).all()
        with torch.no_grad():
            assert torch.isfinite(model.encoder(**inputs).last_hidden_state).all()
        output = model.generate(**inputs, return_dict_in_generate=True)
        for name, value in output.items():
            if torch.is_tensor(value) and value.is_floating_point():
                assert not value.isnan().any(), name
        decoded = processor.batch_decode(output, timestamps="word")
        place = len(clips) // 2
        assert decoded[place].text == ""
        assert decoded[place].timestamps == {"word": []}
        assert [item.text for item in decoded if item.text] == (TEXTS if len(clips) == 3 else [])


def test_clips_without_samples_are_refused(folder: Path, speech: list[np.ndarray]) -> None:
    processor = FastConformerProcessor.from_pretrained(folder)
    empty = np.zeros(0, dtype=np.float32)
    for number, clips in ((0, [empty]), (1, [speech[0], empty])):
        with pytest.raises(ValueError, match=rf"Clip {number} is empty \(0 samples\); expected at least one sample"):
            processor(clips, sampling_rate=16000, return_tensors="pt")
    with pytest.raises(ValueError, match=r"is empty \(0 samples\)"):
        processor(torch.zeros(2, 800), audio_lengths=torch.tensor([800, 0]), sampling_rate=16000, return_tensors="pt")
