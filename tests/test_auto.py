"""The Auto classes of Transformers know every configuration, class and saved folder of this package."""

from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from models import KINDS, build_config, make_features
from transformers import (
    AutoConfig,
    AutoFeatureExtractor,
    AutoModel,
    AutoModelForCTC,
    AutoProcessor,
    AutoTokenizer,
    BertConfig,
    BertModel,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForCTC,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
)
from transformers.utils import logging as transformers_logging

from transformers_fastconformer import (
    AutoModelForRNNT,
    AutoModelForTDT,
    FastConformerConfig,
    FastConformerFeatureExtractor,
    FastConformerForCTC,
    FastConformerForRNNT,
    FastConformerForTDT,
    FastConformerHybridForCTC,
    FastConformerModel,
    FastConformerProcessor,
    FastConformerTDTConfig,
    FastConformerTokenizer,
    ParakeetTDTForCTC,
    ParakeetTDTForTDT,
)
from transformers_fastconformer.auto import register, unregister
from transformers_fastconformer.checkpoint_sources import registered_sources
from transformers_fastconformer.checkpoints.store import CACHE_VARIABLE, list_conversions
from transformers_fastconformer.demonstration import CHECKPOINT_PATH


def ask_for_a_pipeline(name: str) -> Any:
    return transformers.pipeline("automatic-speech-recognition", model=name)


ACCEPTED = [
    *((AutoModel, kind, FastConformerModel) for kind in KINDS),
    (AutoModelForCTC, "ctc", FastConformerForCTC),
    (AutoModelForCTC, "tdt_hybrid", ParakeetTDTForCTC),
    (AutoModelForCTC, "tdt_hybrid_ctc", ParakeetTDTForCTC),
    (AutoModelForCTC, "rnnt_hybrid", FastConformerHybridForCTC),
    (AutoModelForCTC, "rnnt_hybrid_ctc", FastConformerHybridForCTC),
    (AutoModelForRNNT, "rnnt", FastConformerForRNNT),
    (AutoModelForRNNT, "rnnt_stateless", FastConformerForRNNT),
    (AutoModelForRNNT, "rnnt_hybrid_ctc", FastConformerForRNNT),
    (AutoModelForTDT, "tdt", FastConformerForTDT),
    (AutoModelForTDT, "tdt_far", FastConformerForTDT),
    (AutoModelForTDT, "tdt_hybrid_ctc", FastConformerForTDT),
]


@pytest.mark.parametrize(("auto_class", "kind", "model_class"), ACCEPTED)
def test_a_saved_folder_gives_the_class_and_its_weights(auto_class, kind, model_class, saved_model):
    model, folder = saved_model(kind)
    loaded, report = auto_class.from_pretrained(folder, output_loading_info=True)
    assert type(loaded) is model_class
    assert not any(report.values()), report
    truth = model.state_dict()
    prefix = "encoder." if kind == "encoder" else ""
    for name, tensor in loaded.state_dict().items():
        assert torch.equal(tensor, truth[name.removeprefix(prefix)]), name
    with torch.no_grad():
        assert torch.isfinite(loaded(make_features([20]))[0]).all()


@pytest.mark.parametrize(("auto_class", "kind", "model_class"), ACCEPTED)
def test_a_configuration_gives_the_class(auto_class, kind, model_class):
    model = auto_class.from_config(build_config(kind))
    assert type(model) is model_class
    assert model.config.model_type == build_config(kind).model_type


@pytest.mark.parametrize("options", [{"dtype": torch.bfloat16}, {"torch_dtype": "float16"}, {"device_map": "auto"}])
@pytest.mark.parametrize(
    ("auto_class", "kind"), [(AutoModel, "tdt"), (AutoModelForTDT, "tdt"), (AutoModelForCTC, "ctc")]
)
def test_options_reach_the_class(auto_class, kind, options, saved_model):
    model = auto_class.from_pretrained(saved_model(kind)[1], **options)
    expected = {"float16": torch.float16}.get(options.get("torch_dtype"), options.get("dtype", torch.float32))
    assert model.dtype == expected
    with torch.no_grad():
        assert model(make_features([20]))[0].dtype == expected


