"""The front end of an archive: constants that lie with the weights, and the feature extractor that has them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from transformers.utils import logging

from ..audio.log_mel_settings import FILTERBANK_DTYPES, WINDOW_FUNCTIONS
from ..audio.mel_filterbank import mel_filterbank
from ..feature_extraction_fastconformer import FastConformerFeatureExtractor
from ..validation import reading
from .config_map import MappedConfig
from .weight_map import FILTERBANK, WINDOW

logger = logging.get_logger(__name__)


def build_feature_extractor(
    mapped: MappedConfig, tensors: Mapping[str, torch.Tensor], source: str
) -> FastConformerFeatureExtractor:
    """
    The feature extractor of an archive, whose stored filterbank and window win over the configuration, as in NeMo.

    They are computed again where that gives the same bits, rounded to 16 bits as in archives of half precision where
    that does, and written into the feature extractor's configuration otherwise.
    """
    with reading(source, "values of a preprocessor"):
        return _build_feature_extractor(mapped, tensors, source)


def _build_feature_extractor(
    mapped: MappedConfig, tensors: Mapping[str, torch.Tensor], source: str
) -> FastConformerFeatureExtractor:
    arguments = dict(mapped.feature_extractor_arguments)
    extractor = FastConformerFeatureExtractor(**arguments)
    window = WINDOW_FUNCTIONS[extractor.window](extractor.win_length, periodic=False, dtype=torch.float32)
    filterbank = torch.from_numpy(
        mel_filterbank(
            extractor.sampling_rate,
            extractor.n_fft,
            extractor.feature_size,
            extractor.min_frequency,
            extractor.max_frequency,
            extractor.mel_norm,
        )
    )
    stored_window, stored_filterbank = tensors.get(WINDOW, window), tensors.get(FILTERBANK, filterbank)
    if stored_filterbank.ndim == 3 and stored_filterbank.shape[0] == 1:
        stored_filterbank = stored_filterbank[0]
    for name, stored, computed in ((WINDOW, stored_window, window), (FILTERBANK, stored_filterbank, filterbank)):
        if stored.shape != computed.shape:
            raise ValueError(
                f"{source}: {name} is {tuple(stored.shape)}; expected {tuple(computed.shape)}, as the preprocessor "
                "section says."
            )
    # Only now: a few bytes with a stride of 0 may be a tensor of any size.
    stored_window, stored_filterbank = stored_window.to(torch.float32), stored_filterbank.to(torch.float32)
    for dtype_name, dtype in FILTERBANK_DTYPES.items():
        rounded_window, rounded_filterbank = (values.to(dtype).to(torch.float32) for values in (window, filterbank))
        if torch.equal(stored_window, rounded_window) and torch.equal(stored_filterbank, rounded_filterbank):
            return FastConformerFeatureExtractor(**arguments, filterbank_dtype=dtype_name)
    logger.info(f"{source}: filterbank and window are not those that the configuration gives; they are kept.")
    return FastConformerFeatureExtractor(
        **arguments, mel_filters=stored_filterbank.numpy(), window_values=stored_window.numpy()
    )
