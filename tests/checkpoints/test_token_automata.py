"""Compiled phrases in files: what is saved is loaded, and what is wrong in a file is refused by name."""

from __future__ import annotations

import pytest
import torch
from phrase_cases import random_tree
from safetensors.torch import load_file, save_file

from transformers_fastconformer.checkpoints.token_automata import load_phrases, save_phrases
from transformers_fastconformer.decoding.phrase_boosting import CompiledPhrases, PhraseBoosting


@pytest.fixture
def saved(tmp_path):
    tree = random_tree(0, 6)[0]
    phrases = CompiledPhrases(PhraseBoosting(["a", ("b", "de")], strength=2.0, seed=3), tree)
    path = tmp_path / "phrases.safetensors"
    save_phrases(phrases, path)
    return phrases, path


def test_what_is_saved_is_loaded(saved):
    phrases, path = saved
    found = load_phrases(path)
    assert found.boosting == phrases.boosting
    assert found.automaton.fingerprint == phrases.automaton.fingerprint
    assert repr(found) == repr(phrases)


def test_wrong_files_are_refused(tmp_path):
    path = tmp_path / "other.safetensors"
    with pytest.raises(ValueError, match="other"):
        load_phrases(path)
    path.write_bytes(b"nothing")
    with pytest.raises(ValueError, match="other"):
        load_phrases(path)
    save_file({"x": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match="format=None"):
        load_phrases(path)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("arc_targets", lambda tensor: tensor + 1000, "arc_targets"),
        ("arc_tokens", lambda tensor: tensor - 100, "arc_tokens"),
        ("arc_tokens", lambda tensor: tensor * 0, "arc_tokens"),
        ("arc_starts", lambda tensor: tensor.flip(0), "arc_starts"),
        ("backoff_states", lambda tensor: torch.arange(len(tensor), dtype=tensor.dtype), "backoff_states"),
        ("root_rows", lambda tensor: tensor + 1, "root_rows"),
        ("root_targets", lambda tensor: tensor[:, :-1], "shape of root_targets"),
        ("end_weights", lambda tensor: tensor.double(), "dtype of end_weights"),
        ("start_states", lambda tensor: tensor - 1, "start_states"),
        ("backoff_weights", lambda tensor: None, "tensors"),
    ],
)
def test_tables_that_lead_out_of_themselves_are_refused(saved, name, change, message):
    _, path = saved
    from safetensors import safe_open

    with safe_open(str(path), framework="pt") as file:
        metadata = file.metadata()
    tensors = load_file(path)
    changed = change(tensors.pop(name))
    if changed is not None:
        tensors[name] = changed.contiguous()
    save_file(tensors, path, metadata=metadata)
    with pytest.raises(ValueError, match=message):
        load_phrases(path)
