"""
Names and shapes of tensors in two forms of one model: a plain table that is read in both directions.

"Theirs" is the form in which a checkpoint comes or for which it is written, "ours" that of this package. Every tensor
of theirs must have a row, and every tensor of ours must get a value; shapes are compared before anything is written.
Rows are tried in order, and the first that fits counts.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

Shape = tuple[int, ...]

# Parts of a name in the rows. Those with a name of their own stand in both names of a row.
PLACEHOLDERS = {
    "{n}": r"(?P<n>\d+)",  # number of a block
    "{i}": r"(?P<i>\d+)",  # number of a layer in a part
    "{p}": r"(?P<p>[a-z_0-9]+)",  # a parameter: weight, bias, running_mean, ...
    "{rest}": r"(?P<rest>[a-z_0-9.]+)",  # a parameter and the parts that it is in
    "{later}": r"[1-9]\d*",  # any number but 0
    "{any}": r".+",
}
MAX_NAMES_TOLD = 8


# The values of a tensor in both forms


class SameForm:
    """A tensor of the same shape and values in both forms. Subclasses say what they change."""

    def their_shape(self, our_shape: Shape) -> Shape:
        """The shape in their form of a tensor that has `our_shape` in ours."""
        return our_shape

    def can_read(self, their_shape: Shape, our_shape: Shape) -> bool:
        """Tell whether a tensor of `their_shape` can become one of `our_shape`."""
        return their_shape == self.their_shape(our_shape)

    def can_write(self, our_shape: Shape, their_shape: Shape) -> bool:
        """Tell whether a tensor of `our_shape` can become one of `their_shape`."""
        return their_shape == self.their_shape(our_shape)

    def to_ours(self, tensor: torch.Tensor, our_shape: Shape) -> torch.Tensor:
        """The tensor in our form."""
        return tensor

    def to_theirs(self, tensor: torch.Tensor, their_shape: Shape) -> torch.Tensor:
        """The tensor in their form."""
        return tensor


class PointwiseForm(SameForm):
    """Weight of a convolution of kernel 1 in their form, (out, in, 1), and of a linear layer in ours, (out, in)."""

    def their_shape(self, our_shape: Shape) -> Shape:
        return (*our_shape, 1)

    def to_ours(self, tensor: torch.Tensor, our_shape: Shape) -> torch.Tensor:
        return tensor.reshape(our_shape)

    def to_theirs(self, tensor: torch.Tensor, their_shape: Shape) -> torch.Tensor:
        return tensor.reshape(their_shape)


SAME, POINTWISE = SameForm(), PointwiseForm()


# Rows


@dataclass(frozen=True)
class Row:
    """
    A tensor of theirs; each kind of row has its rule for it.

    Args:
        theirs: Its name, with placeholders.
    """

    theirs: str

    @cached_property
    def their_pattern(self) -> re.Pattern[str]:
        return _pattern_of(self.theirs)


@dataclass(frozen=True)
class Map(Row):
    """
    A tensor that has another name in our form.

    Args:
        ours: Our name, with the same placeholders.
        form: The change of its shape or values; by default they stay the same.
    """

    ours: str
    form: SameForm = SAME

    @cached_property
    def our_pattern(self) -> re.Pattern[str]:
        return _pattern_of(self.ours)


@dataclass(frozen=True)
class Drop(Row):
    """A tensor that has no place in our form, with the reason."""

    reason: str


@dataclass(frozen=True)
class DropOtherParts(Drop):
    """
    Tensors of all parts of the model except a few, with the reason why they have no place in our form.

    Args:
        theirs: The parts that stay: first parts of names, with `|` between them.
    """

    @cached_property
    def their_pattern(self) -> re.Pattern[str]:
        return re.compile(rf"(?!(?:{self.theirs})(?:\.|$)).+")


@dataclass(frozen=True)
class Check(Row):
    """
    A tensor that is not mapped, and whose values are checked.

    Args:
        reason: Reason why it has no place in our form.
        by: The function that checks it.
    """

    reason: str
    by: str


@dataclass(frozen=True)
class Refuse(Row):
    """
    A tensor that is known and not supported.

    Args:
        what: Name of such tensors, as it follows "they are" in messages.
    """

    what: str


def _pattern_of(template: str) -> re.Pattern[str]:
    pattern = re.escape(template).replace(r"\{", "{").replace(r"\}", "}")
    for placeholder, expression in PLACEHOLDERS.items():
        pattern = pattern.replace(placeholder, expression)
    return re.compile(pattern)


def pointwise(theirs: str, ours: str) -> tuple[Map, Map]:
    """Make the rows for weight and bias of a convolution of kernel 1 that is a linear layer in our form."""
    return Map(f"{theirs}.weight", f"{ours}.weight", POINTWISE), Map(f"{theirs}.bias", f"{ours}.bias")


# The table


@dataclass(frozen=True)
class Target:
    """A place for a tensor in one of the forms: its name and shape there, and the change of values."""

    name: str
    shape: Shape
    form: SameForm = SAME


@dataclass(frozen=True)
class ReadingPlan:
    """
    The fate of every tensor of a checkpoint of theirs.

    Args:
        targets: Our name and shape for each name of theirs that is mapped.
        left_out: The other names, and the reasons.
    """

    targets: dict[str, Target]
    left_out: dict[str, str]


@dataclass(frozen=True)
class WritingPlan:
    """
    The fate of every tensor of ours in a checkpoint of theirs.

    Args:
        targets: Their name and shape for each name of ours that has a place there.
        left_out: Our names without a place there.
        wrong: Shapes that do not fit, in words.
        missing: Their names that do not get a tensor.
    """

    targets: dict[str, Target]
    left_out: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)


class NameTable:
    """Rows for one model, read in both directions."""

    def __init__(self, rows: Iterable[Row]) -> None:
        self.rows = tuple(rows)

    def find(self, their_name: str) -> Row | None:
        """The row of a tensor of theirs; None where no row fits."""
        return next((row for row in self.rows if row.their_pattern.fullmatch(their_name)), None)

    def to_ours(self, their_name: str) -> tuple[str, Map] | None:
        """Our name of a tensor of theirs and its row; None where it is not mapped."""
        row = self.find(their_name)
        if not isinstance(row, Map):
            return None
        match = row.their_pattern.fullmatch(their_name)
        assert match is not None
        return row.ours.format(**match.groupdict()), row

    def to_theirs(self, our_name: str) -> tuple[str, Map] | None:
        """Their name of a tensor of ours and its row; None where no row fits."""
        for row in self.rows:
            match = row.our_pattern.fullmatch(our_name) if isinstance(row, Map) else None
            if isinstance(row, Map) and match is not None:
                return row.theirs.format(**match.groupdict()), row
        return None

    def plan_reading(
        self, their_shapes: Mapping[str, Shape], our_shapes: Mapping[str, Shape], source: str
    ) -> ReadingPlan:
        """
        Find a place for every tensor of a checkpoint.

        Args:
            their_shapes: Names and shapes in the checkpoint.
            our_shapes: Names and shapes of our model.
            source: The checkpoint, for messages.

        Raises:
            ValueError: for tensors without a row, missing tensors, and shapes that are not the model's; the message
                names them.
        """
        targets: dict[str, Target] = {}
        left_out: dict[str, str] = {}
        refused: dict[str, list[str]] = {}
        unknown: list[str] = []
        wrong: list[str] = []
        met: set[str] = set()
        for theirs, their_shape in their_shapes.items():
            row = self.find(theirs)
            if isinstance(row, Drop | Check):
                left_out[theirs] = row.reason
                continue
            if isinstance(row, Refuse):
                refused.setdefault(row.what, []).append(theirs)
                continue
            found = self.to_ours(theirs)
            if found is None or found[0] not in our_shapes:
                unknown.append(theirs)
                continue
            ours, mapped = found
            our_shape = our_shapes[ours]
            if not mapped.form.can_read(tuple(their_shape), our_shape):
                wrong.append(f"{theirs} is {tuple(their_shape)}, expected {mapped.form.their_shape(our_shape)}")
            if ours in met:
                wrong.append(f"{theirs} is {ours} a second time")
            met.add(ours)
            targets[theirs] = Target(ours, our_shape, mapped.form)
        for what, names in refused.items():
            raise ValueError(f"{source}: tensors {enumerate_names(names)} are not supported; they are {what}.")
        missing = [self._their_name_or_ours(name) for name in our_shapes if name not in met]
        check_fit(source, unknown, wrong, missing)
        return ReadingPlan(targets, left_out)

    def plan_writing(self, our_shapes: Mapping[str, Shape], their_shapes: Mapping[str, Shape]) -> WritingPlan:
        """
        Find a place for every tensor of ours.

        Args:
            our_shapes: Names and shapes of the tensors that are written.
            their_shapes: Names and shapes of their model.
        """
        plan = WritingPlan({})
        for ours, our_shape in our_shapes.items():
            found = self.to_theirs(ours)
            if found is None or found[0] not in their_shapes:
                plan.left_out.append(ours)
                continue
            theirs, row = found
            if not row.form.can_write(our_shape, their_shapes[theirs]):
                plan.wrong.append(f"{ours} is {our_shape}, expected {their_shapes[theirs]} as {theirs}")
            plan.targets[ours] = Target(theirs, their_shapes[theirs], row.form)
        met = {target.name for target in plan.targets.values()}
        plan.missing.extend(name for name in their_shapes if name not in met)
        return plan

    def _their_name_or_ours(self, our_name: str) -> str:
        found = self.to_theirs(our_name)
        return found[0] if found else our_name


def check_fit(source: str, unknown: Sequence[str], wrong: Sequence[str], missing: Sequence[str]) -> None:
    """
    Refuse weights that do not fit their configuration.

    Args:
        source: The checkpoint, for the message.
        unknown: Tensors that have no place.
        wrong: Tensors of a wrong shape, in words.
        missing: Tensors that are missing.

    Raises:
        ValueError: unless all of them are empty.
    """
    faults = [
        f"{what}: {enumerate_names(names)}"
        for what, names in (
            ("tensors of the wrong shape", wrong),
            ("missing tensors", missing),
            ("tensors that are not supported", unknown),
        )
        if names
    ]
    if faults:
        raise ValueError(f"{source}: the weights do not fit their configuration; {'; '.join(faults)}.")


def enumerate_names(names: Sequence[str]) -> str:
    """The first few of many names, and the number of the others."""
    rest = f" and {len(names) - MAX_NAMES_TOLD} more" if len(names) > MAX_NAMES_TOLD else ""
    return ", ".join(names[:MAX_NAMES_TOLD]) + rest
