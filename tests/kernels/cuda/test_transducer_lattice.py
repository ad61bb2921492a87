"""Sums over alignments in Triton, next to the plain form in float64."""

from __future__ import annotations

import pytest
import torch
from joint_cases import DURATION_LISTS
from triton_forms import DEVICE, choose_triton, needs_triton

from transformers_fastconformer.losses import lattice

pytestmark = [needs_triton, pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")]

# One clip that fills the padded batch, one without labels, one without frames, one that is impossible for most
# durations, and one with neither.
FRAMES = [6, 4, 0, 1, 0]
TARGETS = [3, 0, 2, 2, 0]


def make_arcs(durations: list[int] | None, dtype: torch.dtype, scale: float = 1.0) -> tuple[torch.Tensor, ...]:
    """Blank arcs, label arcs and lengths; what lies in the padding is not a number."""
    generator = torch.Generator().manual_seed(4)
    blanks, labels = (1, 1) if durations is None else (sum(value > 0 for value in durations), len(durations))
    shape = (len(FRAMES), max(FRAMES), max(TARGETS) + 1)
    blank_arcs = -scale * torch.rand(*shape, blanks, generator=generator, dtype=torch.float64).to(dtype)
    label_arcs = -scale * torch.rand(*shape, labels, generator=generator, dtype=torch.float64).to(dtype)[:, :, :-1]
    for clip, (frames, targets) in enumerate(zip(FRAMES, TARGETS, strict=True)):
        blank_arcs[clip, frames:] = label_arcs[clip, frames:] = torch.nan
        blank_arcs[clip, :, targets + 1 :] = label_arcs[clip, :, targets:] = torch.nan
    return blank_arcs, label_arcs, torch.tensor(FRAMES), torch.tensor(TARGETS)


def both_forms(
    monkeypatch: pytest.MonkeyPatch,
    arcs: tuple[torch.Tensor, ...],
    durations: list[int] | None,
    posteriors: bool = True,
) -> list[lattice.AlignmentSums]:
    """The sums of the plain form and those of the kernels."""
    values = [1] if durations is None else durations
    kinds = tuple(value for value in values if value > 0), (0,) if durations is None else tuple(values)
    sums = []
    for is_chosen in (False, True):
        choose_triton(monkeypatch, is_chosen)
        sums.append(lattice.sum_alignments(*(tensor.to(DEVICE) for tensor in arcs), *kinds, posteriors))
    return sums


@pytest.mark.parametrize("durations", DURATION_LISTS, ids=str)
def test_equals_the_plain_form(durations: list[int] | None, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, found = both_forms(monkeypatch, make_arcs(durations, torch.float64), durations)
    assert torch.isfinite(plain.log_likelihood).sum() >= 2
    for ours, expected in zip(found, plain, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-13, atol=1e-13)
        assert not torch.isnan(ours).any()


def test_without_posteriors(monkeypatch: pytest.MonkeyPatch) -> None:
    plain, found = both_forms(monkeypatch, make_arcs([0, 1, 2], torch.float64), [0, 1, 2], posteriors=False)
    torch.testing.assert_close(found.log_likelihood, plain.log_likelihood, rtol=1e-13, atol=0)
    assert found.blank_posteriors is None


def test_diagonals_in_several_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers_fastconformer.kernels.cuda import transducer_lattice

    monkeypatch.setattr(transducer_lattice, "TILE", 8)
    monkeypatch.setattr(transducer_lattice, "POSTERIOR_TILE", 64)
    plain, found = both_forms(monkeypatch, make_arcs([0, 2], torch.float64), [0, 2])
    for ours, expected in zip(found, plain, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-13, atol=1e-13)


def test_float32_sums_are_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    """Log-likelihoods of thousands leave the posteriors all their digits."""
    arcs = make_arcs([0, 1, 3], torch.float32, scale=2000.0)
    plain, found = both_forms(monkeypatch, arcs, [0, 1, 3])
    assert found.log_likelihood.dtype == torch.float32
    assert found.log_likelihood[0] < -1000
    for ours, expected in zip(found, plain, strict=True):
        torch.testing.assert_close(ours, expected, rtol=2e-7, atol=1e-12)


def test_an_empty_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    plain, found = both_forms(monkeypatch, tuple(each[:0] for each in make_arcs(None, torch.float32)), None)
    assert [each.shape for each in found] == [each.shape for each in plain]
