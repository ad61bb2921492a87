"""A small Hub on loopback, so that tests run the real client: no part of `huggingface_hub` is replaced.

It holds model repositories in memory, with branches, tags and commits, and speaks what the client asks: model info,
trees, paths-info, refs, files by `resolve` (with ETag, commit, size and ranges), `whoami`, creation of repositories,
pre-upload, LFS batches, validation of model cards and commits. As on the Hub, the content of an LFS file lies on
another host (here another port) that the client is redirected to and that must never see its token. Xet is not spoken:
clients need `HF_HUB_DISABLE_XET=1` to upload.

    with HubServer() as hub:
        hub.add_repository("org/name", {"config.json": b"{}"})
        hf_hub_download("org/name", "config.json", endpoint=hub.endpoint)
        assert hub.count("GET", "config.json") == 1

`Fault` scripts what goes wrong; `requests` is the record of everything that was asked.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import parse_qs, quote, unquote, urlsplit

import yaml

Result = TypeVar("Result")

READ_TOKEN = "hf_reader"
WRITE_TOKEN = "hf_writer"

# Suffixes that the Hub's default .gitattributes give to LFS, those that occur in speech repositories.
LFS_SUFFIXES = (".bin", ".ckpt", ".model", ".nemo", ".onnx", ".pt", ".safetensors", ".tar", ".wav", ".zip")
LFS_FROM_BYTES = 10 * 1024 * 1024

FRONT_MATTER = re.compile(r"\A\s*---\r?\n(.*?)\r?\n---\s*(?:\r?\n|\Z)", re.DOTALL)
LICENSES = {"apache-2.0", "bsd-3-clause", "cc-by-4.0", "cc-by-nc-4.0", "cc-by-sa-4.0", "cc0-1.0", "mit", "other"}
PIPELINE_TAGS = {"automatic-speech-recognition", "feature-extraction"}


@dataclass(frozen=True)
class StoredFile:
    """One version of one file of a repository."""

    content: bytes
    is_lfs: bool

    @cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @cached_property
    def pointer(self) -> bytes:
        """What git stores in place of an LFS file."""
        text = f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {len(self.content)}\n"
        return text.encode()

    @cached_property
    def git_oid(self) -> str:
        blob = self.pointer if self.is_lfs else self.content
        return hashlib.sha1(b"blob %d\0" % len(blob) + blob).hexdigest()

    @cached_property
    def etag(self) -> str:
        return self.sha256 if self.is_lfs else self.git_oid

    def describe_lfs(self, hash_key: str) -> dict[str, Any]:
        return {hash_key: self.sha256, "size": len(self.content), "pointerSize": len(self.pointer)}


@dataclass(frozen=True)
class Commit:
    """A state of a repository."""

    oid: str
    summary: str
    files: Mapping[str, StoredFile]


@dataclass
class Repository:
    """A model repository: its commits and what points at them."""

    repo_id: str
    commits: dict[str, Commit] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    is_gated: bool = False
    is_private: bool = False
    members: set[str] = field(default_factory=set)  # who may read it when it is gated or private

    def commit(self, files: Mapping[str, StoredFile], summary: str, branch: str = "main") -> Commit:
        """Make a state the newest one of a branch."""
        seed = f"{self.repo_id} {len(self.commits)} {summary} {sorted((n, f.sha256) for n, f in files.items())}"
        commit = Commit(hashlib.sha1(seed.encode()).hexdigest(), summary, dict(files))
        self.commits[commit.oid] = commit
        self.branches[branch] = commit.oid
        return commit

    def at(self, revision: str) -> Commit | None:
        """The commit that a branch, a tag or a commit id names."""
        return self.commits.get(self.branches.get(revision) or self.tags.get(revision) or revision)


@dataclass
class Fault:
    """What goes wrong with the next `times` requests that match: the first fault in the list that does is used."""

    where: str  # part of the path and query, for instance "model.nemo"
    method: str = "GET"
    times: int = 1
    delay_seconds: float = 0.0
    status: int | None = None  # answer with this error instead
    content: bytes | None = None  # send these bytes instead, under the true ETag and the length of these
    cut_after_bytes: int | None = None  # promise everything, send so much, close the connection


@dataclass
class Request:
    """One request that was made."""

    method: str
    path: str  # with the query
    is_storage: bool  # asked of the host that holds the LFS files
    token: str | None
    range: str | None
    status: int = 0
    sent_bytes: int = 0


@dataclass
class Answer:
    """A response to send."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)


