"""Cases of `.nemo` archives: damaged, dishonest and hostile ones, inspected, converted, loaded and used."""

from __future__ import annotations

import copy
import gzip
import io
import json
import os
import random
import struct
import tarfile
import tempfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import fuzz_pickles as pickles
import numpy as np
import torch
import yaml
from families import WORDPIECES
from fuzz_bytes import cut, damage, flip_bits, lose_a_part, odd_value, splice, spoil_keys, spoil_values
from fuzz_cases import Case, LeftoverError, Room, SilentChangeError, rng_of
from nemo_archives import make_nemo_config, make_nemo_tensors, write_members
from sentencepiece_models import train_sentencepiece_model

from transformers_fastconformer.inference.loading import load_model
from transformers_fastconformer.inference.transcribe import transcribe
from transformers_fastconformer.nemo.convert import convert_nemo_checkpoint
from transformers_fastconformer.nemo.inspection import inspect_checkpoint

KIND = "archive"
NAME = "model.nemo"
CONFIG, WEIGHTS, MODEL, VOCABULARY = "model_config.yaml", "model_weights.ckpt", "abc_tokenizer.model", "abc_vocab.txt"
CLIP = (0.05 * np.random.default_rng(0).standard_normal(9600)).astype(np.float32)
BPE_TARGETS = {
    "ctc": "nemo.collections.asr.models.ctc_bpe_models.EncDecCTCModelBPE",
    "rnnt": "nemo.collections.asr.models.rnnt_bpe_models.EncDecRNNTBPEModel",
    "tdt": "nemo.collections.asr.models.rnnt_bpe_models.EncDecRNNTBPEModel",
    "hybrid_rnnt_ctc": "nemo.collections.asr.models.hybrid_rnnt_ctc_bpe_models.EncDecHybridRNNTCTCBPEModel",
    "hybrid_tdt_ctc": "nemo.collections.asr.models.hybrid_rnnt_ctc_bpe_models.EncDecHybridRNNTCTCBPEModel",
}
# Kind and tokenizer of the whole archives.
CORPUS = (
    ("ctc", "characters"),
    ("ctc", "wordpiece"),
    ("rnnt", "bpe"),
    ("tdt", "characters"),
    ("tdt", "unigram with bytes"),
    ("hybrid_rnnt_ctc", "aggregate"),
    ("hybrid_tdt_ctc", "bpe"),
)
BLOCK = 512
ODD_NAMES = (
    *(
        "../../outside/x",
        "/tmp/fuzz-was-here",
        "a/../../x",
        "",
        ".",
        "..",
        "C:\\x",
        "..\\x",
        "x\ny",
        "model_config.yaml/",
    ),
    *(
        "\udcff\udcfe",
        "a" * 99,
        "./././model_config.yaml",
        "MODEL_CONFIG.YAML",
        "é.ckpt",
        "nul",
        "model_weights.ckpt ",
    ),
)


@dataclass(frozen=True)
class Base:
    """
    A whole archive.

    Args:
        name: Its kind and tokenizer.
        config: Its configuration.
        tensors: Its weights.
        weights: The same as bytes, by whether they are PyTorch's older pickle.
        artifacts: The other members.
        files: Files of its conversion.
    """

    name: str
    config: dict[str, Any]
    tensors: dict[str, torch.Tensor]
    weights: dict[bool, bytes]
    artifacts: dict[str, bytes]
    files: dict[str, bytes] = field(default_factory=dict)


@dataclass
class Mutant:
    """
    A damaged archive.

    Args:
        data: Its bytes.
        names: Names that errors may have beside that of the file.
        held: What a checksum holds, which must be equal or refused: `"all"`, `"tensors"` or None.
        write: Writes it, in place of `data`.
    """

    data: bytes = b""
    names: list[str] = field(default_factory=list)
    held: str | None = None
    write: Callable[[Path], Any] | None = None


