"""
The text of a `model_config.yaml`: YAML as NeMo's OmegaConf reads it, with limits, and `${...}` references.

A few hundred bytes of YAML can stand for any number of values (aliases of aliases, references to references), so
everything is counted before it is made.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from ..validation import reading

# About ten times what the largest published configurations have, with vocabularies of 16 thousand tokens.
MAX_CONFIG_BYTES = 16 * 2**20
MAX_VALUES = 500_000  # keys and values, with those that aliases and references repeat
MAX_CHARACTERS = 16 * 2**20  # of the texts that references put together
MAX_DEPTH = 64
MAX_INTEGER_CHARACTERS = 80

INTERPOLATION = re.compile(r"\$\{([^${}]*)\}")
REFUSED_TAGS = ("binary", "timestamp", "omap", "pairs", "set")
EXPONENT = re.compile(r"[-+]?[0-9]+(?:_[0-9]+)*(?:\.[0-9_]*)?[eE][-+]?[0-9]+\Z")


def read_config_text(content: bytes, name: str) -> dict[str, Any]:
    """
    The model's configuration, `${...}` references resolved where they are plain paths.

    Args:
        content: The file.
        name: What it is called in messages.

    Raises:
        ValueError: for what is not a mapping in plain YAML, or stands for more than the limits allow.
    """
    if len(content) > MAX_CONFIG_BYTES:
        raise ValueError(f"{name} has {len(content)} bytes; expected at most {MAX_CONFIG_BYTES}.")
    with reading(name, "a mapping in YAML"):
        try:
            text = content.decode("utf-8")
            _check_size(text, name)
            config = yaml.load(text, Loader=_ConfigLoader)
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ValueError(f"{name} is not plain YAML: {error}") from error
        if not isinstance(config, dict):
            raise ValueError(f"{name} holds {type(config).__name__}; expected a mapping.")
        resolved = resolve_interpolations(config, name)
    # NeMo keeps only the model's part; archives written by hand may hold a whole experiment.
    model_config = resolved.get("model", resolved)
    if not isinstance(model_config, dict):
        raise ValueError(f"{name}: model={model_config!r}; expected a mapping.")
    return model_config


# YAML

_BaseLoader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _ConfigLoader(_BaseLoader):
    """
    YAML 1.1 as OmegaConf 2.3 reads it: dates are text, `1e-5` is a number, and a key stands there once.

    Tags that no configuration has, and integers beyond any use, are refused.
    """

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        """The mapping, whose keys are different texts, numbers or truth values."""
        seen = set()
        for key, _ in getattr(node, "value", ()) if isinstance(node, yaml.MappingNode) else ():
            if key.tag != "tag:yaml.org,2002:merge" and isinstance(key, yaml.ScalarNode):
                if (key.tag, key.value) in seen:
                    raise _refuse(key, f"the key {key.value[:80]!r} is there twice")
                seen.add((key.tag, key.value))
        mapping = super().construct_mapping(node, deep)
        for value in mapping:
            if not isinstance(value, str | int | float | bool):
                raise _refuse(node, f"a key is {type(value).__name__}; expected text or a number")
        return mapping

    def construct_yaml_int(self, node: Any) -> int:
        """The integer, if it is not absurdly long."""
        if len(node.value) > MAX_INTEGER_CHARACTERS:
            raise _refuse(node, f"an integer has {len(node.value)} characters; expected {MAX_INTEGER_CHARACTERS}")
        return super().construct_yaml_int(node)


def _refuse(node: Any, problem: str) -> yaml.YAMLError:
    return yaml.constructor.ConstructorError(None, None, problem, node.start_mark)


_ConfigLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in rules if not tag.endswith(":timestamp")]
    for first, rules in _BaseLoader.yaml_implicit_resolvers.items()
}
_ConfigLoader.add_implicit_resolver("tag:yaml.org,2002:float", EXPONENT, list("-+0123456789"))
_ConfigLoader.add_constructor("tag:yaml.org,2002:int", _ConfigLoader.construct_yaml_int)
for _tag in REFUSED_TAGS:
    _ConfigLoader.add_constructor(f"tag:yaml.org,2002:{_tag}", _BaseLoader.construct_undefined)


class _ConfigDumper(yaml.SafeDumper):
    """YAML that OmegaConf reads back as it was: a text such as `1e5` is quoted, since it would be a number there."""

    def ignore_aliases(self, data: Any) -> bool:
        """Write lists that are the same object twice; to a reader they say the same."""
        return True


_ConfigDumper.add_implicit_resolver("tag:yaml.org,2002:float", EXPONENT, list("-+0123456789"))


def write_config_text(config: Mapping[str, Any]) -> bytes:
    """A configuration as the text of a `model_config.yaml`."""
    text = yaml.dump(dict(config), Dumper=_ConfigDumper, sort_keys=False, allow_unicode=True)
    return text.encode("utf-8")


@dataclass
class _Size:
    """Values that a node stands for, all aliases followed, and levels of them."""

    anchor: str | None
    values: int = 1
    depth: int = 1

    def add(self, other: _Size) -> None:
        self.values += other.values
        self.depth = max(self.depth, other.depth + 1)


def _check_size(text: str, name: str) -> None:
    """Refuse a text that stands for too much, by its parse events: nothing of that size is made."""
    open_nodes: list[_Size] = []
    sizes: dict[str, _Size] = {}
    for event in yaml.parse(text, Loader=_BaseLoader):
        if isinstance(event, yaml.CollectionStartEvent):
            open_nodes.append(_Size(event.anchor))
            size = open_nodes[-1]
        elif isinstance(event, yaml.CollectionEndEvent):
            size = open_nodes.pop()
            _close(size, open_nodes, sizes)
        elif isinstance(event, yaml.ScalarEvent):
            size = _Size(event.anchor)
            _close(size, open_nodes, sizes)
        elif isinstance(event, yaml.AliasEvent):
            anchor = str(event.anchor)
            if any(node.anchor == anchor for node in open_nodes):
                raise ValueError(f"{name}: the alias *{anchor} stands inside of what it names; expected another.")
            size = sizes.get(anchor, _Size(None))  # that of no anchor is an error when it is read
            _close(_Size(None, size.values, size.depth), open_nodes, sizes)
        else:
            continue
        num_values = max(size.values, open_nodes[-1].values if open_nodes else 0)
        if num_values > MAX_VALUES:
            raise ValueError(f"{name} stands for more than {MAX_VALUES} values; expected at most that many.")
        if len(open_nodes) + size.depth > MAX_DEPTH:
            raise ValueError(f"{name} is nested more than {MAX_DEPTH} levels deep; expected at most that many.")


def _close(size: _Size, open_nodes: list[_Size], sizes: dict[str, _Size]) -> None:
    """Count a whole node in the one around it, and remember it under its anchor."""
    if size.anchor is not None:
        sizes[size.anchor] = size
    if open_nodes:
        open_nodes[-1].add(size)


# References


def resolve_interpolations(config: dict[str, Any], name: str = "model_config.yaml") -> dict[str, Any]:
    """
    A copy of `config` with OmegaConf's plain references, `${a.b}` and the relative `${.b}`, replaced.

    References to nothing, resolvers such as `${oc.env:HOME}` and references in a circle stay as they are: most stand
    in sections that no one reads, and whoever reads one refuses it (see `config_map`).

    Args:
        config: The parsed configuration.
        name: What it is called in messages.

    Raises:
        ValueError: for references that stand for more than the limits allow.
    """
    return _Resolver(config, name).resolve(config, (), (), 1)


class _Resolver:
    """Replaces the references of one configuration, and counts what they stand for."""

    def __init__(self, config: dict[str, Any], name: str) -> None:
        self.config = config
        self.name = name
        self.num_values = 0
        self.num_characters = 0

    def resolve(self, node: Any, parents: tuple[str, ...], open_references: tuple[str, ...], depth: int) -> Any:
        """A node without references; `parents` is its own path, `open_references` are those that led to it."""
        self.num_values += 1
        if self.num_values > MAX_VALUES:
            raise self._refuse(f"stand for more than {MAX_VALUES} values")
        if depth > MAX_DEPTH:
            raise self._refuse(f"lead more than {MAX_DEPTH} levels deep")
        if isinstance(node, dict):
            return {
                key: self.resolve(value, (*parents, str(key)), open_references, depth + 1)
                for key, value in node.items()
            }
        if isinstance(node, list):
            return [
                self.resolve(value, (*parents, str(index)), open_references, depth + 1)
                for index, value in enumerate(node)
            ]
        if not isinstance(node, str) or "${" not in node:
            return node
        return self._resolve_text(node, parents, open_references, depth)

    def _resolve_text(self, node: str, parents: tuple[str, ...], open_references: tuple[str, ...], depth: int) -> Any:
        references = {match.group(0): match.group(1).strip() for match in INTERPOLATION.finditer(node)}
        for reference, path in references.items():
            if path in open_references:
                continue
            found, found_path = _look_up(self.config, path, parents[:-1])
            if found is None:
                continue
            found = self.resolve(found, found_path, (*open_references, path), depth + 1)
            if reference == node:
                return found
            if not isinstance(found, dict | list):
                text = str(found)
                self.num_characters += len(node) + node.count(reference) * len(text)
                if self.num_characters > MAX_CHARACTERS:
                    raise self._refuse(f"stand for more than {MAX_CHARACTERS} characters")
                node = node.replace(reference, text)
        return node

    def _refuse(self, problem: str) -> ValueError:
        return ValueError(f"{self.name}: its ${{...}} references {problem}; expected at most that many.")


def _look_up(config: dict[str, Any], path: str, parents: tuple[str, ...]) -> tuple[Any, tuple[str, ...]]:
    """The value that a reference inside the container `parents` means, and its own path; None for nothing."""
    dots = len(path) - len(path.lstrip("."))
    if dots > len(parents) + 1:
        return None, ()
    keys = [*parents[: len(parents) - dots + 1], *path[dots:].split(".")] if dots else path.split(".")
    for candidate in (keys, keys[1:] if keys[0] == "model" else keys):
        node = _descend(config, candidate)
        if node is not None:
            return node, tuple(candidate)
    return None, ()


def _descend(node: Any, keys: Sequence[str]) -> Any:
    """The value at a path of keys and places in lists; None where there is nothing."""
    for key in keys:
        if isinstance(node, dict) and key in node:
            node = node[key]
        elif isinstance(node, list) and re.fullmatch("[0-9]{1,9}", key) and int(key) < len(node):
            node = node[int(key)]
        else:
            return None
    return node


def is_unresolved(value: Any) -> bool:
    """A configuration value that is still a `${...}` reference, or OmegaConf's mark of a missing value."""
    return isinstance(value, str) and ("${" in value or value == "???")
