"""
Registration: all changes that importing this package makes in Transformers, and the way to undo them.

- The Auto classes learn our configurations and classes, by their public `register`.
- `from_pretrained` of `AutoConfig`, `AutoFeatureExtractor`, `AutoTokenizer`, `AutoProcessor` and of all `AutoModel...`
  classes is wrapped, so that they accept `.nemo` checkpoints. The wrapper looks at what lies on disk; unless that is a
  `.nemo` checkpoint, Transformers' own code runs with the very same arguments. Only if that ends in an error, the Hub
  is asked whether the repository holds a `.nemo` and no `config.json`; if not, the error is raised.
- `FeatureExtractionMixin.get_feature_extractor_dict`, which `transformers.pipeline` calls too, is wrapped likewise.
  Two functions that the pipeline calls on any name (`cached_file`, `find_adapter_config_file`) return None for a name
  that ends in `.nemo`, which they would take for the id of a repository.
- `pipeline("automatic-speech-recognition", ...)` makes a pipeline of ours for our models, and so does the constructor
  of `AutomaticSpeechRecognitionPipeline` (`hf_pipeline.py`).
- The loggers of this package become children of Transformers' own, so that `transformers.logging` and
  `TRANSFORMERS_VERBOSITY` hold for them.
- Our own classes are told where `.nemo` checkpoints and those of Transformers' own FastConformer classes come from
  (`checkpoint_sources.py`); the Auto classes give Transformers' classes for the latter, as before.

The form of 8-bit weights is known to Transformers' quantizers as long as the package is imported: our own classes need
it, too (`modeling/int8_quantizer.py`).

`register()` runs at import; `unregister()` undoes it.
"""

from __future__ import annotations

import functools
import logging
import os
from collections import OrderedDict
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import transformers
from transformers import (
    AutoConfig,
    AutoFeatureExtractor,
    AutoModel,
    AutoModelForAudioFrameClassification,
    AutoModelForCTC,
    AutoModelForPreTraining,
    AutoModelForSpeechSeq2Seq,
    AutoProcessor,
    AutoTokenizer,
    FeatureExtractionMixin,
    pipelines,
)
from transformers.models.auto.auto_factory import _BaseAutoModelClass, _LazyAutoMapping
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.feature_extraction_auto import FEATURE_EXTRACTOR_MAPPING
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING
from transformers.models.auto.tokenization_auto import TOKENIZER_MAPPING
from transformers.utils import logging as transformers_logging

from .checkpoint_sources import load_from_folder, loading, register_source, unregister_source
from .checkpoints.own_folder import check_own_folder, is_own_folder
from .configuration_diarization import FastConformerDiarizationConfig
from .configuration_fastconformer import (
    FastConformerConfig,
    FastConformerCTCConfig,
    FastConformerRNNTConfig,
    FastConformerTDTConfig,
)
from .configuration_multitask import FastConformerMultitaskConfig
from .configuration_pretraining import FastConformerPreTrainingConfig
from .feature_extraction_fastconformer import FastConformerFeatureExtractor
from .hf_pipeline import register_pipeline, unregister_pipeline
from .interop.sources import resolve_transformers_checkpoint
from .modeling.ctc import FastConformerForCTC
from .modeling.diarization import FastConformerForDiarization
from .modeling.encoder import FastConformerModel
from .modeling.hybrid import FastConformerHybridForCTC, ParakeetTDTForCTC
from .modeling.multitask import FastConformerForMultitask
from .modeling.pretraining import FastConformerForPreTraining
from .modeling.transducer import FastConformerForRNNT, FastConformerForTDT
from .nemo.locate import ARCHIVE_SUFFIX
from .nemo.sources import resolve_nemo_checkpoint, resolved_once
from .processing_fastconformer import FastConformerProcessor
from .tokenization_fastconformer import FastConformerTokenizer


def _auto_model_class(name: str, task: str) -> type[_BaseAutoModelClass]:
    """The Auto class of that name, or one of ours: Transformers before 5.13 lacks some."""
    existing = getattr(transformers, name, None)
    if existing is not None:
        return existing
    mapping = _LazyAutoMapping(OrderedDict(), OrderedDict())
    return type(name, (_BaseAutoModelClass,), {"_model_mapping": mapping, "__doc__": f"Auto class for {task}."})


AutoModelForTDT = _auto_model_class("AutoModelForTDT", "token-and-duration transducers")
AutoModelForRNNT = _auto_model_class("AutoModelForRNNT", "RNN transducers")


PACKAGE = __name__.partition(".")[0]  # the name above those of all its loggers
NEMO, TRANSFORMERS, OWN = "nemo", "transformers", "own"  # the formats of `checkpoint_sources.py`
CONFIG_CLASSES = (
    FastConformerConfig,
    FastConformerCTCConfig,
    FastConformerRNNTConfig,
    FastConformerTDTConfig,
    FastConformerMultitaskConfig,
    FastConformerDiarizationConfig,
    FastConformerPreTrainingConfig,
)
HEAD_CLASSES: tuple[tuple[type[_BaseAutoModelClass], type[FastConformerConfig], type], ...] = (
    (AutoModelForCTC, FastConformerCTCConfig, FastConformerForCTC),
    (AutoModelForCTC, FastConformerRNNTConfig, FastConformerHybridForCTC),
    (AutoModelForCTC, FastConformerTDTConfig, ParakeetTDTForCTC),
    (AutoModelForRNNT, FastConformerRNNTConfig, FastConformerForRNNT),
    (AutoModelForTDT, FastConformerTDTConfig, FastConformerForTDT),
    (AutoModelForAudioFrameClassification, FastConformerDiarizationConfig, FastConformerForDiarization),
    (AutoModelForPreTraining, FastConformerPreTrainingConfig, FastConformerForPreTraining),
    (AutoModelForSpeechSeq2Seq, FastConformerMultitaskConfig, FastConformerForMultitask),
)
# Replaced attributes: (class or module, name) to the original and ours.
_replaced: dict[tuple[Any, str], tuple[Any, Any]] = {}
_is_registered = False


