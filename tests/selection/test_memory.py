"""Peak memory of large selections, each measured in a process of its own."""

from __future__ import annotations

import subprocess
import sys

import pytest

MEASURE = """
import resource
import numpy as np
from graphattn.selection import ECFS, ILFS, InfFS, InfFSSupervised

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

rng = np.random.default_rng(0)
small, y = rng.normal(size=(20, 30)) * np.arange(1, 31), np.arange(20) % 2
for selector in (InfFS(), InfFS(store="blocked"), InfFSSupervised(), ILFS(), ECFS()):
    selector.fit(small, y)
X = rng.normal(size=({samples}, {features}))
X *= rng.uniform(1, 2, size={features})
y = np.arange({samples}) % 2
before = peak()
selector = {selector}.fit(X, y)
assert np.isfinite(selector.scores_).all()
print(peak() - before)
"""


def extra_mebibytes(selector: str, samples: int, features: int) -> float:
    code = MEASURE.format(selector=selector, samples=samples, features=features)
    run = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    return float(run.stdout)


def test_blocked_correlations_take_the_memory_of_the_data() -> None:
    # The matrix would take 137 MiB in float32, the data take 1 MiB.
    assert extra_mebibytes("InfFS(store='blocked')", 20, 6000) < 60


@pytest.mark.slow
def test_fifty_thousand_features_stay_within_the_budget() -> None:
    # The matrix would take 9.3 GiB in float32.
    assert extra_mebibytes("InfFS()", 20, 50_000) < 300


@pytest.mark.slow
@pytest.mark.parametrize(
    "selector", ["InfFSSupervised()", "InfFSSupervised(formula='2015')", "ILFS(max_iter=20)", "ECFS()"]
)
def test_a_million_features_of_structured_methods(selector: str) -> None:
    # A single row of blocks of 1,000 features would take 3.7 GiB; the data take 61 MiB.
    assert extra_mebibytes(selector, 8, 1_000_000) < 1200
