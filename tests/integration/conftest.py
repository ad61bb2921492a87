"""The Hub on loopback and its clients."""

from hub_fixtures import client, hf_home, hub

__all__ = ["client", "hf_home", "hub"]
