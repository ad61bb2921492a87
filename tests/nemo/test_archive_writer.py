"""Archives written as one: whole, with equal bytes for equal input, or not at all."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest
import torch

from transformers_fastconformer.checkpoints.safetensors_writer import TensorEntry
from transformers_fastconformer.nemo.archive import NemoArchive
from transformers_fastconformer.nemo.archive_writer import ModelMembers, write_archive

TENSORS = {"a": torch.rand(3, 4), "b": torch.arange(5)}
ENTRIES = [TensorEntry(name, tuple(tensor.shape), tensor.dtype) for name, tensor in TENSORS.items()]


def write(path: Path, **options: object) -> bytes:
    model = ModelMembers(b"a: 1\n", {"x_vocab.txt": b"one\n"}, ENTRIES, TENSORS.__getitem__)
    write_archive(path, [model], **options)  # type: ignore[arg-type]
    return path.read_bytes()


def test_it_is_a_tar_with_all_members(tmp_path: Path) -> None:
    path = tmp_path / "new" / "model.nemo"
    write(path)
    with tarfile.open(path) as tar:
        assert tar.getnames() == ["./model_config.yaml", "./x_vocab.txt", "./model_weights.ckpt"]
    with NemoArchive(path) as archive, archive.open_weights(tmp_path) as weights:
        assert archive.read_config() == {"a": 1}
        assert archive.read_member("x_vocab.txt") == b"one\n"
        found = weights.read()
        weights.check_rest()
    assert all(torch.equal(found[name], tensor) for name, tensor in TENSORS.items())


def test_a_bundled_model_has_members_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "model.nemo"
    first = ModelMembers(b"a: 1\n", {"x_vocab.txt": b"one\n"}, ENTRIES, TENSORS.__getitem__)
    second = ModelMembers(b"a: 2\n", {"x_vocab.txt": b"one\n"}, ENTRIES[1:], TENSORS.__getitem__, "times_")
    write_archive(path, [first, second])
    with tarfile.open(path) as tar:
        names = [name.removeprefix("./") for name in tar.getnames()]
    assert names[:3] == ["model_config.yaml", "x_vocab.txt", "times_model_config.yaml"]
    assert names[3:] == ["model_weights.ckpt", "times_model_weights.ckpt"]
    with NemoArchive(path, "times_") as archive, archive.open_weights(tmp_path) as weights:
        assert archive.read_config() == {"a": 2}
        assert weights.read().keys() == {"b"}
    with pytest.raises(ValueError, match=r"the member x_vocab\.txt is another file in two models"):
        write_archive(path, [first, second._replace(artifacts={"x_vocab.txt": b"two\n"})], True)


def test_equal_input_gives_equal_bytes(tmp_path: Path) -> None:
    assert write(tmp_path / "a.nemo") == write(tmp_path / "b.nemo")


def test_what_is_there_stays(tmp_path: Path) -> None:
    path = tmp_path / "model.nemo"
    path.write_bytes(b"old")
    with pytest.raises(ValueError, match="exists; expected a new file"):
        write(path)

    def fail(written: Path) -> None:
        raise ValueError("not good")

    with pytest.raises(ValueError, match="not good"):
        write(path, overwrite=True, check=fail)
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["model.nemo"]
    assert write(path, overwrite=True) != b"old"


def test_other_outputs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"ends in \.nemo"):
        write(tmp_path / "model.tar")
    (tmp_path / "folder.nemo").mkdir()
    with pytest.raises(ValueError, match="is a folder or a link"):
        write(tmp_path / "folder.nemo", overwrite=True)
