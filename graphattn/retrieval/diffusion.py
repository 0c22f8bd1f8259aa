"""Diffusion of the query over the graph of mutual neighbours: within its list, in the gallery, or prepared offline."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from graphattn._files import whole
from graphattn.affinity._vectors import Vectors, stable_top_k
from graphattn.affinity.gallery import GalleryGraph, list_neighbors
from graphattn.retrieval._list_graphs import block_diagonal, list_product, solve_lists
from graphattn.retrieval._options import Options
from graphattn.retrieval._truncated import MutualLists, find
from graphattn.retrieval.base import Reranker
from graphattn.retrieval.batch import CandidateBatch

if TYPE_CHECKING:
    from typing_extensions import Unpack

_GRAPH = ("ids", "similarity", "smallest")
_FIT_BYTES, _SEARCH_ROWS = 1 << 26, 512


class Diffusion(Reranker):
    r"""Score candidates by what reaches them when the query is diffused over the graph of mutual neighbours.

    .. math::
        (\mathbf{I} - c\, \mathbf{D}^{-1/2} \mathbf{W} \mathbf{D}^{-1/2})\, \mathbf{f} = \mathbf{y}, \quad
        w_{ij} = \max(s_{ij}, 0)^{\gamma}, \quad y_i = \max(s_{qi}, 0)^{\gamma}, \quad s'_i = f_i

    with :math:`w_{ij}` kept where each of :math:`i \ne j` is among the :math:`k` nearest of the other, and :math:`y_i`
    at the :math:`k_q` items nearest to the query, which is no node itself. The system is solved by conjugate gradients;
    the diagnostics give the relative ``"residual"`` of each query. With the published ``max_iter=20`` it is often not
    solved.

    The graph is that of the list, :math:`O(K^2 D)` time per query (``scope="candidates"``); or that of the gallery,
    scaled as a whole and then restricted to the :math:`n` items nearest to the query (``scope="gallery"``, after
    :meth:`fit`); candidates outside it score 0. With ``offline=True``, :meth:`fit` solves for each item of the gallery
    over the surroundings of that item, and a query adds up solutions of its nearest items. That takes 8 bytes for each
    number that is kept: :math:`8 N n`, or :math:`8 N` times ``keep``.

    Args:
        k: Neighbours :math:`k` of an item, itself not counted.
        kq: Items :math:`k_q` where the query enters. If it is known by ``query_ids``, it is not one of them in the
            gallery.
        gamma: Exponent :math:`\gamma` of similarities.
        decay: Part :math:`c` of what an item passes on.
        n_trunc: Items :math:`n` that a system is restricted to, in the gallery: 1000 unless given. The size of the
            gallery restricts nothing.
        offline: Whether the gallery is solved for by :meth:`fit`; needs ``scope="gallery"``.
        keep: Largest numbers kept of each solution of ``offline``; all by default.
        tol: Relative residual at which a system is solved.
        max_iter: Products by the affinity at most.
        **options: As in :class:`~graphattn.retrieval.Reranker`.

    Attributes:
        graph_: Neighbours of every item, from :meth:`fit` in the gallery.

    Raises:
        ValueError: If an option is out of range or not supported.

    Example:
        >>> gallery = torch.tensor([[0.8, -0.6], [0.8, 0.6], [0.6, 0.8], [0.0, 1.0]])
        >>> lists = Diffusion(k=1, kq=1).rerank(torch.tensor([[1.0, 0.1]]), gallery)
        >>> lists.indices
        tensor([[1, 2, 0, 3]])

    Reference:
        Iscen et al., "Efficient Diffusion on Region Manifolds", 2017; Yang et al., "Efficient Image Retrieval via
        Decoupling Diffusion into Online and Offline Processing", 2019 (offline, and restriction after scaling).
    """

    scopes = ("candidates", "gallery")

    lists_: MutualLists
    columns_: tuple[Tensor, Tensor]

    def __init__(
        self,
        k: int = 50,
        kq: int = 10,
        *,
        gamma: float = 3.0,
        decay: float = 0.99,
        n_trunc: int | None = None,
        offline: bool = False,
        keep: int | None = None,
        tol: float = 1e-6,
        max_iter: int = 150,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(**options)
        optional = {"n_trunc": n_trunc, "keep": keep}
        for name, value in {"k": k, "kq": kq, "max_iter": max_iter, **optional}.items():
            if name in optional and value is None:
                continue
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{name} is {value!r}; expected an integer, at least 1")
        for name, number in (("gamma", gamma), ("tol", tol)):
            if not number > 0:
                raise ValueError(f"{name} is {number}; expected a positive number")
        if not 0 <= decay < 1:
            raise ValueError(f"decay is {decay}; expected a number in [0, 1)")
        if self.scope == "candidates" and (offline or n_trunc is not None):
            name = "offline" if offline else "n_trunc"
            raise ValueError(f"{name} is {offline or n_trunc} but scope is 'candidates'; pass scope='gallery'")
        if keep is not None and not offline:
            raise ValueError(f"keep is {keep} but nothing is solved ahead; pass offline=True, or leave it out")
        self.k = k
        self.kq = kq
        self.gamma = gamma
        self.decay = decay
        self.n_trunc = n_trunc
        self.offline = offline
        self.keep = keep
        self.tol = tol
        self.max_iter = max_iter

    @torch.no_grad()
    def fit(self, gallery: Tensor | np.ndarray) -> Diffusion:
        """Find the neighbours of all items of the gallery, and solve for each if ``offline``; lists need nothing.

        Args:
            gallery: Vectors ``[N, D]``; a memory-mapped array is read block by block.

        Returns:
            This re-ranker. After the gallery has changed it has to be fitted anew: a new item changes the neighbours
            of others.

        Raises:
            ValueError: If the gallery is a function of ids, has another shape or is not finite.
            TypeError: If the gallery is no floating-point tensor or array.
        """
        super().fit(gallery)
        if self.scope == "gallery":
            self.lists_ = MutualLists(self.graph_, self.gamma)
        if self.offline:
            self.columns_ = self._solve_all(gallery)
        return self

    def save(self, path: str | Path) -> None:
        """Write what :meth:`fit` has found to an ``.npz`` file; a file that is there is replaced once it is complete.

        Args:
            path: The file.

        Raises:
            ValueError: If there was no :meth:`fit`.

        Example:
            >>> import tempfile
            >>> reranker = Diffusion(k=2, scope="gallery", offline=True).fit(torch.eye(4))
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     reranker.save(Path(folder) / "fitted.npz")
            ...     Diffusion.load(Path(folder) / "fitted.npz").graph_
            GalleryGraph(4 items, k=2)
        """
        if not hasattr(self, "graph_"):
            raise ValueError("there is nothing to save; call fit(gallery) with scope='gallery' first")
        arrays = {name: getattr(self.graph_, name).cpu().numpy() for name in _GRAPH}
        if self.offline:
            arrays["items"], arrays["values"] = (x.cpu().numpy() for x in self.columns_)
        settings = {name: value for name, value in vars(self).items() if name[-1] != "_"}
        with whole(path) as temporary, open(temporary, "wb") as file:
            np.savez(file, settings=np.array(json.dumps(settings)), **arrays)

    @classmethod
    def load(cls, path: str | Path, device: torch.device | str = "cpu") -> Diffusion:
        """Read a re-ranker that :meth:`save` has written, with its options.

        Args:
            path: The file.
            device: Where the queries will be.

        Raises:
            ValueError: If the file holds something else.
        """
        with np.load(path, allow_pickle=False) as file:
            if not {"settings", *_GRAPH} <= set(file):
                raise ValueError(f"{path} is no fitted Diffusion; expected a file that Diffusion.save wrote")
            reranker = cls(**json.loads(str(file["settings"])))
            reranker.graph_ = GalleryGraph(*(torch.from_numpy(file[name]) for name in _GRAPH)).to(device)
            if reranker.offline:
                items, values = (torch.from_numpy(file[name]).to(device) for name in ("items", "values"))
                reranker.columns_ = items, values
        reranker.lists_ = MutualLists(reranker.graph_, reranker.gamma)
        return reranker

    def _graph_width(self) -> int:
        return self.k

    def _scores(self, batch: CandidateBatch) -> Tensor:
        if self.scope == "candidates":
            return self._within_list(batch)
        value = self._prepared(batch) if self.offline else self._around_query(batch)
        return value.to(batch.nodes.dtype)

    def _within_list(self, batch: CandidateBatch) -> Tensor:
        x, mask = batch.candidates, batch.mask
        similarity = torch.bmm(x, x.transpose(1, 2))
        index, found = list_neighbors(similarity, self.k, mask)
        near = torch.zeros_like(similarity, dtype=torch.bool).scatter_(2, index, found)
        mutual = near & near.transpose(1, 2)
        weight = similarity.clamp(min=0.0) ** self.gamma * mutual
        nearest, place = stable_top_k(batch.similarity.masked_fill(~mask, -torch.inf), min(self.kq, mask.size(1)))
        y = torch.zeros_like(batch.similarity).scatter(1, place, nearest.clamp(min=0.0) ** self.gamma)
        product = list_product(block_diagonal((weight + weight.transpose(1, 2)) / 2), mask.size(0))
        f, residual = solve_lists(product, y, self.decay, self.tol, self.max_iter)
        batch.report(residual=residual)
        return f.to(x.dtype)

    def _around_query(self, batch: CandidateBatch) -> Tensor:
        ids, similarity = batch.gallery.nearest(batch.queries, self._size(batch.gallery))
        other = (ids != batch.query_nodes.unsqueeze(1)) & (ids >= 0)
        entry = other & (other.cumsum(1) <= self.kq)
        y = (similarity.clamp(min=0.0) ** self.gamma).masked_fill(~entry, 0.0)
        items, f, residual = self._solve_around(ids, y)
        batch.report(residual=residual)
        place, hit = find(items, batch.indices)
        return f.gather(1, place).masked_fill(~hit, 0.0)

    def _solve_around(self, ids: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Solve over the items ``[B, m]``; return them in ascending order with the solutions, and the residuals."""
        items, order = ids.masked_fill(ids < 0, self.graph_.num_items).sort(dim=1)
        product = list_product(self.lists_.restrict(items), items.size(0))
        f, residual = solve_lists(product, y.gather(1, order), self.decay, self.tol, self.max_iter)
        return items, f, residual

    def _solve_all(self, gallery: Tensor | np.ndarray) -> tuple[Tensor, Tensor]:
        """Solve for every item: the items ``[N, n]`` that its solution reaches, and the solution."""
        vectors = Vectors(gallery, normalize=self.normalize, nan_policy=self.nan_policy)
        size = self._size(vectors)
        kept = size if self.keep is None else min(self.keep, size)
        shape = (self.graph_.num_items, kept)
        columns = torch.zeros(shape, dtype=torch.int32, device=vectors.device)
        values = torch.zeros(shape, dtype=torch.float32, device=vectors.device)
        step = max(1, _FIT_BYTES // self._bytes_of_system(size))
        for start, block, there in vectors.blocks():
            # A search reads the whole gallery, so that it serves more items than are solved for at a time.
            for rows in there.nonzero().squeeze(1).split(_SEARCH_ROWS):
                others, _ = vectors.nearest(block[rows], size - 1, rows + start)
                around = torch.cat([(rows + start).unsqueeze(1), others], dim=1)
                for ids in around.split(step):
                    y = torch.zeros_like(ids, dtype=torch.float64)
                    y[:, 0] = 1.0
                    items, f, _ = self._solve_around(ids, y)
                    f, place = stable_top_k(f, kept)
                    columns[ids[:, 0]] = items.gather(1, place).int()
                    values[ids[:, 0]] = f.float()
        return columns, values

    def _prepared(self, batch: CandidateBatch) -> Tensor:
        kq = min(self.kq, self.graph_.num_items)
        ids, similarity = batch.gallery.nearest(batch.queries, kq, batch.query_nodes)
        entry = similarity.double().clamp(min=0.0) ** self.gamma
        columns, values = (x[ids.clamp(min=0)] for x in self.columns_)
        wanted, order = batch.indices.masked_fill(~batch.mask, -1).sort(dim=1)
        place, hit = find(wanted, columns.long().flatten(1))
        reached = (values * entry.unsqueeze(2)).flatten(1).masked_fill(~hit, 0.0)
        f = torch.zeros_like(wanted, dtype=torch.float64).scatter_add(1, place, reached)
        return torch.zeros_like(f).scatter(1, order, f)

    def _size(self, vectors: Vectors) -> int:
        return min(1000 if self.n_trunc is None else self.n_trunc, vectors.size or 0)

    def _bytes_of_system(self, size: int) -> int:
        return 100 * size * min(self.k, size)

    def _bytes_per_query(self, num_nodes: int, width: int) -> int:
        if self.scope == "candidates":
            return 4 * (8 * num_nodes * num_nodes + 3 * num_nodes * width) + self._bytes_of_system(num_nodes)
        vectors = 12 * num_nodes * width
        if self.offline:
            return vectors + 48 * self.kq * self.columns_[0].size(1)
        return vectors + self._bytes_of_system(min(self.n_trunc or 1000, self.graph_.num_items))
