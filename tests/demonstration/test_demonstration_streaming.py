"""The streaming demonstration files: complete, small, whole, and in each look-ahead what NeMo says."""

from __future__ import annotations

import hashlib
import io
import re
import tarfile
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from transformers_fastconformer.audio.files import read_audio
from transformers_fastconformer.demonstration import (
    CLIP_PATHS,
    STREAMING_CHECKPOINT_PATH,
    STREAMING_EXPECTATIONS_PATH,
)
from transformers_fastconformer.inference.file import transcribe_waveforms
from transformers_fastconformer.inference.loading import STREAMING_DEMONSTRATION_NAME, load_model
from transformers_fastconformer.nemo.convert import convert_nemo_checkpoint
from transformers_fastconformer.nemo.converted_runner import ConvertedRunner
from transformers_fastconformer.nemo.stage_comparison import compare_outputs
from transformers_fastconformer.nemo.stage_outputs import StageOutputs, load_stage_outputs

CONTEXTS = ([56, 13], [56, 6], [56, 1], [56, 0])
HEADS = ("rnnt", "ctc")
WAVEFORMS = {path.name: read_audio(path) for path in CLIP_PATHS}

Expectations = tuple[list[StageOutputs], dict[str, str]]


@pytest.fixture(scope="module")
def expectations() -> Expectations:
    return load_stage_outputs(STREAMING_EXPECTATIONS_PATH)


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> ConvertedRunner:
    folder = tmp_path_factory.mktemp("demonstration") / "streaming"
    convert_nemo_checkpoint(STREAMING_CHECKPOINT_PATH, folder)
    return ConvertedRunner(folder)


def batches_of(expectations: Expectations, context: list[int]) -> list[StageOutputs]:
    """NeMo's outputs for both clips in one attention context."""
    found = [batch for batch in expectations[0] if batch.name.endswith(f" {context}")]
    assert [clip_of(batch) for batch in found] == [path.name for path in CLIP_PATHS]
    return found


def sha256_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def clip_of(batch: StageOutputs) -> str:
    """Name of the clip in `clip-en.wav [56, 13]`."""
    match = re.fullmatch(r"(\S+) \[\d+, \d+\]", batch.name)
    assert match is not None
    return match[1]


def read_archive() -> tuple[dict[str, Any], str, dict[str, torch.Tensor]]:
    """Configuration, its text, and weights."""
    with tarfile.open(STREAMING_CHECKPOINT_PATH) as archive:
        members = {member.name.removeprefix("./"): member for member in archive.getmembers()}
        text = read_member(archive, members["model_config.yaml"]).decode()
        weights = torch.load(io.BytesIO(read_member(archive, members["model_weights.ckpt"])), weights_only=True)
    return yaml.safe_load(text), text, weights


