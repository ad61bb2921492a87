"""
Files of repositories on the Hub: names, the Hub's cache, downloads and the check of their content.

Downloads go through `transformers.utils.hub.cached_file`, so revisions, tokens, offline mode, proxies, the cache and
the words of its errors are those of Transformers.
"""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import Mapping
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, ModelInfo, constants, try_to_load_from_cache
from huggingface_hub.file_download import repo_folder_name
from transformers.utils.hub import cached_file, is_offline_mode

from .network import is_without_network

HUB_ID = re.compile(r"[A-Za-z0-9][\w.\-]*(/[\w.\-]+)?")
COMMIT = re.compile(r"[0-9a-f]{40}")
SNAPSHOT = re.compile(r"snapshots[/\\]([0-9a-f]{40})[/\\]")
SHA256 = re.compile(r"[0-9a-f]{64}")
DOWNLOAD_OPTIONS = ("cache_dir", "force_download", "local_files_only", "proxies", "revision", "token")
HASH_BYTES = 2**20
# The client tries to reach the Hub for about 20 seconds; several parts of one call need not do so one after another.
UNREACHABLE_SECONDS = 5.0

_unreachable_at: ContextVar[float | None] = ContextVar("unreachable_at", default=None)


def is_hub_id(name: str) -> bool:
    """Tell whether a name may be that of a repository."""
    return HUB_ID.fullmatch(name) is not None


def is_offline(options: Mapping[str, Any]) -> bool:
    """Tell whether the options of a call or the environment forbid to ask the Hub."""
    return bool(options.get("local_files_only")) or is_offline_mode()


def download_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a call that are given and that `cached_file` takes, without the subfolder."""
    return {key: options[key] for key in DOWNLOAD_OPTIONS if options.get(key) is not None}


def path_in_repository(subfolder: str, name: str) -> str:
    """A file of a subfolder as repositories name it."""
    subfolder = subfolder.strip("/")
    return f"{subfolder}/{name}" if subfolder else name


def ask_hub(hub_id: str, options: Mapping[str, Any]) -> ModelInfo:
    """The commit, the files and the task of a repository, by one request, which is not tried again."""
    try:
        info = HfApi().model_info(
            hub_id, revision=_plain_revision(options.get("revision")), token=options.get("token")
        )
    except Exception as error:
        _unreachable_at.set(time.monotonic() if is_without_network(error) else None)
        raise
    _unreachable_at.set(None)
    return info


def was_unreachable() -> bool:
    """Tell whether [`ask_hub`] did not reach the Hub a moment ago: only the last part of a call tries again then."""
    seen = _unreachable_at.get()
    return seen is not None and time.monotonic() - seen < UNREACHABLE_SECONDS


def download_file(
    hub_id: str, file_name: str, options: Mapping[str, Any], commit: str | None = None
) -> tuple[Path, str | None]:
    """
    Find a file in the cache of the Hub, after a download if it is not there, and the commit to which it belongs.

    Args:
        hub_id: The repository.
        file_name: Path of the file in it.
        options: Options of the call, see [`download_options`].
        commit: The commit, if it is known: for files of it in the cache the Hub is not asked again.

    Raises:
        OSError: for a file that cannot be had, in the words of Transformers.
    """
    path = None
    if commit is not None and not options.get("force_download"):
        cached = try_to_load_from_cache(hub_id, file_name, cache_dir=options.get("cache_dir"), revision=commit)
        path = cached if isinstance(cached, str) else None
    if path is None:
        path = cached_file(hub_id, file_name, **download_options(options))
    assert path is not None  # it raises for what is missing
    return Path(path), snapshot_commit(path) or commit


def cached_snapshot(hub_id: str, options: Mapping[str, Any]) -> Path | None:
    """The folder of a revision in the cache of the Hub; None if the cache does not have it."""
    repository = Path(options.get("cache_dir") or constants.HF_HUB_CACHE) / repo_folder_name(
        repo_id=hub_id, repo_type="model"
    )
    revision = _plain_revision(options.get("revision")) or constants.DEFAULT_REVISION
    reference = repository / "refs" / revision
    if COMMIT.fullmatch(revision):
        commit = revision
    elif reference.is_file():
        commit = reference.read_text().strip()
    else:
        return None
    return repository / "snapshots" / commit


def snapshot_commit(path: str | os.PathLike[str]) -> str | None:
    """The commit to which a file in the cache of the Hub belongs."""
    snapshot = SNAPSHOT.search(os.fspath(path))
    return snapshot[1] if snapshot else None


def _plain_revision(revision: Any) -> str | None:
    """A revision as text; newer versions of Transformers pass it on together with its commit."""
    revision = getattr(revision, "resolved", None) or revision
    return None if revision is None else str(revision)


# The content


def blob_digest(path: Path) -> str | None:
    """SHA-256 of a large file in the cache of the Hub, which is the name of the file that it links to; else None."""
    blob = path.resolve()
    return blob.name if blob.parent.name == "blobs" and SHA256.fullmatch(blob.name) else None


def file_digest(path: Path) -> str:
    """SHA-256 of a file."""
    digest = hashlib.sha256()
    buffer = memoryview(bytearray(HASH_BYTES))
    with open(path, "rb", buffering=0) as file:
        while count := file.readinto(buffer):
            digest.update(buffer[:count])
    return digest.hexdigest()


def check_download(path: Path, hub_id: str, file_name: str | None) -> None:
    """Raise a `ValueError` unless a large file of the Hub's cache has the content that the Hub gave for it."""
    expected = blob_digest(path)
    if expected is None:
        return
    found = file_digest(path)
    if found != expected:
        raise ValueError(
            f"{hub_id}: the download of {file_name} is damaged: its SHA-256 is {found}, expected {expected}. Load it "
            f"once with force_download=True; the file is {path}."
        )
