"""``torch.compile(fullgraph=True, dynamic=True)``, forward and backward: eager's numbers, and one graph for all sizes."""

from __future__ import annotations

import pytest
import torch

from tests.contracts.cases import CASES, run

SIZES = [(8, 11), (5, 17), (13, 30)]  # nodes and edges; two sizes may compile, and no further one


@pytest.mark.usefixtures("reset_dynamo")
@pytest.mark.parametrize("name", list(CASES))
def test_compiled_equals_eager(name: str) -> None:
    case = CASES[name]
    module = case.build()
    compiled = torch.compile(module, fullgraph=True, dynamic=True, backend="aot_eager")
    for step, size in enumerate(SIZES):
        inputs = case.draw(*size)
        with torch._dynamo.config.patch(error_on_recompile=step >= 2):
            found = run(compiled, inputs)
        expected = run(module, inputs)
        assert found.keys() == expected.keys()
        for key in expected:
            torch.testing.assert_close(found[key], expected[key], msg=lambda m, key=key: f"{key}: {m}")
