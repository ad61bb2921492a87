"""
Which families of NeMo checkpoints do the conversion scripts of transformers load, with which error, and with which
numbers, next to this package?

transformers has a script for each of its models that came from NeMo. Its wheels and source distributions do not hold
them (checked in 5.23), so they are taken from a checkout and run as they are, through their own `main`:

    git clone https://github.com/huggingface/transformers /tmp/transformers
    python benchmarks/bench_upstream_conversion.py --scripts /tmp/transformers/src/transformers/models

Every family of `tests/support/families.py` is built by NeMo with perturbed random weights, in two blocks of the
published width and with 1024 tokens, since the scripts assume some widths and the size of the vocabulary. Real clips,
by themselves and in one padded batch, go through NeMo and through the conversions of the script and of this package. A
script that does not name a family is still tried if its model is the nearest one, as a user would do.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import dataclasses
import gc
import hashlib
import io
import json
import linecache
import math
import os
import re
import runpy
import shutil
import sys
import tarfile
import tempfile
import textwrap
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from common.csv_files import read_rows, write_rows
from common.folders import RESULTS, ROOT
from common.nemo_shapes import train_tokenizer
from common.speech import SAMPLING_RATE, SPEECH_DIR, read_manifest
from transformers_fastconformer import read_audio

RESULT = RESULTS / "upstream_conversion_float32_cpu.csv"
# The families of checkpoints and what builds them are those of the tests.
sys.path.insert(0, str(ROOT / "tests" / "support"))

NUM_CLIPS = 3
MAX_SECONDS = 5
VOCAB_SIZE = 1024
NUM_BLOCKS = 2
# Published widths; for other families, and for recipes, the width that the scripts assume.
WIDTHS: dict[str, tuple[int, ...]] = {
    **dict.fromkeys(("ctc", "hybrid tdt-ctc", "rnnt"), (1024, 512)),
    **dict.fromkeys(("conformer ctc", "conformer ctc, characters", "conformer rnnt", "end of utterance"), (512,)),
    **dict.fromkeys(("hybrid rnnt-ctc", "hybrid rnnt-ctc, layer norm", "streaming hybrid"), (512,)),
    "several languages": (512,),
    "absolute positions, reduction": (256,),  # the reduction has width ** 3 / 2 weights
}
DEFAULT_WIDTHS = (1024,)
# Share of NeMo's largest magnitude up to which an encoder counts as equal.
TOLERANCE = 1e-4
# Difference up to which features, which are logarithms or normalised, count as equal.
FEATURE_TOLERANCE = 1e-2
# Tokens of a clip that are compared. A random prediction network is chaotic: outputs of one of 640 units in float32
# and in float64 differ by 1e-4 after 100 tokens and by 5e-2 after 250, with torch's own LSTM.
MAX_TOKENS = 100

PARAKEET = "parakeet/convert_nemo_to_hf.py"
STREAMING = "nemotron_asr_streaming/convert_nemotron_asr_streaming_to_hf.py"
PROMPTED = "nemotron3_5_asr/convert_nemotron3_5_asr_to_hf.py"
DIARIZATION = "nemotron3_diarization/convert_nemotron3_diarization_to_hf.py"
SCRIPTS = (PARAKEET, STREAMING, PROMPTED, DIARIZATION)
NO_CANARY = "no script to try: those of commits 403a6df0 and c9a82bf3 set options that CanaryConfig of 5.23 has not"

# From the best to the worst.
VERDICTS = ("equal", "other tokens", "other numbers", "refused", "failed", "not tried")


# `nemo_tokens` are counts; `_features` the largest difference from NeMo's; `_encoder` the same as a share of NeMo's
# largest magnitude; `_tokens` the clips with NeMo's tokens. `_batch` is in the padded batch, without it by itself.
SIDE_FIELDS = ("", "_error", "_features", "_encoder", "_encoder_batch", "_tokens", "_tokens_batch")
SIDES = [side + name for side in ("upstream", "ours") for name in SIDE_FIELDS]
FIELDS = ("family", "width", "nemo_tokens", "script", *SIDES, "script_sha256", "versions")
Row = dict[str, str]


@dataclass
class ClipOutputs:
    """Features (frames, mels), encoder output (frames, hidden) and tokens of one clip; tokens None without a head."""

    features: torch.Tensor
    encoded: torch.Tensor
    tokens: list[int] | None


Batches = list[list[ClipOutputs]]

# The checkpoints


def families_to_compare() -> list[Any]:
    """Families of the table, and TDT with `<pad>` in its vocabulary, as in parakeet-tdt-0.6b-v3 but not in -v2."""
    from families import FAMILIES

    tdt = next(family for family in FAMILIES if family.name == "tdt")
    build = {**tdt.build, "tokenizer": padded_tokenizer}
    return [*FAMILIES, dataclasses.replace(tdt, name="tdt, `<pad>` in the vocabulary", build=build)]


def padded_tokenizer(folder: Path) -> dict[str, Any]:
    """Make a tokenizer with `<pad>` at 2."""
    from families import train_with_symbols

    return train_with_symbols(folder, ["<tag>", "<pad>"], 128)


def make_large_tokenizer(folder: Path) -> Path:
    """Make a tokenizer of as many tokens as the published ones."""
    folder.mkdir(exist_ok=True)
    return folder if (folder / "tokenizer.model").is_file() else train_tokenizer(folder, VOCAB_SIZE)


def compares_tokens(family: Any) -> bool:
    """False where only features and encoder are compared: there is no head, or no script that reads it."""
    return family.architecture not in (
        "FastConformerModel",
        "FastConformerForDiarization",
        "FastConformerForPreTraining",
        "FastConformerForMultitask",
    )


def widths_of(family: Any) -> tuple[int, ...]:
    """The published widths, or the width of the table's row for encoders whose other parts depend on it."""
    if not compares_tokens(family):
        return (int(family.build.get("encoder", {}).get("d_model", 32)),)
    return WIDTHS.get(family.name, DEFAULT_WIDTHS)


