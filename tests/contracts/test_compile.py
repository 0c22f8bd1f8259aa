"""``torch.compile(fullgraph=True, dynamic=True)``, forward and backward: eager's numbers, one graph for all sizes."""

from __future__ import annotations

import pytest
import torch

from tests.contracts.cases import CASES, run

SIZES = [(8, 11), (5, 17), (13, 30)]  # nodes and edges; two sizes may compile, and no further one
EXCEPTIONS = {
    "heat": "the number of its terms follows from a bound of the norm, a value",
    "pattern": "its pairs are found on the host; an AttentionConv over pairs that were found before compiles",
}
# One of each kind of computation; all the others are marked slow.
QUICK = {
    "conv-dot",
    "conv-gat",
    "conv-gatv2",
    "conv-all-hops",
    "temporal-conv",
    "diffusion-ppr",
    "rerank-conv",
    "softmax",
    "primal",
    "linear-infsa",
    "cooccurrence",
    "virtual-node",
    "signnet-gin",
    "rotary",
    "time-mercer",
    "attention-net",
    "contextual-encoder",
    "npt",
    "event-sequences",
    "expand-query",
}


def test_the_quick_ones_exist() -> None:
    assert QUICK | set(EXCEPTIONS) <= set(CASES)


@pytest.mark.usefixtures("reset_dynamo")
@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow) for name in CASES if name not in EXCEPTIONS],
)
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


@pytest.mark.usefixtures("reset_dynamo")
@pytest.mark.parametrize("name", EXCEPTIONS)
def test_the_exceptions_do_not_compile(name: str) -> None:
    """Or they are none any more."""
    case = CASES[name]
    compiled = torch.compile(case.build(), fullgraph=True, dynamic=True, backend="aot_eager")
    with pytest.raises((torch._dynamo.exc.Unsupported, torch._dynamo.exc.UserError)):
        compiled(**case.draw(*SIZES[0]))
