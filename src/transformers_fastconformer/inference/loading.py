"""Loading: from the name of a checkpoint to a model with the wanted head and its processor, on the wanted device."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
from transformers import AutoConfig, PreTrainedModel
from transformers.utils import logging
from transformers.utils.logging import disable_progress_bar, enable_progress_bar, is_progress_bar_enabled

from ..checkpoint_sources import load_from_folder, loading, resolve_checkpoint
from ..checkpoints.files import path_of_name
from ..checkpoints.int8_form import cached_int8_folder
from ..checkpoints.network import is_unreachable
from ..configuration_diarization import FastConformerDiarizationConfig
from ..configuration_fastconformer import FastConformerConfig, FastConformerTDTConfig
from ..configuration_multitask import FastConformerMultitaskConfig
from ..demonstration import CHECKPOINT_PATH, SPEAKERS_CHECKPOINT_PATH, STREAMING_CHECKPOINT_PATH
from ..modeling.ctc import FastConformerForCTC
from ..modeling.hybrid import FastConformerHybridForCTC, ParakeetTDTForCTC, share_as_ctc
from ..modeling.int8_config import FastConformerInt8Config, is_int8_config
from ..modeling.multitask import FastConformerForMultitask
from ..modeling.recognizer import FastConformerRecognizer
from ..modeling.transducer import FastConformerForRNNT, FastConformerForTDT, FastConformerForTransducer
from ..nemo.locate import is_hub_name, refuse_other_paths
from ..processing_fastconformer import FastConformerProcessor
from ..validation import require, require_choice

logger = logging.get_logger(__name__)

#: The checkpoint that is used where none is named.
DEFAULT_MODEL = "nvidia/parakeet-tdt-0.6b-v3"

#: Name by which `load_model` knows the spoken-digit checkpoint that the package carries.
DEMONSTRATION_NAME = "demo"

#: Name of the spoken-digit checkpoint that streams.
STREAMING_DEMONSTRATION_NAME = "demo-streaming"

#: Name of the checkpoint that tells the speakers of digits apart, for `diarize` and `load_diarizer`.
SPEAKERS_DEMONSTRATION_NAME = "demo-speakers"

_DEMONSTRATIONS = {
    DEMONSTRATION_NAME: CHECKPOINT_PATH,
    STREAMING_DEMONSTRATION_NAME: STREAMING_CHECKPOINT_PATH,
    SPEAKERS_DEMONSTRATION_NAME: SPEAKERS_CHECKPOINT_PATH,
}

DEMONSTRATION_NAMES = tuple(_DEMONSTRATIONS)

#: Stands for the best device that this machine has, which `choose_device` finds.
AUTO_DEVICE = "auto"

HEADS = ("auto", "ctc", "transducer")
DTYPES = ("auto", "float32", "float16", "bfloat16", "int8")
# Arguments of a model's `from_pretrained` that say where its configuration is.
CONFIG_OPTIONS = ("revision", "token", "cache_dir", "force_download", "local_files_only", "proxies", "subfolder")


def load_model(
    source: str | Path, head: str = "auto", device: str = AUTO_DEVICE, dtype: str = "auto"
) -> tuple[FastConformerRecognizer, FastConformerProcessor]:
    """
    Load the model and the processor of a checkpoint, ready to transcribe.

    Args:
        source: A folder or Hub repository in our format or that of Transformers' own classes; a `.nemo` file, or a
            folder or repository that holds one, which is converted once into a cache; or `"demo"` for the
            demonstration checkpoint and `"demo-streaming"` for the one that streams.
        head: `"ctc"`, `"transducer"`, or `"auto"` (default): the transducer if there is one, unless a hybrid was
            saved with its CTC head.
        device: Device of the model, such as `"cpu"` or `"cuda:1"`; `"auto"` (default): CUDA if this machine has it,
            else MPS, else the CPU.
        dtype: `"auto"` (default): the type that the checkpoint's configuration names, which for a `.nemo` is float32
            as in NeMo, also if its weights have 16 bits; `"float32"`, `"float16"`, `"bfloat16"`, or `"int8"`: float32,
            with 8-bit weights in the blocks of the encoder, see [`FastConformerInt8Config`]. Of a checkpoint stored in
            8 bits `"auto"` and `"int8"` use them as they are, and the others make floating weights of them.

    Returns:
        The model, in evaluation mode, and its processor.

    Raises:
        ValueError: for a head, device or dtype that is not available, for a file or folder that is not a checkpoint,
            and for one that is not of this package or has no head.
        FileNotFoundError: when `source` is not a file or folder that exists, and not the name of a repository.
        OSError: when the checkpoint cannot be had from the Hub.
    """
    require_choice("head", head, HEADS)
    require_choice("dtype", dtype, DTYPES)
    device = choose_device(device, dtype == "int8") if device != AUTO_DEVICE else device
    source = checkpoint_of_name(source)
    refuse_other_paths(source)
    try:
        # Where a repository has Transformers' own form of a checkpoint as well, the configuration is read from ours.
        resolved = resolve_checkpoint(source, FastConformerConfig, {})
        with loading(source, FastConformerConfig.__name__):
            config = AutoConfig.from_pretrained(resolved or source)
        is_stored = is_int8_config(getattr(config, "quantization_config", None))
        is_int8 = dtype == "int8" or (is_stored and dtype == "auto")
        device = choose_device(device, is_int8)
        if is_int8 and torch.device(device).type != "cpu":
            raise ValueError(
                f"device={device!r} is not supported by 8-bit weights; expected 'cpu', or a dtype of floating weights."
            )
        with _weights_without_bar():
            if dtype == "int8" and not is_stored:
                stored = _load_in_8_bits(source, config, resolved)
            else:
                if is_stored and not is_int8:
                    config.quantization_config = {**config.quantization_config, "dequantize": True}
                stored = load_recognizer(source, config, dtype="float32" if dtype == "int8" else dtype)
        processor = FastConformerProcessor.from_pretrained(source)
    except OSError as error:
        if not is_unreachable(error):
            raise
        raise OSError(
            f"{source} is not on this machine, and the Hub does not give it (no network, HF_HUB_OFFLINE, or no "
            f"access). Give a folder or a .nemo file, or for a trial offline the model {DEMONSTRATION_NAME!r} "
            f"(--model {DEMONSTRATION_NAME})."
        ) from error
    model: Any = choose_head(stored, head).eval().to(device)
    return model, processor


@contextmanager
def _weights_without_bar() -> Iterator[None]:
    """Hide Transformers' bar of the weights, which are there at once; bars of downloads are the Hub's own and stay."""
    was_shown, were_downloads_hidden = is_progress_bar_enabled(), are_progress_bars_disabled()
    disable_progress_bar()
    if not were_downloads_hidden:
        enable_progress_bars()
    try:
        yield
    finally:
        if was_shown:
            enable_progress_bar()
        if were_downloads_hidden:
            disable_progress_bars()


def _load_in_8_bits(source: str | Path, config: Any, resolved: str | None) -> FastConformerRecognizer:
    """
    Load a checkpoint of floating weights in 8 bits.

    Of one that the cache holds, the 8-bit form is kept there as well, and mapped; the weights of others are rounded.
    """
    if resolved is not None:
        try:
            folder = str(cached_int8_folder(resolved, source))
        except OSError as error:
            logger.warning(f"The 8-bit form of {source} cannot be kept, and is made at every load: {error}")
        else:
            return load_from_folder(load_recognizer, folder, source, (), {"dtype": "float32"})
    return load_recognizer(source, config, dtype="float32", quantization_config=FastConformerInt8Config())


def checkpoint_of_name(name: str | Path) -> str | Path:
    """
    The checkpoint that a user names: a demonstration's, the path of a `file://` address, and other names as they are.

    Raises:
        FileNotFoundError: when the name is not a file or folder that exists, and not the name of a repository.
    """
    require(isinstance(name, str | os.PathLike), "model", name, "the name of a checkpoint")
    if isinstance(name, str) and name in _DEMONSTRATIONS:
        return _DEMONSTRATIONS[name]
    text = str(name)
    if path_of_name(text) != Path(text):
        name = path_of_name(text)
        text = str(name)
    if not (Path(text).exists() or is_hub_name(text)):
        raise FileNotFoundError(f"{text!r} does not exist; expected a folder, a .nemo archive or a Hub repository.")
    return name


def choose_device(device: str = AUTO_DEVICE, is_int8: bool = False) -> str:
    """
    Choose the device on which a model runs.

    Args:
        device: The name of a device, which is checked, or `"auto"`: CUDA if this machine has it, else MPS, else the
            CPU.
        is_int8: Products of 8 bits are wanted, for which `"auto"` is the CPU.

    Raises:
        ValueError: for a device that `check_device` refuses.
    """
    if device != AUTO_DEVICE:
        return check_device(device)
    if is_int8:
        return "cpu"
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def check_device(device: str) -> str:
    """
    The name of a device, if this machine has it.

    Raises:
        ValueError: for a name that torch does not know, and for a device that this machine does not have.
    """
    try:
        if torch.empty(0, dtype=torch.float32, device=device).is_meta:
            raise RuntimeError("tensors of this device hold nothing")
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        available = ["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
        if torch.backends.mps.is_available():
            available.append("mps")
        raise ValueError(f"device={device!r} is not available; this machine has {', '.join(available)}.") from error
    return device


SAYS_WHO_SPEAKS = " It tells speakers apart: see diarize(), `fastconformer diarize`, `transcribe --diarize`."
HYBRID_CTC_CLASSES = {FastConformerHybridForCTC.__name__, ParakeetTDTForCTC.__name__}


class NotOursError(ValueError):
    """A checkpoint that does not hold a model of this package with a head."""


def load_recognizer(name: Any, config: Any = None, **kwargs: Any) -> FastConformerRecognizer:
    """
    Load the head of any checkpoint of this package, which `choose_head` may change for the other one of a hybrid.

    Of a hybrid it is the transducer, unless it was saved with its CTC head: its configuration names that class then.

    Args:
        name: The checkpoint, as `from_pretrained` of this package's classes takes it.
        config: The configuration, if it is loaded already.
        kwargs: Keyword arguments of `from_pretrained`.

    Raises:
        NotOursError: for a checkpoint that is not of this package or has no head.
        ValueError: for one whose weights are not those of its configuration.
    """
    if config is None:
        of_config = {key: kwargs[key] for key in CONFIG_OPTIONS if kwargs.get(key) is not None}
        config = AutoConfig.from_pretrained(name, **of_config)
    # The most special first: a TDT configuration is an RNN-T configuration too.
    if isinstance(config, FastConformerMultitaskConfig):
        return FastConformerForMultitask.from_pretrained(name, config=config, **kwargs)
    for model_class in (FastConformerForTDT, FastConformerForRNNT, FastConformerForCTC):
        if isinstance(config, model_class.config_class):
            model = model_class.from_pretrained(name, config=config, **kwargs)
            is_saved_as_ctc = bool({*(config.architectures or ())} & HYBRID_CTC_CLASSES)
            return share_as_ctc(model) if is_saved_as_ctc and config.has_ctc_head else model
    is_diarizer = isinstance(config, FastConformerDiarizationConfig)
    raise NotOursError(
        f"{name} holds a model of type {config.model_type!r}; expected one of this package with a head to "
        "transcribe with: 'fastconformer_ctc', 'fastconformer_rnnt', 'fastconformer_tdt' or 'fastconformer_multitask'."
        + (SAYS_WHO_SPEAKS if is_diarizer else "")
    )


def choose_head(model: PreTrainedModel, head: str = "auto") -> FastConformerRecognizer:
    """
    Choose the head of a model that decodes; the other head of a hybrid shares all its parameters, nothing is copied.

    Args:
        model: A model of this package.
        head: `"ctc"`, `"transducer"`, or `"auto"`: the head that the model is.

    Raises:
        ValueError: for a head that the model does not have.
    """
    require_choice("head", head, HEADS)
    if isinstance(model, FastConformerForMultitask):
        require(head == "auto", "head", head, "'auto' for a multitask model")
        return model
    is_transducer = isinstance(model, FastConformerForTransducer)
    if not is_transducer and not isinstance(model, FastConformerForCTC | FastConformerHybridForCTC):
        raise ValueError(
            f"{type(model).__name__} has no head to transcribe with; expected FastConformerForCTC, "
            "FastConformerForRNNT, FastConformerForTDT, FastConformerForMultitask or a head of a hybrid."
        )
    if head == "ctc" and is_transducer:
        if not getattr(model.config, "has_ctc_head", False):
            raise ValueError(
                "head='ctc' is not supported by this model, which has no CTC head; expected 'transducer'."
            )
        return share_as_ctc(model)  # type: ignore[arg-type]
    if head == "transducer" and not is_transducer:
        if isinstance(model, FastConformerForCTC):
            raise ValueError("head='transducer' is not supported by this model, a CTC model; expected 'ctc'.")
        return _share_as_transducer(model)
    return model  # type: ignore[return-value]


def _share_as_transducer(model: Any) -> FastConformerForTransducer:
    """The transducer head of a hybrid loaded with its CTC head, with the same parameters."""
    config = model.config
    transducer_class = FastConformerForTDT if isinstance(config, FastConformerTDTConfig) else FastConformerForRNNT
    with torch.device("meta"):
        shared = transducer_class(config)
    for name in ("encoder", "decoder", "joint", "ctc_head", "prompt_kernel"):
        setattr(shared, name, getattr(model, name))
    # A CTC head has them frozen.
    shared.decoder.requires_grad_(True)
    shared.joint.requires_grad_(True)
    return shared.train(model.training)
