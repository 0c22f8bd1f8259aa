"""Processor time and peak memory of a training step of every attention by number of nodes."""

from __future__ import annotations

import ctypes
import functools
import importlib
import resource
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _measure import Runner
from _results import fresh_process, recording_failure, summary
from torch import Tensor, nn

from graphattn.affinity import SparseAffinity, expander, global_nodes, random_blocks, union, window
from graphattn.nn import AttentionConv
from graphattn.nn.global_attention import make_attention

CHANNELS, HEADS = 64, 4
SIZES = (256, 1024, 4096, 16_384, 65_536)
QUICK_SIZES = (32, 64)
FIT_FROM = 4096  # nodes, from which on the exponents are fitted
TIME_LIMIT = 100.0  # seconds of a fresh process
MEMORY_LIMIT = 8.0  # GiB that a process may add to what it has mapped at its start
ONCE_SECONDS = 3.0  # a step that takes longer is not timed again

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # as in malloc.h
PATTERNS = ("window", "expander", "bigbird")

Make = Callable[[int], tuple[nn.Module, Callable[[Tensor], Tensor]]]  # a module for so many nodes, and how to call it


def _ours(name: str, **options: Any) -> Make:
    def make(num_nodes: int) -> tuple[nn.Module, Callable[[Tensor], Tensor]]:
        module = make_attention(name, CHANNELS, HEADS, **options)
        return module, module

    return make


def _along(pattern: Callable[[int], SparseAffinity]) -> Make:
    def make(num_nodes: int) -> tuple[nn.Module, Callable[[Tensor], Tensor]]:
        conv = AttentionConv(CHANNELS, CHANNELS // HEADS, HEADS, root_weight=False)
        edges = pattern(num_nodes)
        return conv, lambda x: conv(x, edges)

    return make


def _library(module: str, name: str, **options: Any) -> Make:
    def make(num_nodes: int) -> tuple[nn.Module, Callable[[Tensor], Tensor]]:
        attention = getattr(importlib.import_module(module), name)(CHANNELS, heads=HEADS, **options)
        return attention, lambda x: attention(x.unsqueeze(0)).squeeze(0)

    return make


def _multihead(num_nodes: int) -> tuple[nn.Module, Callable[[Tensor], Tensor]]:
    attention = nn.MultiheadAttention(CHANNELS, HEADS, batch_first=True)
    return attention, lambda x: attention(x, x, x, need_weights=False)[0]


def _seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def bigbird(num_nodes: int) -> SparseAffinity:
    """Window, one global node and three random sources."""
    random = random_blocks(num_nodes, 3, generator=_seeded())
    return union(window(num_nodes, 16), global_nodes(num_nodes, [0]), random)


CANDIDATES: Mapping[str, Make] = {
    "softmax": _ours("softmax"),
    "linear": _ours("linear"),
    "performer": _ours("performer"),
    "nystrom": _ours("nystrom", num_landmarks=64),
    "primal": _ours("primal"),
    "infsa": _ours("infsa"),
    "linear_infsa": _ours("linear_infsa"),
    "window": _along(functools.partial(window, width=16)),
    "expander": _along(lambda n: expander(n, 5, generator=_seeded())),
    "bigbird": _along(bigbird),
    "torch MultiheadAttention": _multihead,
    "PyG PerformerAttention": _library("torch_geometric.nn.attention", "PerformerAttention", head_channels=16),
    "performer-pytorch": _library("performer_pytorch", "SelfAttention", dim_head=16),
    "nystrom-attention": _library("nystrom_attention", "NystromAttention", dim_head=16, num_landmarks=64),
    "linear-attention-transformer": _library(
        "linear_attention_transformer.linear_attention_transformer", "SelfAttention"
    ),
}


def measure(name: str, num_nodes: int, repeats: int, threads: int, quick: bool) -> dict[str, Any]:
    """Time and weigh one attention at one size; what fails or takes too long says so."""
    record: dict[str, Any] = {"status": "ok"}
    with recording_failure(record):
        spec = {"name": name, "nodes": num_nodes, "repeats": repeats, "threads": threads, "weigh": not quick}
        # Memory is weighed in a fresh process only.
        record |= step(spec) if quick else fresh_process("attention_family.py", spec, TIME_LIMIT)
    return record


def step(spec: dict[str, Any]) -> dict[str, Any]:
    """Run forward and backward."""
    make, nodes = CANDIDATES[spec["name"]], spec["nodes"]
    _runner(make, SIZES[0]).train()  # what a first call sets up is no part of the step
    start = time.perf_counter()
    runner = _runner(make, nodes)
    built = time.perf_counter() - start
    peak = 0
    if spec["weigh"]:
        peak = runner.peak()
        keep_memory()
    seconds = [_processor_seconds(runner)]
    if seconds[0] < ONCE_SECONDS:
        calls = max(1, min(20, int(0.1 / seconds[0])))
        seconds = [_processor_seconds(runner, calls) for _ in range(spec["repeats"])]
    return {"peak_extra_bytes": peak, "training": summary(seconds), "build_seconds": built}


def limit_memory() -> None:
    """Let this process map so much more and no more: a step that is too large fails, and nothing else does."""
    mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    limit = mapped + int(MEMORY_LIMIT * 2**30)
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.getrlimit(resource.RLIMIT_AS)[1]))


def _processor_seconds(runner: Runner, calls: int = 1) -> float:
    """Return the mean processor time of a step, which waiting for other work on the machine is no part of."""
    start = time.process_time()
    runner.train(calls)
    return (time.process_time() - start) / calls


def keep_memory() -> None:
    """Let this process keep what it frees, as training would with an allocator that caches.

    The C library returns every block above 32 MiB instead, and faulting its pages in again takes longer than many a
    step: times would grow faster than the work where the tensors outgrow that size.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:  # it is glibc's
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def _runner(make: Make, num_nodes: int) -> Runner:
    torch.manual_seed(0)
    module, run = make(num_nodes)
    x = torch.randn(num_nodes, CHANNELS, requires_grad=True)
    return Runner(lambda: run(x), {"x": x}, module.parameters(), torch.randn(num_nodes, CHANNELS))


def exponents(records: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """Fit time and memory by powers of the number of nodes, in logarithms, from ``FIT_FROM`` nodes on."""
    done = {int(n): r for n, r in records.items() if r["status"] == "ok" and int(n) >= FIT_FROM}
    if len(done) < 2:
        return {}
    nodes = np.log(list(done))
    measured = {
        "time": [record["training"]["median"] for record in done.values()],
        "memory": [record["peak_extra_bytes"] for record in done.values()],
    }
    fitted = {key: float(np.polyfit(nodes, np.log(values), 1)[0]) for key, values in measured.items()}
    return {**fitted, "from": min(done), "to": max(done)}
