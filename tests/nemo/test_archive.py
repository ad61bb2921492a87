"""Opening archives: their forms, what is refused, and that nothing in them is ever run."""

from __future__ import annotations

import gzip
import io
import pickle
import re
import tarfile
from pathlib import Path

import pytest
import torch
import yaml
from archives import rewrite_archive

from transformers_fastconformer.nemo.archive import NemoArchive
from transformers_fastconformer.nemo.convert import convert_nemo_checkpoint
from transformers_fastconformer.nemo.inspection import inspect_checkpoint


def read_all(path: Path, scratch: Path) -> tuple[dict, dict[str, torch.Tensor]]:
    with NemoArchive(path) as archive, archive.open_weights(scratch) as weights:
        return archive.read_config(), {name: tensor.clone() for name, tensor in weights.read().items()}


@pytest.mark.parametrize("prefix", ["", "./"])
@pytest.mark.parametrize("mode", ["w", "w:gz"])
@pytest.mark.parametrize("legacy", [False, True])
def test_every_form_reads_the_same(make_archive, nemo_config, nemo_state_dict, tmp_path, prefix, mode, legacy):
    path = make_archive("ctc", prefix=prefix, mode=mode, legacy=legacy)
    config, tensors = read_all(path, tmp_path)
    assert config["encoder"] == nemo_config("ctc")["encoder"]
    expected = nemo_state_dict(nemo_config("ctc"))
    assert list(tensors) == list(expected)
    assert all(torch.equal(tensors[name], expected[name]) for name in expected)
    assert [child.name for child in tmp_path.iterdir()] == [path.name], "the scratch file is gone"


def test_unpacked_folder_reads_the_same(make_archive, tmp_path):
    path = make_archive("ctc")
    folder = tmp_path / "unpacked"
    with tarfile.open(path) as tar:
        tar.extractall(folder, filter="data")
    config, tensors = read_all(path, tmp_path)
    folder_config, folder_tensors = read_all(folder, tmp_path)
    assert folder_config == config
    assert all(torch.equal(folder_tensors[name], tensors[name]) for name in tensors)
    assert (folder / "model_weights.ckpt").is_file()


HASH = "0123456789abcdef0123456789abcdef"


@pytest.mark.parametrize(
    "reference",
    [
        f"nemo:{HASH}_tokenizer.model",
        f"{HASH}_tokenizer.model",
        f"nemo:{HASH}_{HASH}_tokenizer.model",
        "nemo:tokenizer.model",
        "/some/folder/tokenizer.model",
    ],
)
def test_artifacts_are_found_with_and_without_hashes(write_archive, reference):
    path = write_archive([(f"./{HASH}_tokenizer.model", b"pieces"), (f"./{HASH}_vocab.txt", b"words")])
    with NemoArchive(path) as archive:
        assert archive.member_names == [f"{HASH}_tokenizer.model", f"{HASH}_vocab.txt"]
        assert archive.read_member(reference) == b"pieces"


def test_ambiguous_and_missing_artifacts(write_archive):
    other = HASH[::-1]
    path = write_archive([(f"{HASH}_tokenizer.model", b"a"), (f"{other}_tokenizer.model", b"b")])
    with NemoArchive(path) as archive:
        assert archive.read_member(f"nemo:{other}_tokenizer.model") == b"b"
        with pytest.raises(ValueError, match=r"member 'tokenizer\.model' is missing, and several are like it"):
            archive.read_member("nemo:tokenizer.model")
        with pytest.raises(ValueError, match=r"member 'vocab\.txt' is missing; there are \["):
            archive.read_member("nemo:vocab.txt")


def special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type = kind
    info.linkname = target
    return info


