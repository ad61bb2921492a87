"""Conversion of archives that NeMo saved, and the tables against NeMo's own constructors."""

from __future__ import annotations

import gzip
import inspect
import shutil
import tarfile
from dataclasses import fields

import numpy as np
import pytest
import torch
from balance import balance_classes
from tolerances import FLOAT32_SHARE

from transformers_fastconformer import FastConformerFeatureExtractor, FastConformerModel, load_model
from transformers_fastconformer.checkpoints.key_table import REQUIRED, Map, Read
from transformers_fastconformer.checkpoints.model_classes import ARCHITECTURES
from transformers_fastconformer.nemo.archive import NemoArchive
from transformers_fastconformer.nemo.convert import convert_nemo_checkpoint
from transformers_fastconformer.nemo.reference import NemoRunner
from transformers_fastconformer.nemo.sections.decoder import CTC_DECODER, LSTM_DECODER, STATELESS_DECODER
from transformers_fastconformer.nemo.sections.decoding import DECODING, GREEDY
from transformers_fastconformer.nemo.sections.encoder import ENCODER
from transformers_fastconformer.nemo.sections.joint import JOINT
from transformers_fastconformer.nemo.sections.loss import RNNT_LOSSES
from transformers_fastconformer.nemo.sections.preprocessor import PREPROCESSOR
from transformers_fastconformer.nemo.weight_map import LEFT_OUT, unmap_state_dict
from transformers_fastconformer.processing_fastconformer import FastConformerProcessor

pytestmark = pytest.mark.nemo

KINDS = ("ctc", "rnnt", "tdt", "hybrid_tdt_ctc", "hybrid_rnnt_ctc")
# Rows that only load: what the models compute with these options is compared elsewhere.
ENCODER_VARIANTS = [
    {"use_bias": False, "xscaling": False},
    {"subsampling_factor": 4},
    {"subsampling": "striding", "subsampling_factor": 4, "conv_kernel_size": 31},
    {"subsampling": "stacking", "subsampling_factor": 4},
    {"subsampling": "stacking_norm", "subsampling_factor": 4},
    {"subsampling": None},
    {"causal_downsampling": True, "conv_context_size": "causal", "conv_norm_type": "layer_norm"},
    {"conv_norm_type": "group_norm4"},
    {"conv_norm_type": "instance_norm"},
    {"conv_norm_type": "fused_batch_norm"},
    {"reduction": "striding", "reduction_position": 0, "reduction_factor": 2},
    {"reduction": "pooling", "reduction_position": -1, "reduction_factor": 2},
    {"self_attention_model": "abs_pos"},
    {"untie_biases": False},
    {"feat_out": 24},
    {"att_context_style": "chunked_limited", "att_context_size": [[8, 3], [8, 1]]},
]


def without_front_end(nemo_state_dict):
    return {
        name: tensor
        for name, tensor in nemo_state_dict.items()
        if not any(row.their_pattern.fullmatch(name) for row in LEFT_OUT)
    }


def load(result):
    return ARCHITECTURES[result.mapped.architecture].from_pretrained(result.output_dir).eval()


def assert_weights_are_those_of(model, nemo_model, dtype=None):
    expected = without_front_end(nemo_model.state_dict())
    ours = unmap_state_dict(model.state_dict(), model.config)
    assert set(ours) == set(expected)
    for name, tensor in expected.items():
        if dtype is not None and tensor.is_floating_point():
            tensor = tensor.to(dtype)
        assert torch.equal(ours[name], tensor), name


@pytest.fixture(scope="module")
def noise():
    """A padded batch of two clips, and their lengths in samples."""
    samples = 0.1 * np.random.default_rng(0).standard_normal((2, 24000)).astype(np.float32)
    samples[1, 16000:] = 0
    return torch.from_numpy(samples), torch.tensor([24000, 16000])


@torch.no_grad()
def assert_encoders_agree(folder, nemo_model, noise):
    waveforms, lengths = noise
    features, feature_lengths = nemo_model.preprocessor(input_signal=waveforms, length=lengths)
    expected, expected_lengths = nemo_model.encoder(audio_signal=features, length=feature_lengths)
    extractor = FastConformerFeatureExtractor.from_pretrained(folder)
    inputs = extractor(waveforms, audio_lengths=lengths, sampling_rate=16000)
    assert torch.equal(inputs.input_features.transpose(1, 2), features)
    model = FastConformerModel.from_pretrained(folder, attn_implementation="eager").eval()
    output = model(**inputs)
    assert output.encoder_lengths.tolist() == expected_lengths.tolist()
    limit = FLOAT32_SHARE * expected.abs().max()
    for ours, theirs, length in zip(output.last_hidden_state, expected, expected_lengths, strict=True):
        assert (ours[:length] - theirs.transpose(0, 1)[:length]).abs().max() <= limit


