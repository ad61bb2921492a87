"""Checkpoints of other people's classes, read into our form and written from it."""

from .reading import (
    ImportResult,
    TransformersCheckpoint,
    convert_transformers_checkpoint,
    is_transformers_checkpoint,
    read_transformers_checkpoint,
)
from .sources import resolve_transformers_checkpoint
from .writing import ExportResult, export_to_transformers

__all__ = [
    "ExportResult",
    "ImportResult",
    "TransformersCheckpoint",
    "convert_transformers_checkpoint",
    "export_to_transformers",
    "is_transformers_checkpoint",
    "read_transformers_checkpoint",
    "resolve_transformers_checkpoint",
]
