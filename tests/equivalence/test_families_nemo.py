"""
Every family of checkpoints: NeMo builds and saves it, we convert it, and every stage is compared on real speech; then
what was converted is loaded, saved and loaded again, and compared once more.

`FASTCONFORMER_WRITE_TABLE=1` writes what was found to `docs/supported-checkpoints.md`.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from balance import balance_classes
from families import FAMILIES, WITHOUT_TEXT, Family, balance_decoder, read_page, write_bert_base, write_page
from tolerances import FLOAT32_SHARE
from transformers import AutoModel

from transformers_fastconformer.checkpoints.model_classes import ARCHITECTURES
from transformers_fastconformer.nemo.convert import ConversionResult, convert_nemo_checkpoint
from transformers_fastconformer.nemo.converted_runner import ConvertedRunner
from transformers_fastconformer.nemo.reference import NemoRunner
from transformers_fastconformer.nemo.stage_comparison import EXACT_STAGES, StageResult, compare_outputs
from transformers_fastconformer.nemo.stage_outputs import FOLLOWED, StageOutputs

pytestmark = pytest.mark.nemo

NUM_CLIPS = 6
MAX_TOKENS_TO_BE_EMPTY = 30
# The clips are short, and what is drawn for it depends on rounding: with another number of threads it says little.
SAYS_LITTLE = {"rnnt, sigmoid, blank without a row": 15}


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module", autouse=True)
def offline_bert(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """NeMo asks for `bert-base-cased` by name; without a network a folder of that name answers."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(write_bert_base(tmp_path_factory.mktemp("bert")))
        yield


