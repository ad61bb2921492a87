"""Cases of manifests, folders and options of `fastconformer transcribe`; the command ends with one of its codes."""

from __future__ import annotations

import json
import os
import random
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fuzz_audio as audio
import fuzz_folders as folders
from fuzz_bytes import ODD_NUMBERS, ODD_TEXTS, damage, odd_value, spoil_keys, spoil_values
from fuzz_cases import MAX_MESSAGE, Case, Room, rng_of

from transformers_fastconformer.cli.exit_codes import ExitCode
from transformers_fastconformer.cli.main import main
from transformers_fastconformer.writers.formats import FORMATS, MANIFEST_FORMAT

KIND = "manifest"
NAME = "manifest.jsonl"
MODEL: list[str] = []


def prepare() -> None:
    """Make a checkpoint and a clip."""
    if MODEL:
        return
    folders.prepare()
    audio.prepare()
    MODEL.append(next(name for name in folders.BASES if name.startswith("ours, ctc")))


def good_lines(clip: Path) -> list[dict[str, Any]]:
    """Lines that are transcribed."""
    return [
        {"audio_filepath": clip.name, "duration": 0.5, "text": "one"},
        {"audio_filepath": clip.name, "offset": 0.1, "duration": 0.3},
        {"audio_filepath": f"./{clip.name}", "speaker": {"name": "x", "tags": [1, 2]}},
    ]


# Mutations: bytes of a manifest


def values(rng: random.Random, lines: list[dict[str, Any]]) -> bytes:
    spoil_values(rng, lines)
    return dump(lines)


def keys(rng: random.Random, lines: list[dict[str, Any]]) -> bytes:
    spoil_keys(rng, rng.choice(lines))
    return dump(lines)


def times(rng: random.Random, lines: list[dict[str, Any]]) -> bytes:
    rng.choice(lines)[rng.choice(("offset", "duration"))] = rng.choice(ODD_NUMBERS)
    return dump(lines)


def paths(rng: random.Random, lines: list[dict[str, Any]]) -> bytes:
    """Names of audio that no file has."""
    rng.choice(lines)["audio_filepath"] = rng.choice(
        (
            *ODD_TEXTS,
            "a" * 300 + ".wav",
            "/" * 5000,
            ".",
            "..",
            "/dev/null",
            "/proc/self/mem",
            "http://",
            "http://[::1",
            "http://127.0.0.1:1/x.wav",
            "https://\udc80/x",
            "file:///x.wav",
            "HTTP://127.0.0.1:1/x.wav",
            "clip.wav\n",
            "cl\x00ip.wav",
            None,
            5,
            ["clip.wav"],
        )
    )
    return dump(lines)


def extras(rng: random.Random, lines: list[dict[str, Any]]) -> bytes:
    """Other fields of values that are hard to write."""
    deep: Any = 1
    for _ in range(rng.choice((10, 500))):
        deep = [deep]
    rng.choice(lines)[rng.choice(("x", "text", "speaker", "pred_text"))] = rng.choice((deep, "\ud800", odd_value(rng)))
    return dump(lines)


def damaged(rng: random.Random, lines: list[dict[str, Any]]) -> bytes:
    return damage(rng, dump(lines))


def text(rng: random.Random, lines: list[dict[str, Any]]) -> bytes:
    """Text that is no manifest, or a manifest in another form."""
    whole = dump(lines)
    return rng.choice(
        (
            b"",
            b"\n\n",
            b"\xef\xbb\xbf" + whole,
            whole.decode().encode("utf-16"),
            whole.replace(b"\n", b"\r\n"),
            whole.replace(b"\n", b"\r"),
            json.dumps(lines).encode(),
            json.dumps(lines, indent=1).encode(),
            b"[" * 100000,
            whole + b"{" * 50000 + b"\n",
            whole + b'{"audio_filepath": ' + b"[" * 5000 + b"]" * 5000 + b"}\n",
            whole + b'{"audio_filepath": "clip.wav", "offset": ' + b"9" * 6000 + b"}\n",
            whole + b'{"audio_filepath": "clip.wav", "x": ' + b'{"a":' * 900 + b"1" + b"}" * 900 + b"}\n",
            whole + b"\xff\xfe\n",
            whole + b"5\nnull\n[]\n",
            b"{}\n" + whole,
            b'{"audio_filepath": "clip.wav", "audio_filepath": 5}\n',
            whole * 3,
        )
    )


def dump(lines: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(line) + "\n" for line in lines).encode()


MUTATIONS: dict[str, Callable[[random.Random, list[dict[str, Any]]], bytes]] = {
    "values": values,
    "keys": keys,
    "times": times,
    "paths": paths,
    "other fields": extras,
    "damaged": damaged,
    "text": text,
}
WHOLE = "whole"
OTHER_INPUTS = ("folder", "options", WHOLE)


