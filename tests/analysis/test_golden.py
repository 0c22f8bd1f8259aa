"""What every measure says of the packaged model, compared with what it said before.

Run ``python -m tests.analysis.test_golden`` to record anew, after a change that is meant to change the numbers.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from graphattn.analysis import capture, head_roles, head_similarity, load_probe_model, query_key_symmetry
from tests.analysis.measures import MEASURES, numbers

RECORDED = Path(__file__).with_name("golden.json")
IDS = [0, 7, 21, 14, 3, 7, 21, 14, 3]  # a start and two copies
TOLERANCE = dict.fromkeys(MEASURES, 1e-6) | {"flow": 1e-5}  # as its capacities are rounded to 2 ** -20
ELSEWHERE = "communities"  # whose search is another library's, with random draws


def measured() -> dict[str, Any]:
    """Return the result of each measure."""
    model = load_probe_model().double()
    captured = capture(model, torch.tensor([IDS]))
    maps = captured.maps(causal=True)
    results = {name: measure(maps) for name, measure in MEASURES.items() if name != ELSEWHERE}
    outputs = [layer.head_outputs[0] for layer in captured.layers if layer.head_outputs is not None]
    weights = [(layer.query_weight, layer.key_weight) for layer in captured.layers]
    return results | {
        "head_roles": head_roles(maps, IDS),
        "head_similarity": head_similarity(outputs, maps, ids=IDS, separators=[0], quantile=0.8),
        "query_key_symmetry": query_key_symmetry(weights, heads=model.heads, per_head=True),
    }


def listed() -> dict[str, dict[str, list[Any]]]:
    """Return the numbers of each result, NaN as null, in the digits that are compared."""
    return {
        name: {
            field: [None if value != value else round(float(value), 9) for value in values.ravel()]
            for field, values in numbers(result)
        }
        for name, result in measured().items()
    }


@pytest.fixture(scope="module")
def found() -> dict[str, dict[str, list[Any]]]:
    return listed()


@pytest.mark.parametrize("name", [*sorted(set(MEASURES) - {ELSEWHERE}), "query_key_symmetry"])
def test_numbers_are_those_that_were_recorded(name: str, found: dict[str, dict[str, list[Any]]]) -> None:
    recorded = json.loads(RECORDED.read_text())
    assert recorded.keys() == found.keys()
    assert found[name].keys() == recorded[name].keys()
    for field, values in recorded[name].items():
        one, other = (np.array(given, dtype=np.float64) for given in (found[name][field], values))  # null becomes NaN
        assert_allclose(one, other, rtol=0, atol=TOLERANCE.get(name, 1e-6), err_msg=field)


def test_the_second_layer_has_an_induction_head() -> None:
    assert max(measured()["head_roles"].excess["induction"]) > 0.5


if __name__ == "__main__":
    lines = [f" {json.dumps(name)}: {json.dumps(values)}" for name, values in listed().items()]
    RECORDED.write_text("{\n" + ",\n".join(lines) + "\n}\n")
