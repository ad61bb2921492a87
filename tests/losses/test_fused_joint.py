"""Losses from the inputs of the joint network: against enumeration, the full form, finite differences and NeMo."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from joint_cases import (
    BLANK,
    DURATION_LISTS,
    FRAMES,
    SIZE,
    TARGETS,
    TOKENS,
    Tensors,
    assert_near,
    full,
    fused,
    gradients,
    join,
    make_inputs,
    make_real_size,
)
from tolerances import GRADIENT_ABSOLUTE, GRADIENT_RELATIVE, LOSS_ABSOLUTE, LOSS_RELATIVE
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transducer_losses import loss_by_enumeration

from transformers_fastconformer.losses import (
    JointForm,
    JointNetwork,
    fused_rnnt_loss,
    fused_tdt_loss,
    joint_slices,
    rnnt_loss,
    tdt_loss,
)
from transformers_fastconformer.losses.joint_dropout import fill_dropout_mask


@pytest.fixture(params=[None, 1, 5, 12], ids="rows {}".format)
def rows(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Slices of so many rows, in place of one slice for a clip."""
    if request.param is not None:
        monkeypatch.setitem(joint_slices.SLICE_BYTES, "cpu", 0)
        monkeypatch.setattr(joint_slices, "MIN_ROWS", request.param)


@pytest.mark.parametrize("durations", DURATION_LISTS, ids=str)
def test_equals_enumeration(durations: list[int] | None) -> None:
    """Value and gradient of each clip, from a sum over all its alignments one by one."""
    tensors, targets = make_inputs(durations, shape=(1, 5, 3))
    options = {} if durations is None else {"sigma": 0.05}
    num_possible = 0
    for frames, labels in ((5, 3), (4, 2), (5, 0), (1, 0), (4, 0), (2, 1)):
        lengths = torch.tensor([frames]), torch.tensor([labels])
        loss = fused(tensors, targets, durations, *lengths, **options)[0]
        logits = join(tensors)[0, :frames, : labels + 1]
        try:
            truth = loss_by_enumeration(logits, targets[0, :labels].tolist(), BLANK, durations, **options)
        except RuntimeError:  # nothing to stack
            assert torch.isposinf(loss)
            continue
        num_possible += 1
        torch.testing.assert_close(loss, truth, rtol=1e-12, atol=1e-12)
        assert_near(torch.autograd.grad(loss, tensors), torch.autograd.grad(truth, tensors), 1e-12)
    assert num_possible >= 3


@pytest.mark.usefixtures("rows")
@pytest.mark.parametrize("durations", DURATION_LISTS, ids=str)
def test_equals_the_full_form(durations: list[int] | None) -> None:
    tensors, targets = make_inputs(durations)
    options = {"fastemit_lambda": 0.2} | ({} if durations is None else {"sigma": 0.05})
    found, expected = fused(tensors, targets, durations, **options), full(join(tensors), targets, durations, **options)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    assert torch.isfinite(found).sum() >= 2
    assert_near(gradients(found, tensors), gradients(expected, tensors), 1e-12)


@pytest.mark.parametrize("activation", ["relu", "tanh", "sigmoid"])
def test_activations(activation: str) -> None:
    durations = [0, 1, 2]
    tensors, targets = make_inputs(durations)
    found = fused(tensors, targets, durations, form=JointForm(activation))
    expected = full(join(tensors, activation), targets, durations)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    assert_near(gradients(found, tensors), gradients(expected, tensors), 1e-12)


@pytest.mark.parametrize("durations", [None, [0, 1, 3]], ids=str)
def test_gradient_equals_finite_differences(durations: list[int] | None) -> None:
    tensors, targets = make_inputs(durations, shape=(1, 5, 2))
    lengths = torch.tensor([5]), torch.tensor([2])

    def loss(*inputs: torch.Tensor) -> torch.Tensor:
        return fused(inputs, targets, durations, *lengths, form=JointForm("tanh"))

    assert torch.autograd.gradcheck(loss, tensors)


@pytest.mark.parametrize("reduction", ["mean_batch", "mean", "mean_volume", "sum", "none"])
def test_reductions(reduction: str) -> None:
    durations = [0, 1, 2]
    tensors, targets = make_inputs(durations)
    keep = slice(0, 4)
    tensors = (tensors[0][keep], tensors[1][keep], *tensors[2:])
    arguments = targets[keep], durations, FRAMES[keep], TARGETS[keep]
    found = fused(tensors, *arguments, reduction=reduction)
    torch.testing.assert_close(found, full(join(tensors), *arguments, reduction=reduction), rtol=1e-12, atol=1e-12)


