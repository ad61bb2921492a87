"""
Prediction and joint network in the form that decoding wants: one token at a time, as little read as possible.

Made from plain tensors, knows no models. At one clip what binds is reading weights, and what is done around it: so the
embedding and the first layer's input weights become a table over the vocabulary, the weights of a layer's input and
state one matrix, and a step a handful of calls.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch.nn import functional

State = tuple[torch.Tensor, ...]

# oneDNN picks the packing by the number of rows; that for 8 serves 1 to 128 as well as those for them do.
ROWS_TO_PACK_FOR = 8
# Values from which four calls with a sigmoid take less time than one of tanh.
VALUES_FOR_SIGMOID = 4096

ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "relu": torch.relu_,
    "tanh": torch.tanh_,
    "sigmoid": torch.sigmoid_,
}


class Projection:
    """
    A linear layer for few rows.

    On a CPU the weight is packed once for oneDNN's matrix product, the form that `torch.compile` uses too: for 2 to 8
    rows it takes a half to a third of the time of `functional.linear`, which packs anew in each call, and a single row
    is read by all threads, where MKL's product of matrix and vector has one. Where torch cannot pack, and on other
    devices, all is `functional.linear`.
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor) -> None:
        self.bias = bias.contiguous()
        self.weight = weight.contiguous()
        self.packed = pack_weight(weight)

    def __call__(self, rows: torch.Tensor) -> torch.Tensor:
        if self.packed is not None:
            return torch.ops.mkldnn._linear_pointwise(rows, self.packed, self.bias, "none", [], "")
        return functional.linear(rows, self.weight, self.bias)

    def add_to(self, terms: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """The layer of `rows` and `terms`, (n, out), which may be overwritten; in the dtype of `terms`."""
        if self.packed is not None and terms.dtype == rows.dtype:
            return torch.ops.mkldnn._linear_pointwise.binary(rows, terms, self.packed, self.bias, "add")
        return terms.add_(self(rows))


def pack_weight(weight: torch.Tensor) -> torch.Tensor | None:
    """The weight (out, in) packed for oneDNN, or None where this build of torch or this CPU cannot use it so."""
    if weight.device.type != "cpu" or weight.dtype not in (torch.float32, torch.bfloat16, torch.float16):
        return None
    try:
        packed = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), ROWS_TO_PACK_FOR)
        probe = torch.ones(1, weight.shape[1], dtype=weight.dtype, device=weight.device)
        bias = torch.zeros(weight.shape[0], dtype=weight.dtype, device=weight.device)
        found = torch.ops.mkldnn._linear_pointwise(probe, packed, bias, "none", [], "")
    except (AttributeError, RuntimeError):
        return None
    expected = functional.linear(probe, weight).float()
    tolerance = 100 * torch.finfo(weight.dtype).eps * float(weight.float().abs().sum(dim=1).max())
    return packed if bool((found.float() - expected).abs().max() <= tolerance) else None


class LSTMPredictor:
    """
    One step of an embedding, an LSTM and the projection for the joint network.

    Args:
        embedding: (vocabulary, size).
        layers: For each layer its weights as `nn.LSTM` names them: input (4 * size, size), state (4 * size, size),
            input bias and state bias (4 * size,).
        projection_weight: (joint_hidden_size, size).
        projection_bias: (joint_hidden_size,).
    """

    def __init__(
        self,
        embedding: torch.Tensor,
        layers: Sequence[tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]],
        projection_weight: torch.Tensor,
        projection_bias: torch.Tensor,
    ) -> None:
        self.size = layers[0][1].shape[1]
        # torch orders the gates in, forget, cell, out.
        gate = torch.arange(4 * self.size, device=embedding.device).reshape(4, self.size)
        order = torch.cat([gate[0], gate[1], gate[3], gate[2]])
        # With 2 * sigmoid(2 * x) - 1 for the tanh of the cell's gate one call serves all four. Doubling is exact.
        scale = torch.ones(4 * self.size, dtype=torch.float32, device=embedding.device)
        scale[3 * self.size :] = 2.0

        input_weight, state_weight, input_bias, state_bias = layers[0]
        bias = input_bias.float() + state_bias.float()
        # Not rounded to 16 bits: nothing of it is read but one row.
        table = functional.linear(embedding.float(), input_weight.float(), bias)
        self.table = table[:, order].mul_(scale)  # (vocabulary, 4 * size)
        self.dtype = state_weight.dtype
        rounded_scale = scale[:, None].to(self.dtype)
        zeros = torch.zeros_like(state_bias)
        self.layers = [Projection(state_weight[order] * rounded_scale, zeros)]
        for input_weight, state_weight, input_bias, state_bias in layers[1:]:
            both = torch.cat([input_weight, state_weight], dim=1)[order] * rounded_scale  # (4 * size, 2 * size)
            bias = (input_bias.float() + state_bias.float())[order] * scale
            self.layers.append(Projection(both, bias.to(self.dtype)))
        self.projection = Projection(projection_weight, projection_bias)

    def __call__(self, tokens: torch.Tensor, state: State | None) -> tuple[torch.Tensor, State]:
        """
        Args:
            tokens: (n,).
            state: Hidden and cell state, each (layers, n, size); None at the start.

        Returns:
            (n, joint_hidden_size) and the next state.
        """
        count, size = tokens.shape[0], self.size
        if state is None:
            nothing = torch.zeros(len(self.layers), count, size, dtype=self.dtype, device=tokens.device)
            state = (nothing, nothing)
        old_hidden, old_cell = state
        hidden = torch.empty_like(old_hidden, memory_format=torch.contiguous_format)
        cell = torch.empty_like(hidden)
        below: torch.Tensor | None = None
        layers = zip(
            self.layers, old_hidden.unbind(0), old_cell.unbind(0), hidden.unbind(0), cell.unbind(0), strict=True
        )
        for projection, hidden_before, cell_before, new_hidden, new_cell in layers:
            if below is None:
                gates = projection.add_to(self.table.index_select(0, tokens), hidden_before)  # in float32
            else:
                gates = projection(torch.cat([below, hidden_before], dim=1)).float()
            enter, forget, leave, update = gates.sigmoid_().view(count, 4, size).unbind(1)
            if new_cell.dtype == gates.dtype:
                torch.mul(forget, cell_before, out=new_cell).addcmul_(enter, update, value=2.0).sub_(enter)
                torch.mul(_tanh(new_cell), leave, out=new_hidden)
            else:  # 16 bits: the gates are float32, only what is kept is rounded
                full_cell = (forget * cell_before).addcmul_(enter, update, value=2.0).sub_(enter)
                new_cell.copy_(full_cell)
                new_hidden.copy_(_tanh(full_cell).mul_(leave))
            below = new_hidden
        assert below is not None
        return self.projection(below), (hidden, cell)


