"""A `.nemo` checkpoint to a folder that `from_pretrained` loads."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers.utils import logging

from ..checkpoint_sources import ORIGINAL_CONFIG_FILE
from ..checkpoints.model_card import write_model_card
from ..checkpoints.name_table import Target
from ..checkpoints.output_folder import check_output, written_as_one
from ..checkpoints.safetensors_writer import TensorEntry, parse_bytes, write_checkpoint
from ..checkpoints.stored_tensors import main_dtype
from ..configuration_multitask import FastConformerMultitaskConfig
from ..feature_extraction_fastconformer import FastConformerFeatureExtractor
from ..modeling.multitask_times import TIMES_FOLDER
from ..processing_fastconformer import FastConformerProcessor
from ..validation import reading, require_choice
from .archive import CONFIG_MEMBER, NemoArchive
from .config_map import WITHOUT_TOKENIZER, MappedConfig, map_config
from .description import check_vocabulary, describe_model, describe_parts_left_out
from .front_end import build_feature_extractor
from .locate import FoundArchive, require_archive
from .model_card import describe_conversion, read_source_card
from .multitask_weights import check_multitask_weights
from .prompt_tokens import complete_vocabulary
from .sections.multitask import PROMPT_MASK_KEY
from .tokenizer_map import build_tokenizer, timestamp_options
from .weight_map import FILTERBANK, WINDOW, check_counts, name_table
from .weights import NemoWeights, TensorHeader

logger = logging.get_logger(__name__)

# A model bundled with Canary, which finds the times of its words: its name, the text before the names of its members,
# and its folder next to the model.
TIMES_PREFIX = "timestamps_asr_"
TIMES_MODEL = f"{TIMES_PREFIX}model"
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class ConversionOptions:
    """
    Choices of a conversion, checked when they are made.

    Args:
        dtype: `"float32"`, `"float16"` or `"bfloat16"`, to store and to compute in; `None` or `"auto"` stores what the
            archive has and computes in float32.
        max_shard_size: Most bytes of weights in a file, as a number or text such as `"5GB"`.
        overwrite: Replace what is in the output folder.
        encoder_only: Leave the heads out, of any model whose encoder is a FastConformer.
    """

    dtype: str | torch.dtype | None = None
    max_shard_size: int | str = "5GB"
    overwrite: bool = False
    encoder_only: bool = False

    def __post_init__(self) -> None:
        if self.dtype is not None:
            require_choice("dtype", str(self.dtype).removeprefix("torch."), [*DTYPES, "auto"])
        parse_bytes(self.max_shard_size)

    @property
    def torch_dtype(self) -> torch.dtype | None:
        """The type to write; None: that of the archive."""
        return DTYPES.get(str(self.dtype).removeprefix("torch."))

    @property
    def computation_dtype(self) -> torch.dtype:
        """
        The type that loads the model, unless another is asked for then.

        NeMo 3.0 (`restore_from`) builds its modules in float32 and copies the weights into them, so it computes in
        float32 whatever an archive has.
        """
        return self.torch_dtype or torch.float32

    @property
    def max_shard_bytes(self) -> int:
        """Most bytes of weights in a file."""
        return parse_bytes(self.max_shard_size)


DEFAULT_OPTIONS = ConversionOptions()


@dataclass(frozen=True)
class ConversionResult:
    """
    The outcome of a conversion.

    Args:
        output_dir: The folder that `from_pretrained` loads.
        archive_path: The `.nemo` file (or unpacked folder) that was read.
        hub_id: Hub repository that it came from, if any.
        mapped: Configuration, class, family, and the dropped keys with their reasons.
        dropped_tensors: Tensors of the archive that have no place in the output, with the reasons.
        parts_left_out: Parts of the model that are not converted, where only the encoder is, and what they hold.
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
        """The Hub id of what was converted, or the path of the archive."""
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

    A model that is bundled with a Canary, for the times of its words, is converted into the folder
    `timestamps_model` in the output. Of self-supervised models without a quantiser
    (`SpeechEncDecSelfSupervisedModel`) only the encoder is converted, for `FastConformerModel` and without a
    tokenizer; a warning names the parts that are left out.

    Memory stays near that of the imports: weights are read and written tensor by tensor, and compared with the
    archive's checksums on the way. While it runs, the weights of a gzipped archive lie twice next to `output_dir`.

    Args:
        source: A `.nemo` file, a folder that holds one (or its unpacked members), the id of a Hub repository with
            one, or `owner/repository/file.nemo` where it has several.
        output_dir: Folder to make. It must not exist, be empty, or be replaced on request.
        dtype: `"float32"`, `"float16"` or `"bfloat16"`, to store and to compute in. `None` or `"auto"` stores what the
            archive has, and the configuration says float32, in which NeMo computes also with weights of 16 bits; a
            `dtype` given to `from_pretrained` goes before it.
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
    options = ConversionOptions(dtype, max_shard_size, overwrite, encoder_only)
    check_output(Path(output_dir), overwrite)
    archive = require_archive(source, hub_options)
    archive.check_content()
    return convert_archive(archive, output_dir, options, hub_options)