@pytest.mark.parametrize(
    ("auto_class", "kind", "message"),
    [
        (AutoModelForCTC, "encoder", "FastConformerConfig"),
        (AutoModelForCTC, "tdt", "needs a hybrid checkpoint"),
        (AutoModelForCTC, "rnnt", "needs a hybrid checkpoint"),
        (AutoModelForRNNT, "tdt", "FastConformerTDTConfig"),
        (AutoModelForTDT, "rnnt", "FastConformerRNNTConfig"),
        (AutoModelForTDT, "ctc", "FastConformerCTCConfig"),
    ],
)
def test_a_head_that_is_not_there_is_refused(auto_class, kind, message, saved_model):
    with pytest.raises(ValueError, match=message):
        auto_class.from_pretrained(saved_model(kind)[1])


@pytest.mark.parametrize("kind", KINDS)
def test_configurations_are_found_by_model_type(kind, saved_model):
    config = AutoConfig.from_pretrained(saved_model(kind)[1])
    assert type(config) is KINDS[kind][1]
    assert type(AutoConfig.for_model(config.model_type)) is KINDS[kind][1]


def test_the_feature_extractor_is_found(tmp_path):
    build_config("tdt").save_pretrained(tmp_path)
    FastConformerFeatureExtractor().save_pretrained(tmp_path)
    assert type(AutoFeatureExtractor.from_pretrained(tmp_path)) is FastConformerFeatureExtractor


def test_the_auto_classes_are_those_of_transformers_where_it_has_them():
    for ours in (AutoModelForRNNT, AutoModelForTDT):
        assert getattr(transformers, ours.__name__, ours) is ours


def test_registering_again_changes_nothing():
    before = type(AutoModel.from_config(build_config("ctc")))
    register()
    assert type(AutoModel.from_config(build_config("ctc"))) is before


# `.nemo` checkpoints


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """The cache of converted archives for this test."""
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache"


NEMO_LOADERS: dict[Any, type] = {
    AutoConfig: FastConformerTDTConfig,
    AutoModel: FastConformerModel,
    AutoModelForCTC: ParakeetTDTForCTC,
    AutoModelForTDT: FastConformerForTDT,
    AutoFeatureExtractor: FastConformerFeatureExtractor,
    AutoTokenizer: FastConformerTokenizer,
    AutoProcessor: FastConformerProcessor,
    FastConformerTDTConfig: FastConformerTDTConfig,
    FastConformerConfig: FastConformerConfig,
    FastConformerModel: FastConformerModel,
    FastConformerForTDT: FastConformerForTDT,
    ParakeetTDTForTDT: ParakeetTDTForTDT,
    FastConformerFeatureExtractor: FastConformerFeatureExtractor,
    FastConformerTokenizer: FastConformerTokenizer,
    FastConformerProcessor: FastConformerProcessor,
}


@pytest.fixture(scope="module")
def shared_cache(tmp_path_factory):
    """One cache for the loaders of one archive: whoever comes first converts it."""
    return tmp_path_factory.mktemp("cache")


