"""Checkpoints of other people's classes, read into our form and written from it."""

from .sources import resolve_transformers_checkpoint
from .transformers import (
    ExportResult,
    ImportResult,
    TransformersCheckpoint,
    check_output,
    convert_transformers_checkpoint,
    export_to_transformers,
    is_transformers_checkpoint,
    read_transformers_checkpoint,
)

__all__ = [
    "ExportResult",
    "ImportResult",
    "TransformersCheckpoint",
    "check_output",
    "convert_transformers_checkpoint",
    "export_to_transformers",
    "is_transformers_checkpoint",
    "read_transformers_checkpoint",
    "resolve_transformers_checkpoint",
]
