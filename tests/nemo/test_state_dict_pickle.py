"""Pickles of state dicts, next to what PyTorch loads from them, and pickles that are something else."""

from __future__ import annotations

import io
import pickle
import time
import zipfile
from collections import OrderedDict
from typing import Any

import pytest
import torch

from transformers_fastconformer.nemo.state_dict_pickle import (
    MAX_STEPS,
    Storage,
    StoredTensor,
    check_state_dict,
    read_pickle,
)


def pickle_of(content: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    with zipfile.ZipFile(buffer) as records:
        return records.read("archive/data.pkl")


def read_tensors(content: bytes) -> dict[str, StoredTensor]:
    return check_state_dict(read_pickle(io.BytesIO(content)))


def test_tensors_of_every_form():
    module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    marked = torch.nn.Parameter(torch.rand(2))
    marked.origin = "here"  # pickled as a tensor with attributes
    tied = torch.rand(6)
    tensors = {
        **module.state_dict(),
        "transposed": torch.rand(3, 5).t(),
        "parameter": torch.nn.Parameter(torch.rand(2)),
        "marked": marked,
        "part": torch.rand(10)[3:7],
        "tied": tied,
        "tied again": tied[2:].view(2, 2),
        "scalar": torch.tensor(3),
        "empty": torch.zeros(0, 4),
        "flag": torch.tensor([True]),
        "small": torch.rand(2).to(torch.bfloat16),
    }
    for content in (tensors, OrderedDict(tensors), module.state_dict()):
        found = read_tensors(pickle_of(content))
        assert list(found) == list(content)
        for name, tensor in content.items():
            stored = found[name]
            assert (stored.shape, stored.strides) == (tuple(tensor.shape), tensor.stride()), name
            assert stored.offset == tensor.storage_offset()
            assert f"torch.{stored.storage.dtype}" == str(tensor.dtype)
            assert stored.storage.num_values * tensor.itemsize == tensor.untyped_storage().nbytes()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: torch.eye(3).to_sparse(), "a tensor sparse"),
        (lambda: torch.eye(3).to_sparse_csr(), "a tensor sparse"),
        (lambda: torch.rand(3, device="meta"), "without values, of the device 'meta'"),
        (lambda: torch.quantize_per_tensor(torch.rand(3), 0.1, 0, torch.quint8), "a tensor quantised|QUInt8"),
        (lambda: torch._neg_view(torch.rand(3)), "negated or conjugated"),
        (lambda: torch.rand(3, dtype=torch.complex64), "ComplexFloatStorage"),
        (lambda: torch.rand(3, dtype=torch.complex64).conj(), "ComplexFloatStorage|negated or conjugated"),
        (lambda: torch.nested.nested_tensor([torch.rand(2), torch.rand(3)]), "nested"),
        (lambda: torch.zeros(3).to(torch.float8_e4m3fn), "a tensor"),
        (lambda: torch.rand(1).expand(4), "holds the same value in several places"),
        (lambda: torch.rand(10).as_strided((4, 4), (2, 1)), "holds the same value in several places"),
        (lambda: torch.rand(2).expand(3, 2), "holds the same value in several places"),
        (lambda: [torch.rand(2)], "is list; expected a tensor"),
    ],
)
def test_tensors_that_are_not_plain_are_named(make, message):
    with pytest.raises(ValueError, match=f"'encoder.odd'.*({message})"):
        read_tensors(pickle_of({"encoder.plain": torch.rand(2), "encoder.odd": make()}))


def changed(tensor: torch.Tensor, **changes: Any) -> bytes:
    """The pickle of a tensor whose storage, place, shape or strides are said to be others."""

    class Told:
        def __reduce__(self):
            storage = changes.get(
                "storage", torch.storage.TypedStorage(wrap_storage=tensor.untyped_storage(), dtype=tensor.dtype)
            )
            place = [changes.get("offset", 0), changes.get("shape", (2, 3)), changes.get("strides", (3, 1))]
            return torch._utils._rebuild_tensor_v2, (storage, *place, False, OrderedDict())

    return pickle_of({"a": Told()})


