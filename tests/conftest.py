"""Fixtures that every test shares. Seeds are fixed; torch's thread count is left as the machine set it."""

from __future__ import annotations

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
import pytest
import torch


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--seed", type=int, default=0, help="seed of every random generator, reset before each test")


def pytest_configure(config: pytest.Config) -> None:
    # torch-scatter still scripts its functions when it is imported, which neither we nor our users can change.
    config.addinivalue_line(
        "filterwarnings",
        "ignore:`torch.jit.script` is deprecated. Please switch to `torch.compile` or `torch.export`.:FutureWarning",
    )


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