@pytest.mark.parametrize(
    ("member", "message"),
    [
        (("../outside.txt", b"x"), r"member '\.\./outside\.txt' leads out of the archive"),
        (("./a/../../outside.txt", b"x"), r"member '\./a/\.\./\.\./outside\.txt' leads out of the archive"),
        (("..\\outside.txt", b"x"), r"leads out of the archive"),
        (("/tmp/outside.txt", b"x"), r"member '/tmp/outside\.txt' is an absolute path"),
        (("C:\\outside.txt", b"x"), r"is an absolute path"),
        (special("link", tarfile.SYMTYPE, "/etc/passwd"), r"member 'link' is a link to '/etc/passwd'"),
        (special("hard", tarfile.LNKTYPE, "model_config.yaml"), r"member 'hard' is a link to 'model_config\.yaml'"),
        (special("pipe", tarfile.FIFOTYPE), r"member 'pipe' is a named pipe"),
        (special("disk", tarfile.BLKTYPE), r"member 'disk' is a device"),
        (("model_config.yaml", b"other: 1"), r"member 'model_config\.yaml' is there twice"),
    ],
)
@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_members_that_have_no_business_in_an_archive(make_archive, member, message, mode):
    path = make_archive("ctc", extra=[member], mode=mode)
    with pytest.raises(ValueError, match=message):
        NemoArchive(path)


def test_what_is_no_archive(tmp_path):
    with pytest.raises(ValueError, match="no such file"):
        NemoArchive(tmp_path / "absent.nemo")
    for content in (b"", b"no archive at all", b"\x1f\x8b not gzip either"):
        path = tmp_path / "text.nemo"
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"text\.nemo is (not a \.nemo archive|truncated or damaged)"):
            NemoArchive(path)


@pytest.mark.parametrize("mode", ["w", "w:gz"])
@pytest.mark.parametrize("share", [0.05, 0.3, 0.6, 0.9])
def test_truncated_archives(make_archive, tmp_path, mode, share):
    path = make_archive("tdt", mode=mode)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content.rstrip(b"\0")))])
    with pytest.raises(ValueError, match=r"truncated|not a \.nemo archive|is missing"):
        read_all(path, tmp_path)


def test_truncated_weights_in_a_whole_archive(make_archive, tmp_path):
    for legacy in (False, True):
        buffer = io.BytesIO()
        torch.save({"a": torch.rand(4000)}, buffer, _use_new_zipfile_serialization=not legacy)
        path = make_archive("ctc", weights=buffer.getvalue()[:9000])
        with pytest.raises(ValueError, match=r"model_weights\.ckpt"):
            read_all(path, tmp_path)


@pytest.mark.parametrize("missing", ["model_config.yaml", "model_weights.ckpt"])
def test_missing_members(make_archive, write_archive, tmp_path, missing):
    with tarfile.open(make_archive("ctc")) as tar:
        members = [
            (info.name, tar.extractfile(info).read()) for info in tar.getmembers() if not info.name.endswith(missing)
        ]
    with pytest.raises(ValueError, match=f"member '{re.escape(missing)}' is missing; there are"):
        read_all(write_archive(members, "less.nemo"), tmp_path)


