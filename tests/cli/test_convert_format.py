"""The demonstration checkpoint from and to the form of Transformers' own classes, with the command and on speech."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from their_models import class_of_transformers

from transformers_fastconformer import (
    FastConformerForCTC,
    FastConformerForTDT,
    FastConformerProcessor,
    ParakeetTDTForCTC,
    ParakeetTDTForTDT,
)
from transformers_fastconformer.audio.files import read_audio
from transformers_fastconformer.checkpoints.int8_form import is_int8_checkpoint, write_int8_checkpoint
from transformers_fastconformer.cli.main import main
from transformers_fastconformer.demonstration import CHECKPOINT_PATH, CLIP_PATHS
from transformers_fastconformer.interop.reading import convert_transformers_checkpoint
from transformers_fastconformer.interop.writing import export_to_transformers
from transformers_fastconformer.nemo.convert import convert_nemo_checkpoint

CLASSES: dict[str, tuple[str, Any, Any]] = {
    "transducer": ("ParakeetForTDT", ParakeetTDTForTDT, FastConformerForTDT),
    "ctc": ("ParakeetForCTC", ParakeetTDTForCTC, FastConformerForCTC),
}


@pytest.fixture(scope="module")
def own_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demonstration checkpoint in our form."""
    folder = tmp_path_factory.mktemp("own") / "digits"
    convert_nemo_checkpoint(CHECKPOINT_PATH, folder)
    return folder


@pytest.fixture
def convert(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """Runs `fastconformer convert` in this process: exit code, and what it printed."""

    def run(*arguments: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["fastconformer", "convert", *map(str, arguments)])
        monkeypatch.setenv("COLUMNS", "120")
        code = 0
        try:
            main()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
        printed = capsys.readouterr()
        return code, printed.out + printed.err

    return run


def skip_without_feature_extractor() -> None:
    try:
        class_of_transformers("ParakeetFeatureExtractor")()
    except ImportError as error:  # older releases compute their filters with librosa
        pytest.skip(str(error).strip().splitlines()[0])


@pytest.mark.parametrize("head", CLASSES)
def test_speech_gives_the_same_text_there_here_and_back(head: str, own_folder: Path, tmp_path: Path) -> None:
    skip_without_feature_extractor()
    class_name, our_class, back_class = CLASSES[head]
    export_to_transformers(own_folder, tmp_path / "theirs", head=head)
    their_processor = class_of_transformers("AutoProcessor").from_pretrained(tmp_path / "theirs")
    theirs = class_of_transformers(class_name).from_pretrained(tmp_path / "theirs").eval()
    ours, processor = our_class.from_pretrained(own_folder).eval(), FastConformerProcessor.from_pretrained(own_folder)
    clips = [read_audio(path, 16000) for path in CLIP_PATHS]
    texts = []
    for clip in clips:
        inputs = processor(clip, sampling_rate=16000, return_tensors="pt")
        their_inputs = their_processor(clip, sampling_rate=16000)
        torch.testing.assert_close(their_inputs.input_features, inputs.input_features, rtol=0, atol=2e-5)
        (text,) = processor.batch_decode(ours.generate(**inputs))
        generated = theirs.generate(**their_inputs)
        sequences = getattr(generated, "sequences", generated)
        group = {} if head == "ctc" else {"group_tokens": False}  # older releases merge repetitions of TDT too
        assert their_processor.batch_decode(sequences, skip_special_tokens=True, **group) == [text]
        texts.append(text)
    assert all(texts)

    # A transcript becomes the labels that our processor makes of it.
    labels = their_processor(clips[0], text=texts[0], sampling_rate=16000)["labels"]
    assert labels.tolist()[0] == processor.tokenizer(texts[0])["input_ids"]

    convert_transformers_checkpoint(tmp_path / "theirs", tmp_path / "back")
    back, back_processor = (found.from_pretrained(tmp_path / "back") for found in (back_class, FastConformerProcessor))
    inputs = back_processor(clips, sampling_rate=16000, return_tensors="pt")
    assert back_processor.batch_decode(back.eval().generate(**inputs)) == texts
    assert back_processor.feature_extractor.to_dict() == processor.feature_extractor.to_dict()
    assert back_processor.tokenizer.text_options == processor.tokenizer.text_options


def test_the_command_goes_there_and_back(convert: Callable[..., tuple[int, str]], tmp_path: Path) -> None:
    skip_without_feature_extractor()
    to_theirs = ("--format", "transformers")
    code, printed = convert("--output_dir", tmp_path / "theirs", *to_theirs, "--head", "transducer")
    assert code == 0
    assert "Wrote a checkpoint of ParakeetForTDT to" in printed
    assert "Left out: the other head (ctc_head)." in printed
    assert "Left out: decoder_dropout" in printed
    code, printed = convert("--model", tmp_path / "theirs", "--output_dir", tmp_path / "ours")
    assert code == 0
    assert f"Converted {tmp_path / 'theirs'} to {tmp_path / 'ours'}." in printed
    code, printed = convert("--model", tmp_path / "ours", "--output_dir", tmp_path / "again", *to_theirs)
    assert code == 0
    for name in (
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "config.json",
        "processor_config.json",
    ):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "theirs" / name).read_bytes()
    card = (tmp_path / "theirs" / "README.md").read_text()
    assert "library_name: transformers" in card
    assert "ParakeetForTDT.from_pretrained" in card
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again", "ours", "theirs"]


