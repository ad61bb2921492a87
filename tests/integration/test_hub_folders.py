"""Repositories in our format: loaded by their name, pushed, loaded again; those of others stay what they are."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from digits import CLASSES, SPOKEN, transcribe
from hub_server import READ_TOKEN, WRITE_TOKEN, HubServer, judge_card, read_card
from huggingface_hub import constants
from transformers import (
    AutoConfig,
    AutoFeatureExtractor,
    AutoModel,
    AutoProcessor,
    BertConfig,
    BertModel,
    Wav2Vec2FeatureExtractor,
)

from transformers_fastconformer import AutoModelForTDT, FastConformerForTDT
from transformers_fastconformer.cli.main import main
from transformers_fastconformer.demonstration import CHECKPOINT_PATH


@pytest.mark.slow
def test_every_auto_class_loads_by_name(client: HubServer, converted_folder: Path, monkeypatch) -> None:
    commit = client.add_repository("org/digits", converted_folder).branches["main"]
    loaded = {auto_class: auto_class.from_pretrained("org/digits") for auto_class in CLASSES}
    for auto_class, expected in CLASSES.items():
        assert type(loaded[auto_class]) is expected
    assert transcribe(loaded[AutoModelForTDT], loaded[AutoProcessor]) == SPOKEN
    assert client.count("GET", "model.safetensors") == 1
    fetched = [request.path for request in client.asked("GET", "/resolve/")]
    assert len(fetched) == len(set(fetched))

    # A second time nothing is fetched; by the commit or offline nothing is even asked.
    client.forget_requests()
    for auto_class in CLASSES:
        auto_class.from_pretrained("org/digits")
    assert client.count("GET", "/resolve/") + client.count("GET", "/objects/") == 0
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    client.forget_requests()
    for auto_class, expected in CLASSES.items():
        assert type(auto_class.from_pretrained("org/digits")) is expected
    for auto_class in (AutoModel, AutoProcessor):
        assert type(auto_class.from_pretrained("org/digits", revision=commit)) is CLASSES[auto_class]
    assert client.requests == []


def test_options_of_the_hub(client: HubServer, converted_folder: Path, tmp_path: Path) -> None:
    files = {path.name: path.read_bytes() for path in converted_folder.iterdir()}
    narrow = {**files, "config.json": files["config.json"].replace(b'"float32"', b'"bfloat16"')}
    client.add_repository("org/digits", {f"deep/{name}": content for name, content in files.items()}, gated=True)
    client.add_commit("org/digits", narrow, branch="narrow")
    client.repositories["org/digits"].members.add("reader")
    with pytest.raises(OSError, match="gated"):
        AutoModel.from_pretrained("org/digits", subfolder="deep")
    with pytest.raises(OSError, match="gated"):
        AutoModel.from_pretrained("org/digits", subfolder="deep", token=WRITE_TOKEN)
    options = {"token": READ_TOKEN, "cache_dir": tmp_path / "cache"}
    for auto_class in (AutoModel, AutoConfig, AutoProcessor):
        in_folder = auto_class.from_pretrained("org/digits", subfolder="deep", **options)
        of_branch = auto_class.from_pretrained("org/digits", revision="narrow", **options)
        assert type(in_folder) is type(of_branch) is CLASSES[auto_class]
        if auto_class is AutoModel:
            assert (in_folder.dtype, of_branch.dtype) == (torch.float32, torch.bfloat16)
    assert not list(Path(constants.HF_HUB_CACHE).rglob("blobs/*"))
    with pytest.raises(OSError, match="couldn't connect"):
        AutoModel.from_pretrained("org/digits", revision="narrow", local_files_only=True)
    AutoModel.from_pretrained("org/digits", revision="narrow", local_files_only=True, cache_dir=tmp_path / "cache")


def test_push_and_load_again(client: HubServer, converted_folder: Path) -> None:
    model = AutoModelForTDT.from_pretrained(converted_folder)
    processor = AutoProcessor.from_pretrained(converted_folder)
    with torch.no_grad():
        model.encoder.layers[0].feed_forward1.linear1.weight.mul_(1.0 + 2**-10)
    model.push_to_hub("writer/tuned", token=WRITE_TOKEN, tags=["digits"])
    processor.push_to_hub("writer/tuned", token=WRITE_TOKEN)
    repository = client.repositories["writer/tuned"]
    files = repository.commits[repository.branches["main"]].files
    assert {"config.json", "model.safetensors", "README.md", "tokenizer.json"} <= set(files)
    card = files["README.md"].content.decode()
    assert judge_card(card)[0] == []
    assert "digits" in read_card(card)["tags"]
    again = AutoModelForTDT.from_pretrained("writer/tuned")
    assert type(again) is FastConformerForTDT
    truth = model.state_dict()
    assert all(torch.equal(tensor, truth[name]) for name, tensor in again.state_dict().items())
    assert transcribe(again, AutoProcessor.from_pretrained("writer/tuned")) == SPOKEN
    # To a branch of its own, in 16 bits.
    model.bfloat16().push_to_hub("writer/tuned", token=WRITE_TOKEN, revision="half")
    assert AutoModelForTDT.from_pretrained("writer/tuned", revision="half").dtype == torch.bfloat16
    assert AutoModelForTDT.from_pretrained("writer/tuned").dtype == torch.float32


def test_convert_push_to_hub(client: HubServer, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    arguments = ["convert", "--model", str(CHECKPOINT_PATH), "--push_to_hub", "writer/converted"]
    monkeypatch.setattr("sys.argv", ["fastconformer", *arguments])
    monkeypatch.setenv("HF_TOKEN", WRITE_TOKEN)
    with pytest.raises(SystemExit) as finished:
        main()
    assert finished.value.code in (0, None)
    assert "writer/converted" in capsys.readouterr().out
    monkeypatch.delenv("HF_TOKEN")
    repository = client.repositories["writer/converted"]
    card = repository.commits[repository.branches["main"]].files["README.md"].content.decode()
    assert judge_card(card) == ([], [])
    assert read_card(card)["pipeline_tag"] == "automatic-speech-recognition"
    model = AutoModelForTDT.from_pretrained("writer/converted")
    assert transcribe(model, AutoProcessor.from_pretrained("writer/converted")) == SPOKEN
    # Somebody who may not write there is told so.
    monkeypatch.setenv("HF_TOKEN", READ_TOKEN)
    with pytest.raises(SystemExit) as finished:
        main()
    assert finished.value.code == 3
    assert "403" in capsys.readouterr().err
    assert len(repository.commits) == 2  # the first one is empty


def test_models_of_others_stay_what_they_are(client: HubServer, tmp_path: Path) -> None:
    config = BertConfig(vocab_size=9, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8)
    torch.manual_seed(0)
    model = BertModel(config)
    model.save_pretrained(tmp_path / "bert")
    Wav2Vec2FeatureExtractor().save_pretrained(tmp_path / "bert")
    client.add_repository("org/bert", tmp_path / "bert")
    loaded = AutoModel.from_pretrained("org/bert")
    assert type(loaded) is BertModel
    truth = model.state_dict()
    assert all(torch.equal(tensor, truth[name]) for name, tensor in loaded.state_dict().items())
    assert type(AutoConfig.from_pretrained("org/bert")) is BertConfig
    assert type(AutoFeatureExtractor.from_pretrained("org/bert")) is Wav2Vec2FeatureExtractor
    # What Transformers itself says about what is not there.
    client.add_repository("org/nothing", {"README.md": b"---\nlicense: mit\n---\n"})
    with pytest.raises(ValueError, match="Unrecognized model in org/nothing"):
        AutoModel.from_pretrained("org/nothing")
    with pytest.raises(OSError, match="org/missing is not a local folder and is not a valid model identifier"):
        AutoModel.from_pretrained("org/missing")