class Draft:
    """
    A whole archive that is about to be damaged.

    Args:
        rng: Random numbers of the case.
        base: The archive.
        room: Folders of the case.
        is_gzip, is_legacy: Its container, and the form of its weights.
    """

    def __init__(self, rng: random.Random, base: Base, room: Room, is_gzip: bool, is_legacy: bool) -> None:
        self.rng, self.base, self.room, self.is_gzip, self.is_legacy = rng, base, room, is_gzip, is_legacy

    def members(self, **changed: bytes | None) -> list[tuple[str, bytes]]:
        """Names and bytes; `config`, `weights` and `artifact` replace what is there."""
        config = changed.get("config")
        weights = changed.get("weights")
        if config is None:
            config = yaml.safe_dump(self.base.config, sort_keys=False).encode()
        members = [
            (f"./{CONFIG}", config),
            (f"./{WEIGHTS}", self.base.weights[self.is_legacy] if weights is None else weights),
        ]
        for name, content in self.base.artifacts.items():
            other = changed.get("artifact")
            members.append((f"./{name}", content if other is None else other))
        return members

    def pack(self, members: list[Any]) -> bytes:
        """The archive of some members."""
        buffer = io.BytesIO()
        write_members(buffer, members)
        return gzip.compress(buffer.getvalue(), 1, mtime=0) if self.is_gzip else buffer.getvalue()

    def with_config(self, config: Any, names: list[str] | None = None) -> Mutant:
        """A mutant of another configuration."""
        text = config if isinstance(config, bytes) else yaml.safe_dump(config, sort_keys=False).encode()
        return Mutant(self.pack(self.members(config=text)), [CONFIG, *(names or [])])

    def with_weights(self, weights: bytes, names: list[str] | None = None, held: str | None = None) -> Mutant:
        """A mutant of other weights."""
        return Mutant(self.pack(self.members(weights=weights)), [WEIGHTS, *(names or [])], held)

    @property
    def config(self) -> dict[str, Any]:
        """The configuration, to be changed."""
        return copy.deepcopy(self.base.config)


BASES: list[Base] = []


def prepare() -> None:
    """Build the whole archives and convert them."""
    if BASES:
        return
    for kind, tokenizer in CORPUS:
        config, artifacts = with_tokenizer(make_nemo_config(kind), kind, tokenizer)
        tensors = make_nemo_tensors(config)
        weights = {is_legacy: pickles.save(tensors, is_legacy) for is_legacy in (False, True)}
        base = Base(f"{kind}, {tokenizer}", config, tensors, weights, artifacts)
        with tempfile.TemporaryDirectory() as folder:
            room = Room(Path(folder))
            path = room.root / NAME
            path.write_bytes((draft := Draft(random.Random(0), base, room, False, False)).pack(draft.members()))
            convert_nemo_checkpoint(path, room.output)
            base.files.update({path.name: path.read_bytes() for path in sorted(room.output.iterdir())})
            if not BASES:  # so that what loading needs is imported before the first fork
                transcribe(CLIP, load_model(room.output), timestamps=False)
        BASES.append(base)


def with_tokenizer(config: dict[str, Any], kind: str, tokenizer: str) -> tuple[dict[str, Any], dict[str, bytes]]:
    """A configuration with another tokenizer, and its members."""
    if tokenizer == "characters":
        return config, {}
    vocabulary = {"dir": "x", "type": "wpe", "vocab_path": f"nemo:{VOCABULARY}"}
    pieces = {"dir": "x", "type": "bpe", "model_path": f"nemo:{MODEL}"}
    model = train_sentencepiece_model()
    count = 150
    if tokenizer == "unigram with bytes":
        model = train_sentencepiece_model(model_type="unigram", byte_fallback=True, vocab_size=400)
        count = piece_count(model)
    section, artifacts = {
        "bpe": (pieces, {MODEL: model}),
        "unigram with bytes": (pieces, {MODEL: model}),
        "wordpiece": (vocabulary, {VOCABULARY: wordpieces()}),
        "aggregate": (
            {"dir": None, "type": "agg", "langs": {"en": pieces, "de": vocabulary}},
            {MODEL: model, VOCABULARY: wordpieces()},
        ),
    }[tokenizer]
    count = {"wordpiece": len(WORDPIECES), "aggregate": piece_count(model) + len(WORDPIECES)}.get(
        tokenizer, piece_count(model)
    )
    del config["labels"]
    config |= {"target": BPE_TARGETS[kind], "tokenizer": section}
    heads = [config["decoder"]] if kind == "ctc" else []
    if "aux_ctc" in config:
        heads.append(config["aux_ctc"]["decoder"])
    for head in heads:
        head.pop("vocabulary")
        head["num_classes"] = count
    if kind != "ctc":
        config["decoder"]["vocab_size"] = count
        config["joint"]["num_classes"] = count
    return config, artifacts


def wordpieces() -> bytes:
    return ("\n".join(WORDPIECES) + "\n").encode()


def parse_pieces(model: bytes) -> Any:
    """The protocol buffer of a SentencePiece model."""
    from sentencepiece import sentencepiece_model_pb2

    proto = sentencepiece_model_pb2.ModelProto()
    proto.ParseFromString(model)
    return proto


def piece_count(model: bytes) -> int:
    return len(parse_pieces(model).pieces)


# Mutations


def whole(draft: Draft) -> Mutant:
    """No damage."""
    return Mutant(draft.pack(draft.members()), held="all")