REFUSED: tuple[tuple[tuple[str, ...], str], ...] = (
    (("--format", "transformers"), "has_ctc_head=True is not supported by Transformers"),
    (("--format", "onnx"), "'onnx' is not one of 'fastconformer', 'transformers'"),
    (("--head", "ctc"), "--head belongs to --format transformers"),
    (("--format", "transformers", "--head", "tdt"), "'tdt' is not one of 'transducer', 'ctc'"),
)


@pytest.mark.parametrize(("arguments", "message"), REFUSED)
def test_the_command_refuses_before_writing(
    arguments: tuple[str, ...], message: str, convert: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    code, printed = convert("--output_dir", tmp_path / "theirs", *arguments)
    assert code == 2
    assert message in printed
    assert not any(tmp_path.iterdir())


def test_the_command_refuses_what_does_not_go_with_a_folder(
    convert: Callable[..., tuple[int, str]], own_folder: Path, tmp_path: Path
) -> None:
    for arguments, message in (
        ((), "already; expected a .nemo checkpoint"),
        (("--format", "transformers", "--head", "ctc", "--verify"), "--verify belongs to a .nemo checkpoint"),
        (("--format", "transformers", "--head", "ctc", "--dtype", "bfloat16"), "--dtype bfloat16 belongs to"),
    ):
        code, printed = convert("--model", own_folder, "--output_dir", tmp_path / "theirs", *arguments)
        assert code == 2
        assert message in printed
    assert not any(tmp_path.iterdir())


def test_an_archive_beside_a_configuration_is_converted(
    convert: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    (tmp_path / "repository").mkdir()
    (tmp_path / "repository" / "digits.nemo").symlink_to(CHECKPOINT_PATH)
    (tmp_path / "repository" / "config.json").write_text('{"model_type": "parakeet_tdt"}')
    code, _ = convert("--model", tmp_path / "repository", "--output_dir", tmp_path / "ours")
    assert code == 0
    assert (tmp_path / "ours" / "model.safetensors").is_file()


@pytest.mark.parametrize("kind", ["archive", "folder", "theirs"])
def test_8_bits_are_written_from_every_form(convert: Any, own_folder: Path, tmp_path: Path, kind: str) -> None:
    sources: dict[str, Any] = {"archive": CHECKPOINT_PATH, "folder": own_folder, "theirs": tmp_path / "theirs"}
    if kind == "theirs":
        skip_without_feature_extractor()
        export_to_transformers(own_folder, sources[kind], head="transducer")
    code, printed = convert("--model", sources[kind], "--dtype", "int8", "--output_dir", tmp_path / "int8")
    assert code == 0, printed
    assert f"Stored {sources[kind]} in 8 bits in {tmp_path / 'int8'}." in printed
    assert is_int8_checkpoint(tmp_path / "int8")
    assert (tmp_path / "int8" / "tokenizer.json").is_file()
    again, message = convert("--model", tmp_path / "int8", "--dtype", "int8", "--output_dir", tmp_path / "twice")
    assert again == 1
    assert "quantized already" in message


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--dtype", "int8", "--format", "transformers"), "--dtype int8 belongs to --format fastconformer"),
        (("--format", "transformers"), "weights stored in 8 bits are not supported"),
        (("--dtype", "int8", "--verify"), "--verify belongs to a .nemo checkpoint"),
    ],
)
def test_8_bits_that_cannot_be_written_are_refused(
    convert: Any, own_folder: Path, tmp_path: Path, options: tuple[str, ...], message: str
) -> None:
    write_int8_checkpoint(own_folder, tmp_path / "int8")
    code, printed = convert("--model", tmp_path / "int8", *options, "--output_dir", tmp_path / "out")
    assert code != 0
    assert message in printed
    assert not (tmp_path / "out").exists()
