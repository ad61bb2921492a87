"""Transducer losses in plain torch, for any device."""

from transformers_fastconformer.losses.rnnt import rnnt_loss
from transformers_fastconformer.losses.tdt import tdt_loss

__all__ = ["rnnt_loss", "tdt_loss"]
