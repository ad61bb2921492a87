"""Conversion of a repository that holds a `.nemo`, and everything that can go wrong on the way."""

from __future__ import annotations

from pathlib import Path

import pytest
from digits import CARD, CTC_LOSS_WEIGHT, OTHER_CTC_LOSS_WEIGHT, PUBLISHED_NAME, SPARE_FILES
from hub_server import READ_TOKEN, WRITE_TOKEN, Fault, HubServer, judge_card, read_card
from huggingface_hub import constants
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

from transformers_fastconformer import FastConformerForTDT
from transformers_fastconformer.cli.main import main
from transformers_fastconformer.nemo.convert import convert_nemo_checkpoint


def ctc_weight(folder: Path) -> float:
    return FastConformerForTDT.from_pretrained(folder).config.ctc_loss_weight


def test_revisions_and_tokens(client: HubServer, nemo_bytes: bytes, other_nemo_bytes: bytes, tmp_path: Path) -> None:
    repository = client.add_repository("org/nemo", {"model.nemo": nemo_bytes, **SPARE_FILES}, gated=True)
    first = repository.branches["main"]
    client.add_commit("org/nemo", {"model.nemo": other_nemo_bytes})
    client.add_commit("org/nemo", {"model.nemo": nemo_bytes}, branch="a/branch")
    repository.members.add("reader")
    for token in (None, WRITE_TOKEN):
        with pytest.raises((GatedRepoError, OSError, ValueError), match=r"gated|restricted"):
            convert_nemo_checkpoint("org/nemo", tmp_path / "none", token=token)
    assert not (tmp_path / "none").exists()
    expected = {
        None: OTHER_CTC_LOSS_WEIGHT,
        first: CTC_LOSS_WEIGHT,
        "a/branch": CTC_LOSS_WEIGHT,
        "main": OTHER_CTC_LOSS_WEIGHT,
    }
    for index, (revision, weight) in enumerate(expected.items()):
        output = tmp_path / str(index)
        result = convert_nemo_checkpoint("org/nemo", output, revision=revision, token=READ_TOKEN)
        assert (result.hub_id, ctc_weight(output)) == ("org/nemo", weight)
    assert client.count("GET", "model.nemo") == 2  # two contents, each fetched once


@pytest.mark.parametrize(
    ("files", "found"),
    [({}, "none"), ({"a.nemo": b"1", "b.nemo": b"2"}, r"a\.nemo, b\.nemo.*'org/nemo/a\.nemo'")],
    ids=["none", "several"],
)
def test_not_one_archive(client: HubServer, tmp_path: Path, files: dict[str, bytes], found: str) -> None:
    client.add_repository("org/nemo", {**files, **SPARE_FILES})
    with pytest.raises(ValueError, match=f"org/nemo.*{found}"):
        convert_nemo_checkpoint("org/nemo", tmp_path / "converted")
    assert client.count("GET", "/resolve/") + client.count("GET", "/objects/") == 0
    assert not (tmp_path / "converted").exists()


def test_what_is_not_there(client: HubServer, tmp_path: Path, nemo_bytes: bytes) -> None:
    client.add_repository("org/nemo", {"model.nemo": nemo_bytes})
    for token in (None, READ_TOKEN):
        with pytest.raises((RepositoryNotFoundError, OSError, ValueError), match="org/missing"):
            convert_nemo_checkpoint("org/missing", tmp_path / "converted", token=token)
    with pytest.raises((RevisionNotFoundError, OSError, ValueError), match="no-such-branch"):
        convert_nemo_checkpoint("org/nemo", tmp_path / "converted", revision="no-such-branch")
    assert list(tmp_path.iterdir()) == [Path(constants.HF_HOME)]


def spoil(content: bytes) -> bytes:
    """The same length, but 64 bytes in the middle, which are weights, are others."""
    middle = len(content) // 2
    return content[:middle] + bytes(byte ^ 0xFF for byte in content[middle : middle + 64]) + content[middle + 64 :]