def raw(damage_of: Callable[[random.Random, bytes], bytes], draft: Draft) -> Mutant:
    """Damage to the bytes of the archive."""
    whole = draft.pack(draft.members())
    return Mutant(damage_of(draft.rng, whole), [CONFIG, WEIGHTS], held_by(draft))


def held_by(draft: Draft) -> str | None:
    """What checksums of the container or of the weights hold."""
    return "all" if draft.is_gzip else None if draft.is_legacy else "tensors"


def gzip_trailer(draft: Draft) -> Mutant:
    """Damage to the ends of a gzip stream, or another stream after it."""
    draft.is_gzip = True
    whole, rng = draft.pack(draft.members()), draft.rng
    spoiled = rng.choice(
        (
            lambda: whole[:-8] + flip_bits(rng, whole[-8:]),
            lambda: whole[: -rng.randrange(1, 9)],
            lambda: whole + gzip.compress(b"x" * rng.choice((1, 5000)), mtime=0),
            lambda: whole + rng.randbytes(20),
            lambda: flip_bits(rng, whole[:10]) + whole[10:],
            lambda: whole[:3] + bytes([rng.choice((1, 2, 4, 8, 16, 31, 255))]) + whole[4:],
            lambda: gzip.compress(whole, mtime=0),
            lambda: b"\x1f\x8b\x08" + bytes(7) + pickles.repeat_bomb(3 * 2**30) + bytes(8),
            lambda: b"\x1f\x8b" + zlib.compress(whole),
        )
    )()
    return Mutant(spoiled, held="all")


