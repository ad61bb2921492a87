"""Whole conversions: what comes out, what is refused, and that nothing half-made is ever left."""

from __future__ import annotations

import io
import json
import math
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from archives import round_weights
from safetensors.torch import load_file
from transformers import AutoFeatureExtractor, AutoModel

from transformers_fastconformer import FastConformerFeatureExtractor, FastConformerModel
from transformers_fastconformer.checkpoints.model_classes import ARCHITECTURES
from transformers_fastconformer.nemo import convert as convert_module
from transformers_fastconformer.nemo.convert import convert_nemo_checkpoint
from transformers_fastconformer.nemo.weight_map import FILTERBANK, WINDOW
from transformers_fastconformer.processing_fastconformer import FastConformerProcessor

ALWAYS_WRITTEN = {"README.md", "config.json", "model.safetensors", "preprocessor_config.json", "tokenizer.json"}


@pytest.fixture
def convert(make_archive, tmp_path):
    """Convert an archive of a kind into `tmp_path / "out"`; options of the archive go by the name `archive`."""

    def run(kind="tdt", archive=None, **options):
        return convert_nemo_checkpoint(make_archive(kind, **(archive or {})), tmp_path / "out", **options)

    return run


def test_the_encoder_alone(convert, nemo_config, build_model, caplog):
    config = nemo_config("ctc") | {"target": "nemo.collections.asr.models.SpeechEncDecSelfSupervisedModel"}

    def change_tensors(tensors):
        for name in [name for name in tensors if name.startswith("decoder.")]:
            del tensors[name]
        tensors |= {
            "transf_decoder.a.weight": torch.ones(2),
            "transf_decoder.b": torch.ones(1),
            "head.w": torch.ones(3),
        }

    # Written for the CTC model, whose encoder it is.
    weights = {}
    result = convert("ctc", {"config": nemo_config("ctc"), "change_tensors": weights.update}, encoder_only=True)
    assert result.parts_left_out == {"decoder": "2 tensors"}
    shutil.rmtree(result.output_dir)
    caplog.clear()
    change_tensors(weights)
    buffer = io.BytesIO()
    torch.save(weights, buffer)
    extra = [("timestamps_asr_model_weights.ckpt", b"")]
    result = convert("ctc", {"config": config, "weights": buffer.getvalue(), "extra": extra})
    assert result.mapped.family == "encoder"
    assert result.parts_left_out == {
        "head": "1 tensor",
        "timestamps_asr_model": "a model of its own in timestamps_asr_model_weights.ckpt",
        "transf_decoder": "2 tensors",
    }
    messages = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    told = "Left out are head: 1 tensor; transf_decoder: 2 tensors; timestamps_asr_model: a model of its own in"
    assert [told in message for message in messages] == [True]
    assert not {"tokenizer.json", "processor_config.json"} & set(result.files)
    card = (result.output_dir / "README.md").read_text()
    assert "- `transf_decoder`: 2 tensors" in card
    assert "pipeline_tag: feature-extraction" in card
    model, report = AutoModel.from_pretrained(result.output_dir, output_loading_info=True)
    assert type(model) is FastConformerModel
    assert not report["missing_keys"] | report["unexpected_keys"]
    expected = build_model(nemo_config("ctc")).encoder.state_dict()
    for name, tensor in model.encoder.state_dict().items():
        assert torch.equal(tensor, expected[name]), name
    extractor = AutoFeatureExtractor.from_pretrained(result.output_dir)
    inputs = extractor(np.zeros(16000, dtype=np.float32), sampling_rate=16000, return_tensors="pt")
    assert model.eval()(**inputs).last_hidden_state.shape == (1, 13, 16)


