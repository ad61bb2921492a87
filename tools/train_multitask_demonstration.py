"""
Train the multitask demonstration checkpoint: a small Canary for strings of spoken English digits.

It writes them in English, or translates them to German, with or without punctuation, with or without the times of
words as time tokens, as the Canary models of the `flash` kind do. The model is NeMo's own `EncDecMultiTaskModel` and
NeMo writes the `.nemo`. The encoder begins with the weights of the first demonstration checkpoint and with two layers
that tell the time (`encoder_clock.py`). Needs the extras `nemo` and `audio`, espeak-ng, and the recordings that
`digit_data.py` describes.

    python tools/train_multitask_demonstration.py --output multitask.nemo --minutes 25
    python tools/train_multitask_demonstration.py --output multitask.nemo --evaluate
"""

from __future__ import annotations

import argparse
import math
import random
import re
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from digit_data import (
    HELD_OUT_VOICES,
    SAMPLING_RATE,
    Augmentation,
    DigitStrings,
    Utterance,
    join_test_clips,
    read_digit_clips,
    read_synthesized_clips,
    synthesize,
)
from digit_training import (
    HIDDEN_SIZE,
    TrainingOptions,
    WeightAverage,
    add_training_arguments,
    count_word_errors,
    make_configuration,
    read_training_options,
    restore,
    state_path,
    write_tokenizer,
)
from encoder_clock import add_clock
from prompted_digit_data import (
    CURRICULUM,
    FRAME_SAMPLES,
    LAST_TIME_FRAME,
    WORDS,
    Batch,
    Prompt,
    PromptedDigits,
    Window,
    Word,
    encode_with,
    join_test_windows,
    write_words,
)
from transformers_fastconformer.demonstration import CHECKPOINT_PATH

NEW_LAYERS = 2
DECODER_HIDDEN_SIZE = 128
DECODER_LAYERS = 2
DECODER_HEADS = 4
LANGUAGE_VOCABULARY_SIZE = 100  # each word is a piece
MOST_TOKENS = 512
AUGMENTATION = Augmentation(gain_db=(-25.0, 20.0))
# Of the curriculum's stages, as the mean loss of a token that is not a time.
STAGE_ENDS_AT_LOSS = (0.5, 0.4, 0.35)
# Share of the time in which the layers of the first demonstration stay as they are, which is much faster.
FROZEN_SHARE = 0.5
# Of the decoder's: of the new layers, and of the old ones.
NEW_LEARNING_RATE, OLD_LEARNING_RATE = 0.5, 0.2
# A decoder learns to find the next word much faster when some of its heads are told where it is, and the encoder's
# states how many words there were before it.
GUIDED_HEADS = ((0, 1), (0, 2))  # of each layer of the decoder: one of them looks at the word
GUIDED_SHARE = 0.3
# Of waves of the time, in states that layer norm makes as large as 1 in each place; and of scores that compare them.
TIME_SCALE, ATTENTION_SCALE = 0.5, 5.0
COUNT_SHARE = 1.0
COUNT_WAVELENGTHS = (3.0, 6.0, 12.0, 24.0, 48.0, 96.0)  # in words
EMOTIONS = ("undefined", "neutral", "happy", "sad", "angry")
SLOT_TOKENS = ("itn", "noitn", "timestamp", "notimestamp", "diarize", "nodiarize", "startofcontext")


# --------------------------------------------------------------------------------------------------------------- model


def train_language_tokenizer(folder: Path, language: str) -> None:
    """A SentencePiece BPE model of digit strings with and without punctuation, in the files that NeMo expects."""
    generator = random.Random(0)
    lines = []
    for index in range(4000):
        words = [Word(generator.randrange(10), place, place) for place in range(generator.randint(1, 8))]
        lines.append(" ".join(write_words(words, Prompt(language, index % 2 == 0))))
        lines.append(" ".join(write_words(words[:1], Prompt(language))))
    # The table of the default normalization is larger than all the rest.
    write_tokenizer(folder, lines, LANGUAGE_VOCABULARY_SIZE, normalization_rule_name="identity")


