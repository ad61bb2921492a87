"""The encoder against loops, its invariances and edges, training and precision."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from attention_cases import LOCAL
from attention_cases import build_encoder as build_small_encoder
from encoder_loop import encode_clip
from models import HEADS, KINDS, build_model, few_of, make_features
from safetensors.torch import load_file, save_file
from torch import nn

from transformers_fastconformer import FastConformerEncoder

STATE_DICT_NAMES = Path(__file__).resolve().parents[1] / "fixtures" / "state_dict_names.json"


def assert_near(ours: torch.Tensor, truth: torch.Tensor, share: float = 5e-6) -> None:
    """Largest difference at most `share` of the largest magnitude of the truth."""
    assert ours.shape == truth.shape
    assert torch.isfinite(ours).all()
    if truth.numel():
        assert float((ours - truth).abs().max()) <= share * float(truth.abs().max())


# The encoder against loops over single numbers

ENCODERS: dict[str, dict[str, Any]] = {
    "default": {},
    "without biases": {"attention_bias": False, "convolution_bias": False},
    "without scale": {"scale_input": False},
    "x2": {"subsampling_factor": 2},
    "x16": {"subsampling_factor": 16},
    "striding x4": {"subsampling_type": "striding", "subsampling_factor": 4},
    "causal front": {"causal_downsampling": True},
    "stacking": {"subsampling_type": "stacking", "subsampling_factor": 4},
    "stacking_norm": {"subsampling_type": "stacking_norm", "subsampling_factor": 4},
    "no subsampling": {"subsampling_type": "none", "subsampling_factor": 1},
    "layer_norm": {"conv_norm_type": "layer_norm"},
    "fused_batch_norm": {"conv_norm_type": "fused_batch_norm"},
    "band": {"attention_context": [2, 1]},
    "band to the left": {"attention_context": [3, 0]},
    "unlimited to the right": {"attention_context": [1, -1]},
    "chunks": {"attention_context": [4, 1], "attention_context_style": "chunked_limited"},
    "chunks, unlimited left": {"attention_context": [-1, 1], "attention_context_style": "chunked_limited"},
    "chunks with right context": {
        "attention_context": [2, 2, 1],
        "attention_context_style": "chunked_limited_with_rc",
    },
    "absolute positions": {"position_embedding_type": "abs_pos"},
    "causal convolution": {"conv_context": [4, 0]},
    "uneven convolution": {"conv_context": [1, 3]},
    "pooling": {"reduction_type": "pooling", "reduction_factor": 2, "reduction_position": 0},
    "striding reduction": {"reduction_type": "striding", "reduction_factor": 2, "reduction_position": 0},
    "reduction at the end": {"reduction_type": "pooling", "reduction_factor": 2, "reduction_position": -1},
    "output projection": {"encoder_output_size": 10},
    "tied position biases": {"tie_position_biases": True},
    "one head, odd width": {"hidden_size": 15, "num_attention_heads": 1},
    "no blocks": {"num_hidden_layers": 0},
    "instance_norm": {"conv_norm_type": "instance_norm"},
    "group_norm": {"conv_norm_type": "group_norm", "conv_norm_groups": 4},
    "local attention": {"position_embedding_type": "rel_pos_local_attn", "attention_context": [2, 2]},
}


def encode_by_loop(model: FastConformerEncoder, clip: torch.Tensor) -> list[torch.Tensor]:
    weights = {name: tensor.numpy().astype(np.float64) for name, tensor in model.state_dict().items()}
    return [torch.from_numpy(stage) for stage in encode_clip(weights, model.config, clip.numpy())]


@pytest.mark.parametrize("name", ENCODERS)
def test_a_padded_batch_equals_the_loop_over_single_clips(name):
    model = build_model("encoder", **ENCODERS[name])
    lengths = [75, 41, 16]
    features = make_features(lengths, padded_frames=83)
    truths = [encode_by_loop(model, features[clip, :length]) for clip, length in enumerate(lengths)]
    model.double()
    for implementation in ("eager", "sdpa"):
        model.set_attn_implementation(implementation)
        with torch.no_grad():
            output = model(features, input_lengths=torch.tensor(lengths), output_hidden_states=True)
        assert output.encoder_lengths.tolist() == [len(truth[-1]) for truth in truths]
        for clip, truth in enumerate(truths):
            for ours, stage in zip((*output.hidden_states, output.last_hidden_state), truth, strict=True):
                # Positions are float32, hence no closer in float64.
                assert_near(ours[clip, : len(stage)], stage, 1e-5)


# Invariance

LENGTHS = [120, 64, 33, 9, 1, 77]


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@pytest.mark.parametrize(
    "name",
    [
        "default",
        "stacking",
        "causal front",
        "layer_norm",
        "instance_norm",
        "group_norm",
        "chunks",
        "absolute positions",
        "local attention",
        "pooling",
        "striding reduction",
    ],
)
def test_neighbours_order_and_padding_change_nothing(name, implementation):
    model = build_model("encoder", **ENCODERS[name])
    model.set_attn_implementation(implementation)

    @torch.no_grad()
    def encode(lengths: list[int], padded_frames: int | None = None) -> list[torch.Tensor]:
        features = make_features(lengths, padded_frames=padded_frames)
        output = model(features, input_lengths=torch.tensor(lengths))
        return [
            frames[: int(count)]
            for frames, count in zip(output.last_hidden_state, output.encoder_lengths, strict=True)
        ]

    alone = [encode([length])[0] for length in LENGTHS]
    order = [3, 5, 0, 4, 2, 1]
    batches = {
        "together": encode(LENGTHS),
        "with padding": encode(LENGTHS, padded_frames=201),
        "alone with padding": [encode([length], padded_frames=150)[0] for length in LENGTHS],
    }
    shuffled = encode([LENGTHS[clip] for clip in order])
    batches["in another order"] = [shuffled[order.index(clip)] for clip in range(len(LENGTHS))]
    for batch in batches.values():
        for ours, truth in zip(batch, alone, strict=True):
            assert_near(ours, truth)


def test_a_clip_alone_needs_no_lengths():
    model, features = build_model("encoder"), make_features([70])
    with torch.no_grad():
        without, given = model(features), model(features, input_lengths=torch.tensor([70]))
    assert without.encoder_lengths.tolist() == given.encoder_lengths.tolist() == [9]
    assert_near(without.last_hidden_state, given.last_hidden_state)


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_short_and_empty_clips_are_finite(implementation):
    model = build_model("encoder")
    model.set_attn_implementation(implementation)
    lengths = [0, 1, 2, 7, 8, 9, 40]
    features = make_features(lengths)
    output = model(features, input_lengths=torch.tensor(lengths))
    assert output.encoder_lengths.tolist() == [0, 1, 1, 1, 1, 2, 5]
    assert torch.isfinite(output.last_hidden_state).all()
    output.last_hidden_state.square().mean().backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters())
    for num_frames in (1, 2, 3, 8):
        output = model(features[-1:, :num_frames], input_lengths=torch.tensor([0]))
        assert output.encoder_lengths.tolist() == [0]
        assert torch.isfinite(output.last_hidden_state).all()


def test_there_is_no_longest_input():
    """12000 mel frames are 1500 encoder frames, three blocks of queries."""
    model = build_model("encoder", num_hidden_layers=1)
    lengths = torch.tensor([12000, 9000])
    features = make_features(lengths.tolist())
    with torch.no_grad():
        ours = model(features, input_lengths=lengths)
        model.set_attn_implementation("eager")
        truth = model(features, input_lengths=lengths)
    assert ours.encoder_lengths.tolist() == [1500, 1125]
    assert_near(ours.last_hidden_state[0], truth.last_hidden_state[0], 5e-6)
    assert_near(ours.last_hidden_state[1, :1125], truth.last_hidden_state[1, :1125], 5e-6)


def test_eight_threads_share_a_model():
    models = [build_model(kind) for kind in ("ctc", "tdt")]
    lengths = [[40 + 7 * clip, 90 - 5 * clip] for clip in range(8)]

    @torch.no_grad()
    def work(pair: list[int]) -> list[torch.Tensor]:
        features, counts = make_features(pair), torch.tensor(pair)
        results = []
        for model in models:
            results.append(model(features, input_lengths=counts)[0])
            if hasattr(model, "generate"):
                results.append(model.generate(features, input_lengths=counts))
        return results

    truths = [work(pair) for pair in lengths]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(2):
            for ours, truth in zip(pool.map(work, lengths), truths, strict=True):
                assert all(torch.equal(one, other) for one, other in zip(ours, truth, strict=True))


# Masks and lengths


def test_masks_and_lengths_of_every_form_say_the_same():
    model, lengths = build_model("encoder"), torch.tensor([70, 33, 0])
    features = make_features(lengths.tolist())
    mask = torch.arange(70) < lengths[:, None]
    with torch.no_grad():
        truth = model(features, input_lengths=lengths)
        for arguments in (
            {"attention_mask": mask},
            {"attention_mask": mask.long()},
            {"attention_mask": mask.float()},
            {"input_lengths": lengths.int()},
            {"attention_mask": mask, "input_lengths": lengths},
        ):
            output = model(features, **arguments)
            assert torch.equal(output.last_hidden_state, truth.last_hidden_state)
            assert torch.equal(output.encoder_lengths, truth.encoder_lengths)
            assert output.encoder_lengths.dtype == torch.int64


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"attention_mask": torch.tensor([[1, 1, 0]]), "input_lengths": torch.tensor([3])}, "disagree"),
        ({"attention_mask": torch.tensor([[0, 1, 1]])}, "padding on the left or gaps. .* moved to the front clip by"),
        ({"output_hidden_states": [0, -1]}, r"output_hidden_states=\[0, -1\] is not supported; expected a bool"),
        ({"output_attentions": 1}, "output_attentions=1 is not supported; expected a bool"),
        ({"attention_mask": torch.tensor([[1, 0, 1]])}, "padding on the left or gaps"),
        ({"attention_mask": torch.tensor([[1, 1]])}, r"attention_mask has shape \(1, 2\); expected \(1, 3\)"),
        ({"attention_mask": torch.ones(1, 3, 8)}, "attention_mask has shape"),
        ({"input_lengths": torch.tensor([4])}, r"input_lengths=\[4\] must lie between 0 and 3"),
        ({"input_lengths": torch.tensor([-1])}, r"input_lengths=\[-1\]"),
        ({"input_lengths": torch.tensor([3, 3])}, r"input_lengths has shape \(2,\); expected \(1,\)"),
    ],
)
@pytest.mark.parametrize("kind", ["encoder", "ctc", "tdt"])
def test_contradictions_are_refused(kind, arguments, message):
    with pytest.raises(ValueError, match=message):
        build_model(kind)(torch.randn(1, 3, 8), **arguments)


@pytest.mark.parametrize(
    ("shape", "message"),
    [((1, 3, 9), r"expected \(batch, mel frames, 8\)"), ((3, 8), "input_features has shape"), ((2, 0, 8), "0 mel")],
)
def test_features_of_another_shape_are_refused(shape, message):
    with pytest.raises(ValueError, match=message):
        build_model("encoder")(torch.zeros(shape))


def test_an_empty_batch_is_empty():
    output = build_model("encoder")(torch.zeros(0, 20, 8))
    assert output.last_hidden_state.shape == (0, 3, 16)
    assert output.encoder_lengths.shape == (0,)


# Outputs


@pytest.mark.parametrize("kind", few_of(KINDS))
def test_hidden_states_and_attentions(kind):
    model, lengths = build_model(kind), torch.tensor([70, 33])
    features = make_features(lengths.tolist())
    with torch.no_grad():
        output = model(features, input_lengths=lengths, output_hidden_states=True, output_attentions=True)
        plain = model(features, input_lengths=lengths)
    assert len(output.hidden_states) == 3
    assert all(states.shape == (2, 9, 16) for states in output.hidden_states)
    assert len(output.attentions) == 2
    for probabilities in output.attentions:
        assert probabilities.shape == (2, 2, 9, 9)
        assert_near(probabilities.sum(dim=-1), torch.ones(2, 2, 9))
        assert probabilities[1, :, :, 5:].abs().max() == 0  # keys in the padding
    assert plain.hidden_states is None
    assert plain.attentions is None
    if "last_hidden_state" in output:
        assert torch.equal(output.last_hidden_state, output.hidden_states[-1])
        assert_near(plain.last_hidden_state[0], output.last_hidden_state[0])


@pytest.mark.parametrize("kind", few_of(KINDS))
def test_tuples_hold_what_the_dictionary_holds(kind):
    model, features = build_model(kind), make_features([40])
    arguments: dict[str, Any] = {"output_hidden_states": True}
    if kind in HEADS:
        arguments["labels"] = torch.tensor([[1, 2]])
    with torch.no_grad():
        named = model(features, **arguments)
        unnamed = model(features, return_dict=False, **arguments)
        model.config.return_dict = False
        by_config = model(features, **arguments)
    assert isinstance(unnamed, tuple)
    assert isinstance(by_config, tuple)
    assert len(named.to_tuple()) == len(unnamed) == len(by_config)
    for one, other in zip(named.to_tuple(), unnamed, strict=True):
        if torch.is_tensor(one):
            assert torch.equal(one, other)


def test_the_configuration_can_ask_for_hidden_states_and_attentions():
    model = build_model("model", output_hidden_states=True, attn_implementation="eager", output_attentions=True)
    output = model(make_features([20]))
    assert len(output.hidden_states) == 3
    assert len(output.attentions) == 2


# Training


@pytest.mark.parametrize("use_reentrant", [True, False])
@pytest.mark.parametrize("kind", ["encoder", "ctc", "tdt"])
def test_gradient_checkpointing_gives_equal_gradients(kind, use_reentrant):
    # Dropout too: the second pass must draw the same numbers as the first.
    model = build_model(kind, dropout=0.2, attention_dropout=0.2).train()
    features, lengths = make_features([70, 33]), torch.tensor([70, 33])

    def gradients() -> dict[str, torch.Tensor]:
        model.zero_grad()
        torch.manual_seed(0)
        if kind == "encoder":
            loss = model(features, input_lengths=lengths).last_hidden_state[:, :5].square().mean()
        else:
            loss = model(features, input_lengths=lengths, labels=torch.tensor([[1, 2], [3, -100]])).loss
        loss.backward()
        return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}

    plain = gradients()
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": use_reentrant})
    assert any(getattr(module, "gradient_checkpointing", False) for module in model.modules())
    checkpointed = gradients()
    assert set(plain) == set(checkpointed)
    for name, truth in plain.items():
        assert torch.equal(checkpointed[name], truth), name


def test_training_draws_dropouts_and_evaluation_does_not():
    names = ("dropout", "dropout_positions", "activation_dropout", "attention_dropout", "dropout_pre_encoder")
    features = make_features([70])
    for name in names:
        model = build_model("encoder", **{other: 0.5 if other == name else 0.0 for other in names})
        # Batch norm draws nothing, but its statistics would differ.
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm1d):
                module.momentum = 0.0
        with torch.no_grad():
            assert torch.equal(model(features)[0], model(features)[0])
            model.train()
            first, second = model(features)[0], model(features)[0]
        assert not torch.equal(first, second), name
        assert torch.isfinite(first).all()
    model = build_model("encoder", **dict.fromkeys(names, 0.0)).train()
    assert torch.equal(model(features)[0], model(features)[0])


def test_tied_position_biases_stay_tied(tmp_path):
    model = build_model("tdt", tie_position_biases=True, num_hidden_layers=3).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(make_features([40]), labels=torch.tensor([[1, 2]])).loss.backward()
    optimizer.step()
    first, *others = (layer.self_attn for layer in model.encoder.layers)
    assert all(other.bias_u is first.bias_u and other.bias_v is first.bias_v for other in others)
    model.save_pretrained(tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    assert [name for name in stored if name.endswith("bias_u")] == ["encoder.layers.0.self_attn.bias_u"]

    # A converted checkpoint holds a copy for each layer.
    state = model.state_dict()
    save_file(
        {name: tensor.clone() for name, tensor in state.items()}, tmp_path / "model.safetensors", {"format": "pt"}
    )
    for _ in range(2):
        loaded, report = type(model).from_pretrained(tmp_path, output_loading_info=True)
        assert not any(report.values())
        assert all(torch.equal(tensor, state[name]) for name, tensor in loaded.state_dict().items())
        assert len({id(layer.self_attn.bias_u) for layer in loaded.encoder.layers}) == 1
        model.save_pretrained(tmp_path)
    assert len({id(layer.self_attn.bias_u) for layer in build_model("tdt").encoder.layers}) == 2


# Precision


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_sixteen_bits_run_and_stay_near(dtype, implementation):
    model, lengths = build_model("encoder"), torch.tensor([70, 33, 1, 0])
    model.set_attn_implementation(implementation)
    features = make_features(lengths.tolist(), padded_frames=80)
    with torch.no_grad():
        truth = model(features, input_lengths=lengths)
        model.to(dtype)
        ours = model(features, input_lengths=lengths)  # features of another dtype are converted
        assert torch.equal(model(features.to(dtype), input_lengths=lengths)[0], ours[0])
    assert ours.last_hidden_state.dtype == dtype
    assert torch.isfinite(ours.last_hidden_state).all()
    bound = 0.1 if dtype == torch.bfloat16 else 0.02
    for clip, count in enumerate(truth.encoder_lengths.tolist()):
        assert_near(ours.last_hidden_state[clip, :count].float(), truth.last_hidden_state[clip, :count], bound)


@pytest.mark.parametrize("kind", few_of(KINDS))
def test_half_and_double_run(kind):
    model, lengths = build_model(kind), torch.tensor([40, 0])
    features = make_features(lengths.tolist())
    for dtype in (torch.float16, torch.float64):
        model = model.half() if dtype == torch.float16 else model.double()
        with torch.no_grad():
            output = model(features, input_lengths=lengths)[0]
        assert output.dtype == dtype
        assert torch.isfinite(output).all()
        if hasattr(model, "generate"):
            found = model.generate(features, input_lengths=lengths, return_dict_in_generate=True)
            assert torch.isfinite(found.log_probs).all()
            assert found.sequence_lengths[1] == 0


def has_lstm_under_autocast() -> bool:
    """False on x86 without AVX-512, where oneDNN has none."""
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            torch.nn.LSTM(4, 4)(torch.zeros(2, 1, 4))
    except RuntimeError:
        return False
    return True


@pytest.mark.parametrize("kind", ["ctc", "rnnt_hybrid", "rnnt_stateless", "tdt"])
def test_autocast_trains_and_generates(kind):
    if kind in ("rnnt_hybrid", "tdt") and not has_lstm_under_autocast():
        pytest.skip("torch has no LSTM in bfloat16 on this CPU")
    model, lengths = build_model(kind).train(), torch.tensor([70, 33])
    features = make_features(lengths.tolist())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = model(features, input_lengths=lengths, labels=torch.tensor([[1, 2, 3], [4, -100, -100]])).loss
        model.eval().generate(features, input_lengths=lengths)
    loss.backward()
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    assert loss.dtype == torch.float32
    assert gradients
    assert all(torch.isfinite(gradient).all() for gradient in gradients)


@pytest.mark.parametrize("filler", [float("nan"), float("inf"), 1e30])
@pytest.mark.parametrize("subsampling_type", ["dw_striding", "stacking", "none"])
def test_nothing_in_the_padding_reaches_a_real_frame(filler: float, subsampling_type: str) -> None:
    model = build_model("encoder", subsampling_type=subsampling_type)
    features, lengths = torch.randn(2, 90, model.config.num_mel_bins), torch.tensor([90, 41])
    clean = features.clone()
    clean[1, 41:] = 0.0
    features[1, 41:] = filler
    with torch.no_grad():
        expected, found = (model(batch, input_lengths=lengths) for batch in (clean, features))
    count = int(expected.encoder_lengths[1])
    assert torch.equal(found.last_hidden_state[0], expected.last_hidden_state[0])
    assert torch.equal(found.last_hidden_state[1, :count], expected.last_hidden_state[1, :count])


def test_lengths_may_be_a_list_and_must_be_integers() -> None:
    model = build_model("encoder")
    features = torch.randn(2, 90, model.config.num_mel_bins)
    with torch.no_grad():
        expected = model(features, input_lengths=torch.tensor([90, 41])).last_hidden_state
        assert torch.equal(model(features, input_lengths=[90, 41]).last_hidden_state, expected)
        with pytest.raises(ValueError, match=r"input_lengths has dtype torch.float32"):
            model(features, input_lengths=torch.tensor([90.0, 41.0]))


def test_training_draws_from_the_contexts() -> None:
    """The rare one is used now and then, and never outside of training."""
    encoder = build_small_encoder(
        attention_context=[8, 3],
        attention_contexts=[[8, 3], [8, 1]],
        attention_context_probabilities=[0.25, 0.75],
        attention_context_style="chunked_limited",
    )
    assert all(encoder._choose_context() == [8, 3] for _ in range(20))
    encoder.train()
    drawn = [tuple(encoder._choose_context()) for _ in range(400)]
    assert set(drawn) == {(8, 3), (8, 1)}
    assert 200 < drawn.count((8, 1)) < 390


EXPORTED: dict[str, dict[str, Any]] = {
    "default": {},
    "absolute positions": {"position_embedding_type": "abs_pos"},
    "chunks": {"attention_context": [6, 2], "attention_context_style": "chunked_limited"},
    "global tokens": {**LOCAL, "num_global_tokens": 3, "global_tokens_spacing": 2},
    "group_norm": {"conv_norm_type": "group_norm", "conv_norm_groups": 2},
    "stacking, pooling": {
        "subsampling_type": "stacking",
        "reduction_type": "pooling",
        "reduction_position": 0,
        "reduction_factor": 2,
    },
}
# The exporter takes seconds for a block: `integration/test_compile_and_export.py` has the default encoder.
TOGETHER = {
    "absolute positions, chunks, group_norm": ("absolute positions", "chunks", "group_norm"),
    "global tokens, stacking, pooling": ("global tokens", "stacking, pooling"),
}


@pytest.mark.slow
@pytest.mark.parametrize("names", [*TOGETHER, *EXPORTED])
def test_encoder_exports_for_any_number_of_frames(names: str) -> None:
    options = {key: value for name in TOGETHER.get(names, (names,)) for key, value in EXPORTED[name].items()}
    encoder = build_small_encoder(num_hidden_layers=1, **options)

    class Exported(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = encoder

        def forward(self, features: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            output = self.encoder(features, input_lengths=lengths)
            return output.last_hidden_state, output.encoder_lengths

    module = Exported().eval()
    program = torch.export.export(
        module,
        (torch.randn(2, 600, 8), torch.tensor([600, 50])),
        dynamic_shapes=({0: torch.export.Dim.AUTO, 1: torch.export.Dim.AUTO}, {0: torch.export.Dim.AUTO}),
        strict=False,
    )
    features, lengths = torch.randn(3, 403, 8), torch.tensor([403, 9, 218])
    with torch.no_grad():
        output, encoder_lengths = program.module()(features, lengths)
        expected, expected_lengths = module(features, lengths)
    assert encoder_lengths.tolist() == expected_lengths.tolist()
    for exported, plain, length in zip(output, expected, expected_lengths, strict=True):
        torch.testing.assert_close(exported[:length], plain[:length], rtol=1e-4, atol=1e-5)
