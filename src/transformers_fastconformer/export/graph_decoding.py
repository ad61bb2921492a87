"""Exported graphs decoded in ONNX Runtime by this package's own loops: features in, tokens out."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..audio.files import read_audio
from ..decoding.ctc import ctc_greedy_decode
from ..decoding.hypotheses import Hypotheses
from ..decoding.transducer_greedy import transducer_greedy_decode
from .graphs import GraphPart
from .stage_checks import RuntimeGraph, run_windows
from .streaming_graphs import cut_windows, encode_windows, is_streaming

State = tuple[torch.Tensor, ...]


@dataclass(frozen=True)
class TokenCheck:
    """
    Tokens of some clips by graphs, from the features that the model has of them.

    Args:
        clips: Clips.
        tokens: Tokens of the model.
        differences: Tokens to be changed, put in or left out to make those of the graphs of them.
    """

    clips: int
    tokens: int
    differences: int


@torch.no_grad()
def check_tokens(
    model: Any,
    processor: Any,
    parts: Mapping[str, GraphPart],
    files: Mapping[str, Path],
    paths: Sequence[str | os.PathLike[str]],
) -> TokenCheck:
    """
    Decode clips by a model and by its graphs.

    Args:
        model, processor: What the graphs were made from.
        parts: The parts by the names of their files in float32.
        files: The file of each part.
        paths: Audio files.
    """
    sampling_rate = processor.feature_extractor.sampling_rate
    decoder = GraphDecoder(model, parts, files)
    num_tokens, differences = 0, 0
    for path in paths:
        batch = processor.feature_extractor(
            read_audio(path, sampling_rate), sampling_rate=sampling_rate, return_tensors="pt"
        )
        if decoder.is_streaming:
            frames = encode_windows(model, cut_windows(model, batch.input_features))
            lengths = torch.tensor([frames.shape[1]], dtype=torch.int64, device="cpu")
        else:
            encoded = model.encode(batch.input_features, input_lengths=batch.input_lengths)
            frames, lengths = encoded.last_hidden_state, encoded.encoder_lengths
        expected = list_tokens(model.decode_frames(frames, lengths)[0])[0]
        found = decoder.decode(batch.input_features, batch.input_lengths)[0]
        num_tokens += len(expected)
        differences += count_edits(expected, found)
    return TokenCheck(len(paths), num_tokens, differences)


class GraphDecoder:
    """
    The graphs of a model as one recogniser.

    Args:
        model: The model that they were made from, for its configuration.
        parts: The parts by the names of their files.
        files: The file of each part.
    """

    def __init__(self, model: Any, parts: Mapping[str, GraphPart], files: Mapping[str, Path]) -> None:
        self.model, self.config = model, model.config
        self.is_ctc = model.decoder_type == "ctc"
        self.is_tdt = model.decoder_type == "tdt"
        graphs = [RuntimeGraph(part, files[name]) for name, part in parts.items()]
        self.encoder = next(graph for graph in graphs if "audio_signal" in graph.part.input_names)
        self.is_streaming = is_streaming(self.encoder.part)
        steps = [graph for graph in graphs if graph is not self.encoder]
        self.fused = next((graph for graph in steps if len(graph.part.input_names) == 5), None)
        self.prediction = next((graph for graph in steps if len(graph.part.input_names) == 4), None)
        self.joint = next((graph for graph in steps if len(graph.part.input_names) == 2), None)

    def decode(self, input_features: torch.Tensor, input_lengths: torch.Tensor) -> list[list[int]]:
        """
        Decode greedily.

        Args:
            input_features: (batch, mel frames, mels).
            input_lengths: (batch,), mel frames of each clip.

        Returns:
            The tokens of each clip.
        """
        blank_id, padding_id = self.config.blank_token_id, self.config.pad_token_id
        frames, lengths = self._encode(input_features, input_lengths)
        if self.is_ctc:
            return list_tokens(ctc_greedy_decode(frames, lengths, blank_id, padding_id))
        hypotheses, _ = transducer_greedy_decode(
            frames.transpose(1, 2),
            lengths,
            self._predict if self.fused is None else self._hold,
            self._join if self.fused is None else self._join_held,
            blank_id,
            padding_id,
            durations=self.config.durations if self.is_tdt else None,
            max_symbols_per_step=self.config.max_symbols_per_step,
        )
        return list_tokens(hypotheses)

    def _encode(self, input_features: torch.Tensor, input_lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The first output of the encoder, and its frames of each clip."""
        if self.is_streaming:
            windows = cut_windows(self.model, input_features)
            outputs = run_windows(self.encoder, windows)
            num_frames = outputs.shape[1 if self.is_ctc else 2]
            return outputs, torch.full((outputs.shape[0],), num_frames, dtype=torch.int64, device="cpu")
        outputs, *lengths = self.encoder.run(input_features.transpose(1, 2), input_lengths)
        if lengths:
            return outputs, lengths[0]
        counts = [self.config.count_encoder_frames(int(length)) for length in input_lengths]
        return outputs, torch.tensor(counts, dtype=torch.int64, device="cpu")

    # Prediction and joint in two graphs

    def _predict(self, tokens: torch.Tensor, state: State | None) -> tuple[torch.Tensor, State]:
        assert self.prediction is not None
        output, _, *following = self.prediction.run(*_step_arguments(tokens), *self._state(state, tokens.shape[0]))
        return output[..., 0], tuple(following)

    def _join(self, frames: torch.Tensor, predictions: torch.Tensor) -> torch.Tensor:
        assert self.joint is not None
        return self.joint.run(frames[..., None], predictions[..., None])[0][:, 0, 0]

    # Both in one graph: the loop is handed the token and the state before it in place of a prediction

    def _hold(self, tokens: torch.Tensor, state: State | None) -> tuple[torch.Tensor, State]:
        assert self.fused is not None
        before = self._state(state, tokens.shape[0])
        frames = torch.zeros(tokens.shape[0], self.config.output_size, 1, dtype=torch.float32, device="cpu")
        _, _, *following = self.fused.run(frames, *_step_arguments(tokens), *before)
        flat = [part.transpose(0, 1).flatten(1) for part in before]
        return torch.cat([tokens[:, None].to(torch.float32), *flat], dim=1), tuple(following)

    def _join_held(self, frames: torch.Tensor, held: torch.Tensor) -> torch.Tensor:
        assert self.fused is not None
        tokens = held[:, 0].to(torch.int64)
        layers, size = self.config.num_decoder_layers, self.config.decoder_hidden_size
        state = [part.unflatten(1, (layers, size)).transpose(0, 1) for part in held[:, 1:].chunk(2, dim=1)]
        return self.fused.run(frames[..., None], *_step_arguments(tokens), *state)[0][:, 0, 0]

    def _state(self, state: State | None, num_clips: int) -> State:
        if state is not None:
            return state
        shape = (self.config.num_decoder_layers, num_clips, self.config.decoder_hidden_size)
        zeros = torch.zeros(shape, dtype=torch.float32, device="cpu")
        return zeros, zeros


def _step_arguments(tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(clips,) to what the graphs take of a token: (clips, 1) and the number of tokens of each clip."""
    return tokens[:, None].to(torch.int32), torch.ones(tokens.shape[0], dtype=torch.int32, device="cpu")


def list_tokens(hypotheses: Hypotheses) -> list[list[int]]:
    """The tokens of each clip, without padding."""
    pairs = zip(hypotheses.tokens.tolist(), hypotheses.token_lengths.tolist(), strict=True)
    return [row[:length] for row, length in pairs]


def count_edits(reference: list[Any], found: list[Any]) -> int:
    """The smallest number of entries to be changed, put in or left out to make one list of another (Levenshtein)."""
    from rapidfuzz.distance import Levenshtein

    return Levenshtein.distance(reference, found)
