"""Exact nearest neighbors: matrix products propose candidates, the direct formula decides.

A product of matrices scores all pairs fast but inexactly. How far it may be off is known, so every pair that could
still belong to the answer is compared by the direct formula, and equally close ones by their index. What is returned is
therefore what sorting all pairs by the direct formula would give, whatever the sizes of blocks and the library that
multiplies.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from graphattn._optional import is_available, require
from graphattn.ops.inputs import without_autocast

METRICS = ("euclidean", "cosine", "dot")

# A block of scores that fits the cache; more than _BLOCK_COLS columns add nothing to the speed of a product.
_BLOCK_BYTES, _ACCELERATOR_BLOCK_BYTES, _BLOCK_COLS = 8 << 20, 256 << 20, 8192
# From this number of pairs on FAISS was the faster (by 1.1 to 1.8 times at 16 to 512 dimensions).
_FAISS_PAIRS = 1 << 28


class Found(NamedTuple):
    """Pairs of a target and a source with their closeness: targets ascending, the closest source first."""

    target: Tensor
    source: Tensor
    closeness: Tensor

    @classmethod
    def none(cls, like: Tensor) -> Found:
        nothing = torch.empty(0, dtype=torch.int64, device=like.device)
        return cls(nothing, nothing, like.new_empty(0))

    @classmethod
    def joined(cls, parts: list[Found], like: Tensor) -> Found:
        return cls(*(torch.cat(columns) for columns in zip(cls.none(like), *parts, strict=True)))

    def best(self, k: int | None) -> tuple[Found, Tensor]:
        """Sort, keep the ``k`` closest of each target, and tell the place of each in its row."""
        # Of equals, stable sorts keep the order they come in: by source.
        order = self.closeness.sort(descending=True, stable=True).indices
        order = order[self.target[order].sort(stable=True).indices]
        target = self.target[order]
        place = torch.arange(target.numel(), device=target.device) - torch.searchsorted(target, target)
        if k is not None:
            order, place = order[place < k], place[place < k]
        return Found(*(column[order] for column in self)), place


def unit(x: Tensor) -> Tensor:
    """Scale rows to length 1, whatever their size; zero rows stay zero."""
    size = x.detach().abs().amax(dim=1, keepdim=True)
    x = x / size.masked_fill(size == 0, 1.0)
    length = torch.linalg.vector_norm(x, dim=1, keepdim=True)
    return x / length.masked_fill(length == 0, 1.0)


def direct(metric: str, x: Tensor, y: Tensor) -> Tensor:
    """Distance or similarity along the last axis of points that are prepared, that is, unit vectors for the cosine."""
    return torch.linalg.vector_norm(x - y, dim=-1) if metric == "euclidean" else (x * y).sum(dim=-1)


def _narrowed(device: torch.device) -> bool:
    """Whether torch is allowed to multiply float32 matrices in TF32 or bfloat16."""
    backend = torch.backends.cuda if device.type == "cuda" else torch.backends.mkldnn
    return backend.matmul.fp32_precision in ("tf32", "bf16")


class Search:
    r"""Two sets of points under a metric: rough scores of all pairs, exact closeness of some.

    Closeness is the negative distance or the similarity. The rough score of a pair is its inner product, less half the
    squared length of the source if the metric is Euclidean: of one target, the largest is the closest then.

    Args:
        x: The targets, in float32 or float64, finite and without gradient; unit vectors for the cosine.
        y: The sources, likewise; ``None`` searches ``x`` itself, without the nodes themselves.
        metric: One of ``METRICS``.

    Shapes:
        - **input:** ``x`` :math:`(N, D)`, ``y`` :math:`(M, D)`
    """

    def __init__(self, x: Tensor, y: Tensor | None, metric: str) -> None:
        self.metric, self.alone = metric, y is None
        self.x, self.y = x, x if y is None else y
        # Distances do not depend on the origin; near the points, less cancels in the products.
        euclidean = metric == "euclidean" and self.y.size(0) > 0
        center = self.y.mean(dim=0) if euclidean else None
        self._q, self._z = (points if center is None else points - center for points in (self.x, self.y))
        if x.dtype == torch.float32 and _narrowed(x.device):
            self._q, self._z = self._q.double(), self._z.double()
        length, reach = (torch.linalg.vector_norm(points, dim=1) for points in (self._q, self._z))
        self._square = length.square() if euclidean else None
        self._half_square = reach.square() / 2 if euclidean else None
        # Twice the rounding errors of a product of D terms and of the direct formula, rounded up; and underflow.
        info, terms = torch.finfo(x.dtype), x.size(1) + 8
        farthest = reach.amax() if reach.numel() else reach.new_zeros(())
        size = (length + farthest).square() if euclidean else 2 * length * farthest
        self._slack = terms * (info.eps * size + info.tiny)
        if x.device.type == "cpu" and not bool(torch.isfinite(self._slack).all()):
            raise ValueError(f"x holds points too far away for {x.dtype}: their squares overflow; rescale them")

    @property
    def sizes(self) -> tuple[int, int]:
        return self.x.size(0), self.y.size(0)

    def closeness(self, target: Tensor, source: Tensor) -> Tensor:
        """Compare pairs by the direct formula, as many at a time as fit a block."""
        size = max(1, self._budget // (2 * self.x.size(1) * self.x.element_size()))
        # Small results between large temporaries would keep the allocator from using the same memory again.
        values = self.x.new_empty(target.numel())
        for part, i, j in zip(values.split(size), target.split(size), source.split(size), strict=True):
            part.copy_(direct(self.metric, self.x.index_select(0, i), self.y.index_select(0, j)))
        return -values if self.metric == "euclidean" else values

    def _rough(self, targets: Tensor, left: int, right: int) -> Tensor:
        q, z = self._q.index_select(0, targets), self._z[left:right]
        with without_autocast(q.device):
            if self._half_square is None:
                return q @ z.t()
            return torch.addmm(self._half_square[left:right], q, z.t(), beta=-1)

    def floor(self, targets: Tensor, closeness: Tensor | float) -> Tensor:
        """Return the lowest rough score that a pair of at least this closeness may have."""
        if self._square is not None:
            closeness = (self._square[targets] - closeness**2) / 2
        return closeness - self._slack[targets]

    @property
    def _budget(self) -> int:
        return _BLOCK_BYTES if self.x.device.type == "cpu" else _ACCELERATOR_BLOCK_BYTES

    def _blocks(self, targets: Tensor, k: int) -> Iterator[tuple[Tensor, range]]:
        # Wide enough that the k best of a row, and itself, are few beside the scores they are taken from.
        cols = max(1, min(self.sizes[1], max(_BLOCK_COLS, 16 * k)))
        for rows in targets.split(max(1, self._budget // (cols * self._q.element_size()))):
            yield rows, range(0, self.sizes[1], cols)

    def _above(self, targets: Tensor, rough: Tensor, floor: Tensor, left: int) -> Found:
        """Compare what lies above the floor by the direct formula."""
        row, col = (rough >= floor.unsqueeze(1)).nonzero(as_tuple=True)
        target, source = targets[row], col + left
        if self.alone:
            other = target != source
            target, source = target[other], source[other]
        return Found(target, source, self.closeness(target, source))

    def nearest(self, k: int, backend: str) -> Found:
        """Find the ``k`` closest sources of each target; there must be as many."""
        by_faiss = self._takes_faiss(backend)
        if k == 0:
            return Found.none(self.x)
        return self._propose(k) if by_faiss else self._scan(k, torch.arange(self.sizes[0], device=self.x.device))

    def _takes_faiss(self, backend: str) -> bool:
        serves = self.x.device.type == "cpu" and self.x.dtype == torch.float32
        if backend == "faiss" and not serves:
            raise ValueError(
                "backend is 'faiss', which compares float32 on the CPU, but the points are compared in "
                f"{self.x.dtype} on {self.x.device}; pass backend='torch'"
            )
        n, m = self.sizes
        large = serves and n * m >= _FAISS_PAIRS
        return backend == "faiss" or (backend == "auto" and large and is_available("faiss"))

    def _scan(self, k: int, targets: Tensor) -> Found:
        """Search for these targets, ascending, block by block."""
        parts = []
        for rows, lefts in self._blocks(targets, k):
            found = Found.none(self.x)
            for left in lefts:
                rough = self._rough(rows, left, left + lefts.step)
                if left == 0:
                    # A node's own score may be among the largest, too.
                    floor = rough.topk(k + self.alone, dim=1).values[:, -1] - self._slack[rows]
                new = self._above(rows, rough, floor, left)
                if new.target.numel():
                    found, place = Found.joined([found, new], self.x).best(k)
                    kth = place == k - 1
                    row = torch.searchsorted(rows, found.target[kth])
                    floor[row] = torch.maximum(floor[row], self.floor(rows[row], found.closeness[kth]))
            parts.append(found)
        return Found.joined(parts, self.x)

    def _propose(self, k: int) -> Found:
        """Let FAISS propose candidates; where they do not prove to be enough, search again."""
        faiss = require("faiss", "retrieval")
        n, m = self.sizes
        index = (faiss.IndexFlatIP if self._square is None else faiss.IndexFlatL2)(self.x.size(1))
        index.add(self._z.float().contiguous().numpy())
        width = min(m, k + self.alone + k // 2 + 8)
        parts = []
        for rows in torch.arange(n).split(max(1, self._budget // (width * 16))):
            query = self._q.index_select(0, rows).float().numpy()
            score, source = (torch.from_numpy(part) for part in index.search(query, width))
            last = score[:, -1] if self._square is None else (self._square[rows] - score[:, -1]) / 2
            source = source.sort(dim=1).values
            target = rows.unsqueeze(1).expand_as(source)
            other = target != source if self.alone else torch.ones_like(source, dtype=torch.bool)
            target, source = target[other], source[other]
            found, place = Found(target, source, self.closeness(target, source)).best(k)
            # What FAISS left out is no better, in its own rounding, than the last it returned.
            proven = (last < self.floor(rows, found.closeness[place == k - 1])) | (width == m)
            row = torch.searchsorted(rows, found.target)
            parts.append(Found(*(column[proven[row]] for column in found)))
            parts.append(self._scan(k, rows[~proven]))
        return Found.joined(parts, self.x).best(k)[0]

    def within(self, radius: float) -> Found:
        """Find all pairs that are at most this far apart."""
        targets = torch.arange(self.sizes[0], device=self.x.device)
        parts = []
        for rows, lefts in self._blocks(targets, 1):
            floor = self.floor(rows, -radius)
            near = [self._above(rows, self._rough(rows, left, left + lefts.step), floor, left) for left in lefts]
            near = [Found(*(column[part.closeness >= -radius] for column in part)) for part in near]
            parts.append(Found.joined(near, self.x).best(None)[0])
        return Found.joined(parts, self.x)
