"""Transducer losses in plain torch, for any device."""

from .rnnt import rnnt_loss
from .tdt import tdt_loss

__all__ = ["rnnt_loss", "tdt_loss"]
