"""
State dicts pickled by PyTorch, read for their tensors: names, types, shapes, and the storages that hold the values.

A pickle is a program. The few instructions of which a state dict is made are done here, with numbers, texts and the
names of PyTorch's functions in place of the functions; nothing is imported or called, and whatever else a pickle asks
for is refused. Limits keep a small pickle from taking memory or time.
"""

from __future__ import annotations

import io
import pickletools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

# A tensor takes about 120 bytes and 45 instructions; the largest checkpoints have some thousand.
MAX_PICKLE_BYTES = 16 * 2**20
MAX_STEPS = 2_000_000
MAX_DIMENSIONS = 8
MAX_NUMBER = 2**62
MAX_NAME_CHARACTERS = 1000

STORAGE_DTYPES = {
    "BFloat16Storage": "bfloat16",
    "BoolStorage": "bool",
    "ByteStorage": "uint8",
    "CharStorage": "int8",
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "IntStorage": "int32",
    "LongStorage": "int64",
    "ShortStorage": "int16",
}
# Functions of `torch._utils` that make other tensors than plain ones.
OTHER_TENSORS = {
    "_rebuild_sparse_tensor": "sparse",
    "_rebuild_sparse_csr_tensor": "sparse",
    "_rebuild_qtensor": "quantised",
    "_rebuild_nested_tensor": "nested",
    "_rebuild_meta_tensor_no_storage": "without values, of the device 'meta'",
    "_rebuild_wrapper_subclass": "of a class of its own",
    "_rebuild_device_tensor_from_numpy": "of a device of its own",
    "_rebuild_device_tensor_from_cpu_tensor": "of a device of its own",
}


class Storage(NamedTuple):
    """Values of one or more tensors: the key under which they lie, their type and their number."""

    key: str
    dtype: str
    num_values: int


