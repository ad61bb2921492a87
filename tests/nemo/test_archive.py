"""Opening archives: their forms, what is refused, and that nothing in them is ever run."""

from __future__ import annotations

import io
import pickle
import re
import tarfile
from pathlib import Path

import pytest
import torch
import yaml

from transformers_fastconformer.nemo.archive import NemoArchive


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


def test_weights_of_the_zip_format_are_mapped(make_archive, tmp_path):
    for legacy in (False, True):
        with NemoArchive(make_archive("ctc", legacy=legacy)) as archive, archive.open_weights(tmp_path) as weights:
            assert weights.is_mappable is not legacy


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
        (special("pipe", tarfile.FIFOTYPE), r"member 'pipe' is neither a file nor a folder"),
        (special("disk", tarfile.BLKTYPE), r"member 'disk' is neither a file nor a folder"),
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
        ({1: torch.zeros(2)}, "entry 1 is Tensor; expected a tensor"),
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
