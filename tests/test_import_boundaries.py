"""Who must not know whom, read from the source; and that each rule can fail."""

from __future__ import annotations

import ast
import dataclasses
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest
from volumes import QUICK, volume

import tinc_codec
from tinc_codec import TINC, Settings
from tinc_codec.runtime import Runtime

HEAVY = ("torch", "triton", "dask", "xarray", "zarr", "numcodecs", "numba")


@dataclasses.dataclass(frozen=True)
class Import:
    """One import statement: who, whom, and whether it runs only when a function does."""

    source: str
    target: str
    in_function: bool


Imports = dict[str, list[Import]]


def read_sources(root: Path) -> dict[str, str]:
    """Return the source of every module, by its path under the package."""
    return {path.relative_to(root).as_posix(): path.read_text() for path in root.rglob("*.py")}


def module_name(path: str) -> str:
    parts = ("tinc_codec", *Path(path).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def read_imports(sources: dict[str, str]) -> Imports:
    return {module_name(path): module_imports(path, text) for path, text in sources.items()}


@cache
def module_imports(path: str, text: str) -> list[Import]:
    name = module_name(path)
    package = name if path.endswith("__init__.py") else name.rpartition(".")[0]
    return [Import(name, *found) for found in walk(ast.parse(text), package, False)]


def walk(node: ast.AST, package: str, in_function: bool) -> Iterator[tuple[str, bool]]:
    """Yield what is imported below ``node``, and whether only when a function runs."""
    if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
        return  # never runs
    if isinstance(node, ast.Import):
        yield from ((alias.name, in_function) for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        above = package.split(".")[: package.count(".") + 2 - node.level] if node.level else []
        base = ".".join([*above, *filter(None, [node.module])])
        yield base, in_function
        yield from ((f"{base}.{alias.name}", in_function) for alias in node.names)
    elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
        yield from ((arg.value, in_function) for arg in node.args if isinstance(arg, ast.Constant))
    inside = in_function or isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
    for child in ast.iter_child_nodes(node):
        yield from walk(child, package, inside)


def within(module: str, *packages: str) -> bool:
    return any(module == package or module.startswith(package + ".") for package in packages)


def only(imports: Imports, targets: tuple[str, ...], allowed: tuple[str, ...]) -> Iterator[str]:
    """Yield each import of the targets by a module outside the allowed ones."""
    for name, statements in imports.items():
        for statement in statements:
            if within(statement.target, *targets) and not within(name, *allowed):
                yield f"{name} imports {statement.target}"


def reached(imports: Imports, start: str) -> set[str]:
    """Return every module of the package that ``start`` may import, functions included.

    The package's own __init__ is left out: it offers the whole public API.
    """
    seen: set[str] = set()
    todo = [start]
    while todo:
        name = todo.pop()
        if name in seen or name not in imports or name == "tinc_codec":
            continue
        seen.add(name)
        todo.extend(statement.target for statement in imports[name])
        todo.append(name.rpartition(".")[0])
    return seen


def decoding_knows_no_encoder(imports: Imports) -> Iterator[str]:
    forbidden = ("tinc_codec.fit", "tinc_codec.tree.allocation", "tinc_codec.settings")
    for start in ("decode", "decoding.overview", "decoding.together", "decoding.cache"):
        for name in sorted(reached(imports, f"tinc_codec.{start}")):
            if within(name, *forbidden, "tinc_codec.encode"):
                yield f"tinc_codec.{start} reaches {name}"


def torch_stays_in_functions(imports: Imports) -> Iterator[str]:
    # Kernels must be decorated where they are defined: importing them is importing triton.
    kernels = ("tinc_codec.engines.gpu.kernels", "tinc_codec.fit.kernels")
    torch = ("torch", "triton", *kernels)
    yield from only(imports, torch, ("tinc_codec.engines.gpu", "tinc_codec.fit"))
    for name, statements in imports.items():
        if within(name, *kernels):
            continue
        for statement in statements:
            if within(statement.target, *torch) and not statement.in_function:
                yield f"{name} imports {statement.target} outside functions"


def stages_are_strangers(imports: Imports) -> Iterator[str]:
    # Its fast path, apart since it needs numba.
    parts = {"tinc_codec.stream.rescale": "tinc_codec.stream.normalize"}

    def stage_of(name: str) -> str:
        stage = ".".join(name.split(".")[:3])
        return parts.get(stage, stage)

    wire = {"tinc_codec.stream", "tinc_codec.stream.wire"}  # how bytes are read, for all
    modules = {n for n in imports if within(n, "tinc_codec.stream")} - wire
    for name in sorted(modules):
        for other in sorted(reached(imports, name) & modules):
            if stage_of(other) != stage_of(name):
                yield f"{name} reaches {other}"


def coded_sections_are_strangers(imports: Imports) -> Iterator[str]:
    residual = "tinc_codec.stream.residual"
    shared = (f"{residual}.coder", f"{residual}.axes")  # how bits are coded, and what z, y, x are
    sections = {n for n in imports if within(n, residual) and n != residual}
    for name in sorted(n for n in sections if not within(n, *shared)):
        for other in sorted(reached(imports, name) & sections):
            if not within(other, *shared) and other.split(".")[3] != name.split(".")[3]:
                yield f"{name} reaches {other}"


def codec_apis_stay_at_the_rim(imports: Imports) -> Iterator[str]:
    rim = ("tinc_codec.zarr_v2", "tinc_codec.zarr_v3")
    yield from only(imports, ("numcodecs", "zarr.abc", "zarr.registry", "zarr.codecs"), rim)
    yield from only(imports, ("zarr",), (*rim, "tinc_codec.archive"))
    yield from only(imports, ("dask", "xarray"), ("tinc_codec.archive",))
    yield from only(imports, ("tinc_codec.cli",), ("tinc_codec.cli",))
    yield from only(imports, ("benchmarks", "tests", "notebooks"), ())


def run_time_matters_are_not_stored(imports: Imports) -> Iterator[str]:
    for name in ("tinc_codec.settings", "tinc_codec.configured"):
        if "tinc_codec.runtime" in reached(imports, name):
            yield f"{name} reaches tinc_codec.runtime"
    for name in sorted(n for n in imports if within(n, "tinc_codec.stream")):
        if "tinc_codec.runtime" in reached(imports, name):
            yield f"{name} reaches tinc_codec.runtime"


def parsing_knows_no_engine(imports: Imports) -> Iterator[str]:
    for name in sorted(n for n in imports if within(n, "tinc_codec.stream")):
        for other in sorted(reached(imports, name)):
            if within(other, "tinc_codec.engines", "tinc_codec.fit"):
                yield f"{name} reaches {other}"


def small_modules_know_nobody(imports: Imports) -> Iterator[str]:
    own = {
        "tinc_codec.metrics": {"tinc_codec.metric_loops", "tinc_codec.compiled"},
        "tinc_codec.decoding.selection": {"tinc_codec.decoding"},
    }
    for name in ("tinc_codec.metrics", "tinc_codec.decoding.selection", "tinc_codec.errors"):
        known = {name, "tinc_codec.errors", *own.get(name, ())}
        for other in sorted(reached(imports, name) - known):
            yield f"{name} reaches {other}"


RULES: list[Callable[[Imports], Iterator[str]]] = [
    decoding_knows_no_encoder,
    torch_stays_in_functions,
    stages_are_strangers,
    coded_sections_are_strangers,
    codec_apis_stay_at_the_rim,
    run_time_matters_are_not_stored,
    parsing_knows_no_engine,
    small_modules_know_nobody,
]


SOURCES = read_sources(Path(tinc_codec.__file__).parent)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_package_keeps_the_rule(rule: Callable[[Imports], Iterator[str]]) -> None:
    assert list(rule(read_imports(SOURCES))) == []


PLANTED = [
    (decoding_knows_no_encoder, "decode.py", "import tinc_codec.settings"),
    (
        decoding_knows_no_encoder,
        "decode.py",
        "def f():\n    from tinc_codec.tree import allocation",
    ),
    (decoding_knows_no_encoder, "decoding/selection.py", "from tinc_codec.fit import anything"),
    (decoding_knows_no_encoder, "stream/__init__.py", "from ..settings import Settings"),
    (decoding_knows_no_encoder, "decoding/overview.py", "from tinc_codec import settings"),
    (decoding_knows_no_encoder, "decoding/cache.py", "from tinc_codec import settings"),
    (decoding_knows_no_encoder, "decoding/together.py", "from tinc_codec.fit import chunk"),
    (torch_stays_in_functions, "decode.py", "def f():\n    import torch.nn"),
    (torch_stays_in_functions, "fit/planted.py", "import torch"),
    (
        torch_stays_in_functions,
        "engines/gpu/fused.py",
        "from tinc_codec.engines.gpu import kernels",
    ),
    (torch_stays_in_functions, "engines/gpu/planted.py", "class A:\n    from triton import jit"),
    (stages_are_strangers, "stream/container.py", "from tinc_codec.stream.normalize import f"),
    (stages_are_strangers, "stream/normalize.py", "from . import container"),
    (stages_are_strangers, "stream/quantize.py", "from tinc_codec.stream import rescale"),
    (
        stages_are_strangers,
        "stream/residual/wavelets/wavelet.py",
        "from tinc_codec.stream import normalize",
    ),
    (
        stages_are_strangers,
        "stream/residual/wavelets/section.py",
        "def f():\n    import tinc_codec.stream.container",
    ),
    (
        coded_sections_are_strangers,
        "stream/residual/filters/postfilter.py",
        "def f():\n    from tinc_codec.stream.residual.wavelets import wavelet",
    ),
    (codec_apis_stay_at_the_rim, "decode.py", "from numcodecs.abc import Codec"),
    (codec_apis_stay_at_the_rim, "archive/planted.py", "from zarr.abc.codec import Codec"),
    (codec_apis_stay_at_the_rim, "encode.py", "def f():\n    import xarray"),
    (codec_apis_stay_at_the_rim, "metrics.py", "from tinc_codec import cli"),
    (codec_apis_stay_at_the_rim, "metrics.py", "import benchmarks.run"),
    (run_time_matters_are_not_stored, "settings.py", "from tinc_codec.runtime import Runtime"),
    (run_time_matters_are_not_stored, "stream/normalize.py", "import tinc_codec.runtime"),
    (parsing_knows_no_engine, "stream/container.py", "import_module('tinc_codec.engines.cpu')"),
    (small_modules_know_nobody, "decoding/selection.py", "import tinc_codec.runtime"),
]


@pytest.mark.parametrize(("rule", "where", "code"), PLANTED)
def test_the_rule_can_fail(rule: Callable[[Imports], Iterator[str]], where: str, code: str) -> None:
    planted = {**SOURCES, where: f"{SOURCES.get(where, '')}\n{code}\n"}
    before, after = (list(rule(read_imports(sources))) for sources in (SOURCES, planted))
    assert len(after) > len(before)


def test_types_only_imports_are_no_dependency() -> None:
    source = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import torch\n"
    assert list(torch_stays_in_functions(read_imports({"decode.py": source}))) == []


def run_python(code: str) -> str:
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return run.stdout


def test_importing_the_package_pulls_in_nothing_heavy() -> None:
    code = f"import sys, tinc_codec; print([m for m in {HEAVY} if m in sys.modules])"
    assert run_python(code).strip() == "[]"


def test_reading_needs_no_torch_and_no_archive_library() -> None:
    payload = bytes(TINC(**QUICK).encode(volume((16, 16, 16))))
    code = f"""
import sys
sys.modules.update(dict.fromkeys(("torch", "triton", "dask", "xarray", "typer", "rich")))
from tinc_codec import decode
print(decode(bytes.fromhex("{payload.hex()}"))[1:3, 4, ::5].shape)
"""
    assert run_python(code).strip() == "(2, 4)"


def test_stored_metadata_names_no_run_time_matter() -> None:
    run_time = {field.name for field in dataclasses.fields(Runtime)}
    run_time |= {"device", "threads", "batch", "batch_size", "engine"}
    assert run_time.isdisjoint(field.name for field in dataclasses.fields(Settings))
    assert run_time.isdisjoint(TINC().get_config())
