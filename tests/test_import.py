"""What ``import graphattn`` does, and what it must not do."""

from __future__ import annotations

import doctest
import importlib
import inspect
import pkgutil
import subprocess
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest

import graphattn

# A fresh process that refuses every optional package, remembers who asked for it, and listens for sockets and threads.
_SCRIPT = """
import importlib.abc, os, sys, warnings

OPTIONAL = {
    "torch_scatter", "torch_sparse", "torch_cluster", "torch_spline_conv", "pyg_lib", "faiss", "ogb", "pandas",
    "matplotlib", "ray", "lightning", "lightning_fabric", "jsonargparse", "dgl", "transformers", "ranx", "ot",
    "causallearn", "skimage", "cv2", "mahotas", "pytest", "cupy", "jax", "pytrec_eval", "rerankers", "langchain_core",
    "sentence_transformers", "pytorch_metric_learning", "pyarrow", "rdkit",
}
asked, events = [], []

class Refuse(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in OPTIONAL:
            frame = sys._getframe(1)
            while frame and "importlib" in frame.f_code.co_filename:
                frame = frame.f_back
            asked.append((name, frame.f_code.co_filename if frame else ""))
            raise ImportError(f"{name} is refused")
        return None

sys.addaudithook(lambda event, args: events.append(event) if event.startswith(("socket.", "_thread.start")) else None)
import numpy, scipy.sparse, scipy.sparse.linalg, scipy.sparse.csgraph, networkx, torch
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import torch_geometric.nn, torch_geometric.edge_index, torch_geometric.data
for name in list(sys.modules):  # PyG imports what it finds; graphattn must ask for itself
    if name.split(".")[0] in OPTIONAL:
        del sys.modules[name]
sys.meta_path.insert(0, Refuse())
theirs = len(events)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    import graphattn
assert not caught, [str(w.message) for w in caught]
assert events[theirs:] == [], events[theirs:]
home = os.path.dirname(graphattn.__file__)
assert not [a for a in asked if a[1].startswith(home)], asked
assert not OPTIONAL & {name.split(".")[0] for name in sys.modules}

x, edge_index = torch.randn(3, 16), torch.tensor([[0, 1, 2], [1, 1, 0]])
out = graphattn.AttentionConv(16, 8, heads=4)(x, edge_index)
assert out.shape == (3, 32)
try:
    graphattn.edge_attention(*[torch.randn(3, 1, 2)] * 3, edge_index, backend="scatter")
except ImportError as error:
    assert "pip install 'graphattn[scatter]'" in str(error), error
else:
    raise AssertionError("torch_scatter was refused but used")
"""


def test_import_is_quiet_and_needs_nothing_optional() -> None:
    done = subprocess.run([sys.executable, "-c", _SCRIPT], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert done.stderr == ""


def test_import_with_everything_installed_prints_nothing_of_ours() -> None:
    code = (
        "import sys, warnings, torch\n"
        "with warnings.catch_warnings():\n"
        "    warnings.simplefilter('ignore')\n"
        "    import torch_geometric.nn\n"
        "warnings.simplefilter('error')\n"
        "import graphattn\n"
        "assert not {'graphattn.training', 'graphattn.models'} & sys.modules.keys()"  # loaded when they are asked for
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def _modules() -> Iterator[ModuleType]:
    yield graphattn
    for info in pkgutil.walk_packages(graphattn.__path__, "graphattn."):
        if info.name.endswith("__main__"):  # importing it runs the command line
            continue
        yield importlib.import_module(info.name)


MODULES = list(_modules())
PUBLIC = {
    f"{module.__name__}.{name}": getattr(module, name) for module in MODULES for name in getattr(module, "__all__", ())
}
_DOCUMENTED = {name: obj for name, obj in PUBLIC.items() if inspect.isclass(obj) or inspect.isfunction(obj)}


@pytest.mark.parametrize("name", _DOCUMENTED)
def test_public_names_are_documented(name: str) -> None:
    obj = _DOCUMENTED[name]
    assert obj.__doc__, f"{name} has no docstring"
    if not inspect.isabstract(obj):
        assert "Example:" in obj.__doc__, f"{name} has no Example"
        assert ">>>" in obj.__doc__, f"{name} has an Example without code"


def test_all_names_exist_once() -> None:
    for module in MODULES:
        names = list(getattr(module, "__all__", ()))
        assert len(names) == len(set(names)), module.__name__
        assert all(hasattr(module, name) for name in names), module.__name__


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_examples_run(module: ModuleType) -> None:
    import torch

    globs: dict[str, Any] = {**vars(module), "torch": torch}
    assert doctest.testmod(module, extraglobs=globs).failed == 0
