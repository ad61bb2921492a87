"""Transducer losses in plain torch, for any device: from the joint network's inputs, and from its outputs."""

from .fused_joint import fused_rnnt_loss, fused_tdt_loss
from .joint_slices import JointForm, JointNetwork
from .rnnt import rnnt_loss
from .tdt import tdt_loss

__all__ = ["JointForm", "JointNetwork", "fused_rnnt_loss", "fused_tdt_loss", "rnnt_loss", "tdt_loss"]
