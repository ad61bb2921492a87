"""From what a user types to a `.nemo` file on disk: a path, a folder that holds one, or a repository on the Hub."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import ModelInfo
from transformers.utils import logging
from transformers.utils.hub import cached_file

from ..checkpoints.files import CONFIG_FILE, is_apple_double, path_of_name, refuse_lfs_pointer
from ..checkpoints.hub import (
    DOWNLOAD_OPTIONS,
    ask_hub,
    blob_digest,
    cached_snapshot,
    check_download,
    download_file,
    download_options,
    is_hub_id,
    is_offline,
    path_in_repository,
)
from .archive import CONFIG_MEMBER, is_archive_file
from .weights import WEIGHTS_MEMBER

logger = logging.get_logger(__name__)

ARCHIVE_SUFFIX = ".nemo"
ARCHIVE_ON_HUB = re.compile(r"([A-Za-z0-9][\w.\-]*/[\w.\-]+)/((?:[^/\\]+/)*[^/\\]+\.nemo)")
MAX_NAMES_TOLD = 5
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
        """The words that a user would type for it."""
        return self.hub_id or str(self.path)

    @property
    def expected_digest(self) -> str | None:
        """SHA-256 that the Hub gives for a downloaded file: what is in its cache is named by it."""
        return None if self.hub_id is None else blob_digest(self.path)

    def check_content(self) -> None:
        """Raise a `ValueError` unless a downloaded file has the content that the Hub gave for it."""
        if self.hub_id is not None:
            check_download(self.path, self.hub_id, self.file_name)


def find_archive(
    name: str | os.PathLike[str], options: Mapping[str, Any] | None = None, *, only_if_known: bool = False
) -> FoundArchive | None:
    """
    The archive that a name means, downloaded where it is on the Hub; None next to a `config.json` or without a
    `.nemo`. A file of another name is one by its content, a folder with the members of an archive by their names.

    What cannot be reached is None too: whoever loads it in the usual way is told why, in the usual words.

    Args:
        name: A `.nemo` file or its `file://` address, a folder or Hub repository that holds one, or
            `owner/repository/file.nemo`.
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
    path = path_of_name(name)
    if path.is_file():
        return FoundArchive(path) if path.suffix == ARCHIVE_SUFFIX or is_archive_file(path) else None
    if path.is_dir():
        folder = path / subfolder
        return None if (folder / CONFIG_FILE).is_file() else _find_in_folder(folder)
    name = os.fspath(name)
    named_file = ARCHIVE_ON_HUB.fullmatch(name)
    if named_file:
        return _download(named_file[1], path_in_repository(subfolder, named_file[2]), options)
    if name.endswith(ARCHIVE_SUFFIX):
        raise FileNotFoundError(
            f"{name!r} does not exist; expected a .nemo file, or owner/repository/file.nemo for one on the Hub."
        )
    if not is_hub_id(name):
        return None
    known, has_config = _known_archives(name, subfolder, options)
    if has_config or (not known and (only_if_known or is_offline(options))):
        return None
    if is_offline(options):
        return _download(name, str(only_archive(known, name)), options)
    try:
        info = ask_hub(name, options)
    except Exception:  # whatever it is, the cache may do, and else the usual way of loading reports it
        logger.debug(f"The Hub does not tell what is in {name}.", exc_info=True)
        return _download(name, str(only_archive(known, name)), options) if known else None
    config_name = path_in_repository(subfolder, CONFIG_FILE)
    is_other = info.pipeline_tag in FOREIGN_TASKS
    if is_other or any(sibling.rfilename == config_name for sibling in info.siblings or []):
        return None
    archive = _choose(info, name, subfolder)
    return None if archive is None else _download(name, archive, options, info.sha)


def require_archive(name: str | os.PathLike[str], options: Mapping[str, Any] | None = None) -> FoundArchive:
    """
    The archive that is to be converted, whatever lies next to it: a `config.json` does not matter here, and the
    members of an unpacked archive in a folder will do. What exists on disk comes first.

    Args:
        name, options: As in [`find_archive`].

    Raises:
        ValueError: when there is none or several.
        OSError: when the Hub cannot be reached or refuses, in the words of Transformers.
    """
    options = options or {}
    unknown = sorted(set(options) - {*DOWNLOAD_OPTIONS, "subfolder"})
    if unknown:
        raise TypeError(f"{unknown[0]} is not an option; expected one of {sorted({*DOWNLOAD_OPTIONS, 'subfolder'})}.")
    subfolder = str(options.get("subfolder") or "")
    path = path_of_name(name)
    if path.is_file():
        return FoundArchive(path)
    name = os.fspath(name)
    found: FoundArchive | None = None
    if path.is_dir():
        found = _find_in_folder(path / subfolder)
    elif ARCHIVE_ON_HUB.fullmatch(name):
        found = find_archive(name, options)
    elif not is_hub_name(name):
        raise ValueError(f"{name}: no such file or folder; expected a .nemo file, a folder with one or a Hub id.")
    else:
        found = _require_on_hub(name, subfolder, options)
    if found is None:
        raise ValueError(f"{name}: expected a .nemo file in it; found none.")
    return found


