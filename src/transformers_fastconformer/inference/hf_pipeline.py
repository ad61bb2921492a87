"""
`transformers.pipeline("automatic-speech-recognition", ...)` for the models of this package.

The registry of Transformers has one class for the task. `register_pipeline` puts a class there that makes ours for our
models and Transformers' own for all others; `unregister_pipeline` takes it away again.
"""

from __future__ import annotations

import importlib
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sized
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from itertools import islice
from typing import Any

import torch
import transformers
from transformers import AutoConfig, Pipeline, PreTrainedModel
from transformers.pipelines import PIPELINE_REGISTRY
from transformers.utils import logging

from ..audio.files import AudioFile, find_file, load_waveform
from ..configuration_fastconformer import FastConformerConfig, FastConformerTDTConfig
from ..modeling.ctc import FastConformerForCTC
from ..modeling.hybrid import FastConformerHybridForCTC, share_as_ctc
from ..modeling.transducer import FastConformerForRNNT, FastConformerForTDT, FastConformerForTransducer
from ..processing_fastconformer import FastConformerProcessor
from .chunked import check_decoding_options, transcribe_features
from .clip_features import ClipFeatures, StreamedFeatures, extract_clip, open_clip
from .strategy import check_strategy, choose_strategy

logger = logging.get_logger(__name__)

TASK = "automatic-speech-recognition"
HEADS = ("auto", "ctc", "transducer")
TIMESTAMP_LEVELS = ("char", "word", "segment")
TRUE_LEVEL = "segment"  # what `return_timestamps=True` is
# Keys of an input mapping that are the audio; what else is in it comes back with the result.
AUDIO_KEYS = ("raw", "array", "sampling_rate", "bytes", "path")
CALL_OPTIONS = (
    "return_timestamps",
    "strategy",
    "chunk_length_s",
    "stride_length_s",
    "language",
    "max_symbols_per_step",
    "generate_kwargs",
)
GENERATE_OPTIONS = ("language", "max_symbols_per_step")
# What of the arguments of a model's `from_pretrained` says where its configuration is.
CONFIG_OPTIONS = ("revision", "token", "cache_dir", "force_download", "local_files_only", "proxies", "subfolder")
PARTS = ("tokenizer", "feature_extractor")
# What `transformers.pipeline` takes beside a name and passes on when it loads the parts of a checkpoint.
COMPONENT_OPTIONS = ("revision", "token", "trust_remote_code")
# How many clips `num_workers` may be ahead of the model, times the batch.
BATCHES_AHEAD = 2


