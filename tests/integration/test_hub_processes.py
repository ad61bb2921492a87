"""Two processes at once, and the snippets of the design, the README and the docs, as users run them."""

from __future__ import annotations

import functools
import io
import json
import logging
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch
from digits import PUBLISHED_NAME, SPARE_FILES, SPOKEN
from families import NEST_SECTIONS, STREAMING
from forks import begin_as_a_program, fork
from hub_server import HubServer
from multitask_archives import fit_head, make_canary_config, write_canary
from nemo_archives import make_members, make_nemo_config, make_nemo_tensors, write_members
from sortformer_archives import write_sortformer
from transformers import AutoModel

from transformers_fastconformer import FastConformerModel
from transformers_fastconformer.audio.files import read_audio
from transformers_fastconformer.cli.main import main
from transformers_fastconformer.demonstration import CLIP_PATHS

ROOT = Path(__file__).resolve().parent.parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```(python|bash)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# Published names; the server gives the demonstration checkpoint under each of them.
PUBLISHED = re.compile(r"nvidia/[\w.\-]+")
# Command lines that need a camera, a microphone, a data set or Docker, and those that do not end by themselves.
OF_OUTSIDE = re.compile(r"ffmpeg|microphone|openslr/|docker|fastconformer serve")

Run = Callable[..., "subprocess.CompletedProcess[str]"]

# What a user types, as the design of this package has it. `raw_audio`, `audio_lengths` and the recording are given.
SNIPPET = """
import torch
import transformers_fastconformer            # registers everything below with the Auto classes
from transformers import AutoModel, AutoFeatureExtractor, pipeline

model = AutoModel.from_pretrained("nvidia/parakeet-tdt-0.6b-v2")              # the Hub holds only a .nemo: it loads
feature_extractor = AutoFeatureExtractor.from_pretrained("nvidia/parakeet-tdt-0.6b-v2")
features = feature_extractor(raw_audio, audio_lengths=audio_lengths, sampling_rate=16000, return_tensors="pt")
outputs = model(input_features=features.input_features, attention_mask=features.attention_mask,
                input_lengths=features.input_lengths)
outputs.last_hidden_state                    # (batch, frames, hidden_size): the encoder

asr = pipeline("automatic-speech-recognition", model="nvidia/parakeet-tdt-0.6b-v2")
asr("two-hour-talk.mp3", return_timestamps="word")
"""

GIVEN = """
import torch
from transformers_fastconformer.audio.files import read_audio
from transformers_fastconformer.demonstration import CLIP_PATHS
clips = [torch.from_numpy(read_audio(path)) for path in CLIP_PATHS]
raw_audio = torch.nn.utils.rnn.pad_sequence(clips, batch_first=True)
audio_lengths = [len(clip) for clip in clips]
"""


def serve(hub: HubServer, nemo_bytes: bytes, names: set[str]) -> None:
    for name in names:
        content = nemo_bytes
        for part, make in MADE.items():
            if part in name:
                content = make()
        hub.add_repository(name, {f"{name.rsplit('/', 1)[-1]}.nemo": content, **SPARE_FILES})


@functools.cache
def canary_bytes() -> bytes:
    """A small Canary with drawn weights, for the names that the demonstration cannot stand for."""
    config = fit_head(make_canary_config(is_aggregate=False) | {"prompt_format": "canary", "prompt_defaults": None})
    with tempfile.TemporaryDirectory() as folder, torch.random.fork_rng():
        torch.manual_seed(0)
        return write_canary(Path(folder) / "canary.nemo", config).read_bytes()


@functools.cache
def sortformer_bytes() -> bytes:
    """A small Sortformer with drawn weights."""
    with tempfile.TemporaryDirectory() as folder:
        return write_sortformer(Path(folder) / "sortformer.nemo").read_bytes()


@functools.cache
def multi_talker_bytes() -> bytes:
    """A small multi-talker model with drawn weights."""
    config = make_nemo_config("rnnt")
    config["encoder"] |= {**STREAMING, "att_context_size": [12, 3]}
    config["preprocessor"]["normalize"] = "NA"
    config |= {
        "target": "nemo.collections.asr.models.multitalker_asr_models.EncDecMultiTalkerRNNTBPEModel",
        "spk_kernel_type": "ff",
        "spk_kernel_layers": [0],
    }
    content = io.BytesIO()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        write_members(content, make_members(config, make_nemo_tensors(config)))
    return content.getvalue()


@functools.cache
def nest_bytes() -> bytes:
    """A small self-supervised model with drawn weights."""
    config = make_nemo_config("ctc")
    width = config["encoder"]["d_model"]
    kept = {key: config[key] for key in ("preprocessor", "encoder", "sample_rate")}
    target = "nemo.collections.asr.models.ssl_models.EncDecDenoiseMaskedTokenPredModel"
    config = {"target": target, **kept, **NEST_SECTIONS, "decoder": {**NEST_SECTIONS["decoder"], "feat_in": width}}
    content = io.BytesIO()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        write_members(content, make_members(config, make_nemo_tensors(config)))
    return content.getvalue()


# What published names are of that the demonstration cannot stand for.
MADE = {"canary": canary_bytes, "sortformer": sortformer_bytes, "multitalker": multi_talker_bytes, "nest": nest_bytes}


def write_mp3(path: Path) -> None:
    soundfile.write(path, read_audio(CLIP_PATHS[0]), 16000, format="MP3")


def test_two_processes_at_once(client: HubServer, nemo_bytes: bytes, hf_home: Path, tmp_path: Path) -> None:
    serve(client, nemo_bytes, {PUBLISHED_NAME})
    waiting, starting = os.pipe()

    def load(name: str) -> None:
        begin_as_a_program({})
        with (tmp_path / name).open("w") as file:
            logging.getLogger("transformers").addHandler(logging.StreamHandler(file))
            os.read(waiting, 1)  # they begin in the same moment
            model = AutoModel.from_pretrained(PUBLISHED_NAME)
            print("sum", sum(parameter.double().abs().sum() for parameter in model.parameters()).item(), file=file)

    names = ("first", "second")
    children = [fork(functools.partial(load, name)) for name in names]
    os.write(starting, b"..")
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    printed = [(tmp_path / name).read_text() for name in names]
    assert codes == [0, 0], printed
    first, second = (re.findall(r"^sum (\S+)$", text, re.MULTILINE) for text in printed)
    assert first == second != []
    # One download and one conversion; nothing half-written, nothing temporary.
    assert sum(request.sent_bytes for request in client.asked("GET", ".nemo")) == len(nemo_bytes)
    assert sum("Converting" in text for text in printed) == 1
    assert len(list(hf_home.rglob("model.safetensors"))) == 1
    leftovers = [path for path in hf_home.rglob("*") if re.search(r"incomplete|converting|removed|tmp", path.name)]
    assert leftovers == []


def test_the_snippet_of_the_design(
    client: HubServer, nemo_bytes: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve(client, nemo_bytes, {PUBLISHED_NAME})
    write_mp3(tmp_path / "two-hour-talk.mp3")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(GIVEN + SNIPPET, names)
    clips, _, hidden_size = names["outputs"].last_hidden_state.shape
    assert (clips, hidden_size) == (len(CLIP_PATHS), names["model"].config.hidden_size)
    result = names["asr"]("two-hour-talk.mp3", return_timestamps="word")
    assert result["text"] == SPOKEN
    assert [chunk["text"].strip() for chunk in result["chunks"]] == SPOKEN.split()
    assert sum(request.sent_bytes for request in client.asked("GET", ".nemo")) == len(nemo_bytes)


@pytest.mark.parametrize("form", ["text", "srt"])
def test_the_command_of_the_design(client: HubServer, nemo_bytes: bytes, tmp_path, monkeypatch, capsys, form) -> None:
    line = "fastconformer transcribe talk.mp3 --model nvidia/parakeet-tdt-0.6b-v3 --format srt".replace("srt", form)
    serve(client, nemo_bytes, set(PUBLISHED.findall(line)))
    write_mp3(tmp_path / "talk.mp3")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", shlex.split(line))
    with pytest.raises(SystemExit) as finished:
        main()
    printed = capsys.readouterr()
    assert not finished.value.code, printed.err
    assert SPOKEN in " ".join(printed.out.split())
    assert ("-->" in printed.out) == (form == "srt")


@pytest.mark.nemo
def test_the_conversion_of_the_design(
    client: HubServer, nemo_bytes: bytes, tmp_path: Path, monkeypatch, capsys
) -> None:
    pytest.importorskip("nemo.collections.asr")
    line = (
        "python conversion/convert_nemo_fastconformer_to_hf.py --model_name nvidia/parakeet-tdt-0.6b-v2 "
        "--output_dir ./fastconformer-hf --verify"
    )
    serve(client, nemo_bytes, {PUBLISHED_NAME})
    monkeypatch.chdir(tmp_path)
    _, script, *arguments = shlex.split(line)
    monkeypatch.setattr("sys.argv", [script, *arguments])
    with pytest.raises(SystemExit) as finished:
        runpy.run_path(str(ROOT / script), run_name="__main__")
    printed = capsys.readouterr()
    assert not finished.value.code, printed.err
    assert "stages agree" in printed.out
    assert type(AutoModel.from_pretrained("./fastconformer-hf")) is FastConformerModel


@pytest.mark.slow
def test_the_snippet_of_the_design_offline_in_new_processes(
    hub: HubServer, nemo_bytes: bytes, run_python: Run, tmp_path: Path
) -> None:
    serve(hub, nemo_bytes, {PUBLISHED_NAME})
    write_mp3(tmp_path / "two-hour-talk.mp3")
    code = GIVEN + SNIPPET + "\nprint(tuple(outputs.last_hidden_state.shape))\nprint(asr('two-hour-talk.mp3')['text'])"
    for variables in ({}, {"HF_HUB_OFFLINE": "1"}):
        hub.forget_requests()
        result = run_python(code, **variables)
        assert result.returncode == 0, result.stderr[-3000:]
        assert result.stdout.splitlines()[-1] == SPOKEN
    assert hub.requests == []


def blocks_of(page: Path, language: str) -> list[str]:
    return [code for name, code in BLOCK.findall(page.read_text(encoding="utf-8")) if name == language]


# `tests/docs/test_pages.py` runs the examples that need no network.
PYTHON_PAGES = [page for page in PAGES if any(PUBLISHED.search(code) for code in blocks_of(page, "python"))]


def prepare_examples(page: Path, hub: HubServer, nemo_bytes: bytes, folder: Path) -> str:
    """The Python code of a page; what it loads and reads is there."""
    code = "\n".join(blocks_of(page, "python"))
    serve(hub, nemo_bytes, set(PUBLISHED.findall(code)))
    for name in {"clip.wav", *re.findall(r"[\w\-]+\.wav", code)}:
        shutil.copy(CLIP_PATHS[0], folder / name)
    for name in re.findall(r"[\w\-]+\.mp3", code):
        write_mp3(folder / name)
    return code


@pytest.mark.parametrize("page", [page for page in PYTHON_PAGES if page.stem != "README"], ids=lambda page: page.stem)
def test_python_examples_with_published_names(
    page: Path, client: HubServer, nemo_bytes: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "examples.py"
    script.write_text(prepare_examples(page, client, nemo_bytes, tmp_path), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(script), run_name="__main__")


@pytest.mark.slow
@pytest.mark.parametrize(
    "page",
    [pytest.param(page, marks=[] if page.stem == "README" else [pytest.mark.slow]) for page in PYTHON_PAGES],
    ids=lambda page: page.stem,
)
def test_python_examples_with_published_names_in_new_processes(
    page: Path, hub: HubServer, nemo_bytes: bytes, run_python: Run, tmp_path: Path
) -> None:
    """Where nothing is imported before; a process for each page takes long, so that one stands for all: `slow`."""
    result = run_python(prepare_examples(page, hub, nemo_bytes, tmp_path))
    assert result.returncode == 0, result.stderr[-3000:]


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_command_lines_with_published_names(
    page: Path, hub: HubServer, nemo_bytes: bytes, hub_environment: dict[str, str], tmp_path: Path
) -> None:
    """As they stand, without `--verify`, which needs NeMo and is tested next to it, and without other formats."""
    lines = [line for code in blocks_of(page, "bash") for line in code.splitlines() if PUBLISHED.search(line)]
    lines = [line for line in lines if not OF_OUTSIDE.search(line)]
    serve(hub, nemo_bytes, {name for line in lines for name in PUBLISHED.findall(line)})
    for line in lines:
        words = [word for word in shlex.split(line, comments=True) if word != "--verify"]
        for index, word in enumerate(words):
            if re.fullmatch(r"[\w\-]+\.(wav|mp3|flac)", word):
                words[index] = str(Path(word).with_suffix(".wav"))
                shutil.copy(CLIP_PATHS[0], tmp_path / words[index])
            elif re.fullmatch(r"[\w\-]+\.jsonl", word):
                line_of_clip = {"audio_filepath": str(CLIP_PATHS[0]), "text": SPOKEN}
                (tmp_path / word).write_text(json.dumps(line_of_clip) + "\n")
        if words[0] == "fastconformer":
            command = [sys.executable, "-m", "transformers_fastconformer.cli.main", *words[1:]]
        else:
            assert words[0] == "python", line
            command = [sys.executable, os.fspath(ROOT / words[1]), *words[2:]]
        result = subprocess.run(command, cwd=tmp_path, env=hub_environment, capture_output=True, text=True)
        assert result.returncode == 0, f"{line}: {result.stderr[-2000:]}"
