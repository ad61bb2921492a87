"""The usual ways to evaluate with Transformers give the text of `generate`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCTC, Seq2SeqTrainer, Seq2SeqTrainingArguments, Trainer, TrainingArguments

from transformers_fastconformer import FastConformerProcessor, load_model, read_audio
from transformers_fastconformer.demonstration import CHECKPOINT_PATH, CLIP_PATHS

pytest.importorskip("accelerate")
OPTIONS: dict[str, Any] = {"report_to": [], "use_cpu": True, "per_device_eval_batch_size": 2, "disable_tqdm": True}


@pytest.fixture(scope="module")
def clips() -> list[np.ndarray]:
    """Clips of many lengths, so that each batch is padded and two batches are of different lengths."""
    first, second = (read_audio(path) for path in CLIP_PATHS)
    return [first, second[:24000], first[16000:], np.concatenate([second, first]), first[:9000]]


@pytest.fixture(scope="module")
def processor() -> FastConformerProcessor:
    return FastConformerProcessor.from_pretrained(CHECKPOINT_PATH)


@pytest.fixture(scope="module")
def ctc_model() -> Any:
    return AutoModelForCTC.from_pretrained(CHECKPOINT_PATH).eval()


@pytest.fixture(scope="module")
def spoken(ctc_model: Any, processor: FastConformerProcessor, clips: list[np.ndarray]) -> list[str]:
    """What `generate` hears in each clip on its own."""
    inputs = [processor(clip, sampling_rate=16000, return_tensors="pt") for clip in clips]
    texts = [processor.batch_decode(ctc_model.generate(**features))[0] for features in inputs]
    assert len(texts[0].split()) > 4
    return texts


def collate(processor: FastConformerProcessor) -> Callable[[list[dict[str, Any]]], Any]:
    def make_batch(rows: list[dict[str, Any]]) -> Any:
        audio, text = [row["audio"] for row in rows], [row["text"] for row in rows]
        return dict(processor(audio, text=text, sampling_rate=16000, return_tensors="pt"))

    return make_batch


@pytest.mark.parametrize("batch", [[0], [0, 1], [0, 1, 2, 3, 4]], ids=str)
def test_best_classes_decode_like_generate(
    ctc_model: Any, processor: FastConformerProcessor, clips: list[np.ndarray], spoken: list[str], batch: list[int]
) -> None:
    """The way of the Open ASR Leaderboard: argmax, and the texts of the ids."""
    inputs = processor([clips[place] for place in batch], sampling_rate=16000, return_tensors="pt")
    with torch.no_grad():
        logits = ctc_model(**inputs).logits
    expected = [spoken[place] for place in batch]
    assert processor.batch_decode(logits.argmax(-1), skip_special_tokens=True) == expected
    assert processor.tokenizer.batch_decode(logits.argmax(-1).numpy()) == expected
    assert [processor.decode(ids) for ids in logits.argmax(-1)] == expected
    assert processor.batch_decode(logits) == [processor.decode(clip) for clip in logits] == expected
    assert processor.batch_decode(ctc_model.generate(**inputs)) == expected


def metrics_of_logits(processor: FastConformerProcessor, prediction: Any) -> list[str]:
    return processor.batch_decode(np.argmax(prediction.predictions, axis=-1), skip_special_tokens=True)


def metrics_of_classes(processor: FastConformerProcessor, prediction: Any) -> list[str]:
    return processor.batch_decode(prediction.predictions)


def metrics_of_classes_filled_up(processor: FastConformerProcessor, prediction: Any) -> list[str]:
    ids = np.where(prediction.predictions == -100, processor.tokenizer.pad_token_id, prediction.predictions)
    return processor.batch_decode(ids, skip_special_tokens=True)


@pytest.mark.parametrize(
    ("metrics", "takes_classes"),
    [
        (metrics_of_logits, False),
        (metrics_of_classes, False),  # of logits: the processor takes them as they are
        (metrics_of_classes, True),
        (metrics_of_classes_filled_up, True),
    ],
)
def test_trainer_with_metrics(
    ctc_model: Any,
    processor: FastConformerProcessor,
    clips: list[np.ndarray],
    spoken: list[str],
    tmp_path: Path,
    metrics: Callable[..., list[str]],
    takes_classes: bool,
) -> None:
    """Predictions are one array, and its texts and those of the labels are right whatever is padding."""
    found: dict[str, list[str]] = {}

    def compute_metrics(prediction: Any) -> dict[str, float]:
        label_ids = np.where(prediction.label_ids == -100, processor.tokenizer.pad_token_id, prediction.label_ids)
        found["texts"] = metrics(processor, prediction)
        found["labels"] = processor.batch_decode(label_ids, group_tokens=False)
        found["labels as they are"] = processor.batch_decode(prediction.label_ids)
        return {"errors": sum(a != b for a, b in zip(found["texts"], found["labels"], strict=True))}

    rows = [{"audio": clip, "text": text} for clip, text in zip(clips, spoken, strict=True)]
    trainer = Trainer(
        ctc_model,
        TrainingArguments(str(tmp_path), remove_unused_columns=False, **OPTIONS),
        data_collator=collate(processor),
        eval_dataset=rows,
        compute_metrics=compute_metrics,
        preprocess_logits_for_metrics=(lambda logits, labels: logits.argmax(-1)) if takes_classes else None,
    )
    assert trainer.evaluate()["eval_errors"] == 0
    assert found == {"texts": spoken, "labels": spoken, "labels as they are": spoken}


@pytest.mark.parametrize("head", ["ctc", "transducer"])
def test_predict_with_generate(
    processor: FastConformerProcessor, clips: list[np.ndarray], tmp_path: Path, head: str
) -> None:
    """`Seq2SeqTrainer` evaluates both heads with `generate`, also where it is told lengths and beams."""
    model, _ = load_model("demo", head=head, device="cpu")
    features = [processor(clip, sampling_rate=16000, return_tensors="pt") for clip in clips]
    texts = [processor.batch_decode(model.generate(**item))[0] for item in features]
    trainer = Seq2SeqTrainer(
        model,
        Seq2SeqTrainingArguments(
            str(tmp_path), remove_unused_columns=False, predict_with_generate=True, generation_num_beams=1, **OPTIONS
        ),
        data_collator=collate(processor),
        processing_class=processor,
    )
    rows: Any = [{"audio": clip, "text": text} for clip, text in zip(clips, texts, strict=True)]
    prediction = trainer.predict(rows)
    ids = np.where(prediction.predictions == -100, processor.tokenizer.pad_token_id, prediction.predictions)
    assert processor.batch_decode(prediction.predictions) == processor.batch_decode(ids) == texts
    short = trainer.predict(rows, max_length=3).predictions
    assert ((short >= 0) & (short < processor.tokenizer.blank_token_id)).sum(axis=1).max() == 3
