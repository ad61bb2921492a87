"""Decoding: tensors and step functions to hypotheses. Nothing here knows a model."""
