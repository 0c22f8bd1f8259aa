"""Time one step, and measure its peak memory. Needs torch alone: the DGL worker imports it in another interpreter."""

from __future__ import annotations

import gc
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor


class Runner:
    """One candidate, ready to run.

    Args:
        run: The forward pass.
        leaves: Tensors whose gradients are compared with the oracle's.
        parameters: Further tensors that get gradients.
        cotangent: Gradient of the output that the backward pass starts from. Without one, :meth:`train` is a whole
            optimizer step: mean-square loss, backward, SGD.
    """

    def __init__(
        self,
        run: Callable[[], Tensor],
        leaves: Mapping[str, Tensor],
        parameters: Iterable[Tensor] = (),
        cotangent: Tensor | None = None,
    ) -> None:
        self._run = run
        self._leaves = {name: leaf for name, leaf in leaves.items() if leaf.requires_grad}
        self._parameters = list(parameters)
        self._cotangent = cotangent
        self._optimizer = torch.optim.SGD(self._parameters, lr=1e-3) if cotangent is None else None

    def forward(self, calls: int = 1) -> float:
        """Run forward without autograd; return the median seconds of a call."""
        with torch.no_grad():
            return statistics.median(_seconds(self._run) for _ in range(calls))

    def train(self, calls: int = 1) -> float:
        """Run forward and backward; return the median seconds of a call."""
        seconds = []
        for _ in range(calls):
            self._clear()
            seconds.append(_seconds(self._step))
        return statistics.median(seconds)

    def results(self) -> dict[str, Tensor]:
        """Return the output and the gradients of the leaves."""
        self._clear()
        out = self._step()
        return {"output": out, **{f"gradient of {name}": leaf.grad for name, leaf in self._leaves.items()}}

    def peak(self) -> int:
        """Return the bytes that a training step adds to the peak of this process."""
        self._clear()
        return peak_extra(self._step)

    def _step(self) -> Tensor:
        out = self._run()
        if self._optimizer is None:
            out.backward(self._cotangent)
        else:
            out.square().mean().backward()
            self._optimizer.step()
        return out.detach()

    def _clear(self) -> None:
        for tensor in (*self._leaves.values(), *self._parameters):
            tensor.grad = None


def _seconds(step: Callable[[], object]) -> float:
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def peak_extra(step: Callable[[], object]) -> int:
    """Return by how many bytes ``step`` raises the high-water mark of this process; meaningful in a fresh one only.

    Linux can lower the mark to what is resident now, so that a peak while the inputs were made does not hide the
    step's own. Elsewhere the mark stays as it was.
    """
    gc.collect()
    _reset_high_water()
    before = _high_water()
    step()
    return _high_water() - before


def _reset_high_water() -> None:
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def _high_water() -> int:
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        lines = []
    for line in lines:
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
