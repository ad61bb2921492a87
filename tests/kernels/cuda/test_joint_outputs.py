"""Statistics and gradients of rows of outputs in Triton, next to torch's softmax in float64."""

from __future__ import annotations

import pytest
import torch
from triton_forms import DEVICE, IS_CUT_OFF, needs_triton

pytestmark = [needs_triton, pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")]

BATCH, FRAMES, NODES = 2, 4, 3
ROWS = torch.tensor([1, 2, 5, 12, 13, 23])


def make_case(num_tokens: int, num_durations: int, dtype: torch.dtype) -> tuple[object, torch.Tensor, torch.Tensor]:
    """The passes, outputs at the rows in a buffer of theirs, and the same with the bias in float64."""
    from transformers_fastconformer.kernels.cuda.joint_outputs import OutputRows

    generator = torch.Generator().manual_seed(num_tokens)
    bias = torch.randn(num_tokens + num_durations, generator=generator, dtype=torch.float64).to(DEVICE, dtype)
    label_ids = torch.randint(0, num_tokens - 1, (BATCH, NODES), generator=generator).to(DEVICE)
    passes = OutputRows(bias, label_ids, FRAMES, num_tokens - 1, num_durations)
    outputs = passes.new_buffer(len(ROWS))
    outputs.copy_(4.0 * torch.randn(*outputs.shape, generator=generator, dtype=torch.float64))
    return passes, outputs, outputs.double() + bias.double()


def labels_of(passes: object) -> torch.Tensor:
    clips, nodes = ROWS // (FRAMES * NODES), ROWS % NODES
    return passes.label_ids[clips.to(DEVICE), nodes.to(DEVICE)]  # type: ignore[attr-defined]


# Whole tiles, whole tiles with a rest, less than a tile; `classes` of a tile in place of 1024.
SIZES = [(8, 0, 8), (21, 3, 8), (5, 5, 8), (33, 9, 4)]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("num_tokens", "num_durations", "classes"), SIZES)
def test_statistics(
    num_tokens: int, num_durations: int, classes: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers_fastconformer.kernels.cuda import joint_outputs

    monkeypatch.setattr(joint_outputs, "MAX_CLASSES", classes)
    monkeypatch.setattr(joint_outputs, "TILE", 4 * classes)  # two programs
    passes, outputs, precise = make_case(num_tokens, num_durations, dtype)
    before = outputs.clone()
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    normalizers, blanks, labels = torch.full((3, BATCH, FRAMES, NODES), 7.0, dtype=wide, device=DEVICE)
    durations = torch.full((BATCH, FRAMES, NODES, num_durations), 7.0, dtype=wide, device=DEVICE)
    rows = ROWS.to(DEVICE)
    passes.write_statistics(outputs, rows, normalizers, blanks, labels, durations)
    log_probs = precise[:, :num_tokens].log_softmax(1)
    expected = (
        precise[:, :num_tokens].logsumexp(1),
        log_probs[:, -1],
        log_probs.gather(1, labels_of(passes)[:, None])[:, 0],
    )
    tolerance = {"rtol": 1e-13, "atol": 1e-13} if dtype == torch.float64 else {"rtol": 1e-6, "atol": 2e-6}
    for found, truth in zip((normalizers, blanks, labels), expected, strict=True):
        torch.testing.assert_close(found.flatten()[rows].double(), truth, **tolerance)
        assert (found == 7.0).sum() == found.numel() - len(ROWS)
    if num_durations:
        truth = precise[:, num_tokens:].log_softmax(1)
        torch.testing.assert_close(durations.flatten(0, 2)[rows].double(), truth, **tolerance)
    assert torch.equal(outputs, before)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("clamp", [0.0, 0.05])
@pytest.mark.parametrize(("num_tokens", "num_durations", "classes"), SIZES)
def test_gradients_in_place(
    num_tokens: int,
    num_durations: int,
    classes: int,
    clamp: float,
    dtype: torch.dtype,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from transformers_fastconformer.kernels.cuda import joint_outputs

    monkeypatch.setattr(joint_outputs, "MAX_CLASSES", classes)
    monkeypatch.setattr(joint_outputs, "TILE", 4 * classes)
    passes, outputs, precise = make_case(num_tokens, num_durations, dtype)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    generator = torch.Generator().manual_seed(0)
    shape = (BATCH, FRAMES, NODES)
    of_blanks, of_labels, of_durations = (
        torch.rand(*shape, *more, generator=generator, dtype=torch.float64).to(DEVICE, wide)
        for more in ((), (), (num_durations,))
    )
    rows, scales = ROWS.to(DEVICE), torch.tensor([2.0, -0.5], dtype=wide, device=DEVICE)
    normalizers = torch.zeros(shape, dtype=wide, device=DEVICE)
    normalizers.view(-1)[rows] = precise[:, :num_tokens].logsumexp(1).to(wide)
    passes.differentiate(
        *(outputs, rows, scales, normalizers, of_blanks, of_labels, of_durations if num_durations else None, clamp)
    )
    blank, label = of_blanks.flatten()[rows].double(), of_labels.flatten()[rows].double()
    expected = (blank + label)[:, None] * precise[:, :num_tokens].softmax(1)
    expected[:, -1] -= blank
    expected.scatter_add_(1, labels_of(passes)[:, None], -label[:, None])
    if clamp:
        expected = expected.clamp(-clamp, clamp)
    shares = (blank + label)[:, None] * precise[:, num_tokens:].softmax(1)
    expected = torch.cat([expected, shares - of_durations.flatten(0, 2)[rows].double()], dim=1)
    expected = expected * scales.double()[(ROWS // (FRAMES * NODES)).to(DEVICE), None]
    # bfloat16 keeps 8 bits.
    tolerance = 1e-13 if dtype == torch.float64 else 2.0**-7 if IS_CUT_OFF[dtype] else 2.0**-8
    torch.testing.assert_close(outputs.double(), expected, rtol=tolerance, atol=tolerance / 1000)


def test_values_that_are_not_numbers_are_seen() -> None:
    passes, outputs, _ = make_case(9, 0, torch.float32)
    outputs[2, 3] = torch.nan
    scores = torch.zeros(3, BATCH, FRAMES, NODES, device=DEVICE)
    passes.write_statistics(outputs, ROWS.to(DEVICE), *scores, torch.zeros(BATCH, FRAMES, NODES, 0, device=DEVICE))
    assert torch.isnan(scores[0]).sum() == 1
    assert torch.isnan(scores[0].flatten()[ROWS[2]])