def tar_header(draft: Draft) -> Mutant:
    """A header that lies, with a right checksum."""
    rng = draft.rng
    is_gzip, draft.is_gzip = draft.is_gzip, False
    data = bytearray(draft.pack(draft.members()))
    heads = []
    place = 0
    while place < len(data) and data[place]:
        heads.append(place)
        size = int(bytes(data[place + 124 : place + 135]), 8)
        place += BLOCK + -(-size // BLOCK) * BLOCK
    place = rng.choice(heads)
    numbers = (
        b"77777777777\0",
        b"\x80" + b"\xff" * 11,
        b"\xff" * 12,
        b"-0000000001\0",
        b"garbage\0\0\0\0\0",
        bytes(12),
    )
    numbers += (b"\x80" + b"\x00" * 6 + b"\x01\x00\x00\x00\x00", b"00000000001\0")
    names = [name.encode("utf-8", "surrogateescape")[:100] for name in ODD_NAMES]
    offset, width, values = rng.choice(
        (
            (124, 12, numbers),
            (124, 12, numbers),
            (136, 12, numbers),
            (0, 100, names),
            (156, 1, [bytes([value]) for value in b"01234567xgLKSMVDAN\x00\xff"]),
            (157, 100, names),
            (345, 155, names),
            (257, 8, (b"ustar  \0", b"ustar\x0000", b"\xff" * 8, bytes(8))),
            (100, 8, (b"garbage\0", b"\xff" * 8, bytes(8))),
        )
    )
    data[place + offset : place + offset + width] = rng.choice(values).ljust(width, b"\0")[:width]
    data[place + 148 : place + 156] = b" " * 8
    checksum = sum(data[place : place + BLOCK])
    data[place + 148 : place + 156] = f"{checksum:06o}\0 ".encode()
    return Mutant(gzip.compress(bytes(data), 1, mtime=0) if is_gzip else bytes(data), [CONFIG, WEIGHTS, "member"])


def tar_extras(draft: Draft) -> Mutant:
    """Members of other forms: sparse, with records of their own, links, devices."""
    rng = draft.rng
    info = tarfile.TarInfo(rng.choice((f"./{WEIGHTS}", f"./{CONFIG}", "x")))
    info.pax_headers = rng.choice(
        (
            {"size": rng.choice(("1", "-1", "x", str(10**12), str(10**30), ""))},
            {"path": rng.choice(("../../x", "/x", "", "\udcff", "x" * 5000))},
            {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": str(10**12)},
            {"GNU.sparse.map": "0,1,999999999999,1", "GNU.sparse.size": str(10**12)},
            {"GNU.sparse.size": "x", "GNU.sparse.major": "1", "GNU.sparse.minor": "0"},
            {"GNU.sparse.name": "../x", "GNU.sparse.major": "9"},
            {"linkpath": "/etc/passwd"},
            {"charset": "BINARY", "hdrcharset": "x"},
            {"mtime": rng.choice(("nan", "x", "1e400"))},
        )
    )
    info.type = rng.choice(
        (tarfile.REGTYPE,) * 3 + (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE)
    )
    info.linkname = rng.choice(("", "../../outside/x", "/etc/passwd", f"./{CONFIG}"))
    buffer = io.BytesIO()
    content = rng.choice((b"", b"1\n0\n1\n999999999999\n1\n".ljust(BLOCK, b"\0"), rng.randbytes(600)))
    if info.isreg():
        info.size = len(content)
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, data in draft.members():
            if name == info.name:
                continue
            plain = tarfile.TarInfo(name)
            plain.size = len(data)
            tar.addfile(plain, io.BytesIO(data))
        tar.addfile(info, io.BytesIO(content) if info.isreg() else None)
    data = buffer.getvalue()
    return Mutant(gzip.compress(data, 1, mtime=0) if draft.is_gzip else data, [CONFIG, WEIGHTS])


def old_sparse(draft: Draft) -> Mutant:
    """A sparse member in GNU's older form, of a terabyte with some bytes in it."""
    is_gzip, draft.is_gzip = draft.is_gzip, False
    data = bytearray(draft.pack(draft.members()))
    name = draft.rng.choice((WEIGHTS, CONFIG))
    place = bytes(data).index(f"./{name}".encode())
    data[place + 156 : place + 157] = b"S"
    data[place + 257 : place + 265] = b"ustar  \0"
    real = draft.rng.choice((10**12, 10**9, 2**62))
    size = int(bytes(data[place + 124 : place + 135]), 8)
    data[place + 386 : place + 398] = f"{real - size:011o}\0".encode()[-12:].rjust(12, b"0")
    data[place + 398 : place + 410] = f"{size:011o}\0".encode()
    data[place + 482] = 0
    data[place + 483 : place + 495] = f"{real % 8**11:011o}\0".encode()
    data[place + 148 : place + 156] = b" " * 8
    data[place + 148 : place + 156] = f"{sum(data[place : place + BLOCK]):06o}\0 ".encode()
    return Mutant(gzip.compress(bytes(data), 1, mtime=0) if is_gzip else bytes(data), [CONFIG, WEIGHTS])


def members(draft: Draft) -> Mutant:
    """Members swapped, lost, doubled, emptied, renamed or added."""
    rng, whole = draft.rng, draft.members()
    one = rng.randrange(len(whole))
    name, content = whole[one]
    how = rng.randrange(7)
    if how == 0:
        del whole[one]
    elif how == 1:
        whole.append((rng.choice((name, name.removeprefix("./"), f"././{name}")), rng.choice((content, b"x"))))
    elif how == 2:
        whole[one] = (name, b"")
    elif how == 3:
        whole[one] = (rng.choice(ODD_NAMES), content)
    elif how == 4:
        (first, a), (second, b) = whole[0], whole[1]
        whole[:2] = [(first, b), (second, a)]
    elif how == 5:
        whole += [(f"./x{number}", b"") for number in range(rng.choice((3, 5000)))]
    else:
        whole.reverse()
    return Mutant(draft.pack(whole), [CONFIG, WEIGHTS, MODEL, VOCABULARY])


def weights_damaged(damage_of: Callable[[random.Random, bytes], bytes], draft: Draft) -> Mutant:
    """Damage to the bytes of the weights in a whole archive."""
    held = None if draft.is_legacy else "tensors"
    return draft.with_weights(damage_of(draft.rng, draft.base.weights[draft.is_legacy]), held=held)


def zipped(change: Callable[[random.Random, bytes], bytes], held: str | None, draft: Draft) -> Mutant:
    """Changes of weights in the zip format."""
    return draft.with_weights(change(draft.rng, draft.base.weights[False]), held=held)


def hostile_pickle(make: Callable[[random.Random], bytes], draft: Draft) -> Mutant:
    """Weights that are another pickle, in a zip or as they are."""
    content = make(draft.rng)
    if not draft.is_legacy:
        content = pickles.replace_pickle(draft.base.weights[False], content)
    return draft.with_weights(content)


def tensors(draft: Draft) -> Mutant:
    """Other tensors, saved as usual."""
    state: dict[Any, torch.Tensor] = dict(draft.base.tensors)
    names = pickles.spoil_state(draft.rng, state)
    return draft.with_weights(pickles.save(state, draft.is_legacy), names)


def front_end(draft: Draft) -> Mutant:
    """Another filterbank or window."""
    state = dict(draft.base.tensors)
    name = draft.rng.choice([name for name in state if name.startswith("preprocessor")])
    state[name] = pickles.odd_tensor(draft.rng, state[name])
    return draft.with_weights(pickles.save(state, draft.is_legacy), [name])


def config_values(draft: Draft) -> Mutant:
    config = draft.config
    names = spoil_values(draft.rng, config)
    return draft.with_config(config, names)


def config_keys(draft: Draft) -> Mutant:
    config = draft.config
    names = spoil_keys(draft.rng, config)
    return draft.with_config(config, names)


def config_sizes(draft: Draft) -> Mutant:
    """Sizes that a model of this size does not have."""
    config, rng = draft.config, draft.rng
    keys = [
        ("encoder", "n_layers"),
        ("encoder", "d_model"),
        ("encoder", "n_heads"),
        ("encoder", "conv_kernel_size"),
        ("encoder", "subsampling_conv_channels"),
        ("encoder", "subsampling_factor"),
        ("encoder", "feat_in"),
        ("encoder", "ff_expansion_factor"),
        ("encoder", "pos_emb_max_len"),
        ("encoder", "att_context_size"),
        ("preprocessor", "features"),
        ("preprocessor", "n_fft"),
        ("preprocessor", "pad_to"),
        ("preprocessor", "window_size"),
        ("preprocessor", "window_stride"),
        ("preprocessor", "sample_rate"),
        ("preprocessor", "frame_splicing"),
        ("decoder", "num_classes"),
        ("decoder", "vocab_size"),
    ]
    section, key = rng.choice(keys)
    value = rng.choice((0, 1, 2, 3, 31, 3000, 65537, 10**6, 10**7, 10**9, 10**12, 4 * 10**12, 2**63, 10**30, -1))
    config[section][key] = [value, value] if key == "att_context_size" else value
    if "prednet" in config["decoder"] and rng.random() < 0.3:
        key = rng.choice(("pred_hidden", "pred_rnn_layers"))
        config["decoder"]["prednet"][key] = value
    if "decoding" in config and rng.random() < 0.3:
        config["decoding"]["greedy"] = {"max_symbols": value}
        key = "max_symbols"
    return draft.with_config(config, [key, section])


def config_text(draft: Draft) -> Mutant:
    """YAML that is hard to read: bombs, rings, tags, other encodings."""
    rng = draft.rng
    whole = yaml.safe_dump(draft.base.config, sort_keys=False)
    nine = "\n".join(f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 9)}]" for i in range(1, rng.choice((4, 9))))
    doubled = "\n".join(f"i{i + 1}: '${{i{i}}}${{i{i}}}'" for i in range(rng.choice((5, 24, 40))))
    key = rng.choice(("encoder", "preprocessor", "decoder", "labels", "target", "x"))
    references = ("", ".", "..x", "encoder.", "labels.0", "encoder[0]", "oc.env:X", "x:y", "${x}")
    text = rng.choice(
        (
            f"a0: &a0 [x]\n{nine}\n{whole}",
            f"{whole}i0: xx\n{doubled}\n",
            f"{whole}p: ${{q}}\nq: ${{p}}\n",
            f"{whole}p: ${{p}}\n",
            f"{whole}p: ${{{rng.choice(references)}}}\n",
            f"{whole}self: &s [*s]\n",
            f"{whole}self: &s {{k: *s}}\n",
            f"{whole}m: &m {{a: 1}}\nn: {{<<: [*m, *m], <<: *m}}\n",
            f"{whole}t: !!python/object/apply:os.system ['touch ran']\n",
            f"{whole}t: !!binary '###'\n",
            f"{whole}n: 2020-99-99\n",
            f"{whole}n: {'9' * 5000}\n",
            f"{whole}n: 0x{'f' * 5000}\n",
            f"{whole}n: 1:2:3:4:5:6:7:8:9:{':'.join(['9'] * 2000)}\n",
            f"{whole}n: 1e{'9' * 500}\n",
            f"{whole}5: x\nnull: y\ntrue: z\n1.5: w\n",
            f"{whole}? [a, b]\n: c\n",
            f"{whole}? {{a: b}}\n: c\n",
            f"{whole}{key}: &x 5\n{key}: *x\n",
            f"{whole}---\n{whole}",
            f"{whole}x: *unknown\n",
            f"{whole}\tx: 1\n",
            f'{whole}x: "\\ud800"\n',
            f'{whole}x: "\\x00"\n',
            "x: " + "[" * rng.choice((100, 2000, 100000)),
            "x: " + "{a: " * rng.choice((100, 2000)),
            "- " * rng.choice((100, 5000)),
            f"model: {rng.choice(('5', '[x]', 'x', 'null', '&m {model: *m}'))}\n",
            f"model:\n  {whole.replace(chr(10), chr(10) + '  ')}",
            "",
            "5",
            "[]",
            "null",
            "%YAML 9.9\n---\n" + whole,
            whole.replace("\n", "\r\n"),
            whole.replace(": ", ":"),
        )
    )
    data = text.encode(rng.choice(("utf-8", "utf-8", "utf-8", "utf-8", "utf-16", "utf-8-sig")), "surrogatepass")
    names = ["self", "p", "x", "5", "n", key]
    return draft.with_config(data, names)


