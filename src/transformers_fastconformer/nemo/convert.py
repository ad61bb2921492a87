"""A `.nemo` checkpoint to a folder that `from_pretrained` loads."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig
from transformers.utils import logging

from ..audio.log_mel import FILTERBANK_DTYPES, WINDOW_FUNCTIONS, mel_filterbank
from ..checkpoints.model_card import write_model_card
from ..checkpoints.model_classes import ARCHITECTURES, build_without_memory, shapes_of
from ..checkpoints.name_table import Shape, Target
from ..checkpoints.output_folder import check_output, written_as_one
from ..checkpoints.safetensors_writer import TensorEntry, parse_bytes, write_checkpoint
from ..configuration_fastconformer import FastConformerConfig
from ..feature_extraction_fastconformer import FastConformerFeatureExtractor
from ..processing_fastconformer import FastConformerProcessor
from ..tokenization_fastconformer import FastConformerTokenizer
from .archive import WEIGHTS_MEMBER, NemoArchive, NemoWeights
from .config_map import MappedConfig, map_config
from .locate import FoundArchive, require_archive
from .model_card import describe_conversion, read_source_card
from .tokenizer_map import build_tokenizer, timestamp_options
from .weight_map import FILTERBANK, PART_LEFT_OUT, WINDOW, name_table, part_of_tensor

logger = logging.get_logger(__name__)

WEIGHTS_SUFFIX = "_weights.ckpt"
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
# Mapped bytes are counted as the process's memory, so the map is made anew after so many.
MAPPED_BYTES = 64 * 2**20


@dataclass(frozen=True)
class ConversionResult:
    """
    What a conversion made.

    Args:
        output_dir: The folder that `from_pretrained` loads.
        archive_path: The `.nemo` file (or unpacked folder) that was read.
        hub_id: Hub repository that it came from, if any.
        mapped: Configuration, class, family, and the dropped keys with their reasons.
        dropped_tensors: Tensors of the archive that have no place in the output, with the reasons.
        parts_left_out: Parts of the model that are not converted, where the encoder alone is, and what they hold.
        num_parameters: Weights, running statistics left out.
        dtype: Type of the weights written, such as `"float32"`; the most frequent one where an archive mixes them.
        files: Names of the files in `output_dir`.
    """

    output_dir: Path
    archive_path: Path
    hub_id: str | None
    mapped: MappedConfig
    dropped_tensors: dict[str, str]
    parts_left_out: dict[str, str]
    num_parameters: int
    dtype: str
    files: list[str]

    @property
    def source(self) -> str:
        """What was converted: the Hub id, or the path of the archive."""
        return self.hub_id or str(self.archive_path)

    @property
    def sampling_rate(self) -> int:
        """Samples a second that the model expects."""
        return self.mapped.feature_extractor_arguments["sampling_rate"]


def convert_nemo_checkpoint(
    source: str | os.PathLike[str],
    output_dir: str | os.PathLike[str],
    *,
    dtype: str | torch.dtype | None = None,
    max_shard_size: int | str = "5GB",
    overwrite: bool = False,
    encoder_only: bool = False,
    **hub_options: Any,
) -> ConversionResult:
    """
    Convert a NeMo checkpoint. Nothing appears at `output_dir` before everything is written; then it appears whole.

    Of Canary, self-supervised and Sortformer models the encoder alone is converted, for `FastConformerModel` and
    without a tokenizer; a warning names the parts that are left out.

    Memory stays near that of the imports: weights are mapped from disk and written tensor by tensor. While it runs,
    the weights lie twice beside `output_dir` (once if the source is a folder or they are small).

    Args:
        source: A `.nemo` file, a folder that holds one (or its unpacked members), the id of a Hub repository with
            one, or `owner/repository/file.nemo` where it has several.
        output_dir: Folder to make. It must not exist, be empty, or be replaced on request.
        dtype: `"float32"`, `"float16"` or `"bfloat16"`; `None` or `"auto"` keeps what the archive has.
        max_shard_size: Most bytes of weights in a file, as a number or text such as `"5GB"`.
        overwrite: Replace what is at `output_dir`.
        encoder_only: Leave the heads out, of any model whose encoder is a FastConformer.
        **hub_options: For the Hub, as in `from_pretrained`: `revision`, `token`, `cache_dir`, `subfolder`,
            `force_download`, `local_files_only`, `proxies`.

    Raises:
        ValueError: for whatever is wrong with the source, an option that is not supported, or an output folder that
            is in use. The message names it; nothing is left behind.
        OSError: for a repository that cannot be reached.
    """
    _parse_dtype(dtype)
    parse_bytes(max_shard_size)
    check_output(Path(output_dir), overwrite)
    archive = require_archive(source, hub_options)
    archive.check_content()
    return convert_archive(
        archive,
        output_dir,
        dtype=dtype,
        max_shard_size=max_shard_size,
        overwrite=overwrite,
        encoder_only=encoder_only,
        hub_options=hub_options,
    )


def convert_archive(
    found: FoundArchive,
    output_dir: str | os.PathLike[str],
    *,
    dtype: str | torch.dtype | None = None,
    max_shard_size: int | str = "5GB",
    overwrite: bool = False,
    encoder_only: bool = False,
    hub_options: Mapping[str, Any] | None = None,
) -> ConversionResult:
    """[`convert_nemo_checkpoint`] of an archive that is on this machine; `hub_options` serve to read its card."""
    target_dtype = _parse_dtype(dtype)
    max_shard_bytes = parse_bytes(max_shard_size)
    output_dir = Path(output_dir)
    check_output(output_dir, overwrite)
    archive_path = found.path
    with NemoArchive(archive_path) as archive, written_as_one(output_dir, overwrite) as folder:
        nemo_config = archive.read_config()
        with archive.open_weights(folder) as weights:
            tensors = weights.read()
            mapped = map_config(nemo_config, str(archive_path), tensors, encoder_only)
            config = mapped.config
            feature_extractor = build_feature_extractor(mapped, tensors, str(archive_path))
            processor = None
            if mapped.family != "encoder":
                tokenizer = build_tokenizer(nemo_config, archive.read_member)
                check_vocabulary(tokenizer, config, str(archive_path))
                processor = FastConformerProcessor(
                    feature_extractor,
                    tokenizer,
                    subsampling_factor=config.mel_frames_per_encoder_frame,
                    **timestamp_options(nemo_config),
                )
            our_shapes, num_parameters, generation_config = describe_model(mapped)
            nemo_shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
            plan = name_table(config, mapped.adapters_off).plan_reading(nemo_shapes, our_shapes, str(archive_path))
            entries, written_dtype = _plan_entries(tensors, plan.targets, target_dtype)
            del tensors
            source = MappedTensors(weights, plan.targets, entries)
            write_checkpoint(folder, entries, source.fetch, max_shard_bytes)
        if processor is not None:
            processor.save_pretrained(folder)
        feature_extractor.save_pretrained(folder)
        if generation_config is not None:
            generation_config.save_pretrained(folder)
        parts_left_out = describe_parts_left_out(plan.left_out, archive.member_names)
        card = describe_conversion(
            mapped,
            source=found,
            source_card=read_source_card(found, hub_options or {}),
            num_parameters=num_parameters,
            parts_left_out=parts_left_out,
        )
        write_model_card(folder, card)
        # Last: a folder without it is no checkpoint to any loader.
        config.dtype = written_dtype
        config.save_pretrained(folder)
    if parts_left_out:
        listed = "; ".join(f"{part}: {content}" for part, content in parts_left_out.items())
        logger.warning(f"{archive_path}: the encoder alone is converted. Left out are {listed}.")
    logger.info(f"{archive_path} is converted: {mapped.architecture} in {output_dir}.")
    return ConversionResult(
        output_dir=output_dir,
        archive_path=archive_path,
        hub_id=found.hub_id,
        mapped=mapped,
        dropped_tensors=plan.left_out,
        parts_left_out=parts_left_out,
        num_parameters=num_parameters,
        dtype=str(written_dtype).removeprefix("torch."),
        files=sorted(path.name for path in output_dir.iterdir()),
    )


# The parts


def _parse_dtype(dtype: str | torch.dtype | None) -> torch.dtype | None:
    """The type to write; None: that of the archive."""
    if dtype in (None, "auto"):
        return None
    name = str(dtype).removeprefix("torch.")
    if name not in DTYPES:
        raise ValueError(f"dtype={dtype!r} is not supported; expected one of {[*DTYPES, 'auto']}.")
    return DTYPES[name]


def build_feature_extractor(
    mapped: MappedConfig, tensors: Mapping[str, torch.Tensor], source: str
) -> FastConformerFeatureExtractor:
    """
    The feature extractor of an archive, whose stored filterbank and window win over the configuration, as in NeMo.

    They are computed again where that gives the same bits, rounded to 16 bits as in archives of half precision where
    that does, and written into the feature extractor's configuration otherwise.
    """
    arguments = dict(mapped.feature_extractor_arguments)
    extractor = FastConformerFeatureExtractor(**arguments)
    window = WINDOW_FUNCTIONS[extractor.window](extractor.win_length, periodic=False, dtype=torch.float32)
    filterbank = torch.from_numpy(
        mel_filterbank(
            extractor.sampling_rate,
            extractor.n_fft,
            extractor.feature_size,
            extractor.min_frequency,
            extractor.max_frequency,
            extractor.mel_norm,
        )
    )
    stored_window = tensors.get(WINDOW, window).to(torch.float32)
    stored_filterbank = tensors.get(FILTERBANK, filterbank).to(torch.float32)
    if stored_filterbank.ndim == 3 and stored_filterbank.shape[0] == 1:
        stored_filterbank = stored_filterbank[0]
    for name, stored, computed in ((WINDOW, stored_window, window), (FILTERBANK, stored_filterbank, filterbank)):
        if stored.shape != computed.shape:
            raise ValueError(
                f"{source}: {name} is {tuple(stored.shape)}; expected {tuple(computed.shape)}, as the preprocessor "
                "section says."
            )
    for dtype_name, dtype in FILTERBANK_DTYPES.items():
        rounded_window, rounded_filterbank = (values.to(dtype).to(torch.float32) for values in (window, filterbank))
        if torch.equal(stored_window, rounded_window) and torch.equal(stored_filterbank, rounded_filterbank):
            return FastConformerFeatureExtractor(**arguments, filterbank_dtype=dtype_name)
    logger.info(f"{source}: filterbank and window are not those that the configuration gives; they are kept.")
    return FastConformerFeatureExtractor(
        **arguments, mel_filters=stored_filterbank.numpy(), window_values=stored_window.numpy()
    )


def check_vocabulary(tokenizer: FastConformerTokenizer, config: FastConformerConfig, source: str) -> None:
    """Raise a `ValueError` unless the head has a class for each token and one for the blank."""
    num_tokens, vocab_size = tokenizer.blank_token_id, getattr(config, "vocab_size", None)
    if num_tokens + 1 != vocab_size:
        raise ValueError(
            f"{source}: the tokenizer has {num_tokens} tokens and the head {vocab_size} classes; expected one class "
            "more, the blank (tokenizer, labels or vocabulary)."
        )


def describe_model(mapped: MappedConfig) -> tuple[dict[str, Shape], int, GenerationConfig | None]:
    """Shapes of the model's tensors, its number of parameters and its generation configuration, without its memory."""
    model = build_without_memory(ARCHITECTURES[mapped.architecture], mapped.config)
    generation_config = model.generation_config if model.can_generate() else None
    return shapes_of(model), sum(parameter.numel() for parameter in model.parameters()), generation_config


