"""
Adapters in NeMo's archives: small networks that a fine-tuning puts between the modules of a trained model.

An adapter that is switched off changes nothing, and its weights are left out. One that is switched on is refused: the
adapters of NeMo 3.0 have a layer norm and add their output to their input, so that no weight of the model can take
them in, whatever their activation.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ..checkpoints.name_table import Drop

GLOBAL_OPTIONS = "global_cfg"
ADAPTER_OFF = "an adapter that is switched off"
HOW_TO_SWITCH_OFF = (
    "adapters that are switched off, as `model.set_enabled_adapters(enabled=False)` does in NeMo before `save_to`"
)


def check_adapters(section: Any, source: str) -> frozenset[str]:
    """
    Names of the adapters of an archive that are switched off, and may be left out.

    Args:
        section: The `adapters` section of the configuration: a name to an adapter's options.
        source: The archive, for messages.

    Raises:
        ValueError: naming the first adapter that is in use.
    """
    if not section:
        return frozenset()
    if not isinstance(section, Mapping):
        raise ValueError(f"adapters={section!r} is not supported; expected a section (in {source}).")
    switched_off = set()
    for name, options in section.items():
        if name == GLOBAL_OPTIONS:
            continue
        if not isinstance(options, Mapping) or options.get("enabled", True):
            kind = str(options.get("_target_", "")).rsplit(".", 1)[-1] if isinstance(options, Mapping) else ""
            raise ValueError(
                f"adapters.{name}{f' ({kind})' if kind else ''} is in use and not supported: an adapter cannot be "
                f"merged into the weights; expected {HOW_TO_SWITCH_OFF} (in {source})."
            )
        # `decoder:name` is an adapter in the decoder, and its tensors have the bare name.
        switched_off.add(str(name).rpartition(":")[2])
    return frozenset(switched_off)


def adapter_rows(adapters_off: Iterable[str]) -> tuple[Drop, ...]:
    """Rows for the tensors of adapters that are switched off."""
    return tuple(Drop(f"{{any}}.adapter_layer.{name}.{{any}}", ADAPTER_OFF) for name in adapters_off)
