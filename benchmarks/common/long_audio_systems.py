"""
Transcription of a long file by one system in a process of its own.

Each system is a function that loads a model and returns a function that transcribes a file with it. Of this package,
Transformers and NeMo a process imports only the one that it measures.

The process prints one line of JSON; see `module_command("common.long_audio_systems")`, which takes a request such as
`{"system": "nemo", "path": "talk.wav", ...}`.
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Callable
from typing import Any

import torch

from common.machine import MIB, reset_peak, use_given_threads

# Sampling rate of the demonstration checkpoint.
SAMPLING_RATE = 16000
FRAME_SAMPLES = 1280
FRAME_SECONDS = FRAME_SAMPLES / SAMPLING_RATE

Transcribe = Callable[[str], str]


# This package


def load_this_package(checkpoint: str, head: str, **options: Any) -> Transcribe:
    """Load this package's model for `transcribe_file` with its options."""
    from transformers_fastconformer import load_model, transcribe_file

    model, processor = load_model(checkpoint, head)
    return lambda path: transcribe_file(model, processor, path, timestamps=False, **options).text


# Transformers


def load_transformers(checkpoint: str, head: str, has_ratio: bool = False, **options: Any) -> Transcribe:
    """
    Load Transformers' pipeline, with the options of its call.

    Args:
        checkpoint: Folder in Transformers' own form.
        head: `"ctc"` or `"transducer"`.
        has_ratio: Tell the pipeline, in the model's configuration, how many samples an encoder frame stands for.
        options: Options of the call, such as `chunk_length_s`.
    """
    import soundfile
    from transformers import AutoProcessor, ParakeetForCTC, ParakeetForTDT, pipeline

    model = (ParakeetForCTC if head == "ctc" else ParakeetForTDT).from_pretrained(checkpoint).eval()
    if has_ratio:
        model.config.inputs_to_logits_ratio = FRAME_SAMPLES
    processor = AutoProcessor.from_pretrained(checkpoint)
    recognise = pipeline(
        "automatic-speech-recognition",
        model=model,
        tokenizer=processor.tokenizer,
        feature_extractor=processor.feature_extractor,
    )

    def transcribe(path: str) -> str:
        samples, sampling_rate = soundfile.read(path, dtype="float32")
        return recognise({"raw": samples, "sampling_rate": sampling_rate}, **options)["text"]

    return transcribe


# NeMo


def load_nemo(checkpoint: str, head: str, method: str, **options: Any) -> Transcribe:
    """
    Load NeMo's model for one of its ways to transcribe long files.

    Args:
        checkpoint: The `.nemo` file.
        head: `"ctc"` or `"transducer"`.
        method: `"whole"`, `"stateful"`, or the way in which buffers are merged: `"middle"` or, for transducers,
            `"lcs"`.
        options: Options of that method.
    """
    import copy
    import logging

    logging.disable(logging.WARNING)
    from nemo.collections.asr.models import ASRModel
    from omegaconf import open_dict

    model = ASRModel.restore_from(checkpoint, map_location="cpu").eval()
    is_ctc = head == "ctc"
    decoding = copy.deepcopy(model.cfg.aux_ctc.decoding if is_ctc else model.cfg.decoding)
    with open_dict(decoding):
        if not is_ctc:
            # The classes that merge need alignments for each frame, which only NeMo's strategy "greedy" gives for TDT.
            is_merged = method in ("middle", "lcs")
            decoding.strategy = "greedy" if is_merged else "greedy_batch"
            decoding.preserve_alignments = is_merged
            decoding.fused_batch_size = -1
    model.change_decoding_strategy(decoding, decoder_type="ctc" if is_ctc else "rnnt", verbose=False)
    model.preprocessor.featurizer.dither = 0.0
    if method == "whole":
        if options.get("local_context"):
            model.change_attention_model("rel_pos_local_attn", [options["local_context"]] * 2)
        return lambda path: model.transcribe([path], batch_size=1, num_workers=0, verbose=False)[0].text
    model.preprocessor.featurizer.pad_to = 0
    if method == "stateful":
        return lambda path: _transcribe_stateful(model, path, **options)
    return lambda path: _transcribe_buffered(model, path, is_ctc, method, **options)


