"""
`transformers.pipeline("automatic-speech-recognition", ...)` for the models of this package.

The registry of Transformers has one class for the task. `register_pipeline` puts a class there that makes ours for our
models and Transformers' own for all others, and lets Transformers' class, where it is called directly, make ours too;
`unregister_pipeline` takes both away again.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sized
from contextlib import closing
from dataclasses import fields, replace
from typing import Any

import torch
import transformers
from transformers import AutomaticSpeechRecognitionPipeline, Pipeline, PreTrainedModel
from transformers.pipelines import PIPELINE_REGISTRY
from transformers.utils import logging

from .audio.clips import is_rate_and_samples
from .audio.files import find_file
from .configuration_fastconformer import FastConformerConfig
from .decoding.options import DecodingOptions
from .decoding.search import SEARCH_OPTIONS, SearchOptions
from .diarization.speaker_finder import SpeakerFinder
from .inference.file import check_options
from .inference.loading import NotOursError, choose_head, load_recognizer
from .inference.many_files import BATCHES_AHEAD, Finished, transcribe_clips
from .inference.multitask_plan import is_multitask
from .inference.options import ChunkOptions, TranscriptionOptions
from .inference.reading import AudioClip
from .modeling.generation import refuse_other_results
from .modeling.recognizer import FastConformerRecognizer
from .processing_fastconformer import FastConformerProcessor
from .processing_outputs import TIMESTAMP_LEVELS
from .validation import require, require_choice

logger = logging.get_logger(__name__)

TASK = "automatic-speech-recognition"
TRUE_LEVEL = "segment"  # the level that `return_timestamps=True` stands for
# Keys of an input mapping that are the audio; its other keys come back with the result.
AUDIO_KEYS = ("raw", "array", "sampling_rate", "bytes", "path")
# Times are asked for by `return_timestamps`.
GENERATE_OPTIONS = tuple(item.name for item in fields(DecodingOptions) if item.name != "timestamps")
CHUNK_OPTIONS = tuple(item.name for item in fields(ChunkOptions))
CALL_OPTIONS = (
    "return_timestamps",
    "return_language",
    *CHUNK_OPTIONS,
    *GENERATE_OPTIONS,
    "decoding",
    "chunking",
    "generate_kwargs",
    "voice_activity",
    "batch_seconds",
    "diarization",
)
# Levels whose items have a speaker.
SPEAKER_LEVELS = ("word", "segment")
PARTS = ("tokenizer", "feature_extractor")
# Arguments that `transformers.pipeline` takes next to a name and passes on when it loads the parts of a checkpoint.
COMPONENT_OPTIONS = ("revision", "token", "trust_remote_code")
# Clips of a list that are sorted by length at a time.
SORTED_CLIPS = 128


class FastConformerSpeechRecognitionPipeline(Pipeline):
    r"""
    Speech recognition with the models of this package: any audio in, text and times out.

    `transformers.pipeline("automatic-speech-recognition", model=...)` makes it. Results are those of Transformers'
    pipeline for the task: `{"text": ...}`, with times also `"chunks"`, a list of
    `{"text": ..., "timestamp": (start, end)}` in seconds.

    Args:
        model ([`PreTrainedModel`]): A model of this package with a head.
        tokenizer ([`FastConformerTokenizer`], *optional*): Its tokenizer; default: that of the model's checkpoint.
        feature_extractor ([`FastConformerFeatureExtractor`], *optional*): Its feature extractor; the same default.
        processor ([`FastConformerProcessor`], *optional*): Its processor, in place of these two; the same default.
        head (`str`, defaults to `"auto"`): The head of a hybrid that decodes: `"ctc"`, `"transducer"`, or `"auto"`:
            the head that a model object is; for a checkpoint by name, the transducer if there is one, unless a hybrid
            was saved with its CTC head.
        kwargs: Arguments of [`Pipeline`] such as `device`, `batch_size` and `dtype`, with `num_workers` as the threads
            that read audio and compute features ahead of the model; and defaults for the options of a call.
    """

    # Optional for `transformers.pipeline`: where a model object was given it finds no parts, and they are found here.
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
        self._speakers: SpeakerFinder | None = None  # those of the last call

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
                with samples and rate, or an audio decoder; or many: a list or tuple of clips, a generator, a data set
                (such as the column `dataset["audio"]`). Other entries of a mapping come back with its result, each in
                a list.
            batch_size (`int`, *optional*, defaults to 1): Clips, or windows of long clips, that the encoder sees at a
                time. Clips of about the same length are put together, as far as they are read ahead and fit into
                memory.
            num_workers (`int`, *optional*): Threads that read ahead; 0: nothing is read ahead.
            return_timestamps (`str` or `bool`, *optional*): `"token"`, `"char"` (the text of each token), `"word"`,
                `"segment"`, or `True`, which is `"segment"` as in Transformers' pipeline for models with times.
            strategy (`str`, *optional*): As in [`ChunkOptions`].
            chunk_length_s (`float`, *optional*): As in [`ChunkOptions`], in seconds.
            stride_length_s (`float` or `tuple`, *optional*): As in [`ChunkOptions`], in seconds.
            language (`str`, *optional*): As in [`DecodingOptions`].
            source_lang, target_lang, task, pnc, itn, context... (*optional*): As in [`PromptOptions`].
            max_symbols_per_step (`int`, *optional*): As in [`DecodingOptions`].
            return_language (`bool`, *optional*):
                Give the language of the text as `"language"`, and of each chunk with `return_timestamps="segment"`;
                needs the extra `languages`.
            confidence ([`ConfidenceOptions`], *optional*): As in [`DecodingOptions`].
            voice_activity ([`VoiceActivityOptions`], *optional*): Find speech first and transcribe only that.
            diarize (`str` or what [`load_diarizer`] returns, *optional*): A Sortformer that tells who said each chunk:
                `"chunks"`, of `"segment"` (default) or `"word"`, have a `"speaker"` then. A name is loaded once, onto
                the device of the model. True and False are for prompts, see [`PromptOptions`].
            diarization ([`DiarizationOptions`], *optional*): How the speakers are found.
            batch_seconds (`float`, *optional*): Seconds of audio in one batch, at most.
            generate_kwargs (`dict`, *optional*): The options of [`DecodingOptions`] in one mapping, and others of
                `generate` that ask for nothing else than what happens, such as `num_beams=1`; for multitask models
                also those of [`SearchOptions`], such as `num_beams=4`.

        Returns:
            `dict` for one clip, `list[dict]` for a list or tuple, else an iterator that reads as results are taken. A
            result also has `"confidence"` and `"word_confidences"` with `confidence`, and `"speech"` with
            `voice_activity`.

        Raises:
            ValueError: for an unknown option, a value that is not accepted, and for what is not audio; the message
                says which.
            FileNotFoundError: when a file does not exist.
        """
        _, given, _ = self._sanitize_parameters(**kwargs)
        given = {**self._forward_params, **given}
        given["num_workers"] = num_workers if num_workers is not None else _or_default(self._num_workers, 0)
        given["batch_size"] = batch_size if batch_size is not None else _or_default(self._batch_size, 1)
        asked = given.pop("return_timestamps", None)
        given["detect_language"] = given.pop("return_language", False)
        level = TRUE_LEVEL if asked is True else None if asked is False else asked
        speakers = self._find_speakers(given, level)
        timestamps: Any = False if level is None else [level]
        if speakers is not None:  # who are words' or segments', whichever there are
            level, timestamps = level or TRUE_LEVEL, True
        options = TranscriptionOptions.of(None, {**given, "timestamps": timestamps})
        check_options(self.model, self.processor, options)
        if isinstance(inputs, list | tuple) and _is_many(inputs):
            # The results of a list are returned at once, so that all its clips may be sorted.
            return list(self._transcribe(inputs, options, level, SORTED_CLIPS, speakers))
        if _is_many(inputs):
            ahead = BATCHES_AHEAD if options.num_workers else 1
            return self._transcribe(_iterate(inputs), options, level, ahead * options.batch_size, speakers)
        return next(self._transcribe([inputs], replace(options, num_workers=0), level, 1, speakers))

    def _find_speakers(self, given: dict[str, Any], level: str | None) -> SpeakerFinder | None:
        """What tells speakers apart; its options are taken out of `given`. None: nobody asked for it."""
        diarization = given.pop("diarization", None)
        if given.get("diarize") is None or isinstance(given["diarize"], bool):
            require(diarization is None, "diarization", diarization, "None without a model as diarize")
            return None
        require_choice("return_timestamps", level, (None, *SPEAKER_LEVELS))
        wanted = SpeakerFinder(given.pop("diarize"), str(self.device), diarization)
        if not wanted.is_like(self._speakers):
            wanted.load()
            self._speakers = wanted
        return self._speakers

    def _sanitize_parameters(self, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        accepted = CALL_OPTIONS
        unknown = sorted(set(kwargs) - set(accepted))
        if unknown:
            expected = ", ".join(accepted)
            raise ValueError(f"{', '.join(unknown)}: not an option of the pipeline; expected some of {expected}.")
        options = {name: value for name, value in kwargs.items() if value is not None}
        of_generate = options.pop("generate_kwargs", {})
        require(isinstance(of_generate, Mapping), "generate_kwargs", of_generate, "a mapping of names to values")
        if is_multitask(self.model):
            own = (*GENERATE_OPTIONS, *SEARCH_OPTIONS)
            of_prompt = {name: value for name, value in of_generate.items() if name in own and value is not None}
            others = {name: value for name, value in of_generate.items() if name not in of_prompt}
            padding_id, reason = self.model.config.pad_token_id, "in the pipeline; the model's generate takes others"
            of_generate = {**of_prompt, **refuse_other_results(others, padding_id, reason)}
        else:
            beams = {name: value for name, value in of_generate.items() if name == "num_beams" and value is not None}
            others = {name: value for name, value in of_generate.items() if name != "num_beams"}
            of_generate = {**beams, **refuse_other_results(others, self.model.config.pad_token_id)}
        # Beams of multitask models are those of Transformers.
        searched = {
            name: of_generate.pop(name)
            for name in SEARCH_OPTIONS
            if name in of_generate and (name != "num_beams" or is_multitask(self.model))
        }
        if searched:
            of_generate["search"] = replace(of_generate.get("search") or SearchOptions(), **searched)
        unknown = sorted(map(str, set(of_generate) - set(GENERATE_OPTIONS)))
        if unknown:
            raise ValueError(
                f"generate_kwargs has {', '.join(unknown)}; expected some of "
                f"{', '.join(dict.fromkeys((*GENERATE_OPTIONS, *SEARCH_OPTIONS)))}."
            )
        for name, value in of_generate.items():
            if options.get(name) not in (None, value):
                raise ValueError(f"{name}={options[name]!r} contradicts generate_kwargs, which has {value!r}.")
            options[name] = value
        level = options.get("return_timestamps")
        is_level = level is None or isinstance(level, bool) or (isinstance(level, str) and level in TIMESTAMP_LEVELS)
        require(is_level, "return_timestamps", level, f"a bool or one of {TIMESTAMP_LEVELS}")
        # Values are checked here too, so that a default of the pipeline fails where it is given.
        apart = ["return_timestamps", "return_language", "diarization"]
        if not isinstance(options.get("diarize"), bool):
            apart.append("diarize")
        TranscriptionOptions.of(None, {name: value for name, value in options.items() if name not in apart})
        require_choice("return_language", options.get("return_language", False), (True, False))
        return {}, options, {}

    def _transcribe(
        self,
        inputs: Iterable[Any],
        options: TranscriptionOptions,
        level: str | None,
        sort_ahead: int,
        speakers: SpeakerFinder | None,
    ) -> Iterator[dict[str, Any]]:
        """Results of many clips, in their order."""
        extras: dict[int, dict[str, Any]] = {}
        heard: dict[int, AudioClip] = {}  # until their speakers are known

        def clips() -> Iterator[AudioClip]:
            for place, audio in enumerate(inputs):
                if speakers is not None and hasattr(audio, "read"):
                    audio = audio.read()  # an open file can be read once, and two models hear it
                clip, extras[place] = self.preprocess((place, audio))
                if speakers is not None:
                    heard[place] = clip
                yield clip

        finished = self._forward(clips(), options, sort_ahead)
        waiting: dict[int, Finished] = {}
        place = 0
        with closing(finished):
            while (result := self._next(finished)) is not None:
                if speakers is not None:
                    clip = heard.pop(result.place)
                    if result.transcript is not None:
                        result = result._replace(transcript=speakers.add_to(clip, result.transcript))
                waiting[result.place] = result
                while place in waiting:
                    yield self.postprocess(waiting.pop(place), extras.pop(place), level)
                    place += 1

    def _next(self, finished: Iterator[Finished]) -> Finished | None:
        with self.device_placement():
            return next(finished, None)

    def preprocess(self, numbered: tuple[int, Any]) -> tuple[AudioClip, dict[str, Any]]:  # type: ignore[override]
        """The clip to read, and the other entries of its mapping."""
        place, audio = numbered
        extra: dict[str, Any] = {}
        if isinstance(audio, Mapping):
            if "stride" in audio:
                raise ValueError(f"Clip {place} has 'stride', which is not supported; expected stride_length_s.")
            extra = {key: [value] for key, value in audio.items() if key not in AUDIO_KEYS}
        return AudioClip(audio, label=None if find_file(audio) is not None else f"Clip {place}"), extra

    def _forward(  # type: ignore[override]
        self, clips: Iterable[AudioClip], options: TranscriptionOptions, sort_ahead: int
    ) -> Generator[Finished, None, None]:
        return transcribe_clips([(self.model, self.processor)], clips, options, sort_ahead=sort_ahead)

    def postprocess(  # type: ignore[override]
        self, finished: Finished, extra: dict[str, Any], level: str | None
    ) -> dict[str, Any]:
        """The result of a clip in the form of Transformers; its error is raised."""
        if finished.transcript is None:
            assert finished.error is not None
            raise finished.error
        transcript = finished.transcript
        result: dict[str, Any] = {"text": transcript.text}
        if level is not None:
            items = (transcript.timestamps or {})[level]
            result["chunks"] = [
                {"text": item[level], "timestamp": (item["start"], item["end"])}
                | {name: item[name] for name in ("language", "speaker") if name in item}
                for item in items
            ]
        if transcript.language is not None:
            result["language"] = transcript.language
        if transcript.confidence is not None:
            result |= {"confidence": transcript.confidence, "word_confidences": transcript.word_confidences}
        if transcript.speech is not None:
            result["speech"] = [tuple(segment) for segment in transcript.speech]
        return {**result, **extra}


def _find_processor(
    model: PreTrainedModel, tokenizer: Any, feature_extractor: Any, processor: Any, local_files_only: bool
) -> FastConformerProcessor:
    """
    Find the processor of a model: the one given, else that of its checkpoint with the parts that were given.

    Without a checkpoint both parts are needed; everything else that a processor knows is then taken from the model.
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
        prompts: dict[str, Any] = {name: getattr(config, name, None) for name in ("prompt_format", "prompt_defaults")}
        return FastConformerProcessor(feature_extractor, tokenizer, config.mel_frames_per_encoder_frame, **prompts)
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
        processor.prompt_format,
        processor.prompt_defaults,
        processor.learns_prompt,
    )


def _or_default(value: Any, default: int) -> Any:
    return default if value is None else value


def _is_many(inputs: Any) -> bool:
    """Tell whether an input other than a list is many clips: a generator, an iterator, a data set, a column of one."""
    is_pair = is_rate_and_samples(inputs)
    if is_pair or isinstance(inputs, str | bytes | bytearray | memoryview | Mapping | torch.Tensor):
        return False
    if hasattr(inputs, "__array__") or hasattr(inputs, "get_all_samples") or hasattr(inputs, "read"):
        return False
    is_sequence = isinstance(inputs, Sized) and hasattr(inputs, "__getitem__")
    return isinstance(inputs, Iterable) or is_sequence or isinstance(inputs, torch.utils.data.Dataset)


def _iterate(clips: Any) -> Iterator[Any]:
    """The clips of a data set in order; it needs `__iter__` or `__getitem__`."""
    if hasattr(clips, "__iter__"):
        return iter(clips)
    return (clips[index] for index in range(len(clips)))


# Registration


def _resolve(implementation: Any) -> type:
    """The class in the registry, which holds only its name from Transformers 5.2x on."""
    if isinstance(implementation, str):
        module, name = implementation.rsplit(".", 1)
        return getattr(importlib.import_module(module), name)
    return implementation


# The name of another package's model that this thread's `transformers.pipeline` is loading, and its place.
_refused = threading.local()


class AutoModelForFastConformer:
    """`load_recognizer` in the form of a model class; it notes which checkpoint of another model it refused."""

    @staticmethod
    def from_pretrained(name: Any, config: Any = None, **kwargs: Any) -> FastConformerRecognizer:
        """Load a model as `load_recognizer` does."""
        try:
            return load_recognizer(name, config, **kwargs)
        except NotOursError:
            _refused.is_used, _refused.name = False, str(name)
            _refused.options = {key: kwargs.get(key) for key in COMPONENT_OPTIONS}
            raise


class SpeechRecognitionPipelines:
    """
    Entry of the registry for the task while this package is registered: makes a pipeline that fits the model's class.

    The parts of a checkpoint are loaded before its model is, so they are optional here. For a model of another package
    that lacks one, `transformers.pipeline` is called again with its own class, which raises the usual error.
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
        # For a model by name the parts are loaded by its name again, for a model object they are not.
        is_named = not was_used and _refused.name == model.name_or_path
        parts = {part: kwargs.pop(part, None) or (model.name_or_path if is_named else None) for part in PARTS}
        options = _refused.options if is_named else {}
        task = kwargs.pop("task", TASK)
        make_pipeline: Any = transformers.pipeline
        return make_pipeline(task, model=model, pipeline_class=original, **parts, **options, **kwargs)


def _accepting_ours(original: Callable[..., None]) -> Callable[..., None]:
    """The constructor of Transformers' class, by which an object becomes one of our class for a model of ours."""
    signature = inspect.signature(original)

    @functools.wraps(original)
    def construct(self: Any, *args: Any, **kwargs: Any) -> None:
        given = dict(signature.bind(self, *args, **kwargs).arguments)
        model: Any = given.get("model")
        if not isinstance(getattr(model, "config", None), FastConformerConfig):
            original(self, *args, **kwargs)
        elif type(self) is AutomaticSpeechRecognitionPipeline:
            options = {**given, **given.get("kwargs", {})}
            decoder = options.pop("decoder", None)
            require(decoder is None, "decoder", decoder, "None for this model")
            kept = {name: value for name, value in options.items() if name not in ("self", "kwargs")}
            object.__setattr__(self, "__class__", FastConformerSpeechRecognitionPipeline)
            construct_ours: Any = FastConformerSpeechRecognitionPipeline.__init__
            construct_ours(self, **kept)
        else:
            require(
                getattr(model, "decoder_type", None) == "ctc",
                "model",
                type(model).__name__,
                f"a model with a CTC head in a {type(self).__name__}, or FastConformerSpeechRecognitionPipeline",
            )
            original(self, *args, **kwargs)

    return construct


def register_pipeline() -> None:
    """
    Make `transformers.pipeline`, and its class for the task where it is called directly, know this package's models.

    Doing it again changes nothing.
    """
    tasks = PIPELINE_REGISTRY.supported_tasks
    if tasks[TASK]["impl"] is SpeechRecognitionPipelines:
        return
    SpeechRecognitionPipelines.original_entry = entry = tasks[TASK]
    if not hasattr(AutomaticSpeechRecognitionPipeline.__init__, "__wrapped__"):
        AutomaticSpeechRecognitionPipeline.__init__ = _accepting_ours(  # type: ignore[method-assign]
            AutomaticSpeechRecognitionPipeline.__init__
        )
    # Our class refuses a checkpoint of another model at once, and the other classes load it as before.
    tasks[TASK] = {
        **entry,
        "impl": SpeechRecognitionPipelines,
        "pt": (AutoModelForFastConformer, *entry["pt"]),
    }


def unregister_pipeline() -> None:
    """Put back the class that `register_pipeline` replaced. Without a registration nothing happens."""
    tasks = PIPELINE_REGISTRY.supported_tasks
    if tasks[TASK]["impl"] is SpeechRecognitionPipelines:
        tasks[TASK] = SpeechRecognitionPipelines.original_entry
        constructor: Any = AutomaticSpeechRecognitionPipeline.__init__
        AutomaticSpeechRecognitionPipeline.__init__ = constructor.__wrapped__  # type: ignore[method-assign]