def test_padding_gets_no_gradient_and_is_not_read() -> None:
    tensors, targets = make_inputs(None)
    with torch.no_grad():
        for clip in range(6):
            tensors[0][clip, FRAMES[clip] :] = torch.nan
            tensors[1][clip, TARGETS[clip] + 1 :] = torch.nan
    losses = fused(tensors, targets, None)
    found = gradients(losses, tensors)
    assert torch.isfinite(losses[:5]).all()
    assert all(torch.isfinite(gradient).all() for gradient in found)
    for clip in range(6):
        assert found[0][clip, FRAMES[clip] :].abs().sum() == 0
        assert found[1][clip, TARGETS[clip] + 1 :].abs().sum() == 0


@pytest.mark.parametrize("reduction", ["none", "mean_batch"])
def test_impossible_clips_are_infinite_with_zero_gradient(reduction: str) -> None:
    durations = [0, 2, 4]
    tensors, targets = make_inputs(durations)
    loss = fused(tensors, targets, durations, reduction=reduction)
    assert torch.isposinf(loss).sum() == (
        4 if reduction == "none" else 1
    )  # odd numbers of frames, or none for a label
    found = torch.autograd.grad(loss.sum(), tensors)
    assert all(torch.isfinite(gradient).all() for gradient in found)
    assert found[0][[0, 1, 3, 5]].abs().sum() == 0
    assert found[0][2].abs().max() > 0


def test_an_empty_batch_and_clips_without_frames() -> None:
    tensors, targets = make_inputs(None)
    none = torch.zeros(0, dtype=torch.int64)
    assert fused((tensors[0][:0], tensors[1][:0], *tensors[2:]), targets[:0], None, none, none).shape == (0,)
    losses = fused((tensors[0][:, :0], *tensors[1:]), targets, None, torch.zeros_like(FRAMES))
    assert losses.tolist() == [torch.inf, 0.0, torch.inf, torch.inf, 0.0, torch.inf]


def test_omega_draws_between_tdt_and_rnnt() -> None:
    durations = [0, 1, 2]
    tensors, targets = make_inputs(durations)
    plain = fused((*tensors[:2], tensors[2][:TOKENS], tensors[3][:TOKENS]), targets, None)
    both = [fused(tensors, targets, durations, sigma=0.1, omega=omega) for omega in (0.0, 1.0)]
    assert torch.equal(both[1], plain)
    assert not torch.allclose(both[0][:4], plain[:4])
    found = gradients(both[1], tensors)
    assert found[3][TOKENS:].abs().sum() == 0
    assert found[3][:TOKENS].abs().sum() > 0
    draws = torch.Generator().manual_seed(0)
    losses = [fused(tensors, targets, durations, sigma=0.1, omega=0.3, generator=draws)[0] for _ in range(60)]
    assert 8 <= sum(bool(loss == plain[0]) for loss in losses) <= 30


@pytest.mark.parametrize("durations", [None, [0, 1, 2]], ids=str)
def test_clamp_limits_the_gradient_of_each_token_output(durations: list[int] | None) -> None:
    tensors, targets = make_inputs(durations)
    logits = join(tensors)
    losses = full(logits, targets, durations)
    (unlimited,) = torch.autograd.grad(losses[torch.isfinite(losses)].sum(), logits, retain_graph=True)
    limited = torch.cat([unlimited[..., :TOKENS].clamp(-0.1, 0.1), unlimited[..., TOKENS:]], dim=-1)
    assert not torch.equal(limited, unlimited)
    expected = torch.autograd.grad(logits, tensors, limited * 0.5)
    found = fused(tensors, targets, durations, clamp=0.1)
    found = torch.autograd.grad(0.5 * found[torch.isfinite(found)].sum(), tensors)
    assert_near(found, expected, 1e-12)


@pytest.mark.usefixtures("rows")
@pytest.mark.parametrize("activation", ["relu", "tanh", "sigmoid"])
def test_dropout_is_the_same_in_the_backward_pass(activation: str) -> None:
    durations = [0, 1, 2]
    tensors, targets = make_inputs(durations)
    mask = torch.empty(6 * 9 * 5, SIZE, dtype=torch.float64)
    fill_dropout_mask(mask, torch.arange(len(mask)), 0.4, 3)
    expected = full(join(tensors, activation, mask.view(6, 9, 5, SIZE)), targets, durations)
    found = fused(tensors, targets, durations, form=JointForm(activation, 0.4, 3))
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    assert_near(gradients(found, tensors), gradients(expected, tensors), 1e-12)