def convert_archive(
    found: FoundArchive,
    output_dir: str | os.PathLike[str],
    options: ConversionOptions = DEFAULT_OPTIONS,
    hub_options: Mapping[str, Any] | None = None,
    prefix: str = "",
) -> ConversionResult:
    """
    [`convert_nemo_checkpoint`] of an archive that is on this machine.

    Args:
        found: The archive.
        output_dir: Folder to make.
        options: Choices of the conversion.
        hub_options: For the Hub, to read the card of its repository.
        prefix: Text before the names of the members, of a model that is bundled with another one.
    """
    output_dir, archive_path = Path(output_dir), found.path
    check_output(output_dir, options.overwrite)
    with NemoArchive(archive_path, prefix) as archive, written_as_one(output_dir, options.overwrite) as folder:
        nemo_config = archive.read_config()
        with archive.open_weights(folder) as weights:
            headers = weights.headers
            # Whatever a configuration holds is named by what reads it; this is for what was not thought of.
            with reading(str(archive_path), "a checkpoint of NeMo whose encoder is a FastConformer"):
                mapped = map_config(nemo_config, str(archive_path), headers, options.encoder_only)
                check_counts(mapped.config, headers, str(archive_path))
                front_end = {name: weights.read_tensor(name) for name in (FILTERBANK, WINDOW) if name in headers}
                feature_extractor = build_feature_extractor(mapped, front_end, str(archive_path))
                processor = _build_processor(mapped, feature_extractor, nemo_config, archive)
                our_shapes, num_parameters, generation_config = describe_model(mapped)
                nemo_shapes = {name: header.shape for name, header in headers.items()}
                table = name_table(mapped.config, mapped.adapters_off)
                plan = table.plan_reading(nemo_shapes, our_shapes, str(archive_path))
                if isinstance(mapped.config, FastConformerMultitaskConfig):
                    check_multitask_weights(weights, mapped.config, str(archive_path))
            if not (weights.has_checksums or archive.is_gzip or found.expected_digest):
                logger.warning(
                    f"{archive_path}: the weights have no checksums, so that damage to their values cannot be told."
                )
            entries = _plan_entries(headers, plan.targets, options.torch_dtype)
            source = RenamedTensors(weights, plan.targets, entries)
            write_checkpoint(folder, entries, source.fetch, options.max_shard_bytes)
            weights.check_rest()
            if source.not_finite:
                logger.warning(
                    f"{archive_path}: {len(source.not_finite)} tensors hold NaN or infinite values, such as "
                    f"{source.not_finite[0]!r}; what the model computes with them is of no use."
                )
        for part in (processor, feature_extractor, generation_config):
            if part is not None:
                part.save_pretrained(folder)
        parts_left_out = describe_parts_left_out(plan.left_out, [] if prefix else archive.member_names)
        if mapped.family == "multitask" and TIMES_MODEL in parts_left_out:
            # The model that NeMo finds the times of words with is a checkpoint of its own.
            if nemo_config.get("restore_timestamps_model", True):
                convert_archive(found, folder / TIMES_FOLDER, options, hub_options, TIMES_PREFIX)
                mapped.config.has_timestamps_model = True
            del parts_left_out[TIMES_MODEL]
        card = describe_conversion(
            mapped,
            source=found,
            source_card=read_source_card(found, hub_options or {}),
            num_parameters=num_parameters,
            parts_left_out=parts_left_out,
        )
        write_model_card(folder, card)
        # From it `export_nemo` starts.
        (folder / ORIGINAL_CONFIG_FILE).write_bytes(archive.read_member(CONFIG_MEMBER))
        # Last: a folder without it is no checkpoint to any loader.
        mapped.config.dtype = options.computation_dtype
        mapped.config.save_pretrained(folder)
    if parts_left_out:
        listed = "; ".join(f"{part}: {content}" for part, content in parts_left_out.items())
        logger.warning(f"{archive_path}: only the encoder is converted. Left out are {listed}.")
    logger.info(f"{archive_path} is converted: {mapped.architecture} in {output_dir}.")
    return ConversionResult(
        output_dir=output_dir,
        archive_path=archive_path,
        hub_id=found.hub_id,
        mapped=mapped,
        dropped_tensors=plan.left_out,
        parts_left_out=parts_left_out,
        num_parameters=num_parameters,
        dtype=str(options.torch_dtype or main_dtype(entries)).removeprefix("torch."),
        files=sorted(path.name for path in output_dir.iterdir()),
    )


