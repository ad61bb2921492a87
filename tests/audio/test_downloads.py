"""Addresses: what is downloaded whole, what is not, and files of this machine."""

from __future__ import annotations

import errno
import io
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from transformers_fastconformer.audio.downloads import copy_stream, download, download_audio, is_url, local_path
from transformers_fastconformer.audio.files import AudioFile, find_file, load_waveform, read_audio

CONTENT = bytes(range(256)) * 2000


class Server(BaseHTTPRequestHandler):
    """The path says how the content is sent."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        how = self.path.strip("/")
        is_as_wanted = self.headers["Accept-Encoding"] == "identity" and " " not in self.path
        self.send_response(404 if how == "missing" or not is_as_wanted else 200)
        if how == "zipped":
            self.send_header("Content-Encoding", "gzip")
        if how == "empty":
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if "chunked" in how:
            self.send_header("Transfer-Encoding", "chunked")
        elif how != "until-closed":
            self.send_header("Content-Length", str(len(CONTENT)))
        self.send_header("Connection", "close")
        self.end_headers()
        if "chunked" in how:
            self.wfile.write(b"%x\r\n" % len(CONTENT))
        self.wfile.write(CONTENT[: len(CONTENT) // 2] if "half" in how else CONTENT)
        if how == "chunked":
            self.wfile.write(b"\r\n0\r\n\r\n")
        self.close_connection = True

    def log_message(self, *arguments: Any) -> None:
        pass


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    httpd = HTTPServer(("127.0.0.1", 0), Server)
    thread = threading.Thread(target=httpd.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield f"127.0.0.1:{httpd.server_port}"
    httpd.shutdown()
    httpd.server_close()


@pytest.mark.parametrize("how", ["whole", "chunked", "until-closed"])
@pytest.mark.parametrize("scheme", ["http", "HTTP", "Http"])
def test_whole_downloads(how: str, scheme: str, server: str) -> None:
    assert download_audio(f"{scheme}://{server}/{how}") == CONTENT


def test_broken_downloads(server: str) -> None:
    half = len(CONTENT) // 2
    with pytest.raises(
        ValueError, match=f"/half was not downloaded whole: .* announces {2 * half} bytes, {half} came"
    ):
        AudioFile(f"HTTP://{server}/half")
    with pytest.raises(ValueError, match=r"/chunked-half cannot be downloaded; .* IncompleteRead"):
        download_audio(f"http://{server}/chunked-half")
    with pytest.raises(ValueError, match=r"/missing cannot be downloaded; .* 404"):
        download_audio(f"http://{server}/missing")


def test_bodies_that_are_no_file(server: str) -> None:
    with pytest.raises(ValueError, match=rf"'http://{server}/empty' is empty \(0 bytes\); expected an audio file"):
        AudioFile(f"http://{server}/empty")
    with pytest.raises(ValueError, match="/zipped is sent with Content-Encoding: gzip; expected the file as it is"):
        download_audio(f"http://{server}/zipped")


@pytest.mark.parametrize("path", ["grüße.wav", "a b.wav?x=ä&y=[1]", "%C3%A4.wav#ü", "50%25.wav"])
def test_characters_that_are_not_ascii(path: str, server: str) -> None:
    assert download_audio(f"http://{server}/{path}") == CONTENT


def test_addresses() -> None:
    for url in ("http://x", "https://x/y.wav", "HTTPS://X", "hTTp://x"):
        assert is_url(url)
    for other in ("file:///x", "http:/x", "x.wav", b"http://x", 3, None):
        assert not is_url(other)
    assert local_path("file:///tmp/a%20b.wav") == "/tmp/a b.wav"
    assert local_path("FILE://localhost/tmp/x.wav") == "/tmp/x.wav"
    assert local_path("x.wav") == "x.wav"
    assert local_path(Path("x.wav")) == Path("x.wav")
    with pytest.raises(ValueError, match="names a file of the machine 'server'; expected file:///PATH"):
        local_path("file://server/x.wav")


def test_files_by_their_address(tmp_path: Path) -> None:
    soundfile = pytest.importorskip("soundfile", reason="the extra `audio` is not installed")
    path = tmp_path / "a b.wav"
    soundfile.write(path, np.linspace(-0.5, 0.5, 1000), 16000)
    address = path.as_uri()
    assert "%20" in address
    assert find_file(address) == str(path)
    assert np.array_equal(read_audio(address), read_audio(path))
    assert np.array_equal(load_waveform({"path": address}), read_audio(path))


class FullDisk(io.BytesIO):
    def write(self, content: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")


class BrokenPipe(io.BytesIO):
    def read(self, num_bytes: int | None = -1) -> bytes:
        raise OSError(errno.EIO, "Input/output error")


def test_errors_of_the_system_name_the_file(server: str) -> None:
    url = f"http://{server}/whole"
    with pytest.raises(
        OSError, match=f"'{url}' cannot be copied to a temporary file: No space left on device"
    ) as error:
        download(url, FullDisk())
    assert error.value.errno == errno.ENOSPC
    with pytest.raises(OSError, match="x cannot be copied to a temporary file: No space left on device"):
        copy_stream(io.BytesIO(b"abc"), FullDisk(), "x")
    with pytest.raises(OSError, match="x cannot be read: Input/output error"):
        copy_stream(BrokenPipe(), io.BytesIO(), "x")