def test_dropout_is_drawn_anew_from_the_default_generator() -> None:
    tensors, targets = make_inputs(None)
    losses = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        losses.append(float(fused(tensors, targets, None, form=JointForm(dropout=0.4))[0].detach()))
    assert losses[0] == losses[1] != losses[2]


@pytest.mark.parametrize("wanted", [0, 1, 2, 3])
def test_only_the_gradients_that_are_wanted(wanted: int) -> None:
    durations = [0, 1, 2]
    tensors, targets = make_inputs(durations)
    expected = gradients(fused(tensors, targets, durations), tensors)
    some = tuple(tensor.detach().requires_grad_(place == wanted) for place, tensor in enumerate(tensors))
    found = gradients(fused(some, targets, durations), (some[wanted],))
    assert_near(found, (expected[wanted],), 1e-12)
    with torch.no_grad():
        assert not fused(tensors, targets, durations).requires_grad


def test_backward_may_be_repeated_and_has_no_second_order() -> None:
    tensors, targets = make_inputs(None)
    loss = fused(tensors, targets, None)[0]
    first = torch.autograd.grad(loss, tensors, retain_graph=True)
    second = torch.autograd.grad(loss, tensors, create_graph=True)
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))
    with pytest.raises(RuntimeError, match="does not require grad"):
        second[0].sum().backward()


def losses_at_real_size(
    tensors: Tensors, targets: torch.Tensor, frames: torch.Tensor, labels: torch.Tensor, durations: list[int] | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Ours, and those of the full form."""
    network, logits = JointNetwork(*tensors), join(tensors)
    if durations is None:
        return (
            fused_rnnt_loss(network, targets, frames, labels, 127, "none"),
            rnnt_loss(logits, targets, frames, labels, 127, "none"),
        )
    return (
        fused_tdt_loss(network, targets, frames, labels, 127, durations, 0.02, reduction="none"),
        tdt_loss(logits, targets, frames, labels, 127, durations, 0.02, reduction="none"),
    )


@pytest.mark.parametrize("sharpness", [0.1, pytest.param(1.0, marks=pytest.mark.slow), 8.0])
@pytest.mark.parametrize("durations", [None, [0, 1, 2, 3, 4]], ids=str)
def test_float32_agrees_with_float64(durations: list[int] | None, sharpness: float) -> None:
    """Nodes that the backward pass leaves out change no more than rounding does, from flat to sharp outputs."""
    arguments = make_real_size(torch.float64, durations, sharpness)
    exact = losses_at_real_size(*arguments, durations)[1]
    single = make_real_size(torch.float32, durations, sharpness)
    found, of_full_form = losses_at_real_size(*single, durations)
    torch.testing.assert_close(found.double(), exact, rtol=2e-6, atol=0)
    truth = gradients(exact, arguments[0])
    ours, theirs = gradients(found, single[0]), gradients(of_full_form, single[0])
    for gradient, other, expected in zip(ours, theirs, truth, strict=True):
        bound = max(2 * float((other - expected).abs().max()), 1e-6 * float(expected.abs().max()))
        assert float((gradient - expected).abs().max()) <= bound


@pytest.mark.parametrize(
    ("dtype", "is_autocast"),
    [
        (torch.bfloat16, True),
        (torch.float16, False),
        pytest.param(torch.bfloat16, False, marks=pytest.mark.slow),
        pytest.param(torch.float16, True, marks=pytest.mark.slow),
    ],
)
def test_sixteen_bits(dtype: torch.dtype, is_autocast: bool) -> None:
    """The joint network is rounded as its module rounds it, all else is float32: the error is the full form's."""
    durations = [0, 1, 2, 3, 4]
    arguments = make_real_size(torch.float64, durations)
    exact = losses_at_real_size(*arguments, durations)[1]
    truth = gradients(exact, arguments[0])
    rounded = make_real_size(torch.float32 if is_autocast else dtype, durations)
    if is_autocast:  # the layers before give frames and predictions in 16 bits
        inputs = (*(tensor.detach().to(dtype).requires_grad_() for tensor in rounded[0][:2]), *rounded[0][2:])
        rounded = (inputs, *rounded[1:])
    with torch.autocast("cpu", dtype, enabled=is_autocast):
        found, of_full_form = losses_at_real_size(*rounded, durations)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, of_full_form, rtol=1e-3, atol=0)
    ours, theirs = gradients(found, rounded[0]), gradients(of_full_form, rounded[0])
    for gradient, other, expected in zip(ours, theirs, truth, strict=True):
        assert gradient.dtype == other.dtype
        assert (gradient - expected).abs().mean() <= 1.2 * (other - expected).abs().mean()


