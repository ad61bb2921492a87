"""Outputs of a converted checkpoint, stage by stage, as this package computes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedConfig, PreTrainedModel

from ..configuration_diarization import FastConformerDiarizationConfig
from ..configuration_fastconformer import (
    FastConformerConfig,
    FastConformerCTCConfig,
    FastConformerRNNTConfig,
    FastConformerTDTConfig,
)
from ..configuration_multitask import FastConformerMultitaskConfig
from ..configuration_pretraining import FastConformerPreTrainingConfig
from ..feature_extraction_fastconformer import FastConformerFeatureExtractor
from ..modeling.ctc import FastConformerForCTC
from ..modeling.diarization import FastConformerForDiarization
from ..modeling.encoder import FastConformerModel
from ..modeling.hybrid import share_as_ctc
from ..modeling.multitask import FastConformerForMultitask
from ..modeling.outputs import FastConformerEncoderOutput
from ..modeling.pretraining import FastConformerForPreTraining
from ..modeling.transducer import FastConformerForRNNT, FastConformerForTDT
from ..processing_fastconformer import FastConformerProcessor
from .stage_outputs import (
    FOLLOWED,
    PROBABILITIES,
    ClipHypothesis,
    StageOutputs,
    capture_outputs,
    keep_encoder_stages,
    made_up_activities,
    stage_modules,
)

# Tokens of the prompt that a prompted decoder is verified with, after those that every prompt begins with.
PROMPT_TOKENS = 4


class ConvertedRunner:
    """
    A converted checkpoint in this package, giving the same stages as [`NemoRunner`].

    Args:
        folder: The converted folder.
        device: Device to run on.
        attn_implementation: `"eager"` or `"sdpa"`.
    """

    def __init__(self, folder: str | Path, device: str = "cpu", attn_implementation: str = "sdpa") -> None:
        self.device = torch.device(device)
        self.feature_extractor = FastConformerFeatureExtractor.from_pretrained(folder)
        model_class, config_class = _model_class_of(folder)
        config = config_class.from_pretrained(folder)
        self.model: PreTrainedModel = model_class.from_pretrained(
            folder, config=config, attn_implementation=attn_implementation, dtype=torch.float32
        )
        self.model.eval().to(self.device)
        self.heads: dict[str, PreTrainedModel] = {}
        if isinstance(self.model, FastConformerForCTC):
            self.heads["ctc"] = self.model
        elif isinstance(self.model, FastConformerForRNNT | FastConformerForTDT):
            self.heads[self.model.decoder_type] = self.model
            if self.model.ctc_head is not None:
                self.heads["ctc"] = share_as_ctc(self.model)
        elif isinstance(self.model, FastConformerForMultitask):
            self.heads["multitask"] = self.model
        # An encoder without a head comes without a tokenizer.
        self.processor = FastConformerProcessor.from_pretrained(folder) if self.heads else None

    @torch.inference_mode()
    def run(
        self,
        name: str,
        waveforms: list[np.ndarray],
        joint_targets: list[list[int]],
        dtype: torch.dtype = torch.float32,
        with_hypotheses: bool = True,
        language: str | None = None,
    ) -> StageOutputs:
        """Run the stages of one batch; `joint_targets` are the tokens that NeMo's joint network was evaluated for."""
        outputs = StageOutputs(name, joint_targets=joint_targets)
        model: Any = self.model
        model.to(dtype)
        inputs = self._features(waveforms)
        outputs.keep("features", inputs["input_features"], inputs["input_lengths"])
        with capture_outputs(stage_modules(model.encoder, "subsampling")) as captured:
            encoded = model.encoder(**inputs)
        frames, lengths = encoded.last_hidden_state, encoded.encoder_lengths
        keep_encoder_stages(outputs, captured, frames, lengths)
        if model.config.follows_speakers:
            activities = made_up_activities(len(waveforms), frames.shape[1])
            followed = model.encoder(**inputs, speaker_activities=activities).last_hidden_state
            outputs.keep(f"frames of {FOLLOWED}", followed, lengths)
            if with_hypotheses and "rnnt" in self.heads:
                outputs.hypotheses[FOLLOWED] = self._decode("rnnt", waveforms, inputs, None, activities)
        if language is not None:
            frames = model.apply_prompt(frames, language)
            outputs.keep("prompted frames", frames, lengths)
        if isinstance(model, FastConformerForDiarization):
            outputs.keep(PROBABILITIES, model(**inputs).probabilities, lengths)
            return outputs
        if isinstance(model, FastConformerForPreTraining):
            output = model(**inputs)
            outputs.keep("masked-token log-probabilities", output.logits.float().log_softmax(dim=-1), lengths)
            outputs.keep("quantiser ids", output.token_ids, lengths)
            return outputs
        if "multitask" in self.heads:
            self._run_multitask(outputs, inputs, waveforms, with_hypotheses)
            return outputs
        if "ctc" in self.heads:
            outputs.keep("CTC log-probabilities", model.ctc_head(frames).float().log_softmax(dim=-1), lengths)
        if joint_targets and hasattr(model, "joint"):
            outputs.tensors["joint log-probabilities"] = [
                model.compute_joint_logits(
                    frames[clip : clip + 1, :count],
                    torch.tensor([targets], dtype=torch.int64, device=self.device).reshape(1, -1),
                )[0]
                .float()
                .log_softmax(dim=-1)
                .cpu()
                for clip, (count, targets) in enumerate(zip(lengths.tolist(), joint_targets, strict=True))
            ]
        if with_hypotheses:
            for head in self.heads:
                outputs.hypotheses[head] = self._decode(head, waveforms, inputs, language)
        return outputs

    @property
    def prompt_ids(self) -> list[int] | None:
        """Ids of a prompt for a prompted decoder, whose choice does not matter; None for other models."""
        config = self.model.config
        if not isinstance(config, FastConformerMultitaskConfig):
            return None
        ids = sorted((config.prompt_token_ids or {}).values())
        first = dict.fromkeys([config.decoder_start_token_id, config.bos_token_id])
        rest = [number for number in ids if number not in (*first, *config.end_token_ids)]
        return [number for number in first if number is not None] + rest[:PROMPT_TOKENS]

    def _run_multitask(
        self, outputs: StageOutputs, inputs: Any, waveforms: list[np.ndarray], with_hypotheses: bool
    ) -> None:
        """Stages of a prompted decoder, as in [`NemoRunner`]."""
        model: Any = self.model
        encoded = model.encode(**inputs)
        frames, lengths = encoded.last_hidden_state, encoded.encoder_lengths
        outputs.keep("decoder frames", frames, lengths)
        prompt_ids = self.prompt_ids or []
        log_probs = []
        for clip, tokens in enumerate(outputs.joint_targets):
            ids = torch.tensor([[*prompt_ids, *tokens]], dtype=torch.int64, device=self.device)
            part = FastConformerEncoderOutput(frames[clip : clip + 1], lengths[clip : clip + 1])
            logits = model(encoder_outputs=part, decoder_input_ids=ids, use_cache=False).logits[0]
            log_probs.append(logits.float().log_softmax(dim=-1).cpu())
        outputs.tensors["decoder log-probabilities"] = log_probs
        if not with_hypotheses:
            return
        assert self.processor is not None
        in_batch = model.generate(**inputs, prompt_ids=prompt_ids, return_dict_in_generate=True)
        outputs.hypotheses["multitask"] = []
        for clip, waveform in enumerate(waveforms):
            alone = model.generate(**self._features([waveform]), prompt_ids=prompt_ids, return_dict_in_generate=True)
            tokens = alone.sequences[0, : int(alone.sequence_lengths[0])].tolist()
            batch_tokens = in_batch.sequences[clip, : int(in_batch.sequence_lengths[clip])].tolist()
            text = self.processor.tokenizer.decode(tokens, skip_special_tokens=False)
            outputs.hypotheses["multitask"].append(ClipHypothesis(tokens, batch_tokens, [], None, text, None))

    def _features(self, waveforms: list[np.ndarray]) -> Any:
        extractor = self.feature_extractor
        return extractor(waveforms, sampling_rate=extractor.sampling_rate, return_tensors="pt", device=self.device)

    def _decode(
        self,
        head: str,
        waveforms: list[np.ndarray],
        inputs: Any,
        language: str | None,
        activities: torch.Tensor | None = None,
    ) -> list[ClipHypothesis]:
        model: Any = self.heads[head]
        assert self.processor is not None
        options = {"return_dict_in_generate": True} | ({} if language is None else {"language": language})
        told = {} if activities is None else {"speaker_activities": activities}
        in_batch: Any = model.generate(**inputs, **options, **told)
        results = []
        for index, waveform in enumerate(waveforms):
            output = in_batch
            if len(waveforms) > 1:
                alone = self._features([waveform])
                if activities is not None:
                    num_frames = model.config.subsampling.count_rows(alone["input_features"].shape[1])
                    told = {"speaker_activities": activities[index : index + 1, :num_frames]}
                output = model.generate(**alone, **options, **told)
            row = 0 if len(waveforms) > 1 else index
            # NeMo has event tokens such as `<EOU>` in the text.
            decoded: Any = self.processor.batch_decode(
                output, skip_special_tokens=False, timestamps=["char", "word", "segment"]
            )
            transcript = decoded[row]
            count, batch_count = int(output.sequence_lengths[row]), int(in_batch.sequence_lengths[index])
            durations = output.durations
            results.append(
                ClipHypothesis(
                    tokens=output.sequences[row, :count].tolist(),
                    batch_tokens=in_batch.sequences[index, :batch_count].tolist(),
                    frame_indices=output.frame_indices[row, :count].tolist(),
                    durations=None if durations is None else durations[row, :count].tolist(),
                    text=transcript["text"],
                    timestamps={
                        level: [
                            (item[level], item["start_offset"], item["end_offset"], item["start"], item["end"])
                            for item in transcript["timestamps"][level]
                        ]
                        for level in ("char", "word", "segment")
                    },
                )
            )
        return results


