"""Fixtures that every test shares, and how many processes share the tests, if there are several.

Seeds are fixed. One process leaves torch's thread count as the machine set it; several divide the cores among them.
"""

from __future__ import annotations

import gc
import os
import random
from collections.abc import Iterator

# OpenMP threads that spin while they wait for a core that another process holds made small kernels a hundred times
# slower on a busy machine. It is read when torch loads its OpenMP library, so it stands before that import.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# torch's cache of compiled graphs raises KeyError on some graphs with dynamic sizes (pytorch/pytorch#127970), and what
# it holds depends on what ran on the machine before.
os.environ.setdefault("TORCHINDUCTOR_FX_GRAPH_CACHE", "0")

import numpy as np
import psutil
import pytest
import torch

_WORKER_BYTES = 3 * 2**30  # what a worker holds at most, with the processes that its tests start
_MAX_WORKERS = 16  # more would spend longer on importing and collecting than on their share of the tests


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--seed", type=int, default=0, help="seed of every random generator, reset before each test")


def pytest_configure(config: pytest.Config) -> None:
    # torch-scatter still scripts its functions when it is imported, which neither we nor our users can change.
    config.addinivalue_line(
        "filterwarnings",
        "ignore:`torch.jit.script` is deprecated. Please switch to `torch.compile` or `torch.export`.:FutureWarning",
    )


def pytest_collection_finish() -> None:
    """Let garbage collection pass over the modules and tests, millions of objects that are there to the end."""
    gc.collect()
    gc.freeze()


# Nobody asks for what follows where pytest-xdist is not installed.


def _cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int | None:
    """Return what ``-n auto`` means: a worker for each core, as far as the free memory goes."""
    if "PYTEST_XDIST_AUTO_NUM_WORKERS" in os.environ:
        return None  # pytest-xdist reads it
    return max(1, min(_cores(), psutil.virtual_memory().available // _WORKER_BYTES, _MAX_WORKERS))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_setupnodes(specs: list[object]) -> None:
    """Divide the cores among the workers, which are started with the environment of this process."""
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, _cores() // len(specs))))


@pytest.fixture(autouse=True)
def seed(request: pytest.FixtureRequest) -> int:
    """Seed every generator; pytest shows the printed line only when the test fails."""
    value: int = request.config.getoption("--seed")
    print(f"seed = {value} (repeat with --seed {value})")
    random.seed(value)
    np.random.seed(value)
    torch.manual_seed(value)
    return value


@pytest.fixture
def reset_dynamo() -> Iterator[None]:
    """Start and leave with empty compile caches, so that tests do not count each other's recompilations."""
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.fixture(autouse=True)
def large_graph_paths(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the small graphs of the tests take the paths of large ones; ``small_graphs`` marks what tests the others."""
    if request.node.get_closest_marker("small_graphs") is None:
        monkeypatch.setattr("graphattn.ops.attention._SMALL", -1)
        monkeypatch.setattr("graphattn.ops.blocks._KEPT_BYTES", -1)