@pytest.fixture(scope="module")
def batches(speech_batches: dict[str, list[np.ndarray]]) -> dict[str, list[np.ndarray]]:
    """A few clips alone, the same in one padded batch, and adversarial input."""
    alone = [(name, clips) for name, clips in speech_batches.items() if name.endswith((".flac", ".wav"))]
    chosen = dict(alone[:: len(alone) // NUM_CLIPS][:NUM_CLIPS])
    chosen["one batch"] = [clip for clips in chosen.values() for clip in clips]
    return chosen | {name: speech_batches[name] for name in ("odd lengths", "silence and a short clip", "two frames")}


@pytest.fixture(scope="module")
def measured(batches: dict[str, list[np.ndarray]]) -> Iterator[dict[str, tuple[str, str]]]:
    """The cells that the tests fill in. The page is written where it is asked for; families not run keep theirs."""
    cells: dict[str, tuple[str, str]] = {}
    yield cells
    cells = {**read_page(), **cells}
    if os.environ.get("FASTCONFORMER_WRITE_TABLE") == "1" and all(family.name in cells for family in FAMILIES):
        import nemo

        write_page(cells, nemo.__version__, len(batches), FLOAT32_SHARE)


def describe(rows: list[StageResult]) -> tuple[str, str]:
    """The last two cells of a family's row."""
    errors: dict[str, float] = {}
    exact: dict[str, set[str]] = {}
    for row in rows:
        if ": " in row.stage:
            head, stage = row.stage.split(": ")
            shown = {"rnnt": "RNN-T", FOLLOWED: FOLLOWED}.get(head, head.upper())
            exact.setdefault(shown, set()).add(stage)
        elif row.stage != "features" and row.limit > 0:  # else nothing had as many frames
            stage = "encoder" if row.stage.startswith(("subsampling", "block", "encoder")) else row.stage
            relative = row.max_difference / (row.limit / FLOAT32_SHARE)
            errors[stage] = max(errors.get(stage, 0.0), relative)
    decoded = [
        f"{head}: {', '.join(name for name in EXACT_STAGES if name in stages)}" for head, stages in exact.items()
    ]
    return ", ".join(f"{stage} {error:.0e}" for stage, error in errors.items()), "; ".join(decoded) or "-"


def compare(
    reference: list[StageOutputs],
    folder: Path,
    batches: dict[str, list[np.ndarray]],
    attn_implementation: str,
    language: str | None,
    done_right: tuple[str, ...],
    are_features_exact: bool,
) -> list[StageResult]:
    converted = ConvertedRunner(folder, attn_implementation=attn_implementation)
    ours = [
        converted.run(outputs.name, batches[outputs.name], outputs.joint_targets, language=language)
        for outputs in reference
    ]
    found = compare_outputs(reference, ours, are_features_exact=are_features_exact)
    rows = [row for row in found if row.stage not in done_right]
    failures = [row for row in rows if not row.passed]
    assert not failures, failures
    return rows


def save_again(result: ConversionResult, folder: Path) -> None:
    """Load what was converted and save it, with everything that belongs to it."""
    ARCHITECTURES[result.mapped.architecture].from_pretrained(result.output_dir).save_pretrained(folder)
    for path in result.output_dir.iterdir():
        if not (folder / path.name).exists() and path.suffix == ".json" and "safetensors" not in path.name:
            (folder / path.name).write_bytes(path.read_bytes())


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_family_equals_nemo(
    family: Family,
    build_nemo_model: Callable[..., Any],
    batches: dict[str, list[np.ndarray]],
    measured: dict[str, tuple[str, str]],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if "ctc: text" in family.done_right:
        # NeMo 3.0 fails there, as the tokenizer wants to be told the language.
        from nemo.collections.common.tokenizers import AggregateTokenizer

        monkeypatch.setattr(AggregateTokenizer, "tokens_to_text", lambda self, tokens, lang_id=None: "")
    if family.is_alone_only:
        batches = {name: clips for name, clips in batches.items() if len(clips) == 1}
    from omegaconf import open_dict

    archive, folder, again = tmp_path / "model.nemo", tmp_path / "converted", tmp_path / "again"
    model = build_nemo_model(family.kind, **family.build)
    if family.architecture == "FastConformerForMultitask":
        with open_dict(model.cfg.decoding):
            model.cfg.decoding.strategy = family.strategy
        balance_decoder(model)
    elif family.architecture not in WITHOUT_TEXT:
        prompts = model.cfg.get("model_defaults", {}).get("prompt_dictionary", {})
        longest = max((clips[0] for clips in batches.values()), key=len)
        balance_classes(model, longest, prompts.get(family.languages[0]))
    model.save_to(str(archive))
    logging.getLogger("transformers").propagate = True
    with caplog.at_level("WARNING"):
        result = convert_nemo_checkpoint(archive, folder)
    assert result.mapped.architecture == family.architecture
    assert tuple(result.parts_left_out) == family.left_out
    told = [record.getMessage() for record in caplog.records if "Left out are" in record.getMessage()]
    assert len(told) == bool(family.left_out)
    for part in family.left_out:
        assert part in told[0]
        assert f"`{part}`" in (folder / "README.md").read_text()

    nemo = NemoRunner(archive)
    save_again(result, again)
    prompt_ids = ConvertedRunner(folder).prompt_ids
    rows: list[StageResult] = []
    for language in family.languages:
        reference = [
            nemo.run(name, waveforms, strategy=family.strategy, language=language, prompt_ids=prompt_ids)
            for name, waveforms in batches.items()
        ]
        exact = not nemo.computes_features_alone
        rows += compare(reference, folder, batches, "eager", language, family.done_right, exact)
        stages = {row.stage for row in rows}
        assert {"features", "encoder"} <= stages
        assert ("prompted frames" in stages) == (language is not None)
        for head in nemo.heads if language == family.languages[0] else []:  # what the heads are balanced for
            tokens = [token for outputs in reference for clip in outputs.hypotheses[head] for token in clip.tokens]
            assert len(tokens) > SAYS_LITTLE.get(family.name, MAX_TOKENS_TO_BE_EMPTY), (
                f"{head} emitted {len(tokens)} tokens"
            )
            assert len(set(tokens)) > 2, f"{head} emitted only {set(tokens)}"
        rows += compare(reference, again, batches, "sdpa", language, family.done_right, exact)
    encoder, info = AutoModel.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"] | info["unexpected_keys"]
    assert type(encoder).__name__ == "FastConformerModel"
    measured[family.name] = describe(rows)