def test_language_prompts_and_speaker_kernels(convert, nemo_config, build_model):
    defaults = {"initialize_prompt_feature": True, "num_prompts": 5, "prompt_dictionary": {"en-US": 0, "de-DE": 4}}
    for options in (
        {"target": "a.EncDecRNNTBPEModelWithPrompt", "model_defaults": defaults},
        {"target": "a.EncDecMultiTalkerRNNTBPEModel", "spk_kernel_type": "ff", "spk_kernel_layers": [0, 1]},
    ):
        config = nemo_config("rnnt") | options
        result = convert("rnnt", {"config": config}, overwrite=True)
        model = ARCHITECTURES[result.mapped.architecture].from_pretrained(result.output_dir)
        expected = build_model(config).state_dict()
        assert set(model.state_dict()) == set(expected)
        assert all(torch.equal(tensor, expected[name]) for name, tensor in model.state_dict().items())
        card = (result.output_dir / "README.md").read_text()
        assert ('model.generate(**inputs, language="de-DE")' in card) == ("model_defaults" in options)
        if "model_defaults" in options:
            assert model.config.prompt_languages == {"en-US": 0, "de-DE": 4}
            assert model.config.default_language is None
            assert any(name.startswith("prompt_kernel.") for name in expected)
        else:
            for kernel in ("speaker_kernel", "later_speaker_kernels.1"):
                assert any(name.startswith(f"encoder.{kernel}.background.") for name in expected)


def test_adapters_that_are_off_are_left_out(convert, nemo_config):
    config = nemo_config("tdt") | {"adapters": {"accent": {"enabled": False}}}
    name = "encoder.layers.0.adapter_layer.accent.module.1.weight"
    weights = {}
    convert("tdt", {"config": nemo_config("tdt"), "change_tensors": weights.update}, overwrite=True)
    buffer = io.BytesIO()
    torch.save({**weights, name: torch.ones(4, 16)}, buffer)
    result = convert("tdt", {"config": config, "weights": buffer.getvalue()}, overwrite=True)
    assert result.dropped_tensors[name] == "an adapter that is switched off"
    assert result.parts_left_out == {}


def test_a_blank_without_a_row_gets_one_of_zeros(convert, nemo_config, build_model):
    config = nemo_config("rnnt")
    config["decoder"]["blank_as_pad"] = False

    def drop_row(tensors):
        name = "decoder.prediction.embed.weight"
        tensors[name] = tensors[name][:-1].clone()

    result = convert("rnnt", {"config": config, "change_tensors": drop_row})
    model = ARCHITECTURES[result.mapped.architecture].from_pretrained(result.output_dir)
    expected = build_model(config).decoder.embedding.weight
    assert torch.equal(model.decoder.embedding.weight[:-1], expected[:-1])
    assert not model.decoder.embedding.weight[-1].any()


@pytest.mark.parametrize("kind", ["ctc", "rnnt", "tdt", "hybrid_rnnt_ctc", "hybrid_tdt_ctc"])
def test_converted_models_are_the_archive(convert, nemo_config, build_model, kind):
    result = convert(kind)
    assert set(result.files) >= ALWAYS_WRITTEN
    assert not any(name.endswith((".ckpt", ".unpacked")) for name in result.files)
    assert result.mapped.family == kind
    assert (result.dtype, result.sampling_rate, result.source) == ("float32", 16000, str(result.archive_path))
    expected = build_model(nemo_config(kind))
    assert result.num_parameters == sum(parameter.numel() for parameter in expected.parameters())
    model, report = ARCHITECTURES[result.mapped.architecture].from_pretrained(
        result.output_dir, output_loading_info=True
    )
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    state_dict = model.state_dict()
    for name, tensor in expected.state_dict().items():
        assert torch.equal(state_dict[name], tensor), name
    config = json.loads((result.output_dir / "config.json").read_text())
    assert config["architectures"] == [result.mapped.architecture]
    assert config["dtype"] == "float32"
    assert set(result.dropped_tensors) == {FILTERBANK, WINDOW}


def test_processor_comes_along(convert):
    result = convert("tdt", archive={"config": None})
    processor = FastConformerProcessor.from_pretrained(result.output_dir)
    assert processor.subsampling_factor == 8
    assert processor.feature_extractor.feature_size == 16
    assert processor.tokenizer.decode([8, 9]) == "hi"
    inputs = processor(np.zeros(16000, np.float32), sampling_rate=16000, return_tensors="pt")
    encoder = FastConformerModel.from_pretrained(result.output_dir)
    assert encoder(**inputs).last_hidden_state.shape == (1, 13, 16)


