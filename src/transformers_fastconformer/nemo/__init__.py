"""NeMo's `.nemo` checkpoints: reading, mapping and converting. The only place with NeMo's words in it."""

from .archive import NemoArchive
from .config_map import MappedConfig, map_config
from .convert import ConversionResult, convert_nemo_checkpoint

__all__ = ["ConversionResult", "MappedConfig", "NemoArchive", "convert_nemo_checkpoint", "map_config"]
