"""Options of phrases, and the tree against scores written out."""

from __future__ import annotations

import random

import pytest
import torch
from phrase_cases import random_tree

from transformers_fastconformer.decoding.phrase_boosting import (
    CompiledPhrases,
    PhraseBoosting,
    build_phrase_automaton,
)

VOCAB_SIZE = 6


@pytest.mark.parametrize("strength", [1.0, 0.25])
def test_scores_are_those_written_out(strength):
    """After every text of a random walk, also where a phrase ends inside another or begins in its middle."""
    num_bonuses = 0
    for seed in range(12):
        tree, truth = random_tree(seed, VOCAB_SIZE, strength)
        picker, text = random.Random(seed), []
        state = tree.start_states[:1]
        for _ in range(60):
            expected = torch.tensor(truth.scores(text, VOCAB_SIZE)) * strength
            found = tree.scores(state)[0]
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
            num_bonuses += int((found > 0).sum())
            text.append(picker.randrange(VOCAB_SIZE))
            state = tree.step(state, torch.tensor(text[-1:]))
    assert num_bonuses > 1000


def test_bonus_of_an_unfinished_phrase_is_taken_back():
    tree = build_phrase_automaton([([0, 1, 2], 3)], PhraseBoosting(["abc"]), VOCAB_SIZE, 2.0)
    total, state = 0.0, tree.start_states[:1]
    for token in (0, 1, 5):
        total += float(tree.scores(state)[0, token])
        state = tree.step(state, torch.tensor([token]))
    assert total == pytest.approx(0.0, abs=1e-5)
    assert int(state) == int(tree.start_states[0])


def test_a_finished_phrase_keeps_its_bonus_and_raises_the_end():
    tree = build_phrase_automaton(
        [([0, 1], 2), ([0, 1, 2, 3], 4)], PhraseBoosting(["ab"], end_score=1.5), VOCAB_SIZE, 1.0
    )
    state = tree.step(tree.step(tree.start_states[:1], torch.tensor([0])), torch.tensor([1]))
    assert float(tree.scores(state)[0, 5]) == 0.0
    assert float(tree.end_weights[state]) == 1.5
    after = tree.step(state, torch.tensor([2]))
    assert float(tree.end_weights[after]) == 0.0
    assert float(tree.scores(after)[0, 5]) < -1.0


def test_phrases_with_scores_of_their_own():
    boosting = PhraseBoosting(["long one", "ab"], score_per_phrase=4.0)
    tree = build_phrase_automaton([([0], 8), ([1], 2)], boosting, VOCAB_SIZE, 2.0)
    assert tree.scores(tree.start_states[:1])[0, :3].tolist() == [0.5, 2.0, 0.0]


def test_memory_is_linear_in_the_phrases():
    phrases = [([one, two, three], 3) for one in range(30) for two in range(30) for three in range(20)]
    tree = build_phrase_automaton(phrases, PhraseBoosting(["x"]), 1024, 2.0)
    assert tree.num_states == 1 + 30 + 900 + 18000
    size = sum(tensor.numel() * tensor.element_size() for tensor in tree.tensors().values())
    assert size < 60 * tree.num_states


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"phrases": "one text"}, "phrases='one text'"),
        ({"phrases": []}, "phrases"),
        ({"phrases": ["a", " "]}, "phrases"),
        ({"phrases": [("a", "")]}, "phrases"),
        ({"phrases": [3]}, "phrases"),
        ({"strength": 0}, "strength=0"),
        ({"strength": float("nan")}, "strength=nan"),
        ({"context_score": "1"}, "context_score"),
        ({"depth_scaling": True}, "depth_scaling"),
        ({"case_variants": "yes"}, "case_variants"),
        ({"num_splits": 0}, "num_splits"),
        ({"num_splits": 101}, "num_splits"),
        ({"split_alpha": 1.0}, "split_alpha"),
        ({"seed": 0.5}, "seed"),
    ],
)
def test_wrong_options_are_refused_by_name(options, message):
    with pytest.raises(ValueError, match=message):
        PhraseBoosting(**{"phrases": ["a"], **options})


def test_equal_options_are_equal_and_show_no_phrases():
    one, other = PhraseBoosting([" Ada ", ("Zoë", "en")]), PhraseBoosting(("Ada", ["Zoë", "en"]))
    assert one == other
    assert hash(one) == hash(other)
    assert one != PhraseBoosting(["Ada", ("Zoë", "de")])
    assert repr(one) == repr(other)
    assert "Ada" not in repr(one)
    assert repr(one) != repr(PhraseBoosting(["Ada", ("Zoë", "de")]))
    tree = build_phrase_automaton([([0], 1)], one, VOCAB_SIZE, 2.0)
    other_tree = build_phrase_automaton([([1], 1)], one, VOCAB_SIZE, 2.0)
    assert repr(CompiledPhrases(one, tree)) != repr(CompiledPhrases(one, other_tree))


def test_files_of_phrases(tmp_path):
    path = tmp_path / "names.txt"
    path.write_text("\ufeffAda Lovelace\n\n  Zoë  \nMünchen\tde\n", encoding="utf-8")
    assert PhraseBoosting.from_file(path, strength=2.0) == PhraseBoosting(
        ["Ada Lovelace", "Zoë", ("München", "de")], strength=2.0
    )
    path.write_text("\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"names\.txt.*at least one phrase"):
        PhraseBoosting.from_file(path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=r"names\.txt"):
        PhraseBoosting.from_file(path)
    with pytest.raises(FileNotFoundError, match=r"missing\.txt"):
        PhraseBoosting.from_file(tmp_path / "missing.txt")
