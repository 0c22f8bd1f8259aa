"""The floors of the house, read from the imports: an import never goes up."""

from __future__ import annotations

import ast
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "graphattn"

_CORE = ("ops", "affinity", "diffusion", "nn")
_NETWORKS = (*_CORE, "engine", "models")
# What each room may import besides itself and what stands in no room (_files, _names, _optional).
FLOORS: dict[str, tuple[str, ...]] = {
    "ops": (),
    "affinity": ("ops",),
    "diffusion": ("ops", "affinity"),
    "nn": ("ops", "affinity", "diffusion"),
    "transforms": _CORE,
    "engine": _CORE,
    "models": _CORE,
    "retrieval": _NETWORKS,
    "selection": _NETWORKS,
    "tabular": _NETWORKS,
    "analysis": _NETWORKS,
    "datasets": (*_NETWORKS, "transforms"),
    "training": (*_NETWORKS, "transforms", "datasets"),
}
FLOORS["cli"] = tuple(FLOORS)
FLOORS["__main__"] = ("cli",)
ATTIC = ("cli", "__main__")  # they may also import the names that graphattn itself gathers
FOUNDATION = {"_files", "_names", "_optional"}
BACKENDS = {"reference", "csr", "scatter", "triton"}
TOP_LEVEL = {
    "pyproject.toml",
    "graphattn",
    "benchmarks",
    "tests",
    "notebooks",
    "README.md",
    "CHANGELOG.md",
    "LICENSE",
    ".ci",
    ".gitignore",
}
MODULES = sorted(PACKAGE.rglob("*.py"))


def _name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


NAMES = {_name(path) for path in MODULES}


def _imports(path: Path) -> Iterator[str]:
    """Full names of the modules of graphattn that a module imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] == "graphattn")
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively; the house writes full names"
            if node.module and node.module.split(".")[0] == "graphattn":
                for alias in node.names:
                    inner = f"{node.module}.{alias.name}"
                    yield inner if inner in NAMES else node.module


def _room(module: str) -> str | None:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else None


@pytest.mark.parametrize("path", MODULES, ids=_name)
def test_an_import_never_goes_up(path: Path) -> None:
    room = _room(_name(path))
    if room is None:
        pytest.skip("graphattn itself gathers names from every floor")
    assert room in FLOORS or room in FOUNDATION, f"{room} is a new room; give it a floor here and in the design"
    allowed = FOUNDATION if room in FOUNDATION else {room, *FLOORS[room], *FOUNDATION}
    for imported in _imports(path):
        if imported == "graphattn" and room in ATTIC:
            continue
        assert _room(imported) in allowed, f"{_name(path)} imports {imported}, which is not below it"


def test_the_imports_are_read() -> None:
    """The test above sees the imports it is about, those inside functions and behind TYPE_CHECKING included."""
    found = {_name(path): set(_imports(path)) for path in MODULES}
    assert "graphattn.ops.attention" in found["graphattn.nn.attention_conv"]
    assert {"graphattn.affinity.convert", "graphattn.affinity.dense"} <= found["graphattn.affinity.affinity"]
    assert any("graphattn.ops" in imports for imports in found.values())


@pytest.mark.parametrize("backend", sorted(BACKENDS))
def test_backends_do_not_import_one_another(backend: str) -> None:
    home = f"graphattn.ops.{backend}"
    assert home in NAMES
    imported = {name for path in MODULES if f"{_name(path)}.".startswith(f"{home}.") for name in _imports(path)}
    for other in BACKENDS - {backend}:
        assert not [name for name in imported if f"{name}.".startswith(f"graphattn.ops.{other}.")]


def test_top_level_entries() -> None:
    git = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if git.returncode != 0 or not git.stdout:
        pytest.skip("this is not a git checkout")
    tracked = {name.split("/")[0] for name in git.stdout.splitlines()}
    assert not tracked - TOP_LEVEL, "a new top-level entry: the root holds what a reader of the repository expects"
    missing = sorted(TOP_LEVEL - tracked)
    if missing:
        pytest.skip(f"not tracked yet: {', '.join(missing)}")
