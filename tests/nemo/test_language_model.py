"""NeMo's archives of language models: read without NeMo, and refused where they do not fit together."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from phrase_cases import random_texts

from transformers_fastconformer.decoding.ngrams import build_ngram_automaton, count_ngrams
from transformers_fastconformer.decoding.token_automaton import TokenAutomaton
from transformers_fastconformer.nemo.language_model import is_nemo_file, read_language_model

VOCAB_SIZE = 6


@pytest.fixture
def automaton() -> TokenAutomaton:
    return build_ngram_automaton(count_ngrams(random_texts(0), 3, VOCAB_SIZE), VOCAB_SIZE)


def nemo_tensors(automaton: TokenAutomaton) -> dict[str, torch.Tensor]:
    """An automaton in the tables of NeMo's `NGramGPULanguageModel`: the root's arcs first, padding at the end."""
    counts = automaton.arc_starts.diff()
    sources = torch.cat(
        [
            torch.zeros(VOCAB_SIZE),
            torch.arange(automaton.num_states).repeat_interleave(counts),
            torch.zeros(VOCAB_SIZE),
        ]
    )
    starts = torch.where(counts > 0, automaton.arc_starts[:-1] + VOCAB_SIZE, 0)
    ends = torch.where(counts > 0, automaton.arc_starts[1:] + VOCAB_SIZE, 0)
    starts[0], ends[0] = 0, VOCAB_SIZE

    def arcs(first: torch.Tensor, rest: torch.Tensor) -> torch.Tensor:
        return torch.cat([first, rest, torch.zeros(VOCAB_SIZE, dtype=rest.dtype)])

    return {
        "arcs_weights": arcs(automaton.root_weights[0], automaton.arc_weights),
        "from_states": sources.int(),
        "to_states": arcs(automaton.root_targets[0], automaton.arc_targets),
        "ilabels": arcs(torch.arange(VOCAB_SIZE, dtype=torch.int32), automaton.arc_tokens),
        "backoff_to_states": automaton.backoff_states,
        "backoff_weights": automaton.backoff_weights,
        "final_weights": automaton.end_weights,
        "start_end_arcs": torch.stack([starts, ends], dim=1).int(),
        "state_order": torch.ones(automaton.num_states, dtype=torch.int32),
    }


def write_archive(path: Path, automaton: TokenAutomaton, tensors: dict[str, torch.Tensor], **options: Any) -> None:
    config = {
        "num_states": automaton.num_states,
        "num_arcs": VOCAB_SIZE + len(automaton.arc_tokens),
        "max_order": 3,
        "vocab_size": VOCAB_SIZE,
        "separate_bos_state": True,
        **options,
    }
    weights = io.BytesIO()
    torch.save(tensors, weights)
    with tarfile.open(path, "w") as archive:
        for name, content in (
            ("model_config.yaml", yaml.safe_dump(config).encode()),
            ("model_weights.ckpt", weights.getvalue()),
        ):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def test_scores_are_those_that_were_saved(automaton: TokenAutomaton, tmp_path: Path) -> None:
    path = tmp_path / "model.nemo"
    write_archive(path, automaton, nemo_tensors(automaton))
    assert read_language_model(path).fingerprint == automaton.fingerprint
    assert is_nemo_file(path)
    assert not is_nemo_file("model.arpa")


def test_ends_of_states_are_found_along_the_backoffs(automaton: TokenAutomaton, tmp_path: Path) -> None:
    tensors = nemo_tensors(automaton)
    tensors["final_weights"] = torch.full((automaton.num_states,), -10000.0)
    tensors["final_weights"][0] = -1.5
    write_archive(tmp_path / "model.nemo", automaton, tensors)
    found = read_language_model(tmp_path / "model.nemo")
    for state in range(automaton.num_states):
        expected, now = -1.5, state
        while now:
            expected += float(automaton.backoff_weights[now])
            now = int(automaton.backoff_states[now])
        assert float(found.end_weights[state]) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("to_states", lambda tensor: tensor + 10**6, "to_states"),
        ("ilabels", lambda tensor: tensor.flip(0), "ilabels"),
        ("start_end_arcs", lambda tensor: tensor + 10**6, "start_end_arcs"),
        ("backoff_to_states", lambda tensor: torch.arange(len(tensor), dtype=tensor.dtype), "backoff_states"),
        ("arcs_weights", lambda tensor: tensor[:-1], "shape of arcs_weights"),
        ("state_order", lambda tensor: None, "tensors"),
    ],
)
def test_tables_that_do_not_fit_are_refused(
    automaton: TokenAutomaton, name: str, change: Any, message: str, tmp_path: Path
) -> None:
    tensors = nemo_tensors(automaton)
    changed = change(tensors.pop(name))
    if changed is not None:
        tensors[name] = changed
    write_archive(tmp_path / "broken.nemo", automaton, tensors)
    with pytest.raises(ValueError, match=rf"broken\.nemo.*{message}"):
        read_language_model(tmp_path / "broken.nemo")


def test_other_archives_are_refused(automaton: TokenAutomaton, tmp_path: Path) -> None:
    write_archive(tmp_path / "tree.nemo", automaton, nemo_tensors(automaton), separate_bos_state=False)
    with pytest.raises(ValueError, match="separate_bos_state=False"):
        read_language_model(tmp_path / "tree.nemo")
    write_archive(tmp_path / "none.nemo", automaton, nemo_tensors(automaton), num_arcs=None)
    with pytest.raises(ValueError, match="num_arcs=None"):
        read_language_model(tmp_path / "none.nemo")
