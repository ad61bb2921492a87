"""Rows of models with prompts: what they say of their prompt, and batches, losses and runs with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from prompted_clips import TEXTS, build_prompted, make_rows
from transformers import TrainerCallback, TrainingArguments

from transformers_fastconformer import (
    ClipFilterOptions,
    FastConformerDataCollator,
    FastConformerForMultitask,
    FastConformerProcessor,
    FastConformerTrainer,
    FinetuneOptions,
    LoraOptions,
    PromptOptions,
    RowForm,
    filter_clips,
    finetune,
)
from transformers_fastconformer.processing_multitask import text_of_multitask
from transformers_fastconformer.training.prompted_rows import PromptedRows

pytest.importorskip("accelerate", reason="accelerate is not installed")
pytest.importorskip("peft", reason="peft is not installed")


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({}, PromptOptions(source_lang="de", pnc=False)),
        ({"pnc": "yes", "source_lang": "<|en|>"}, PromptOptions(source_lang="en", pnc=True)),
        ({"pnc": "<|nopnc|>", "taskname": "asr"}, PromptOptions(source_lang="de", task="transcribe", pnc=False)),
        ({"pnc": "1", "taskname": "s2t_translation", "target_lang": "en", "itn": "what this format has not"},
         PromptOptions("de", "en", "translate", True)),
        ({"pnc": None, "source_lang": ""}, PromptOptions(source_lang="de", pnc=False)),
    ],
)  # fmt: skip
def test_a_row_goes_before_what_is_said_for_all(row: dict[str, Any], expected: PromptOptions) -> None:
    rows = PromptedRows(build_prompted()[1], RowForm(), PromptOptions(source_lang="de", pnc=False))
    assert rows.prompt_of(row) == expected


def test_slots_of_the_newer_format() -> None:
    rows = PromptedRows(build_prompted("canary2")[1], RowForm(), PromptOptions())
    said = {"itn": True, "timestamp": "no", "diarize": 0, "emotion": "<|emo:undefined|>", "decodercontext": "the dog"}
    assert rows.prompt_of(said) == PromptOptions(
        itn=True, timestamps=False, diarize=False, emotion="undefined", context="the dog"
    )
    with pytest.raises(ValueError, match="itn='maybe' is not supported; expected one of yes, true, 1, itn, no"):
        rows.prompt_of({"itn": "maybe"})


def test_the_answer_is_the_text_unless_another_column_is_named() -> None:
    row = {"text": "der Hund", "answer": "the dog", "other": "dogs"}
    processor = build_prompted()[1]
    assert PromptedRows(processor, RowForm(), PromptOptions()).text_of(row) == "the dog"
    assert PromptedRows(processor, RowForm(text_column="other"), PromptOptions()).text_of(row) == "dogs"


def test_a_batch_has_the_prompt_of_each_row() -> None:
    _, processor = build_prompted()
    rows = make_rows()
    batch = FastConformerDataCollator(processor, prompt=PromptOptions(pnc=True))(rows)
    own = [row["audio"]["array"] for row in rows]
    prompts = [{}, {"source_lang": "de", "target_lang": "en", "pnc": False}, {}, {}]
    for place, (waveform, text, prompt) in enumerate(zip(own, TEXTS, prompts, strict=True)):
        single = processor(waveform, text=text, sampling_rate=16000, **prompt)
        count = single["labels"].shape[1]
        for name in ("labels", "decoder_input_ids"):
            assert torch.equal(batch[name][place, :count], single[name][0]), name
        assert set(batch["labels"][place, count:].tolist()) <= {-100}


def test_clips_are_left_out_for_their_prompts_and_lengths() -> None:
    model, processor = build_prompted()
    rows = make_rows()
    rows += [{**rows[0], "source_lang": "fr"}, {**rows[0], "text": "the lazy dog " * 9}, {**rows[0], "text": 3}]
    clips, report = filter_clips(rows, RowForm(), processor, model.config, ClipFilterOptions())
    assert clips.indices == [0, 1, 2, 3]
    assert [clip.reason for clip in report.left_out] == [
        "a prompt that the model does not have", "more tokens than the decoder holds", "without a text",
    ]  # fmt: skip
    assert "source_lang='fr' is not supported" in report.left_out[0].detail
    assert report.left_out[1].detail.endswith("with the prompt, 32 at most")


@pytest.mark.parametrize("prompt_format", ["canary", "canary2"])
@pytest.mark.parametrize("learns_prompt", [True, False])
def test_evaluation_generates_after_the_prompt_of_each_clip(
    prompt_format: str, learns_prompt: bool, tmp_path: Path
) -> None:
    model, processor = build_prompted(prompt_format, learns_prompt)
    clips, _ = filter_clips(make_rows(), RowForm(), processor, model.config, ClipFilterOptions())
    args = TrainingArguments(str(tmp_path), report_to=[], use_cpu=True)
    trainer = FastConformerTrainer(model, args, processor, eval_dataset=clips)
    result = trainer.predict(clips)
    read = [
        [text_of_multitask(processor.tokenizer, [token for token in row if token >= 0], None) for row in table]
        for table in (result.label_ids.tolist(), result.predictions.tolist())
    ]
    assert sorted(read[0]) == sorted(TEXTS)
    batch = FastConformerDataCollator(processor)([clips[place] for place in range(4)])
    with torch.no_grad():
        expected = float(model.eval()(**batch).loss)
    assert result.metrics["test_loss"] == pytest.approx(expected, rel=1e-4)
    for place in range(4):
        prompt = [{}, {"source_lang": "de", "target_lang": "en", "pnc": False}, {}, {}][place]
        features = processor(clips[place]["audio"]["array"], sampling_rate=16000)
        found = model.generate(**features, **prompt)[0].tolist()
        text = text_of_multitask(processor.tokenizer, found, None)
        assert text in read[1]


class Killed(TrainerCallback):
    """Ends the process, as a test can, after some step."""

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 3:
            raise KeyboardInterrupt


def run(output_dir: Path, callbacks: Any = (), **options: Any) -> Any:
    given: dict[str, Any] = {"max_steps": 4, "eval_steps": 2, "learning_rate": 3e-3, "batch_seconds": 30.0, **options}
    rows = make_rows()
    return finetune(
        *build_prompted(), rows, rows, FinetuneOptions(str(output_dir), **given), "canary", callbacks=callbacks
    )


@pytest.mark.parametrize(
    "lora", [pytest.param(None, id="full", marks=pytest.mark.slow), pytest.param(LoraOptions(rank=2), id="lora")]
)
def test_a_run_goes_on_after_a_kill_and_loads(lora: LoraOptions | None, tmp_path: Path) -> None:
    unbroken = run(tmp_path / "unbroken", lora=lora)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "out", [Killed()], lora=lora)
    resumed = run(tmp_path / "out", lora=lora)
    assert resumed.curve == unbroken.curve
    first, second = (FastConformerForMultitask.from_pretrained(tmp_path / name) for name in ("out", "unbroken"))
    before = build_prompted()[0].state_dict()
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name]), name
    name = "decoder.layers.0.cross_attn.q_proj.weight"
    assert not torch.equal(first.state_dict()[name], before[name])


def test_a_small_model_learns_texts_by_heart(tmp_path: Path) -> None:
    result = run(tmp_path / "out", max_steps=60, eval_steps=30, learning_rate=1e-2)
    losses = [point.eval_loss for point in result.curve]
    assert losses[-1] < 0.5 * losses[0]
    tuned = FastConformerForMultitask.from_pretrained(tmp_path / "out")
    processor = FastConformerProcessor.from_pretrained(tmp_path / "out")
    batch = FastConformerDataCollator(processor)(make_rows())
    with torch.no_grad():
        assert float(tuned.eval()(**batch).loss) == pytest.approx(losses[-1], rel=0.05)
    assert np.isfinite(result.best.wer)


def test_options_that_do_not_fit_the_model(tmp_path: Path, processor: FastConformerProcessor) -> None:
    with pytest.raises(ValueError, match="source_lang='fr' is not supported by this model; expected one of"):
        run(tmp_path / "out", prompt=PromptOptions(source_lang="fr"))
    with pytest.raises(ValueError, match="pnc=True is not supported by a model without prompts"):
        FastConformerDataCollator(processor, prompt=PromptOptions(pnc=True))
