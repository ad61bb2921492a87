"""Pages of mapped files leave memory, their values stay; nothing else is ever given back."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from transformers_fastconformer.kernels import mapped_pages
from transformers_fastconformer.kernels.mapped_pages import SMAPS, MappedPages

COUNT = 2**22

needs_smaps = pytest.mark.skipif(not SMAPS.is_file(), reason="only Linux tells what is mapped")


@pytest.fixture
def mapped(tmp_path: Path) -> torch.Tensor:
    """4 MB of a mapped file, all of them read."""
    path = tmp_path / "weights"
    path.write_bytes(bytes(range(256)) * (COUNT // 256))
    storage = torch.UntypedStorage.from_file(str(path), shared=False, nbytes=COUNT)
    tensor = torch.tensor([], dtype=torch.uint8).set_(storage)
    assert int(tensor.sum()) > 0
    return tensor


def resident_bytes(tensor: torch.Tensor) -> int:
    """Bytes of the mapping that a tensor starts that are in memory."""
    is_inside = False
    for line in SMAPS.read_text().splitlines():
        entry = mapped_pages.ENTRY.match(line)
        if entry is not None:
            is_inside = int(entry[1], 16) <= tensor.data_ptr() < int(entry[2], 16)
        elif is_inside and line.startswith("Rss:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("not mapped")


@needs_smaps
def test_pages_of_a_mapped_file_leave_and_their_values_stay(mapped: torch.Tensor) -> None:
    expected = mapped.clone()
    assert resident_bytes(mapped) == COUNT
    MappedPages().give_back(mapped[: COUNT // 2])
    assert resident_bytes(mapped) == COUNT // 2
    assert torch.equal(mapped, expected)


@needs_smaps
def test_what_was_written_to_is_kept(mapped: torch.Tensor) -> None:
    mapped[5000] = 77  # in a page of its own now, which no file has
    MappedPages().give_back(mapped)
    assert int(mapped[5000]) == 77


@needs_smaps
def test_memory_that_is_not_a_file_is_kept(mapped: torch.Tensor) -> None:
    plain = torch.arange(COUNT // 4, dtype=torch.int32)
    pages = MappedPages()
    pages.give_back(plain)
    pages.give_back(mapped[:10])  # less than a page
    pages.give_back(mapped.view(-1, 4).t())  # not one piece
    assert torch.equal(plain, torch.arange(COUNT // 4, dtype=torch.int32))


def test_where_nobody_tells_nothing_is_given_back(
    mapped: torch.Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mapped_pages, "SMAPS", tmp_path / "absent")
    MappedPages().give_back(mapped)
    assert int(mapped[255]) == 255