def _transcribe_buffered(
    model: Any, path: str, is_ctc: bool, method: str, chunk_seconds: float, buffer_seconds: float
) -> str:
    """Transcribe by `FrameBatchASR` or alike: a buffer moves by a chunk, tokens of its middle are kept or merged."""
    from nemo.collections.asr.parts.utils import streaming_utils

    tokens_per_chunk = math.ceil(chunk_seconds / FRAME_SECONDS)
    delay = math.ceil((chunk_seconds + (buffer_seconds - chunk_seconds) / 2) / FRAME_SECONDS)
    sizes = {"frame_len": chunk_seconds, "total_buffer": buffer_seconds}
    if is_ctc:
        frame_asr = streaming_utils.FrameBatchASR(model, **sizes)
        frame_asr.reset()
        frame_asr.read_audio_file(path, delay, FRAME_SECONDS)
        return frame_asr.transcribe(tokens_per_chunk, delay)
    if method == "middle":
        frame_asr = streaming_utils.BatchedFrameASRTDT(model, **sizes, batch_size=1)
    else:
        frame_asr = streaming_utils.LongestCommonSubsequenceBatchedFrameASRRNNT(model, **sizes, batch_size=1)
        frame_asr.lcs_delay = math.floor((buffer_seconds - chunk_seconds) / FRAME_SECONDS)
    frame_asr.reset()
    frame_asr.read_audio_file([path], delay, FRAME_SECONDS)
    return frame_asr.transcribe(tokens_per_chunk, delay)[0]


def _transcribe_stateful(
    model: Any, path: str, left_seconds: float, chunk_seconds: float, right_seconds: float
) -> str:
    """Transcribe windows with context by NeMo's buffer and decoder, whose state is carried over."""
    from nemo.collections.asr.parts.utils.streaming_utils import ContextSize, StreamingBatchedAudioBuffer, load_audio

    audio = load_audio(path, SAMPLING_RATE)[0][None]
    left, chunk, right = (
        round(seconds / FRAME_SECONDS) * FRAME_SAMPLES for seconds in (left_seconds, chunk_seconds, right_seconds)
    )
    buffer = StreamingBatchedAudioBuffer(
        batch_size=1, context_samples=ContextSize(left, chunk, right), dtype=audio.dtype, device="cpu"
    )
    decode = model.decoding.decoding.decoding_computer
    tokens: list[int] = []
    state = None
    start, stop, num_samples = 0, chunk + right, audio.shape[1]
    with torch.inference_mode():
        while start < num_samples:
            stop = min(stop, num_samples)
            is_last = stop == num_samples
            buffer.add_audio_batch_(
                audio[:, start:stop],
                audio_lengths=torch.tensor([stop - start]),
                is_last_chunk=is_last,
                is_last_chunk_batch=torch.tensor([is_last]),
            )
            encoded, lengths = model(
                input_signal=buffer.samples, input_signal_length=buffer.context_size_batch.total()
            )
            context = buffer.context_size.subsample(FRAME_SAMPLES)
            num_frames = lengths - context.left if is_last else torch.tensor([context.chunk])
            found, state = decode(
                x=encoded.transpose(1, 2)[:, context.left :], out_len=num_frames, prev_batched_state=state
            )
            counts, ids = found.get_data_without_blank()[:2]
            tokens += ids[0, : int(counts[0])].tolist()
            start, stop = stop, stop + chunk
    return model.tokenizer.ids_to_text(tokens)


LOADERS: dict[str, Callable[..., Transcribe]] = {
    "transformers_fastconformer": load_this_package,
    "transformers": load_transformers,
    "nemo": load_nemo,
}


# The measurement


def measure(request: dict[str, Any]) -> dict[str, Any]:
    """Measure text, seconds, versions and peak memory above that of a model that has transcribed a short clip."""
    use_given_threads()
    transcribe = LOADERS[request["system"]](request["checkpoint"], request["head"], **request["options"])
    transcribe(request["clip"])
    before, read_peak = reset_peak()
    start = time.perf_counter()
    text = transcribe(request["path"])
    seconds = time.perf_counter() - start
    return {
        "text": text,
        "seconds": round(seconds, 1),
        "loaded_mib": round(before / MIB),
        "peak_mib": round((read_peak() - before) / MIB),
        "version": _version(request["system"]),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
    }


def _version(system: str) -> str:
    from importlib.metadata import version

    return version({"nemo": "nemo_toolkit"}.get(system, system))


def main() -> None:
    # All output of libraries goes to the log; the last line of this process is the answer.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    try:
        answer = measure(json.loads(sys.argv[1]))
    except Exception as error:
        answer = {"error": f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"}
    print(json.dumps(answer), file=answers, flush=True)
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
