"""Beam search of NeMo and ours on the same encoder frames."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from transformers_fastconformer.decoding.hypotheses import Hypotheses
from transformers_fastconformer.decoding.options import DecodingOptions
from transformers_fastconformer.inference.loading import load_model
from transformers_fastconformer.tokenization_decoding import compile_decoding


class Found(NamedTuple):
    """A text that a search found."""

    tokens: list[int]
    frames: list[int]
    durations: list[int] | None
    total: float


class SearchPair:
    """A NeMo model and ours, and the encoder frames of some clips."""

    def __init__(self, nemo_model: Any, folder: Path, clips: list[np.ndarray], head: str = "auto") -> None:
        from omegaconf import OmegaConf

        self.nemo = nemo_model.eval()
        self.model, self.processor = load_model(folder, head, "cpu")
        self.is_ctc = self.model.decoder_type == "ctc"
        self.is_hybrid = hasattr(self.nemo, "ctc_decoder")
        of_ctc = self.is_ctc and self.is_hybrid
        section = self.nemo.cfg.aux_ctc.decoding if of_ctc else self.nemo.cfg.get("decoding", {})
        self.section = OmegaConf.to_container(OmegaConf.create(section), resolve=True)
        lengths = torch.tensor([len(clip) for clip in clips])
        signals = torch.nn.utils.rnn.pad_sequence([torch.from_numpy(clip) for clip in clips], batch_first=True)
        with torch.inference_mode():
            features, feature_lengths = self.nemo.preprocessor(input_signal=signals, length=lengths)
            self.encoded, self.lengths = self.nemo.encoder(audio_signal=features, length=feature_lengths)

    def set_up(self, strategy: str, options: dict[str, Any]) -> Any:
        """NeMo's search object, with options of its `beam` section."""
        from omegaconf import OmegaConf, open_dict

        decoding = OmegaConf.create(copy.deepcopy(self.section))
        with open_dict(decoding):
            decoding.strategy = strategy
            decoding.beam = {"allow_cuda_graphs": False, "return_best_hypothesis": False, **options}
        kind = {"decoder_type": "ctc" if self.is_ctc else "rnnt"} if self.is_hybrid else {}
        self.nemo.change_decoding_strategy(decoding, verbose=False, **kind)
        owner = self.nemo.ctc_decoding if self.is_ctc and self.is_hybrid else self.nemo.decoding
        return owner.decoding

    @torch.inference_mode()
    def theirs(self, clips: slice, strategy: str, **options: Any) -> list[list[Found]]:
        """NeMo's texts of each clip, best first."""
        search = self.set_up(strategy, options)
        encoded = self.encoded[clips, :, : int(self.lengths[clips].max())]
        if self.is_ctc:
            log_probs = (self.nemo.ctc_decoder if self.is_hybrid else self.nemo.decoder)(encoder_output=encoded)
            (found,) = search(decoder_output=log_probs, decoder_lengths=self.lengths[clips])
        else:
            (found,) = search(encoder_output=encoded, encoded_lengths=self.lengths[clips])
        return [
            [
                Found(
                    [int(token) for token in one.y_sequence],
                    [int(frame) for frame in one.timestamp],
                    None if one.token_duration is None else [int(value) for value in one.token_duration],
                    float(one.score),
                )
                for one in texts.n_best_hypotheses
            ]
            for texts in found
        ]

    def ours(self, clips: slice, **options: Any) -> list[list[Found]]:
        """Our texts of each clip, best first."""
        decoding = compile_decoding(DecodingOptions(**options), self.processor.tokenizer, False)
        frames = self.encoded[clips].transpose(1, 2).contiguous()
        found, _ = self.model.decode_frames(frames, self.lengths[clips], decoding)
        assert decoding.beam is not None
        return texts_of(found, decoding.beam.num_best)


def texts_of(found: Hypotheses, num_best: int) -> list[list[Found]]:
    """The texts of each clip, without those that were not found."""
    assert found.totals is not None
    texts: list[list[Found]] = []
    for row, total in enumerate(found.totals.tolist()):
        if row % num_best == 0:
            texts.append([])
        if total == -float("inf"):
            continue
        count = int(found.token_lengths[row])
        durations = None if found.durations is None else found.durations[row, :count].tolist()
        texts[-1].append(
            Found(found.tokens[row, :count].tolist(), found.frame_indices[row, :count].tolist(), durations, total)
        )
    return texts


def assert_same_texts(
    found: list[list[Found]], expected: list[list[Found]], tolerance: float = 2e-3, has_frames: bool = True
) -> int:
    """
    Raise unless all texts are the same, in the same order but for those whose scores are the same.

    Args:
        found: Our texts of each clip.
        expected: NeMo's.
        tolerance: Largest difference of scores.
        has_frames: Compare the frames of tokens, too.

    Returns:
        Number of tokens that were compared.
    """
    assert len(found) == len(expected)
    count = 0
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose([one.total for one in ours], [one.total for one in theirs], atol=tolerance)
        if not has_frames:
            assert ours[0].tokens == theirs[0].tokens
            assert sorted(one.tokens for one in ours) == sorted(one.tokens for one in theirs)
            count += sum(len(one.tokens) for one in theirs)
            continue
        assert ours[0][:3] == theirs[0][:3]
        key = [(one.tokens, one.frames, one.durations) for one in ours]
        assert sorted(key) == sorted((one.tokens, one.frames, one.durations) for one in theirs)
        count += sum(len(one.tokens) for one in theirs)
    return count
