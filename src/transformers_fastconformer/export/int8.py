"""
Graphs with 8-bit weights, by ONNX Runtime's own dynamic quantisation: activations are rounded in each call.

Only products with weights are rounded, each output by a scale of its own; products of attention, convolutions and
norms stay in float32. Weights take 7 of their 8 bits: on x86 without VNNI two products are added in 16 bits, which
more would overflow without a word. With VNNI it takes half the time of unsigned weights, which no CPU overflows with.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .graphs import EXTERNAL_SUFFIX, GraphPart, errors_only
from .stage_checks import RuntimeGraph, list_inputs

QUANTIZED_OPERATIONS = ("MatMul", "Gemm")
# Largest root mean square of the difference to the graph in float32, as a share of that of the stage.
MAX_DIFFERENCE = 0.3
# Entry that the quantiser leaves behind.
LEFT_BEHIND = "onnx.infer"


def int8_name(name: str) -> str:
    """Name of the file of a graph in 8 bits, by which the targets know it."""
    return f"{name.removesuffix('.onnx')}.int8.onnx"


def quantize_graphs(model: Any, parts: dict[str, GraphPart], folder: Path) -> dict[str, float]:
    """
    Put graphs with 8-bit weights in the place of those in float32.

    Args:
        model: The model that the graphs were made from.
        parts: The parts by the names of their files.
        folder: Their folder.

    Returns:
        Of each output in floating point the root mean square of its difference to the graph in float32 on random
        input, as a share of that of the output, by the names of file and output.

    Raises:
        RuntimeError: for a difference above `MAX_DIFFERENCE`.
    """
    differences: dict[str, float] = {}
    for name, part in parts.items():
        _quantize(folder / name, folder / int8_name(name))
        differences |= _compare(model, part, folder, name)
        (folder / name).unlink()
        (folder / f"{name}{EXTERNAL_SUFFIX}").unlink(missing_ok=True)
    return differences


def _quantize(path: Path, target: Path) -> None:
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    # Its advice on a preparation that these graphs do not need goes to the root.
    with errors_only("root"):
        quantize_dynamic(
            str(path),
            str(target),
            op_types_to_quantize=list(QUANTIZED_OPERATIONS),
            per_channel=True,
            reduce_range=True,
            weight_type=QuantType.QInt8,
        )
    graph = onnx.load(str(target))
    kept = [entry for entry in graph.metadata_props if entry.key != LEFT_BEHIND]
    del graph.metadata_props[:]
    graph.metadata_props.extend(kept)
    onnx.save(graph, str(target))


def _compare(model: Any, part: GraphPart, folder: Path, name: str) -> dict[str, float]:
    """Differences of the outputs of a graph, the largest of several inputs."""
    graphs = [RuntimeGraph(part, folder / file_name) for file_name in (name, int8_name(name))]
    found: dict[str, float] = {}
    for arguments in list_inputs(model, part):
        outputs = [graph.run(*arguments) for graph in graphs]
        for output, expected, ours in zip(part.output_names, *outputs, strict=True):
            if not expected.is_floating_point():
                continue
            stage = f"{int8_name(name)} {output}"
            difference = float(((ours - expected).square().mean() / expected.square().mean()).sqrt())
            if not difference <= MAX_DIFFERENCE:
                raise RuntimeError(
                    f"{stage}: 8 bits change the output by {difference:.2f} of its root mean square; expected at most "
                    f"{MAX_DIFFERENCE:g}. Nothing was written; export the graphs in float32."
                )
            found[stage] = max(found.get(stage, 0.0), difference)
    return found