def _build_processor(
    mapped: MappedConfig,
    feature_extractor: FastConformerFeatureExtractor,
    nemo_config: Mapping[str, Any],
    archive: NemoArchive,
) -> FastConformerProcessor | None:
    """The processor of a model that writes text; others come without a tokenizer."""
    if mapped.family in WITHOUT_TOKENIZER:
        return None
    tokenizer = build_tokenizer(nemo_config, archive.read_member, str(archive.source))
    complete_vocabulary(mapped.config, tokenizer, str(archive.source))
    check_vocabulary(tokenizer, mapped.config, str(archive.source))
    prompts: dict[str, Any] = {}
    if isinstance(mapped.config, FastConformerMultitaskConfig):
        prompts = {
            "prompt_format": mapped.config.prompt_format,
            "prompt_defaults": mapped.config.prompt_defaults,
            "learns_prompt": not nemo_config.get(PROMPT_MASK_KEY),
        }
    return FastConformerProcessor(
        feature_extractor,
        tokenizer,
        subsampling_factor=mapped.config.mel_frames_per_encoder_frame,
        **timestamp_options(nemo_config),
        **prompts,
    )


def _plan_entries(
    headers: Mapping[str, TensorHeader], targets: Mapping[str, Target], dtype: torch.dtype | None
) -> list[TensorEntry]:
    """The tensors to write, in the archive's order."""
    entries = []
    for nemo_name, target in targets.items():
        stored: torch.dtype = getattr(torch, headers[nemo_name].dtype)
        entries.append(TensorEntry(target.name, target.shape, dtype if dtype and stored.is_floating_point else stored))
    return entries


class RenamedTensors:
    """Tensors of an archive under our names, read one by one."""

    def __init__(self, weights: NemoWeights, targets: Mapping[str, Target], entries: list[TensorEntry]) -> None:
        self._weights = weights
        self._sources = {target.name: (nemo_name, target) for nemo_name, target in targets.items()}
        self._dtypes = {entry.name: entry.dtype for entry in entries}
        self.not_finite: list[str] = []  # NeMo's names of tensors read with NaN or infinite values

    def fetch(self, name: str) -> torch.Tensor:
        """One tensor by our name, in our form and of the type to write."""
        nemo_name, target = self._sources[name]
        tensor = self._weights.read_tensor(nemo_name)
        # A sum is read once; one that overflows is looked at again.
        if not math.isfinite(tensor.sum(dtype=torch.float32)) and not bool(torch.isfinite(tensor).all()):
            self.not_finite.append(nemo_name)
        return target.form.to_ours(tensor, target.shape).to(self._dtypes[name])
