"""A Canary archive through every door: `transcribe`, files, the pipeline and the command, in every format."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from multitask_archives import (
    SYMBOLS,
    fit_head,
    make_canary_config,
    make_canary_tensors,
    write_canary,
    write_timed_canary,
)
from transformers import pipeline
from typer.testing import CliRunner

from transformers_fastconformer import (
    DecodingOptions,
    SearchOptions,
    convert_nemo_checkpoint,
    load_model,
    transcribe,
    transcribe_file,
)
from transformers_fastconformer.cli.main import app
from transformers_fastconformer.writers.formats import FORMATS

RATE = 16000
RNG = np.random.default_rng(0)


@pytest.fixture(scope="module", params=["aggregate", "single"])
def folder(request: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive with drawn weights, whose texts have no sense."""
    folder = tmp_path_factory.mktemp("canary")
    config = make_canary_config(request.param == "aggregate") | {"prompt_format": "canary", "prompt_defaults": None}
    config = fit_head(config)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        tensors = make_canary_tensors(config)
    return write_canary(folder / "canary.nemo", config, tensors)


@pytest.fixture(scope="module")
def long_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fifty seconds, which are more than a window."""
    soundfile = pytest.importorskip("soundfile")
    path = tmp_path_factory.mktemp("audio") / "long.wav"
    bursts = [np.concatenate([RNG.normal(0, 0.1, RATE), np.zeros(RATE // 2)]) for _ in range(34)]
    soundfile.write(path, np.concatenate(bursts).astype(np.float32), RATE)
    return path


def test_every_door_gives_the_same_text(folder: Path, long_path: Path) -> None:
    model, processor = load_model(folder, device="cpu")
    (short,) = [np.asarray(RNG.normal(0, 0.1, 3 * RATE), dtype=np.float32)]
    expected = transcribe(short, (model, processor), source_lang="de", target_lang="en", timestamps=False)
    recognize = pipeline("automatic-speech-recognition", model=model, processor=processor)
    options = {"source_lang": "de", "target_lang": "en", "task": "translate", "num_beams": 1}
    assert recognize(short, generate_kwargs=options)["text"] == expected.text
    with pytest.raises(ValueError, match=r"num_return_sequences=2 .* expected 1, in the pipeline; the"):
        recognize(short, generate_kwargs={"num_beams": 2, "num_return_sequences": 2})
    features = processor(short, sampling_rate=RATE)
    tokens = model.generate(**features, source_lang="de", target_lang="en")
    assert processor.batch_decode(tokens)[0].strip() == expected.text
    assert model.generate(**features, source_lang="de", target_lang="en", num_beams=2).shape[0] == 1
    found = transcribe_file(model, processor, long_path)
    assert found.strategy == "chunked"
    assert list(found.timestamps or {}) == ["segment"]
    result = recognize(str(long_path), return_timestamps=True)
    assert result["text"] == found.text
    assert [chunk["text"] for chunk in result["chunks"]] == [item["segment"] for item in found.timestamps["segment"]]


def test_every_door_searches_alike(folder: Path, long_path: Path, tmp_path: Path) -> None:
    model, processor = load_model(folder, device="cpu")
    short = np.asarray(RNG.normal(0, 0.1, 3 * RATE), dtype=np.float32)
    soundfile = pytest.importorskip("soundfile")
    soundfile.write(tmp_path / "short.wav", short, RATE, subtype="FLOAT")
    recognize = pipeline("automatic-speech-recognition", model=model, processor=processor)
    texts = set()
    for search in ({}, {"num_beams": 3}, {"num_beams": 2, "no_repeat_ngram_size": 2}):
        expected = processor.batch_decode(model.generate(**processor(short, sampling_rate=RATE), **search))[0].strip()
        texts.add(expected)
        assert transcribe(short, (model, processor), timestamps=False, **search).text == expected
        assert recognize(short, generate_kwargs=search)["text"] == expected
        options = DecodingOptions(search=SearchOptions(**search))
        assert transcribe(tmp_path / "short.wav", (model, processor), decoding=options).text == expected
    assert len(texts) > 1
    arguments = ["transcribe", str(tmp_path / "short.wav"), "--model", str(folder), "--device", "cpu"]
    result = CliRunner().invoke(
        app, [*arguments, "--num_beams", "3", "--format", "json", "--output_dir", str(tmp_path)]
    )
    assert result.exit_code == 0, result.output
    written = json.loads((tmp_path / "short.json").read_text(encoding="utf-8"))
    assert written["text"] == transcribe(short, (model, processor), num_beams=3).text
    assert written["options"]["num_beams"] == 3
    assert written["confidence"] is not None
    with pytest.raises(ValueError, match=r"temperature=0\.5 is not supported; expected None without do_sample=True"):
        recognize(short, generate_kwargs={"temperature": 0.5})
    with pytest.raises(ValueError, match="generate_kwargs has num_beam; expected some of"):
        recognize(short, generate_kwargs={"num_beam": 3})


def test_beams_of_the_checkpoint_and_times_have_every_format(tmp_path: Path) -> None:
    soundfile = pytest.importorskip("soundfile")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        path = write_timed_canary(tmp_path / "timed.nemo")
    convert_nemo_checkpoint(path, tmp_path / "timed")
    config = json.loads((tmp_path / "timed" / "config.json").read_text())
    (tmp_path / "timed" / "config.json").write_text(json.dumps(config | {"beam_size": 2}))
    soundfile.write(tmp_path / "a.wav", RNG.normal(0, 0.1, 4 * RATE).astype(np.float32), RATE)
    arguments = ["transcribe", str(tmp_path / "a.wav"), "--model", str(tmp_path / "timed"), "--device", "cpu"]
    result = CliRunner().invoke(
        app, [*arguments, "--format", ",".join(FORMATS), "--output_dir", str(tmp_path / "out")]
    )
    assert result.exit_code == 0, result.output
    assert {path.suffix[1:] for path in (tmp_path / "out").iterdir() if path.stem == "a"} >= set(FORMATS)


def test_other_heads_refuse_a_search_by_name() -> None:
    with pytest.raises(ValueError, match=r"search=SearchOptions.*is not supported by a model with a TDT head"):
        transcribe("absent.wav", "demo", do_sample=True)


def test_the_command_writes_every_format(folder: Path, long_path: Path, tmp_path: Path) -> None:
    formats = [name for name in FORMATS if name != "ctm"]
    arguments = [
        "transcribe",
        str(long_path),
        "--model",
        str(folder),
        "--output_dir",
        str(tmp_path),
        "--device",
        "cpu",
    ]
    arguments += ["--source_lang", "de", "--target_lang", "en", "--task", "translate", "--no_pnc", "--format"]
    result = CliRunner().invoke(app, [*arguments, ",".join(formats)])
    assert result.exit_code == 0, result.output
    assert {path.suffix for path in tmp_path.iterdir() if path.is_file() and not path.name.startswith(".")} >= {
        f".{name}" for name in formats
    }
    described = json.loads((tmp_path / "long.json").read_text(encoding="utf-8"))
    assert described["options"]["source_lang"] == "de"
    assert described["model"]["head"] == "multitask"
    result = CliRunner().invoke(app, [*arguments, "ctm"])
    assert result.exit_code == 1
    assert "needs the times of words" in result.output


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"source_lang": "xx"}, r"source_lang='xx' is not supported by this model; expected one of \['de', 'en'\]"),
        ({"context": "so"}, "context='so' is not supported by prompts of the format 'canary'"),
        ({"timestamps": "word"}, "timestamps='word' is not supported for a model without time tokens"),
        ({"strategy": "local"}, "strategy='local'"),
        ({"head": "ctc"}, "head='ctc' is not supported; expected 'auto'"),
        ({"task": "translate"}, "task='translate' is not supported from source_lang='en' to target_lang='en'"),
    ],
)
def test_refusals_come_before_audio(folder: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        transcribe("absent.wav", folder, **options)


def test_empty_and_silent_clips_have_a_text(folder: Path) -> None:
    model = load_model(folder, device="cpu")
    for samples in (1, 100, RATE):
        found = transcribe(np.zeros(samples, dtype=np.float32), model)
        assert isinstance(found.text, str)
        assert (samples > 100) or found.text == ""
    assert set(SYMBOLS) >= {"<|en|>", "<|de|>"}


def test_bad_prompts_are_refused_alike_at_every_door(folder: Path, tmp_path: Path) -> None:
    soundfile = pytest.importorskip("soundfile")
    model, processor = load_model(folder, device="cpu")
    silence = np.zeros(RATE, dtype=np.float32)
    soundfile.write(tmp_path / "silence.wav", silence, RATE)
    features = processor(silence, sampling_rate=RATE)
    recognize = pipeline("automatic-speech-recognition", model=model, processor=processor)
    bad = {"source_lang": "xx"}
    for call in (
        lambda: transcribe(silence, (model, processor), **bad),
        lambda: transcribe_file(model, processor, tmp_path / "silence.wav", **bad),
        lambda: recognize(silence, generate_kwargs=bad),
        lambda: model.generate(**features, **bad),
        lambda: processor(silence, text="so", sampling_rate=RATE, **bad),
    ):
        with pytest.raises(
            ValueError, match=r"source_lang='xx' is not supported by this model; expected one of \['de'"
        ):
            call()
    arguments = ["transcribe", str(tmp_path / "silence.wav"), "--model", str(folder), "--source_lang", "xx"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code != 0
    assert "expected one of ['de', 'en']" in " ".join(f"{result.output} {result.exception}".split())


def test_empty_clips_are_alike_at_every_door(folder: Path, tmp_path: Path) -> None:
    soundfile = pytest.importorskip("soundfile")
    model, processor = load_model(folder, device="cpu")
    recognize = pipeline("automatic-speech-recognition", model=model, processor=processor)
    tiny = np.zeros(1, dtype=np.float32)
    soundfile.write(tmp_path / "tiny.wav", tiny, RATE)
    assert transcribe_file(model, processor, tmp_path / "tiny.wav").text == ""
    assert recognize(tiny) == {"text": ""}
    assert recognize(tiny, return_timestamps=True) == {"text": "", "chunks": []}
    assert processor.batch_decode(model.generate(**processor(tiny, sampling_rate=RATE))) == [""]
    assert transcribe(tiny, (model, processor), num_beams=2).text == ""
    for call in (
        lambda: transcribe(tiny[:0], (model, processor)),
        lambda: recognize(tiny[:0]),
        lambda: processor(tiny[:0], sampling_rate=RATE),
    ):
        with pytest.raises(ValueError, match="empty"):
            call()
