"""A repository that holds nothing but a `.nemo`, by its name: every Auto class, every option, every mishap."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from digits import (
    CLASSES,
    CTC_LOSS_WEIGHT,
    FEW_CLASSES,
    OTHER_CTC_LOSS_WEIGHT,
    PUBLISHED_NAME,
    SPARE_FILES,
    SPOKEN,
    transcribe,
)
from hub_server import READ_TOKEN, WRITE_TOKEN, Fault, HubServer, call_again_if_cut, judge_card, read_card
from huggingface_hub import constants
from transformers import AutoConfig, AutoFeatureExtractor, AutoModel, AutoProcessor, BertConfig, BertModel, pipeline

from transformers_fastconformer import AutoModelForTDT, FastConformerForTDT, FastConformerModel
from transformers_fastconformer.auto import register, unregister
from transformers_fastconformer.demonstration import CLIP_PATHS
from transformers_fastconformer.inference.loading import load_model


def downloads(hub: HubServer) -> int:
    """Requests that fetch the content of a file."""
    return hub.count("GET", "/resolve/") + hub.count("GET", "/objects/")


def ctc_loss_weight(**options: Any) -> float:
    return AutoConfig.from_pretrained("org/nemo", **options).ctc_loss_weight


def finished_conversions() -> list[Path]:
    """Configurations of converted checkpoints anywhere in the caches of the test."""
    found = Path(constants.HF_HOME).rglob("config.json")
    return [path for path in found if ".no_exist" not in path.parts]  # how the client remembers what is not there


def test_every_auto_class_loads_by_name(client: HubServer, nemo_bytes: bytes, monkeypatch) -> None:
    commit = client.add_repository(PUBLISHED_NAME, {"parakeet.nemo": nemo_bytes, **SPARE_FILES}).branches["main"]
    loaded = {auto_class: auto_class.from_pretrained(PUBLISHED_NAME) for auto_class in CLASSES}
    for auto_class, expected in CLASSES.items():
        assert type(loaded[auto_class]) is expected
    assert transcribe(loaded[AutoModelForTDT], loaded[AutoProcessor]) == SPOKEN
    assert client.count("GET", "parakeet.nemo") == 1
    assert len(finished_conversions()) == 1

    # A second time nothing is fetched; by the commit or offline nothing is even asked.
    client.forget_requests()
    for auto_class in FEW_CLASSES:
        auto_class.from_pretrained(PUBLISHED_NAME)
    assert downloads(client) == 0
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    client.forget_requests()
    for auto_class, expected in CLASSES.items():
        assert type(auto_class.from_pretrained(PUBLISHED_NAME)) is expected
    for auto_class in (AutoModel, AutoProcessor):
        assert type(auto_class.from_pretrained(PUBLISHED_NAME, revision=commit)) is CLASSES[auto_class]
    assert client.requests == []
    assert len(finished_conversions()) == 1


def test_a_pipeline_by_name(client: HubServer, nemo_bytes: bytes, monkeypatch) -> None:
    client.add_repository(PUBLISHED_NAME, {"parakeet.nemo": nemo_bytes, **SPARE_FILES})
    result = pipeline("automatic-speech-recognition", model=PUBLISHED_NAME)(
        str(CLIP_PATHS[0]), return_timestamps="word"
    )
    assert result["text"] == SPOKEN
    assert [chunk["text"].strip() for chunk in result["chunks"]] == SPOKEN.split()
    assert client.count("GET", "parakeet.nemo") == 1
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    client.forget_requests()
    assert pipeline("automatic-speech-recognition", model=PUBLISHED_NAME)(str(CLIP_PATHS[0]))["text"] == SPOKEN
    assert client.requests == []


def test_threads_at_once(client: HubServer, nemo_bytes: bytes) -> None:
    client.add_repository("org/nemo", {"model.nemo": nemo_bytes})
    with ThreadPoolExecutor(4) as threads:
        loaded = list(threads.map(lambda auto_class: auto_class.from_pretrained("org/nemo"), [AutoConfig] * 4))
    assert [config.ctc_loss_weight for config in loaded] == [CTC_LOSS_WEIGHT] * 4
    assert client.count("GET", "model.nemo") == 1
    assert len(finished_conversions()) == 1


def test_revisions(client: HubServer, nemo_bytes: bytes, other_nemo_bytes: bytes) -> None:
    repository = client.add_repository("org/nemo", {"model.nemo": nemo_bytes})
    first = repository.branches["main"]
    assert ctc_loss_weight() == CTC_LOSS_WEIGHT
    second = client.add_commit("org/nemo", {"model.nemo": other_nemo_bytes}).oid
    repository.tags["v1"] = first
    client.add_commit("org/nemo", {"renamed.nemo": nemo_bytes}, branch="a/branch")
    assert ctc_loss_weight() == ctc_loss_weight(revision="main") == OTHER_CTC_LOSS_WEIGHT
    assert ctc_loss_weight(revision=second) == OTHER_CTC_LOSS_WEIGHT
    for revision in ("v1", first, "a/branch"):
        assert ctc_loss_weight(revision=revision) == CTC_LOSS_WEIGHT
        assert AutoModel.from_pretrained("org/nemo", revision=revision).config.ctc_loss_weight == CTC_LOSS_WEIGHT
    assert downloads(client) == 2  # one for each content
    assert len(finished_conversions()) == 2
    with pytest.raises(OSError, match="no-such-branch is not a valid git identifier"):
        AutoModel.from_pretrained("org/nemo", revision="no-such-branch")


def test_gated_private_and_missing(client: HubServer, nemo_bytes: bytes, monkeypatch) -> None:
    client.add_repository("org/gated", {"model.nemo": nemo_bytes}, gated=True).members.add("reader")
    client.add_repository("org/private", {"model.nemo": nemo_bytes}, private=True).members.add("reader")
    refused = {"org/gated": "gated repo", "org/private": "not a valid model identifier"}
    refused["org/missing"] = refused["org/private"]
    for name, words in refused.items():
        for auto_class in CLASSES if name == "org/gated" else (AutoModel, AutoProcessor):
            # Nobody, and somebody who was not let in.
            token = WRITE_TOKEN if auto_class in (AutoModel, AutoConfig) else None
            with pytest.raises(OSError, match=words) as error:
                auto_class.from_pretrained(name, token=token)
            assert name in str(error.value)
    assert {request.status for request in client.asked("HEAD", "org/gated")} == {401, 403}
    assert downloads(client) - client.count("GET", "config.json") == 0
    for auto_class in (AutoModel, AutoProcessor):
        assert type(auto_class.from_pretrained("org/gated", token=READ_TOKEN)) is CLASSES[auto_class]
    monkeypatch.setenv("HF_TOKEN", READ_TOKEN)  # who is logged in names no token
    for auto_class in (AutoModel, AutoProcessor):
        assert type(auto_class.from_pretrained("org/private")) is CLASSES[auto_class]
    assert client.count("GET", "model.nemo") == 2


def test_cache_dir_and_local_files_only(client: HubServer, nemo_bytes: bytes, tmp_path: Path) -> None:
    client.add_repository("org/nemo", {"model.nemo": nemo_bytes})
    here = {"cache_dir": tmp_path / "cache"}
    for auto_class in CLASSES:
        with pytest.raises(OSError, match=r"org/nemo|connect|local"):
            auto_class.from_pretrained("org/nemo", local_files_only=True, **here)
    # Where peft is installed, Transformers looks for an adapter in spite of `local_files_only`.
    assert [request.path for request in client.requests if "adapter_config.json" not in request.path] == []
    assert type(AutoModel.from_pretrained("org/nemo", **here)) is FastConformerModel
    client.forget_requests()
    for auto_class, expected in FEW_CLASSES.items():
        assert type(auto_class.from_pretrained("org/nemo", local_files_only=True, **here)) is expected
        with pytest.raises(OSError, match=r"org/nemo|connect|local"):  # in the usual place there is nothing
            auto_class.from_pretrained("org/nemo", local_files_only=True)
    assert client.requests == []
    for folder in (constants.HF_HUB_CACHE, constants.HF_HOME):
        assert not [path for path in Path(folder).rglob("*") if path.suffix in (".nemo", ".safetensors")]


def test_subfolder_and_several_archives(client: HubServer, nemo_bytes: bytes, other_nemo_bytes: bytes) -> None:
    files = {"a.nemo": nemo_bytes, "b.nemo": other_nemo_bytes, "deep/er/c.nemo": other_nemo_bytes}
    client.add_repository("org/nemo", {**files, **SPARE_FILES})
    for auto_class in CLASSES:
        with pytest.raises(ValueError, match=r"org/nemo.*a\.nemo, b\.nemo.*'org/nemo/a\.nemo'"):
            auto_class.from_pretrained("org/nemo")
    assert client.count("GET", ".nemo") == 0
    for auto_class, expected in FEW_CLASSES.items():
        assert type(auto_class.from_pretrained("org/nemo", subfolder="deep/er")) is expected
        assert type(auto_class.from_pretrained("org/nemo/a.nemo")) is expected
    assert ctc_loss_weight(subfolder="deep/er") == OTHER_CTC_LOSS_WEIGHT
    assert AutoConfig.from_pretrained("org/nemo/b.nemo").ctc_loss_weight == OTHER_CTC_LOSS_WEIGHT
    assert load_model("org/nemo/b.nemo")[0].config.ctc_loss_weight == OTHER_CTC_LOSS_WEIGHT
    assert AutoConfig.from_pretrained("org/nemo/a.nemo").ctc_loss_weight == CTC_LOSS_WEIGHT
    assert client.count("GET", "a.nemo") == 1
    with pytest.raises(OSError, match=r"no\.nemo"):
        AutoModel.from_pretrained("org/nemo/no.nemo")


def test_force_download(client: HubServer, nemo_bytes: bytes) -> None:
    client.add_repository("org/nemo", {"model.nemo": nemo_bytes})
    for _ in range(2):
        AutoModelForTDT.from_pretrained("org/nemo")
    AutoModelForTDT.from_pretrained("org/nemo", force_download=True)
    assert client.count("GET", "model.nemo") == 2


def test_a_cut_download_is_resumed(client: HubServer, nemo_bytes: bytes, monkeypatch) -> None:
    # The client keeps whole chunks of what it received, of 10 MB as a rule.
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 2**16)
    client.add_repository("org/nemo", {"model.nemo": nemo_bytes})
    client.faults.append(Fault("model.nemo", cut_after_bytes=2**21))
    model = call_again_if_cut(lambda: AutoModelForTDT.from_pretrained("org/nemo"))
    assert transcribe(model, AutoProcessor.from_pretrained("org/nemo")) == SPOKEN
    assert [each.range for each in client.asked("GET", "model.nemo")] == [None, f"bytes={2**21}-"]


def test_wrong_bytes_are_refused(client: HubServer, nemo_bytes: bytes) -> None:
    """A truncated file, and one of the right length with other bytes in its weights."""
    client.add_repository("org/nemo", {"model.nemo": nemo_bytes})
    middle = len(nemo_bytes) // 2
    spoilt = nemo_bytes[:middle] + bytes(64) + nemo_bytes[middle + 64 :]
    assert spoilt != nemo_bytes
    for content in (nemo_bytes[:-1000], spoilt):
        client.faults = [Fault("model.nemo", content=content)]
        with pytest.raises((OSError, ValueError), match=r"nemo(.|\n)*force_download=True"):
            AutoModel.from_pretrained("org/nemo")
        assert finished_conversions() == []
        for path in Path(constants.HF_HUB_CACHE).rglob("*.incomplete"):
            path.unlink()  # before `huggingface_hub` 2 the client goes on from there, whatever it is
    client.faults = []
    model = AutoModelForTDT.from_pretrained("org/nemo", force_download=True)
    assert transcribe(model, AutoProcessor.from_pretrained("org/nemo")) == SPOKEN


def test_what_is_no_checkpoint(client: HubServer) -> None:
    client.add_repository("org/nemo", {"model.nemo": b"neither tar nor anything else", **SPARE_FILES})
    for auto_class in CLASSES:
        with pytest.raises(ValueError, match=r"model\.nemo"):
            auto_class.from_pretrained("org/nemo")
    assert finished_conversions() == []


def test_a_server_that_is_slow_or_gone(client: HubServer, nemo_bytes: bytes, other_nemo_bytes: bytes) -> None:
    client.add_repository("org/nemo", {"model.nemo": nemo_bytes})
    client.faults.append(Fault("org/nemo", delay_seconds=0.5, times=3))
    assert type(AutoModel.from_pretrained("org/nemo")) is FastConformerModel
    client.add_commit("org/nemo", {"model.nemo": other_nemo_bytes})
    client.faults = [Fault("", method, times=99, status=500) for method in ("GET", "HEAD")]
    assert ctc_loss_weight() == CTC_LOSS_WEIGHT  # what is in the cache, as with any other checkpoint
    client.faults = []
    assert ctc_loss_weight() == OTHER_CTC_LOSS_WEIGHT
    client.close()
    assert ctc_loss_weight() == OTHER_CTC_LOSS_WEIGHT
    for auto_class in (AutoModel, AutoProcessor):
        assert type(auto_class.from_pretrained("org/nemo")) is CLASSES[auto_class]


def test_a_folder_in_our_format_wins(client: HubServer, converted_folder: Path, nemo_bytes: bytes) -> None:
    files = {path.name: path.read_bytes() for path in converted_folder.iterdir()}
    client.add_repository("org/both", {**files, "model.nemo": nemo_bytes})
    for auto_class, expected in FEW_CLASSES.items():
        assert type(auto_class.from_pretrained("org/both")) is expected
    assert client.count("GET", "model.nemo") == 0


def test_models_of_others_are_not_asked_for_more(client: HubServer, tmp_path: Path, monkeypatch) -> None:
    """What our hooks cost where there is no `.nemo`: nothing where it loads, one request where it does not."""
    config = BertConfig(vocab_size=9, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8)
    BertModel(config).save_pretrained(tmp_path / "bert")
    client.add_repository("org/bert", tmp_path / "bert")
    asked: dict[bool, list[tuple[str, str]]] = {}
    failing: dict[bool, int] = {}
    unregister()
    try:
        for is_with_us in (False, True):
            if is_with_us:
                register()
            # Not `cache_dir`: where Transformers looks for adapters, it does not hand it on.
            monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / f"cache-{is_with_us}"))
            client.forget_requests()
            for _ in range(2):
                assert type(AutoModel.from_pretrained("org/bert")) is BertModel
            asked[is_with_us] = [(request.method, request.path) for request in client.requests]
            client.forget_requests()
            with pytest.raises((OSError, ValueError), match="feature extractor"):
                AutoFeatureExtractor.from_pretrained("org/bert")
            failing[is_with_us] = len(client.requests)
    finally:
        register()
    assert asked[True] == asked[False]
    assert failing[True] <= failing[False] + 1


@pytest.mark.slow
def test_push_and_load_again(client: HubServer, nemo_bytes: bytes) -> None:
    client.add_repository(PUBLISHED_NAME, {"parakeet.nemo": nemo_bytes, **SPARE_FILES})
    model = AutoModelForTDT.from_pretrained(PUBLISHED_NAME)
    processor = AutoProcessor.from_pretrained(PUBLISHED_NAME)
    model.push_to_hub("writer/tuned", token=WRITE_TOKEN)
    processor.push_to_hub("writer/tuned", token=WRITE_TOKEN)
    repository = client.repositories["writer/tuned"]
    files = repository.commits[repository.branches["main"]].files
    assert not [name for name in files if name.endswith(".nemo")]
    card = files["README.md"].content.decode()
    assert judge_card(card)[0] == []
    assert "tuned" not in str(read_card(card).get("base_model"))
    again = AutoModelForTDT.from_pretrained("writer/tuned")
    assert type(again) is FastConformerForTDT
    truth = model.state_dict()
    assert all(torch.equal(tensor, truth[name]) for name, tensor in again.state_dict().items())
    assert transcribe(again, AutoProcessor.from_pretrained("writer/tuned")) == SPOKEN