def build_archive(family: Any, build: Any, width: int, clip: np.ndarray, path: Path) -> None:
    """Build the family's model in two blocks of a width and save it."""
    from balance import balance_classes

    arguments = copy.deepcopy(family.build)
    has_head = compares_tokens(family)
    if has_head:
        encoder = {"d_model": width, "n_heads": 8, "subsampling_conv_channels": 256, "n_layers": NUM_BLOCKS}
        arguments["encoder"] = encoder | arguments.get("encoder", {})
        if family.kind != "ctc":
            for section, part, name in (("decoder", "prednet", "pred_hidden"), ("joint", "jointnet", "joint_hidden")):
                arguments.setdefault(section, {}).setdefault(part, {}).setdefault(name, 640)
        if arguments.get("tokenizer", "bpe") == "bpe":
            arguments["tokenizer"] = make_large_tokenizer(path.parent.parent / "tokenizer")
    model = build(family.kind, **arguments)
    if has_head:
        prompts = model.cfg.get("model_defaults", {}).get("prompt_dictionary", {})
        balance_classes(model, clip, prompts.get(family.languages[0]))
    model.save_to(str(path))


def read_clips(speech_dir: Path) -> list[np.ndarray]:
    """Three read clips, the shortest first."""
    read = [entry for entry in read_manifest(speech_dir) if entry["audio_filepath"].startswith("read/librispeech/")]
    chosen = sorted(read, key=lambda entry: entry["duration"])[:: len(read) // NUM_CLIPS][:NUM_CLIPS]
    return [read_audio(speech_dir / entry["audio_filepath"])[: MAX_SECONDS * SAMPLING_RATE] for entry in chosen]


# The scripts of transformers


def scripts_for(family: Any) -> list[tuple[str, str]]:
    """Scripts with model types that a user would try on a family, the most fitting first."""
    nemo_class = family.build.get("nemo_class", "")
    if "MultiTask" in nemo_class:
        return []
    if "Sortformer" in nemo_class:
        return [(DIARIZATION, "")]
    if "Prompt" in nemo_class:
        return [(PROMPTED, "")]
    model_type = "ctc" if family.kind == "ctc" else "tdt" if "tdt" in family.kind else "rnnt"
    tried = [(PARAKEET, model_type)]
    if family.build.get("encoder", {}).get("att_context_style", "").startswith("chunked_limited"):
        tried.insert(0, (STREAMING, ""))
    return tried


def lend_unpacking() -> None:
    """Provide the function that newer scripts import to unpack archives, if the installed transformers lacks it."""
    import transformers.utils.generic as generic

    def safe_extract_tar(archive: tarfile.TarFile, folder: str) -> None:
        archive.extractall(folder, filter="data")

    if not hasattr(generic, "safe_extract_tar"):
        generic.safe_extract_tar = safe_extract_tar  # type: ignore[attr-defined]


def run_script(scripts_dir: Path, script: str, model_type: str, archive: Path, output_dir: Path) -> str:
    """Run the `main` of a script on an archive; returns its warnings."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        main = runpy.run_path(str(scripts_dir / script))["main"]
        if script == DIARIZATION:
            main(str(archive), "local/archive", str(output_dir))
        elif script in (STREAMING, PROMPTED):
            main("local/archive", str(output_dir), nemo_file=str(archive))
        else:
            # It takes a repository; a folder that holds the archive under the folder's name works too.
            folder = output_dir.parent / f"{output_dir.name}-repository"
            folder.mkdir()
            os.link(archive, folder / f"{folder.name}.nemo")
            main(str(folder), str(output_dir), model_type)
    return "; ".join(line for line in printed.getvalue().splitlines() if line.startswith("Warning"))


def verdict_of(error: Exception, scripts_dir: Path) -> str:
    """`refused` where a check of the script or the loading of weights raised the error, else `failed`."""
    frames = traceback.extract_tb(error.__traceback__)
    innermost = frames[-1]
    line = linecache.getline(innermost.filename, innermost.lineno or 0).strip()
    is_check = Path(innermost.filename).is_relative_to(scripts_dir) and line.startswith("raise")
    return "refused" if is_check or any(frame.name == "load_state_dict" for frame in frames) else "failed"


def describe(text: str | Exception) -> str:
    """One line without names of folders."""
    if isinstance(text, Exception):
        text = f"{type(text).__name__}: {text}"
    return textwrap.shorten(re.sub(r"(?<![\w.])/[\w./-]+/", "", text), 240, placeholder=" ...")


# The outputs


def read_outputs(outputs: Any, head: str | None) -> list[ClipOutputs]:
    """NeMo's or our outputs of a batch in the form of the comparison."""
    hypotheses = outputs.hypotheses[head] if head else [None] * len(outputs.tensors["encoder"])
    return [
        ClipOutputs(features, encoded, None if hypothesis is None else hypothesis.batch_tokens)
        for features, encoded, hypothesis in zip(
            outputs.tensors["features"], outputs.tensors["encoder"], hypotheses, strict=True
        )
    ]


def load_upstream(folder: Path) -> tuple[Any, Any]:
    """The model and the processor that a script wrote."""
    import transformers

    (architecture,) = json.loads((folder / "config.json").read_text())["architectures"]
    model = getattr(transformers, architecture).from_pretrained(folder, dtype=torch.float32)
    return model.eval(), transformers.AutoProcessor.from_pretrained(folder)


@torch.inference_mode()
def run_upstream(
    model: Any, processor: Any, waveforms: list[np.ndarray], language: str | None, has_head: bool
) -> list[ClipOutputs]:
    """Compute features, encoder output and tokens of a batch as the documentation of transformers describes it."""
    options = {} if language is None else {"language": language}
    inputs = processor(waveforms, sampling_rate=SAMPLING_RATE, **options)
    features, feature_mask = inputs["input_features"], inputs["attention_mask"].bool()
    context = {name: value for name, value in inputs.items() if name == "num_lookahead_tokens"}
    encoded = model.get_encoder()(input_features=features, attention_mask=inputs["attention_mask"], **context)
    frame_mask = encoded.attention_mask.bool()
    blank = getattr(model.config, "blank_token_id", None)
    sequences = model.generate(**inputs, return_dict_in_generate=True).sequences.tolist() if has_head else None
    outputs = []
    for clip in range(len(waveforms)):
        tokens = None
        if sequences is not None:
            tokens = sequences[clip]
            if blank is None:  # CTC: one class a frame
                frames = tokens[: int(frame_mask[clip].sum())]
                tokens = [token for index, token in enumerate(frames) if index == 0 or token != frames[index - 1]]
            tokens = [token for token in tokens if token not in (blank, model.config.pad_token_id)]
        real_features = features[clip][feature_mask[clip]].float()
        outputs.append(ClipOutputs(real_features, encoded.last_hidden_state[clip][frame_mask[clip]].float(), tokens))
    return outputs


# The comparison


def largest_difference(expected: torch.Tensor, found: torch.Tensor) -> float:
    """Largest difference; infinite where the shapes differ or a value is not a number."""
    if expected.shape != found.shape or not found.isfinite().all():
        return math.inf
    return float((expected - found).abs().max())


def compare(reference: Batches, found: Batches, side: str, ignored: int | None = None) -> Row:
    """Fill the cells of one side; batches of one clip are clips by themselves. Token `ignored` is left out."""
    row: Row = {}
    features, has_numbers, has_tokens = 0.0, True, True
    for suffix, is_batch in (("", False), ("_batch", True)):
        batches = [pair for pair in zip(reference, found, strict=True) if (len(pair[0]) > 1) == is_batch]
        pairs = [pair for expected, mine in batches for pair in zip(expected, mine, strict=True)]
        if not pairs:
            continue
        features = max([features, *(largest_difference(a.features, b.features) for a, b in pairs)])
        error = max(largest_difference(a.encoded, b.encoded) / float(a.encoded.abs().max()) for a, b in pairs)
        row[f"{side}_encoder{suffix}"] = f"{error:.1e}"
        has_numbers &= error <= TOLERANCE
        if pairs[0][0].tokens is not None:
            count = sum(
                [token for token in a.tokens or [] if token != ignored][:MAX_TOKENS] == (b.tokens or [])[:MAX_TOKENS]
                for a, b in pairs
            )
            row[f"{side}_tokens{suffix}"] = f"{count} of {len(pairs)}"
            has_tokens &= count == len(pairs)
    has_numbers &= features <= FEATURE_TOLERANCE
    verdict = "other numbers" if not has_numbers else "equal" if has_tokens else "other tokens"
    return row | {side: verdict, f"{side}_features": f"{features:.1e}"}


def compare_family(
    family: Any, width: int, build: Any, clips: list[np.ndarray], scripts_dir: Path, folder: Path
) -> Iterator[Row]:
    """Compare one family; each script that is tried on it gives a row."""
    from transformers_fastconformer.nemo.convert import convert_nemo_checkpoint
    from transformers_fastconformer.nemo.converted_runner import ConvertedRunner
    from transformers_fastconformer.nemo.reference import NemoRunner

    archive = folder / "model.nemo"
    build_archive(family, build, width, clips[1], archive)
    language = family.languages[0]
    batches = [[clip] for clip in clips] + ([] if family.is_alone_only else [clips])
    nemo = NemoRunner(archive)
    if not compares_tokens(family):
        nemo.heads = []
    head = nemo.heads[0] if nemo.heads else None
    stages = [nemo.run("", batch, strategy=family.strategy, language=language) for batch in batches]
    reference = [read_outputs(outputs, head) for outputs in stages]
    del nemo

    row = {"family": family.name, "width": str(width)}
    row["nemo_tokens"] = " ".join(str(len(clip.tokens or [])) for (clip,) in reference[: len(clips)])
    try:
        convert_nemo_checkpoint(archive, folder / "ours")
        runner = ConvertedRunner(folder / "ours")
        found = [read_outputs(runner.run("", batch, [], language=language), head) for batch in batches]
        row |= compare(reference, found, "ours")
    except Exception as error:
        row |= {"ours": "failed", "ours_error": describe(error)}

    scripts = scripts_for(family)
    if not scripts:
        yield row | {"upstream": "not tried", "upstream_error": NO_CANARY}
    for number, (script, model_type) in enumerate(scripts):
        cells = {"script": f"{Path(script).parent.name} {model_type}".strip()}
        cells["script_sha256"] = hashlib.sha256((scripts_dir / script).read_bytes()).hexdigest()[:12]
        output_dir = folder / f"upstream-{number}"
        output_dir.mkdir()
        try:
            cells["upstream_error"] = describe(run_script(scripts_dir, script, model_type, archive, output_dir))
            model, processor = load_upstream(output_dir)
            found = [run_upstream(model, processor, batch, language, head is not None) for batch in batches]
            cells |= compare(reference, found, "upstream", model.config.pad_token_id)
        except Exception as error:
            cells |= {"upstream": verdict_of(error, scripts_dir), "upstream_error": describe(error)}
        yield row | cells


# The result


@contextlib.contextmanager
def working_in(folder: Path) -> Iterator[None]:
    """Change the working directory while a block runs."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def run_families(names: list[str] | None, scripts_dir: Path, speech_dir: Path, output: Path) -> None:
    """Run the comparison and write the result after each family; rows of other families are kept."""
    import nemo
    import transformers
    from families import write_bert_base
    from nemo.collections.common.tokenizers.aggregate_tokenizer import AggregateTokenizer
    from nemo_models import ModelBuilder

    lend_unpacking()
    # NeMo 3.0 fails at the text of a CTC head with an aggregate tokenizer; texts are not compared.
    AggregateTokenizer.tokens_to_text = lambda self, tokens, lang_id=None: ""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.set_num_threads(1)
    order = [family.name for family in families_to_compare()]
    rows = read_rows(output) if names and output.is_file() else []
    clips = read_clips(speech_dir)
    versions = f"nemo {nemo.__version__}, transformers {transformers.__version__}, torch {torch.__version__}"
    output = output.resolve()
    with tempfile.TemporaryDirectory() as temporary, working_in(write_bert_base(Path(temporary) / "bert")):
        build = ModelBuilder(Path(temporary) / "tokenizers")
        for family in families_to_compare():
            if names and family.name not in names:
                continue
            rows = [row for row in rows if row["family"] != family.name]
            for width in widths_of(family):
                folder = Path(temporary) / "archive"
                folder.mkdir()
                for row in compare_family(family, width, build, clips, scripts_dir, folder):
                    rows.append(row | {"versions": versions})
                    print(family.name, width, row.get("script"), row["upstream"], row["ours"], sep=", ", flush=True)
                shutil.rmtree(folder)
                gc.collect()  # NeMo's models hold reference cycles, of hundreds of megabytes each
            rows.sort(key=lambda row: order.index(row["family"]))
            write_rows(output, rows, FIELDS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scripts", type=Path, required=True, help="src/transformers/models of a checkout")
    parser.add_argument("--speech", type=Path, default=SPEECH_DIR, help="folder with manifest.jsonl")
    parser.add_argument("--families", nargs="*", help="run only these; the rows of others stay in the output")
    parser.add_argument("--output", type=Path, default=RESULT, help="the result")
    options = parser.parse_args()
    missing = [script for script in SCRIPTS if not (options.scripts / script).is_file()]
    if missing:
        parser.error(f"--scripts={options.scripts} has no {missing}; expected src/transformers/models")
    run_families(options.families, options.scripts.resolve(), options.speech, options.output)


if __name__ == "__main__":
    main()
