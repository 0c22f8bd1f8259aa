"""How many queries are re-ranked at a time."""

from __future__ import annotations

import math
from pathlib import Path

import torch

from graphattn.retrieval import Reranker

# Larger batches are no faster, on a CPU because they leave its caches.
_ENOUGH, _ENOUGH_ON_ACCELERATOR = 1 << 26, 1 << 29
_SHARE = 8
_MEMINFO, _LIMIT, _USED = (
    Path(name) for name in ("/proc/meminfo", "/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current")
)


def choose_batch_size(
    reranker: Reranker, queries: int, longest: int, width: int, device: torch.device, workers: int
) -> int:
    """Find how many queries need no more than an eighth of the free memory, nor more than is of use.

    Args:
        reranker: The method.
        queries: How many queries stand in one part.
        longest: Length of the longest list.
        width: Width of the vectors.
        device: Where the work is done.
        workers: How many share the memory.
    """
    nodes = 1 + (longest if reranker.top_k is None else min(reranker.top_k, longest))
    if reranker.transductive and reranker.scope == "candidates":
        nodes += queries
    enough = _ENOUGH if device.type == "cpu" else _ENOUGH_ON_ACCELERATOR
    memory = min(enough, free_memory(device) / _SHARE / workers)
    return max(1, min(queries, int(memory // reranker._bytes_per_query(nodes, width))))


def free_memory(device: torch.device) -> float:
    """Return the bytes that nobody uses; infinity if the system does not tell."""
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0])
    free = math.inf
    if _MEMINFO.exists():
        fields = dict(line.split(":", 1) for line in _MEMINFO.read_text().splitlines())
        free = 1024.0 * int(fields["MemAvailable"].split()[0])
    if _LIMIT.exists() and (limit := _LIMIT.read_text().strip()) != "max":
        free = min(free, float(int(limit) - int(_USED.read_text())))
    return free