def train_tokenizers(folder: Path) -> None:
    """The tokenizers of special tokens and of each language, each in a folder."""
    from nemo.collections.common.tokenizers.canary_tokenizer import CanaryTokenizer

    tokens = [*SLOT_TOKENS, *(f"emo:{name}" for name in EMOTIONS), *WORDS, *map(str, range(LAST_TIME_FRAME + 1))]
    CanaryTokenizer.build_special_tokenizer(tokens, folder / "spl_tokens")
    for language in WORDS:
        train_language_tokenizer(folder / language, language)


def make_multitask_configuration(tokenizer_folder: Path) -> dict[str, Any]:
    """Configuration of a small canary-180m-flash."""
    digits = make_configuration(tokenizer_folder)
    dropout = {"ffn_dropout": 0.05, "attn_score_dropout": 0.0, "attn_layer_dropout": 0.05}
    defaults = Prompt().slots() | {"source_lang": "en", "target_lang": "en"}
    defaults.pop("prompt_language")
    return {
        "sample_rate": SAMPLING_RATE,
        "prompt_format": "canary2",
        "prompt_defaults": [{"role": "user", "slots": defaults}],
        "use_loss_mask_for_prompt": True,
        "model_defaults": {
            "asr_enc_hidden": HIDDEN_SIZE,
            "lm_enc_hidden": DECODER_HIDDEN_SIZE,
            "lm_dec_hidden": DECODER_HIDDEN_SIZE,
        },
        "tokenizer": {
            "dir": None,
            "type": "agg",
            "langs": {name: {"dir": str(tokenizer_folder / name), "type": "bpe"} for name in ("spl_tokens", *WORDS)},
            "custom_tokenizer": {
                "_target_": "nemo.collections.common.tokenizers.canary_tokenizer.CanaryTokenizer",
                "tokenizers": None,
            },
        },
        "preprocessor": digits["preprocessor"],
        "spec_augment": digits["spec_augment"],
        "encoder": digits["encoder"] | {"n_layers": digits["encoder"]["n_layers"] + NEW_LAYERS},
        "transf_decoder": {
            "_target_": "nemo.collections.asr.modules.transformer.get_nemo_transformer",
            "model_name": None,
            "pretrained": False,
            "encoder": None,
            "pre_ln_final_layer_norm": True,
            "config_dict": {
                "max_sequence_length": MOST_TOKENS,
                "num_token_types": 0,
                "embedding_dropout": 0.05,
                "learn_positional_encodings": False,
                "hidden_size": DECODER_HIDDEN_SIZE,
                "inner_size": 2 * DECODER_HIDDEN_SIZE,
                "num_layers": DECODER_LAYERS,
                "num_attention_heads": DECODER_HEADS,
                "hidden_act": "relu",
                "pre_ln": True,
                "vocab_size": None,
            }
            | dropout,
        },
        "head": {
            "_target_": "nemo.collections.asr.parts.submodules.token_classifier.TokenClassifier",
            "num_layers": 1,
            "activation": "relu",
            "log_softmax": True,
            "hidden_size": DECODER_HIDDEN_SIZE,
            "num_classes": None,
            "dropout": 0.0,
            "use_transformer_init": True,
        },
        "decoding": {
            "strategy": "greedy",
            "greedy": {
                "temperature": None,
                "max_generation_delta": 50,
                "preserve_alignments": False,
                "preserve_token_confidence": False,
                "confidence_method_cfg": None,
                "n_samples": 1,
            },
        },
        "loss": {
            "_target_": "nemo.collections.common.losses.smoothed_cross_entropy.SmoothedCrossEntropyLoss",
            "label_smoothing": 0.0,
            "pad_id": None,
        },
        "optim": digits["optim"],
    }