def config_damaged(draft: Draft) -> Mutant:
    return draft.with_config(damage(draft.rng, yaml.safe_dump(draft.base.config, sort_keys=False).encode()), ["key"])


def with_pieces(draft: Draft) -> Draft:
    """The draft, of an archive that has a SentencePiece model."""
    if MODEL not in draft.base.artifacts:
        draft.base = draft.rng.choice([base for base in BASES if MODEL in base.artifacts])
    return draft


def with_artifact(draft: Draft, name: str, content: bytes) -> Mutant:
    whole = [(member, content if member == f"./{name}" else data) for member, data in draft.members()]
    return Mutant(draft.pack(whole), [name, CONFIG, "tokenizer"])


def pieces_damaged(draft: Draft) -> Mutant:
    draft = with_pieces(draft)
    return with_artifact(draft, MODEL, damage(draft.rng, draft.base.artifacts[MODEL]))


def pieces(draft: Draft) -> Mutant:
    """A SentencePiece model of other pieces, settings or normalisation."""
    draft = with_pieces(draft)
    rng, proto = draft.rng, parse_pieces(draft.base.artifacts[MODEL])
    piece = proto.pieces[rng.randrange(len(proto.pieces))]
    how = rng.randrange(13)
    tail = b""
    if how == 0:
        piece.piece = rng.choice(
            ("", proto.pieces[0].piece, " ", "▁", "x" * 10**5, "x" * 8 * 10**5, "\x00", "\n", "<0xZZ>")
        )
    elif how == 1:
        piece.score = rng.choice((float("nan"), float("inf"), -float("inf"), 1e38, 0.0))
    elif how == 2:
        piece.type = rng.choice((1, 2, 3, 4, 5, 6))
    elif how == 3:
        del proto.pieces[rng.choice((0, 1, len(proto.pieces) - 1)) :]
    elif how == 4:
        for _ in range(rng.choice((1, 20000))):
            proto.pieces.add(piece=f"▁{rng.randrange(10**9)}", score=-1.0)
    elif how == 5:
        proto.normalizer_spec.precompiled_charsmap = rng.choice(
            (
                b"\xff" * 4,
                b"\x00" * 4,
                b"",
                b"x",
                flip_bits(rng, proto.normalizer_spec.precompiled_charsmap or b"1234"),
                cut(rng, proto.normalizer_spec.precompiled_charsmap or b"1234"),
                struct.pack("<I", rng.choice((0, 4, 5, 2**31))) + rng.randbytes(40),
                struct.pack("<I", 1024) + rng.randbytes(1024) + rng.choice((b"", b"\xff\xfe", b"abc\0")),
            )
        )
    elif how == 6:
        proto.trainer_spec.model_type = rng.choice((1, 2, 3, 4))
    elif how == 7:
        name = rng.choice(("unk_id", "bos_id", "eos_id", "pad_id", "vocab_size"))
        setattr(proto.trainer_spec, name, rng.choice((-1, 0, 5, 10**6, -(2**31), 2**31 - 1)))
    elif how == 8:
        for entry in proto.pieces:
            if entry.type == 6 and rng.random() < 0.5:
                entry.type = rng.choice((1, 4, 6))
                entry.piece = rng.choice((entry.piece, "<0x00>", "<0x100>", "x"))
        proto.trainer_spec.byte_fallback = rng.random() < 0.7
    elif how == 9:
        proto.trainer_spec.unk_piece = rng.choice(("", "x", proto.pieces[5].piece))
    elif how == 10:
        proto.normalizer_spec.name = rng.choice(("", "x", "nmt_nfkc_cf", "identity", "user_defined"))
        proto.normalizer_spec.normalization_rule_tsv = rng.choice(("", "x", "41\t42\n"))
    elif how == 11:
        proto.trainer_spec.treat_whitespace_as_suffix = True
    else:
        # A piece that is not UTF-8, a field of another wire type, a message with a length that lies.
        tail = rng.choice(
            (b"\x0a\x04\x0a\x02\xff\xfe", b"\x0a\xff\xff\xff\xff\x0f", b"\x0d\x00\x00\x00\x00", b"\x0a\x02\x0a\x05")
        )
    return with_artifact(draft, MODEL, proto.SerializeToString() + tail)


