"""
NVIDIA's FastConformer speech models in Hugging Face Transformers, without NeMo.

Importing the package registers its classes with the Auto classes of Transformers, and lets those load `.nemo`
checkpoints. `auto.py` describes this and can undo it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .audio.feature_stream import FeatureStream, push_streams
from .audio.files import AudioFile, read_audio
from .audio.running_normalization import RunningNormalization
from .audio.voice_activity import VoiceActivityOptions, detect_speech
from .auto import AutoModelForRNNT, AutoModelForTDT
from .checkpoints.saved_streams import load_encoder_cache, save_encoder_cache
from .checkpoints.token_automata import load_phrases, save_phrases
from .cluster.blocks import plan_blocks
from .cluster.transcribe_batches import TranscribeBatches
from .configuration_diarization import FastConformerDiarizationConfig
from .configuration_fastconformer import (
    FastConformerConfig,
    FastConformerCTCConfig,
    FastConformerRNNTConfig,
    FastConformerTDTConfig,
)
from .configuration_multitask import FastConformerMultitaskConfig
from .configuration_pretraining import FastConformerPreTrainingConfig
from .decoding.beam_options import BeamOptions
from .decoding.confidence import ConfidenceOptions
from .decoding.language_mask import CompiledLanguages
from .decoding.options import DecodingOptions
from .decoding.phrase_boosting import CompiledPhrases, PhraseBoosting
from .decoding.prompts import PromptOptions
from .decoding.search import SearchOptions
from .diarization.attribution import add_speakers, assign_speakers
from .diarization.live_speakers import LiveSpeakers, SpokenWord
from .diarization.live_talkers import LiveTalkers
from .diarization.multi_talker import SpeakerTranscripts, transcribe_speakers
from .diarization.recordings import Diarization, DiarizationOptions, diarize, load_diarizer
from .diarization.speaker_stream import SpeakerStreams
from .diarization.turns import SpeakerTurn, SpeakerTurnOptions, find_turns
from .export.onnx import OnnxExportResult, export_onnx
from .feature_extraction_fastconformer import FastConformerFeatureExtractor
from .inference.evaluation import EvaluatedFile, EvaluationReport, ScoringOptions, evaluate
from .inference.evaluation_data import EvaluationDataOptions
from .inference.file import transcribe_file, transcribe_waveforms
from .inference.language_model import NgramLanguageModel
from .inference.loading import load_model
from .inference.many_files import Finished, transcribe_clips
from .inference.options import ChunkOptions, TranscriptionOptions
from .inference.reading import AudioClip
from .inference.transcribe import transcribe
from .inference.transcript import Transcript
from .interop.reading import convert_transformers_checkpoint
from .interop.writing import ExportResult, export_to_transformers
from .modeling.ctc import FastConformerForCTC
from .modeling.diarization import FastConformerForDiarization
from .modeling.encoder import FastConformerEncoder, FastConformerModel
from .modeling.encoder_cache import FastConformerEncoderCache
from .modeling.hybrid import FastConformerHybridForCTC, ParakeetTDTForCTC, ParakeetTDTForTDT, share_as_ctc
from .modeling.int8_config import FastConformerInt8Config
from .modeling.multitask import FastConformerForMultitask
from .modeling.outputs import (
    FastConformerCTCOutput,
    FastConformerDiarizationOutput,
    FastConformerEncoderOutput,
    FastConformerGenerateOutput,
    FastConformerMultitaskEncoderOutput,
    FastConformerMultitaskOutput,
    FastConformerPreTrainingOutput,
    FastConformerTransducerOutput,
)
from .modeling.pretrained import FastConformerPreTrainedModel
from .modeling.pretraining import FastConformerForPreTraining
from .modeling.quantization import quantize_dynamic_int8, remove_int8
from .modeling.speaker_cache import SpeakerCache, SpeakerStreamOptions
from .modeling.speaker_kernel import follow_speaker
from .modeling.streaming_schedule import StreamingSchedule
from .modeling.transducer import FastConformerForRNNT, FastConformerForTDT
from .nemo.convert import ConversionResult, convert_nemo_checkpoint
from .nemo.export import NemoExportResult, export_nemo
from .processing_fastconformer import FastConformerProcessor, FastConformerTranscription
from .streaming.endpointing import EndpointEvent, EndpointingOptions
from .streaming.engine import StreamingEngine, StreamRefusedError
from .streaming.live_stream import SavedStream, StreamFailedError
from .streaming.options import EngineOptions, StreamOptions
from .streaming.saved_streams import load_stream, save_stream
from .streaming.session import AsyncStreamingTranscriber, StreamingTranscriber
from .streaming.text import StreamWord
from .streaming.updates import StreamUpdate
from .streaming.worker import EngineWorker
from .tokenization_fastconformer import FastConformerTokenizer
from .tokenization_languages import compile_languages, writable_languages
from .tokenization_phrases import compile_phrases
from .training.batch_sampler import SecondsBatchSampler
from .training.clip_filter import ClipFilterOptions, FilterReport, filter_clips
from .training.clip_sources import open_clips
from .training.collator import FastConformerDataCollator
from .training.freezing import freeze_parts
from .training.lora import LoraOptions, add_lora, merge_lora
from .training.metrics import WordErrors
from .training.options import FinetuneOptions
from .training.tokenizers import extend_tokenizer, join_tokenizers, train_tokenizer
from .training.training_clips import RowForm, TrainingClips
from .training.vocabulary import VocabularyChange, replace_tokenizer
from .training.word_errors import ErrorCounts, ErrorRate, TextErrors, WordEdit, score_texts
from .version import __version__
from .writers.formats import format_transcript
from .writers.record import TranscriptRecord
from .writers.subtitles import SubtitleRules

if TYPE_CHECKING:
    from .training.finetune import FinetuneResult, finetune
    from .training.trainer import FastConformerTrainer

__all__ = [
    "add_speakers",
    "assign_speakers",
    "Diarization",
    "DiarizationOptions",
    "diarize",
    "LiveSpeakers",
    "LiveTalkers",
    "load_diarizer",
    "SpeakerCache",
    "follow_speaker",
    "SpeakerTranscripts",
    "transcribe_speakers",
    "SpeakerStreamOptions",
    "SpeakerStreams",
    "SpeakerTurn",
    "SpeakerTurnOptions",
    "SpokenWord",
    "find_turns",
    "ClipFilterOptions",
    "FastConformerDataCollator",
    "FastConformerTrainer",
    "FilterReport",
    "FinetuneOptions",
    "FinetuneResult",
    "LoraOptions",
    "RowForm",
    "SecondsBatchSampler",
    "TrainingClips",
    "WordErrors",
    "add_lora",
    "filter_clips",
    "finetune",
    "freeze_parts",
    "merge_lora",
    "open_clips",
    "EvaluationDataOptions",
    "ErrorCounts",
    "ErrorRate",
    "EvaluatedFile",
    "EvaluationReport",
    "ScoringOptions",
    "TextErrors",
    "VocabularyChange",
    "WordEdit",
    "evaluate",
    "extend_tokenizer",
    "join_tokenizers",
    "replace_tokenizer",
    "score_texts",
    "train_tokenizer",
    "CompiledLanguages",
    "CompiledPhrases",
    "NgramLanguageModel",
    "PhraseBoosting",
    "compile_languages",
    "compile_phrases",
    "load_phrases",
    "save_phrases",
    "SubtitleRules",
    "TranscriptRecord",
    "format_transcript",
    "ConversionResult",
    "NemoExportResult",
    "export_nemo",
    "OnnxExportResult",
    "export_onnx",
    "export_to_transformers",
    "ExportResult",
    "convert_transformers_checkpoint",
    "TranscribeBatches",
    "plan_blocks",
    "detect_speech",
    "AudioFile",
    "AudioClip",
    "AutoModelForRNNT",
    "AutoModelForTDT",
    "ChunkOptions",
    "BeamOptions",
    "ConfidenceOptions",
    "DecodingOptions",
    "FastConformerCTCConfig",
    "FastConformerCTCOutput",
    "FastConformerConfig",
    "FastConformerDiarizationConfig",
    "FastConformerPreTrainingConfig",
    "FastConformerPreTrainingOutput",
    "FastConformerForPreTraining",
    "FastConformerDiarizationOutput",
    "FastConformerEncoder",
    "FastConformerEncoderCache",
    "FastConformerEncoderOutput",
    "FastConformerFeatureExtractor",
    "FeatureStream",
    "RunningNormalization",
    "push_streams",
    "FastConformerForCTC",
    "FastConformerForDiarization",
    "FastConformerForMultitask",
    "FastConformerMultitaskConfig",
    "FastConformerMultitaskEncoderOutput",
    "FastConformerMultitaskOutput",
    "FastConformerForRNNT",
    "FastConformerForTDT",
    "FastConformerGenerateOutput",
    "FastConformerHybridForCTC",
    "FastConformerModel",
    "FastConformerPreTrainedModel",
    "FastConformerProcessor",
    "FastConformerRNNTConfig",
    "FastConformerTDTConfig",
    "FastConformerTokenizer",
    "FastConformerTranscription",
    "FastConformerTransducerOutput",
    "Finished",
    "ParakeetTDTForCTC",
    "ParakeetTDTForTDT",
    "PromptOptions",
    "AsyncStreamingTranscriber",
    "EndpointEvent",
    "EndpointingOptions",
    "EngineOptions",
    "EngineWorker",
    "SavedStream",
    "SearchOptions",
    "StreamFailedError",
    "StreamOptions",
    "StreamRefusedError",
    "StreamUpdate",
    "StreamWord",
    "StreamingEngine",
    "StreamingSchedule",
    "StreamingTranscriber",
    "Transcript",
    "TranscriptionOptions",
    "VoiceActivityOptions",
    "__version__",
    "convert_nemo_checkpoint",
    "load_encoder_cache",
    "load_model",
    "load_stream",
    "save_stream",
    "quantize_dynamic_int8",
    "FastConformerInt8Config",
    "read_audio",
    "remove_int8",
    "save_encoder_cache",
    "share_as_ctc",
    "transcribe",
    "transcribe_clips",
    "transcribe_file",
    "transcribe_waveforms",
    "writable_languages",
]

# Names that bring the `Trainer` of Transformers, which takes a second: imported when they are asked for.
_MODULES_OF_NAMES = {
    "FastConformerTrainer": ".training.trainer",
    "FinetuneResult": ".training.finetune",
    "finetune": ".training.finetune",
}


def __getattr__(name: str) -> Any:
    """Import one of these names."""
    if name not in _MODULES_OF_NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_MODULES_OF_NAMES[name], __name__), name)
    globals()[name] = value
    return value
