"""
How fast does a streaming Sortformer tell speakers apart, next to NeMo, and does its memory grow?

The shape of diar_streaming_sortformer_4spk-v2 with random weights, the same for both, which take turns in one process:
whole clips, and clips in chunks with a latency of 1.04 s (`low`), one and eight at a time. Inputs are features of
noise. `difference` is the largest of all probabilities. With `--hours` a recording of noise of that length goes
through this package at each latency, and the resident memory is noted after every hour.

    pip install 'transformers-fastconformer[nemo]'
    python benchmarks/bench_diarization.py --rounds 3
    python benchmarks/bench_diarization.py --hours 10 --latencies very_high --tiny
"""

from __future__ import annotations

import argparse
import gc
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from common.csv_files import read_rows, write_rows
from common.folders import RESULTS
from common.machine import MIB, name_machine, resident_bytes, use_given_threads
from common.nemo_shapes import perturb
from common.timing import minimum_and_median, seconds_of, take_turns
from transformers_fastconformer import FastConformerForDiarization, SpeakerStreamOptions, SpeakerStreams
from transformers_fastconformer.nemo.convert import convert_nemo_checkpoint

FRAME_SECONDS = 0.08
MEL_FRAMES_A_SECOND = 100
NUM_MELS = 128
SHAPE = {"d_model": 512, "n_layers": 17, "tf_d_model": 192, "tf_layers": 18}
TINY = {"d_model": 64, "n_layers": 2, "tf_d_model": 48, "tf_layers": 2}
WHOLE = "whole"
RESULT_FILE, MEMORY_FILE = "diarization_float32_cpu.csv", "diarization_memory_cpu.csv"


def build_nemo(shape: dict[str, int]) -> Any:
    """NeMo's model with random weights."""
    from nemo.collections.asr.models import SortformerEncLabelModel
    from omegaconf import OmegaConf

    modules = "nemo.collections.asr.modules"
    width = shape["tf_d_model"]
    config = {
        "sample_rate": 16000,
        "max_num_of_spks": 4,
        "streaming_mode": True,
        "model_defaults": {"fc_d_model": shape["d_model"], "tf_d_model": width},
        "preprocessor": {
            "_target_": f"{modules}.AudioToMelSpectrogramPreprocessor",
            "sample_rate": 16000,
            "normalize": "NA",
            "window_size": 0.025,
            "window_stride": 0.01,
            "window": "hann",
            "features": NUM_MELS,
            "n_fft": 512,
            "frame_splicing": 1,
            "dither": 1e-5,
        },
        "encoder": {
            "_target_": f"{modules}.ConformerEncoder",
            "feat_in": NUM_MELS,
            "feat_out": -1,
            "n_layers": shape["n_layers"],
            "d_model": shape["d_model"],
            "subsampling": "dw_striding",
            "subsampling_factor": 8,
            "subsampling_conv_channels": 256,
            "ff_expansion_factor": 4,
            "self_attention_model": "rel_pos",
            "n_heads": 8,
            "att_context_size": [-1, -1],
            "xscaling": True,
            "untie_biases": True,
            "conv_kernel_size": 9,
            "conv_norm_type": "batch_norm",
            "dropout": 0.1,
        },
        "sortformer_modules": {
            "_target_": f"{modules}.sortformer_modules.SortformerModules",
            "num_spks": 4,
            "fc_d_model": shape["d_model"],
            "tf_d_model": width,
        },
        "transformer_encoder": {
            "_target_": f"{modules}.transformer.transformer_encoders.TransformerEncoder",
            "num_layers": shape["tf_layers"],
            "hidden_size": width,
            "inner_size": 4 * width,
            "num_attention_heads": 8,
            "attn_score_dropout": 0.5,
            "attn_layer_dropout": 0.5,
            "ffn_dropout": 0.5,
            "hidden_act": "relu",
            "pre_ln": False,
        },
        "loss": {"_target_": "nemo.collections.asr.losses.bce_loss.BCELoss"},
    }
    model = SortformerEncLabelModel(cfg=OmegaConf.create(config)).eval()
    perturb(model)
    return model


def set_latency(nemo: Any, options: SpeakerStreamOptions) -> None:
    """Give NeMo's model the numbers of a latency."""
    modules = nemo.sortformer_modules
    modules.chunk_len, modules.fifo_len = options.chunk_frames, options.queue_frames
    modules.chunk_left_context = options.left_context_frames
    modules.chunk_right_context = options.right_context_frames
    modules.spkcache_update_period, modules.spkcache_len = options.update_frames, options.cache_frames


def make_calls(
    nemo: Any, ours: FastConformerForDiarization, features: torch.Tensor, latency: str | None
) -> dict[str, Callable[[], torch.Tensor]]:
    """What both systems do: probabilities (clips, frames, speakers) of features (clips, mel frames, mels)."""
    lengths = torch.full((len(features),), features.shape[1])

    def run_nemo() -> torch.Tensor:
        transposed = features.transpose(1, 2)
        if latency is not None:
            return nemo.forward_streaming(transposed, lengths)
        encoded, encoded_lengths = nemo.frontend_encoder(transposed, lengths)
        return nemo.forward_infer(encoded, encoded_lengths)

    def run_ours() -> torch.Tensor:
        if latency is None:
            return ours(features, input_lengths=lengths).probabilities
        streams = SpeakerStreams(ours, SpeakerStreamOptions.of(ours.config, latency))
        found = streams.push(dict(enumerate(features)), dict.fromkeys(range(len(features)), True))
        return torch.stack([found[clip] for clip in range(len(features))])

    return {"ours": run_ours, "nemo": run_nemo}