class LargestTensor(TorchDispatchMode):
    """Notes how large the largest tensor is that any operation returns."""

    def __init__(self) -> None:
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.numel = max([self.numel, *(leaf.numel() for leaf in tree_leaves(result) if torch.is_tensor(leaf))])
        return result


@pytest.mark.parametrize("durations", [None, [0, 1, 2, 3, 4]], ids=str)
def test_the_joint_is_never_held_whole(durations: list[int] | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(joint_slices.SLICE_BYTES, "cpu", 0)
    tensors, targets, frames, labels = make_real_size(torch.float32, durations)
    network = JointNetwork(*tensors)
    with LargestTensor() as largest:
        if durations is None:
            loss = fused_rnnt_loss(network, targets, frames, labels, 127)
        else:
            loss = fused_tdt_loss(network, targets, frames, labels, 127, durations)
        loss.backward()
    nodes = 3 * 121 * 31
    # 256 rows of a slice, or the arcs of the lattice forwards and backwards, in both skewed to anti-diagonals.
    arcs = 2 if durations is None else 9
    assert largest.numel <= max(256 * network.num_outputs, 2 * (arcs + 1) * 3 * 31 * (121 + 31))
    assert 5 * largest.numel < nodes * network.num_outputs


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"predictions": (6, 4, SIZE)}, "do not fit; expected"),
        ({"frames": (6, 9, SIZE + 1)}, "do not fit; expected"),
        ({"frames": (6, SIZE)}, "do not fit; expected"),
        ({"bias": (TOKENS + 1,)}, "do not fit; expected"),
        ({"reduction": "median"}, "reduction='median'"),
        ({"frames_of_clips": torch.tensor([10, 5, 8, 1, 0, 0])}, r"encoder_lengths=\[10.*expected values from 0 to 9"),
        ({"blank_id": TOKENS}, "blank_id=6 is outside the 6 tokens of frames"),
        ({"targets": torch.full((6, 4), BLANK)}, "targets holds"),
        ({"clamp": -1.0}, "clamp=-1.0 is not supported; expected a number of 0 or more"),
    ],
)
def test_refuses_what_does_not_fit(change: dict[str, Any], message: str) -> None:
    tensors, targets = make_inputs(None)
    parts = dict(zip(("frames", "predictions", "weight", "bias"), tensors, strict=True))
    for name in parts.keys() & change.keys():
        parts[name] = torch.zeros(change[name])
    with pytest.raises(ValueError, match=message):
        fused_rnnt_loss(
            JointNetwork(**parts),
            change.get("targets", targets),
            change.get("frames_of_clips", FRAMES),
            TARGETS,
            change.get("blank_id", BLANK),
            change.get("reduction", "none"),
            clamp=change.get("clamp", 0.0),
        )


@pytest.mark.gpu
@pytest.mark.parametrize("durations", [None, [0, 1, 2, 3, 4]], ids=str)
def test_same_on_cuda(durations: list[int] | None) -> None:
    tensors, targets = make_inputs(durations)
    form = JointForm(dropout=0.3, dropout_seed=5)
    expected = fused(tensors, targets, durations, form=form)
    on_cuda = tuple(tensor.detach().cuda().requires_grad_() for tensor in tensors)
    found = fused(on_cuda, targets.cuda(), durations, FRAMES.cuda(), TARGETS.cuda(), form=form)
    torch.testing.assert_close(found.cpu(), expected)
    ours = torch.autograd.grad(found[:3].sum(), on_cuda)
    assert_near(tuple(each.cpu() for each in ours), torch.autograd.grad(expected[:3].sum(), tensors), 1e-9)


