"""What the learned re-ranker is trained on: descriptors with labels, and lists in which the positives are known."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from graphattn.affinity._vectors import Vectors

Array = Tensor | np.ndarray


@dataclass(frozen=True, eq=False)
class KnownLists:
    """The nearest items of some queries, and which of them are relevant.

    Args:
        queries: Vectors ``[Q, D]``.
        items: Vectors ``[N, D]``.
        ids: Items of each list ``[Q, K]``, best first.
        positive: Which of them are relevant ``[Q, K]``.
        num_relevant: Relevant items of each query ``[Q]``, those that its list does not reach included.
    """

    queries: Tensor
    items: Tensor
    ids: Tensor
    positive: Tensor
    num_relevant: Tensor

    def __len__(self) -> int:
        return self.ids.size(0)

    def nodes(self, rows: Tensor) -> Tensor:
        """Return the vectors ``[B, 1 + K, D]`` of some queries and their lists."""
        return torch.cat([self.queries[rows].unsqueeze(1), self.items[self.ids[rows]]], dim=1)


@dataclass(frozen=True, eq=False)
class View:
    """One kind of descriptors, and what is known about the items.

    Args:
        gallery: Vectors of the items ``[N, D]``, finite and scaled.
        queries: Those of the queries ``[Q, D]``; ``None`` if the items are the queries.
        labels: Class of each item ``[N]``, -1 if unknown; or the items relevant to each query ``[Q, N]``.
    """

    gallery: Tensor
    queries: Tensor | None
    labels: Tensor

    def digest(self) -> str:
        """Return a name that no other data have."""
        digest = hashlib.sha256()
        for part in (self.gallery, self.labels) if self.queries is None else (self.gallery, self.queries, self.labels):
            digest.update(str(tuple(part.shape)).encode())
            digest.update(part.contiguous().cpu().numpy().data)
        return digest.hexdigest()

    def hold_out(self, part: float) -> Tensor:
        """Draw items, all of a class or none, or queries ``[Q]``: the part asked for, but at least one."""
        if self.queries is None:
            names, group = self.labels.unique(return_inverse=True)
            first = int(bool((names < 0).any()))  # items without a class are never held out
        else:
            group, first = torch.arange(self.labels.size(0), device=self.labels.device), 0
        number = int(group.max()) + 1 - first if group.numel() else 0
        count = min(number, max(1, round(part * number))) if part > 0 else 0
        held_out = torch.zeros(first + number, dtype=torch.bool)
        held_out[first + torch.randperm(number)[:count]] = True
        return held_out.to(group.device)[group]

    def lists(self, chosen: Tensor, length: int) -> KnownLists:
        """Let chosen items that have a class search for one another, or chosen queries for all items."""
        if self.queries is not None:
            x, relevant = self.queries[chosen], self.labels[chosen]
            ids, _ = Vectors(self.gallery, normalize=False).nearest(x, min(length, self.gallery.size(0)))
            return KnownLists(x, self.gallery, ids, relevant.gather(1, ids), relevant.sum(1))
        x, labels = self.gallery[chosen], self.labels[chosen]
        rows = (labels >= 0).nonzero().squeeze(1)
        ids, _ = Vectors(x, normalize=False).nearest(x[rows], min(length, max(0, x.size(0) - 1)), rows)
        own = labels[rows]
        _, group, sizes = own.unique(return_inverse=True, return_counts=True)
        return KnownLists(x[rows], x, ids, labels[ids] == own.unsqueeze(1), sizes[group] - 1)


def read_views(
    gallery: Array | Sequence[Array],
    queries: Array | Sequence[Array] | None,
    labels: Array | None,
    *,
    normalize: bool,
    nan_policy: str,
) -> list[View]:
    """Check and scale what :meth:`ContextualReranker.fit` was given; what is not finite in one view leaves all."""
    items, there = _read_all("gallery", gallery, normalize, nan_policy)
    if queries is None:
        known = _read_labels(labels, (there.numel(),), items[0].device)
        return [View(x[there], None, known[there]) for x in items]
    asked, heard = _read_all("queries", queries, normalize, nan_policy)
    if [x.shape[1] for x in asked] != [x.shape[1] for x in items]:
        raise ValueError(
            f"queries have widths {[x.shape[1] for x in asked]}, gallery has {[x.shape[1] for x in items]}; "
            "expected the same descriptors in the same order"
        )
    known = _read_labels(labels, (heard.numel(), there.numel()), items[0].device)[heard][:, there]
    return [View(x[there], q[heard], known) for x, q in zip(items, asked, strict=True)]


def _read_all(name: str, given: Any, normalize: bool, nan_policy: str) -> tuple[list[Tensor], Tensor]:
    """Return the vectors of every view in float32, and which rows are finite in all of them."""
    sources = given if isinstance(given, (list, tuple)) else [given]
    if not sources or any(not isinstance(x, (Tensor, np.ndarray)) for x in sources):
        raise TypeError(f"{name} is a {type(given).__name__}; expected a Tensor, an array, or a list of them")
    read = [Vectors(x, name=name, normalize=normalize, nan_policy=nan_policy).all() for x in sources]
    if len({x.size(0) for x, _ in read}) > 1:
        raise ValueError(f"{name} has {[x.size(0) for x, _ in read]} rows; expected as many in every view")
    return [x.float() for x, _ in read], torch.stack([there for _, there in read]).all(0)


def _read_labels(labels: Array | None, shape: tuple[int, ...], device: torch.device) -> Tensor:
    """Return classes ``[N]``, or relevance ``[Q, N]``."""
    what = "the class of each item, integers [N]" if len(shape) == 1 else "which items are relevant, booleans [Q, N]"
    if labels is None:
        raise ValueError(f"labels is None, but training needs {what}")
    known = torch.as_tensor(labels, device=device)
    if tuple(known.shape) != shape:
        raise ValueError(f"labels has shape {tuple(known.shape)}; expected {what}, here {shape}")
    fits = known.dtype == torch.bool if len(shape) == 2 else not (known.is_floating_point() or known.is_complex())
    if not fits:
        raise TypeError(f"labels has dtype {known.dtype}; expected {what}")
    return known if known.dtype == torch.bool and len(shape) == 2 else known.long()