def vocabulary(draft: Draft) -> Mutant:
    """Another WordPiece vocabulary."""
    if VOCABULARY not in draft.base.artifacts:
        draft.base = draft.rng.choice([base for base in BASES if VOCABULARY in base.artifacts])
    rng, lines = draft.rng, list(WORDPIECES)
    how = rng.randrange(6)
    if how == 0:
        lines[rng.randrange(len(lines))] = rng.choice(("", lines[0], "[UNK]", "x" * 10**5, "##", "\x00", " x "))
    elif how == 1:
        del lines[rng.randrange(len(lines))]
    elif how == 2:
        lines += [f"w{number}" for number in range(rng.choice((1, 20000)))]
    elif how == 3:
        rng.shuffle(lines)
    data = "\n".join(lines).encode()
    if how == 4:
        data = damage(rng, data)
    elif how == 5:
        data = rng.choice((b"", b"\xff\xfe", data.replace(b"\n", b"\r"), data.decode().encode("utf-16"), b"\n" * 100))
    return with_artifact(draft, VOCABULARY, data)


def tokenizer_section(draft: Draft) -> Mutant:
    """Another section of the tokenizer."""
    if "tokenizer" not in draft.base.config:
        draft.base = draft.rng.choice([base for base in BASES if "tokenizer" in base.config])
    config, rng = draft.config, draft.rng
    section = config["tokenizer"]
    key = rng.choice((*section, "hf_kwargs", "special_tokens", "custom_tokenizer", "langs", "type", "model_path"))
    value = odd_value(rng)
    if key == "hf_kwargs" and rng.random() < 0.6:
        value = {rng.choice(("unk_token", "pad_token", "use_fast", "pretrained_model_name", "x")): value}
    elif key == "langs" and rng.random() < 0.6:
        value = {rng.choice(("en", "", "x")): value}
    section[key] = value
    return draft.with_config(config, [key, "tokenizer"])


