"""The Hub on loopback and its clients."""

from hub_fixtures import (
    client,
    converted_folder,
    hf_home,
    hub,
    hub_environment,
    nemo_bytes,
    other_nemo_bytes,
    run_python,
)

__all__ = [
    "client",
    "converted_folder",
    "hf_home",
    "hub",
    "hub_environment",
    "nemo_bytes",
    "other_nemo_bytes",
    "run_python",
]
