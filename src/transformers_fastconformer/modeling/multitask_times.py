"""The CTC model that a multitask checkpoint may carry, by which the words of its texts get their times."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from transformers import AutoConfig, AutoModelForCTC

from ..checkpoint_sources import resolve_checkpoint
from ..feature_extraction_fastconformer import FastConformerFeatureExtractor
from ..tokenization_fastconformer import FastConformerTokenizer
from .int8_config import FastConformerInt8Config, is_int8_config
from .quantization import is_stored_in_8_bits

# Folder of the model in that of the checkpoint, which says that there is one by `config.has_timestamps_model`.
TIMES_FOLDER = "timestamps_model"
SNAPSHOT_OPTIONS = ("cache_dir", "force_download", "local_files_only", "token")


class CarriedTimesModel:
    """
    A checkpoint in the folder of another one; what it holds is read when it is first needed.

    Args:
        name: The checkpoint that carries it: a folder or the id of a Hub repository.
        options: Of the Hub, as in `from_pretrained`: `revision`, `subfolder`, `token`...

    Raises:
        ValueError: for a folder that does not hold it.
    """

    def __init__(self, name: str | os.PathLike[str], options: Mapping[str, Any]) -> None:
        self.name = os.fspath(name)
        self.subfolder = "/".join(part for part in (str(options.get("subfolder") or ""), TIMES_FOLDER) if part)
        revision = options.get("revision")
        self.options = {key: options[key] for key in SNAPSHOT_OPTIONS if options.get(key) is not None}
        self.options["revision"] = None if revision is None else str(revision)
        self._forget()
        if Path(self.name).is_dir() and not (folder := Path(self.name) / self.subfolder).is_dir():
            raise ValueError(
                f"{folder} does not exist; expected the model of times that the configuration of {self.name} declares "
                "by has_timestamps_model."
            )

    def _forget(self) -> None:
        """Hold nothing that was read."""
        self._folder: Path | None = None
        self._parts: tuple[Any, FastConformerFeatureExtractor, FastConformerTokenizer] | None = None
        self._model: Any = None
        self._lock = threading.RLock()

    def __getstate__(self) -> dict[str, Any]:
        """The state without what was read, which a copy reads anew."""
        return {name: value for name, value in self.__dict__.items() if not name.startswith("_")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget()

    @property
    def folder(self) -> Path:
        """Its folder on this machine, downloaded from the Hub where that is needed."""
        with self._lock:
            if self._folder is None:
                root = self.name
                if not Path(root).is_dir():
                    root = snapshot_download(root, allow_patterns=f"{self.subfolder}/*", **self.options)
                self._folder = Path(root) / self.subfolder
                if not self._folder.is_dir():
                    raise ValueError(
                        f"{self.name} has no {self.subfolder}; expected the model of times that its configuration "
                        "declares by has_timestamps_model."
                    )
            return self._folder

    def _read_parts(self) -> tuple[Any, FastConformerFeatureExtractor, FastConformerTokenizer]:
        with self._lock:
            if self._parts is None:
                self._parts = (
                    AutoConfig.from_pretrained(self.folder),
                    FastConformerFeatureExtractor.from_pretrained(self.folder),
                    FastConformerTokenizer.from_pretrained(self.folder),
                )
            return self._parts

    @property
    def config(self) -> Any:
        """Its configuration."""
        return self._read_parts()[0]

    @property
    def feature_extractor(self) -> FastConformerFeatureExtractor:
        """Its feature extractor."""
        return self._read_parts()[1]

    @property
    def tokenizer(self) -> FastConformerTokenizer:
        """Its tokenizer."""
        return self._read_parts()[2]

    def load(self, like: Any) -> Any:
        """The CTC model, on the device of another model and with weights of its type, 8 bits included."""
        with self._lock:
            if self._model is None:
                is_int8 = is_int8_config(getattr(like.config, "quantization_config", None))
                is_stored = is_int8_config(getattr(self.config, "quantization_config", None))
                options: dict[str, Any] = {}
                if is_int8 != is_stored:
                    options["quantization_config"] = FastConformerInt8Config(dequantize=is_stored)
                dtype = None if is_int8 and is_stored else like.dtype
                self._model = AutoModelForCTC.from_pretrained(self.folder, dtype=dtype, **options).eval()
            # The other model may have been moved or cast since.
            return self._model.to(like.device, None if is_stored_in_8_bits(self._model) else like.dtype)

    def save_into(self, save_directory: str | os.PathLike[str]) -> None:
        """Write its files into their place in the folder of a checkpoint."""
        target = Path(save_directory) / TIMES_FOLDER
        if target.exists() and target.samefile(self.folder):
            return
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
        for path in sorted(self.folder.iterdir()):
            if path.is_file():
                shutil.copyfile(path, target / path.name)


def find_times_model(
    name: str | os.PathLike[str], model_class: type, config: Any, options: Mapping[str, Any]
) -> CarriedTimesModel | None:
    """
    Find the model of times of a checkpoint that was loaded.

    Args:
        name: The name that it was loaded by.
        model_class: The class that was loaded.
        config: Its configuration.
        options: Keyword arguments of `from_pretrained`.

    Returns:
        The model; None: the configuration declares none.
    """
    if not config.has_timestamps_model:
        return None
    folder = resolve_checkpoint(name, model_class, options)
    if folder is not None:
        return CarriedTimesModel(folder, {})
    commit = getattr(config, "_commit_hash", None)
    return CarriedTimesModel(name, {**options, **({"revision": commit} if commit else {})})