CHANGES = {"short": lambda content: content[:-1000], "long": lambda content: content + b"more", "other": spoil}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_wrong_bytes_are_refused(client: HubServer, tmp_path: Path, nemo_bytes: bytes, change) -> None:
    client.add_repository("org/nemo", {"model.nemo": nemo_bytes})
    client.faults.append(Fault("model.nemo", content=change(nemo_bytes)))
    with pytest.raises((OSError, ValueError), match=r"nemo(.|\n)*force_download=True"):
        convert_nemo_checkpoint("org/nemo", tmp_path / "converted")
    assert not (tmp_path / "converted").exists()
    # What the error advises, once the server sends what it should.
    for path in Path(constants.HF_HUB_CACHE).rglob("*.incomplete"):
        path.unlink()  # before `huggingface_hub` 2 the client stumbles over its own partial file
    convert_nemo_checkpoint("org/nemo", tmp_path / "converted", force_download=True)
    assert ctc_weight(tmp_path / "converted") == CTC_LOSS_WEIGHT


def test_offline_after_the_first_time(client: HubServer, tmp_path: Path, nemo_bytes: bytes, monkeypatch) -> None:
    client.add_repository("org/nemo", {"model.nemo": nemo_bytes, **SPARE_FILES})
    convert_nemo_checkpoint("org/nemo", tmp_path / "first")
    client.forget_requests()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    convert_nemo_checkpoint("org/nemo", tmp_path / "offline")
    assert client.requests == []
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    client.close()
    convert_nemo_checkpoint("org/nemo", tmp_path / "without-server")


LICENSES = {
    "common": {"license": "cc-by-4.0"},
    "own": {"license": "other", "license_name": "a-model-license", "license_link": "https://example.org/license"},
}


@pytest.mark.parametrize(
    "terms",
    [pytest.param(LICENSES["common"], id="common", marks=pytest.mark.slow), pytest.param(LICENSES["own"], id="own")],
)
def test_pushing_what_was_converted(client: HubServer, nemo_bytes: bytes, monkeypatch, capsys, terms) -> None:
    lines = "".join(f"{key}: {value}\n" for key, value in terms.items())
    source_card = CARD.replace(b"license: cc-by-4.0\n", lines.encode())
    client.add_repository(PUBLISHED_NAME, {"parakeet.nemo": nemo_bytes, "README.md": source_card})
    arguments = ["convert", "--model", PUBLISHED_NAME, "--push_to_hub", "writer/parakeet-hf"]
    monkeypatch.setattr("sys.argv", ["fastconformer", *arguments])
    monkeypatch.setenv("HF_TOKEN", WRITE_TOKEN)
    with pytest.raises(SystemExit) as finished:
        main()
    assert not finished.value.code, capsys.readouterr().err
    repository = client.repositories["writer/parakeet-hf"]
    text = repository.commits[repository.branches["main"]].files["README.md"].content.decode()
    assert judge_card(text) == ([], [])
    card = read_card(text)
    # What the source says of itself, and where this comes from.
    assert {key: card[key] for key in terms} == terms
    assert (card["language"], card["base_model"]) == (["en"], PUBLISHED_NAME)
    assert (card["library_name"], card["pipeline_tag"]) == ("transformers", "automatic-speech-recognition")


def test_errors_of_the_command_line(
    client: HubServer, monkeypatch, capsys: pytest.CaptureFixture[str], tmp_path
) -> None:
    client.add_repository("org/gated", {"model.nemo": b"never sent"}, gated=True)
    for repo_id, words, code in (("org/gated", "gated", 3), ("org/missing", "org/missing", 2)):
        arguments = ["convert", "--model", repo_id, "--output_dir", str(tmp_path / "converted")]
        monkeypatch.setattr("sys.argv", ["fastconformer", *arguments])
        with pytest.raises(SystemExit) as finished:
            main()
        assert finished.value.code == code
        message = capsys.readouterr().err
        assert words in message
        assert "Traceback" not in message
