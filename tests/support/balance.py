"""Random heads that speak: without this they emit nothing, or one token on every frame."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

MAX_ATTEMPTS = 20
TOKENS_PER_FRAME = (0.12, 0.9)
FEWEST_TOKENS = 6


@torch.no_grad()
def balance_classes(model: Any, waveform: np.ndarray, prompt_id: int | None = None) -> None:
    """
    Give a NeMo model random heads under which many tokens and the blank win on a clip, as under trained ones.

    The CTC head is centred. Prediction and joint network are drawn anew until several tokens come at a likely rate.

    Args:
        model: The model; its heads are changed in place.
        waveform: Samples of the clip.
        prompt_id: Number of the language, for a model with language prompts.
    """
    samples = torch.from_numpy(waveform)[None]
    features, lengths = model.preprocessor(input_signal=samples, length=torch.tensor([samples.shape[1]]))
    encoded, encoder_lengths = model.encoder(audio_signal=features, length=lengths)
    if prompt_id is not None:
        encoded, _ = model.forward(
            processed_signal=features, processed_signal_length=lengths, prompt_indices=torch.tensor([prompt_id])
        )
    if hasattr(model, "ctc_decoder") or not hasattr(model, "joint"):
        ctc_head = (model.ctc_decoder if hasattr(model, "ctc_decoder") else model.decoder).decoder_layers[0]
        ctc_head.weight.mul_(3.0)
        ctc_head.bias.sub_(ctc_head(encoded).mean(dim=(0, 2)))
    if not hasattr(model, "joint"):
        return
    for attempt in range(MAX_ATTEMPTS):
        _draw_again(model, attempt)
        _centre_joint(model, encoded)
        if _find_blank_bias(model, encoded, encoder_lengths):
            return
    raise AssertionError(f"no balance in {MAX_ATTEMPTS} attempts")


def _draw_again(model: Any, seed: int) -> None:
    """
    New random weights in the prediction and the joint network; padding rows of embeddings stay zero.

    Those of the prediction network are large: with small ones it settles in a state that repeats one token.
    """
    generator = torch.Generator().manual_seed(seed)
    for module in (model.decoder, model.joint):
        for parameter in module.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(0.1 * noise if parameter.ndim < 2 else noise / math.sqrt(parameter[0].numel()))
        for name, parameter in module.named_parameters():
            if "lstm.weight" in name or name == "pred.weight":
                parameter.mul_(3.0)
        for child in module.modules():
            if isinstance(child, torch.nn.Embedding):
                child.weight.mul_(3.0)
                if child.padding_idx is not None:
                    child.weight[child.padding_idx] = 0.0


def _centre_joint(model: Any, encoded: torch.Tensor) -> None:
    """Take the mean over the clip's frames from every class."""
    head, blank = model.joint.joint_net[-1], _blank_of(model)
    head.weight.mul_(3.0)
    start = torch.full((1, 1), blank) if model.decoder.blank_as_pad else None
    predictions, _ = model.decoder.predict(start, None, add_sos=False, batch_size=1 if start is None else None)
    hidden = model.joint.project_encoder(encoded.transpose(1, 2))[0] + model.joint.project_prednet(predictions)[0]
    head.bias.sub_(model.joint.joint_net(hidden).mean(dim=0))


def _find_blank_bias(model: Any, encoded: torch.Tensor, encoder_lengths: torch.Tensor) -> bool:
    """Move the blank until tokens come at a likely rate. False if they do not, or are always the same few."""
    head, blank = model.joint.joint_net[-1], _blank_of(model)
    step, last_direction = 0.5, 0
    for _ in range(25):
        (found,) = model.decoding.rnnt_decoder_predictions_tensor(encoded, encoder_lengths, return_hypotheses=True)
        tokens = [int(token) for token in found.y_sequence]
        tokens_per_frame = len(tokens) / int(encoder_lengths[0])
        direction = -1 if tokens_per_frame < TOKENS_PER_FRAME[0] else int(tokens_per_frame > TOKENS_PER_FRAME[1])
        if direction == 0:
            return len(set(tokens)) >= FEWEST_TOKENS
        if direction == -last_direction:
            step /= 2
        head.bias[blank] += direction * step
        last_direction = direction
    return False


def _blank_of(model: Any) -> int:
    return model.joint.num_classes_with_blank - 1 - getattr(model.joint, "num_extra_outputs", 0)