def test_reduction_counts_in_the_processor_and_times_are_configured(convert, nemo_config):
    config = nemo_config("ctc")
    config["encoder"] |= {"reduction": "pooling", "reduction_position": 0, "reduction_factor": 2}
    config["decoding"] = {"strategy": "greedy", "segment_seperators": ["。"], "segment_gap_threshold": 12}
    processor = FastConformerProcessor.from_pretrained(convert("ctc", archive={"config": config}).output_dir)
    assert processor.subsampling_factor == 16
    assert processor.segment_separators == ["。"]
    assert processor.segment_gap_frames == 12


# The front end's constants


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_archives_of_half_precision(convert, dtype):
    name = str(dtype).removeprefix("torch.")
    result = convert("tdt", archive={"change_tensors": round_weights(dtype)})
    assert result.dtype == name
    extractor = FastConformerFeatureExtractor.from_pretrained(result.output_dir)
    assert extractor.filterbank_dtype == name
    assert extractor.mel_filters is None
    tensors = load_file(result.output_dir / "model.safetensors")
    assert {tensor.dtype for tensor in tensors.values()} == {dtype, torch.int64}
    model_class = ARCHITECTURES[result.mapped.architecture]
    for options in ({}, {"dtype": "auto"}):  # as NeMo, whose modules are float32
        model = model_class.from_pretrained(result.output_dir, **options)
        assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
        assert all(torch.equal(tensor, tensors[name].to(tensor.dtype)) for name, tensor in model.state_dict().items())
    assert model.encoder.layers[0].conv.norm.num_batches_tracked.dtype == torch.int64
    for name in ("float16", "bfloat16", dtype):
        expected = getattr(torch, name) if isinstance(name, str) else name
        assert model_class.from_pretrained(result.output_dir, dtype=name).dtype == expected


def test_filterbank_that_nobody_computes_is_kept(convert):
    def change(tensors):
        tensors[FILTERBANK] = tensors[FILTERBANK] * 1.5

    result = convert("ctc", archive={"change_tensors": change})
    extractor = FastConformerFeatureExtractor.from_pretrained(result.output_dir)
    plain = FastConformerFeatureExtractor(**result.mapped.feature_extractor_arguments)
    assert extractor.mel_filters.shape == (16, 257)
    speech = np.random.default_rng(0).standard_normal(4000).astype(np.float32)
    outputs = [
        one(speech, sampling_rate=16000, return_tensors="pt").input_features for one in (extractor, plain, extractor)
    ]
    assert torch.equal(outputs[0], outputs[2])
    assert not torch.equal(outputs[0], outputs[1])


def test_filterbank_of_another_shape_is_refused(convert, tmp_path):
    def change(tensors):
        tensors[FILTERBANK] = tensors[FILTERBANK][:, :8]

    with pytest.raises(ValueError, match=r"preprocessor\.featurizer\.fb is \(8, 257\); expected \(16, 257\)"):
        convert("ctc", archive={"change_tensors": change})
    assert not (tmp_path / "out").exists()


# Types and shards


@pytest.mark.parametrize("dtype", ["float16", torch.bfloat16])
def test_chosen_dtype(convert, nemo_config, build_model, dtype):
    result = convert("tdt", dtype=dtype)
    expected_dtype = torch.float16 if dtype == "float16" else dtype
    tensors = load_file(result.output_dir / "model.safetensors")
    for name, tensor in build_model(nemo_config("tdt")).state_dict().items():
        expected = tensor.to(expected_dtype) if tensor.is_floating_point() else tensor
        assert torch.equal(tensors[name], expected), name
    assert json.loads((result.output_dir / "config.json").read_text())["dtype"] == result.dtype