def read_member(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = archive.extractfile(member)
    assert file is not None
    return file.read()


def test_checkpoint_is_at_most_four_megabytes() -> None:
    assert 1_000_000 < STREAMING_CHECKPOINT_PATH.stat().st_size <= 4_000_000


def test_checkpoint_is_a_cache_aware_hybrid_rnnt_ctc_archive() -> None:
    configuration, text, weights = read_archive()
    encoder = configuration["encoder"]
    assert configuration["target"].endswith("EncDecHybridRNNTCTCBPEModel")
    assert configuration["preprocessor"]["normalize"] == "NA"
    assert configuration["joint"].get("num_extra_outputs", 0) == 0  # no durations: RNN-T
    assert (encoder["subsampling"], encoder["subsampling_factor"]) == ("dw_striding", 8)
    assert encoder["causal_downsampling"] is True
    assert encoder["conv_context_size"] == "causal"
    assert encoder["conv_norm_type"] == "layer_norm"
    assert encoder["att_context_style"] == "chunked_limited"
    assert encoder["att_context_size"] == list(CONTEXTS)
    assert {name.split(".")[0] for name in weights} == {"preprocessor", "encoder", "decoder", "joint", "ctc_decoder"}
    assert all(torch.isfinite(tensor).all() for tensor in weights.values())
    assert [line for line in text.splitlines() if ": /" in line] == []  # no folder of the training machine


def test_expectations_belong_to_these_files(expectations: Expectations) -> None:
    batches, provenance = expectations
    assert provenance["checkpoint"] == STREAMING_CHECKPOINT_PATH.name
    assert provenance["checkpoint_sha256"] == sha256_of(STREAMING_CHECKPOINT_PATH)
    assert provenance["nemo"].startswith("3.")
    assert provenance["command"] == "python tools/write_demonstration_expectations.py"
    assert [batch.name for batch in batches] == [
        f"{path.name} {context}" for context in CONTEXTS for path in CLIP_PATHS
    ]
    for path in CLIP_PATHS:
        assert provenance[f"{path.name} sha256"] == sha256_of(path)


@pytest.mark.parametrize("context", CONTEXTS, ids=str)
def test_nemo_understood_both_clips(expectations: Expectations, context: list[int]) -> None:
    for batch in batches_of(expectations, context):
        spoken = expectations[1][f"{clip_of(batch)} spoken"]
        for head in HEADS:
            (clip,) = batch.hypotheses[head]
            assert clip.text == spoken
            assert clip.timestamps is not None
            assert [word[0] for word in clip.timestamps["word"]] == spoken.split()


@pytest.mark.parametrize("context", CONTEXTS, ids=str)
def test_stages_agree_with_those_of_nemo(
    expectations: Expectations, converted: ConvertedRunner, context: list[int]
) -> None:
    reference = batches_of(expectations, context)
    converted.model.set_attention_context(context)
    ours = [converted.run(batch.name, [WAVEFORMS[clip_of(batch)]], batch.joint_targets) for batch in reference]
    rows = compare_outputs(reference, ours, is_stored=True)
    assert [row for row in rows if not row.passed] == []
    stages = {row.stage for row in rows}
    assert {"encoder", "CTC log-probabilities", "rnnt: tokens", "rnnt: timestamps", "ctc: tokens"} <= stages
    if context == CONTEXTS[0]:
        assert {"features", "subsampling", "block 0", "block 4", "joint log-probabilities"} <= stages


def test_look_aheads_differ(expectations: Expectations) -> None:
    """Guards against a comparison of one look-ahead with itself."""
    frames = [batches_of(expectations, context)[0].tensors["encoder"][0] for context in CONTEXTS]
    for number, one in enumerate(frames):
        for other in frames[:number]:
            assert (one - other).abs().max() > 1e-2


@pytest.fixture(scope="module")
def loaded() -> dict[str, Any]:
    return {head: load_model(STREAMING_DEMONSTRATION_NAME, head, device="cpu") for head in ("transducer", "ctc")}


@pytest.mark.parametrize("context", CONTEXTS, ids=str)
@pytest.mark.parametrize("head", ["transducer", "ctc"])
def test_its_name_loads_a_model_that_transcribes_in_each_look_ahead(
    loaded: dict[str, Any], expectations: Expectations, head: str, context: list[int]
) -> None:
    model, processor = loaded[head]
    assert model.config.attention_contexts == list(CONTEXTS)
    assert model.config.attention_context == CONTEXTS[0]
    found = transcribe_waveforms(model.with_attention_context(context), processor, list(WAVEFORMS.values()))
    spoken = [expectations[1][f"{path.name} spoken"] for path in CLIP_PATHS]
    assert [transcript.text for transcript in found] == spoken


def test_a_path_of_its_name_is_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises((OSError, ValueError)):
        load_model(Path(STREAMING_DEMONSTRATION_NAME))


def test_card_honours_the_licence_of_the_digits() -> None:
    card = (STREAMING_CHECKPOINT_PATH.parent / "README.md").read_text(encoding="utf-8")
    assert "license: cc-by-sa-4.0" in card
    assert "https://github.com/Jakobovski/free-spoken-digit-dataset" in card
    assert "https://creativecommons.org/licenses/by-sa/4.0/" in card
    (licence,) = re.findall(r"\]\((\.\./LICENSE)\)", card)
    text = (STREAMING_CHECKPOINT_PATH.parent / licence).read_text(encoding="utf-8")
    assert "Attribution-ShareAlike 4.0 International" in text


def test_card_says_how_good_each_look_ahead_is() -> None:
    card = (STREAMING_CHECKPOINT_PATH.parent / "README.md").read_text(encoding="utf-8")
    for latency_ms in (80, 160, 560, 1120):
        assert re.search(rf"\b{latency_ms} ms\b", card)
    assert "python tools/train_streaming_demonstration.py" in card
