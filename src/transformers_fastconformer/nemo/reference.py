"""
Outputs of a checkpoint, stage by stage, as NeMo itself computes them; `converted_runner.py` is our side.

NeMo runs only here; it is imported when a function of this module is called, never with the package.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .stage_outputs import (
    FOLLOWED,
    PROBABILITIES,
    ClipHypothesis,
    StageOutputs,
    capture_outputs,
    keep_encoder_stages,
    made_up_activities,
    pad_waveforms,
    stage_modules,
)

INSTALL_NEMO = "pip install 'transformers-fastconformer[nemo]'"

# Longest token sequence that the joint network is evaluated for, frame by frame.
JOINT_TOKENS = 24


def require_nemo() -> None:
    """Raise an `ImportError` that says how to install NeMo, if it is not installed."""
    try:
        import nemo.collections  # noqa: F401
    except ImportError as error:
        raise ImportError(
            f"Verification runs NeMo next to this package, and NeMo is not installed: {INSTALL_NEMO}"
        ) from error


class NemoRunner:
    """
    A `.nemo` checkpoint that NeMo itself runs.

    Args:
        checkpoint: The archive.
        device: Device to run on.

    Raises:
        ImportError: when NeMo is not installed; the message says how to install it.
    """

    def __init__(self, checkpoint: str | Path, device: str = "cpu") -> None:
        require_nemo()
        logging.getLogger("nemo_logger").setLevel(logging.ERROR)
        from nemo.collections.asr.models import ASRModel
        from nemo.utils import logging as nemo_logging

        nemo_logging.setLevel(logging.ERROR)
        self.device = torch.device(device)
        self.model = ASRModel.restore_from(str(checkpoint), map_location=self.device).eval()
        # NeMo's `transcribe` and `diarize` set these before they compute features.
        featurizer = self.model.preprocessor.featurizer
        featurizer.dither = 0.0
        if hasattr(self.model, "transcribe") or hasattr(self.model, "diarize"):
            featurizer.pad_to = 0
        self.heads = self._find_heads()
        self.has_times = self.model.cfg.get("tokenizer", {}).get("type") != "agg" and "multitask" not in self.heads
        self.has_prompts = bool(getattr(self.model, "concat", False))

    @property
    def computes_features_alone(self) -> bool:
        """True for a model that `diarize` runs, by default one clip at a time: its scaling depends on the batch."""
        return hasattr(self.model, "process_signal")

    def _features(self, waveforms: list[np.ndarray]) -> tuple[torch.Tensor, torch.Tensor]:
        """Features of a batch, (batch, mels, mel frames), and their lengths, by NeMo's `transcribe` or `diarize`."""
        if not self.computes_features_alone:
            padded, lengths = (tensor.to(self.device) for tensor in pad_waveforms(waveforms))
            return self.model.preprocessor(input_signal=padded, length=lengths)
        alone = [
            self.model.process_signal(*(tensor.to(self.device) for tensor in pad_waveforms([waveform])))
            for waveform in waveforms
        ]
        lengths = torch.cat([length for _, length in alone])
        features = alone[0][0].new_zeros(len(alone), alone[0][0].shape[1], max(int(lengths.max()), 1))
        for row, (clip, length) in zip(features, alone, strict=True):
            row[:, : int(length)] = clip[0, :, : int(length)]
        return features, lengths

    def _find_heads(self) -> list[str]:
        """The heads of speech recognition that this package knows; the first is the default one."""
        from nemo.collections.asr.models import EncDecCTCModel

        model = self.model
        heads = []
        if hasattr(model, "joint"):
            heads.append("tdt" if getattr(model.joint, "num_extra_outputs", 0) else "rnnt")
        if hasattr(model, "ctc_decoder") or isinstance(model, EncDecCTCModel):
            heads.append("ctc")
        if hasattr(model, "transf_decoder"):
            heads.append("multitask")
        return heads

    def _set_up_decoding(self, head: str, strategy: str | None) -> None:
        """Switch on timestamps where NeMo has them, and another strategy of decoding than the checkpoint's own."""
        import copy

        from omegaconf import open_dict

        is_hybrid = len(self.heads) > 1
        config = self.model.cfg
        decoding = config.aux_ctc.decoding if is_hybrid and head == "ctc" else config.get("decoding", {})
        decoding = copy.deepcopy(decoding)
        with open_dict(decoding):
            decoding.compute_timestamps = self.has_times
            decoding.preserve_alignments = None
            if strategy is not None:
                decoding.strategy = strategy
        if is_hybrid:
            decoder_type = "ctc" if head == "ctc" else "rnnt"
            self.model.change_decoding_strategy(decoding, decoder_type=decoder_type, verbose=False)
        else:
            self.model.change_decoding_strategy(decoding, verbose=False)

    @torch.inference_mode()
    def run(
        self,
        name: str,
        waveforms: list[np.ndarray],
        dtype: torch.dtype = torch.float32,
        joint_targets: list[list[int]] | None = None,
        strategy: str | None = None,
        language: str | None = None,
        prompt_ids: list[int] | None = None,
    ) -> StageOutputs:
        """
        Run one batch through all stages.

        Args:
            name: Name of the batch.
            waveforms: Samples of each clip, float32 at the model's rate.
            dtype: Type of the encoder and the heads. It rounds their weights for good, so run float32 first. Features
                are always computed in float32.
            joint_targets: Tokens to evaluate the joint network for. Without them NeMo decodes, and the joint network
                is evaluated for the tokens that it found.
            strategy: NeMo's `greedy` or `greedy_batch`; None is what the checkpoint says, as in `transcribe`.
            language: Code of the language, for a model with language prompts.
            prompt_ids: Ids of the prompt, for a prompted decoder.
        """
        outputs = StageOutputs(name)
        model = self.model
        for part, module in model.named_children():
            if part != "preprocessor":  # its filterbank must not be rounded
                module.to(dtype)
        features, feature_lengths = self._features(waveforms)
        outputs.keep("features", features.transpose(1, 2), feature_lengths)
        with capture_outputs(stage_modules(model.encoder, "pre_encode")) as captured:
            encoded, encoder_lengths = model.encoder(audio_signal=features.to(dtype), length=feature_lengths)
        frames = encoded.transpose(1, 2)
        keep_encoder_stages(outputs, captured, frames, encoder_lengths)
        if getattr(model, "spk_kernels", None):
            activities = made_up_activities(len(waveforms), int(frames.shape[1])).to(self.device, dtype)
            model.set_speaker_targets(activities[..., 0], activities[..., 1])
            followed, _ = model.encoder(audio_signal=features.to(dtype), length=feature_lengths)
            model.clear_speaker_targets()
            outputs.keep(f"frames of {FOLLOWED}", followed.transpose(1, 2), encoder_lengths)
            if joint_targets is None:
                outputs.hypotheses[FOLLOWED] = self._decode("rnnt", strategy, followed, encoder_lengths, None)
        if self.has_prompts:
            number = model.cfg.model_defaults.prompt_dictionary[language]
            encoded, _ = model.forward(
                processed_signal=features.to(dtype),
                processed_signal_length=feature_lengths,
                prompt_indices=torch.full((len(waveforms),), number, dtype=torch.int64, device=self.device),
            )
            outputs.keep("prompted frames", encoded.transpose(1, 2), encoder_lengths)

        if hasattr(model, "sortformer_modules"):
            states = encoded.transpose(1, 2)
            if model.sortformer_modules.encoder_proj is not None:
                states = model.sortformer_modules.encoder_proj(states)
            outputs.keep(PROBABILITIES, model.forward_infer(states, encoder_lengths), encoder_lengths)
            return outputs
        if hasattr(model, "quantizer"):
            # (batch, frames, classes, books), or without the last where there is one
            log_probs = model.decoder(encoder_output=encoded).flatten(3)
            log_probs = log_probs.reshape(*log_probs.shape[:2], -1, model.quantizer.num_books).transpose(2, 3)
            outputs.keep("masked-token log-probabilities", log_probs, encoder_lengths)
            tokens = self._quantize(features.to(dtype), feature_lengths)
            outputs.keep("quantiser ids", tokens.reshape(*tokens.shape[:2], -1), encoder_lengths)
            return outputs
        if "multitask" in self.heads:
            self._run_multitask(
                outputs, features.to(dtype), feature_lengths, joint_targets, strategy, prompt_ids or []
            )
            return outputs
        ctc_log_probs = None
        if "ctc" in self.heads:
            ctc_decoder = model.ctc_decoder if hasattr(model, "ctc_decoder") else model.decoder
            ctc_log_probs = ctc_decoder(encoder_output=encoded)
            outputs.keep("CTC log-probabilities", ctc_log_probs, encoder_lengths)
        if joint_targets is not None:
            outputs.joint_targets = joint_targets
        else:
            for head in self.heads:
                outputs.hypotheses[head] = self._decode(head, strategy, encoded, encoder_lengths, ctc_log_probs)
            if self.heads and self.heads[0] != "ctc":
                found = outputs.hypotheses[self.heads[0]]
                outputs.joint_targets = [hypothesis.tokens[:JOINT_TOKENS] for hypothesis in found]
        if outputs.joint_targets:
            outputs.tensors["joint log-probabilities"] = [
                self._joint(encoded[clip : clip + 1, :, :count], outputs.joint_targets[clip])
                for clip, count in enumerate(encoder_lengths.tolist())
            ]
        return outputs

    def _quantize(self, features: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """Ids of a self-supervised model's targets, (batch, frames, books), of features padded as it wants them."""
        quantizer = self.model.quantizer
        if self.model.pre_encoder is not None:
            front = self.model.pre_encoder.pre_encode
            states, _ = front(x=features.transpose(1, 2), lengths=lengths)
            return quantizer(input_signal=states.transpose(1, 2))[1]
        missing = -features.shape[2] % quantizer.combine_time_steps
        return quantizer(input_signal=torch.nn.functional.pad(features, (0, missing)))[1]

    def _run_multitask(
        self,
        outputs: StageOutputs,
        features: torch.Tensor,
        feature_lengths: torch.Tensor,
        targets: list[list[int]] | None,
        strategy: str | None,
        prompt_ids: list[int],
    ) -> None:
        """Stages of a prompted decoder: the frames it attends to, its texts, and its classes for them."""
        model = self.model
        _, lengths, frames, mask = model.forward(processed_signal=features, processed_signal_length=feature_lengths)
        outputs.keep("decoder frames", frames, lengths)
        if targets is None:
            hypotheses = self._decode_multitask(features, feature_lengths, frames, mask, strategy, prompt_ids)
            outputs.hypotheses["multitask"] = hypotheses
            targets = [hypothesis.tokens[:JOINT_TOKENS] for hypothesis in hypotheses]
        outputs.joint_targets = targets
        outputs.tensors["decoder log-probabilities"] = []
        for clip, tokens in enumerate(targets):
            ids = torch.tensor([[*prompt_ids, *tokens]], dtype=torch.int64, device=self.device)
            count = max(int(lengths[clip]), 1)
            states = model.transf_decoder(
                input_ids=ids,
                decoder_mask=torch.ones_like(ids),
                encoder_embeddings=frames[clip : clip + 1, :count],
                encoder_mask=torch.ones(1, count, dtype=frames.dtype, device=self.device),
            )
            log_probs = model.log_softmax(hidden_states=states)[0]
            outputs.tensors["decoder log-probabilities"].append(log_probs.float().cpu())

    def _decode_multitask(
        self,
        features: torch.Tensor,
        feature_lengths: torch.Tensor,
        frames: torch.Tensor,
        mask: torch.Tensor,
        strategy: str | None,
        prompt_ids: list[int],
    ) -> list[ClipHypothesis]:
        """Texts of each clip by itself, and in the batch as far as the clip by itself may go."""
        import copy

        from omegaconf import open_dict

        model = self.model
        decoding = copy.deepcopy(model.cfg.decoding)
        if strategy is not None:
            with open_dict(decoding):
                decoding.strategy = strategy
            model.change_decoding_strategy(decoding)

        def decode(frames: torch.Tensor, mask: torch.Tensor) -> list[Any]:
            prompts = torch.tensor([prompt_ids] * len(frames), dtype=torch.int64, device=self.device)
            found = model.decoding.decode_predictions_tensor(
                encoder_hidden_states=frames,
                encoder_input_mask=mask,
                decoder_input_ids=prompts,
                return_hypotheses=True,
            )
            model.eval()  # NeMo 3.0 leaves the decoder in training
            return found

        in_batch = decode(frames, mask)
        results = []
        for clip, length in enumerate(feature_lengths.tolist()):
            _, _, alone, alone_mask = model.forward(
                processed_signal=features[clip : clip + 1, :, : length + 1],
                processed_signal_length=feature_lengths[clip : clip + 1],
            )
            hypothesis = decode(alone, alone_mask)[0]
            tokens = self._spoken(hypothesis)
            # In a batch NeMo 3.0 lets a clip have as many tokens as the longest one.
            limit = self._limit_of(alone.shape[1], len(prompt_ids))
            results.append(
                ClipHypothesis(
                    tokens=tokens,
                    batch_tokens=self._without_end(self._spoken(in_batch[clip])[:limit]),
                    frame_indices=[],
                    durations=None,
                    text=model.decoding.decode_ids_to_str(tokens) if tokens else "",
                    timestamps=None,
                )
            )
        return results

    def _limit_of(self, num_frames: int, prompt_tokens: int) -> int:
        search = self.model.decoding.decoding
        is_beam = hasattr(search, "beam_search")
        search = search.beam_search if is_beam else search.greedy_search
        limit = search.max_seq_length
        if search.max_delta_len >= 0:
            limit = min(limit, num_frames + search.max_delta_len)
        return max(limit - prompt_tokens, 0) + int(is_beam)

    def _spoken(self, hypothesis: Any) -> list[int]:
        """Tokens of a hypothesis; NeMo 3.0's beam search goes on after an end that comes first."""
        tokens = [int(token) for token in _as_list(hypothesis.y_sequence)]
        return [] if tokens[:1] == [self.model.tokenizer.eos] else self._without_end(tokens)

    def _without_end(self, tokens: list[int]) -> list[int]:
        while tokens and tokens[-1] in (self.model.tokenizer.pad, self.model.tokenizer.eos):
            tokens = tokens[:-1]
        return tokens

    def _joint(self, encoded: torch.Tensor, targets: list[int]) -> torch.Tensor:
        """Joint log-probabilities of one clip, all classes normalised together: (frames, tokens + 1, classes)."""
        target_tensor = torch.tensor([targets], dtype=torch.int64, device=self.device).reshape(1, -1)
        predictions, _, _ = self.model.decoder(
            targets=target_tensor, target_length=torch.tensor([len(targets)], dtype=torch.int64, device=self.device)
        )
        joint = self.model.joint(encoder_outputs=encoded, decoder_outputs=predictions)
        return joint[0].float().log_softmax(dim=-1).cpu()

    def _decode(
        self,
        head: str,
        strategy: str | None,
        encoded: torch.Tensor,
        encoder_lengths: torch.Tensor,
        ctc_log_probs: torch.Tensor | None,
    ) -> list[ClipHypothesis]:
        self._set_up_decoding(head, strategy)

        def decode(clips: slice, num_frames: int) -> list[Any]:
            if head == "ctc":
                assert ctc_log_probs is not None
                decoding = self.model.ctc_decoding if hasattr(self.model, "ctc_decoding") else self.model.decoding
                return decoding.ctc_decoder_predictions_tensor(
                    ctc_log_probs[clips, :num_frames], encoder_lengths[clips], return_hypotheses=True
                )
            return self.model.decoding.rnnt_decoder_predictions_tensor(
                encoded[clips, :, :num_frames], encoder_lengths[clips], return_hypotheses=True
            )

        batch = decode(slice(None), encoded.shape[2])
        results = []
        for index, count in enumerate(encoder_lengths.tolist()):
            # Clip by clip: NeMo 3.0 overwrites the durations of clips that end before their batch does.
            hypothesis = decode(slice(index, index + 1), max(count, 1))[0] if count else batch[index]
            results.append(self._read_hypothesis(head, hypothesis, batch[index]))
        return results

    def _read_hypothesis(self, head: str, hypothesis: Any, in_batch: Any) -> ClipHypothesis:
        from nemo.collections.asr.parts.utils.timestamp_utils import process_timestamp_outputs

        timestamp = hypothesis.timestamp if isinstance(hypothesis.timestamp, dict) else {}
        frame_indices = timestamp.get("timestep", []) if self.has_times else hypothesis.timestamp
        durations = None
        if head == "tdt":
            durations = [int(duration) for duration in _as_list(getattr(hypothesis, "token_duration", None))]
        tokens = _as_list(hypothesis.y_sequence)
        if head == "ctc":
            tokens, frame_indices = _collapse(tokens, self.model)
        if timestamp:
            preprocessor = self.model.cfg.preprocessor
            process_timestamp_outputs(
                [hypothesis], self._frames_per_encoder_frame(), float(preprocessor.get("window_stride", 0.01))
            )
        return ClipHypothesis(
            tokens=[int(token) for token in tokens],
            batch_tokens=[
                int(token)
                for token in (
                    _collapse(_as_list(in_batch.y_sequence), self.model)[0]
                    if head == "ctc"
                    else _as_list(in_batch.y_sequence)
                )
            ],
            frame_indices=[int(frame) for frame in _as_list(frame_indices)],
            durations=durations,
            text=hypothesis.text,
            timestamps={level: _read_offsets(level, timestamp.get(level, [])) for level in ("char", "word", "segment")}
            if self.has_times
            else None,
        )

    def _frames_per_encoder_frame(self) -> int:
        return int(self.model.encoder.subsampling_factor)


def _as_list(values: Any) -> list[Any]:
    if values is None:
        return []
    return values.tolist() if isinstance(values, torch.Tensor) else list(values)


def _collapse(frame_labels: list[int], model: Any) -> tuple[list[int], list[int]]:
    """CTC tokens and their first frames, from NeMo's label for each frame where a hypothesis holds these labels."""
    decoding = model.ctc_decoding if hasattr(model, "ctc_decoding") else model.decoding
    blank = decoding.blank_id
    tokens, frames = [], []
    previous = blank
    for frame, label in enumerate(frame_labels):
        if label not in (blank, previous):
            tokens.append(int(label))
            frames.append(frame)
        previous = label
    return tokens, frames


def _read_offsets(level: str, offsets: list[dict[str, Any]]) -> list[tuple[str, int, int, float, float]]:
    """NeMo's timestamps of one level as tuples; NeMo has the text of a char in a list."""
    result = []
    for offset in offsets:
        text = offset[level]
        text = "".join(text) if isinstance(text, list) else text
        result.append(
            (
                text,
                int(offset["start_offset"]),
                int(offset["end_offset"]),
                float(offset["start"]),
                float(offset["end"]),
            )
        )
    return result