@pytest.mark.parametrize("tokenizer", ["bpe", "unigram", "char"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_family(nemo_archive, noise, tmp_path, kind, tokenizer):
    nemo_model, path = nemo_archive(kind, tokenizer=tokenizer)
    result = convert_nemo_checkpoint(path, tmp_path / "out")
    assert result.mapped.family == kind
    assert result.mapped.nemo_class == type(nemo_model).__name__
    assert_weights_are_those_of(load(result), nemo_model)
    assert_encoders_agree(result.output_dir, nemo_model, noise)
    ours = FastConformerProcessor.from_pretrained(result.output_dir).tokenizer
    vocabulary = nemo_model.joint.vocabulary if kind != "ctc" else nemo_model.decoder.vocabulary
    assert ours.blank_token_id == len(vocabulary) == result.mapped.config.blank_token_id
    assert ours.vocabulary_tokens(range(len(vocabulary))) == list(vocabulary)


@pytest.mark.parametrize(
    ("kind", "overrides"),
    [
        ("rnnt", {"decoder": {"prednet": {"pred_rnn_layers": 2, "pred_hidden": 28}}}),
        ("tdt", {"durations": [0, 2, 4, 8], "joint": {"jointnet": {"dropout": 0.0, "activation": "tanh"}}}),
        ("tdt", {"decoding": {"durations": []}}),
        (
            "rnnt",
            {
                "decoder": {
                    "_target_": "nemo.collections.asr.modules.StatelessTransducerDecoder",
                    "context_size": 2,
                    "normalization_mode": "layer",
                }
            },
        ),
        ("hybrid_tdt_ctc", {"encoder": {"feat_out": 24}}),
    ],
)
def test_head_options(build_nemo_model, tmp_path, kind, overrides):
    nemo_model = build_nemo_model(kind, **overrides)
    path = tmp_path / "model.nemo"
    nemo_model.save_to(str(path))
    model = load(convert_nemo_checkpoint(path, tmp_path / "out"))
    assert_weights_are_those_of(model, nemo_model)
    if kind == "tdt":
        assert model.config.durations == overrides.get("durations", [0, 1, 2, 3, 4])


@pytest.mark.parametrize("options", ENCODER_VARIANTS, ids=str)
def test_encoder_options_load_whole(build_nemo_model, noise, tmp_path, options):
    nemo_model = build_nemo_model("ctc", encoder=options)
    path = tmp_path / "model.nemo"
    nemo_model.save_to(str(path))
    result = convert_nemo_checkpoint(path, tmp_path / "out")
    assert_weights_are_those_of(load(result), nemo_model)
    for name, value in (("d_model", "hidden_size"), ("n_layers", "num_hidden_layers")):
        assert nemo_model.cfg.encoder[name] == getattr(result.mapped.config, value)


@pytest.mark.parametrize("options", [{"normalize": "NA"}, {"window": "blackman", "pad_to": 16}, {"window_size": 0.02}])
def test_front_end_options(build_nemo_model, noise, tmp_path, options):
    nemo_model = build_nemo_model("ctc", preprocessor=options)
    path = tmp_path / "model.nemo"
    nemo_model.save_to(str(path))
    assert_encoders_agree(convert_nemo_checkpoint(path, tmp_path / "out").output_dir, nemo_model, noise)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_archives(build_nemo_model, noise, tmp_path, dtype):
    path = tmp_path / "model.nemo"
    build_nemo_model("tdt").to(dtype).save_to(str(path))
    from nemo.collections.asr.models import ASRModel

    restored = ASRModel.restore_from(str(path), map_location="cpu").eval()
    assert restored.encoder.pre_encode.out.weight.dtype == torch.float32, "NeMo computes in float32"
    assert convert_nemo_checkpoint(path, tmp_path / "kept").dtype == str(dtype).removeprefix("torch.")
    result = convert_nemo_checkpoint(path, tmp_path / "out", dtype="float32")
    assert_weights_are_those_of(load(result), restored)
    assert_encoders_agree(result.output_dir, restored, noise)


@pytest.mark.parametrize("kind", ["ctc", "rnnt", "tdt"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_archives_give_nemos_hypotheses(build_nemo_model, speech_batches, tmp_path, kind, dtype):
    """Eight clips alone and in a batch, by the default of both."""
    clips = [waveforms[0] for waveforms in speech_batches.values() if len(waveforms) == 1][:8]
    model = build_nemo_model(kind)
    balance_classes(model, clips[0])
    path = tmp_path / "model.nemo"
    model.to(dtype).save_to(str(path))
    convert_nemo_checkpoint(path, tmp_path / "out")
    expected = NemoRunner(path).run("clips", clips).hypotheses[kind]
    ours, processor = load_model(tmp_path / "out", device="cpu")
    inputs = processor(clips, sampling_rate=16000, return_tensors="pt")
    found = ours.generate(**inputs, return_dict_in_generate=True)
    for row, hypothesis in enumerate(expected):
        assert found.sequences[row, : int(found.sequence_lengths[row])].tolist() == hypothesis.batch_tokens
        alone = processor(clips[row], sampling_rate=16000, return_tensors="pt")
        assert ours.generate(**alone)[0].tolist() == hypothesis.tokens
        assert len(hypothesis.tokens) > 3


def test_gzip_and_saved_again(nemo_archive, tmp_path):
    nemo_model, path = nemo_archive("tdt")
    zipped = tmp_path / "zipped.nemo"
    with open(path, "rb") as plain, gzip.open(zipped, "wb") as packed:
        shutil.copyfileobj(plain, packed)
    from nemo.collections.asr.models import ASRModel

    again = tmp_path / "again.nemo"
    ASRModel.restore_from(str(zipped), map_location="cpu").save_to(str(again))
    configs = []
    for source in (path, zipped, again):
        result = convert_nemo_checkpoint(source, tmp_path / source.stem / "out")
        assert_weights_are_those_of(load(result), nemo_model)
        configs.append((result.output_dir / "tokenizer.json").read_text())
    assert configs[0] == configs[1] == configs[2]
    with tarfile.open(again) as tar, NemoArchive(again) as archive:
        assert len(archive.member_names) == len([info for info in tar if info.isfile()])


# The tables against NeMo's constructors

CONSTRUCTORS = {
    "AudioToMelSpectrogramPreprocessor": PREPROCESSOR,
    "ConformerEncoder": ENCODER,
    "ConvASRDecoder": CTC_DECODER,
    "RNNTDecoder": LSTM_DECODER,
    "StatelessTransducerDecoder": STATELESS_DECODER,
    "RNNTJoint": JOINT,
}


@pytest.mark.parametrize("name", CONSTRUCTORS)
def test_tables_know_every_argument_and_its_default(name):
    modules = pytest.importorskip("nemo.collections.asr.modules")
    from nemo.collections.asr.modules.rnnt import StatelessTransducerDecoder

    cls = getattr(modules, name, StatelessTransducerDecoder)
    table = CONSTRUCTORS[name]
    parameters = dict(inspect.signature(cls.__init__).parameters)
    del parameters["self"]
    assert set(parameters) <= set(table), "NeMo has an option that the table does not know"
    for key, parameter in parameters.items():
        row = table[key]
        if isinstance(row, Map) and row.default is not REQUIRED:
            assert row.default == parameter.default, key
        if isinstance(row, Read) and row.default is not None and row.default is not REQUIRED:
            assert row.default == parameter.default, key


def test_tables_know_every_key_of_the_decodings():
    pytest.importorskip("nemo.collections.asr")
    from nemo.collections.asr.parts.submodules.ctc_decoding import CTCDecodingConfig
    from nemo.collections.asr.parts.submodules.ctc_greedy_decoding import GreedyCTCInferConfig
    from nemo.collections.asr.parts.submodules.rnnt_decoding import RNNTDecodingConfig
    from nemo.collections.asr.parts.submodules.rnnt_greedy_decoding import (
        GreedyBatchedRNNTInferConfig,
        GreedyRNNTInferConfig,
    )

    for config in (CTCDecodingConfig, RNNTDecodingConfig):
        assert {field.name for field in fields(config)} <= set(DECODING)
    for config in (GreedyCTCInferConfig, GreedyRNNTInferConfig, GreedyBatchedRNNTInferConfig):
        assert {field.name for field in fields(config)} <= set(GREEDY)
    from nemo.collections.asr.losses.rnnt import RNNT_LOSS_RESOLVER

    assert {name for name in RNNT_LOSS_RESOLVER if "multiblank" not in name} <= set(RNNT_LOSSES)