@pytest.mark.filterwarnings("ignore:TypedStorage is deprecated")
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, None),
        ({"strides": (1, 2)}, None),
        ({"offset": 1}, "tensor 'a' of shape .* ends at value 7 of a storage of 6"),
        ({"shape": (2, 4), "strides": (4, 1)}, "ends at value 8 of a storage of 6"),
        ({"shape": (10**12, 10**12)}, "ends at value"),
        ({"shape": (2**70, 3)}, "expected numbers of 0 or more, below 2"),
        ({"shape": (2, -3)}, "expected numbers of 0 or more"),
        ({"strides": (-3, 1)}, "expected numbers of 0 or more"),
        ({"offset": -1}, "expected numbers of 0 or more"),
        ({"offset": "x"}, "found str; expected numbers"),
        ({"shape": (True, 3)}, "expected numbers of 0 or more"),
        ({"shape": (1,) * 9, "strides": (1,) * 9}, "a tensor has 9 dimensions and 9 strides; expected as many, 8 at"),
        ({"shape": (2,)}, "a tensor has 1 dimensions and 2 strides"),
        ({"shape": 5}, "is not told by storage, place, shape and strides"),
        ({"storage": "x"}, "is not told by storage, place, shape and strides"),
    ],
)
def test_views_stay_in_their_storage(changes, message):
    content = changed(torch.rand(6), **changes)
    if message is None:
        assert list(read_tensors(content)) == ["a"]
        return
    with pytest.raises(ValueError, match=message):
        read_tensors(content)


def op(*parts: bytes) -> bytes:
    return b"\x80\x02" + b"".join(parts) + b"."


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"cos\nsystem\n.", r"asks for os\.system; refused, because loading it could run code"),
        (pickle.dumps({"a": print}), r"asks for builtins\.print"),
        (op(b"(S'x'\nios\nsystem\n"), "the instruction INST"),
        (op(b"\x82\x01"), "the instruction EXT1"),
        (op(b"}\x81"), "the instruction NEWOBJ"),
        (op(b"\x96" + (2**40).to_bytes(8, "little")), "BYTEARRAY8|expected"),
        (op(b"r\xff\xff\xff\xff"), "a value is missing"),
        (op(b"}r\xff\xff\xff\xff"), None),
        (op(b"h\x05"), "a value that it does not have"),
        (op(b"}}"), "values are left over"),
        (op(b""), "a value is missing"),
        (op(b"(K\x01"), "values are left over"),
        (op(b"K\x01K\x02R"), "something else than a function is called"),
        (op(b"}K\x01e"), "the beginning of a list is missing"),
        (op(b"}(K\x01u"), "not those of a dictionary"),
        (op(b"}K\x01K\x02s"), "entry 1 is int; expected a text"),
        (op(b"}(K\x01\x85K\x02u"), "an entry's name is tuple"),
        (op(b"}(X\x01\x00\x00\x00aK\x02X\x01\x00\x00\x00aK\x02u"), "entry 'a' is there twice"),
        (op(b"}(X\x03\x00\x00\x00\xed\xb3\xbfK\x02u"), r"entry '\\udcff' is int; expected a text"),
        (op(b"\x8a\xff" + b"\x7f" * 255), "a number of more than 80 bits"),
        (op(b"K\x01Q"), "a storage is not told"),
        (op(b"K\x01}b"), "something else than a dictionary has attributes"),
        (op(b"K\x01a"), "not those of a list"),
        (b"\x80\x02}", "pickle exhausted|truncated"),
        (b"\x80\x02X\xff\xff\xff\x7fabc", "expected 2147483647 bytes"),
        (b"\x80\x02\xe7.", "unknown"),
        (b"", "pickle exhausted|truncated"),
    ],
)
def test_other_pickles(content, message):
    if message is None:
        assert read_tensors(content) == {}
        return
    with pytest.raises(ValueError, match=message):
        read_tensors(content)


def test_bombs_end_soon():
    start = time.perf_counter()
    # Nested pairs of one another: two to the power of 5,000 values if they were counted.
    pairs = op(b"}q\x00", b"h\x00q\x01", b"h\x01h\x01\x86q\x01" * 5000, b"\x94")
    with pytest.raises(ValueError, match="values are left over"):
        read_tensors(pairs)
    with pytest.raises(ValueError, match="an entry's name is tuple"):
        read_tensors(op(b"}(K\x01", b"\x85" * 20_000, b"K\x01u"))
    with pytest.raises(ValueError, match="holds tuple; expected a state dict"):
        read_tensors(op(b"K\x01", b"\x85" * 20_000))
    assert time.perf_counter() - start < 5
    assert MAX_STEPS < 10**7


def test_a_pickle_has_a_limit_of_instructions(monkeypatch):
    monkeypatch.setattr("transformers_fastconformer.nemo.state_dict_pickle.MAX_STEPS", 100)
    with pytest.raises(ValueError, match="more than 100 instructions"):
        read_tensors(op(b"K\x01" * 200))


def test_a_tensor_without_values_has_no_span():
    storage = Storage("0", "float32", 6)
    assert StoredTensor(storage, 0, (0, 3), (3, 1)).span == 0
    assert StoredTensor(storage, 0, (2, 3), (1, 2)).span == 6
    assert StoredTensor(storage, 0, (), ()).span == 1