def describe_parts_left_out(dropped_tensors: Mapping[str, str], member_names: list[str]) -> dict[str, str]:
    """The parts that an encoder alone comes without: name, and how many tensors or which member they are."""
    counts = Counter(part_of_tensor(name) for name, reason in dropped_tensors.items() if reason == PART_LEFT_OUT)
    parts = {part: f"{count} tensor{'' if count == 1 else 's'}" for part, count in sorted(counts.items())}
    bundled = [name for name in member_names if name.endswith(WEIGHTS_SUFFIX) and name != WEIGHTS_MEMBER]
    return parts | {name.removesuffix(WEIGHTS_SUFFIX): f"a model of its own in {name}" for name in sorted(bundled)}


def _plan_entries(
    tensors: Mapping[str, torch.Tensor], targets: Mapping[str, Target], dtype: torch.dtype | None
) -> tuple[list[TensorEntry], torch.dtype]:
    """The tensors to write, in the model's order, and the type that most of the weights have."""
    entries = []
    bytes_of_type: Counter[torch.dtype] = Counter()
    for nemo_name, target in targets.items():
        stored = tensors[nemo_name].dtype
        entry = TensorEntry(target.name, target.shape, dtype if dtype and stored.is_floating_point else stored)
        entries.append(entry)
        if stored.is_floating_point:
            bytes_of_type[entry.dtype] += entry.num_bytes
    written_dtype = dtype or (bytes_of_type.most_common(1)[0][0] if bytes_of_type else torch.float32)
    return entries, written_dtype


class MappedTensors:
    """Gives tensors under our names, and maps the file anew now and then so that what was read leaves memory."""

    def __init__(self, weights: NemoWeights, targets: Mapping[str, Target], entries: list[TensorEntry]) -> None:
        self._weights = weights
        self._sources = {target.name: (nemo_name, target) for nemo_name, target in targets.items()}
        self._dtypes = {entry.name: entry.dtype for entry in entries}
        self._tensors: dict[str, torch.Tensor] | None = None
        self._bytes_read = 0

    def fetch(self, name: str) -> torch.Tensor:
        if self._tensors is None or (self._weights.is_mappable and self._bytes_read > MAPPED_BYTES):
            self._tensors = None  # first: two maps would be counted twice
            self._tensors = self._weights.read()
            self._bytes_read = 0
        nemo_name, target = self._sources[name]
        tensor = self._tensors.pop(nemo_name)  # nothing is read twice; an unmapped one is freed
        self._bytes_read += tensor.numel() * tensor.element_size()
        return target.form.to_ours(tensor, target.shape).to(self._dtypes[name])