def _model_class_of(folder: str | Path) -> tuple[Any, type[FastConformerConfig]]:
    """The class that holds all the heads of a converted folder."""
    config_dict, _ = PreTrainedConfig.get_config_dict(folder)  # our configuration classes would let other types pass
    classes: dict[str, tuple[Any, type[FastConformerConfig]]] = {
        FastConformerConfig.model_type: (FastConformerModel, FastConformerConfig),
        FastConformerCTCConfig.model_type: (FastConformerForCTC, FastConformerCTCConfig),
        FastConformerRNNTConfig.model_type: (FastConformerForRNNT, FastConformerRNNTConfig),
        FastConformerTDTConfig.model_type: (FastConformerForTDT, FastConformerTDTConfig),
        FastConformerMultitaskConfig.model_type: (FastConformerForMultitask, FastConformerMultitaskConfig),
        FastConformerDiarizationConfig.model_type: (FastConformerForDiarization, FastConformerDiarizationConfig),
        FastConformerPreTrainingConfig.model_type: (FastConformerForPreTraining, FastConformerPreTrainingConfig),
    }
    model_type = config_dict.get("model_type")
    if model_type not in classes:
        raise ValueError(f"{folder}: model_type={model_type!r} is not supported; expected one of {sorted(classes)}.")
    return classes[model_type]
