"""
Archives in the cache of converted checkpoints: by content, whole or not at all, and found again.

Two processes that want the same at once stand in `integration/test_hub_processes.py`.
"""

from __future__ import annotations

import errno
import os
import tarfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from leftovers import killed

from transformers_fastconformer import FastConformerForCTC, FastConformerForTDT, FastConformerProcessor
from transformers_fastconformer.checkpoints import store as store_module
from transformers_fastconformer.checkpoints.hub import file_digest
from transformers_fastconformer.checkpoints.store import CONVERSION_FORMAT, clear_conversions, list_conversions
from transformers_fastconformer.nemo import convert as convert_module
from transformers_fastconformer.nemo import sources as sources_module
from transformers_fastconformer.nemo.locate import FoundArchive
from transformers_fastconformer.nemo.sources import converted_folder, resolve_nemo_checkpoint, resolved_once
from transformers_fastconformer.temporary_files import TemporaryFolder

OFFLINE = {"local_files_only": True}


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache of this test."""
    folder = tmp_path / "cache"
    monkeypatch.setenv(store_module.CACHE_VARIABLE, str(folder))
    return folder


@pytest.fixture
def conversions(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Folders that archives were converted to, in order."""
    converted = []
    original = sources_module.convert_archive

    def convert(archive, folder, *options):
        converted.append(Path(folder))
        return original(archive, folder, *options)

    monkeypatch.setattr(sources_module, "convert_archive", convert)
    return converted


def age(path: Path, seconds: float = 60.0) -> Path:
    """Let a file look as if it had been written a while ago."""
    then = time.time() - seconds
    os.utime(path, (then, then))
    return path


def test_an_archive_is_converted_once(make_archive, root, conversions):
    path = make_archive("tdt")
    first = resolve_nemo_checkpoint(path)
    assert first == str(root / f"v{CONVERSION_FORMAT}" / file_digest(path))
    assert resolve_nemo_checkpoint(str(path)) == first
    model = FastConformerForTDT.from_pretrained(path)
    truth = FastConformerForTDT.from_pretrained(first)
    state = truth.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert FastConformerProcessor.from_pretrained(path).feature_extractor.feature_size == 16
    assert len(conversions) == 1


def test_the_content_decides_and_not_the_name(make_archive, tmp_path, conversions):
    path = make_archive("ctc")
    first = resolve_nemo_checkpoint(path)
    copy = tmp_path / "copy.nemo"
    copy.write_bytes(path.read_bytes())
    assert resolve_nemo_checkpoint(copy) == first
    make_archive("rnnt").replace(path)
    second = resolve_nemo_checkpoint(path)
    assert second != first
    assert len(conversions) == 2


def test_what_is_loaded_keeps_its_name(make_archive):
    path = make_archive("ctc")
    model = FastConformerForCTC.from_pretrained(path)
    processor = FastConformerProcessor.from_pretrained(path)
    names = (model.name_or_path, model.config.name_or_path, processor.tokenizer.name_or_path)
    assert names == (str(path),) * 3


def test_cache_dir_of_the_call(make_archive, root, tmp_path):
    path = make_archive("ctc")
    model = FastConformerForCTC.from_pretrained(path, cache_dir=tmp_path / "here")
    assert isinstance(model, FastConformerForCTC)
    assert [entry.sources for entry in list_conversions(tmp_path / "here")] == [(str(path),)]
    assert not root.exists()


@pytest.mark.parametrize("is_broken", [True, False])
def test_what_fails_leaves_nothing(make_archive, root, is_broken, monkeypatch):
    path = make_archive("ctc", **({"weights": b"no weights"} if is_broken else {}))

    def fail(*_args, **_options):
        raise OSError("full")

    if not is_broken:
        monkeypatch.setattr(convert_module, "write_model_card", fail)
    with pytest.raises((ValueError, OSError)):
        resolve_nemo_checkpoint(path)
    assert list_conversions() == []
    assert [child.name for child in (root / f"v{CONVERSION_FORMAT}").iterdir()] == []
    monkeypatch.undo()
    monkeypatch.setenv(store_module.CACHE_VARIABLE, str(root))
    if not is_broken:
        assert Path(str(resolve_nemo_checkpoint(path)), "config.json").is_file()


def test_leftovers_of_a_killed_process_are_removed(make_archive, root):
    path = make_archive("ctc")
    digest = file_digest(path)
    with TemporaryFolder(root / f"v{CONVERSION_FORMAT}") as living:
        half = killed(living)
    (root / f"v{CONVERSION_FORMAT}" / digest).mkdir()  # and one that has no config.json
    folder = resolve_nemo_checkpoint(path)
    assert not half.exists()
    FastConformerForCTC.from_pretrained(folder)


