"""A `Trainer` with batches by seconds of audio, losses that accumulate exactly, and evaluation by greedy decoding."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch.utils.data import DataLoader
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import EvalLoopOutput, EvalPrediction, seed_worker

from ..decoding.ctc import ctc_decode_frames
from ..decoding.prompts import count_prompt_tokens
from ..modeling.outputs import (
    FastConformerCTCOutput,
    FastConformerMultitaskEncoderOutput,
    FastConformerMultitaskOutput,
    FastConformerTransducerOutput,
)
from ..tokenization_fastconformer import IGNORED_LABEL
from ..validation import is_number, require
from .batch_sampler import SecondsBatchSampler
from .collator import FastConformerDataCollator, pad_rows
from .freezing import hold_batch_norms
from .metrics import WordErrors
from .training_clips import TrainingClips

# Reductions of losses that are means over the clips of a batch.
MEANS_OVER_CLIPS = ("mean", "mean_per_token")


class FastConformerTrainer(Trainer):
    """
    `Trainer` for models of this package.

    What it changes: batches have about as many seconds of audio each ([`SecondsBatchSampler`]) in place of equally
    many clips; the loss of a step is the mean over all its batches and processes, however these are cut; evaluation
    decodes greedily and keeps token ids, no logits, so that its memory does not grow with the vocabulary.

    Args:
        model: A model of this package, or PEFT's around one.
        args (`TrainingArguments`): `per_device_train_batch_size` is the most clips of a batch, if it is not the
            default of 8, and `per_device_eval_batch_size` is not read.
        processor ([`FastConformerProcessor`]): The model's; saved in every checkpoint.
        train_dataset, eval_dataset ([`TrainingClips`]): As `filter_clips` returns them.
        batch_seconds (`float`, defaults to 120.0): Seconds of audio in a batch of a process at most, padding included.
        eval_batch_seconds (`float`, *optional*): In evaluation; default: twice `batch_seconds`.
        hold_batch_norm (`bool`, defaults to `True`): Batch norms use and keep the statistics that they have. `False`:
            those of each batch, as in training from scratch; accumulated batches are then not one large batch.
        data_collator, compute_metrics: Default: [`FastConformerDataCollator`] and [`WordErrors`] of the processor.
        kwargs: Further arguments of `Trainer`.

    Raises:
        ValueError: for several GPUs in one process; for error rates with FSDP; and for a configuration whose losses
            are sums over clips, or are reduced in two ways.
    """

    def __init__(
        self,
        model: Any,
        args: TrainingArguments,
        processor: Any,
        train_dataset: TrainingClips | None = None,
        eval_dataset: TrainingClips | None = None,
        batch_seconds: float = 120.0,
        eval_batch_seconds: float | None = None,
        hold_batch_norm: bool = True,
        data_collator: Any = None,
        compute_metrics: Any = None,
        **kwargs: Any,
    ) -> None:
        require(args.n_gpu <= 1, "n_gpu", args.n_gpu, "1: start a process for each GPU with `accelerate launch`")
        if args.fsdp and eval_dataset is not None and not args.prediction_loss_only:
            raise ValueError(
                "prediction_loss_only=False is not supported with fsdp, whose weights are there in the forward pass "
                "only; expected True, or no eval_dataset."
            )
        self._count_items = _choose_count(model.config)
        eval_seconds = 2 * batch_seconds if eval_batch_seconds is None else eval_batch_seconds
        for name, value in (("batch_seconds", batch_seconds), ("eval_batch_seconds", eval_seconds)):
            require(is_number(value) and value > 0, name, value, "a number of seconds above 0")
        self.batch_seconds = batch_seconds
        self.eval_batch_seconds = eval_seconds
        self.hold_batch_norm = hold_batch_norm
        self._train_batches: SecondsBatchSampler | None = None
        accelerator_config: Any = args.accelerator_config
        accelerator_config.even_batches = False  # the sampler sees to that
        super().__init__(
            model,
            args,
            data_collator=FastConformerDataCollator(processor) if data_collator is None else data_collator,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=processor,
            compute_metrics=WordErrors(processor) if compute_metrics is None else compute_metrics,
            **kwargs,
        )
        # `compute_loss` divides by what all accumulated batches are means of, which `get_batch_samples` counts.
        self.model_accepts_loss_kwargs = True
        self.loss_is_scaled_for_ga: bool | None = True
        self.add_callback(_EpochOfBatches(self))

    # Batches

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Batches by seconds, in equal numbers for all processes."""
        clips = self.train_dataset
        if not isinstance(clips, TrainingClips):
            raise ValueError(f"train_dataset is {type(clips).__name__}; expected TrainingClips, of `filter_clips`.")
        args = self.args
        is_default = args.per_device_train_batch_size == TrainingArguments.per_device_train_batch_size
        self._train_batches = SecondsBatchSampler(
            clips.seconds,
            self.batch_seconds,
            seed=args.seed if args.data_seed is None else args.data_seed,
            multiple=self.accelerator.num_processes * args.gradient_accumulation_steps,
            max_clips=None if is_default else args.per_device_train_batch_size,
        )
        worker_init = partial(seed_worker, num_workers=args.dataloader_num_workers, rank=args.process_index)
        loader = DataLoader(
            clips,
            batch_sampler=self._train_batches,
            collate_fn=self.data_collator,
            num_workers=args.dataloader_num_workers,
            pin_memory=args.dataloader_pin_memory and args.device.type == "cuda",
            worker_init_fn=worker_init if args.dataloader_num_workers else None,
        )
        return self.accelerator.prepare(loader)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose batches come next."""
        if self._train_batches is not None:
            self._train_batches.set_epoch(epoch)

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader[Any]:
        """This process's share of the clips in batches by seconds, longest first; as many as the others have."""
        clips = self.eval_dataset if eval_dataset is None else eval_dataset
        clips = self.eval_dataset[clips] if isinstance(clips, str) else clips  # type: ignore[index, call-overload]
        if not isinstance(clips, TrainingClips):
            raise ValueError(f"eval_dataset is {type(clips).__name__}; expected TrainingClips, of `filter_clips`.")
        seconds = max(self.eval_batch_seconds, *clips.seconds)
        batches = SecondsBatchSampler(clips.seconds, seconds, shuffle=False).list_batches()
        return _ShareOfBatches(
            clips, batches, self.args.process_index, self.args.world_size, self.data_collator,
            self.args.dataloader_num_workers,
        )  # fmt: skip

    def get_test_dataloader(self, test_dataset: Any) -> DataLoader[Any]:
        """Batches of clips to predict, as those of an evaluation."""
        return self.get_eval_dataloader(test_dataset)

    # Losses

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], torch.Tensor | int | None]:
        """The batches of a step, and the number of what losses are means of, in those of the other processes too."""
        batches = [batch for _, batch in zip(range(num_batches), epoch_iterator, strict=False)]
        num_items = sum(int(self._count_items(batch["labels"])) for batch in batches)
        counted = torch.tensor(num_items, dtype=torch.int64, device=device)
        if self.args.world_size > 1:
            counted = self.accelerator.gather(counted).sum()
        return batches, counted

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """The share of a batch in the mean of a step; its own mean where the number of items is not given."""
        if model.training:
            hold_batch_norms(model, only_frozen=not self.hold_batch_norm)
        outputs = model(**inputs, return_dict=True)
        loss = outputs["loss"]
        if num_items_in_batch is not None:
            # Gradients of processes are averaged, so that the number of these cancels.
            loss = loss * (self._count_items(inputs["labels"]) * self.accelerator.num_processes / num_items_in_batch)
        return (loss, outputs) if return_outputs else loss

    # Evaluation

    def evaluation_loop(
        self,
        dataloader: DataLoader[Any],
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """Loss and token ids of all clips, of all processes together."""
        assert isinstance(dataloader, _ShareOfBatches)
        model: Any = self.model
        model.eval()
        self.callback_handler.eval_dataloader = dataloader
        only_loss = self.args.prediction_loss_only if prediction_loss_only is None else prediction_loss_only
        losses: list[tuple[float, int, int]] = []  # with the items that each is the mean of, and the clips
        predictions: list[list[int]] = []
        labels: list[list[int]] = []
        for step, inputs in enumerate(dataloader):
            loss, found, expected = self.prediction_step(model, inputs, only_loss, ignore_keys)
            if step < dataloader.num_own_batches:
                count = int(self._count_items(inputs["labels"]))
                losses.append((float(loss), count, len(inputs["labels"])))  # type: ignore[arg-type]
                if found is not None and expected is not None:
                    predictions += found.tolist()
                    labels += expected.tolist()
            self.control = self.callback_handler.on_prediction_step(self.args, self.state, self.control)
        if self.args.world_size > 1:
            from accelerate.utils import gather_object

            losses, predictions, labels = (gather_object(items) for items in (losses, predictions, labels))
        num_items = sum(count for _, count, _ in losses)
        arrays = None if only_loss else tuple(pad_rows(rows, IGNORED_LABEL).numpy() for rows in (predictions, labels))
        metrics: dict[str, float] = {"loss": sum(loss * count for loss, count, _ in losses) / num_items}
        if arrays is not None and self.compute_metrics is not None:
            metrics |= self.compute_metrics(EvalPrediction(*arrays))
        return EvalLoopOutput(
            predictions=arrays[0] if arrays is not None else None,  # type: ignore[arg-type]
            label_ids=arrays[1] if arrays is not None else None,
            metrics={f"{metric_key_prefix}_{name}": value for name, value in metrics.items()},
            num_samples=sum(clips for _, _, clips in losses),
        )

    @torch.no_grad()
    def prediction_step(
        self,
        model: Any,
        inputs: dict[str, Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None]:
        """Loss of a batch and the token ids that its clips decode to, from one pass of the encoder."""
        inputs = self._prepare_inputs(inputs)
        with self.compute_loss_context_manager():
            outputs = model(**inputs, return_dict=True)
        loss = outputs["loss"].detach()
        if prediction_loss_only:
            return loss, None, None
        recognizer = self.accelerator.unwrap_model(model)
        if isinstance(outputs, FastConformerMultitaskOutput):
            return loss, *_answer(recognizer, inputs, outputs)
        return loss, _decode(recognizer, inputs, outputs), inputs["labels"]


def _choose_count(config: Any) -> Callable[[torch.Tensor], int | torch.Tensor]:
    """Counts what the loss of a batch is the mean of: its clips or its tokens, of labels (clips, tokens)."""
    if config.model_type == "fastconformer_multitask":
        return _count_tokens
    names = ("ctc_loss_reduction", "transducer_loss_reduction")
    reductions = {name: getattr(config, name) for name in names if hasattr(config, name)}
    if all(value in MEANS_OVER_CLIPS for value in reductions.values()):
        return len
    if all(value == "mean_volume" for value in reductions.values()):
        return _count_tokens
    told = ", ".join(f"{name}={value!r}" for name, value in reductions.items())
    raise ValueError(f"{told} is not supported; expected means over the clips of a batch, or over the tokens.")


def _count_tokens(labels: torch.Tensor) -> torch.Tensor:
    return (labels != IGNORED_LABEL).sum()  # a tensor: `compute_loss` does not wait for the device


def _decode(model: Any, inputs: dict[str, Any], outputs: Any) -> torch.Tensor:
    """Token ids of the clips of a batch, (clips, tokens), the best at every step."""
    recognizer = model.get_base_model() if hasattr(model, "get_base_model") else model
    config = recognizer.config
    if isinstance(outputs, FastConformerTransducerOutput):
        frames: Any = outputs.last_hidden_state
        hypotheses, _ = recognizer.decode_frames(frames.to(recognizer.dtype), outputs.encoder_lengths)
    else:
        assert isinstance(outputs, FastConformerCTCOutput)
        logits: Any = outputs.logits
        lengths: Any = outputs.encoder_lengths
        hypotheses, _ = ctc_decode_frames(
            logits.float().log_softmax(dim=-1), lengths, config.blank_token_id, config.pad_token_id
        )
    is_token = (
        torch.arange(hypotheses.tokens.shape[1], device=hypotheses.tokens.device) < (hypotheses.token_lengths[:, None])
    )
    return hypotheses.tokens.masked_fill(~is_token, IGNORED_LABEL)


def _answer(model: Any, inputs: dict[str, Any], outputs: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Token ids that a model with prompts writes after those of the clips, and those that it should, (clips, tokens).

    The frames are those of the loss; `generate` searches as the checkpoint does, within its limits.
    """
    recognizer = model.get_base_model() if hasattr(model, "get_base_model") else model
    config, lengths = recognizer.config, outputs.encoder_lengths
    rows = inputs["decoder_input_ids"].tolist()
    prompts = [row[: count_prompt_tokens(config, row)] for row in rows]
    frames = outputs.encoder_last_hidden_state.to(recognizer.dtype)
    encoded = FastConformerMultitaskEncoderOutput(
        last_hidden_state=frames,
        encoder_lengths=lengths,
        padded_lengths=recognizer.count_padded_frames(
            inputs["input_features"], inputs.get("attention_mask"), inputs.get("input_lengths"), lengths
        ),
    )
    found = recognizer.generate(prompt_ids=prompts, encoder_outputs=encoded)
    expected = inputs["labels"].clone()
    for row, prompt in zip(expected, prompts, strict=True):
        row[: len(prompt) - 1] = IGNORED_LABEL
    expected = expected.masked_fill(expected == config.eos_token_id, IGNORED_LABEL)
    return found.masked_fill(found == recognizer.padding_id, IGNORED_LABEL), expected


class _ShareOfBatches(DataLoader[Any]):
    """Batches of one process; one that has fewer than the others repeats its last, which does not count."""

    def __init__(
        self, clips: TrainingClips, batches: list[list[int]], index: int, processes: int, collate: Any, workers: int
    ) -> None:
        own = batches[index::processes]
        self.num_own_batches = len(own)
        missing = -(-len(batches) // processes) - len(own)
        filled = own + [batches[0]] * missing
        super().__init__(clips, batch_sampler=filled, collate_fn=collate, num_workers=workers)


class _EpochOfBatches(TrainerCallback):
    """Tells the sampler the epoch before its batches are drawn, in a run that resumes too."""

    def __init__(self, trainer: FastConformerTrainer) -> None:
        self.trainer = trainer

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        # The share of the epoch that is done, which may be a rounding error below the next whole number.
        self.trainer.set_epoch(int((state.epoch or 0.0) + 1e-6))