class RunsCode:
    """Makes a file when it is unpickled by a loader that runs code."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("form", ["zip", "legacy", "bare pickle"])
def test_pickles_that_would_run_code_are_refused(make_archive, tmp_path, form):
    evidence = tmp_path / "evidence"
    content = {"encoder.weight": torch.zeros(2), "evil": RunsCode(evidence)}
    buffer = io.BytesIO()
    if form == "bare pickle":
        buffer.write(pickle.dumps({"evil": RunsCode(evidence)}))
    else:
        torch.save(content, buffer, _use_new_zipfile_serialization=form == "zip")
    path = make_archive("ctc", weights=buffer.getvalue())
    with pytest.raises(ValueError, match="refused, because loading it could run code"):
        read_all(path, tmp_path)
    assert not evidence.exists()
    if form != "bare pickle":  # the proof that the pickle works
        buffer.seek(0)
        torch.load(buffer, weights_only=False)
        assert evidence.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([torch.zeros(2)], "holds list; expected a state dict"),
        ({"a": torch.zeros(2), "b": 3}, "entry 'b' is int; expected a tensor"),
        ({1: torch.zeros(2)}, "entry 1 is a tensor; expected a text of letters"),
    ],
)
def test_what_is_no_state_dict(make_archive, tmp_path, content, message):
    buffer = io.BytesIO()
    torch.save(content, buffer)
    with pytest.raises(ValueError, match=message):
        read_all(make_archive("ctc", weights=buffer.getvalue()), tmp_path)


def test_members_too_large_for_memory_are_not_read(write_archive, monkeypatch):
    monkeypatch.setattr("transformers_fastconformer.nemo.archive.MAX_BYTES_IN_MEMORY", 4)
    with (
        NemoArchive(write_archive([("tokenizer.model", b"12345")])) as archive,
        pytest.raises(ValueError, match="has 5 bytes; expected at most 4"),
    ):
        archive.read_member("tokenizer.model")


def test_whole_experiments_keep_their_model(write_archive):
    config = {"name": "x", "model": {"encoder": {"d_model": 8, "feat_in": "${model.preprocessor.features}"}}}
    config["model"]["preprocessor"] = {"features": 80}
    with NemoArchive(write_archive([("model_config.yaml", yaml.safe_dump(config).encode())])) as archive:
        assert archive.read_config()["encoder"] == {"d_model": 8, "feat_in": 80}


# Damage and declarations that no archive has


def flip(path: Path, position: int) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("values", r"model\.nemo: model_weights\.ckpt .*of tensor encoder\..* is damaged: its CRC-32 is"),
        ("record header", r"model\.nemo: model_weights\.ckpt .*the header of record 'archive/data/3' is damaged"),
        ("directory", r"model\.nemo: model_weights\.ckpt .*its directory is damaged at byte 0"),
        ("tar header", r"model\.nemo cannot be read: it is truncated or damaged: the header at byte \d+"),
        ("folder", r"model_weights\.ckpt .*of tensor encoder\..* is damaged: its CRC-32 is"),
    ],
)
def test_one_flipped_bit_is_named_and_nothing_is_written(
    make_archive, nemo_state_dict, nemo_config, tmp_path, place, message
):
    path = make_archive("ctc")
    content = path.read_bytes()
    tensor = nemo_state_dict(nemo_config("ctc"))["encoder.layers.1.feed_forward1.linear1.weight"]
    if place == "folder":
        path = tmp_path / "unpacked"
        with tarfile.open(tmp_path / "model.nemo") as tar:
            tar.extractall(path, filter="data")
        weights = path / "model_weights.ckpt"
        flip(weights, weights.read_bytes().index(tensor.numpy().tobytes()))
    else:
        flip(
            path,
            {
                "values": content.index(tensor.numpy().tobytes()) + 7,
                "record header": content.index(b"archive/data/3") + 5,
                "directory": content.index(b"PK\x01\x02"),
                "tar header": content.index(b"model_weights.ckpt") + 3,
            }[place],
        )
    with pytest.raises(ValueError, match=message):
        convert_nemo_checkpoint(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_flipped_bit_anywhere_in_a_gzipped_archive(make_archive):
    path = make_archive("ctc", mode="w:gz")
    content = path.read_bytes()
    # Behind the tar's end too: the stream is read to its checksum and its length.
    for position in (20, len(content) // 3, len(content) - 200, len(content) - 7, len(content) - 2):
        path.write_bytes(content)
        flip(path, position)
        with pytest.raises(ValueError, match=r"model\.nemo is truncated or damaged|model\.nemo cannot be read"):
            NemoArchive(path)
    for length in (len(content) - 1, len(content) - 8, len(content) - 20):
        path.write_bytes(content[:length])
        with pytest.raises(ValueError, match=r"model\.nemo is truncated or damaged"):
            NemoArchive(path)


def test_gzip_of_several_streams(make_archive, tmp_path):
    path = make_archive("ctc")
    config, tensors = read_all(path, tmp_path)
    content = path.read_bytes()
    path.write_bytes(
        b"".join(gzip.compress(content[start : start + 30_000]) for start in range(0, len(content), 30_000))
    )
    again, tensors_again = read_all(path, tmp_path)
    assert again == config
    assert all(torch.equal(tensors_again[name], tensor) for name, tensor in tensors.items())


def test_gzip_that_grows_without_end(write_archive, monkeypatch):
    monkeypatch.setattr("transformers_fastconformer.nemo.archive.MAX_BYTES_EXPANDED", 2**20)
    path = write_archive([("model_config.yaml", b"a: 1"), ("zeros", bytes(2**23))], mode="w:gz")
    with pytest.raises(ValueError, match=r"member 'zeros' has 8388608 bytes, and at most \d+ are there"):
        NemoArchive(path)
    path.write_bytes(gzip.compress(write_archive([("a", b"b")], "plain.nemo").read_bytes() + bytes(2**23)))
    with pytest.raises(ValueError, match="it unpacks to more than 1048576 bytes; refused"):
        NemoArchive(path)


def test_what_git_lfs_and_macos_leave(write_archive, tmp_path):
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n"
    path = tmp_path / "pointer.nemo"
    path.write_bytes(pointer)
    with pytest.raises(ValueError, match=r"pointer\.nemo is a pointer of Git LFS, without the content.*git lfs pull"):
        NemoArchive(path)
    folder = tmp_path / "folder"
    folder.mkdir()
    for name in ("model_config.yaml", "._model_config.yaml", "model_weights.ckpt"):
        (folder / name).write_bytes(pointer if name.endswith("ckpt") else b"a: 1")
    with NemoArchive(folder) as archive:
        assert sorted(archive.member_names) == ["model_config.yaml", "model_weights.ckpt"]
        with pytest.raises(ValueError, match=r"model_weights\.ckpt is a pointer of Git LFS"):
            archive.read_tensor_headers()
    with NemoArchive(write_archive([("._model_config.yaml", b"x"), ("model_config.yaml", b"a: 1")])) as archive:
        assert archive.member_names == ["model_config.yaml"]


def test_folders_of_too_many_files(tmp_path, monkeypatch):
    monkeypatch.setattr("transformers_fastconformer.nemo.archive.MAX_MEMBERS", 3)
    for number in range(4):
        (tmp_path / str(number)).write_bytes(b"")
    with pytest.raises(ValueError, match="holds more than 3 files; expected those of an archive"):
        NemoArchive(tmp_path)


def test_archives_without_checksums_are_told(make_archive, tmp_path, caplog):
    convert_nemo_checkpoint(make_archive("ctc"), tmp_path / "with")
    assert "no checksums" not in caplog.text
    convert_nemo_checkpoint(make_archive("ctc", legacy=True), tmp_path / "without")
    assert "model.nemo: the weights have no checksums, so that damage to their values cannot be told." in caplog.text


@pytest.mark.parametrize(
    ("kind", "section", "change"),
    [
        ("ctc", "encoder.n_layers", lambda config: config["encoder"].update(n_layers=50)),
        (
            "tdt",
            "decoder.prednet.pred_rnn_layers",
            lambda config: config["decoder"]["prednet"].update(pred_rnn_layers=50),
        ),
    ],
)
def test_layers_are_counted_before_a_model_is_built(make_archive, tmp_path, monkeypatch, kind, section, change):
    path = rewrite_archive(make_archive(kind), tmp_path / "other.nemo", change)

    def refuse(*arguments):
        raise AssertionError("a model was built")

    monkeypatch.setattr("transformers_fastconformer.nemo.description.build_without_memory", refuse)
    message = rf"other\.nemo: the weights do not fit .* {section}=50, and the archive holds tensors of 2"
    with pytest.raises(ValueError, match=message):
        convert_nemo_checkpoint(path, tmp_path / "out")
    assert re.search(message, inspect_checkpoint(path).refusal)
