"""
From what a user types to a `.nemo` file on disk: a path, a folder that holds one, or a repository on the Hub.

Downloads go through `transformers.utils.hub.cached_file`, so revisions, tokens, offline mode, proxies, the cache and
the words of its errors are those of Transformers.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, ModelInfo, constants, try_to_load_from_cache
from huggingface_hub.file_download import repo_folder_name
from transformers.utils import logging
from transformers.utils.hub import cached_file, is_offline_mode

from .archive import CONFIG_MEMBER

logger = logging.get_logger(__name__)

ARCHIVE_SUFFIX = ".nemo"
CONFIG_FILE = "config.json"
HUB_ID = re.compile(r"[A-Za-z0-9][\w.\-]*(/[\w.\-]+)?")
ARCHIVE_ON_HUB = re.compile(r"([A-Za-z0-9][\w.\-]*/[\w.\-]+)/((?:[^/\\]+/)*[^/\\]+\.nemo)")
COMMIT = re.compile(r"[0-9a-f]{40}")
SNAPSHOT = re.compile(r"snapshots[/\\]([0-9a-f]{40})[/\\]")
SHA256 = re.compile(r"[0-9a-f]{64}")
DOWNLOAD_OPTIONS = ("cache_dir", "force_download", "local_files_only", "proxies", "revision", "token")
# NeMo has models of text and pictures too; tens of gigabytes are not downloaded to be refused afterwards.
FOREIGN_TASKS = {
    "fill-mask",
    "image-text-to-text",
    "image-to-text",
    "question-answering",
    "summarization",
    "text-classification",
    "text-generation",
    "text-to-image",
    "text-to-speech",
    "token-classification",
}
HASH_BYTES = 2**20


@dataclass(frozen=True)
class FoundArchive:
    """
    A `.nemo` archive on this machine.

    Args:
        path: The file, or a folder with its members.
        hub_id: Repository that it was downloaded from, if it was.
        file_name: Its path inside the repository.
        commit: Commit of the repository.
    """

    path: Path
    hub_id: str | None = None
    file_name: str | None = None
    commit: str | None = None

    @property
    def source(self) -> str:
        """What a user would type for it."""
        return self.hub_id or str(self.path)

    @property
    def expected_digest(self) -> str | None:
        """SHA-256 that the Hub gives for a downloaded file: what is in its cache is named by it."""
        if self.hub_id is None:
            return None
        return blob_digest(self.path)


def find_archive(
    name: str | os.PathLike[str], options: Mapping[str, Any] | None = None, *, only_if_known: bool = False
) -> FoundArchive | None:
    """
    The archive that a name means, downloaded where it is on the Hub; None beside a `config.json` or without a `.nemo`.

    What cannot be reached is None too: whoever loads it in the usual way is told why, in the usual words.

    Args:
        name: A `.nemo` file, a folder or Hub repository that holds one, or `owner/repository/file.nemo`.
        options: `revision`, `token`, `cache_dir`, `force_download`, `local_files_only`, `proxies` and `subfolder` as
            everywhere in Transformers; others are passed over.
        only_if_known: Say None where nothing on this machine tells that the repository is one of archives, without
            asking the Hub.

    Raises:
        FileNotFoundError: for the path of a `.nemo` file that is not there; the Hub is not asked.
        ValueError: for a folder or repository with several archives.
        OSError: for an archive that is there and cannot be downloaded, in the words of Transformers.
    """
    options = options or {}
    subfolder = str(options.get("subfolder") or "")
    path = Path(name)
    if path.is_file():
        return FoundArchive(path) if path.suffix == ARCHIVE_SUFFIX else None
    if path.is_dir():
        folder = path / subfolder
        return None if (folder / CONFIG_FILE).is_file() else _find_in_folder(folder)
    name = os.fspath(name)
    named_file = ARCHIVE_ON_HUB.fullmatch(name)
    if named_file:
        return _download(named_file[1], _join(subfolder, named_file[2]), options)
    if name.endswith(ARCHIVE_SUFFIX):
        raise FileNotFoundError(
            f"{name!r} does not exist; expected a .nemo file, or owner/repository/file.nemo for one on the Hub."
        )
    if not is_hub_id(name):
        return None
    is_offline = bool(options.get("local_files_only")) or is_offline_mode()
    known, has_config = _known_archives(name, subfolder, options)
    if has_config or (not known and (only_if_known or is_offline)):
        return None
    if is_offline:
        return _download(name, str(only_archive(known, name)), options)
    try:
        info = _ask_hub(name, options)
    except Exception:  # whatever it is, the cache may do, and else the usual way of loading reports it
        logger.debug(f"The Hub does not tell what is in {name}.", exc_info=True)
        return _download(name, str(only_archive(known, name)), options) if known else None
    is_other = info.pipeline_tag in FOREIGN_TASKS
    if is_other or any(sibling.rfilename == _join(subfolder, CONFIG_FILE) for sibling in info.siblings or []):
        return None
    archive = _choose(info, name, subfolder)
    return None if archive is None else _download(name, archive, options, info.sha)


def require_archive(name: str | os.PathLike[str], options: Mapping[str, Any] | None = None) -> FoundArchive:
    """
    The archive that is to be converted, whatever lies beside it: a `config.json` does not matter here, and the members
    of an unpacked archive in a folder will do. What exists on disk comes first.

    Args:
        name, options: As in [`find_archive`].

    Raises:
        ValueError: when there is none or several.
        OSError: when the Hub cannot be reached or refuses, in the words of Transformers.
    """
    options = options or {}
    unknown = sorted(set(options) - {*DOWNLOAD_OPTIONS, "subfolder"})
    if unknown:
        raise TypeError(f"{unknown[0]} is no option; expected one of {sorted({*DOWNLOAD_OPTIONS, 'subfolder'})}.")
    subfolder = str(options.get("subfolder") or "")
    path = Path(name)
    if path.is_file():
        return FoundArchive(path)
    name = os.fspath(name)
    found: FoundArchive | None = None
    if path.is_dir():
        folder = path / subfolder
        found = FoundArchive(folder) if (folder / CONFIG_MEMBER).is_file() else _find_in_folder(folder)
    elif ARCHIVE_ON_HUB.fullmatch(name):
        found = find_archive(name, options)
    elif not is_hub_id(name):
        raise ValueError(f"{name}: no such file or folder; expected a .nemo file, a folder with one or a Hub id.")
    else:
        known, _ = _known_archives(name, subfolder, options)
        if known and (options.get("local_files_only") or is_offline_mode()):
            return _download(name, str(only_archive(known, name)), options)
        try:
            info = _ask_hub(name, options)
        except Exception as error:
            # The words of Transformers for what went wrong; it says nothing where the file is in the cache.
            cached_file(name, CONFIG_FILE, **download_options(options))
            raise OSError(f"{name}: the Hub does not tell what is in the repository: {error}") from error
        archive = _choose(info, name, subfolder)
        found = None if archive is None else _download(name, archive, options, info.sha)
    if found is None:
        raise ValueError(f"{name}: expected a .nemo file in it; found none.")
    return found


def only_archive(names: Iterable[str], source: str) -> str | None:
    """The one `.nemo` among file names, or None; a `ValueError` that says how to choose where there are several."""
    archives = sorted(name for name in names if name.endswith(ARCHIVE_SUFFIX))
    if len(archives) > 1:
        raise ValueError(
            f"{source} holds {len(archives)} .nemo files: {', '.join(archives)}; name one of them, such as "
            f"'{source}/{archives[0]}'."
        )
    return archives[0] if archives else None


def is_hub_id(name: str) -> bool:
    """Whether a name that is no path may be that of a repository."""
    return HUB_ID.fullmatch(name) is not None and not name.endswith(ARCHIVE_SUFFIX)


def _find_in_folder(folder: Path) -> FoundArchive | None:
    if not folder.is_dir():
        return None
    archive = only_archive((path.name for path in folder.iterdir() if path.is_file()), str(folder))
    return None if archive is None else FoundArchive(folder / archive)


def _ask_hub(hub_id: str, options: Mapping[str, Any]) -> ModelInfo:
    """One request: the commit, the files and the task of a repository."""
    return HfApi().model_info(
        hub_id, revision=_commit_or_revision(options.get("revision")), token=options.get("token")
    )


def _choose(info: ModelInfo, hub_id: str, subfolder: str) -> str | None:
    """The archive in the subfolder (else the root) of a repository; what lies deeper is only named."""
    prefix = _join(subfolder, "")
    names = [sibling.rfilename for sibling in info.siblings or []]
    archives = sorted(name for name in names if name.endswith(ARCHIVE_SUFFIX) and name.startswith(prefix))
    archive = only_archive((name for name in archives if "/" not in name.removeprefix(prefix)), hub_id)
    if archive is None and archives:
        raise ValueError(
            f"{hub_id} holds .nemo files in folders alone: {', '.join(archives)}; name one of them, such as "
            f"'{hub_id}/{archives[0]}'."
        )
    return archive


def download_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the options of a call that `cached_file` takes and that are given; the subfolder is not among them."""
    return {key: options[key] for key in DOWNLOAD_OPTIONS if options.get(key) is not None}