def build_multitask_model(clips: list[Utterance], tokenizer_folder: Path) -> Any:
    """NeMo's model with the first demonstration's encoder, a clock on top of it, and a new decoder."""
    from nemo.collections.asr.models import EncDecMultiTaskModel
    from omegaconf import OmegaConf

    train_tokenizers(tokenizer_folder)
    model = EncDecMultiTaskModel(cfg=OmegaConf.create(make_multitask_configuration(tokenizer_folder)))
    for name in ("spl_tokens", *WORDS):
        model.cfg.tokenizer.langs[name].dir = name  # the archive holds the files, wherever they lay in training
    source = restore(CHECKPOINT_PATH)
    model.encoder.load_state_dict(source.encoder.state_dict(), strict=False)
    model.eval()
    with torch.no_grad():
        batch = [torch.from_numpy(clip.waveform) for clip in clips]
        features, lengths = model.preprocessor(
            input_signal=nn.utils.rnn.pad_sequence(batch, batch_first=True),
            length=torch.tensor([len(waveform) for waveform in batch]),
        )
    add_clock(model.encoder, features, lengths, len(model.encoder.layers) - NEW_LAYERS)
    begin_with_times(model, features, lengths)
    return model


@torch.no_grad()
def begin_with_times(model: Any, features: Tensor, lengths: Tensor) -> None:
    """
    Let the decoder begin with times: it looks at the frame that a time token names, and names the frame it looks at.

    A head's width holds waves of the time, in the embeddings of time tokens and in the encoder's states alike. Two of
    the heads of the last layer compare them; the others are free to find words by their number.

    Args:
        model: NeMo's model, with a clock in its encoder.
        features: (clips, mels, frames).
        lengths: (clips).
    """
    width = DECODER_HIDDEN_SIZE // DECODER_HEADS
    wavelengths = 8.0 * 180.0 ** torch.linspace(0.0, 1.0, width // 2)

    def waves_at(frames: Tensor) -> Tensor:
        angles = 2 * math.pi * frames[:, None] / wavelengths
        return TIME_SCALE * torch.cat([angles.sin(), angles.cos()], dim=1)

    weight = model.transf_decoder.embedding.token_embedding.weight
    weight[:, :width] = 0.0
    tokens = [model.tokenizer.special_tokens[f"<|{frame}|>"] for frame in range(LAST_TIME_FRAME + 1)]
    weight[torch.tensor(tokens)] = 0.0
    weight[torch.tensor(tokens), :width] = waves_at(torch.arange(LAST_TIME_FRAME + 1.0))
    # The first rows of the projection are the linear map from states to waves with the least squares.
    encoded, encoded_lengths = model.encoder(audio_signal=features, length=lengths)
    counts = encoded_lengths.tolist()
    states = torch.cat([row[:, :count].T for row, count in zip(encoded, counts, strict=True)])
    waves = torch.cat([waves_at(torch.arange(float(count))) for count in counts])
    known = torch.cat([states, torch.ones(len(states), 1)], dim=1).double()
    penalty = 1e-4 * len(known) * torch.eye(known.shape[1], dtype=torch.float64)
    solution = torch.linalg.solve(known.T @ known + penalty, known.T @ waves.double()).float()
    model.encoder_decoder_proj.weight[:width] = solution[:-1].T
    model.encoder_decoder_proj.bias[:width] = solution[-1]
    attention = model.transf_decoder.decoder.layers[-1].second_sub_layer
    for linear in (attention.query_net, attention.key_net):
        for head in (0, 1):
            rows = linear.weight[head * width : (head + 1) * width]
            rows.zero_()[:, :width] = math.sqrt(ATTENTION_SCALE) * torch.eye(width)
    # The first of them brings what is heard there, the second its time.
    attention.value_net.weight[width : 2 * width].zero_()[:, :width] = torch.eye(width)
    attention.out_projection.weight[:, width : 2 * width].zero_()[:width] = torch.eye(width)


# ---------------------------------------------------------------------------------------------------------- evaluation


@torch.no_grad()
def answer(model: Any, waveforms: list[np.ndarray], prompt: Prompt, batch_size: int = 16) -> list[str]:
    """Texts with time tokens, decoded greedily by NeMo."""
    model.eval()
    context = model.prompt.encode_dialog([{"role": "user", "slots": prompt.slots()}])["context_ids"]
    texts = []
    for start in range(0, len(waveforms), batch_size):
        batch = [torch.from_numpy(waveform) for waveform in waveforms[start : start + batch_size]]
        lengths = torch.tensor([len(waveform) for waveform in batch])
        padded = nn.utils.rnn.pad_sequence(batch, batch_first=True)
        _, _, states, mask = model(input_signal=padded, input_signal_length=lengths)
        hypotheses = model.decoding.decode_predictions_tensor(
            encoder_hidden_states=states,
            encoder_input_mask=mask,
            decoder_input_ids=context.unsqueeze(0).repeat(len(batch), 1),
            return_hypotheses=False,
        )
        model.eval()  # NeMo 3.0 leaves its decoder in training mode
        texts += [hypothesis.text for hypothesis in hypotheses]
    return texts


def split_times(text: str) -> tuple[list[str], list[tuple[int, int]]]:
    """Words, and the frames before and after each."""
    rows = re.findall(r"<\|(\d+)\|>([^<]*)<\|(\d+)\|>", text)
    return [word.strip() for _, word, _ in rows], [(int(start), int(end)) for start, _, end in rows]


def measure_prompt(model: Any, windows: list[Window], prompt: Prompt) -> tuple[int, int, list[float]]:
    """Word errors, the number of words, and the errors of times in seconds where the words are right."""
    errors, words, seconds = 0, 0, []
    texts = answer(model, [window.waveform for window in windows], prompt)
    for window, text in zip(windows, texts, strict=True):
        reference = write_words(window.words, prompt)
        if prompt.timed:
            heard, times = split_times(text)
            if heard == reference:
                for word, frames in zip(window.words, times, strict=True):
                    for place, frame in zip((word.start, word.end), frames, strict=True):
                        seconds.append(abs(place - frame * FRAME_SAMPLES) / SAMPLING_RATE)
        else:
            heard = text.split()
        errors += count_word_errors(reference, heard)
        words += len(reference)
    return errors, words, seconds


PROMPTS = {
    "en, punctuation": Prompt(),
    "en": Prompt(punctuated=False),
    "en, times": Prompt(punctuated=False, timed=True),
    "de, punctuation": Prompt("de"),
    "de": Prompt("de", punctuated=False),
    "de, times": Prompt("de", punctuated=False, timed=True),
}


def describe_prompts(model: Any, windows: list[Window], names: list[str]) -> str:
    """Word error rates with some prompts, and the mean error of times."""
    parts = []
    for name in names:
        errors, words, seconds = measure_prompt(model, windows, PROMPTS[name])
        text = f"{name} {errors / max(words, 1):.2%}"
        if seconds:
            text += f" ({1000 * float(np.mean(seconds)):.0f} ms)"
        parts.append(text)
    return "   ".join(parts)


def evaluate(model: Any, speech_dir: Path) -> None:
    """Print the word error rates of each prompt (punctuation counts as part of a word), and the errors of times."""

    def report(name: str, windows: list[Window], names: list[str] | None = None) -> None:
        words = sum(len(window.words) for window in windows)
        line = describe_prompts(model, windows, names or list(PROMPTS))
        print(f"{name:42} {len(windows):4} windows {words:5} words   {line}", flush=True)

    clips = read_digit_clips(speech_dir, "test")
    of_all = [window for count in range(1, 9) for window in join_test_windows(clips, count, 1)]
    report("test, one speaker, 1 to 8 digits", of_all)
    report("test, one speaker, 12 digits", join_test_windows(clips, 12, 1))
    report("test, one speaker, 12 digits, long pauses", join_test_windows(clips, 12, 1, long_pauses=True))
    report("test, one speaker, 25 digits", join_test_windows(clips, 25, 1))
    report("test, one speaker, 50 digits", join_test_windows(clips, 50, 1))
    report(
        "test, one speaker, 5 digits, no pauses",
        as_windows(join_test_clips(clips, 5, 1, pause_seconds=(0, 0))),
        ["en", "de"],
    )
    generator = random.Random(5)
    for voice in HELD_OUT_VOICES:
        strings = []
        for _ in range(60):
            digits = tuple(generator.randrange(10) for _ in range(generator.randint(1, 8)))
            text = " ".join(WORDS["en"][digit] for digit in digits)
            strings.append(Utterance(synthesize(text, voice, generator.choice((130, 150, 175))), digits, voice))
        report(f"espeak-ng -v {voice} (not in training)", as_windows(strings), ["en", "de"])
    noise = np.random.default_rng(3)
    empty = [DigitStrings.make_empty_clip(noise) for _ in range(50)]
    invented = {name: sum(len(text.split()) for text in answer(model, empty, PROMPTS[name])) for name in PROMPTS}
    print(f"noise and silence, 50 clips: words invented {invented}")


def as_windows(strings: list[Utterance]) -> list[Window]:
    """Strings whose words have no places."""
    return [Window(string.waveform, [Word(digit, 0, 0) for digit in string.digits]) for string in strings]


# ------------------------------------------------------------------------------------------------------------ training


class Guide(nn.Module):
    """Losses that only training has: where heads of cross-attention look, and what the encoder counts."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.count = nn.Linear(HIDDEN_SIZE, 2 * len(COUNT_WAVELENGTHS))
        self.weights: list[Tensor] = []  # of each layer: (windows, heads, tokens, frames)
        self.states = torch.empty(0)
        for layer in model.transf_decoder.decoder.layers:
            layer.second_sub_layer.register_forward_hook(self.keep_weights)
        model.encoder.register_forward_hook(self.keep_states)

    def keep_weights(self, module: Any, inputs: Any, outputs: Any) -> None:
        self.weights.append(outputs[1]["xatt_scores"])

    def keep_states(self, module: Any, inputs: Any, outputs: Any) -> None:
        self.states = outputs[0].transpose(1, 2)  # (windows, frames, width)
        self.weights = []

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Loss of attention, and of counts."""
        num_windows, num_frames, _ = self.states.shape
        looks = torch.zeros(num_windows, self.weights[0].shape[2], num_frames, dtype=torch.bool)
        counts = torch.zeros(num_windows, num_frames)
        is_heard = torch.zeros(num_windows, num_frames, dtype=torch.bool)
        for row, (example, window) in enumerate(zip(batch.examples, batch.windows, strict=True)):
            bounds = [(word.start // FRAME_SAMPLES, -(-word.end // FRAME_SAMPLES)) for word in window.words]
            for index, (start, end) in enumerate(bounds):
                counts[row, start:] = index + 1
                is_heard[row, start : end + 1] = True
            for token, word in enumerate(example.words, start=example.prompt_length - 1):
                start, end = bounds[word]
                looks[row, token, max(start - 1, 0) : end + 1] = True
        chosen = [
            weights[:, list(heads)].mean(dim=1) for weights, heads in zip(self.weights, GUIDED_HEADS, strict=True)
        ]
        seen = (torch.stack(chosen) * looks).sum(dim=-1)[:, looks.any(dim=-1)]
        angles = 2 * math.pi * counts[..., None] / torch.tensor(COUNT_WAVELENGTHS)
        waves = torch.cat([angles.sin(), angles.cos()], dim=-1)
        if not bool(is_heard.any()):
            return seen.sum(), seen.sum()
        return -(seen + 1e-4).log().mean(), (self.count(self.states) - waves)[is_heard].square().mean()


def compute_losses(model: Any, batch: Batch) -> tuple[Tensor, float]:
    """The mean loss of a token of the answers, as NeMo's training step computes it, and that of what is not a time."""
    lengths = torch.tensor([len(example.ids) for example in batch.examples])
    ids = nn.utils.rnn.pad_sequence(
        [torch.tensor(example.ids) for example in batch.examples],
        batch_first=True,
        padding_value=model.tokenizer.pad_id,
    )
    places = torch.arange(1, ids.shape[1])
    prompts = torch.tensor([example.prompt_length for example in batch.examples])
    mask = (places >= prompts[:, None]) & (places < lengths[:, None])
    log_probabilities, _, _, _ = model(
        input_signal=batch.waveforms,
        input_signal_length=batch.lengths,
        transcript=ids[:, :-1],
        transcript_length=lengths - 1,
    )
    labels = ids[:, 1:]
    first_time, last_time = (model.tokenizer.special_tokens[f"<|{frame}|>"] for frame in (0, LAST_TIME_FRAME))
    of_text = mask & ~((labels >= first_time) & (labels <= last_time))
    loss = model.loss(log_probs=log_probabilities, labels=labels, output_mask=mask)
    with torch.no_grad():
        text_loss = model.loss(log_probs=log_probabilities, labels=labels, output_mask=of_text)
    return loss, float(text_loss)


def set_training(model: Any, frozen: bool) -> None:
    """Training mode with the statistics of batch norm as they are; the first demonstration's layers may be frozen."""
    model.train()
    for module in model.encoder.modules():
        if isinstance(module, nn.BatchNorm1d):
            module.eval()
    old = [model.encoder.pre_encode, *model.encoder.layers[:-NEW_LAYERS]]
    for module in old:
        module.requires_grad_(not frozen)


@contextmanager
def in_half_precision(model: Any):
    """Hold the weights, not the buffers, in half precision while the `with` block runs."""
    parameters = list(model.parameters())
    full = [parameter.data for parameter in parameters]
    for parameter in parameters:
        parameter.data = parameter.data.half()
    try:
        yield
    finally:
        for parameter, data in zip(parameters, full, strict=True):
            parameter.data = data


def train(model: Any, options: TrainingOptions, data: PromptedDigits, windows: list[Window], stage: Tensor) -> None:
    """Train the model and write its averaged weights, now and then and at the end."""
    decoder = [*model.encoder_decoder_proj.parameters(), *model.transf_decoder.parameters()]
    decoder += [parameter for name, parameter in model.log_softmax.named_parameters() if name.endswith("bias")]
    guide = Guide(model)
    new = [parameter for layer in model.encoder.layers[-NEW_LAYERS:] for parameter in layer.parameters()]
    old = [parameter for parameter in model.encoder.parameters() if all(parameter is not other for other in new)]
    encoder = [*new, *old]
    groups = [
        {"params": [*decoder, *guide.parameters()], "share": 1.0},
        {"params": new, "share": NEW_LEARNING_RATE},
        {"params": old, "share": OLD_LEARNING_RATE},
    ]
    print(f"{sum(p.numel() for p in [*encoder, *decoder])} parameters", flush=True)
    optimizer = torch.optim.AdamW(groups, lr=1e-6, betas=(0.9, 0.98), weight_decay=1e-3)
    modules = [model.encoder, model.encoder_decoder_proj, model.transf_decoder, model.log_softmax]
    average = WeightAverage(model, modules)
    first_step, seconds_before = 0, 0.0
    if options.resume:
        state = torch.load(state_path(options.output), weights_only=True)
        model.load_state_dict(state["model"])
        average.averaged.load_state_dict(state["average"])
        guide.load_state_dict(state["guide"])
        optimizer.load_state_dict(state["optimizer"])
        stage += state["stage"] - int(stage)
        first_step, seconds_before = state["step"], state["seconds"]
    torch.manual_seed(options.seed + first_step)
    started, last_saved = time.process_time(), time.monotonic()
    spec_augmentation = model.spec_augmentation

    def save(num_steps: int) -> None:
        model.spec_augmentation = spec_augmentation
        with average.in_place(), in_half_precision(model):
            part = options.output.with_name(options.output.name + ".part.nemo")
            model.save_to(str(part))
            part.replace(options.output)
        with average.in_place():
            print(f"  {describe_prompts(model, windows, ['en, punctuation', 'en, times', 'de'])}", flush=True)
        state = {
            "model": model.state_dict(),
            "guide": guide.state_dict(),
            "average": average.averaged.state_dict(),
            "optimizer": optimizer.state_dict(),
            "stage": int(stage),
            "step": num_steps,
            "seconds": seconds_before + time.process_time() - started,
        }
        part = state_path(options.output).with_suffix(".part")
        torch.save(state, part)
        part.replace(state_path(options.output))

    loader = torch.utils.data.DataLoader(data, batch_size=None, num_workers=1, prefetch_factor=4)
    running: list[tuple[float, ...]] = []
    for step, batch in enumerate(loader, start=first_step):
        seconds = seconds_before + time.process_time() - started
        progress = min(seconds / (options.minutes * 60), 1.0)
        decay = 0.5 * (1 + math.cos(math.pi * progress))
        for group in optimizer.param_groups:
            warm = min(1.0, (step + 1) / options.warm_up_steps)
            group["lr"] = options.learning_rate * group["share"] * warm * decay + 1e-6
        set_training(model, frozen=progress < FROZEN_SHARE)
        model.spec_augmentation = spec_augmentation if stage >= len(CURRICULUM) else None
        loss, text_loss = compute_losses(model, batch)
        look_loss, count_loss = guide(batch)
        optimizer.zero_grad()
        (loss + GUIDED_SHARE * look_loss + COUNT_SHARE * count_loss).backward()
        norm = nn.utils.clip_grad_norm_([*decoder, *encoder], 2.0)
        if bool(torch.isfinite(norm)):
            optimizer.step()
            average.update()
        running.append((float(loss.detach()), text_loss, float(look_loss.detach()), float(count_loss.detach())))
        if step % 25 == 24:
            mean, text_mean, look_mean, count_mean = np.mean(running, axis=0)
            rate = optimizer.param_groups[0]["lr"]
            print(
                f"stage {int(stage)} step {step + 1} {seconds / 60:.1f} min loss {mean:.3f} of text {text_mean:.3f} "
                f"attention {look_mean:.3f} counts {count_mean:.3f} lr {rate:.1e}",
                flush=True,
            )
            if stage < len(CURRICULUM) and text_mean < STAGE_ENDS_AT_LOSS[stage]:
                stage += 1
            running.clear()
        if time.monotonic() - last_saved > options.save_minutes * 60:
            save(step + 1)
            last_saved = time.monotonic()
        if progress >= 1.0:
            break
    save(step + 1)


def train_model(arguments: argparse.Namespace) -> None:
    """Train the checkpoint on the clips of the training part."""
    torch.manual_seed(arguments.seed)
    recorded = read_digit_clips(arguments.speech_dir, "train")
    synthesized = read_synthesized_clips(arguments.cache_dir)
    print(f"{len(recorded)} recorded clips, {len(synthesized)} synthesised strings", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        model = build_multitask_model(join_test_clips(recorded, 12, 1)[:24], Path(folder))
        stage = torch.tensor(0).share_memory_()
        if arguments.initial_checkpoint is not None:
            model.load_state_dict(restore(arguments.initial_checkpoint).state_dict())
            stage += len(CURRICULUM)
        data = PromptedDigits(
            recorded, synthesized, arguments.seconds_per_batch, stage, AUGMENTATION, encode_with(model.prompt)
        )
        windows = join_test_windows(read_digit_clips(arguments.speech_dir, "test"), 12, seed=1, long_pauses=True)
        train(model, read_training_options(arguments), data, windows, stage)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_training_arguments(parser)
    parser.set_defaults(minutes=25.0, learning_rate=2e-3, seconds_per_batch=160.0)
    return parser.parse_args()


def main() -> int:
    arguments = parse_arguments()
    arguments.speech_dir = arguments.speech_dir.resolve()
    torch.set_num_threads(arguments.threads)
    if arguments.evaluate:
        evaluate(restore(arguments.output), arguments.speech_dir)
    else:
        train_model(arguments)
    return 0


if __name__ == "__main__":
    sys.exit(main())
