"""All kernels of this room, compiled to machine code for an H200 by Triton's compiler, which needs no GPU."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from triton_forms import needs_triton

SCRIPT = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from transformers_fastconformer.kernels.cuda import joint_hidden, joint_outputs, transducer_lattice

POINTERS = {"rows": "*i64", "label_ids": "*i64", "encoder_lengths": "*i64", "target_lengths": "*i64"}
POINTERS |= {"rows_before": "*i32", "steps": "*i32", "sums": "*fp64", "log_likelihoods": "*fp64"}
NUMBERS = ("num_rows", "num_frames", "num_nodes", "seed", "threshold", "first_row", "end_row", "max_frames")
IN_JOINT_DTYPE = ("hidden", "frames", "predictions", "outputs", "bias", "hidden_gradients")


def compile_kernel(kernel, constants, dtype):
    signature = {}
    for name in kernel.arg_names:
        if name in constants:
            signature[name] = "constexpr"
        elif name in (*NUMBERS, "max_targets"):
            signature[name] = "i32"
        else:
            signature[name] = POINTERS.get(name, dtype if name in IN_JOINT_DTYPE else "*fp32")
    aligned = {(place,): [["tt.divisibility", 16]] for place, name in enumerate(kernel.arg_names)
               if signature[name].startswith("*")}
    source = ASTSource(kernel, signature, constexprs=constants, attrs=aligned)
    return triton.compile(source, target=GPUTarget("cuda", 90, 32)).asm["ptx"]


for dtype in ("*fp32", "*bf16"):
    tile = {"size": 640, "scale": 1.25, "has_dropout": True, "block_rows": 8, "block_columns": 128}
    for activation in (0, 1, 2):
        compile_kernel(joint_hidden._hidden_kernel, tile | {"activation": activation}, dtype)
        compile_kernel(joint_hidden._frame_sum_kernel, tile | {"activation": activation}, dtype)
    sums = {name: tile[name] for name in ("size", "block_rows", "block_columns")}
    compile_kernel(joint_hidden._prediction_sum_kernel, sums, dtype)
    classes = {"blank_id": 1024, "num_tokens": 1025, "num_durations": 5, "row_stride": 1040, "block_rows": 2}
    classes |= {"block_classes": 1024, "block_rest": 1, "block_durations": 8}
    # Outputs are read 16 bytes at a time.
    assert "ld.global.v4.b32" in compile_kernel(joint_outputs._statistics_kernel, classes, dtype)
    assert "ld.global.v4.b32" in compile_kernel(joint_outputs._gradient_kernel, classes | {"clamp": 0.5}, dtype)
for blanks, arcs, block_arcs in ((1, 2, 2), (4, 9, 16)):
    constants = {"num_blanks": blanks, "num_arcs": arcs, "block_arcs": block_arcs}
    ptx = compile_kernel(transducer_lattice._sum_kernel, constants | {"block_places": 64}, "*fp32")
    assert "bar.sync" in ptx and "atom" not in ptx
    compile_kernel(transducer_lattice._posterior_kernel, constants | {"block_nodes": 32}, "*fp32")
print("compiled")
"""


@needs_triton
@pytest.mark.slow
def test_kernels_compile_for_an_h200() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run([sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, timeout=800)
    assert done.stdout.split() == ["compiled"], done.stderr[-2000:]