class RefusedError(Exception):
    """Ends a request with an error, worded as the Hub words it."""

    def __init__(self, status: int, message: str, code: str | None = None, headers: dict[str, str] | None = None):
        super().__init__(message)
        self.answer = as_json({"error": message}, status)
        self.answer.headers |= {"X-Error-Message": message, **(headers or {})}
        if code is not None:
            self.answer.headers["X-Error-Code"] = code


def as_json(value: Any, status: int = 200) -> Answer:
    return Answer(status, json.dumps(value).encode(), {"Content-Type": "application/json; charset=utf-8"})


class HubServer:
    """The Hub: `endpoint` is its address, and the host of its LFS files has one of its own."""

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.renamed: dict[str, str] = {}
        self.users = {READ_TOKEN: "reader", WRITE_TOKEN: "writer"}
        self.objects: dict[str, bytes] = {}  # LFS files by their SHA-256
        self.faults: list[Fault] = []
        self.requests: list[Request] = []
        self.unknown_paths: list[str] = []  # what was asked and no route answers: a test of that proves nothing
        self.lock = threading.RLock()
        self._servers = [_start(self, is_storage) for is_storage in (False, True)]
        self.endpoint, self.storage_endpoint = (f"http://127.0.0.1:{each.server_port}" for each in self._servers)

    def __enter__(self) -> HubServer:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop listening: from now on connections are refused."""
        for server in self._servers:
            server.shutdown()
            server.server_close()
        self._servers = []

    def add_repository(
        self, repo_id: str, files: Mapping[str, bytes] | Path, *, gated: bool = False, private: bool = False
    ) -> Repository:
        """Create a repository from contents by name, or from a folder."""
        repository = Repository(repo_id, is_gated=gated, is_private=private)
        self.repositories[repo_id] = repository
        self.add_commit(repo_id, files)
        return repository

    def add_commit(self, repo_id: str, files: Mapping[str, bytes] | Path, branch: str = "main") -> Commit:
        """Replace everything in a branch of a repository by these files."""
        if isinstance(files, Path):
            paths = sorted(path for path in files.rglob("*") if path.is_file())
            files = {path.relative_to(files).as_posix(): path.read_bytes() for path in paths}
        stored = {name: StoredFile(content, is_lfs_name(name, len(content))) for name, content in files.items()}
        with self.lock:
            self.objects.update({each.sha256: each.content for each in stored.values() if each.is_lfs})
            return self.repositories[repo_id].commit(stored, "Add files", branch)

    def count(self, method: str, text: str = "") -> int:
        """Number of requests of a method with that text in the path."""
        return len(self.asked(method, text))

    def asked(self, method: str, text: str = "") -> list[Request]:
        """Requests of a method with that text in the path, in order."""
        with self.lock:
            return [each for each in self.requests if each.method == method and text in unquote(each.path)]

    def forget_requests(self) -> None:
        """Begin the record anew."""
        with self.lock:
            self.requests.clear()

    def take_fault(self, method: str, path: str) -> Fault | None:
        """The scripted fault for this request, one use fewer of it left."""
        with self.lock:
            for fault in self.faults:
                if fault.times > 0 and fault.method == method and fault.where in unquote(path):
                    fault.times -= 1
                    return fault
        return None

    # What a request means

    def answer(self, method: str, target: str, token: str | None, body: bytes) -> Answer:
        """The response to a request for the Hub itself."""
        path, query = urlsplit(target).path, parse_qs(urlsplit(target).query)
        if token is not None and token not in self.users:
            raise RefusedError(401, "Invalid credentials in Authorization header")
        user = self.users.get(token or "")
        for route_method, pattern, handle in ROUTES:
            found = pattern.fullmatch(path)
            if found is None or method not in (route_method, "HEAD" if route_method == "GET" else route_method):
                continue
            named = {name: unquote(value) for name, value in found.groupdict().items() if value is not None}
            old_id = named.get("repo", "")
            if old_id in self.renamed:
                location = target.replace(old_id, self.renamed[old_id], 1)
                return Answer(307, b"", {"Location": location})
            with self.lock:
                return handle(self, user=user, query=query, body=body, **named)
        self.unknown_paths.append(f"{method} {path}")
        raise RefusedError(404, f"Sorry, we can't find the page {path}")

    def readable(self, repo_id: str, user: str | None, *, content: bool) -> Repository:
        """The repository, if the user may see it. Of a gated one everybody sees what it holds, members its content."""
        repository = self.repositories.get(repo_id)
        is_hidden = repository is None or (repository.is_private and user not in repository.members)
        if repository is None or is_hidden:
            # Who is not logged in does not learn whether it exists.
            if user is None:
                raise RefusedError(401, "Invalid username or password.", "RepoNotFound")
            raise RefusedError(404, "Repository not found", "RepoNotFound")
        if content and repository.is_gated and user not in repository.members:
            status, advice = (401, "log in") if user is None else (403, "ask for access")
            raise RefusedError(status, f"Access to model {repo_id} is restricted: {advice}.", "GatedRepo")
        return repository

    def writable(self, repo_id: str, user: str | None) -> Repository:
        if user is None:
            raise RefusedError(401, "Invalid username or password.")
        repository = self.readable(repo_id, user, content=True)
        if user != "writer":
            raise RefusedError(403, "You don't have the rights to write to this repository")
        return repository

    def state(self, repository: Repository, revision: str) -> Commit:
        commit = repository.at(revision)
        if commit is None:
            raise RefusedError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return commit

    def whoami(self, user: str | None, **_: Any) -> Answer:
        if user is None:
            raise RefusedError(401, "Invalid username or password.")
        role = "write" if user == "writer" else "read"
        auth = {"type": "access_token", "accessToken": {"displayName": "tests", "role": role}}
        return as_json({"type": "user", "id": user, "name": user, "fullname": user, "orgs": [], "auth": auth})

    def model_info(
        self, user: str | None, query: dict[str, list[str]], repo: str, revision: str = "main", **_: Any
    ) -> Answer:
        repository = self.readable(repo, user, content=False)
        commit = self.state(repository, revision)
        siblings: list[dict[str, Any]] = [{"rfilename": name} for name in sorted(commit.files)]
        if "blobs" in query:
            for sibling in siblings:
                stored = commit.files[sibling["rfilename"]]
                sibling |= {"size": len(stored.content), "blobId": stored.git_oid}
                sibling |= {"lfs": stored.describe_lfs("sha256")} if stored.is_lfs else {}
        card = read_card(commit.files["README.md"].content.decode()) if "README.md" in commit.files else {}
        info = {
            "_id": hashlib.sha1(repo.encode()).hexdigest()[:24],
            "id": repo,
            "modelId": repo,
            "sha": commit.oid,
            "private": repository.is_private,
            "gated": "manual" if repository.is_gated else False,
            "tags": card.get("tags", []),
            "siblings": siblings,
        }
        info |= {key: card[key] for key in ("pipeline_tag", "library_name") if key in card}
        return as_json(info | ({"cardData": card} if card else {}))

    def tree(
        self,
        user: str | None,
        query: dict[str, list[str]],
        repo: str,
        revision: str,
        folder: str = "",
        **_: Any,
    ) -> Answer:
        commit = self.state(self.readable(repo, user, content=False), revision)
        prefix = f"{folder}/" if folder else ""
        is_recursive = query.get("recursive", ["false"])[0].lower() in ("1", "true")
        entries: dict[str, dict[str, Any]] = {}
        for name in sorted(commit.files):
            if not name.startswith(prefix):
                continue
            parts = name[len(prefix) :].split("/")
            for depth in range(1, len(parts) if is_recursive else min(len(parts), 2)):
                parent = prefix + "/".join(parts[:depth])
                entries[parent] = describe_folder(parent)
            if is_recursive or len(parts) == 1:
                entries[name] = describe_file(name, commit.files[name])
        if folder and not entries:
            raise RefusedError(404, f"{folder} does not exist on {revision!r}", "EntryNotFound")
        return as_json(list(entries.values()))

    def paths_info(self, user: str | None, body: bytes, repo: str, revision: str, **_: Any) -> Answer:
        commit = self.state(self.readable(repo, user, content=False), revision)
        found = []
        for name in parse_qs(body.decode()).get("paths", []):
            if name in commit.files:
                found.append(describe_file(name, commit.files[name]))
            elif any(other.startswith(f"{name}/") for other in commit.files):
                found.append(describe_folder(name))
        return as_json(found)

    def refs(self, user: str | None, repo: str, **_: Any) -> Answer:
        repository = self.readable(repo, user, content=False)

        def describe(kind: str, pointers: dict[str, str]) -> list[dict[str, str]]:
            named = pointers.items()
            return [{"name": name, "ref": f"refs/{kind}/{name}", "targetCommit": oid} for name, oid in named]

        branches, tags = describe("heads", repository.branches), describe("tags", repository.tags)
        return as_json({"branches": branches, "tags": tags, "converts": [], "pullRequests": []})

    def auth_check(self, user: str | None, repo: str, **_: Any) -> Answer:
        self.readable(repo, user, content=True)
        return as_json({})

    def resolve(self, user: str | None, repo: str, revision: str, name: str, **_: Any) -> Answer:
        repository = self.readable(repo, user, content=True)
        commit = self.state(repository, revision)
        headers = {"X-Repo-Commit": commit.oid, "Accept-Ranges": "bytes"}
        stored = commit.files.get(name)
        if stored is None:
            raise RefusedError(404, "Entry not found", "EntryNotFound", headers)
        headers["ETag"] = f'"{stored.etag}"'
        if not stored.is_lfs:
            return Answer(200, stored.content, headers)
        headers |= {"X-Linked-Size": str(len(stored.content)), "X-Linked-Etag": f'"{stored.etag}"'}
        file_name = quote(name.rsplit("/", 1)[-1])
        headers["Location"] = f"{self.storage_endpoint}/objects/{stored.sha256}?filename={file_name}"
        return Answer(302, b"", headers)

    def create(self, user: str | None, body: bytes, **_: Any) -> Answer:
        if user is None:
            raise RefusedError(401, "Invalid username or password.")
        if user != "writer":
            raise RefusedError(403, "You don't have the rights to create a model under this namespace")
        wanted = json.loads(body)
        repo_id = f"{wanted.get('organization') or user}/{wanted['name']}"
        answer = {"url": f"{self.endpoint}/{repo_id}", "name": repo_id}
        if repo_id in self.repositories:
            return as_json(answer | {"error": "You already created this model repo"}, 409)
        is_private = wanted.get("visibility") == "private" or bool(wanted.get("private"))
        repository = Repository(repo_id, is_private=is_private, members={user})
        repository.commit({}, "initial commit")
        self.repositories[repo_id] = repository
        return as_json(answer)

    def create_branch(self, user: str | None, body: bytes, repo: str, revision: str, **_: Any) -> Answer:
        repository = self.writable(repo, user)
        if revision in repository.branches:
            raise RefusedError(409, f"Reference already exists: {revision}")
        start = json.loads(body or b"{}").get("startingPoint", "main")
        repository.branches[revision] = self.state(repository, start).oid
        return as_json({})

    def preupload(self, user: str | None, body: bytes, repo: str, revision: str, **_: Any) -> Answer:
        commit = self.state(self.writable(repo, user), revision)
        files = []
        for each in json.loads(body)["files"]:
            known = commit.files.get(each["path"])
            mode = "lfs" if is_lfs_name(each["path"], each["size"]) else "regular"
            oid = known.etag if known else None
            files.append({"path": each["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        return as_json({"files": files, "commitOid": commit.oid})

    def lfs_batch(self, user: str | None, body: bytes, repo: str, **_: Any) -> Answer:
        self.writable(repo, user)
        objects = []
        for each in json.loads(body)["objects"]:
            answer = {"oid": each["oid"], "size": each["size"]}
            if each["oid"] not in self.objects:
                upload = {"href": f"{self.storage_endpoint}/objects/{each['oid']}"}
                verify = {"href": f"{self.endpoint}/{repo}.git/info/lfs/verify"}
                answer["actions"] = {"upload": upload, "verify": verify}
            objects.append(answer)
        return as_json({"transfer": "basic", "objects": objects})

    def lfs_verify(self, user: str | None, body: bytes, repo: str, **_: Any) -> Answer:
        self.writable(repo, user)
        claimed = json.loads(body)
        if len(self.objects.get(claimed["oid"], b"")) != claimed["size"]:
            raise RefusedError(422, f"object {claimed['oid']} was not uploaded whole")
        return as_json({})

    def validate_card(self, body: bytes, **_: Any) -> Answer:
        errors, warnings = judge_card(json.loads(body)["content"])
        messages = {"errors": [{"message": e} for e in errors], "warnings": [{"message": w} for w in warnings]}
        return as_json(messages, 400 if errors else 200)

    def commit(self, user: str | None, body: bytes, repo: str, revision: str, **_: Any) -> Answer:
        repository = self.writable(repo, user)
        parent = self.state(repository, revision)
        files, summary = dict(parent.files), ""
        for line in body.decode().splitlines():
            operation = json.loads(line)
            kind, value = operation["key"], operation["value"]
            if kind == "header":
                summary = value["summary"]
                if value.get("parentCommit", parent.oid) != parent.oid:
                    raise RefusedError(412, "A commit has happened since. Please refresh and try again.")
            elif kind == "file":
                files[value["path"]] = StoredFile(base64.b64decode(value["content"]), is_lfs=False)
            elif kind == "lfsFile":
                if value["oid"] not in self.objects:
                    raise RefusedError(400, f"LFS pointer of {value['path']} points to a file that does not exist")
                files[value["path"]] = StoredFile(self.objects[value["oid"]], is_lfs=True)
            elif kind == "deletedFile":
                del files[value["path"]]
            elif kind == "deletedFolder":
                prefix = value["path"].rstrip("/") + "/"
                files = {name: stored for name, stored in files.items() if not name.startswith(prefix)}
            else:
                raise RefusedError(400, f"unknown operation {kind!r}")
        commit = repository.commit(files, summary, revision)
        url = f"{self.endpoint}/{repo}/commit/{commit.oid}"
        return as_json({"success": True, "commitUrl": url, "commitOid": commit.oid, "hookOutput": ""})

    def answer_storage(self, method: str, target: str, token: str | None, body: bytes) -> Answer:
        """The response to a request for the host of the LFS files."""
        sha256 = urlsplit(target).path.rsplit("/", 1)[-1]
        if token is not None:
            raise RefusedError(400, "a token was sent to the storage host, whose addresses are signed")
        if method == "PUT":
            if hashlib.sha256(body).hexdigest() != sha256:
                raise RefusedError(400, f"what was sent does not have the SHA-256 {sha256}")
            with self.lock:
                self.objects[sha256] = body
            return Answer()
        if sha256 not in self.objects:
            raise RefusedError(404, "no such object")
        return Answer(200, self.objects[sha256], {"ETag": f'"{sha256}"', "Accept-Ranges": "bytes"})


def call_again_if_cut(download: Callable[[], Result]) -> Result:
    """Call once more when a cut connection is raised: before `huggingface_hub` 2 only the next call resumes."""
    try:
        return download()
    except Exception as error:
        # A cut connection is `httpx.RemoteProtocolError` or what a caller makes of it.
        causes = [error, error.__cause__, error.__context__]
        if not any("RemoteProtocolError" in type(cause).__name__ for cause in causes):
            raise
        return download()


def is_lfs_name(name: str, size_bytes: int) -> bool:
    return name.endswith(LFS_SUFFIXES) or size_bytes >= LFS_FROM_BYTES


def describe_file(name: str, stored: StoredFile) -> dict[str, Any]:
    entry = {"type": "file", "path": name, "oid": stored.git_oid, "size": len(stored.content)}
    return entry | ({"lfs": stored.describe_lfs("oid")} if stored.is_lfs else {})


def describe_folder(name: str) -> dict[str, Any]:
    return {"type": "directory", "path": name, "oid": hashlib.sha1(name.encode()).hexdigest(), "size": 0}


def read_card(text: str) -> dict[str, Any]:
    """Metadata of a model card; empty where there is none or it is no mapping."""
    found = FRONT_MATTER.match(text)
    try:
        card = yaml.safe_load(found.group(1)) if found else None
    except yaml.YAMLError:
        card = None
    # Dates and the like become text, as in the answers of the Hub.
    return json.loads(json.dumps(card, default=str)) if isinstance(card, dict) else {}


def judge_card(text: str) -> tuple[list[str], list[str]]:
    """Errors and warnings about the metadata of a model card: a part of what the Hub checks."""
    found = FRONT_MATTER.match(text)
    if found is None:
        return [], ["empty or missing yaml metadata in repo card"]
    try:
        card = yaml.safe_load(found.group(1))
    except yaml.YAMLError as error:
        return [f"YAML metadata is invalid: {error}"], []
    if not isinstance(card, dict):
        return ["YAML metadata must be a mapping"], []
    errors = []
    if "license" in card and card["license"] not in LICENSES:
        errors.append(f'"license" must be one of {sorted(LICENSES)}')
    if card.get("license") == "other" and "license_link" in card and "license_name" not in card:
        errors.append('"license_name" is required where "license" is "other" and there is a "license_link"')
    if "pipeline_tag" in card and card["pipeline_tag"] not in PIPELINE_TAGS:
        errors.append(f'"pipeline_tag" must be one of {sorted(PIPELINE_TAGS)}')
    for key, pattern in {"language": "[a-z]{2,3}", "base_model": r"[\w.-]+/[\w.-]+", "tags": r"\S.{0,62}"}.items():
        values = card.get(key, [])
        for value in values if isinstance(values, list) else [values]:
            if not isinstance(value, str) or re.fullmatch(pattern, value) is None:
                errors.append(f'"{key}" has {value!r}, which does not match {pattern}')
    return errors, []


REPO = r"(?P<repo>[^/]+(?:/[^/]+)?)"
REVISION = r"(?P<revision>[^/]+)"
# Method, path, and who answers. A HEAD is a GET without the body.
ROUTES = [
    (method, re.compile(pattern), handle)
    for method, pattern, handle in (
        ("GET", "/api/whoami-v2", HubServer.whoami),
        ("POST", "/api/validate-yaml", HubServer.validate_card),
        ("POST", "/api/repos/create", HubServer.create),
        ("GET", f"/api/models/{REPO}/revision/{REVISION}", HubServer.model_info),
        ("GET", f"/api/models/{REPO}/tree/{REVISION}(?:/(?P<folder>.+))?", HubServer.tree),
        ("POST", f"/api/models/{REPO}/paths-info/{REVISION}", HubServer.paths_info),
        ("POST", f"/api/models/{REPO}/preupload/{REVISION}", HubServer.preupload),
        ("POST", f"/api/models/{REPO}/commit/{REVISION}", HubServer.commit),
        ("POST", f"/api/models/{REPO}/branch/{REVISION}", HubServer.create_branch),
        ("GET", f"/api/models/{REPO}/refs", HubServer.refs),
        ("GET", f"/api/models/{REPO}/auth-check", HubServer.auth_check),
        ("GET", f"/api/models/{REPO}", HubServer.model_info),
        ("POST", rf"/{REPO}\.git/info/lfs/objects/batch", HubServer.lfs_batch),
        ("POST", rf"/{REPO}\.git/info/lfs/verify", HubServer.lfs_verify),
        ("GET", f"/{REPO}/resolve/{REVISION}/(?P<name>.+)", HubServer.resolve),
    )
]


class _Handler(BaseHTTPRequestHandler):
    """Reads a request, records it, sends the answer of the Hub or what a fault makes of it."""

    protocol_version = "HTTP/1.1"
    hub: HubServer
    is_storage: bool

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except (ConnectionError, TimeoutError):  # the client went away
            self.close_connection = True

    def respond(self) -> None:
        body = self._read_body()
        header = self.headers.get("Authorization") or ""
        token = header.removeprefix("Bearer ") or None
        request = Request(self.command, self.path, self.is_storage, token, self.headers.get("Range"))
        with self.hub.lock:
            self.hub.requests.append(request)
        fault = self.hub.take_fault(self.command, self.path) or Fault("")
        time.sleep(fault.delay_seconds)
        answer_to = self.hub.answer_storage if self.is_storage else self.hub.answer
        try:
            if fault.status is not None:
                raise RefusedError(fault.status, "something went wrong, as the test wants it")
            answer = answer_to(self.command, self.path, token, body)
            if fault.content is not None:
                answer.body = fault.content
            if request.range is not None and answer.status == 200:
                apply_range(answer, request.range)
        except RefusedError as refused:
            answer = refused.answer
        self._send(answer, request, fault.cut_after_bytes)

    do_GET = do_HEAD = do_POST = do_PUT = respond  # noqa: N815

    def _read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size_bytes := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size_bytes))
            self.rfile.readline()  # the end of the chunk
        while self.rfile.readline().strip():  # trailers
            pass
        return b"".join(parts)

    def _send(self, answer: Answer, request: Request, cut_after_bytes: int | None) -> None:
        request.status = answer.status
        self.send_response(answer.status)
        for name, value in {"Content-Length": str(len(answer.body)), **answer.headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        sent = answer.body if cut_after_bytes is None else answer.body[:cut_after_bytes]
        request.sent_bytes = len(sent)
        self.wfile.write(sent)
        if cut_after_bytes is not None:
            self.wfile.flush()
            self.close_connection = True

    def log_message(self, format: str, *arguments: Any) -> None:
        """The record of requests is the log."""


def apply_range(answer: Answer, wanted: str) -> None:
    """Cut the body to a range of bytes, `bytes=first-` or `bytes=first-last`."""
    found = re.fullmatch(r"bytes=(\d+)-(\d*)", wanted)
    size_bytes = len(answer.body)
    if found is None or int(found.group(1)) >= size_bytes:
        raise RefusedError(416, "Range not satisfiable", headers={"Content-Range": f"bytes */{size_bytes}"})
    first = int(found.group(1))
    last = min(int(found.group(2) or size_bytes - 1), size_bytes - 1)
    answer.status, answer.body = 206, answer.body[first : last + 1]
    answer.headers["Content-Range"] = f"bytes {first}-{last}/{size_bytes}"


def _start(hub: HubServer, is_storage: bool) -> ThreadingHTTPServer:
    handler = type("Handler", (_Handler,), {"hub": hub, "is_storage": is_storage})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    return server
