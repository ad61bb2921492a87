"""Prompts, limits and labels: what fits, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from multitask_models import PROMPT, build_multitask, random_features

from transformers_fastconformer.modeling.multitask_prompts import limit_tokens, read_prompts, tokens_before_labels


def test_a_prompt_is_that_of_all_clips_or_each_has_its_own() -> None:
    config = build_multitask().config
    rows = [[3, 10], [4], [6, 7, 8]]
    assert read_prompts(config, rows, 3) == rows
    for one in ([3, 10], [[3, 10]], torch.tensor([3, 10]), torch.tensor([[3, 10]])):
        assert read_prompts(config, one, 3) == [[3, 10]] * 3


def test_limits_are_the_smaller_of_nemos_and_the_callers() -> None:
    config = build_multitask().config
    lengths, padded = torch.tensor([20, 7, 0]), torch.tensor([21, 8, 1])
    prompts = [[3], [3, 4], [3]]
    most = limit_tokens(config, padded, lengths, prompts, None).tolist()
    assert most[:2] == [int(config.limit_new_tokens(torch.tensor(n), len(p))) for n, p in ((21, [3]), (8, [3, 4]))]
    assert most[2] == 0
    assert limit_tokens(config, padded, lengths, prompts, 4).tolist() == [4, 4, 0]


def test_tokens_of_labels_are_one_place_later() -> None:
    config = build_multitask().config
    start, padding = config.decoder_start_token_id, config.pad_token_id
    tokens = tokens_before_labels(config, torch.tensor([[7, 8, 9], [7, -100, -100]]))
    assert tokens.tolist() == [[start, 7, 8], [start, 7, padding]]
    config.decoder_start_token_id = None
    with pytest.raises(ValueError, match="decoder_start_token_id=None is not supported; expected the first token"):
        tokens_before_labels(config, torch.tensor([[7]]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prompt_ids": None}, "prompt_ids"),
        ({"prompt_ids": [[3], [4], [5]]}, "number of prompts"),
        ({"prompt_ids": [3, 40]}, "40"),
        ({"prompt_ids": PROMPT, "language": "de"}, "source_lang='de'"),
        ({"prompt_ids": PROMPT, "max_symbols_per_step": 3}, "max_symbols_per_step=3"),
        ({"prompt_ids": PROMPT, "max_new_tokens": 0}, "max_new_tokens"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_multitask().generate(**random_features([97, 56]), **arguments)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([[3, 10, 99]] * 3, "labels hold the id 99; expected ids below"),
        ([[3, -1, 11]] * 3, "labels hold the id -1; expected ids below"),
        ([[3, 10, 11]], r"labels has shape \(1, 3\); expected \(3, tokens\)"),
        ([3, 10, 11], r"labels has shape \(3,\); expected \(3, tokens\)"),
    ],
)
def test_labels_that_are_no_tokens_are_refused(labels: list[Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_multitask()(**random_features([160, 97, 56]), labels=torch.tensor(labels))