def text_sections(draft: Draft) -> Mutant:
    """Sections that are no mapping, or lists that hold something else."""
    config, rng = draft.config, draft.rng
    key = rng.choice((*config, "model_defaults", "prompt_dictionary", "adapters", "boosting_tree", "spec_augment"))
    value = rng.choice(
        ([key], True, "x", 5, None, [], {}, [[]], [None], {"x": [1]}, "${encoder}", "${" + str(key) + "}")
    )
    if key == "boosting_tree":
        config.setdefault("decoding", {}).setdefault("greedy", {})["boosting_tree"] = value
    else:
        config[key] = value
    return draft.with_config(config, [str(key), "encoder"])


def durations(draft: Draft) -> Mutant:
    """Another list of durations, labels or prompts."""
    config, rng = draft.config, draft.rng
    value = rng.choice(
        (5, [], [0], ["x"], [1, 2, 3, 4], [0, 2, 4, 10**12], [-1, 0, 1, 2], [0, 0, 0, 0], None, "x", {0: 1})
    )
    if "loss" in config and "tdt_kwargs" in config["loss"] and rng.random() < 0.6:
        config["loss"]["tdt_kwargs"]["durations"] = value
    elif "labels" in config:
        config["labels"] = rng.choice((value, ["a"] * 28, [*config["labels"][:-1], ""], [1] * 28, "abc"))
    else:
        config["model_defaults"] = {"num_prompts": odd_value(rng), "prompt_dictionary": odd_value(rng)}
    return draft.with_config(config, ["durations", "labels", "model_defaults", "prompt"])


def folder(draft: Draft) -> Mutant:
    """An unpacked archive with something wrong in it."""
    rng = draft.rng
    whole = dict(draft.members())
    name = rng.choice([CONFIG, WEIGHTS])
    how = rng.randrange(7)

    def write(path: Path) -> None:
        path.mkdir()
        for member, content in whole.items():
            (path / member).write_bytes(content)
        target = path / name
        if how == 0:
            target.unlink()
        elif how == 1:
            target.unlink()
            os.mkfifo(target)
        elif how == 2:
            target.unlink()
            target.symlink_to(rng.choice((target, "/etc/passwd", path, "/dev/zero", "nothing")))
        elif how == 3:
            target.unlink()
            target.mkdir()
        elif how == 4:
            target.write_bytes(damage(rng, target.read_bytes()))
        elif how == 5:
            (path / "sub").symlink_to(path)
        else:
            target.write_bytes(b"")

    held = None if draft.is_legacy else "tensors"
    return Mutant(names=[CONFIG, WEIGHTS], held=held if how == 4 and name == WEIGHTS else None, write=write)


