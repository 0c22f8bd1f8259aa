"""Everything public on a CUDA device, where there is one: the same numbers, no waiting, and replayed CUDA graphs."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.contracts.cases import CASES, cast, floats, run
from tests.contracts.host_work import HOST_WORK
from tests.contracts.rounding import EXCEPTIONS, assert_within_rounding
from tests.contracts.test_device import COPIES, READS

if not torch.cuda.is_available():
    pytest.skip("there is no CUDA device", allow_module_level=True)
pytestmark = [
    pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype:UserWarning"),
    pytest.mark.filterwarnings("ignore:TensorFloat32 tensor cores for float32 matrix multiplication:UserWarning"),
    # The first backward pass of a process runs in a thread of its own.
    pytest.mark.filterwarnings("ignore:Attempting to run cuBLAS, but there was no current CUDA context:UserWarning"),
]

DEVICE = torch.device("cuda")
NODES, EDGES = 30, 200
# What crosses between the device and the host is listed with its reason in test_device.py.
_STAY = [name for name in CASES if name not in READS and name not in COPIES]


def _move(x: Any) -> Any:
    if isinstance(x, nn.Module):
        return copy.deepcopy(x).to(DEVICE)
    return x.to(DEVICE) if isinstance(x, Tensor) else x


def _moved(inputs: dict[str, Any]) -> dict[str, Any]:
    return {key: _move(value) for key, value in inputs.items()}


@pytest.mark.parametrize("mode", [torch.float32, torch.bfloat16, torch.float16, "autocast"], ids=str)
@pytest.mark.parametrize("name", [name for name in CASES if name not in EXCEPTIONS])
def test_within_budget(name: str, mode: Any) -> None:
    """Outputs and all gradients are what the host computes in float64, up to rounding every step."""
    assert_within_rounding(name, mode, "cuda")


@pytest.mark.parametrize("name", list(HOST_WORK))
def test_work_with_the_host_gives_the_same_numbers(name: str, seed: int) -> None:
    expected = HOST_WORK[name].call(lambda x: x)
    torch.manual_seed(seed)
    torch.testing.assert_close(HOST_WORK[name].call(_move).cpu(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", _STAY)
def test_the_host_does_not_wait(name: str) -> None:
    """A call that reads nothing back queues its work and returns."""
    module, inputs = CASES[name].build().float().to(DEVICE), _moved(cast(CASES[name].draw(NODES, EDGES), torch.float32))
    module(**inputs)
    torch.cuda.synchronize()
    try:
        torch.cuda.set_sync_debug_mode("error")
        module(**inputs)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("name", _STAY)
def test_a_captured_graph_is_replayed_on_other_inputs(name: str) -> None:
    """What is captured on the edges of one call computes, on other features, what a call does."""
    module = CASES[name].build().float().to(DEVICE)
    first, second = (_moved(cast(CASES[name].draw(NODES, EDGES), torch.float32)) for _ in range(2))
    second = {key: value if _is_float(value) else first[key] for key, value in second.items()}
    held = {key: value.clone() if _is_float(value) else value for key, value in first.items()}
    with torch.no_grad():
        expected = floats(module(**second))
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            module(**held)  # compiles, and keeps the sorted views of the edges
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            outs = floats(module(**held))
        for key, value in second.items():
            if _is_float(value):
                held[key].copy_(value)
        graph.replay()
    for found, value in zip(outs, expected, strict=True):
        torch.testing.assert_close(found, value, rtol=1e-5, atol=1e-5)


def _is_float(x: Any) -> bool:
    return isinstance(x, Tensor) and x.is_floating_point()


@pytest.mark.parametrize("name", [name for name in CASES if not name.startswith("peer-")])
def test_the_same_bits_twice(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Forward and backward, in torch's deterministic mode, which raises where an operation has none."""
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    module, inputs = CASES[name].build().float().to(DEVICE), _moved(cast(CASES[name].draw(NODES, EDGES), torch.float32))
    torch.use_deterministic_algorithms(True)
    try:
        first, second = run(module, inputs), run(module, inputs)
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.usefixtures("reset_dynamo")
@pytest.mark.parametrize(
    "name", ["conv-dot", "conv-gat", "conv-gatv2", "conv-hops", "diffusion-ppr", "softmax", "attention-net"]
)
def test_compiled_by_inductor(name: str) -> None:
    """Forward and backward of one graph, compiled for the device, and for graphs of other sizes."""
    module = CASES[name].build().float().to(DEVICE)
    compiled = torch.compile(module, fullgraph=True, dynamic=True)
    for nodes, edges in ((NODES, EDGES), (17, 91), (40, 333)):
        inputs = _moved(cast(CASES[name].draw(nodes, edges), torch.float32))
        found, expected = run(compiled, inputs), run(module, inputs)
        assert found.keys() == expected.keys()
        for key in expected:
            torch.testing.assert_close(found[key], expected[key], rtol=1e-4, atol=1e-4)
