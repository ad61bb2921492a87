"""NVIDIA's FastConformer speech models in Hugging Face Transformers, without NeMo."""

from .version import __version__

__all__ = ["__version__"]