def test_who_finds_it_locked_waits(make_archive, root, conversions, monkeypatch):
    monkeypatch.setattr(store_module, "PATIENCE_SECONDS", 0.05)
    path = make_archive("ctc")
    (root / "locks").mkdir(parents=True)
    found: list[str | None] = []
    thread = threading.Thread(target=lambda: found.append(resolve_nemo_checkpoint(path)))
    with FileLock(root / "locks" / f"{file_digest(path)}.lock"):
        thread.start()
        time.sleep(0.3)
        assert found == []
        assert conversions == []
    thread.join(30)
    assert found == [str(conversions[0])]


def test_a_cache_that_cannot_be_written(make_archive, root, monkeypatch):
    """As a shared one is: what is in it loads, what is not is an error that says where to go."""
    path = age(make_archive("ctc"))
    folder = resolve_nemo_checkpoint(path)

    def refuse(*_args, **_kwargs):
        raise PermissionError(13, "Permission denied", str(root))

    def refuse_read_only(*_args, **_kwargs):
        raise OSError(errno.EROFS, "Read-only file system", str(root))

    monkeypatch.setattr(store_module, "_write_json", refuse)
    monkeypatch.setattr(store_module.os, "utime", refuse)
    assert resolve_nemo_checkpoint(path) == folder
    monkeypatch.setattr(store_module, "FileLock", refuse)
    other = make_archive("rnnt", name="other.nemo")
    with pytest.raises(PermissionError, match="TRANSFORMERS_FASTCONFORMER_CACHE or cache_dir chooses another place"):
        resolve_nemo_checkpoint(other)
    monkeypatch.setattr(store_module, "FileLock", refuse_read_only)
    with pytest.raises(OSError, match="TRANSFORMERS_FASTCONFORMER_CACHE or cache_dir chooses another place"):
        resolve_nemo_checkpoint(other)


def test_a_file_where_the_cache_should_be(make_archive, root):
    root.write_text("")
    with pytest.raises(OSError, match="cannot be written; TRANSFORMERS_FASTCONFORMER_CACHE or cache_dir chooses"):
        resolve_nemo_checkpoint(make_archive("ctc"))


def test_an_archive_that_cannot_be_read_is_not_the_fault_of_the_cache(make_archive, monkeypatch):
    path = make_archive("ctc")

    def refuse(*_args, **_kwargs):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(sources_module, "convert_archive", refuse)
    with pytest.raises(PermissionError, match=r"Permission denied: .*\.nemo"):
        resolve_nemo_checkpoint(path)