def _require_on_hub(hub_id: str, subfolder: str, options: Mapping[str, Any]) -> FoundArchive | None:
    known, _ = _known_archives(hub_id, subfolder, options)
    if known and is_offline(options):
        return _download(hub_id, str(only_archive(known, hub_id)), options)
    try:
        info = ask_hub(hub_id, options)
    except Exception as error:
        # The words of Transformers for what went wrong; it says nothing where the file is in the cache.
        cached_file(hub_id, CONFIG_FILE, **download_options(options))
        raise OSError(f"{hub_id}: the Hub does not tell what is in the repository: {error}") from error
    archive = _choose(info, hub_id, subfolder)
    return None if archive is None else _download(hub_id, archive, options, info.sha)


def is_hub_name(name: str) -> bool:
    """A name that may be that of a repository, or of an archive in one."""
    if name.endswith(ARCHIVE_SUFFIX):
        return ARCHIVE_ON_HUB.fullmatch(name) is not None
    return is_hub_id(name)


def only_archive(names: Iterable[str], source: str) -> str | None:
    """The one `.nemo` among file names, or None; a `ValueError` that says how to choose where there are several."""
    archives = sorted(name for name in names if _is_archive_name(name))
    if len(archives) > 1:
        raise ValueError(
            f"{source} holds {len(archives)} .nemo files: {', '.join(archives)}; name one of them, such as "
            f"'{source}/{archives[0]}'."
        )
    return archives[0] if archives else None


def _is_archive_name(name: str) -> bool:
    return name.endswith(ARCHIVE_SUFFIX) and not is_apple_double(name.rpartition("/")[2])


def refuse_other_paths(name: str | os.PathLike[str]) -> None:
    """
    Raise a `ValueError` for a file or folder that exists and is no checkpoint in any form that is loaded here.

    Names that are not those of a path are passed over.
    """
    path = path_of_name(name)
    accepted = "expected a .nemo archive, a folder with its members, or a folder with a config.json and its weights"
    if path.is_file():
        refuse_lfs_pointer(path)
        if find_archive(path) is None:
            raise ValueError(f"{path} is not a checkpoint: {_describe_file(path)}; {accepted}.")
    elif path.is_dir() and not (path / CONFIG_FILE).is_file() and find_archive(path) is None:
        names = sorted(child.name for child in path.iterdir())
        rest = f" and {len(names) - MAX_NAMES_TOLD} more" if len(names) > MAX_NAMES_TOLD else ""
        found = ", ".join(repr(name) for name in names[:MAX_NAMES_TOLD]) + rest if names else "nothing"
        raise ValueError(f"{path} is not a checkpoint: it holds {found}; {accepted}.")


def _describe_file(path: Path) -> str:
    if path.name == CONFIG_FILE:
        return f"it is the configuration of one, and the folder {str(path.parent)!r} may be meant"
    num_bytes = path.stat().st_size
    return f"its {num_bytes} bytes are not a tar with {CONFIG_MEMBER}" if num_bytes else "it is empty"


def _find_in_folder(folder: Path) -> FoundArchive | None:
    if not folder.is_dir():
        return None
    is_unpacked = (folder / CONFIG_MEMBER).is_file()
    if is_unpacked and (folder / WEIGHTS_MEMBER).is_file():
        return FoundArchive(folder)
    archive = only_archive((path.name for path in folder.iterdir() if path.is_file()), str(folder))
    if archive is None:
        return FoundArchive(folder) if is_unpacked else None
    return FoundArchive(folder / archive)


def _choose(info: ModelInfo, hub_id: str, subfolder: str) -> str | None:
    """The archive in the subfolder (else the root) of a repository; what lies deeper is only named."""
    prefix = path_in_repository(subfolder, "")
    names = [sibling.rfilename for sibling in info.siblings or []]
    archives = sorted(name for name in names if _is_archive_name(name) and name.startswith(prefix))
    archive = only_archive((name for name in archives if "/" not in name.removeprefix(prefix)), hub_id)
    if archive is None and archives:
        raise ValueError(
            f"{hub_id} holds .nemo files only in folders: {', '.join(archives)}; name one of them, such as "
            f"'{hub_id}/{archives[0]}'."
        )
    return archive


def _download(hub_id: str, file_name: str, options: Mapping[str, Any], commit: str | None = None) -> FoundArchive:
    path, commit = download_file(hub_id, file_name, options, commit)
    return FoundArchive(path, hub_id, file_name, commit)


def _known_archives(hub_id: str, subfolder: str, options: Mapping[str, Any]) -> tuple[list[str], bool]:
    """Archives of a repository in the cache of the Hub, by path; and True if a `config.json` is there."""
    snapshot = cached_snapshot(hub_id, options)
    if snapshot is None:
        return [], False
    folder = snapshot / subfolder
    names = [path.name for path in folder.glob(f"*{ARCHIVE_SUFFIX}") if path.is_file() and _is_archive_name(path.name)]
    return [path_in_repository(subfolder, name) for name in names], (folder / CONFIG_FILE).is_file()
