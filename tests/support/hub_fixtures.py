"""A Hub on loopback (`hub_server.py`) and two ways to be its client: in this process, and in one of its own."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import huggingface_hub
import pytest
import transformers.utils.hub
from hub_server import HubServer
from huggingface_hub import constants

# What would lead a client elsewhere than to the server of the tests.
FOREIGN_VARIABLES = ("HF_", "HUGGINGFACE_", "TRANSFORMERS_", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")


@pytest.fixture
def hub() -> Iterator[HubServer]:
    """A Hub without repositories."""
    with HubServer() as server:
        yield server
    assert server.unknown_paths == []


@pytest.fixture
def hf_home(tmp_path: Path) -> Path:
    """What `HF_HOME` is for the clients of this test: an empty folder."""
    folder = tmp_path / "hf-home"
    folder.mkdir()
    return folder


@pytest.fixture
def hub_environment(hub: HubServer, hf_home: Path) -> dict[str, str]:
    """Variables for a process that knows no other Hub, no token and no cache but those of this test."""
    kept = {name: value for name, value in os.environ.items() if not name.upper().startswith(FOREIGN_VARIABLES)}
    return {
        **kept,
        "HF_ENDPOINT": hub.endpoint,
        "HF_HOME": str(hf_home),
        "HF_HUB_DISABLE_XET": "1",  # uploads go by LFS; the server offers nothing else
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "NO_PROXY": "127.0.0.1",
        "OMP_NUM_THREADS": "1",
        "PYTHONWARNINGS": "ignore",
    }


@pytest.fixture
def run_python(hub_environment: dict[str, str], tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs code in a fresh process whose Hub is the server; keyword arguments are further variables."""

    def run(code: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", code],
            cwd=tmp_path,
            env={**hub_environment, **variables},
            capture_output=True,
            text=True,
            timeout=300,
        )

    return run


@pytest.fixture
def client(hub: HubServer, hf_home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """Makes the server the Hub of this process.

    `huggingface_hub` reads its settings from the environment when it is imported. They are set here as if the process
    had started with `hub_environment`: settings alone, no function of the client is replaced.
    """
    for name in list(os.environ):
        if name.upper().startswith(FOREIGN_VARIABLES):
            monkeypatch.delenv(name)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    settings = {
        "ENDPOINT": hub.endpoint,
        "HUGGINGFACE_CO_URL_TEMPLATE": hub.endpoint + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HOME": str(hf_home),
        "HF_HUB_CACHE": str(hf_home / "hub"),
        "HUGGINGFACE_HUB_CACHE": str(hf_home / "hub"),
        "HF_ASSETS_CACHE": str(hf_home / "assets"),
        "HF_TOKEN_PATH": str(hf_home / "token"),
        "HF_STORED_TOKENS_PATH": str(hf_home / "stored_tokens"),
        "HF_HUB_DISABLE_XET": True,
        "HF_HUB_DISABLE_TELEMETRY": True,
        "HF_HUB_OFFLINE": False,
    }
    for name, value in settings.items():
        monkeypatch.setattr(constants, name, value)
    monkeypatch.setattr(huggingface_hub.hf_api.api, "endpoint", hub.endpoint)
    # Transformers keeps one `HfApi`, which remembers the endpoint it was made with; older versions have none.
    monkeypatch.setattr(transformers.utils.hub, "_hf_api", None, raising=False)
    huggingface_hub.close_session()
    yield hub
    huggingface_hub.close_session()


@pytest.fixture(scope="session")
def converted_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demonstration checkpoint in our format."""
    from transformers_fastconformer.demonstration import CHECKPOINT_PATH
    from transformers_fastconformer.nemo.convert import convert_nemo_checkpoint

    return convert_nemo_checkpoint(CHECKPOINT_PATH, tmp_path_factory.mktemp("converted") / "digits").output_dir


@pytest.fixture(scope="session")
def nemo_bytes() -> bytes:
    """The demonstration checkpoint as NeMo wrote it."""
    from transformers_fastconformer.demonstration import CHECKPOINT_PATH

    return CHECKPOINT_PATH.read_bytes()


@pytest.fixture(scope="session")
def other_nemo_bytes(nemo_bytes: bytes) -> bytes:
    """The same weights with another `ctc_loss_weight` (0.4 in place of 0.3), to tell revisions and files apart."""
    output = io.BytesIO()
    with tarfile.open(fileobj=io.BytesIO(nemo_bytes)) as source, tarfile.open(fileobj=output, mode="w") as target:
        for member in source:
            content = source.extractfile(member)
            data = content.read() if content else b""
            if member.name.endswith("model_config.yaml"):
                data = data.replace(b"ctc_loss_weight: 0.3", b"ctc_loss_weight: 0.4")
            target.addfile(member, io.BytesIO(data))
    return output.getvalue()
