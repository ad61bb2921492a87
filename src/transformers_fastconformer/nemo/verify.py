"""Proof that a converted checkpoint computes the same as NeMo: both run side by side, compared stage by stage."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedConfig, PreTrainedModel

from ..configuration_fastconformer import (
    FastConformerConfig,
    FastConformerCTCConfig,
    FastConformerRNNTConfig,
    FastConformerTDTConfig,
)
from ..configuration_multitask import FastConformerMultitaskConfig
from ..feature_extraction_fastconformer import FastConformerFeatureExtractor
from ..modeling.ctc import FastConformerForCTC
from ..modeling.encoder import FastConformerModel
from ..modeling.hybrid import share_as_ctc
from ..modeling.multitask import FastConformerForMultitask
from ..modeling.outputs import FastConformerEncoderOutput
from ..modeling.transducer import FastConformerForRNNT, FastConformerForTDT
from ..processing_fastconformer import FastConformerProcessor
from .reference import (
    ClipHypothesis,
    NemoRunner,
    StageOutputs,
    capture_outputs,
    keep_encoder_stages,
    load_stage_outputs,
    stage_modules,
)

REPORT_NAME = "verification.json"

# Largest accepted difference in float32, as a share of the largest magnitude in the reference.
FLOAT32_TOLERANCE = 5e-6
# The same for outputs that another machine stored: its Fourier transforms and matrix products round differently, so
# that even features are bit-equal only on one machine.
STORED_TOLERANCE = 1e-4
# In 16 bits: largest accepted error of ours against NeMo in float32, as a multiple of NeMo's own error.
SIXTEEN_BIT_RATIO = 1.1

# Tokens of the prompt that a prompted decoder is verified with, after those that every prompt begins with.
PROMPT_TOKENS = 4
EXACT_STAGES = ("tokens", "tokens in a batch", "frame indices", "durations", "timestamps", "text")


@dataclass
class StageResult:
    """
    One row of the table.

    Args:
        stage: Name of the output that was compared.
        max_difference: Largest difference of all values of all clips; in exact stages, the number of clips that
            differ.
        mean_difference: Mean of these differences; in exact stages, the same number.
        limit: Largest accepted `max_difference` (in 16 bits: `mean_difference`).
        passed: True if the difference is within the limit.
        clips: Number of clips that were compared.
        detail: The first difference, in words.
    """

    stage: str
    max_difference: float
    mean_difference: float
    limit: float
    passed: bool
    clips: int
    detail: str = ""


@dataclass
class VerificationReport:
    """
    All rows of a verification, and the conditions under which they were made.

    Args:
        reference: Name of the implementation that ours was compared with.
        dtype: Precision in which both ran.
        device: Device on which both ran.
        batches: Names of the batches of clips.
        rows: One for each stage.
    """

    reference: str
    dtype: str
    device: str
    batches: list[str]
    rows: list[StageResult] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """True if there are rows and every row is within its limit."""
        return bool(self.rows) and all(row.passed for row in self.rows)

    def to_markdown(self) -> str:
        """The rows as a Markdown table."""
        lines = ["| stage | max difference | mean difference | limit | clips | |", "|---|---|---|---|---|---|"]
        for row in self.rows:
            verdict = "pass" if row.passed else f"**FAIL** {row.detail}".strip()
            lines.append("| " + " | ".join([row.stage, *describe_row(row), str(row.clips), verdict]) + " |")
        return "\n".join(lines)

    def save(self, folder: str | Path) -> Path:
        """Write `verification.json` into a folder."""
        path = Path(folder) / REPORT_NAME
        content = {**asdict(self), "passed": self.passed}
        for row in content["rows"]:
            for name, value in row.items():
                if isinstance(value, float) and not math.isfinite(value):
                    row[name] = str(value)  # JSON cannot express it
        path.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", encoding="utf-8")
        return path


def describe_row(row: StageResult) -> tuple[str, str, str]:
    """Maximum, mean and limit of a row, formatted for readers."""
    if row.stage.split(": ")[-1] in EXACT_STAGES:
        return ("identical" if row.passed else f"{row.max_difference:.0f} clips differ"), "", "identical"
    return f"{row.max_difference:.2e}", f"{row.mean_difference:.2e}", f"{row.limit:.2e}"


# Our side


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
        if language is not None:
            frames = model.apply_prompt(frames, language)
            outputs.keep("prompted frames", frames, lengths)
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
        self, head: str, waveforms: list[np.ndarray], inputs: Any, language: str | None
    ) -> list[ClipHypothesis]:
        model: Any = self.heads[head]
        assert self.processor is not None
        options = {"return_dict_in_generate": True} | ({} if language is None else {"language": language})
        in_batch: Any = model.generate(**inputs, **options)
        results = []
        for index, waveform in enumerate(waveforms):
            output = in_batch
            if len(waveforms) > 1:
                output = model.generate(**self._features([waveform]), **options)
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
    }
    model_type = config_dict.get("model_type")
    if model_type not in classes:
        raise ValueError(f"{folder}: model_type={model_type!r} is not supported; expected one of {sorted(classes)}.")
    return classes[model_type]


# The comparison


def compare_outputs(
    reference: list[StageOutputs],
    ours: list[StageOutputs],
    reference_16_bit: list[StageOutputs] | None = None,
    is_stored: bool = False,
    are_features_exact: bool = True,
) -> list[StageResult]:
    """
    Compare all stages over all the batches; each stage gives one row.

    Args:
        reference: Outputs of NeMo in float32.
        ours: Outputs of this package on the same batches.
        reference_16_bit: Outputs of NeMo in the precision of `ours` if that has 16 bits; their error is then the
            measure.
        is_stored: True if the reference was stored, perhaps by another machine, and did not run next to ours.
        are_features_exact: False where NeMo had other clips in a batch of features than ours, which rounds otherwise.
    """
    stages = list(dict.fromkeys(stage for outputs in reference for stage in outputs.tensors))
    rows = [
        _compare_tensors(
            stage,
            _clips_of(stage, reference),
            _clips_of(stage, ours),
            None if reference_16_bit is None else _clips_of(stage, reference_16_bit),
            is_stored,
            are_features_exact,
        )
        for stage in stages
    ]
    for head in dict.fromkeys(head for outputs in reference for head in outputs.hypotheses):
        pairs = [
            pair
            for theirs, mine in zip(reference, ours, strict=True)
            for pair in zip(theirs.hypotheses[head], mine.hypotheses.get(head, []), strict=True)
        ]
        rows += _compare_hypotheses(head, pairs)
    return rows


def _clips_of(stage: str, batches: list[StageOutputs]) -> list[torch.Tensor]:
    return [clip for outputs in batches for clip in outputs.tensors.get(stage, [])]


def _compare_tensors(
    stage: str,
    reference: list[torch.Tensor],
    ours: list[torch.Tensor],
    reference_16_bit: list[torch.Tensor] | None,
    is_stored: bool,
    are_features_exact: bool,
) -> StageResult:
    if [clip.shape for clip in reference] != [clip.shape for clip in ours]:
        shapes = f"shapes {[tuple(clip.shape) for clip in ours]}, NeMo {[tuple(clip.shape) for clip in reference]}"
        return StageResult(stage, math.inf, math.inf, 0.0, False, len(reference), shapes)
    expected, found = (torch.cat([clip.flatten() for clip in clips]) for clips in (reference, ours))
    if expected.numel() == 0:
        return StageResult(stage, 0.0, 0.0, 0.0, True, len(reference))
    difference = (expected - found).abs()
    difference = torch.where(expected == found, 0.0, difference)  # equal infinities
    max_difference, mean_difference = float(difference.max()), float(difference.mean())
    if stage == "features" and are_features_exact and not is_stored:
        limit = 0.0
        passed = max_difference <= limit
    elif stage != "features" and reference_16_bit is not None:
        own = torch.cat([clip.flatten() for clip in reference_16_bit])
        limit = SIXTEEN_BIT_RATIO * float((expected - own).abs().mean())
        passed = mean_difference <= limit
    else:
        finite = expected[expected.isfinite()]
        limit = (
            (STORED_TOLERANCE if is_stored else FLOAT32_TOLERANCE) * float(finite.abs().max())
            if finite.numel()
            else 0.0
        )
        passed = max_difference <= limit
    # Comparisons with NaN are false, so that it fails.
    return StageResult(stage, max_difference, mean_difference, limit, passed, len(reference))


def _compare_hypotheses(head: str, pairs: list[tuple[ClipHypothesis, ClipHypothesis]]) -> list[StageResult]:
    columns = {
        "tokens": lambda hypothesis: hypothesis.tokens,
        "tokens in a batch": lambda hypothesis: hypothesis.batch_tokens,
        "frame indices": lambda hypothesis: hypothesis.frame_indices,
        "durations": lambda hypothesis: hypothesis.durations,
        "timestamps": lambda hypothesis: hypothesis.timestamps,
        "text": lambda hypothesis: hypothesis.text,
    }
    if head != "tdt":
        del columns["durations"]
    if head == "multitask":
        del columns["frame indices"]
    if all(theirs.timestamps is None for theirs, _ in pairs):
        del columns["timestamps"]
    rows = []
    for stage, read in columns.items():
        differing = [(read(theirs), read(mine)) for theirs, mine in pairs if read(theirs) != read(mine)]
        detail = f"NeMo {differing[0][0]!r}, here {differing[0][1]!r}"[:400] if differing else ""
        count = float(len(differing))
        rows.append(StageResult(f"{head}: {stage}", count, count, 0.0, not differing, len(pairs), detail))
    return rows


# The clips


def build_batches(clips: dict[str, np.ndarray], sampling_rate: int) -> dict[str, list[np.ndarray]]:
    """
    Build batches for a verification: every clip by itself, all in one padded batch, and silence with short clips.

    Args:
        clips: Samples by name, float32 at the model's rate.
        sampling_rate: That rate, in Hz.
    """
    generator = np.random.default_rng(0)
    noise = generator.normal(0.0, 0.05, 2 * sampling_rate).astype(np.float32)
    silence = np.zeros(sampling_rate, dtype=np.float32)
    some = next(iter(clips.values()))
    batches = {f"{name} alone": [clip] for name, clip in clips.items()}
    batches["all clips in one batch"] = list(clips.values())
    batches["odd lengths"] = [some[: len(some) // 2 + 1], noise[: sampling_rate + 1], noise[: sampling_rate // 3]]
    batches["silence and a short clip"] = [silence, noise[: sampling_rate // 10 + 7], some]
    # Two frames: a standard deviation over the frames needs two.
    batches["two frames"] = [noise[: sampling_rate // 50]]
    return batches


def verify_against_stored(
    expectations: str | Path, folder: str | Path, clips: dict[str, np.ndarray], attn_implementation: str = "sdpa"
) -> VerificationReport:
    """
    Compare with outputs of NeMo that were stored before, on the CPU in float32.

    Args:
        expectations: File of `save_stage_outputs`; the names of its batches are names of clips.
        folder: The converted checkpoint.
        clips: Samples by name.
        attn_implementation: Attention of this package, `"eager"` or `"sdpa"`.
    """
    reference, provenance = load_stage_outputs(expectations)
    converted = ConvertedRunner(folder, "cpu", attn_implementation)
    ours = [converted.run(batch.name, [clips[batch.name]], batch.joint_targets) for batch in reference]
    return VerificationReport(
        reference=f"stored outputs of NeMo {provenance['nemo']}",
        dtype="float32",
        device="cpu",
        batches=[batch.name for batch in reference],
        rows=compare_outputs(reference, ours, is_stored=True),
    )


def verify_conversion(
    checkpoint: str | Path,
    folder: str | Path,
    clips: dict[str, np.ndarray],
    device: str = "cpu",
    dtype: str = "float32",
    attn_implementation: str = "sdpa",
) -> VerificationReport:
    """
    Run NeMo and this package on the same audio and compare every stage.

    Args:
        checkpoint: The `.nemo` archive.
        folder: Folder of the converted checkpoint.
        clips: Samples by name, float32 at the model's rate.
        device: Device on which both run. On CUDA TF32 is switched off for the comparison.
        dtype: `"float32"`, or `"bfloat16"` or `"float16"`: then errors against float32 are compared, and tokens are
            not.
        attn_implementation: Attention of this package, `"eager"` or `"sdpa"`.

    Raises:
        ImportError: when NeMo is not installed; the message says how to install it.
    """
    torch_dtype = getattr(torch, dtype)
    is_float32 = torch_dtype == torch.float32
    nemo = NemoRunner(checkpoint, device)
    converted = ConvertedRunner(folder, device, attn_implementation)
    if not converted.heads:  # the encoder of a model with heads
        nemo.heads = []
    languages = getattr(converted.model.config, "prompt_languages", None)
    language = min(languages) if languages else None  # the choice does not matter
    batches = build_batches(clips, converted.feature_extractor.sampling_rate)
    allowed_tf32 = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    try:
        prompt_ids = converted.prompt_ids
        reference = [
            nemo.run(name, waveforms, language=language, prompt_ids=prompt_ids) for name, waveforms in batches.items()
        ]
        ours = [
            converted.run(
                outputs.name, batches[outputs.name], outputs.joint_targets, torch_dtype, is_float32, language
            )
            for outputs in reference
        ]
        own = None
        if not is_float32:
            for outputs in reference:
                outputs.hypotheses = {}
            own = [
                nemo.run(
                    outputs.name,
                    batches[outputs.name],
                    torch_dtype,
                    outputs.joint_targets,
                    language=language,
                    prompt_ids=prompt_ids,
                )
                for outputs in reference
            ]
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = allowed_tf32
    import nemo as nemo_package

    return VerificationReport(
        reference=f"NeMo {nemo_package.__version__}",
        dtype=dtype,
        device=device,
        batches=list(batches),
        rows=compare_outputs(reference, ours, own, are_features_exact=not nemo.computes_features_alone),
    )
