"""
No option is accepted and ignored: every argument of NeMo's constructors is changed, one at a time. NeMo then computes
what it computed before, or something else, and this package the same; or the conversion is refused and names the key.
"""

from __future__ import annotations

import copy
import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tolerances import FLOAT32_SHARE

from transformers_fastconformer import FastConformerFeatureExtractor
from transformers_fastconformer.nemo.config_map import map_config
from transformers_fastconformer.nemo.convert import convert_nemo_checkpoint
from transformers_fastconformer.nemo.converted_runner import ConvertedRunner

pytestmark = pytest.mark.nemo

Values = dict[str, list[Any]]

PREPROCESSOR: Values = {
    "sample_rate": [8000],
    "window_size": [0.02, None],
    "window_stride": [0.0125, None],
    "n_window_size": [320],
    "n_window_stride": [200],
    "window": ["hamming", "blackman", "bartlett", "none", "kaiser"],
    "normalize": ["all_features", "NA", None, {"fixed_mean": [0.0], "fixed_std": [1.0]}],
    "n_fft": [1024, None, 256],
    "preemph": [None, 0.5],
    "features": [20],
    "lowfreq": [60],
    "highfreq": [6000, 0],
    "log": [False],
    "log_zero_guard_type": ["clamp", "subtract"],
    "log_zero_guard_value": [1e-3, "eps", "tiny"],
    "dither": [0.5],
    "pad_to": [16, 0],
    "frame_splicing": [2],
    "exact_pad": [True],
    "pad_value": [1.0],
    "mag_power": [1.0],
    "rng": [None],
    "nb_augmentation_prob": [0.5],
    "nb_max_freq": [2000],
    "mel_norm": [None, "htk"],
    "use_torchaudio": [True],
    "stft_exact_pad": [True],
    "stft_conv": [True],
}
ENCODER: Values = {
    "feat_in": [20],
    "n_layers": [1],
    "d_model": [24],
    "feat_out": [20, 32, 0],
    "causal_downsampling": [True],
    "subsampling": ["striding", "stacking", "stacking_norm", "vggnet", "striding_conv1d", "dw_striding_conv1d", None],
    "subsampling_factor": [2, 4, 16, 1, 3],
    "subsampling_conv_chunking_factor": [2, -1, 3],
    "subsampling_conv_channels": [12, -1],
    "reduction": ["pooling", "striding", "stacking"],
    "reduction_position": [0],
    "reduction_factor": [2],
    "ff_expansion_factor": [2],
    "self_attention_model": ["abs_pos", "rel_pos_local_attn", "rope"],
    "n_heads": [2, 5],
    "att_context_size": [[4, 4], [[4, 2], [8, 1]], [-1, 3], [4, -1], None],
    "att_context_probs": [[1.0]],
    "att_chunk_context_size": [[[8], [4], [2]]],
    "att_context_style": ["chunked_limited", "chunked_limited_with_rc", "spiral"],
    "xscaling": [False],
    "untie_biases": [False],
    "pos_emb_max_len": [20],
    "conv_kernel_size": [5, 8],
    "conv_norm_type": ["layer_norm", "instance_norm", "group_norm4", "fused_batch_norm", "group_norm5", "rms_norm"],
    "conv_context_size": ["causal", [6, 2], [2, 2]],
    "conv_context_style": ["dcc", "odd"],
    "use_bias": [False],
    "dropout": [0.3],
    "dropout_pre_encoder": [0.3],
    "dropout_emb": [0.3],
    "dropout_att": [0.3],
    "stochastic_depth_drop_prob": [0.3],
    "stochastic_depth_mode": ["uniform", "odd"],
    "stochastic_depth_start_layer": [2],
    "global_tokens": [1, 2],
    "global_tokens_spacing": [3],
    "global_attn_separate": [True],
    "use_pytorch_sdpa": [True],
    "use_pytorch_sdpa_backends": [["MATH"]],
    "sync_max_audio_length": [False],
}
CTC_DECODER: Values = {
    "feat_in": [32],  # another one is refused by the shapes of the weights
    "num_classes": [128],
    "init_mode": ["xavier_normal"],
    "vocabulary": [[]],
    "add_blank": [False],
}
LSTM_DECODER: Values = {
    "prednet": [
        {"pred_hidden": 28},
        {"pred_rnn_layers": 2},
        {"dropout": 0.0},
        {"rnn_hidden_size": 40},
        {"rnn_hidden_size": 20},
        {"t_max": 100},
        {"forget_gate_bias": 0.5},
        {"weights_init_scale": 0.5},
        {"hidden_hidden_bias_scale": 0.5},
        {"not_an_option": 1},
    ],
    "vocab_size": [7],
    "normalization_mode": ["batch", "layer"],
    "random_state_sampling": [True],
    "blank_as_pad": [False],
}
STATELESS_DECODER: Values = {
    "prednet": [{"pred_hidden": 28}, {"dropout": 0.0}],
    "vocab_size": [7],
    "context_size": [2, 4],
    "normalization_mode": ["layer", "batch"],
}
JOINT: Values = {
    "jointnet": [
        {"joint_hidden": 28},
        {"activation": "tanh"},
        {"activation": "sigmoid"},
        {"activation": "gelu"},
        {"dropout": 0.0},
    ],
    "num_classes": [7],
    "num_extra_outputs": [2],
    "vocabulary": [["a"]],
    "log_softmax": [True, False],
    "preserve_memory": [True],
    "fuse_loss_wer": [True],
    "fused_batch_size": [2],
    "experimental_fuse_loss_wer": [True],
    "masking_prob": [0.5],
}
# Options that do nothing alone: what they are changed together with.
TOGETHER: dict[str, dict[str, Any]] = {
    "reduction": {"reduction_position": 0, "reduction_factor": 2},
    "reduction_position": {"reduction": "pooling", "reduction_factor": 2},
    "reduction_factor": {"reduction": "striding", "reduction_position": 1},
    "self_attention_model": {"att_context_size": [6, 6]},
    "att_context_style": {"att_context_size": [4, 1]},
    "att_chunk_context_size": {"att_context_style": "chunked_limited_with_rc"},
    "att_context_probs": {"att_context_size": [[4, 4]]},
    "global_tokens": {"self_attention_model": "rel_pos_local_attn", "att_context_size": [6, 6]},
    "global_tokens_spacing": {
        "self_attention_model": "rel_pos_local_attn",
        "att_context_size": [6, 6],
        "global_tokens": 2,
    },
    "global_attn_separate": {
        "self_attention_model": "rel_pos_local_attn",
        "att_context_size": [6, 6],
        "global_tokens": 1,
    },
    "use_pytorch_sdpa_backends": {"use_pytorch_sdpa": True},
    "n_window_size": {"window_size": None},
    "n_window_stride": {"window_stride": None},
    "experimental_fuse_loss_wer": {"fuse_loss_wer": True, "fused_batch_size": 2},
    "fuse_loss_wer": {"fused_batch_size": 2},
}
# For one clip alone NeMo 3.0 does the convolutions of this option in pieces without masking the frame behind the clip;
# in a batch, and here, it changes nothing.
NOT_MASKED = ("subsampling_conv_chunking_factor",)
STATELESS = {"_target_": "nemo.collections.asr.modules.StatelessTransducerDecoder"}

