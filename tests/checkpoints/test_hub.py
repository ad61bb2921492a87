"""Names, revisions and downloads; the real client and a server are in `integration/test_hub_nemo.py`."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import pytest

from transformers_fastconformer.checkpoints import hub as hub_module
from transformers_fastconformer.checkpoints.hub import (
    blob_digest,
    cached_snapshot,
    check_download,
    download_options,
    file_digest,
    is_hub_id,
    path_in_repository,
    snapshot_commit,
)

COMMIT = "b" * 40


@pytest.mark.parametrize("name", ["org/name", "name", "org/a.b-c_d", "0/1"])
def test_names_of_repositories(name: str) -> None:
    assert is_hub_id(name)


@pytest.mark.parametrize("name", ["", ".", "./name", "/name", "a/b/c", "a b", "a/b c"])
def test_other_names(name: str) -> None:
    assert not is_hub_id(name)


def test_options_and_paths() -> None:
    options = {"token": "t", "revision": None, "subfolder": "deep", "dtype": "auto", "force_download": False}
    assert download_options(options) == {"token": "t", "force_download": False}
    assert path_in_repository("", "a.bin") == "a.bin"
    assert path_in_repository("/deep/er/", "a.bin") == "deep/er/a.bin"


def test_the_snapshot_of_a_revision(tmp_path: Path) -> None:
    options = {"cache_dir": tmp_path}
    assert cached_snapshot("org/name", options) is None
    repository = tmp_path / "models--org--name"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT)
    expected = repository / "snapshots" / COMMIT
    for revision in (None, "main", COMMIT, SimpleNamespace(initial="main", resolved=COMMIT)):
        assert cached_snapshot("org/name", {**options, "revision": revision}) == expected
    assert cached_snapshot("org/name", {**options, "revision": "other"}) is None
    assert snapshot_commit(expected / "a.bin") == COMMIT
    assert snapshot_commit(tmp_path / "a.bin") is None


def test_damaged_downloads(tmp_path: Path) -> None:
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / COMMIT
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    (tmp_path / "content").write_bytes(b"content" * 1000)
    digest = file_digest(tmp_path / "content")
    blob = (tmp_path / "content").rename(blobs / digest)
    download = snapshot / "model.bin"
    download.symlink_to(blob)
    assert blob_digest(download) == digest
    check_download(download, "org/name", "model.bin")
    blob.write_bytes(b"c0ntent" * 1000)
    with pytest.raises(ValueError, match=rf"org/name: the download of model\.bin is damaged.*expected {digest}"):
        check_download(download, "org/name", "model.bin")
    other = tmp_path / "model.bin"
    other.write_bytes(b"anything")
    assert blob_digest(other) is None
    check_download(other, "org/name", "model.bin")


def test_the_hub_is_not_tried_again_at_once(monkeypatch):
    answers: list[Exception | None] = [ConnectionRefusedError("no network"), OSError("damaged"), None]

    class Hub:
        def model_info(self, hub_id, **options):
            answer = answers.pop(0)
            if answer is not None:
                raise answer

    monkeypatch.setattr(hub_module, "HfApi", Hub)
    for expected in (True, False, False):
        with suppress(OSError):
            hub_module.ask_hub("org/name", {})
        assert hub_module.was_unreachable() is expected
    answers.append(TimeoutError("no answer"))
    with pytest.raises(TimeoutError):
        hub_module.ask_hub("org/name", {})
    assert hub_module.was_unreachable()
    monkeypatch.setattr(hub_module, "UNREACHABLE_SECONDS", 0.0)
    assert not hub_module.was_unreachable()