@pytest.mark.parametrize("loader", NEMO_LOADERS)
def test_a_nemo_file_and_a_folder_with_one_load(loader, shared_cache, tmp_path, monkeypatch):
    monkeypatch.setenv(CACHE_VARIABLE, str(shared_cache))
    folder = tmp_path / "folder" / "deep"
    folder.mkdir(parents=True)
    (folder / "model.nemo").write_bytes(CHECKPOINT_PATH.read_bytes())
    for name, options in (
        (str(CHECKPOINT_PATH), {}),
        (CHECKPOINT_PATH, {"revision": "main", "token": None, "local_files_only": True}),
        (folder, {}),
        (str(folder.parent), {"subfolder": "deep"}),
    ):
        loaded = loader.from_pretrained(name, **options)
        assert type(loaded) is NEMO_LOADERS[loader]
        named = getattr(loaded, "tokenizer", loaded)
        if getattr(named, "name_or_path", ""):
            assert named.name_or_path == str(name)
    by_keyword = loader.from_pretrained(pretrained_model_name_or_path=CHECKPOINT_PATH)
    assert type(by_keyword) is NEMO_LOADERS[loader]
    assert len(list_conversions()) == 1


def test_options_of_the_auto_classes_work_on_a_nemo_file(cache):
    name = str(CHECKPOINT_PATH)
    config, unused = AutoConfig.from_pretrained(name, return_unused_kwargs=True, layerdrop=0.5, other=1)
    assert (config.layerdrop, unused, config.name_or_path) == (0.5, {"other": 1}, name)
    model, report = AutoModelForTDT.from_pretrained(name, output_loading_info=True, dtype=torch.bfloat16)
    assert (model.dtype, model.name_or_path) == (torch.bfloat16, name)
    assert not any(report.values())
    model = AutoModelForCTC.from_pretrained(name, config=config, attn_implementation="eager")
    assert (model.config.layerdrop, model.config._attn_implementation) == (0.5, "eager")
    # As `transformers.pipeline` calls them.
    internal = {"_from_pipeline": "automatic-speech-recognition", "trust_remote_code": None, "token": None}
    for loader in (AutoConfig, AutoFeatureExtractor, AutoTokenizer, AutoProcessor):
        assert type(loader.from_pretrained(name, revision=None, **internal)) is NEMO_LOADERS[loader]


def test_the_wrong_head_of_a_nemo_file_is_named(cache):
    with pytest.raises(ValueError, match="FastConformerTDTConfig"):
        AutoModelForRNNT.from_pretrained(CHECKPOINT_PATH)


@pytest.mark.parametrize("loader", NEMO_LOADERS)
def test_several_archives_are_named_by_every_class(loader, cache, tmp_path):
    for name in ("a.nemo", "b.nemo"):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(ValueError, match=r"holds 2 \.nemo files: a\.nemo, b\.nemo; name one of them, such as"):
        loader.from_pretrained(tmp_path)


@pytest.mark.parametrize("loader", NEMO_LOADERS)
def test_a_broken_archive_is_named_by_every_class(loader, cache, tmp_path):
    path = tmp_path / "broken.nemo"
    path.write_bytes(b"neither tar nor anything else")
    with pytest.raises(ValueError, match=r"broken\.nemo is not a \.nemo archive"):
        loader.from_pretrained(path)


# Checkpoints of others


def write_checkpoints_of_others(folder: Path) -> dict[str, Path]:
    """Tiny checkpoints of other models, and folders that are none."""
    shape = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    BertModel(BertConfig(vocab_size=9, **shape)).save_pretrained(folder / "bert")
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b", "c"]
    (folder / "bert" / "vocab.txt").write_text("\n".join(vocabulary))
    wav2vec2 = Wav2Vec2Config(
        vocab_size=5, conv_dim=(8,), conv_kernel=(10,), conv_stride=(5,), num_conv_pos_embeddings=4,
        num_conv_pos_embedding_groups=2, **shape
    )  # fmt: skip
    Wav2Vec2ForCTC(wav2vec2).save_pretrained(folder / "wav2vec2")
    Wav2Vec2FeatureExtractor().save_pretrained(folder / "wav2vec2")
    whisper = WhisperConfig(
        vocab_size=20, d_model=8, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2, decoder_ffn_dim=8,
        decoder_attention_heads=2, encoder_ffn_dim=8, pad_token_id=0, bos_token_id=1, eos_token_id=2,
        decoder_start_token_id=1, num_mel_bins=8, suppress_tokens=None, begin_suppress_tokens=None,
    )  # fmt: skip
    WhisperForConditionalGeneration(whisper).save_pretrained(folder / "whisper")
    WhisperFeatureExtractor(feature_size=8).save_pretrained(folder / "whisper")
    for name in ("empty", "unknown", "broken"):
        (folder / name).mkdir()
    (folder / "unknown" / "config.json").write_text('{"model_type": "no such type"}')
    (folder / "broken" / "config.json").write_text("{")
    names = ("bert", "wav2vec2", "whisper", "empty", "unknown", "broken", "absent", "absent.bin")
    return {name: folder / name for name in names}


