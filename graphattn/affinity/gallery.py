"""Neighbour lists: of a retrieval gallery, built block by block, and of many small candidate sets at once."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from graphattn._files import whole
from graphattn.affinity._vectors import Vectors, stable_top_k
from graphattn.affinity.checks import check_count
from graphattn.affinity.sparse import SparseAffinity

_BLOCK_NUMBERS = 1 << 21

Self = TypeVar("Self", bound="GalleryGraph")


class NeighborLists(NamedTuple):
    """Neighbour lists of some items: ids and similarities ``[..., k]``, and the least similarity ``[...]`` of each."""

    ids: Tensor
    similarity: Tensor
    smallest: Tensor


class GalleryGraph:
    r"""The nearest neighbours of every vector of a gallery, and what is needed to let a query join them.

    Row :math:`i` lists the :math:`k` other items of the largest inner product with item :math:`i`, from the largest;
    ties go to the lowest id. The item itself is left out by its id: copies of it are neighbours. :meth:`build` reads
    the gallery in blocks, :math:`O(N^2 D)` time and :math:`O(N k)` memory beside one block.

    Args:
        ids: Neighbours, -1 where there are fewer than :math:`k`.
        similarity: Their similarities, ``-inf`` where the id is -1.
        smallest: Least similarity of each item to any of the gallery, which turns into the row maximum of a distance.

    Shapes:
        - **input:** ``ids`` and ``similarity`` :math:`(N, k)`, ``smallest`` :math:`(N,)`

    Raises:
        ValueError: If the shapes do not fit one another.

    Example:
        >>> x = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]])
        >>> graph = GalleryGraph.build(x, k=1)
        >>> graph
        GalleryGraph(3 items, k=1)
        >>> graph.ids.flatten().tolist()
        [1, 0, 1]
        >>> graph.insert(torch.tensor([0, 2]), similarity=torch.tensor([0.5, 0.9])).ids.tolist()  # the query is node 3
        [[1], [3]]
    """

    _fields: ClassVar[tuple[str, ...]] = ("ids", "similarity", "smallest")

    def __init__(self, ids: Tensor, similarity: Tensor, smallest: Tensor) -> None:
        if ids.dim() != 2 or similarity.shape != ids.shape or smallest.shape != ids.shape[:1]:
            shapes = f"{tuple(ids.shape)}, {tuple(similarity.shape)} and {tuple(smallest.shape)}"
            raise ValueError(f"ids, similarity and smallest have shapes {shapes}; expected [N, k], [N, k] and [N]")
        self.ids = ids
        self.similarity = similarity
        self.smallest = smallest

    @staticmethod
    def build(
        gallery: Tensor | np.ndarray, k: int, *, normalize: bool = True, nan_policy: str = "raise"
    ) -> GalleryGraph:
        """Find the ``k`` nearest others of every vector, exactly.

        Args:
            gallery: Vectors ``[N, D]``; a memory-mapped array is read block by block.
            k: Length of the lists.
            normalize: Whether vectors are divided by their length first.
            nan_policy: Whether a vector that is not finite raises (``"raise"``), or has no neighbours and is nobody's
                (``"last"``).

        Returns:
            The lists, on the device of the gallery, similarities in its dtype but at least float32.

        Raises:
            ValueError: If ``k`` is not a positive integer, a shape does not fit or a vector is not finite.
            TypeError: If ``gallery`` is not a floating-point tensor or array.

        Example:
            >>> GalleryGraph.build(torch.eye(4), k=2).ids[0].tolist()
            [1, 2]
        """
        if not isinstance(gallery, (Tensor, np.ndarray)):
            raise TypeError(f"gallery is a {type(gallery).__name__}; expected a Tensor or an array [N, D]")
        check_count(k)
        vectors = Vectors(gallery, normalize=normalize, nan_policy=nan_policy)
        ids, similarity, smallest = [], [], []
        for start, rows, there in vectors.blocks():
            own = torch.arange(start, start + rows.size(0), device=vectors.device)
            found = vectors.nearest(rows, k, own)
            ids.append(found[0].masked_fill_(~there.unsqueeze(1), -1))
            similarity.append(found[1].masked_fill_(~there.unsqueeze(1), -torch.inf))
            smallest.append(_smallest_products(rows, vectors))
        if not ids:
            nothing = vectors.all()[0].new_empty(0, k)
            return GalleryGraph(nothing.long(), nothing, nothing[:, 0])
        return GalleryGraph(torch.cat(ids), torch.cat(similarity), torch.cat(smallest))

    @property
    def num_items(self) -> int:
        """Number of items :math:`N`."""
        return self.ids.size(0)

    @property
    def k(self) -> int:
        """Length of the lists."""
        return self.ids.size(1)

    def to(self: Self, device: torch.device | str) -> Self:
        """Move the lists to a device."""
        return type(self)(*(getattr(self, name).to(device) for name in self._fields))

    def insert(self, ids: Tensor, similarity: Tensor) -> NeighborLists:
        r"""Return the lists that some items have once a query, as node :math:`N`, has joined the gallery.

        The query enters the list of item :math:`i` if :math:`s_{qi}` is at least the last similarity there (it goes
        before its equals, as a node numbered before the gallery would), and pushes the last entry out. The graph
        itself stays as it is.

        Args:
            ids: The items that are looked at.
            similarity: Similarity of the query to each of them.

        Shapes:
            - **input:** ``ids`` and ``similarity`` :math:`(\ldots)`
            - **output:** :math:`(\ldots, k)`, :math:`(\ldots, k)` and :math:`(\ldots)`

        Returns:
            Their lists, similarities and least similarities.

        Raises:
            ValueError: If the two shapes differ.
        """
        if ids.shape != similarity.shape:
            raise ValueError(f"similarity has shape {tuple(similarity.shape)}; expected {tuple(ids.shape)}, as ids")
        old_ids, old = self.ids[ids], self.similarity[ids]
        place = (old > similarity.unsqueeze(-1)).sum(-1, keepdim=True)
        slot = torch.arange(self.k, device=ids.device).expand_as(old_ids)
        source = torch.where(slot > place, slot - 1, slot)
        here = slot == place
        return NeighborLists(
            torch.where(here, self.num_items, old_ids.gather(-1, source)),
            torch.where(here, similarity.unsqueeze(-1), old.gather(-1, source)),
            torch.minimum(self.smallest[ids], similarity),
        )

    def to_affinity(self, *, mutual: bool = False) -> SparseAffinity:
        """Return the lists as an affinity whose weights are the similarities.

        Args:
            mutual: Whether to keep only pairs of which each lists the other.

        Returns:
            A sparse affinity, symmetric if ``mutual``.

        Example:
            >>> x = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]])
            >>> GalleryGraph.build(x, k=1).to_affinity(mutual=True).edge_index.tolist()
            [[1, 0], [0, 1]]
        """
        n = self.num_items
        row, slot = (self.ids >= 0).nonzero(as_tuple=True)
        col, weight = self.ids[row, slot], self.similarity[row, slot]
        if mutual:
            keep = torch.isin(row * n + col, col * n + row)
            row, col, weight = row[keep], col[keep], weight[keep]
            # The two products of a pair may differ in their last bit.
            forth, back = torch.argsort(row * n + col), torch.argsort(col * n + row)
            row, col, weight = row[forth], col[forth], (weight[forth] + weight[back]) / 2
        return SparseAffinity(torch.stack([col, row]), weight, (n, n), symmetric=mutual)

    def save(self, path: str | Path) -> None:
        """Write the lists to an ``.npz`` file; a file that is there is replaced once the new one is complete."""
        with whole(path) as temporary, open(temporary, "wb") as file:
            np.savez(file, **{name: getattr(self, name).cpu().numpy() for name in self._fields})

    @classmethod
    def load(cls: type[Self], path: str | Path) -> Self:
        """Read lists that :meth:`save` has written.

        Raises:
            ValueError: If the file holds something else.
        """
        with np.load(path, allow_pickle=False) as file:
            missing = [name for name in cls._fields if name not in file]
            if missing:
                raise ValueError(f"{path} has no {', '.join(missing)}; expected a file that {cls.__name__}.save wrote")
            return cls(*(torch.from_numpy(file[name]) for name in cls._fields))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.num_items} items, k={self.k})"


def _smallest_products(rows: Tensor, vectors: Vectors) -> Tensor:
    """Return the smallest inner product of each row with any of the gallery that is finite."""
    smallest = rows.new_full(rows.shape[:1], torch.inf)
    for _, others, there in vectors.blocks():
        if not bool(there.any()):
            continue
        others = others if bool(there.all()) else others[there]
        for part in torch.arange(rows.size(0), device=rows.device).split(max(1, _BLOCK_NUMBERS // others.size(0))):
            smallest[part] = torch.minimum(smallest[part], (rows[part] @ others.t()).amin(1))
    return smallest


def list_neighbors(
    similarity: Tensor, k: int, mask: Tensor | None = None, *, loops: bool = False
) -> tuple[Tensor, Tensor]:
    r"""Find the nearest neighbours inside each of many small sets, given the similarities within them.

    Args:
        similarity: Similarities within each set.
        k: Neighbours of a node, itself not counted; sets with fewer give what they have.
        mask: Which nodes are there; all by default. A node that is not there is no neighbour and has none.
        loops: Whether every node stands at the front of its own list, as an extra entry.

    Shapes:
        - **input:** ``similarity`` :math:`(B, n, n)`, ``mask`` :math:`(B, n)`
        - **output:** two of :math:`(B, n, \min(k, n - 1))`, one longer with ``loops``

    Returns:
        Node numbers, most similar first, ties to the lowest number; and which entries are there. An entry that is not
        there holds some number within range.

    Raises:
        ValueError: If a shape does not fit or ``k`` is negative.

    Example:
        >>> x = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]])
        >>> index, found = list_neighbors((x @ x.T).unsqueeze(0), 1, loops=True)
        >>> index.tolist(), found.all().item()
        ([[[0, 1], [1, 0], [2, 1]]], True)
    """
    if similarity.dim() != 3 or similarity.size(1) != similarity.size(2):
        raise ValueError(f"similarity has shape {tuple(similarity.shape)}; expected [B, n, n]")
    if mask is not None and mask.shape != similarity.shape[:2]:
        raise ValueError(f"mask has shape {tuple(mask.shape)}; expected {tuple(similarity.shape[:2])}")
    if k < 0:
        raise ValueError(f"k is {k}; expected at least 0")
    n = similarity.size(1)
    own = torch.arange(n, device=similarity.device)
    others = similarity.clone()
    others[:, own, own] = -torch.inf
    if mask is not None:
        others.masked_fill_(~mask.unsqueeze(1), -torch.inf)
    values, index = stable_top_k(others, max(0, min(k, n - 1)))
    found = values > -torch.inf
    if mask is not None:
        found &= mask.unsqueeze(2)
    if loops:
        index = torch.cat([own.view(1, n, 1).expand(similarity.size(0), n, 1), index], dim=2)
        there = torch.ones_like(similarity[:, :, 0], dtype=torch.bool) if mask is None else mask
        found = torch.cat([there.unsqueeze(2), found], dim=2)
    return index, found
