"""The test Hub itself, with the real client: what it serves, what it refuses, what its faults do."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from hub_server import READ_TOKEN, WRITE_TOKEN, Fault, HubServer, call_again_if_cut
from huggingface_hub import CommitOperationDelete, HfApi, constants, hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

WEIGHTS = bytes(range(256)) * 1000
FILES = {"config.json": b'{"a": 1}', "weights.bin": WEIGHTS, "folder/deep/notes.txt": b"words"}


def test_files_come_as_they_are_and_once(client: HubServer) -> None:
    repository = client.add_repository("org/name", FILES)
    for _ in range(2):
        for name, content in FILES.items():
            assert Path(hf_hub_download("org/name", name)).read_bytes() == content
    assert [client.count("GET", name) for name in ("config.json", "weights.bin", "notes.txt")] == [1, 1, 1]
    folder = Path(snapshot_download("org/name"))
    assert folder.name == repository.branches["main"]
    assert {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} == set(FILES)
    # LFS content comes from the other host, everything else from the Hub.
    assert [each.is_storage for each in client.asked("GET", "weights.bin")] == [True]
    assert not any(each.is_storage for each in client.asked("GET", "config.json"))


def test_what_the_api_tells(client: HubServer) -> None:
    card = b"---\nlicense: mit\npipeline_tag: automatic-speech-recognition\n---\n# A card\n"
    repository = client.add_repository("org/name", {**FILES, "README.md": card})
    repository.tags["v1"] = repository.branches["main"]
    api = HfApi()
    info = api.model_info("org/name", files_metadata=True)
    assert (info.sha, info.pipeline_tag) == (repository.branches["main"], "automatic-speech-recognition")
    sizes = {sibling.rfilename: sibling.size for sibling in info.siblings or []}
    assert sizes == {name: len(content) for name, content in {**FILES, "README.md": card}.items()}
    tree = {entry.path: entry for entry in api.list_repo_tree("org/name", recursive=True)}
    assert set(tree) == {*FILES, "README.md", "folder", "folder/deep"}
    assert tree["weights.bin"].lfs.sha256 == hashlib.sha256(WEIGHTS).hexdigest()
    assert [entry.path for entry in api.list_repo_tree("org/name", "folder")] == ["folder/deep"]
    assert [entry.path for entry in api.get_paths_info("org/name", ["config.json", "folder", "no"])] == [
        "config.json",
        "folder",
    ]
    refs = api.list_repo_refs("org/name")
    assert ([branch.name for branch in refs.branches], [tag.name for tag in refs.tags]) == (["main"], ["v1"])
    assert api.whoami(token=READ_TOKEN)["name"] == "reader"


def test_revisions(client: HubServer) -> None:
    repository = client.add_repository("org/name", {"a.txt": b"first"})
    first = repository.branches["main"]
    repository.tags["v1"] = first
    client.add_commit("org/name", {"a.txt": b"second"})
    client.add_commit("org/name", {"a.txt": b"third"}, branch="a/branch")
    expected = {"main": b"second", "v1": b"first", first: b"first", "a/branch": b"third"}
    for revision, content in expected.items():
        assert Path(hf_hub_download("org/name", "a.txt", revision=revision)).read_bytes() == content
    with pytest.raises(RevisionNotFoundError):
        hf_hub_download("org/name", "a.txt", revision="no-such-branch")
    with pytest.raises(EntryNotFoundError):
        hf_hub_download("org/name", "b.txt")


def test_a_renamed_repository_is_followed(client: HubServer) -> None:
    client.add_repository("org/new", FILES)
    client.renamed["org/old"] = "org/new"
    assert Path(hf_hub_download("org/old", "weights.bin")).read_bytes() == WEIGHTS
    assert HfApi().model_info("org/old").id == "org/new"


def test_who_may_read(client: HubServer) -> None:
    client.add_repository("org/gated", FILES, gated=True)
    client.add_repository("org/private", FILES, private=True)
    for token in (None, READ_TOKEN):
        with pytest.raises(GatedRepoError):
            hf_hub_download("org/gated", "config.json", token=token)
        for repo_id in ("org/private", "org/missing"):
            with pytest.raises(RepositoryNotFoundError):
                hf_hub_download(repo_id, "config.json", token=token)
    with pytest.raises(HfHubHTTPError, match="Invalid credentials"):
        HfApi().model_info("org/gated", token="hf_unknown")
    statuses = [request.status for request in client.asked("HEAD", "gated")]
    assert statuses == [401, 403]
    for repo_id in ("org/gated", "org/private"):
        client.repositories[repo_id].members.add("reader")
        # The token stays with the Hub: the storage host refuses requests that carry one.
        assert Path(hf_hub_download(repo_id, "weights.bin", token=READ_TOKEN)).read_bytes() == WEIGHTS


@pytest.mark.slow
def test_a_cut_connection_is_resumed(client: HubServer) -> None:
    weights = WEIGHTS * 45  # 11.5 MB: the client keeps what it received in whole chunks of 10 MiB
    kept_bytes = constants.DOWNLOAD_CHUNK_SIZE
    client.add_repository("org/name", {"weights.bin": weights})
    client.faults.append(Fault("weights.bin", cut_after_bytes=11_000_000))
    path = call_again_if_cut(lambda: hf_hub_download("org/name", "weights.bin"))
    assert Path(path).read_bytes() == weights
    asked = client.asked("GET", "weights.bin")
    assert [each.range for each in asked] == [None, f"bytes={kept_bytes}-"]
    assert [each.sent_bytes for each in asked] == [11_000_000, len(weights) - kept_bytes]


def test_other_faults(client: HubServer, hf_home: Path) -> None:
    client.add_repository("org/name", FILES)
    client.faults += [Fault("weights.bin", content=WEIGHTS[:-1]), Fault("config.json", status=400)]
    with pytest.raises(OSError, match="Consistency check failed"):
        hf_hub_download("org/name", "weights.bin")
    with pytest.raises(HfHubHTTPError):
        hf_hub_download("org/name", "config.json")
    assert [path for path in hf_home.rglob("blobs/*") if path.suffix != ".incomplete"] == []
    assert Path(hf_hub_download("org/name", "config.json")).read_bytes() == FILES["config.json"]


def test_a_slow_server_and_none(client: HubServer) -> None:
    client.add_repository("org/name", {"a.txt": b"first", "b.txt": b"never seen"})
    client.faults.append(Fault("a.txt", "HEAD", delay_seconds=0.4))
    # Nothing in the cache: the client asks again with more patience.
    assert Path(hf_hub_download("org/name", "a.txt", etag_timeout=0.1)).read_bytes() == b"first"
    assert client.count("HEAD", "a.txt") == 2
    client.add_commit("org/name", {"a.txt": b"second"})
    client.faults.append(Fault("a.txt", "HEAD", delay_seconds=0.4))
    # Something in the cache: that it is.
    assert Path(hf_hub_download("org/name", "a.txt", etag_timeout=0.1)).read_bytes() == b"first"
    assert Path(hf_hub_download("org/name", "a.txt")).read_bytes() == b"second"
    client.close()
    assert Path(hf_hub_download("org/name", "a.txt")).read_bytes() == b"second"


def test_pushing(client: HubServer, tmp_path: Path) -> None:
    api = HfApi(token=WRITE_TOKEN)
    repo_id = api.create_repo("writer/pushed").repo_id
    with pytest.raises(HfHubHTTPError, match="409"):
        api.create_repo("writer/pushed")
    for name, content in FILES.items():
        path = tmp_path / "folder" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    first = api.upload_folder(repo_id=repo_id, folder_path=tmp_path / "folder", commit_message="Everything")
    repository = client.repositories[repo_id]
    state = repository.commits[repository.branches["main"]]
    assert (state.oid, state.summary) == (first.oid, "Everything")
    assert {name: stored.content for name, stored in state.files.items()} == FILES
    assert state.files["weights.bin"].is_lfs
    assert client.count("PUT", "/objects/") == 1
    # The same again is no commit and no upload; a deletion is one.
    assert api.upload_folder(repo_id=repo_id, folder_path=tmp_path / "folder").oid == first.oid
    assert client.count("PUT", "/objects/") == 1
    api.create_commit(repo_id, [CommitOperationDelete("folder/")], commit_message="Fewer")
    assert set(repository.commits[repository.branches["main"]].files) == {"config.json", "weights.bin"}
    assert Path(hf_hub_download(repo_id, "weights.bin")).read_bytes() == WEIGHTS


def test_pushing_is_refused(client: HubServer) -> None:
    client.add_repository("org/name", FILES)
    bad_card = b"---\nlicense: unheard-of\n---\n"
    for token, error in ((READ_TOKEN, "403"), ("hf_unknown", "401")):
        with pytest.raises(HfHubHTTPError, match=error):
            HfApi(token=token).upload_file(path_or_fileobj=b"x", path_in_repo="a.txt", repo_id="org/name")
    api = HfApi(token=WRITE_TOKEN)
    with pytest.raises(ValueError, match="license"):
        api.upload_file(path_or_fileobj=bad_card, path_in_repo="README.md", repo_id="org/name")
    with pytest.raises(RepositoryNotFoundError):
        api.upload_file(path_or_fileobj=b"x", path_in_repo="a.txt", repo_id="org/missing")
    assert len(client.repositories["org/name"].commits) == 1