# Class, section, kind of model, its values, and what the section starts with.
SECTIONS: dict[str, tuple[str, str, Values, dict[str, Any]]] = {
    "AudioToMelSpectrogramPreprocessor": ("ctc", "preprocessor", PREPROCESSOR, {}),
    "ConformerEncoder": ("ctc", "encoder", ENCODER, {}),
    "ConvASRDecoder": ("ctc", "decoder", CTC_DECODER, {}),
    "RNNTDecoder": ("rnnt", "decoder", LSTM_DECODER, {}),
    "StatelessTransducerDecoder": ("rnnt", "decoder", STATELESS_DECODER, STATELESS),
    "RNNTJoint": ("tdt", "joint", JOINT, {}),
}
CASES = [
    pytest.param(name, key, value, id=f"{name}-{key}-{value}")
    for name, (_, _, values, _) in SECTIONS.items()
    for key, choices in values.items()
    for value in choices
]


@pytest.mark.parametrize("name", SECTIONS)
def test_every_argument_is_changed(name: str) -> None:
    pytest.importorskip("nemo.collections.asr")
    from nemo.collections.asr import modules
    from nemo.collections.asr.modules.rnnt import StatelessTransducerDecoder

    arguments = set(inspect.signature(getattr(modules, name, StatelessTransducerDecoder).__init__).parameters)
    assert set(SECTIONS[name][2]) == arguments - {"self"}


@pytest.fixture(scope="module")
def clips() -> list[np.ndarray]:
    generator = np.random.default_rng(0)
    return [0.1 * generator.standard_normal(samples).astype(np.float32) for samples in (16000, 11111)]