def test_sharded_output(convert, nemo_config, build_model):
    result = convert("tdt", max_shard_size="10KB")
    shards = [name for name in result.files if name.endswith(".safetensors")]
    assert len(shards) > 3
    assert "model.safetensors" not in shards
    index = json.loads((result.output_dir / "model.safetensors.index.json").read_text())
    expected = build_model(nemo_config("tdt")).state_dict()
    assert set(index["weight_map"]) == set(expected)
    assert index["metadata"]["total_size"] == sum(t.numel() * t.element_size() for t in expected.values())
    for name in shards:
        tensors = load_file(result.output_dir / name)
        assert set(tensors) == {key for key, shard in index["weight_map"].items() if shard == name}
    model = ARCHITECTURES[result.mapped.architecture].from_pretrained(result.output_dir)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in model.state_dict().items())


# What is refused, and what is left behind


def assert_nothing_is_left(tmp_path, archive_path):
    assert sorted(path.name for path in tmp_path.iterdir()) == [archive_path.name]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda config: config["encoder"].update(d_model=32), "tensors of the wrong shape: encoder.pre_encode.out"),
        (lambda config: config["encoder"].update(conv_norm_type="weird"), "encoder.conv_norm_type='weird'"),
        (lambda config: config["encoder"].update(n_layers=3), "encoder.n_layers=3, and the archive holds"),
        (lambda config: config["encoder"].update(n_layers=1), "tensors that are not supported: encoder.layers.1"),
        (lambda config: config["labels"].append("é"), "the tokenizer has 29 tokens and the head 29 classes"),
        (lambda config: config.update(labels=None), "labels"),
    ],
)
def test_configurations_that_do_not_fit_leave_nothing(
    make_archive, nemo_config, write_archive, tmp_path, change, message
):
    import tarfile

    import yaml

    archive_path = make_archive("ctc")
    with tarfile.open(archive_path) as tar:
        weights = tar.extractfile("./model_weights.ckpt").read()
    config = nemo_config("ctc")
    config["decoder"]["vocabulary"] = []
    change(config)
    path = write_archive([("model_config.yaml", yaml.safe_dump(config).encode()), ("model_weights.ckpt", weights)])
    with pytest.raises(ValueError, match=re.escape(message)):
        convert_nemo_checkpoint(path, tmp_path / "out")
    assert_nothing_is_left(tmp_path, path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "float64"}, "dtype='float64' is not supported; expected one of"),
        ({"dtype": torch.float64}, "dtype='float64' is not supported; expected one of"),
        ({"dtype": "half"}, "dtype='half' is not supported"),
        ({"max_shard_size": "lots"}, "max_shard_size='lots' is not supported"),
    ],
)
def test_bad_arguments(convert, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        convert("ctc", **options)
    assert not (tmp_path / "out").exists()


def test_output_folders_in_use(make_archive, tmp_path):
    path = make_archive("ctc")
    output = tmp_path / "out"
    output.mkdir()
    convert_nemo_checkpoint(path, output)  # empty is fine
    weights = (output / "model.safetensors").read_bytes()
    (output / "mine.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"output_dir='.*out' is not empty; expected an empty or new folder"):
        convert_nemo_checkpoint(path, output)
    assert (output / "mine.txt").is_file()
    convert_nemo_checkpoint(path, output, overwrite=True)
    assert not (output / "mine.txt").exists()
    assert (output / "model.safetensors").read_bytes() == weights
    for taken in (path, tmp_path / "link"):
        if taken != path:
            taken.symlink_to(output)
        with pytest.raises(ValueError, match="is a file or a link; expected a folder, or nothing"):
            convert_nemo_checkpoint(path, taken, overwrite=True)
    assert sorted(child.name for child in tmp_path.iterdir()) == ["link", path.name, "out"]


def test_failed_overwriting_keeps_what_was_there(make_archive, tmp_path, monkeypatch):
    path = make_archive("ctc")
    output = convert_nemo_checkpoint(path, tmp_path / "out").output_dir
    before = {child.name: child.read_bytes() for child in output.iterdir()}

    def fail(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(convert_module, "write_model_card", fail)
    with pytest.raises(KeyboardInterrupt):
        convert_nemo_checkpoint(path, output, overwrite=True)
    assert {child.name: child.read_bytes() for child in output.iterdir()} == before
    assert sorted(child.name for child in tmp_path.iterdir()) == [path.name, "out"]


# Run in a process of its own, which forks a child for every moment; each child kills itself at that moment. An audit
# hook sees every file that is opened, made or renamed, and `fetch` is called for every tensor. Moments are counted in
# a conversion beforehand, which also does the imports that children would do over and over.
KILLER = """
import os, shutil, signal, sys

import torch

from transformers_fastconformer.nemo import convert

torch.set_num_threads(1)  # no threads, so that forking is safe
archive, output, overwrite = sys.argv[1], sys.argv[2], sys.argv[3] == "True"
place = os.path.dirname(output)
fetch = convert.RenamedTensors.fetch
moments, kill_at = 0, 0


def tick():
    global moments
    moments += 1
    if moments == kill_at:
        os.kill(os.getpid(), signal.SIGKILL)


def watch(event, arguments):
    if event in ("os.rename", "os.mkdir", "os.chmod", "os.remove"):
        tick()
    elif event == "open" and place in str(arguments[0]):
        tick()


def fetch_and_tick(self, name):
    tick()
    return fetch(self, name)


convert.RenamedTensors.fetch = fetch_and_tick
sys.addaudithook(watch)
convert.convert_nemo_checkpoint(archive, os.path.join(place, "counted"))
total, moments = moments, 0
# Some of the tensors, and each of the last moments; overwriting has a few more than were counted.
for kill_at in sorted({*range(1, total - 12, total // 8), *range(total - 12, total + 20)}):
    pid = os.fork()
    if pid == 0:
        convert.convert_nemo_checkpoint(archive, output, overwrite=overwrite)
        os._exit(0)
    status = os.waitpid(pid, 0)[1]
    if os.WIFEXITED(status):
        assert os.WEXITSTATUS(status) == 0, status
        print("finished", flush=True)
        break
    assert os.WTERMSIG(status) == signal.SIGKILL, status
    names = sorted(os.listdir(output)) if os.path.isdir(output) else []
    print("killed", ",".join(names), flush=True)
    if names and not overwrite:  # it was done, and only cleaning up was left
        shutil.rmtree(output)
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="the children are forked")
@pytest.mark.parametrize("overwrite", [False, True])
def test_killed_conversions_leave_no_output_that_loads(make_archive, tmp_path, overwrite):
    path = make_archive("ctc")
    output = tmp_path / "place" / "out"
    files = convert_nemo_checkpoint(path, tmp_path / "place" / "reference").files
    if overwrite:
        convert_nemo_checkpoint(path, output)
        (output / "old.txt").write_text("the old one")
    arguments = [sys.executable, "-c", KILLER, str(path), str(output), str(overwrite)]
    finished = subprocess.run(arguments, capture_output=True, text=True, check=False, timeout=120)
    assert finished.returncode == 0, finished.stderr
    *killed, last = finished.stdout.splitlines()
    assert last == "finished"
    states = [line.removeprefix("killed ") for line in killed]
    assert len(states) > 15
    whole = ",".join(files)
    old = ",".join(sorted([*files, "old.txt"]))
    # Nothing, or the old one as a whole, and then the new one. Where the system cannot exchange two folders in one
    # step there is nothing for a moment.
    assert set(states) <= ({"", old, whole} if overwrite else {"", whole})
    assert states.count(old if overwrite else "") > 10
    assert sorted(child.name for child in output.iterdir()) == files
    assert sorted(child.name for child in output.parent.iterdir()) == ["counted", "out", "reference"]


# Where archives come from


def test_folders(make_archive, tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "notes.txt").write_text("notes")
    with pytest.raises(ValueError, match=r"model: expected a \.nemo file in it; found none"):
        convert_nemo_checkpoint(folder, tmp_path / "out")
    path = make_archive("ctc")
    path.rename(folder / "a.nemo")
    assert convert_nemo_checkpoint(folder, tmp_path / "out").archive_path == folder / "a.nemo"
    make_archive("ctc").rename(folder / "b.nemo")
    with pytest.raises(ValueError, match=r"model holds 2 \.nemo files: a\.nemo, b\.nemo; name one"):
        convert_nemo_checkpoint(folder, tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_unpacked_archives(make_archive, tmp_path):
    import tarfile

    with tarfile.open(make_archive("rnnt")) as tar:
        tar.extractall(tmp_path / "unpacked", filter="data")
    result = convert_nemo_checkpoint(tmp_path / "unpacked", tmp_path / "out")
    assert result.archive_path == tmp_path / "unpacked"
    assert (tmp_path / "unpacked" / "model_weights.ckpt").is_file()


# The model card


def test_model_card(convert):
    result = convert("hybrid_tdt_ctc")
    card = (result.output_dir / "README.md").read_text()
    front_matter = card.split("---\n")[1]
    assert "library_name: transformers\n" in front_matter
    assert "pipeline_tag: automatic-speech-recognition\n" in front_matter
    assert "- tdt\n- ctc\n" in front_matter
    assert "base_model" not in front_matter
    assert "Not verified yet" in card
    assert "2 blocks of width 16, 0.02 million parameters" in card


def test_usage_in_the_card_runs(convert, monkeypatch, capsys):
    soundfile = pytest.importorskip("soundfile")
    folder = convert("hybrid_tdt_ctc").output_dir
    code = re.search(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL).group(1)
    monkeypatch.chdir(folder)
    soundfile.write("speech.wav", np.random.default_rng(0).standard_normal(8000).astype(np.float32) * 0.1, 16000)
    exec(compile(code, "README.md", "exec"), {})
    texts = eval(capsys.readouterr().out)
    assert isinstance(texts, list)
    assert len(texts) == 1


# Memory

# VmHWM and not `ru_maxrss`, which counts the memory of the process that started this one.
MEASURE = """
import re, sys
from transformers_fastconformer.nemo import convert_nemo_checkpoint


def peak_bytes():
    return 1024 * int(re.search(r"VmHWM:\\s*(\\d+) kB", open("/proc/self/status").read()).group(1))


imports = peak_bytes()
convert_nemo_checkpoint(sys.argv[1], sys.argv[2])
print(imports, peak_bytes())
"""


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="reads /proc")
@pytest.mark.slow
def test_peak_memory(make_archive, nemo_config, tmp_path):
    """At most 1.3 times the weights, what the imports take included; here about 600 MB."""
    config = nemo_config("rnnt")
    config["encoder"] |= {"d_model": 1024, "n_layers": 6, "n_heads": 8, "subsampling_conv_channels": 256}
    path = make_archive("rnnt", config=config)
    finished = subprocess.run(
        [sys.executable, "-c", MEASURE, str(path), str(tmp_path / "out")],
        capture_output=True,
        text=True,
        check=True,
    )
    imports, peak = map(int, finished.stdout.split())
    weights = (Path(tmp_path) / "out" / "model.safetensors").stat().st_size
    print(f"imports {imports / 1e6:.0f} MB, peak {peak / 1e6:.0f} MB, weights {weights / 1e6:.0f} MB")
    assert weights > 550e6
    assert peak <= 1.3 * weights
    assert peak - imports <= 0.5 * weights, "the weights pass through memory in pieces"


def test_weights_that_are_not_finite_are_told(convert, caplog):
    name = "encoder.layers.1.feed_forward1.linear1.weight"

    def spoil(tensors):
        tensors[name] = torch.full_like(tensors[name], math.nan)
        tensors["encoder.layers.0.norm_out.weight"].fill_(3e38)  # a sum that overflows, of finite values

    convert("ctc", {"change_tensors": spoil})
    assert f"model.nemo: 1 tensors hold NaN or infinite values, such as {name!r}" in caplog.text