@torch.inference_mode()
def compare(nemo: Any, ours: FastConformerForDiarization, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """A row for each system, way and number of clips."""
    rows = []
    for latency in (None if way == WHOLE else way for way in arguments.ways):
        if latency is not None:
            set_latency(nemo, SpeakerStreamOptions.of(ours.config, latency))
        for num_clips in arguments.clips:
            generator = torch.Generator().manual_seed(num_clips)
            frames = int(arguments.seconds * MEL_FRAMES_A_SECOND)
            features = torch.randn(num_clips, frames, NUM_MELS, generator=generator)
            calls = make_calls(nemo, ours, features, latency)
            results = {name: call() for name, call in calls.items()}
            difference = float((results["ours"] - results["nemo"]).abs().max())
            seconds: dict[str, list[float]] = {name: [] for name in calls}
            for _, name in take_turns(calls, arguments.rounds, is_alternating=True):
                seconds[name].append(seconds_of(calls[name]))
            best = {name: minimum_and_median(values)[0] for name, values in seconds.items()}
            for name, values in seconds.items():
                least, median = minimum_and_median(values)
                rows.append(
                    {
                        "way": WHOLE if latency is None else latency,
                        "clips": num_clips,
                        "seconds_of_audio": arguments.seconds,
                        "system": name,
                        "seconds_min": round(least, 3),
                        "seconds_median": round(median, 3),
                        "times_real_time": round(num_clips * arguments.seconds / least, 1),
                        "nemo_over_this": round(best["nemo"] / least, 2),
                        "difference": f"{difference:.1e}",
                        "rounds": arguments.rounds,
                        "threads": torch.get_num_threads(),
                        "machine": name_machine(),
                        "torch": torch.__version__,
                    }
                )
                print(rows[-1], flush=True)
    return rows


@torch.inference_mode()
def measure_memory(ours: FastConformerForDiarization, hours: float, latency: str, shape: str) -> list[dict[str, Any]]:
    """Resident memory after the first minutes and after every hour of noise."""
    streams = SpeakerStreams(ours, SpeakerStreamOptions.of(ours.config, latency))
    generator = torch.Generator().manual_seed(0)
    rows, heard, next_row = [], 0.0, 0.1
    while heard < hours * 3600:
        features = torch.randn(60 * MEL_FRAMES_A_SECOND, NUM_MELS, generator=generator)
        streams.push({0: features}, {})
        heard += 60
        if heard >= min(next_row, hours) * 3600:
            gc.collect()
            about = {"shape": shape, "latency": latency, "hours": round(heard / 3600, 2)}
            rows.append({**about, "resident_mib": round(resident_bytes() / MIB, 1), "torch": torch.__version__})
            print(rows[-1], flush=True)
            next_row = 1.0 if next_row < 1 else next_row + 1
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=30.0, help="of each clip")
    parser.add_argument("--ways", nargs="+", choices=(WHOLE, "low"), default=[WHOLE, "low"])
    parser.add_argument("--clips", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--hours", type=float, help="measure memory over so many hours instead")
    parser.add_argument("--latencies", nargs="+", default=["very_high"])
    parser.add_argument("--tiny", action="store_true", help="a small shape, for a trial")
    parser.add_argument("--output_dir", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    use_given_threads()
    with tempfile.TemporaryDirectory() as folder:
        archive = Path(folder) / "model.nemo"
        build_nemo(TINY if arguments.tiny else SHAPE).save_to(str(archive))
        convert_nemo_checkpoint(archive, Path(folder) / "ours")
        ours = FastConformerForDiarization.from_pretrained(Path(folder) / "ours").eval()
        if arguments.hours is None:
            from nemo.collections.asr.models import SortformerEncLabelModel

            # Read again, as the weights that were drawn include tables that an archive does not hold.
            nemo = SortformerEncLabelModel.restore_from(str(archive), map_location="cpu").eval()
            path, rows = arguments.output_dir / RESULT_FILE, compare(nemo, ours, arguments)
            # Other cases stay, so that a short run measures one of them.
            cases = {(row["way"], str(row["clips"])) for row in rows}
            rows = [*(row for row in read_rows(path) if (row["way"], row["clips"]) not in cases), *rows]
        else:
            path, rows = arguments.output_dir / MEMORY_FILE, []
            for latency in arguments.latencies:
                rows += measure_memory(ours, arguments.hours, latency, "tiny" if arguments.tiny else "published")
            rows = [*(row for row in read_rows(path) if row["latency"] not in arguments.latencies), *rows]
    write_rows(path, rows)
    print(f"written to {path}")


if __name__ == "__main__":
    main()