@torch.no_grad()
def run_nemo(model: Any, clips: list[np.ndarray], has_masked_frame: bool = True) -> list[list[torch.Tensor]]:
    """Features, encoder output and the head's log-probabilities of each clip alone."""
    results = []
    for clip in clips:
        samples = torch.from_numpy(clip)[None]
        features, lengths = model.preprocessor(input_signal=samples, length=torch.tensor([len(clip)]))
        if not has_masked_frame:
            features = features[:, :, : int(lengths[0])]
        encoded, encoder_lengths = model.encoder(audio_signal=features, length=lengths)
        count = int(encoder_lengths[0])
        outputs = [features[0, :, : int(lengths[0])].T, encoded[0, :, :count].T]
        if hasattr(model, "joint"):
            targets = torch.tensor([[3, 1, 4, 1, 5]])
            predictions, _, _ = model.decoder(targets=targets, target_length=torch.tensor([5]))
            # As its own forward without losses: those are of training.
            joint = model.joint.joint(encoded[:, :, :count].transpose(1, 2), predictions.transpose(1, 2))
            outputs.append(joint[0].log_softmax(dim=-1))
        else:
            outputs.append(model.decoder(encoder_output=encoded)[0, :count])
        results.append(outputs)
    return results


@torch.no_grad()
def run_ours(folder: Path, clips: list[np.ndarray]) -> list[list[torch.Tensor]]:
    converted = ConvertedRunner(folder, attn_implementation="eager")
    results = []
    for clip in clips:
        outputs = converted.run("clip", [clip], [[3, 1, 4, 1, 5]], with_hypotheses=False).tensors
        head = outputs.get("joint log-probabilities") or outputs["CTC log-probabilities"]
        results.append([outputs["features"][0], outputs["encoder"][0], head[0]])
    return results


def is_equal(theirs: list[list[torch.Tensor]], ours: list[list[torch.Tensor]]) -> bool:
    return all(
        a.shape == b.shape and bool(((a - b).abs().max() <= FLOAT32_SHARE * a.abs().max()) if a.numel() else True)
        for their_clip, our_clip in zip(theirs, ours, strict=True)
        for a, b in zip(their_clip, our_clip, strict=True)
    )


@pytest.mark.parametrize(("name", "key", "value"), CASES)
def test_a_changed_option_is_followed_or_refused(
    name: str,
    key: str,
    value: Any,
    nemo_archive: Callable[..., tuple[Any, Path]],
    build_nemo_model: Callable[..., Any],
    clips: list[np.ndarray],
    tmp_path: Path,
) -> None:
    kind, section, _, start = SECTIONS[name]
    changes = {**start, **TOGETHER.get(key, {}), key: value}
    is_built = True
    try:
        model = build_nemo_model(kind, **{section: copy.deepcopy(changes)})
        theirs = run_nemo(model, clips, has_masked_frame=key not in NOT_MASKED)
        model.save_to(str(tmp_path / "model.nemo"))
    except Exception:  # whatever NeMo says
        is_built = False
    if not is_built:
        # What NeMo cannot build or run is refused by name.
        from omegaconf import OmegaConf

        base, _ = nemo_archive(kind, **({section: start} if start else {}))
        config: Any = OmegaConf.to_container(base.cfg, resolve=True)
        target = config[section]
        for name_of_change, content in changes.items():
            if isinstance(content, dict) and isinstance(target.get(name_of_change), dict):
                target[name_of_change] |= content
            else:
                target[name_of_change] = content
        with pytest.raises(ValueError, match=names_of(key, value)):
            FastConformerFeatureExtractor(**map_config(config).feature_extractor_arguments)
        return
    refusal = None
    try:
        convert_nemo_checkpoint(tmp_path / "model.nemo", tmp_path / "out")
    except ValueError as error:
        refusal = str(error)
    if refusal is not None:
        assert re.search(names_of(key, value), refusal)
    else:
        assert is_equal(theirs, run_ours(tmp_path / "out", clips))


def names_of(key: str, value: Any) -> str:
    """What a refusal must name: NeMo's key, or one of the keys of a section."""
    return "|".join(value) if key in ("prednet", "jointnet") else key


def test_the_comparison_can_fail(
    build_nemo_model: Callable[..., Any], clips: list[np.ndarray], tmp_path: Path
) -> None:
    model = build_nemo_model("ctc")
    model.save_to(str(tmp_path / "model.nemo"))
    convert_nemo_checkpoint(tmp_path / "model.nemo", tmp_path / "out")
    ours = run_ours(tmp_path / "out", clips)
    assert is_equal(run_nemo(model, clips), ours)
    with torch.no_grad():
        model.encoder.layers[1].norm_out.bias[3] += 1e-3
    assert not is_equal(run_nemo(model, clips), ours)
