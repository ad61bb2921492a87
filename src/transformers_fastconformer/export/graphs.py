"""Parts of a model as ONNX graphs, by torch's exporter: batch and length stay open, positions are computed inside."""

from __future__ import annotations

import copy
import logging as python_logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..modeling.attention import FastConformerAttention
from ..modeling.masking import resolve_context
from ..modeling.recognizer import FastConformerRecognizer
from ..modeling.transducer import FastConformerForTransducer, FastConformerLSTMPredictionNetwork
from .blocked_attention import attend_in_graph, give_meaning

INSTALL_COMMAND = 'pip install "transformers-fastconformer[onnx]"'
# Read by every target: onnxruntime 1.14 and later.
OPSET = 18
IR_VERSION = 9
# A protocol buffer holds at most two gigabytes; weights of a larger graph go into one file next to it.
MAX_PROTOBUF_BYTES = 2_000_000_000
EXTERNAL_SUFFIX = ".data"
# Sizes that no dimension of a model has by chance, and larger than those that torch treats apart.
EXAMPLE_CLIPS = 2
EXAMPLE_MEL_FRAMES = 331


@dataclass(frozen=True)
class GraphPart:
    """
    A part of a model to be exported.

    Args:
        module: Its computation, with tensors in and tensors out.
        examples: Arguments, of sizes that stand for all others.
        input_names, output_names: Names in the graph.
        dynamic_axes: For each input the axes that stay open, and their names.
    """

    module: nn.Module
    examples: tuple[torch.Tensor, ...]
    input_names: tuple[str, ...]
    output_names: tuple[str, ...]
    dynamic_axes: tuple[dict[int, str], ...]