def _tanh(values: torch.Tensor) -> torch.Tensor:
    """On a CPU torch's tanh takes the time of five sigmoids; for few values it is calls that count."""
    if values.device.type != "cpu" or values.numel() < VALUES_FOR_SIGMOID:
        return values.tanh()
    return values.mul(2.0).sigmoid_().mul_(2.0).sub_(1.0)


class StatelessPredictor:
    """
    One step of embeddings of the last few tokens side by side, and the projection for the joint network.

    Without a norm between them each embedding goes through its share of the projection once, for all tokens: a step
    adds table rows and reads no weights.

    Args:
        embeddings: (vocabulary, width) for each place in the context, the newest first.
        has_norm: Layer norm without parameters before the projection.
        projection_weight: (joint_hidden_size, sum of widths).
        projection_bias: (joint_hidden_size,).
        blank_id: Stands before the start.
    """

    def __init__(
        self,
        embeddings: Sequence[torch.Tensor],
        has_norm: bool,
        projection_weight: torch.Tensor,
        projection_bias: torch.Tensor,
        blank_id: int,
    ) -> None:
        self.blank_id = blank_id
        self.dtype = projection_weight.dtype
        self.tables = list(embeddings)
        self.projection = Projection(projection_weight, projection_bias) if has_norm else None
        if not has_norm:
            shares = projection_weight.float().split([table.shape[1] for table in embeddings], dim=1)
            self.tables = [
                functional.linear(table.float(), share) for table, share in zip(embeddings, shares, strict=True)
            ]
            self.tables[0] += projection_bias.float()

    def __call__(self, tokens: torch.Tensor, state: State | None) -> tuple[torch.Tensor, State]:
        """
        Args:
            tokens: (n,).
            state: The tokens before, oldest first, (context - 1, n); None at the start.
        """
        if state is None:
            state = (tokens.new_full((len(self.tables) - 1, tokens.shape[0]), self.blank_id),)
        history = torch.cat([state[0], tokens[None]])  # (context, n)
        parts = [table.index_select(0, history[-1 - age]) for age, table in enumerate(self.tables)]
        if self.projection is None:
            output = parts[0]
            for part in parts[1:]:
                output += part
            return output.to(self.dtype), (history[1:],)
        joined = torch.cat(parts, dim=1)
        return self.projection(functional.layer_norm(joined, joined.shape[1:])), (history[1:],)


class Joint:
    """
    Sum of projected frame and prediction, activation, linear layer.

    Args:
        activation: One of `ACTIVATIONS`.
        weight: (classes, joint_hidden_size).
        bias: (classes,).
    """

    def __init__(self, activation: str, weight: torch.Tensor, bias: torch.Tensor) -> None:
        if activation not in ACTIVATIONS:
            raise ValueError(f"activation={activation!r} is not supported; expected one of {tuple(ACTIVATIONS)}.")
        self.activate_in_place = ACTIVATIONS[activation]
        self.head = Projection(weight, bias)

    def __call__(self, frames: torch.Tensor, predictions: torch.Tensor) -> torch.Tensor:
        """(n, joint_hidden_size) and the same or (1, joint_hidden_size) to logits (n, classes)."""
        return self.head(self.activate_in_place(frames + predictions))
