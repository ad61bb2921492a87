"""Archives that are another one with its configuration changed."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml


def rewrite_archive(
    source: Path,
    target: Path,
    change: Callable[[dict[str, Any]], Any],
    rename: Callable[[str], str] = lambda name: name,
) -> Path:
    """Write `source` to `target` with `change` done to its configuration and its members renamed; gives `target`."""
    with tarfile.open(source) as old, tarfile.open(target, "w") as new:
        for info in old:
            if not info.isfile():
                continue
            stream = old.extractfile(info)
            assert stream is not None
            content = stream.read()
            if info.name.endswith("model_config.yaml"):
                config = yaml.safe_load(content)
                change(config)
                content = yaml.safe_dump(config, sort_keys=False, allow_unicode=True).encode()
            member = tarfile.TarInfo(rename(info.name))
            member.size = len(content)
            new.addfile(member, io.BytesIO(content))
    return target