def describe_loading(loader: Any, name: Any) -> tuple[Any, ...]:
    """What an Auto class makes of a name: the class, configuration and weights, or the error and its words."""
    try:
        loaded = loader.from_pretrained(name)
    except Exception as error:
        # Lists of what is known hold our names while we are registered.
        return type(error), re.sub(r",? ?fastconformer\w*", "", str(error), flags=re.IGNORECASE), type(error.__cause__)
    weights = loaded.state_dict() if hasattr(loaded, "state_dict") else {}
    config = loaded.to_dict() if hasattr(loaded, "to_dict") else getattr(loaded, "config", None)
    return type(loaded), str(config), {key: value.tolist() for key, value in weights.items()}


def test_checkpoints_of_others_load_as_without_us(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    loaders = (AutoConfig, AutoModel, AutoModelForCTC, transformers.AutoModelForSpeechSeq2Seq, AutoFeatureExtractor)
    loaders += (AutoTokenizer, AutoProcessor)
    names = write_checkpoints_of_others(tmp_path)

    def describe() -> dict[tuple[str, str], tuple[Any, ...]]:
        return {
            (loader.__name__, name): describe_loading(loader, place)
            for loader in loaders
            for name, place in {**names, "org/absent": "org/absent", "no id at all": "a b c"}.items()
        }

    with_us = describe()
    unregister()
    try:
        without_us = describe()
    finally:
        register()
    for case, found in with_us.items():
        assert found == without_us[case], case
    classes = {case: found[0] for case, found in with_us.items()}
    assert classes["AutoModel", "bert"] is BertModel
    assert classes["AutoModelForCTC", "wav2vec2"] is Wav2Vec2ForCTC
    assert classes["AutoModelForSpeechSeq2Seq", "whisper"] is WhisperForConditionalGeneration
    assert classes["AutoFeatureExtractor", "whisper"] is WhisperFeatureExtractor
    assert classes["AutoConfig", "absent"] is classes["AutoTokenizer", "org/absent"] is OSError


@pytest.mark.parametrize("load", [AutoConfig.from_pretrained, AutoModel.from_pretrained, ask_for_a_pipeline])
@pytest.mark.parametrize("name", ["absent.nemo", "/no/such/folder/absent.nemo", "checkpoints/absent.nemo"])
def test_a_missing_nemo_file_is_refused_and_the_hub_not_asked(load, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(transformers.utils.hub, "hf_hub_download", None)
    with pytest.raises(FileNotFoundError, match=f"'{name}' does not exist; expected a .nemo file"):
        load(name)


def test_unregistering_takes_everything_back(saved_model, cache):
    places = [*auto_model_classes(), AutoConfig, AutoFeatureExtractor, AutoTokenizer, AutoProcessor]
    ours = {place: vars(place)["from_pretrained"] for place in places}
    unregister()
    try:
        theirs = {place: vars(place)["from_pretrained"] for place in places}
        assert not any(theirs[place] is ours[place] for place in places)
        for place in places:
            assert theirs[place].__func__.__module__.startswith("transformers."), place
        with pytest.raises(ValueError, match="fastconformer_tdt"):
            AutoConfig.from_pretrained(saved_model("tdt")[1])
        with pytest.raises(ValueError, match="Unrecognized configuration class"):
            AutoModelForTDT.from_config(build_config("tdt"))
        with pytest.raises(OSError, match=r"\.nemo"):
            FastConformerModel.from_pretrained(CHECKPOINT_PATH)
        assert type(FastConformerForTDT.from_pretrained(saved_model("tdt")[1])) is FastConformerForTDT
        assert registered_sources() == {}
        # One wrapped by somebody else in the meantime is not touched, and lets everything pass.
        register()
        wrapper = vars(AutoConfig)["from_pretrained"]
        monkeyed = classmethod(lambda cls, *args, **kwargs: wrapper.__get__(None, cls)(*args, **kwargs))
        AutoConfig.from_pretrained = monkeyed
        unregister()
        assert vars(AutoConfig)["from_pretrained"] is monkeyed
        with pytest.raises(OSError, match=r"\.nemo"):
            AutoConfig.from_pretrained(CHECKPOINT_PATH)
        AutoConfig.from_pretrained = wrapper
        register()
        unregister()
        assert vars(AutoConfig)["from_pretrained"] is theirs[AutoConfig]
    finally:
        register()
    assert type(AutoConfig.from_pretrained(CHECKPOINT_PATH)) is FastConformerTDTConfig


def auto_model_classes() -> list[type]:
    """All `AutoModel...` classes of Transformers."""
    names = [name for name in dir(transformers) if name.startswith("AutoModel")]
    return [getattr(transformers, name) for name in names if "from_pretrained" in vars(getattr(transformers, name))]


@pytest.mark.parametrize("name", [str(CHECKPOINT_PATH), "org/name/model.nemo"])
def test_pipelines_do_not_take_a_nemo_file_for_a_repository(name, monkeypatch):
    """`transformers.pipeline` looks for an adapter (with PEFT) and, before 5.2x, for a configuration beside a name."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    find = transformers.pipelines.find_adapter_config_file
    assert find(name, revision="main", token=None) is None
    assert find("org/absent") is None
    unregister()
    try:
        with pytest.raises(OSError, match="Repo id must"):
            transformers.pipelines.find_adapter_config_file(name)
    finally:
        register()


def test_loggers_follow_transformers(caplog: pytest.LogCaptureFixture) -> None:
    """Levels set with `transformers.logging` hold for this package; the application's root logger is left alone."""
    ours = logging.getLogger("transformers_fastconformer.modeling.pretrained")
    handlers, level = list(logging.getLogger().handlers), transformers_logging.get_verbosity()
    try:
        for verbosity in (logging.ERROR, logging.INFO, logging.DEBUG):
            transformers_logging.set_verbosity(verbosity)
            assert ours.getEffectiveLevel() == verbosity
        transformers_logging.set_verbosity_error()
        ours.warning("not shown")
        transformers_logging.set_verbosity_info()
        ours.info("shown")
        assert [record.message for record in caplog.records] == ["shown"]
    finally:
        transformers_logging.set_verbosity(level)
    assert logging.getLogger().handlers == handlers
    root = logging.getLogger("transformers_fastconformer")
    assert root.level == logging.NOTSET
    assert root.parent is logging.getLogger("transformers")
    unregister()
    try:
        assert root.parent is logging.getLogger()
    finally:
        register()
    assert root.parent is logging.getLogger("transformers")


@pytest.mark.slow
def test_verbosity_of_the_environment() -> None:
    """`TRANSFORMERS_VERBOSITY=error` silences warnings of this package."""
    program = (
        "import logging, transformers_fastconformer\n"
        "logging.getLogger('transformers_fastconformer.nemo').warning('something')"
    )
    for verbosity, expected in (("error", ""), ("warning", "something")):
        done = subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "TRANSFORMERS_VERBOSITY": verbosity},
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stderr.strip().endswith(expected) if expected else done.stderr == ""