def register() -> None:
    """Make the Auto classes know this package and `.nemo` checkpoints. Doing it again changes nothing."""
    global _is_registered
    for config_class in CONFIG_CLASSES:
        AutoConfig.register(config_class.model_type, config_class, exist_ok=True)
        # Not `AutoModel.register`: it wants one model class for each configuration, and the bare model fits them all.
        bare_models: Any = AutoModel._model_mapping
        bare_models.register(config_class, FastConformerModel, exist_ok=True)
        AutoFeatureExtractor.register(config_class, FastConformerFeatureExtractor, exist_ok=True)
        AutoTokenizer.register(config_class, fast_tokenizer_class=FastConformerTokenizer, exist_ok=True)
        AutoProcessor.register(config_class, FastConformerProcessor, exist_ok=True)
    for auto_class, config_class, model_class in HEAD_CLASSES:
        auto_class.register(config_class, model_class, exist_ok=True)
    register_pipeline()
    transformers_logging.get_logger()  # sets the level of the library's root logger, and its handler
    logging.getLogger(PACKAGE).parent = logging.getLogger(transformers.__name__)
    register_source(NEMO, resolve_nemo_checkpoint)
    register_source(TRANSFORMERS, resolve_transformers_checkpoint)
    register_source(OWN, check_own_folder)
    for auto_class in (AutoConfig, AutoFeatureExtractor, AutoTokenizer, AutoProcessor, *_auto_model_classes()):
        _replace(auto_class, "from_pretrained", _accepting_nemo)
    _replace(FeatureExtractionMixin, "get_feature_extractor_dict", _accepting_nemo)
    for name in ("cached_file", "find_adapter_config_file"):
        _replace(pipelines, name, _passing_over_nemo)
    _is_registered = True


def unregister() -> None:
    """Put the Auto classes back to their state without this package. Our own classes then read only our own format."""
    global _is_registered
    _is_registered = False  # a wrapper that somebody has wrapped again cannot be taken out; it lets everything pass
    for (holder, name), (original, ours) in list(_replaced.items()):
        if vars(holder)[name] is ours:
            setattr(holder, name, original)
            del _replaced[holder, name]
    unregister_pipeline()
    logging.getLogger(PACKAGE).parent = logging.getLogger()
    unregister_source(NEMO)
    unregister_source(TRANSFORMERS)
    unregister_source(OWN)
    mappings: list[Any] = [AutoModel._model_mapping, FEATURE_EXTRACTOR_MAPPING, TOKENIZER_MAPPING, PROCESSOR_MAPPING]
    mappings += [auto_class._model_mapping for auto_class, _, _ in HEAD_CLASSES]
    for config_class in CONFIG_CLASSES:
        CONFIG_MAPPING._extra_content.pop(config_class.model_type, None)
        for mapping in mappings:
            mapping._extra_content.pop(config_class, None)


def _auto_model_classes() -> list[type]:
    """The base of the `AutoModel...` classes and those of them that have a `from_pretrained` of their own."""
    found: list[type] = [_BaseAutoModelClass]
    for auto_class in found:  # the list grows during the loop
        found.extend(set(auto_class.__subclasses__()).difference(found))
    return [auto_class for auto_class in found if "from_pretrained" in auto_class.__dict__]


def _replace(holder: Any, name: str, make: Callable[[Any], Any]) -> None:
    """Put `make(original)` in place of an attribute, once; nothing is done where Transformers lacks the attribute."""
    if (holder, name) not in _replaced and name in vars(holder):
        original = vars(holder)[name]
        ours = make(original)
        setattr(holder, name, ours)
        _replaced[holder, name] = (original, ours)


def _accepting_nemo(original: classmethod) -> classmethod:
    """A class method that loads by name, which then takes `.nemo` checkpoints next to all that it took before."""

    @functools.wraps(original.__func__)
    def from_pretrained(cls: type, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        load: Callable[..., Any] = original.__get__(None, cls)
        name = pretrained_model_name_or_path
        if not (_is_registered and isinstance(name, str | os.PathLike)):
            return load(name, *args, **kwargs)
        with resolved_once():
            folder = resolve_nemo_checkpoint(name, cls, kwargs, only_if_known=True)
            if folder is None:
                try:
                    with loading(name, cls.__name__) if is_own_folder(str(name)) else nullcontext():
                        return load(name, *args, **kwargs)
                except (OSError, ValueError) as error:
                    folder = _resolve_after(error, name, cls, kwargs)
            return load_from_folder(load, folder, name, args, kwargs)

    return classmethod(from_pretrained)


def _resolve_after(error: Exception, name: Any, cls: type, options: dict[str, Any]) -> str:
    """The folder of a `.nemo` checkpoint that Transformers could not load; for other names its error is raised."""
    try:
        folder = resolve_nemo_checkpoint(name, cls, options)
    except (OSError, ValueError) as found:
        raise found from error
    if folder is None:
        raise error
    return folder


def _passing_over_nemo(original: Callable[..., Any]) -> Callable[..., Any]:
    """A function that looks for a file of a repository, which then finds nothing for the name of a `.nemo` file."""

    @functools.wraps(original)
    def find(path_or_repo_id: Any, *args: Any, **kwargs: Any) -> Any:
        if _is_registered and str(path_or_repo_id).endswith(ARCHIVE_SUFFIX) and not os.path.isdir(path_or_repo_id):
            return None
        return original(path_or_repo_id, *args, **kwargs)

    return find


register()