def not_an_archive(draft: Draft) -> Mutant:
    """Other files under the name of an archive."""
    rng = draft.rng
    whole = draft.pack(draft.members())
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 3829760\n"
    data = rng.choice(
        (
            b"",
            b"\x00",
            bytes(1024),
            bytes(10240),
            pointer,
            b"<!DOCTYPE html><html>404</html>",
            b"\x1f\x8b",
            b"\x1f\x8b\x08\x00",
            draft.base.weights[False],
            draft.base.weights[True],
            rng.randbytes(5000),
            b"PK\x05\x06" + bytes(18),
            whole[:512],
            json.dumps(draft.base.config).encode(),
            b"\xfd7zXZ\x00" + rng.randbytes(50),
            b"BZh9" + rng.randbytes(50),
            whole * 2,
        )
    )
    return Mutant(data)


MUTATIONS: dict[str, Callable[[Draft], Mutant]] = {
    "whole": whole,
    "archive, bits": partial(raw, flip_bits),
    "archive, cut": partial(raw, cut),
    "archive, damaged": partial(raw, damage),
    "archive, lost part": partial(raw, lose_a_part),
    "gzip ends": gzip_trailer,
    "tar header": tar_header,
    "tar extras": tar_extras,
    "tar, sparse": old_sparse,
    "members": members,
    "weights, bits": partial(weights_damaged, flip_bits),
    "weights, damaged": partial(weights_damaged, damage),
    "weights, spliced": partial(weights_damaged, splice),
    "zip directory": partial(zipped, pickles.lie_in_directory, "tensors"),
    "zip, compressed": partial(zipped, pickles.deflate, "tensors"),
    "zip records": partial(zipped, pickles.swap_records, None),
    "zip bomb": partial(zipped, pickles.bomb_record, None),
    "pickle, code": partial(hostile_pickle, pickles.code_pickle),
    "pickle, broken": partial(hostile_pickle, pickles.broken_pickle),
    "pickle, storages": partial(hostile_pickle, pickles.odd_storage),
    "pickle, damaged": partial(zipped, pickles.spoil_pickle_of, None),
    "tensors": tensors,
    "front end": front_end,
    "configuration, values": config_values,
    "configuration, keys": config_keys,
    "configuration, sizes": config_sizes,
    "configuration, text": config_text,
    "configuration, damaged": config_damaged,
    "configuration, sections": text_sections,
    "configuration, lists": durations,
    "SentencePiece, damaged": pieces_damaged,
    "SentencePiece, pieces": pieces,
    "WordPiece": vocabulary,
    "tokenizer section": tokenizer_section,
    "unpacked": folder,
    "not an archive": not_an_archive,
}


# Cases


def make_case(seed: int, room: Room) -> Case:
    """The case of a seed."""
    rng = rng_of(KIND, seed)
    mutation = list(MUTATIONS)[seed % len(MUTATIONS)]
    draft = Draft(rng, rng.choice(BASES), room, rng.random() < 0.35, rng.random() < 0.3)
    mutant = MUTATIONS[mutation](draft)
    path = room.input / NAME
    if mutant.write is not None:
        mutant.write(path)
    else:
        path.write_bytes(mutant.data)
    form = f"{draft.base.name}, {'gzip' if draft.is_gzip else 'tar'}, {'pickle' if draft.is_legacy else 'zip'}"

    def look() -> None:
        found = inspect_checkpoint(path)
        if found.refusal is not None:
            raise ValueError(found.refusal)

    def convert() -> None:
        try:
            convert_nemo_checkpoint(path, room.output / "converted")
        except Exception as error:
            if any(room.output.iterdir()):
                raise LeftoverError(f"{sorted(room.output.rglob('*'))} after an error") from error
            raise
        check_output(room.output / "converted", draft.base, mutant.held)

    def use() -> None:
        if (room.output / "converted").is_dir():
            transcribe(CLIP, load_model(room.output / "converted"), timestamps=False)
        elif seed % 4 == 0:
            load_model(path)

    # What is converted is used from another folder, and weights that are whole may give no finite number.
    names = [NAME, "converted", "weights", *(name for name in mutant.names if name)]
    return Case(KIND, seed, mutation, form, (look, convert, use), names, is_keyed=True)


def check_output(folder: Path, base: Base, held: str | None) -> None:
    """Raise where a conversion differs from that of the whole archive, in what a checksum holds."""
    if held is None:
        return
    # The card tells of the archive itself.
    endings = (".safetensors", ".json") if held == "all" else (".safetensors",)
    names = [name for name in base.files if name.endswith(endings)]
    changed = [
        name for name in names if not (folder / name).is_file() or (folder / name).read_bytes() != base.files[name]
    ]
    if changed:
        raise SilentChangeError(f"{', '.join(changed)} are not those of the whole archive, and nothing was said")
