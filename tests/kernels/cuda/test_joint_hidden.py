"""Hidden states of a joint network in Triton, next to those of its modules and of the slices of the plain form."""

from __future__ import annotations

import pytest
import torch
from triton_forms import DEVICE, IS_CUT_OFF, needs_triton

from transformers_fastconformer.losses.joint_dropout import fill_dropout_mask
from transformers_fastconformer.losses.packed_joint import pack_rows

pytestmark = [needs_triton, pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")]

BATCH, FRAMES, NODES, SIZE = 2, 5, 3, 7
SEED = 3_000_000_000  # does not fit a signed number of 32 bits


def make_inputs(dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    shapes = (BATCH, FRAMES, SIZE), (BATCH, NODES, SIZE)
    frames, predictions = (torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in shapes)
    return frames.to(DEVICE, dtype), predictions.to(DEVICE, dtype)


def make_mask(dtype: torch.dtype, dropout: float) -> torch.Tensor:
    mask = torch.empty(BATCH * FRAMES * NODES, SIZE, dtype=dtype, device=DEVICE)
    return fill_dropout_mask(mask, torch.arange(len(mask), device=DEVICE), dropout, SEED)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(("activation", "dropout"), [("relu", 0.0), ("relu", 0.3), ("tanh", 0.3), ("sigmoid", 1.0)])
def test_hidden_states_with_the_masks_of_the_plain_form(activation: str, dropout: float, dtype: torch.dtype) -> None:
    from transformers_fastconformer.kernels.cuda.joint_hidden import HiddenRows

    frames, predictions = make_inputs(dtype)
    rows = torch.tensor([0, 4, 7, 15, 29], device=DEVICE)
    hidden = frames.new_empty(len(rows), SIZE)
    HiddenRows(frames, predictions, activation, dropout, SEED).fill_hidden(hidden, rows)
    expected = getattr(torch, activation)(frames[:, :, None] + predictions[:, None]).flatten(0, 2)
    if dropout:
        expected = expected * make_mask(dtype, dropout)
    expected = expected[rows]
    if activation == "relu" and not IS_CUT_OFF.get(dtype):
        assert torch.equal(hidden, expected)
    assert torch.equal(hidden == 0, expected == 0)
    # The exponents of tanh and sigmoid are not torch's.
    tolerance = (3 if IS_CUT_OFF.get(dtype) else 2) * torch.finfo(dtype).eps
    torch.testing.assert_close(hidden, expected, rtol=tolerance, atol=tolerance)


def test_masks_of_rows_above_32_bits() -> None:
    """A batch whose rows do not fit 32 bits: the numbers of the rows are those of a later clip."""
    from transformers_fastconformer.kernels.cuda.joint_hidden import HiddenRows

    frames, predictions = make_inputs(torch.float32)
    form = HiddenRows(frames, predictions, "relu", 0.5, SEED)
    rows = torch.tensor([0, 2**32], device=DEVICE)
    form.num_frames, form.num_nodes = 2**31 - 1, 2**31 - 1  # both rows are frame 0 or 2, nodes 0 or 2, of clip 0
    hidden = frames.new_empty(2, SIZE)
    form.fill_hidden(hidden, rows)
    mask = fill_dropout_mask(torch.empty(2, SIZE, device=DEVICE), rows, 0.5, SEED)
    places = [(0, 0), (2, 2)]
    expected = torch.stack([torch.relu(frames[0, frame] + predictions[0, node]) for frame, node in places]) * mask
    assert torch.equal(hidden, expected)


@pytest.mark.parametrize(("activation", "dropout"), [("relu", 0.0), ("relu", 0.3), ("tanh", 0.3), ("sigmoid", 0.0)])
def test_gradients_are_added_up_over_nodes_and_frames(activation: str, dropout: float) -> None:
    """Of two slices that cut a frame in two, over rows with gaps."""
    from transformers_fastconformer.kernels.cuda.joint_hidden import HiddenRows

    frames, predictions = (tensor.requires_grad_() for tensor in make_inputs(torch.float64))
    generator = torch.Generator().manual_seed(2)
    is_row = (torch.rand(BATCH, FRAMES, NODES, generator=generator) < 0.6).to(DEVICE)
    rows, rows_before = pack_rows(is_row, int(is_row.sum()))
    upstream = torch.randn(len(rows), SIZE, generator=generator, dtype=torch.float64).to(DEVICE)
    hidden = getattr(torch, activation)(frames[:, :, None] + predictions[:, None]).flatten(0, 2)
    if dropout:
        hidden = hidden * make_mask(torch.float64, dropout)
    expected = torch.autograd.grad(hidden[rows], (frames, predictions), upstream)
    form = HiddenRows(frames.detach(), predictions.detach(), activation, dropout, SEED)
    found = torch.zeros_like(frames), torch.zeros_like(predictions)
    middle = int(rows_before[rows[8]])
    for first, end in ((0, middle), (middle, len(rows))):
        arguments = upstream[first:end].clone(), rows, rows_before, first, end
        form.add_to_frames(found[0], *arguments)
        form.add_to_predictions(found[1], *arguments)
    for ours, truth in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, truth, rtol=1e-13, atol=1e-13)
