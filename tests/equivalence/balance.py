"""Random heads that speak: without this they emit nothing, or one token on every frame."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch


@torch.no_grad()
def balance_classes(model: Any, waveform: np.ndarray, prompt_id: int | None = None) -> None:
    """
    Centre the classes of a NeMo model's random heads on a clip, so that many tokens and the blank win somewhere, as in
    trained ones.

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
    head, num_durations = model.joint.joint_net[-1], getattr(model.joint, "num_extra_outputs", 0)
    blank = model.joint.num_classes_with_blank - 1 - num_durations
    head.weight.mul_(3.0)
    start = torch.full((1, 1), blank) if model.decoder.blank_as_pad else None
    predictions, _ = model.decoder.predict(start, None, add_sos=False, batch_size=1 if start is None else None)
    frames = model.joint.project_encoder(encoded.transpose(1, 2))
    hidden = frames[0] + model.joint.project_prednet(predictions)[0]
    head.bias.sub_(model.joint.joint_net(hidden).mean(dim=0))
    step, last_direction = 0.5, 0
    for _ in range(60):
        found = model.decoding.rnnt_decoder_predictions_tensor(encoded, encoder_lengths, return_hypotheses=True)
        tokens_per_frame = len(found[0].y_sequence) / int(encoder_lengths[0])
        direction = -1 if tokens_per_frame < 0.15 else 1 if tokens_per_frame > 0.8 else 0
        if direction == 0:
            return
        if direction == -last_direction:
            step /= 2
        head.bias[blank] += direction * step
        last_direction = direction
    raise AssertionError(f"no balance: {tokens_per_frame} tokens a frame")
