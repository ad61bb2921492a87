"""From a name to a `.nemo` file; the real client and a server are in `integration/test_hub_nemo.py`."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from transformers_fastconformer.checkpoints import hub as hub_module
from transformers_fastconformer.nemo import locate as locate_module
from transformers_fastconformer.nemo.locate import (
    FoundArchive,
    find_archive,
    is_hub_name,
    refuse_other_paths,
    require_archive,
)

COMMIT = "b" * 40


class FakeHub:
    """Takes the place of the two functions that reach the Hub, and notes what they are asked."""

    def __init__(self, cache: Path) -> None:
        self.cache = cache
        self.files: dict[str, list[str]] = {}
        self.pipeline_tags: dict[str, str] = {}
        self.error: Exception | None = None
        self.asked: list[tuple[Any, ...]] = []

    def model_info(self, hub_id: str, *, revision: str | None, token: Any) -> SimpleNamespace:
        self.asked.append(("info", hub_id, revision, token))
        if self.error is not None:
            raise self.error
        siblings = [SimpleNamespace(rfilename=name) for name in self.files[hub_id]]
        return SimpleNamespace(sha=COMMIT, siblings=siblings, pipeline_tag=self.pipeline_tags.get(hub_id))

    def cached_file(self, hub_id: str, file_name: str, **options: Any) -> str:
        self.asked.append(("file", hub_id, file_name, options))
        if file_name not in self.files.get(hub_id, ()):
            raise OSError(f"{hub_id} does not appear to have a file named {file_name}.")
        return str(self.store(hub_id, file_name))

    def store(self, hub_id: str, file_name: str, commit: str = COMMIT) -> Path:
        """Put a file into the cache of the Hub as if it had been downloaded."""
        repository = self.cache / f"models--{hub_id.replace('/', '--')}"
        path = repository / "snapshots" / commit / file_name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"content")
        (repository / "refs").mkdir(exist_ok=True)
        (repository / "refs" / "main").write_text(commit)
        return path


@pytest.fixture(autouse=True)
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    fake = FakeHub(tmp_path / "hub")
    monkeypatch.setattr(hub_module, "HfApi", lambda: fake)
    for module in (hub_module, locate_module):
        monkeypatch.setattr(module, "cached_file", fake.cached_file)
    monkeypatch.setattr(hub_module.constants, "HF_HUB_CACHE", str(fake.cache))
    monkeypatch.setattr(hub_module, "is_offline_mode", lambda: False)
    monkeypatch.setattr(
        hub_module,
        "try_to_load_from_cache",
        lambda hub_id, name, *, cache_dir, revision: next(
            (str(path) for path in fake.cache.rglob(name) if revision in path.parts), None
        ),
    )
    return fake


# On disk


def test_paths(tmp_path, hub):
    archive = tmp_path / "a.nemo"
    archive.write_bytes(b"a")
    (tmp_path / "config.yaml").write_text("")
    assert find_archive(archive) == find_archive(str(archive)) == FoundArchive(archive)
    assert find_archive(tmp_path) == FoundArchive(archive)
    assert find_archive(tmp_path / "config.yaml") is None
    assert find_archive(tmp_path.parent, {"subfolder": tmp_path.name}) == FoundArchive(archive)
    assert find_archive(tmp_path, {"subfolder": "absent"}) is None
    (tmp_path / "config.json").write_text("{}")
    assert find_archive(tmp_path) is None
    assert require_archive(tmp_path) == find_archive(archive) == FoundArchive(archive)
    assert hub.asked == []


def test_several_in_a_folder(tmp_path):
    for name in ("b.nemo", "a.nemo"):
        (tmp_path / name).write_bytes(b"")
    message = rf"{tmp_path} holds 2 \.nemo files: a\.nemo, b\.nemo; name one of them, such as '{tmp_path}/a\.nemo'"
    for find in (find_archive, require_archive):
        with pytest.raises(ValueError, match=message):
            find(tmp_path)


def test_an_unpacked_archive(tmp_path):
    for find in (find_archive, require_archive):
        (tmp_path / "model_config.yaml").write_text("")
        assert find(tmp_path) == FoundArchive(tmp_path)
        (tmp_path / "m.nemo").write_bytes(b"")  # unless there is a whole archive next to a configuration alone
        assert find(tmp_path) == FoundArchive(tmp_path / "m.nemo")
        (tmp_path / "model_weights.ckpt").write_bytes(b"")
        assert find(tmp_path) == FoundArchive(tmp_path)
        for path in list(tmp_path.iterdir()):
            path.unlink()


def test_what_macos_keeps_of_an_archive_is_not_a_second_one(tmp_path, hub):
    for name in ("m.nemo", "._m.nemo"):
        (tmp_path / name).write_bytes(b"")
    for find in (find_archive, require_archive):
        assert find(tmp_path) == FoundArchive(tmp_path / "m.nemo")
    hub.files["org/name"] = ["._m.nemo", "m.nemo"]
    assert find_archive("org/name").file_name == "m.nemo"
    hub.store("org/name", "._m.nemo")
    assert find_archive("org/name", {"local_files_only": True}).file_name == "m.nemo"


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_archives_of_other_names(tmp_path, mode):
    path = tmp_path / "checkpoint"
    for names, is_archive in (
        (["./tokenizer.model", "./model_config.yaml"], True),
        (["model_config.yaml"], True),
        (["other.yaml"], False),
    ):
        with tarfile.open(path, mode) as tar:
            for name in names:
                tar.addfile(tarfile.TarInfo(name), io.BytesIO())
        assert find_archive(path) == (FoundArchive(path) if is_archive else None)
    for content in (b"", b"{}", b"\x1f\x8bspoilt", bytes(4096)):
        path.write_bytes(content)
        assert find_archive(path) is None


def test_addresses_of_files(tmp_path):
    path = tmp_path / "a b.nemo"
    path.write_bytes(b"")
    for find in (find_archive, require_archive):
        assert find(path.as_uri()) == FoundArchive(path)
        assert find(tmp_path.as_uri()) == FoundArchive(path)


def test_paths_of_other_things_are_refused(tmp_path):
    for name in ("org/name", "absent"):
        refuse_other_paths(name)
    folder = tmp_path / "folder"
    folder.mkdir()
    with pytest.raises(
        ValueError, match=r"folder is not a checkpoint: it holds nothing; expected a \.nemo archive, a f"
    ):
        refuse_other_paths(folder)
    for number in range(7):
        (folder / f"{number}.wav").write_bytes(b"")
    with pytest.raises(ValueError, match=r"it holds '0\.wav', .*, '4\.wav' and 2 more; expected"):
        refuse_other_paths(folder)
    with pytest.raises(ValueError, match=r"0\.wav is not a checkpoint: it is empty; expected"):
        refuse_other_paths(folder / "0.wav")
    (folder / "1.wav").write_bytes(b"RIFF")
    with pytest.raises(ValueError, match=r"1\.wav is not a checkpoint: its 4 bytes are not a tar with model_config"):
        refuse_other_paths(folder / "1.wav")
    (folder / "config.json").write_text("{}")
    refuse_other_paths(folder)
    with pytest.raises(ValueError, match=r"it is the configuration of one, and the folder '.*' may be meant"):
        refuse_other_paths(folder / "config.json")
    (folder / "m").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n")
    with pytest.raises(ValueError, match=r"m is a pointer of Git LFS, without the content .*git lfs pull"):
        refuse_other_paths(folder / "m")


@pytest.mark.parametrize("name", ["./absent", "/no/such/folder", "a/b/c", "a b/c", "", "."])
def test_what_is_no_name_of_a_repository_is_not_looked_for(name, hub, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_archive(name) is None
    with pytest.raises(
        ValueError, match=r"no such file or folder; expected a \.nemo file|expected a \.nemo file in it"
    ):
        require_archive(name)
    assert hub.asked == []


@pytest.mark.parametrize("name", ["absent.nemo", "a/b.nemo", "./a/b/c.nemo", "/no/such/folder/a.nemo"])
@pytest.mark.parametrize("options", [{}, {"only_if_known": True}])
def test_a_missing_file_is_refused_at_once(name, options, hub, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=rf"'{name}' does not exist; expected a \.nemo file, or owner/"):
        find_archive(name, **options)
    with pytest.raises(ValueError, match=r"no such file or folder; expected a \.nemo file"):
        require_archive(name)
    assert hub.asked == []


# On the Hub


def test_a_repository_is_asked_once(hub):
    hub.files["org/name"] = ["README.md", "model.nemo"]
    found = find_archive("org/name", {"token": "t", "revision": "v1", "force_download": False, "dtype": "auto"})
    assert found == FoundArchive(
        hub.cache / f"models--org--name/snapshots/{COMMIT}/model.nemo", "org/name", "model.nemo", COMMIT
    )
    assert found.source == "org/name"
    assert hub.asked == [
        ("info", "org/name", "v1", "t"),
        ("file", "org/name", "model.nemo", {"token": "t", "revision": "v1", "force_download": False}),
    ]
    hub.asked.clear()
    assert find_archive("org/name", {"revision": "v1"}) == found
    assert hub.asked == [("info", "org/name", "v1", None)]  # the file is there
    find_archive("org/name", {"revision": "v1", "force_download": True})
    assert hub.asked[-1] == ("file", "org/name", "model.nemo", {"revision": "v1", "force_download": True})


@pytest.mark.parametrize("files", [["config.json", "model.nemo"], ["README.md"], []])
def test_repositories_of_another_kind(hub, files):
    hub.files["org/name"] = files
    assert find_archive("org/name") is None
    assert [question[0] for question in hub.asked] == ["info"]


def test_archives_of_texts_are_left_alone(hub):
    hub.files["org/name"] = ["model.nemo"]
    hub.pipeline_tags["org/name"] = "text-generation"
    assert find_archive("org/name") is None
    assert [question[0] for question in hub.asked] == ["info"]


def test_a_conversion_takes_the_archive_beside_a_configuration(hub):
    hub.files["org/name"] = ["config.json", "model.nemo"]
    assert require_archive("org/name").file_name == "model.nemo"
    with pytest.raises(TypeError, match="dtype is not an option; expected one of"):
        require_archive("org/name", {"dtype": "auto"})
    hub.files["org/name"] = ["config.json"]
    with pytest.raises(ValueError, match=r"org/name: expected a \.nemo file in it; found none"):
        require_archive("org/name")


def test_several_in_a_repository(hub):
    hub.files["org/name"] = ["b.nemo", "a.nemo", "deep/c.nemo"]
    message = r"org/name holds 2 \.nemo files: a\.nemo, b\.nemo; name one of them, such as 'org/name/a\.nemo'"
    for find in (find_archive, require_archive):
        with pytest.raises(ValueError, match=message):
            find("org/name")
    assert find_archive("org/name/b.nemo").file_name == "b.nemo"
    assert find_archive("org/name/deep/c.nemo").file_name == "deep/c.nemo"
    assert find_archive("org/name", {"subfolder": "deep"}).file_name == "deep/c.nemo"
    assert find_archive("org/name/c.nemo", {"subfolder": "deep"}).file_name == "deep/c.nemo"
    with pytest.raises(OSError, match=r"does not appear to have a file named no\.nemo"):
        find_archive("org/name/no.nemo")
    hub.files["org/name"] = ["deep/c.nemo"]
    with pytest.raises(ValueError, match=r"only in folders: deep/c\.nemo; name one of them, such as 'org/name/deep/c"):
        find_archive("org/name")


def test_the_configuration_of_a_subfolder_counts(hub):
    hub.files["org/name"] = ["config.json", "deep/model.nemo"]
    assert find_archive("org/name", {"subfolder": "deep"}).file_name == "deep/model.nemo"
    hub.files["org/name"] = ["model.nemo", "deep/config.json", "deep/model.nemo"]
    assert find_archive("org/name", {"subfolder": "deep"}) is None
    assert find_archive("org/name").file_name == "model.nemo"


def test_only_what_is_known_is_not_asked_for(hub):
    hub.files["org/name"] = ["model.nemo"]
    assert find_archive("org/name", only_if_known=True) is None
    assert hub.asked == []
    hub.store("org/name", "model.nemo")
    assert find_archive("org/name", only_if_known=True).file_name == "model.nemo"
    assert find_archive("org/name", {"revision": "other"}, only_if_known=True) is None
    hub.asked.clear()
    hub.store("org/name", "config.json")
    assert find_archive("org/name") is None  # loaded in the usual way before
    assert hub.asked == []


@pytest.mark.parametrize("is_option", [True, False])
def test_offline(hub, is_option, monkeypatch):
    options = {"local_files_only": True} if is_option else {}
    monkeypatch.setattr(hub_module, "is_offline_mode", lambda: not is_option)
    hub.files["org/name"] = ["model.nemo"]
    assert find_archive("org/name", options) is None
    hub.store("org/name", "model.nemo")
    for revision in (None, "main", COMMIT, SimpleNamespace(initial=None, resolved=COMMIT)):
        assert find_archive("org/name", {**options, "revision": revision}).commit == COMMIT
        assert require_archive("org/name", {**options, "revision": revision}).commit == COMMIT
    assert find_archive("org/name", {**options, "revision": "c" * 40}) is None
    assert not [question for question in hub.asked if question[0] == "info"]


def test_a_hub_that_does_not_answer(hub):
    hub.files["org/name"] = ["model.nemo"]
    hub.error = ConnectionError("no network")
    assert find_archive("org/name") is None  # the usual way of loading says why
    with pytest.raises(OSError, match=r"org/name does not appear to have a file named config\.json"):
        require_archive("org/name")
    hub.store("org/name", "model.nemo")
    assert find_archive("org/name").file_name == "model.nemo"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("org/name", True),
        ("name", True),
        ("org/name/a.nemo", True),
        ("org/name/deep/a.nemo", True),
        ("org/a.nemo", False),
        ("a.nemo", False),
        ("./name", False),
        ("/org/name", False),
        ("a b", False),
    ],
)
def test_names_that_the_hub_may_know(name, expected):
    assert is_hub_name(name) is expected


def test_only_downloads_are_checked(tmp_path):
    (tmp_path / "blobs").mkdir()
    blob = tmp_path / "blobs" / ("0" * 64)
    blob.write_bytes(b"other content")
    archive = FoundArchive(blob, "org/name", "model.nemo", COMMIT)
    assert archive.expected_digest == "0" * 64
    with pytest.raises(ValueError, match=r"org/name: the download of model\.nemo is damaged"):
        archive.check_content()
    local = FoundArchive(blob)
    assert local.expected_digest is None
    local.check_content()