class EncoderPart(nn.Module):
    """Features (batch, mels, mel frames) and lengths to encoder frames (batch, size, frames) and their lengths."""

    def __init__(self, model: FastConformerRecognizer) -> None:
        super().__init__()
        self.model = model

    def forward(self, audio_signal: torch.Tensor, length: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        encoded: Any = self.model.encode(audio_signal.transpose(1, 2), input_lengths=length)
        return encoded.last_hidden_state.transpose(1, 2), encoded.encoder_lengths


class CTCPart(nn.Module):
    """Features (batch, mels, mel frames) and lengths to log-probabilities (batch, frames, vocabulary)."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, audio_signal: torch.Tensor, length: torch.Tensor) -> torch.Tensor:
        encoded: Any = self.model.encode(audio_signal.transpose(1, 2), input_lengths=length)
        return self.model.ctc_head(encoded.last_hidden_state).log_softmax(dim=-1)


class LSTMStep(nn.Module):
    """One token through the embedding and the LSTM, cell by cell, which runtimes have in 8 bits too."""

    def __init__(self, network: FastConformerLSTMPredictionNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(
        self, tokens: torch.Tensor, hidden: torch.Tensor, cell: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(batch,), (layers, batch, size) twice to (batch, size) and the next two states."""
        lstm: Any = self.network.lstm
        states = self.network.embedding(tokens)
        next_hidden, next_cell = [], []
        for layer in range(lstm.num_layers):
            from_input = nn.functional.linear(
                states, getattr(lstm, f"weight_ih_l{layer}"), getattr(lstm, f"bias_ih_l{layer}")
            )
            from_state = nn.functional.linear(
                hidden[layer], getattr(lstm, f"weight_hh_l{layer}"), getattr(lstm, f"bias_hh_l{layer}")
            )
            entry, forget, candidate, exit_ = (from_input + from_state).chunk(4, dim=-1)
            cell_state = torch.sigmoid(forget) * cell[layer] + torch.sigmoid(entry) * torch.tanh(candidate)
            states = torch.sigmoid(exit_) * torch.tanh(cell_state)
            next_hidden.append(states)
            next_cell.append(cell_state)
        return states, torch.stack(next_hidden), torch.stack(next_cell)


class DecoderJointPart(nn.Module):
    """A frame, a token and the state before it to the logits of the joint network and the state after it."""

    def __init__(self, model: FastConformerForTransducer) -> None:
        super().__init__()
        assert isinstance(model.decoder, FastConformerLSTMPredictionNetwork)
        self.step = LSTMStep(model.decoder)
        self.joint = model.joint

    def forward(
        self,
        encoder_outputs: torch.Tensor,
        targets: torch.Tensor,
        target_length: torch.Tensor,
        input_states_1: torch.Tensor,
        input_states_2: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        prediction, hidden, cell = self.step(targets[:, 0], input_states_1, input_states_2)
        frames = self.joint.encoder_proj(encoder_outputs.transpose(1, 2))[:, :, None]  # (batch, frames, 1, joint)
        predictions = self.joint.decoder_proj(prediction)[:, None, None]  # (batch, 1, 1, joint)
        return self.joint(frames, predictions), target_length, hidden, cell


class PredictionPart(nn.Module):
    """A token and the state before it to the prediction (batch, size, 1) and the state after it."""

    def __init__(self, model: FastConformerForTransducer) -> None:
        super().__init__()
        assert isinstance(model.decoder, FastConformerLSTMPredictionNetwork)
        self.step = LSTMStep(model.decoder)

    def forward(
        self,
        targets: torch.Tensor,
        target_length: torch.Tensor,
        input_states_1: torch.Tensor,
        input_states_2: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        prediction, hidden, cell = self.step(targets[:, 0], input_states_1, input_states_2)
        return prediction[..., None], target_length, hidden, cell


class JointPart(nn.Module):
    """Frames (batch, size, 1) and predictions (batch, size, 1) to logits (batch, 1, 1, classes)."""

    def __init__(self, model: FastConformerForTransducer) -> None:
        super().__init__()
        self.joint = model.joint

    def forward(self, encoder_outputs: torch.Tensor, decoder_outputs: torch.Tensor) -> torch.Tensor:
        frames = self.joint.encoder_proj(encoder_outputs.transpose(1, 2))[:, :, None]
        predictions = self.joint.decoder_proj(decoder_outputs.transpose(1, 2))[:, None]
        return self.joint(frames, predictions)


def encoder_part(model: FastConformerRecognizer) -> GraphPart:
    """The encoder of a model with a transducer head."""
    return GraphPart(
        EncoderPart(_for_graphs(model)),
        _example_features(model),
        ("audio_signal", "length"),
        ("outputs", "encoded_lengths"),
        ({0: "batch", 2: "mel_frames"}, {0: "batch"}),
    )


def ctc_part(model: FastConformerRecognizer) -> GraphPart:
    """A model with a CTC head, whole."""
    return GraphPart(
        CTCPart(_for_graphs(model)),
        _example_features(model),
        ("audio_signal", "length"),
        ("logprobs",),
        ({0: "batch", 2: "mel_frames"}, {0: "batch"}),
    )


def decoder_joint_part(model: FastConformerForTransducer) -> GraphPart:
    """Prediction and joint network of a transducer, in one step; sizes of the state are fixed."""
    frames, tokens, counts, hidden, cell = _example_step(model)
    batch = {0: "batch"}
    return GraphPart(
        DecoderJointPart(_for_graphs(model)),
        (frames, tokens, counts, hidden, cell),
        ("encoder_outputs", "targets", "target_length", "input_states_1", "input_states_2"),
        ("outputs", "prednet_lengths", "output_states_1", "output_states_2"),
        (batch, batch, batch, {1: "batch"}, {1: "batch"}),
    )


def prediction_part(model: FastConformerForTransducer) -> GraphPart:
    """The prediction network of a transducer, one token at a time."""
    _, tokens, counts, hidden, cell = _example_step(model)
    batch = {0: "batch"}
    return GraphPart(
        PredictionPart(_for_graphs(model)),
        (tokens, counts, hidden, cell),
        ("targets", "target_length", "input_states_1", "input_states_2"),
        ("outputs", "prednet_lengths", "output_states_1", "output_states_2"),
        (batch, batch, {1: "batch"}, {1: "batch"}),
    )


def joint_part(model: FastConformerForTransducer) -> GraphPart:
    """The joint network of a transducer, one frame and one prediction at a time."""
    frames, *_, hidden, _ = _example_step(model)
    batch = {0: "batch"}
    return GraphPart(
        JointPart(_for_graphs(model)),
        (frames, hidden[0][..., None]),
        ("encoder_outputs", "decoder_outputs"),
        ("outputs",),
        (batch, batch),
    )


def _example_step(model: FastConformerForTransducer) -> tuple[torch.Tensor, ...]:
    """A frame, a token, its number, and both states."""
    config = model.config
    state_shape = (config.num_decoder_layers, EXAMPLE_CLIPS, config.decoder_hidden_size)
    return (
        torch.zeros(EXAMPLE_CLIPS, config.output_size, 1, dtype=torch.float32, device="cpu"),
        torch.zeros(EXAMPLE_CLIPS, 1, dtype=torch.int32, device="cpu"),
        torch.ones(EXAMPLE_CLIPS, dtype=torch.int32, device="cpu"),
        torch.zeros(state_shape, dtype=torch.float32, device="cpu"),
        torch.zeros(state_shape, dtype=torch.float32, device="cpu"),
    )


def _example_features(model: FastConformerRecognizer) -> tuple[torch.Tensor, torch.Tensor]:
    features = torch.zeros(
        EXAMPLE_CLIPS, model.config.num_mel_bins, EXAMPLE_MEL_FRAMES, dtype=torch.float32, device="cpu"
    )
    lengths = torch.tensor([EXAMPLE_MEL_FRAMES, EXAMPLE_MEL_FRAMES // 2], dtype=torch.int64, device="cpu")
    return features, lengths


def _for_graphs(model: FastConformerRecognizer) -> Any:
    """The model with attention in its form for graphs: modules of its own, the parameters are shared."""
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    copied = copy.deepcopy(model, shared).eval()
    for module in copied.modules():
        if isinstance(module, FastConformerAttention) and _has_blocks(module):
            module.attend = partial(attend_in_graph, module)  # type: ignore[method-assign]
    return copied


def _has_blocks(attention: FastConformerAttention) -> bool:
    """True for the attention that `blocked_attention` writes out; a sliding window is linear in memory as it is."""
    return attention.has_relative_positions and not attention.config.has_local_attention


def check_packages() -> None:
    """
    See that graphs can be made and run, before anything is computed.

    Raises:
        ImportError: the extra `onnx` is not installed; the message holds the command.
    """
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
        import rapidfuzz  # noqa: F401
    except ImportError as error:
        raise ImportError(
            f"Export to ONNX needs onnx, onnxscript, onnxruntime and rapidfuzz: {INSTALL_COMMAND}"
        ) from error


def write_graph(part: GraphPart, path: Path, config: Any, metadata: Mapping[str, str] | None = None) -> None:
    """
    Export a part of a model.

    Args:
        part: The part, on the CPU in float32.
        path: The file; weights of more than two gigabytes go into a file next to it.
        config: The configuration of the model.
        metadata: Entries that a runtime reads off the graph.
    """
    import onnx

    # The exporter notes which packages are not there, and names of axes.
    with torch.no_grad(), errors_only("torch.onnx"):
        program: Any = torch.onnx.export(
            part.module,
            part.examples,
            dynamo=True,
            input_names=list(part.input_names),
            output_names=list(part.output_names),
            dynamic_shapes=part.dynamic_axes,
            opset_version=OPSET,
            verbose=False,
        )
    model = program.model_proto
    window = resolve_context(config.attention_context_style, config.attention_context)
    model = give_meaning(model, window)
    model.ir_version = IR_VERSION
    for node in model.graph.node:
        node.ClearField("metadata_props")
        node.ClearField("doc_string")
    for name, value in (metadata or {}).items():
        model.metadata_props.add(key=name, value=value)
    num_bytes = sum(len(tensor.raw_data) for tensor in model.graph.initializer)
    onnx.save(
        model,
        path,
        save_as_external_data=num_bytes > MAX_PROTOBUF_BYTES,
        location=f"{path.name}{EXTERNAL_SUFFIX}",
    )


@contextmanager
def errors_only(name: str) -> Iterator[None]:
    """Without a logger's notes and warnings, and without those of Python."""
    logger = python_logging.getLogger(name)
    level = logger.level
    logger.setLevel(python_logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