@pytest.mark.nemo
@pytest.mark.parametrize("durations", [[0, 1, 2, 3, 4], [0, 2, 4, 8]], ids=str)
@pytest.mark.parametrize("sigma", [0.0, 0.05])
def test_tdt_equals_nemo(durations: list[int], sigma: float, monkeypatch: pytest.MonkeyPatch) -> None:
    losses_module = pytest.importorskip("nemo.collections.asr.losses.rnnt_pytorch")
    # NeMo 3.0 moves its scratch tensors to CUDA without asking.
    monkeypatch.setattr(torch.Tensor, "cuda", lambda self, *args, **kwargs: self)
    tensors, targets = make_inputs(durations, torch.float32)
    tensors = (tensors[0][:4], tensors[1][:4], *tensors[2:])
    # NeMo reports 1000 where there is no alignment: lengths that have one.
    lengths = torch.tensor([8, 4, 6, 2]), TARGETS[:4]
    targets = targets[:4].clamp(min=0)
    found = fused(tensors, targets, durations, *lengths, sigma=sigma, reduction="mean_batch")
    nemo_loss = losses_module.TDTLossPytorch(blank=BLANK, durations=durations, reduction="mean_batch", sigma=sigma)
    expected = nemo_loss(acts=join(tensors)[:, :8], labels=targets, act_lens=lengths[0], label_lens=lengths[1])
    torch.testing.assert_close(found, expected, rtol=LOSS_RELATIVE, atol=LOSS_ABSOLUTE)
    for ours, truth in zip(torch.autograd.grad(found, tensors), torch.autograd.grad(expected, tensors), strict=True):
        torch.testing.assert_close(ours, truth, rtol=GRADIENT_RELATIVE, atol=GRADIENT_ABSOLUTE)


@pytest.mark.nemo
@pytest.mark.parametrize("reduction", ["mean_batch", "mean", "mean_volume", "sum"])
def test_rnnt_equals_nemo_at_a_real_size(reduction: str) -> None:
    losses_module = pytest.importorskip("nemo.collections.asr.losses.rnnt_pytorch")
    tensors, targets, *lengths = make_real_size(torch.float32, None)
    found = fused_rnnt_loss(JointNetwork(*tensors), targets, *lengths, 127, reduction)
    nemo_loss = losses_module.RNNTLossPytorch(blank=127, reduction="none" if reduction == "mean" else reduction)
    expected = nemo_loss(acts=join(tensors), labels=targets, act_lens=lengths[0], label_lens=lengths[1])
    if reduction == "mean":  # which this one of NeMo's lacks; `RNNTLoss.reduce` takes it for granted
        expected = (expected / lengths[1]).mean()
    torch.testing.assert_close(found, expected, rtol=LOSS_RELATIVE, atol=LOSS_ABSOLUTE)
    # Over many nodes rounding adds up, in NeMo's too: a share of the largest.
    assert_near(torch.autograd.grad(found, tensors), torch.autograd.grad(expected, tensors), GRADIENT_RELATIVE)


@pytest.mark.nemo
@pytest.mark.parametrize("options", [{"fastemit_lambda": 0.3}, {"clamp": 0.05}], ids=str)
def test_fastemit_and_clamp_equal_nemo(options: dict[str, float]) -> None:
    losses_module = pytest.importorskip("nemo.collections.asr.parts.numba.rnnt_loss.rnnt_pytorch")
    tensors, targets = make_inputs(None, torch.float32)
    tensors = (tensors[0][:1], tensors[1][:1], *tensors[2:])
    lengths = FRAMES[:1], TARGETS[:1]
    # With the sum of one clip NeMo's clamp after the reduction, which is its way on a CPU, is that before it.
    found = fused(tensors, targets[:1], None, *lengths, reduction="sum", **options)
    expected = losses_module.RNNTLossNumba(blank=BLANK, reduction="sum", **options)(
        join(tensors), targets[:1], *lengths
    )
    torch.testing.assert_close(found, expected.sum(), rtol=LOSS_RELATIVE, atol=LOSS_ABSOLUTE)
    for ours, truth in zip(
        torch.autograd.grad(found, tensors), torch.autograd.grad(expected.sum(), tensors), strict=True
    ):
        torch.testing.assert_close(ours, truth, rtol=GRADIENT_RELATIVE, atol=GRADIENT_ABSOLUTE)


@pytest.mark.parametrize("durations", [None, [0, 1, 2]])
def test_a_loss_that_is_no_number_has_no_gradient_that_looks_like_one(durations: list[int] | None) -> None:
    tensors, targets = make_inputs(durations)
    with torch.no_grad():
        tensors[0][2, 1] = torch.nan
    losses = fused(tensors, targets, durations)
    assert losses.isnan().tolist() == [False, False, True, False, False, False]
    found = torch.autograd.grad(losses[[0, 2]].sum(), tensors)
    assert all(gradient.isnan().any() for gradient in found)
    assert torch.isfinite(found[0][0]).all()