def make_case(seed: int, room: Room) -> Case:
    """The case of a seed."""
    rng = rng_of(KIND, seed)
    mutation = [*MUTATIONS, *OTHER_INPUTS][seed % (len(MUTATIONS) + len(OTHER_INPUTS))]
    model = room.input / "model"
    model.mkdir()
    folders.write_folder(model, folders.BASES[MODEL[0]])
    sounds = room.input / "sounds"
    sounds.mkdir()
    clip = sounds / "clip.wav"
    clip.write_bytes(audio.BASES[0].data)
    manifest = sounds / NAME
    given, given_names = [str(manifest)], [NAME, "sounds", "clip", "http"]
    options = ["--output_dir", str(room.output / "texts"), "--format", rng.choice(FORMATS)]
    if mutation in MUTATIONS:
        lines = good_lines(clip)
        manifest.write_bytes(MUTATIONS[mutation](rng, lines))
        # As far as every terminal shows them.
        texts = [str(line.get("audio_filepath")).split("://")[-1] for line in lines if isinstance(line, dict)]
        given_names += [re.match("[!-~]{0,20}", text).group() for text in texts]  # type: ignore[union-attr]
    elif mutation == WHOLE:
        # The lines are parts of one recording; other formats have a file for each.
        manifest.write_bytes(dump(good_lines(clip) if options[3] == MANIFEST_FORMAT else good_lines(clip)[:1]))
    elif mutation == "folder":
        given = [str(sounds)]
        fill_folder(rng, sounds)
    else:
        given = [str(clip)]
        options += odd_options(rng)
    if rng.random() < 0.3:
        options += ["--num_workers", rng.choice(("0", "2"))]

    def command() -> None:
        sys.argv = ["fastconformer", "transcribe", *given, "--model", str(model), "--device", "cpu", *options]
        try:
            main()
            code = 0
        except SystemExit as end:
            code = end.code or 0
        if code not in list(ExitCode):
            raise RuntimeError(f"exit code {code!r}; expected one of {sorted(ExitCode)}")

        if code != ExitCode.DONE:
            sys.stderr.flush()
            raise ValueError((room.root / "chatter").read_bytes().decode(errors="replace")[-MAX_MESSAGE:])

    names = [name for name in given_names if name] + [option[2:] for option in options if option.startswith("--")]
    return Case(KIND, seed, mutation, options[3], (command,), names, is_loud=True)


def fill_folder(rng: random.Random, folder: Path) -> None:
    """Files of odd names and kinds among the recordings."""
    whole = audio.BASES[0].data
    for _ in range(rng.choice((1, 3))):
        how = rng.randrange(8)
        name = os.fsdecode(
            rng.choice((b"\xff\xfe.wav", "é ü.wav".encode(), b"a\nb.wav", b"-x.wav", b"x" * 250 + b".wav"))
        )
        if how == 0:
            (folder / name).write_bytes(whole)
        elif how == 1:
            os.mkfifo(folder / f"pipe{rng.randrange(1000)}.wav")
        elif how == 2:
            (folder / f"link{rng.randrange(1000)}.wav").symlink_to(rng.choice(("nothing", "clip.wav", ".")))
        elif how == 3:
            (folder / f"folder{rng.randrange(1000)}.wav").mkdir()
        elif how == 4:
            (folder / "._clip.wav").write_bytes(b"Mac OS X")
        elif how == 5:
            (folder / "clip.mp3").write_bytes(rng.choice((whole, b"", rng.randbytes(999))))
        elif how == 6:
            (folder / f"x{rng.randrange(1000)}.wav").write_bytes(damage(rng, whole))
        else:
            (folder / f"{rng.randrange(1000)}.json").write_text(rng.choice(("{}", "x", "")))


def odd_options(rng: random.Random) -> list[str]:
    """Options of the command that are refused, or without effect here."""
    return rng.choice(
        (
            ["--num_workers", rng.choice(("100000", "-1", "x", "1e9"))],
            ["--batch_size", rng.choice(("0", "-1", "1000000000", "x"))],
            ["--batch_seconds", rng.choice(("0", "nan", "inf", "-1", "1e300"))],
            ["--device", rng.choice(("meta", "x", "cuda:99", "", "cpu:5"))],
            ["--strategy", rng.choice(("x", "local", "chunked"))],
            ["--chunk_length_s", rng.choice(("0", "nan", "1e-9", "1e300", "inf", "0.001"))],
            ["--stride_length_s", rng.choice(("5", "nan", "x"))],
            ["--language", rng.choice(("en", "", "x" * 5000))],
            ["--channel", rng.choice(("each", "5", "x", "99999999999999999999"))],
            ["--format", rng.choice(("x", "", "srt,vtt,txt", ","))],
            ["--head", rng.choice(("transducer", "x"))],
            ["--dtype", rng.choice(("float16", "int8", "x"))],
            ["--max_line_characters", rng.choice(("0", "-5", "1000000000"))],
            ["--max_seconds", rng.choice(("0", "nan", "1e-300"))],
        )
    )