def _download(hub_id: str, file_name: str, options: Mapping[str, Any], commit: str | None = None) -> FoundArchive:
    """The file in the cache of the Hub, downloaded if need be."""
    path = None
    if commit is not None and not options.get("force_download"):
        cached = try_to_load_from_cache(hub_id, file_name, cache_dir=options.get("cache_dir"), revision=commit)
        path = cached if isinstance(cached, str) else None
    if path is None:
        path = cached_file(hub_id, file_name, **download_options(options))
    assert path is not None  # it raises for what is missing
    return FoundArchive(Path(path), hub_id, file_name, snapshot_commit(path) or commit)


def snapshot_commit(path: str | os.PathLike[str]) -> str | None:
    """The commit that a file in the cache of the Hub is of."""
    snapshot = SNAPSHOT.search(os.fspath(path))
    return snapshot[1] if snapshot else None


def blob_digest(path: Path) -> str | None:
    """SHA-256 of a large file in the cache of the Hub, which is the name of what it links to; None for others."""
    blob = path.resolve()
    return blob.name if blob.parent.name == "blobs" and SHA256.fullmatch(blob.name) else None


def _known_archives(hub_id: str, subfolder: str, options: Mapping[str, Any]) -> tuple[list[str], bool]:
    """What the cache of the Hub has of a repository: paths of archives in it, and whether a `config.json` is there."""
    repository = Path(options.get("cache_dir") or constants.HF_HUB_CACHE) / repo_folder_name(
        repo_id=hub_id, repo_type="model"
    )
    revision = _commit_or_revision(options.get("revision")) or constants.DEFAULT_REVISION
    reference = repository / "refs" / revision
    if COMMIT.fullmatch(revision):
        commit = revision
    elif reference.is_file():
        commit = reference.read_text().strip()
    else:
        return [], False
    folder = repository / "snapshots" / commit / subfolder
    archives = [_join(subfolder, path.name) for path in folder.glob(f"*{ARCHIVE_SUFFIX}") if path.is_file()]
    return archives, (folder / CONFIG_FILE).is_file()


def _commit_or_revision(revision: Any) -> str | None:
    """A revision as text; newer versions of Transformers hand one on together with the commit that it stands for."""
    revision = getattr(revision, "resolved", None) or revision
    return None if revision is None else str(revision)


def _join(subfolder: str, name: str) -> str:
    subfolder = subfolder.strip("/")
    return f"{subfolder}/{name}" if subfolder else name


# The content


def file_digest(path: Path) -> str:
    """SHA-256 of a file."""
    digest = hashlib.sha256()
    buffer = memoryview(bytearray(HASH_BYTES))
    with open(path, "rb", buffering=0) as file:
        while count := file.readinto(buffer):
            digest.update(buffer[:count])
    return digest.hexdigest()


def check_download(archive: FoundArchive) -> None:
    """Raise a `ValueError` unless a file of the Hub's cache has the content that the Hub gave for it."""
    expected = archive.expected_digest
    if expected is None:
        return
    found = file_digest(archive.path)
    if found != expected:
        raise ValueError(
            f"{archive.hub_id}: the download of {archive.file_name} is damaged: its SHA-256 is {found}, expected "
            f"{expected}. Load it once with force_download=True; the file is {archive.path}."
        )