class FastConformerSpeechRecognitionPipeline(Pipeline):
    r"""
    Speech recognition with the models of this package: any audio in, text and times out.

    `transformers.pipeline("automatic-speech-recognition", model=...)` makes it. Results are those of Transformers'
    pipeline for the task: `{"text": ...}`, with times also `"chunks"`, a list of
    `{"text": ..., "timestamp": (start, end)}` in seconds.

    Args:
        model ([`PreTrainedModel`]): A model of this package with a head.
        tokenizer ([`FastConformerTokenizer`], *optional*), feature_extractor ([`FastConformerFeatureExtractor`],
            *optional*), processor ([`FastConformerProcessor`], *optional*): What goes with it. What is not given is
            loaded from where the model was.
        head (`str`, defaults to `"auto"`): Which head of a hybrid decodes: `"ctc"`, `"transducer"`, or that of the
            model given; for a checkpoint given by name `"auto"` is the transducer where there is one.
        device, batch_size, num_workers, dtype, ...: As in [`Pipeline`]. `num_workers` are threads that read audio and
            compute features ahead of the model.
        kwargs: Defaults for the options of a call.
    """

    # Optional for `transformers.pipeline`: what it does not find, because a model object was given, is found here.
    _load_tokenizer: Any = None
    _load_feature_extractor: Any = None
    _load_processor: Any = False
    _load_image_processor: Any = False
    _load_video_processor: Any = False
    _pipeline_calls_generate = False

    model: Any
    feature_extractor: Any
    processor: Any

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: Any = None,
        feature_extractor: Any = None,
        processor: Any = None,
        head: str = "auto",
        task: str = TASK,
        local_files_only: bool = False,
        **kwargs: Any,
    ) -> None:
        model = choose_head(model, head).eval()
        processor = _find_processor(model, tokenizer, feature_extractor, processor, local_files_only)
        super().__init__(
            model,
            tokenizer=processor.tokenizer,
            feature_extractor=processor.feature_extractor,
            processor=processor,
            task=task,
            **kwargs,
        )

    def save_pretrained(self, save_directory: Any, **kwargs: Any) -> None:
        """Save the model and the processor, which loads again with `from_pretrained` and with `pipeline`."""
        self.model.save_pretrained(save_directory, **kwargs)
        self.processor.save_pretrained(save_directory, **kwargs)

    def __call__(  # type: ignore[override]
        self, inputs: Any, *, num_workers: int | None = None, batch_size: int | None = None, **kwargs: Any
    ) -> Any:
        r"""
        Transcribe one clip, or many.

        Args:
            inputs: One clip as in [`~audio.files.load_waveform`]: a path, a URL, bytes, an array or tensor, a mapping
                with samples and rate, an audio decoder; or many: a list or tuple of clips, a generator, a data set
                (such as the column `dataset["audio"]`). Whatever else a mapping holds comes back with its result, in a
                list.
            batch_size (`int`, *optional*): Clips, or windows of long clips, that the encoder sees at a time; 1.
            num_workers (`int`, *optional*): Threads that read ahead; 0: none.
            return_timestamps (`str` or `bool`, *optional*): `"char"` (the text of each token), `"word"`, `"segment"`,
                or `True`, which is `"segment"` as in Transformers' pipeline for models with times of their own.
            strategy (`str`, defaults to `"auto"`): `"full"`: the encoder sees whole clips; `"local"`: it does, with
                attention to what is near; `"chunked"`: windows; `"auto"`: by length and memory, see `choose_strategy`.
            chunk_length_s (`float`, *optional*): Seconds that the encoder sees at once in `"chunked"`, 30 by default;
                given and not 0, `"auto"` is `"chunked"`.
            stride_length_s (`float` or a pair, *optional*): How much of a chunk is context on each side; a sixth.
            language (`str`, *optional*): Code of the language, for models with language prompts.
            max_symbols_per_step (`int`, *optional*): Most tokens on one frame, for transducers.
            generate_kwargs (`dict`, *optional*): `language` and `max_symbols_per_step` in one.

        Returns:
            `dict` for one clip; `list[dict]` for a list or tuple; else an iterator that reads as it goes.

        Raises:
            ValueError: for an option that there is not, by name, and for audio that is none.
        """
        num_workers = self._num_workers if num_workers is None else num_workers
        batch_size = self._batch_size if batch_size is None else batch_size
        _require_count("num_workers", num_workers, 0)
        _require_count("batch_size", batch_size, 1)
        _, given, _ = self._sanitize_parameters(**kwargs)
        options = {**self._forward_params, **given}
        if isinstance(inputs, list | tuple):
            return list(self._transcribe(inputs, num_workers or 0, batch_size or 1, options))
        if _is_many(inputs):
            return self._transcribe(inputs, num_workers or 0, batch_size or 1, options)
        return next(self._transcribe([inputs], 0, batch_size or 1, options))

    def _sanitize_parameters(self, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        unknown = sorted(set(kwargs) - set(CALL_OPTIONS))
        if unknown:
            accepted = ", ".join(CALL_OPTIONS)
            raise ValueError(f"{', '.join(unknown)}: no option of {type(self).__name__}; expected some of {accepted}.")
        options = dict(kwargs)
        of_generate = options.pop("generate_kwargs", None) or {}
        unknown = sorted(set(of_generate) - set(GENERATE_OPTIONS))
        if unknown:
            raise ValueError(
                f"generate_kwargs has {', '.join(unknown)}; expected some of {', '.join(GENERATE_OPTIONS)}."
            )
        for name, value in of_generate.items():
            if options.get(name) not in (None, value):
                raise ValueError(f"{name}={options[name]!r} contradicts generate_kwargs, which has {value!r}.")
            options[name] = value
        level = options.get("return_timestamps")
        if not (level is None or isinstance(level, bool) or level in TIMESTAMP_LEVELS):
            raise ValueError(
                f"return_timestamps={level!r} is not supported; expected a bool or one of {TIMESTAMP_LEVELS}."
            )
        return {}, options, {}

    def _transcribe(
        self, clips: Iterable[Any], num_workers: int, batch_size: int, options: Mapping[str, Any]
    ) -> Iterator[dict[str, Any]]:
        """Results of many clips in order."""
        language, max_symbols_per_step = options.get("language"), options.get("max_symbols_per_step")
        check_decoding_options(self.model, language, max_symbols_per_step)
        lengths: dict[str, Any] = {
            "strategy": options.get("strategy") or "auto",
            "chunk_length_s": options.get("chunk_length_s"),
            "stride_length_s": options.get("stride_length_s"),
        }
        check_strategy(self.model.config, self.processor.frame_seconds, **lengths)
        asked = options.get("return_timestamps")
        level = TRUE_LEVEL if asked is True else asked or None
        numbered = ((f"Clip {number}", clip) for number, clip in enumerate(_iterate(clips)))
        decoding = {"batch_size": batch_size, "language": language, "max_symbols_per_step": max_symbols_per_step}
        return self._transcribe_numbered(numbered, num_workers, level, lengths, decoding)

    def _transcribe_numbered(
        self,
        clips: Iterator[tuple[str, Any]],
        num_workers: int,
        level: str | None,
        lengths: dict[str, Any],
        decoding: dict[str, Any],
    ) -> Iterator[dict[str, Any]]:
        batch_size = decoding["batch_size"]
        with closing(_map_ahead(self.preprocess, clips, num_workers, BATCHES_AHEAD * batch_size)) as prepared:
            while batch := list(islice(prepared, batch_size)):
                try:
                    yield from self._transcribe_batch(batch, level, lengths, decoding)
                finally:
                    for clip in batch:
                        if clip["file"] is not None:
                            clip["file"].close()

    def _transcribe_batch(
        self, batch: list[dict[str, Any]], level: str | None, lengths: dict[str, Any], decoding: dict[str, Any]
    ) -> list[dict[str, Any]]:
        """Results of some clips: those for which the strategy is the same go through the model together."""
        frame_seconds = self.processor.frame_seconds
        chosen = [
            choose_strategy(self.model, clip["features"].mel_length, frame_seconds, num_clips=len(batch), **lengths)
            for clip in batch
        ]
        results: dict[int, dict[str, Any]] = {}
        for name in dict.fromkeys(item.name for item in chosen):
            places = [place for place, item in enumerate(chosen) if item.name == name]
            logger.info("strategy=%s for %d clips", name, len(places))
            alike = [batch[place] for place in places]
            strategy = chosen[places[0]]
            outputs = self._forward(strategy.model, [clip["features"] for clip in alike], strategy.plan, **decoding)
            found = self.postprocess(outputs, [clip["extra"] for clip in alike], level)
            results.update(zip(places, found, strict=True))
        return [results[place] for place in range(len(batch))]

    def preprocess(self, numbered: tuple[str, Any]) -> dict[str, Any]:  # type: ignore[override]
        """Features of one whole clip, on the CPU, what was beside its audio, and its file where that is still read."""
        name, audio = numbered
        extra: dict[str, list[Any]] = {}
        if isinstance(audio, Mapping):
            if "stride" in audio:
                raise ValueError(f"{name} has 'stride', which is not supported; expected stride_length_s.")
            extra = {key: [value] for key, value in audio.items() if key not in AUDIO_KEYS}
        source = find_file(audio)
        if source is None:
            waveform = load_waveform(audio, self.feature_extractor.sampling_rate, name)
            return {"features": extract_clip(self.feature_extractor, waveform), "extra": extra, "file": None}
        file = AudioFile(source)
        features: ClipFeatures | StreamedFeatures | None = None
        try:
            features, _ = open_clip(self.feature_extractor, file)
        finally:
            if not isinstance(features, StreamedFeatures):
                file.close()
        return {"features": features, "extra": extra, "file": file}

    def _forward(  # type: ignore[override]
        self, model: PreTrainedModel, clips: list[ClipFeatures | StreamedFeatures], plan: Any, **options: Any
    ) -> Any:
        with self.device_placement():
            return transcribe_features(model, clips, plan, **options)

    def postprocess(  # type: ignore[override]
        self, outputs: Any, extras: list[dict[str, Any]], level: str | None
    ) -> list[dict[str, Any]]:
        decoded = self.processor.batch_decode(outputs, timestamps=level or False)
        if level is None:
            return [{"text": text, **extra} for text, extra in zip(decoded, extras, strict=True)]
        return [
            {
                "text": clip.text,
                "chunks": [
                    {"text": item[level], "timestamp": (item["start"], item["end"])} for item in clip.timestamps[level]
                ],
                **extra,
            }
            for clip, extra in zip(decoded, extras, strict=True)
        ]


def choose_head(model: PreTrainedModel, head: str = "auto") -> PreTrainedModel:
    """
    The head of a model that decodes; the other head of a hybrid shares all its parameters, nothing is copied.

    Args:
        model: A model of this package.
        head: `"ctc"`, `"transducer"`, or `"auto"`: the one that the model is.

    Raises:
        ValueError: for a head that the model does not have.
    """
    if head not in HEADS:
        raise ValueError(f"head={head!r} is not supported; expected one of {HEADS}.")
    is_transducer = isinstance(model, FastConformerForTransducer)
    if not is_transducer and not isinstance(model, FastConformerForCTC | FastConformerHybridForCTC):
        raise ValueError(
            f"{type(model).__name__} has no head to transcribe with; expected FastConformerForCTC, "
            "FastConformerForRNNT, FastConformerForTDT or a head of a hybrid."
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
    return model


def _share_as_transducer(model: Any) -> PreTrainedModel:
    """The transducer head of a hybrid loaded with its CTC head, with the same parameters."""
    config = model.config
    transducer_class = FastConformerForTDT if isinstance(config, FastConformerTDTConfig) else FastConformerForRNNT
    with torch.device("meta"):
        shared = transducer_class(config)
    for name in ("encoder", "decoder", "joint", "ctc_head", "prompt_kernel"):
        setattr(shared, name, getattr(model, name))
    return shared.train(model.training)


def _find_processor(
    model: PreTrainedModel, tokenizer: Any, feature_extractor: Any, processor: Any, local_files_only: bool
) -> FastConformerProcessor:
    """
    The processor of a model: the one given, else that of its checkpoint, with the parts that were given in it.

    Without a checkpoint both parts are needed, and what else a processor says is then read off the model.
    """
    config: Any = model.config
    if isinstance(processor, str):
        processor = FastConformerProcessor.from_pretrained(processor, local_files_only=local_files_only)
    elif processor is None and model.name_or_path:
        options = {"revision": getattr(config, "_commit_hash", None), "local_files_only": local_files_only}
        try:
            processor = FastConformerProcessor.from_pretrained(
                model.name_or_path, **{name: value for name, value in options.items() if value}
            )
        except (OSError, ValueError) as error:
            if tokenizer is None or feature_extractor is None:
                raise ValueError(
                    f"tokenizer and feature_extractor of {model.name_or_path!r} cannot be loaded; expected both, or "
                    f"processor. {error}"
                ) from error
            logger.warning("The processor of %s cannot be loaded; its defaults are used.", model.name_or_path)
    if processor is None:
        missing = [
            name for name, part in (("tokenizer", tokenizer), ("feature_extractor", feature_extractor)) if part is None
        ]
        if missing:
            raise ValueError(
                f"{' and '.join(missing)}: found None, and the model is of no checkpoint to load them from; expected "
                "tokenizer and feature_extractor, or processor."
            )
        return FastConformerProcessor(feature_extractor, tokenizer, config.total_subsampling_factor)
    if not isinstance(processor, FastConformerProcessor):
        raise ValueError(f"processor is a {type(processor).__name__}; expected a FastConformerProcessor.")
    if tokenizer is None and feature_extractor is None:
        return processor
    return FastConformerProcessor(
        feature_extractor or processor.feature_extractor,
        tokenizer or processor.tokenizer,
        processor.subsampling_factor,
        processor.word_separator,
        processor.segment_separators,
        processor.segment_gap_frames,
    )


def _is_many(inputs: Any) -> bool:
    """Whether an input that is no list is many clips: a generator, an iterator, a data set, a column of one."""
    if isinstance(inputs, str | bytes | bytearray | memoryview | Mapping | torch.Tensor):
        return False
    if hasattr(inputs, "__array__") or hasattr(inputs, "get_all_samples") or hasattr(inputs, "read"):
        return False
    is_sequence = isinstance(inputs, Sized) and hasattr(inputs, "__getitem__")
    return isinstance(inputs, Iterable) or is_sequence or isinstance(inputs, torch.utils.data.Dataset)


def _iterate(clips: Any) -> Iterator[Any]:
    """The clips of a data set in order, whatever of `__iter__` and `__getitem__` it has."""
    if hasattr(clips, "__iter__"):
        return iter(clips)
    return (clips[index] for index in range(len(clips)))


def _map_ahead(
    function: Callable[[Any], Any], items: Iterable[Any], num_workers: int, most: int
) -> Generator[Any, None, None]:
    """Results of a function in the order of the items; with workers, threads are at most so many items ahead."""
    if num_workers == 0:
        yield from map(function, items)
        return
    iterator = iter(items)
    pending: deque[Future[Any]] = deque()
    executor = ThreadPoolExecutor(num_workers, thread_name_prefix="fastconformer-audio")
    try:
        while True:
            for item in islice(iterator, max(most, num_workers) - len(pending)):
                pending.append(executor.submit(function, item))
            if not pending:
                return
            yield pending.popleft().result()
    finally:
        executor.shutdown(wait=True, cancel_futures=True)


def _require_count(name: str, value: Any, least: int) -> None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < least):
        raise ValueError(f"{name}={value!r} is not supported; expected {least} or more.")


# Registration


def _resolve(implementation: Any) -> type:
    """The class in the registry; Transformers from 5.2x on keeps the name of it there."""
    if isinstance(implementation, str):
        module, name = implementation.rsplit(".", 1)
        return getattr(importlib.import_module(module), name)
    return implementation


# The name of another model that this thread's `transformers.pipeline` is loading, and where it is.
_refused = threading.local()


class AutoModelForFastConformer:
    """The head of any checkpoint of this package: of a hybrid the transducer, which `choose_head` may change."""

    @staticmethod
    def from_pretrained(name: Any, config: Any = None, **kwargs: Any) -> PreTrainedModel:
        """
        Args:
            name: What `from_pretrained` of a class of ours takes.
            config: The configuration, if it is loaded already.
            kwargs: Those of `from_pretrained`.

        Raises:
            ValueError: for a checkpoint that is not of this package or has no head.
        """
        if config is None:
            of_config = {key: kwargs[key] for key in CONFIG_OPTIONS if kwargs.get(key) is not None}
            config = AutoConfig.from_pretrained(name, **of_config)
        # The most special first: a TDT configuration is an RNN-T configuration too.
        for model_class in (FastConformerForTDT, FastConformerForRNNT, FastConformerForCTC):
            if isinstance(config, model_class.config_class):
                return model_class.from_pretrained(name, config=config, **kwargs)
        _refused.is_used, _refused.name = False, str(name)
        _refused.options = {key: kwargs.get(key) for key in COMPONENT_OPTIONS}
        raise ValueError(
            f"{name} holds a model of type {config.model_type!r}; expected one of this package with a head to "
            "transcribe with: 'fastconformer_ctc', 'fastconformer_rnnt' or 'fastconformer_tdt'."
        )


class SpeechRecognitionPipelines:
    """
    What the registry holds for the task while this package is registered: makes a pipeline by the model's class.

    The parts of a checkpoint are loaded before a model is seen, so they are optional here. For a model that is not
    ours and lacks one, `transformers.pipeline` is asked again with its own class, which raises what it always raised.
    """

    _load_tokenizer = None
    _load_feature_extractor = None
    _load_processor = False
    _load_image_processor = False
    _load_video_processor = False
    original_entry: dict[str, Any] = {}

    def __new__(cls, model: PreTrainedModel, **kwargs: Any) -> Any:  # type: ignore[misc]
        if isinstance(model.config, FastConformerConfig):
            return FastConformerSpeechRecognitionPipeline(model, **kwargs)
        original = _resolve(cls.original_entry["impl"])
        _refused.is_used, was_used = True, getattr(_refused, "is_used", True)
        if kwargs.get("tokenizer") is not None and kwargs.get("feature_extractor") is not None:
            return original(model=model, **kwargs)
        # Of a model given by name the parts are asked for by name again, of an object they are not.
        is_named = not was_used and _refused.name == model.name_or_path
        parts = {part: kwargs.pop(part, None) or (model.name_or_path if is_named else None) for part in PARTS}
        options = _refused.options if is_named else {}
        task = kwargs.pop("task", TASK)
        make_pipeline: Any = transformers.pipeline
        return make_pipeline(task, model=model, pipeline_class=original, **parts, **options, **kwargs)


def register_pipeline() -> None:
    """Make `transformers.pipeline` know this package's models. Doing it again changes nothing."""
    tasks = PIPELINE_REGISTRY.supported_tasks
    if tasks[TASK]["impl"] is SpeechRecognitionPipelines:
        return
    SpeechRecognitionPipelines.original_entry = entry = tasks[TASK]
    # A checkpoint of another model is refused by our class at once, and goes to the others as ever.
    tasks[TASK] = {
        **entry,
        "impl": SpeechRecognitionPipelines,
        "pt": (AutoModelForFastConformer, *entry["pt"]),
    }


def unregister_pipeline() -> None:
    """Put back what `register_pipeline` found. Without a registration nothing happens."""
    tasks = PIPELINE_REGISTRY.supported_tasks
    if tasks[TASK]["impl"] is SpeechRecognitionPipelines:
        tasks[TASK] = SpeechRecognitionPipelines.original_entry