def test_a_full_disk_is_told_before_anything_is_written(make_archive, root, monkeypatch):
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(store_module.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(OSError, match=r"needs 0\.0 GB to be converted .* TRANSFORMERS_FASTCONFORMER_CACHE"):
        resolve_nemo_checkpoint(make_archive("ctc"))
    assert list((root / f"v{CONVERSION_FORMAT}").iterdir()) == []


def test_a_download_is_found_by_the_name_of_its_blob_and_checked_once(make_archive, tmp_path, root, conversions):
    content = make_archive("ctc").read_bytes()
    archive = store_as_download(tmp_path / "hub", content)
    folder = converted_folder(archive, OFFLINE)
    assert folder.name == archive.expected_digest == file_digest(archive.path)
    archive.path.resolve().write_bytes(b"spoilt later")  # it is not read again
    assert converted_folder(archive, OFFLINE) == folder
    assert len(conversions) == 1
    damaged = store_as_download(tmp_path / "damaged", content[:-1] + b"x", digest=f"{7:064x}")
    with pytest.raises(ValueError, match=r"org/name: the download of model\.nemo is damaged.*force_download=True"):
        converted_folder(damaged, OFFLINE)
    assert [entry.digest for entry in list_conversions()] == [folder.name]


def test_unpacked_archives_are_found_by_the_content_of_their_files(make_archive, tmp_path, conversions):
    folder = tmp_path / "unpacked"
    with tarfile.open(make_archive("ctc")) as tar:
        tar.extractall(folder, filter="data")
    first = resolve_nemo_checkpoint(folder)
    assert resolve_nemo_checkpoint(folder) == first
    (folder / "._model_config.yaml").write_bytes(b"of macOS")
    assert resolve_nemo_checkpoint(folder) == first
    assert len(conversions) == 1
    config = folder / "model_config.yaml"
    config.write_text(config.read_text().replace("features: 16", "features: 16 "))
    assert resolve_nemo_checkpoint(folder) != first


def test_an_archive_that_is_changed_meanwhile_is_not_kept(make_archive, monkeypatch):
    path, other = make_archive("ctc"), make_archive("tdt", name="other.nemo")
    convert = sources_module.convert_archive

    def convert_other(archive, *arguments):
        other.replace(path)
        return convert(archive, *arguments)

    monkeypatch.setattr(sources_module, "convert_archive", convert_other)
    with pytest.raises(ValueError, match=r"model\.nemo was changed while it was converted; load it again"):
        resolve_nemo_checkpoint(path)
    assert list_conversions() == []
    monkeypatch.setattr(sources_module, "convert_archive", convert)
    assert resolve_nemo_checkpoint(path) is not None


def store_as_download(hub_cache: Path, content: bytes, digest: str | None = None) -> FoundArchive:
    """A file as `huggingface_hub` keeps it: a link in a snapshot to a blob that is named by the content."""
    snapshot = hub_cache / "snapshots" / ("a" * 40)
    (hub_cache / "blobs").mkdir(parents=True)
    snapshot.mkdir(parents=True)
    blob = hub_cache / "blobs" / "new"
    blob.write_bytes(content)
    blob = blob.rename(blob.with_name(digest or file_digest(blob)))
    (snapshot / "model.nemo").symlink_to(blob)
    return FoundArchive(snapshot / "model.nemo", "org/name", "model.nemo", "a" * 40)


def test_list_and_clear(make_archive, tmp_path):
    first, second = make_archive("ctc", name="first.nemo"), make_archive("tdt", name="second.nemo")
    link = tmp_path / "alias.nemo"
    link.hardlink_to(first)
    for path in (first, link, second):
        resolve_nemo_checkpoint(path)
    entries = list_conversions()
    assert [entry.sources for entry in entries] == [(str(second),), (str(first), str(link))]
    assert [entry.architecture for entry in entries] == ["FastConformerForTDT", "FastConformerForCTC"]
    for entry in entries:
        assert entry.num_bytes == sum(path.stat().st_size for path in entry.folder.iterdir())
        assert time.time() - entry.last_used < 60
    with pytest.raises(ValueError, match=r"org/absent is not in the cache; there are .*alias\.nemo"):
        clear_conversions([str(first), "org/absent"])
    assert len(list_conversions()) == 2
    assert [entry.digest for entry in clear_conversions([str(link)])] == [entries[1].digest]
    assert not entries[1].folder.exists()
    assert [entry.digest for entry in list_conversions()] == [entries[0].digest]
    assert len(clear_conversions([entries[0].digest[:12]])) == 1
    assert list_conversions() == [] == clear_conversions()
    assert first.is_file()


def test_using_moves_an_entry_to_the_front(make_archive):
    paths = [make_archive(kind, name=f"{kind}.nemo") for kind in ("ctc", "rnnt")]
    for path in paths:
        resolve_nemo_checkpoint(path)
    for entry in list_conversions():
        age(entry.folder.with_name(f"{entry.digest}.json"), 1000)
    resolve_nemo_checkpoint(paths[0])
    assert list_conversions()[0].sources == (str(paths[0]),)
    assert list_conversions()[0].last_used - list_conversions()[1].last_used > 900


def test_older_formats_are_not_read_and_removed(make_archive, root, monkeypatch, conversions):
    path = make_archive("ctc")
    old = Path(str(resolve_nemo_checkpoint(path)))
    monkeypatch.setattr(store_module, "CONVERSION_FORMAT", CONVERSION_FORMAT + 1)
    new = Path(str(resolve_nemo_checkpoint(path)))
    assert new == root / f"v{CONVERSION_FORMAT + 1}" / old.name
    assert not old.parent.exists()
    assert [entry.format for entry in list_conversions()] == [CONVERSION_FORMAT + 1]
    assert len(conversions) == 2
    # Going back to the older version does not touch what the newer one keeps.
    monkeypatch.setattr(store_module, "CONVERSION_FORMAT", CONVERSION_FORMAT)
    resolve_nemo_checkpoint(path)
    assert {entry.format for entry in list_conversions()} == {CONVERSION_FORMAT, CONVERSION_FORMAT + 1}


def test_within_one_call_a_failure_is_said_again_and_not_tried_again(make_archive, conversions):
    path = make_archive("ctc", weights=b"no weights")
    with resolved_once():
        errors = [raised(lambda: resolve_nemo_checkpoint(path)) for _ in range(2)]
    assert errors[0] is errors[1]
    assert len(conversions) == 1
    assert raised(lambda: resolve_nemo_checkpoint(path)) is not errors[0]


def raised(call: Callable[[], object]) -> Exception:
    with pytest.raises(ValueError, match=r"\.nemo") as caught:
        call()
    return caught.value