class StoredTensor(NamedTuple):
    """A tensor as a view of a storage; offset and strides count values."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def num_values(self) -> int:
        count = 1
        for size in self.shape:
            count *= size
        return count

    @property
    def span(self) -> int:
        """Number of values from the first to the last one in the storage."""
        if not self.num_values:
            return 0
        return 1 + sum((size - 1) * stride for size, stride in zip(self.shape, self.strides, strict=True))


class _Global(NamedTuple):
    """The name of a function or class, which is never looked up."""

    module: str
    name: str


class _OtherValue(NamedTuple):
    """A value that is no plain tensor, in words."""

    what: str


class _Mark:
    """The place on the stack where a list of values begins."""


_MARK = _Mark()
_ORDERED_DICT = _Global("collections", "OrderedDict")


def read_pickle(stream: io.BytesIO) -> Any:
    """
    The value of the next pickle in a stream, made of numbers, texts, tuples, lists, dictionaries and tensors.

    Raises:
        ValueError: for anything else. The message does not name the file.
    """
    return _Reader().read(stream)


def check_state_dict(content: Any) -> dict[str, StoredTensor]:
    """
    The tensors by name.

    Raises:
        ValueError: for anything but a dictionary of names and plain tensors (dense, on the CPU, no two values of which
            are one in the storage). The message names the entry.
    """
    if not isinstance(content, Mapping):
        raise ValueError(f"it holds {_kind_of(content)}; expected a state dict")
    for name, tensor in content.items():
        if not isinstance(name, str) or len(name) > MAX_NAME_CHARACTERS or not _is_text(name):
            shown = name[:40] if isinstance(name, str) else name
            raise ValueError(f"entry {shown!r} is {_kind_of(tensor)}; expected a text of letters as its name")
        if not isinstance(tensor, StoredTensor):
            raise ValueError(f"entry {name!r} is {_kind_of(tensor)}; expected a tensor, plain and dense")
        _check_view(name, tensor)
    return dict(content)


def _check_view(name: str, tensor: StoredTensor) -> None:
    if tensor.offset + tensor.span > tensor.storage.num_values:
        raise ValueError(
            f"tensor {name!r} of shape {tensor.shape} and strides {tensor.strides} ends at value "
            f"{tensor.offset + tensor.span} of a storage of {tensor.storage.num_values}"
        )
    reach = 0  # of the dimensions with smaller strides
    if not tensor.num_values:
        return
    for stride, size in sorted(zip(tensor.strides, tensor.shape, strict=True)):
        if size > 1 and stride <= reach:
            raise ValueError(
                f"tensor {name!r} of shape {tensor.shape} and strides {tensor.strides} holds the same value in "
                "several places; expected a plain tensor"
            )
        reach += (size - 1) * stride


def _is_text(name: str) -> bool:
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _kind_of(value: Any) -> str:
    if isinstance(value, StoredTensor):
        return "a tensor"
    if isinstance(value, _OtherValue):
        return value.what
    if isinstance(value, _Global):
        return f"{value.module}.{value.name}"
    return type(value).__name__


class _Reader:
    """The stack and the memory of one pickle."""

    def __init__(self) -> None:
        self._stack: list[Any] = []
        self._memory: dict[int, Any] = {}

    def read(self, stream: io.BytesIO) -> Any:
        for step, (instruction, argument, _) in enumerate(pickletools.genops(stream)):
            if step == MAX_STEPS:
                raise ValueError(f"its pickle has more than {MAX_STEPS} instructions")
            name = instruction.name
            if name == "STOP":
                value = self._pop()
                if self._stack:
                    raise ValueError("its pickle is damaged: values are left over at its end")
                return value
            act = _ACTIONS.get(name)
            if act is None:
                raise ValueError(
                    f"its pickle has the instruction {name}, which no state dict needs; refused, because loading it "
                    "could run code"
                )
            act(self, argument)
        raise ValueError("its pickle is truncated")

    def _pop(self) -> Any:
        if not self._stack or self._stack[-1] is _MARK:
            raise ValueError("its pickle is damaged: a value is missing")
        return self._stack.pop()

    def _pop_marked(self) -> list[Any]:
        for place in range(len(self._stack) - 1, -1, -1):
            if self._stack[place] is _MARK:
                values = self._stack[place + 1 :]
                del self._stack[place:]
                return values
        raise ValueError("its pickle is damaged: the beginning of a list is missing")

    def push(self, value: Any) -> None:
        self._stack.append(value)

    def push_number(self, value: int) -> None:
        # The first number of PyTorch's older format has 80 bits.
        if abs(value) >= 2**80:
            raise ValueError("its pickle holds a number of more than 80 bits")
        self._stack.append(value)

    def push_tuple(self, count: int) -> None:
        values = [self._pop() for _ in range(count)]
        self._stack.append(tuple(reversed(values)))

    def push_marked_tuple(self) -> None:
        self._stack.append(tuple(self._pop_marked()))

    def push_marked_list(self) -> None:
        self._stack.append(self._pop_marked())

    def push_marked_dict(self) -> None:
        values = self._pop_marked()
        self._stack.append({})
        self._set_items(values)

    def push_global(self, module: Any, name: Any) -> None:
        if not isinstance(module, str) or not isinstance(name, str):
            raise ValueError("its pickle is damaged: the name of a class is no text")
        found = _Global(module, name)
        if found != _ORDERED_DICT and module.partition(".")[0] != "torch":
            raise ValueError(f"it asks for {module[:100]}.{name[:100]}; refused, because loading it could run code")
        self._stack.append(found)

    def push_named_global(self) -> None:
        name = self._pop()
        self.push_global(self._pop(), name)

    def remember(self, place: int) -> None:
        if not self._stack:
            raise ValueError("its pickle is damaged: a value is missing")
        self._memory[place] = self._stack[-1]

    def remember_next(self) -> None:
        self.remember(len(self._memory))

    def recall(self, place: int) -> None:
        if place not in self._memory:
            raise ValueError("its pickle is damaged: it repeats a value that it does not have")
        self._stack.append(self._memory[place])

    def set_item(self) -> None:
        value = self._pop()
        self._set_items([self._pop(), value])

    def set_marked_items(self) -> None:
        self._set_items(self._pop_marked())

    def _set_items(self, values: list[Any]) -> None:
        target = self._stack[-1] if self._stack else None
        if not isinstance(target, dict) or len(values) % 2:
            raise ValueError("its pickle is damaged: entries are not those of a dictionary")
        for key, value in zip(values[::2], values[1::2], strict=True):
            if not isinstance(key, str | int):
                raise ValueError(f"an entry's name is {_kind_of(key)}; expected text")
            if key in target:
                raise ValueError(f"entry {str(key)[:40]!r} is there twice")
            target[key] = value

    def append(self) -> None:
        self._append([self._pop()])

    def append_marked(self) -> None:
        self._append(self._pop_marked())

    def _append(self, values: list[Any]) -> None:
        target = self._stack[-1] if self._stack else None
        if not isinstance(target, list):
            raise ValueError("its pickle is damaged: values are not those of a list")
        target.extend(values)

    def load_storage(self) -> None:
        """A storage: `("storage", type, key, device, number of values)`, in the older format with None at its end."""
        match self._pop():
            case ("storage", _Global(name=type_name), str(key), str(device), int(num_values), *rest):
                if device.startswith("meta"):
                    self._stack.append(_OtherValue("a tensor without values, of the device 'meta'"))
                    return
                if type_name not in STORAGE_DTYPES and type_name != "UntypedStorage":
                    self._stack.append(_OtherValue(f"a tensor of {type_name[:100]}"))
                    return
                if any(value is not None for value in rest):
                    raise ValueError(f"storage {key[:40]!r} is a part of another one; expected whole storages")
                _check_numbers("the number of values of a storage", (num_values,))
                dtype = STORAGE_DTYPES.get(type_name, "uint8")
                self._stack.append(Storage(key, dtype, num_values))
            case _:
                raise ValueError("its pickle is damaged: a storage is not told by type, key, device and size")

    def call(self) -> None:
        """A function of PyTorch that makes a tensor, or an empty dictionary."""
        arguments, function = self._pop(), self._pop()
        if not isinstance(function, _Global) or not isinstance(arguments, tuple):
            raise ValueError("its pickle is damaged: something else than a function is called")
        self._stack.append(_call(function, arguments))

    def build(self) -> None:
        """Attributes of a state dict (the versions of its modules), which are not needed."""
        self._pop()
        if not isinstance(self._stack[-1] if self._stack else None, dict | _OtherValue):
            raise ValueError("its pickle is damaged: something else than a dictionary has attributes")


def _call(function: _Global, arguments: tuple[Any, ...]) -> Any:
    if function == _ORDERED_DICT:
        if arguments:
            raise ValueError("its pickle is damaged: a dictionary is made of something else than entries")
        return {}
    if function == ("torch", "Size"):
        return arguments[0] if arguments else ()
    if function in (("torch._utils", "_rebuild_tensor_v2"), ("torch._utils", "_rebuild_tensor")):
        return _make_tensor(*arguments)
    if function in (("torch._utils", "_rebuild_parameter"), ("torch._utils", "_rebuild_parameter_with_state")):
        return arguments[0] if arguments else None
    if function == ("torch._tensor", "_rebuild_from_type_v2") and len(arguments) == 4:
        made_by, kind, its_arguments, _ = arguments
        if kind in (("torch", "Tensor"), ("torch.nn.parameter", "Parameter")) and isinstance(made_by, _Global):
            return _call(made_by, its_arguments if isinstance(its_arguments, tuple) else ())
    what = OTHER_TENSORS.get(function.name, f"made by {function.module[:100]}.{function.name[:100]}")
    return _OtherValue(f"a tensor {what}")


def _make_tensor(
    storage: Any = None, offset: Any = None, shape: Any = None, strides: Any = None, *rest: Any
) -> StoredTensor | _OtherValue:
    """A tensor of a storage; of what follows only the marks of a negated or conjugated view matter."""
    if isinstance(storage, _OtherValue):
        return storage
    if not isinstance(storage, Storage) or not isinstance(shape, tuple) or not isinstance(strides, tuple):
        raise ValueError("its pickle is damaged: a tensor is not told by storage, place, shape and strides")
    if len(shape) > MAX_DIMENSIONS or len(strides) != len(shape):
        raise ValueError(
            f"a tensor has {len(shape)} dimensions and {len(strides)} strides; expected as many, {MAX_DIMENSIONS} at "
            "most"
        )
    _check_numbers("place, shape and strides of a tensor", (offset, *shape, *strides))
    marks = rest[2] if len(rest) > 2 else None
    if marks:
        return _OtherValue("a tensor that is negated or conjugated when it is read")
    return StoredTensor(storage, offset, shape, strides)


def _check_numbers(what: str, values: tuple[Any, ...]) -> None:
    for value in values:
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < MAX_NUMBER:
            shown = value if isinstance(value, int) else type(value).__name__
            raise ValueError(f"{what}: found {shown}; expected numbers of 0 or more, below 2**62")


_Action = Callable[[_Reader, Any], None]
_ACTIONS: dict[str, _Action] = {
    "PROTO": lambda reader, _: None,
    "FRAME": lambda reader, _: None,
    "MARK": lambda reader, _: reader.push(_MARK),
    "NONE": lambda reader, _: reader.push(None),
    "NEWTRUE": lambda reader, _: reader.push(True),
    "NEWFALSE": lambda reader, _: reader.push(False),
    **dict.fromkeys(
        ("INT", "LONG", "BININT", "BININT1", "BININT2", "LONG1", "LONG4"),
        lambda reader, value: reader.push_number(value),
    ),
    **dict.fromkeys(
        (
            *("FLOAT", "BINFLOAT", "UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "STRING"),
            *("BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
        ),
        lambda reader, value: reader.push(value),
    ),
    "EMPTY_TUPLE": lambda reader, _: reader.push(()),
    "TUPLE1": lambda reader, _: reader.push_tuple(1),
    "TUPLE2": lambda reader, _: reader.push_tuple(2),
    "TUPLE3": lambda reader, _: reader.push_tuple(3),
    "TUPLE": lambda reader, _: reader.push_marked_tuple(),
    "EMPTY_LIST": lambda reader, _: reader.push([]),
    "LIST": lambda reader, _: reader.push_marked_list(),
    "APPEND": lambda reader, _: reader.append(),
    "APPENDS": lambda reader, _: reader.append_marked(),
    "EMPTY_DICT": lambda reader, _: reader.push({}),
    "DICT": lambda reader, _: reader.push_marked_dict(),
    "SETITEM": lambda reader, _: reader.set_item(),
    "SETITEMS": lambda reader, _: reader.set_marked_items(),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), lambda reader, place: reader.remember(place)),
    "MEMOIZE": lambda reader, _: reader.remember_next(),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), lambda reader, place: reader.recall(place)),
    "GLOBAL": lambda reader, name: reader.push_global(*name.split(" ", 1)),
    "STACK_GLOBAL": lambda reader, _: reader.push_named_global(),
    "BINPERSID": lambda reader, _: reader.load_storage(),
    "REDUCE": lambda reader, _: reader.call(),
    "BUILD": lambda reader, _: reader.build(),
}
