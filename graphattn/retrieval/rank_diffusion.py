"""Rank diffusion: affinities spread along both of their ends at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from graphattn.affinity.gallery import list_neighbors
from graphattn.retrieval._list_graphs import block_diagonal, list_product, solve_lists
from graphattn.retrieval._options import Options
from graphattn.retrieval.base import Reranker
from graphattn.retrieval.batch import CandidateBatch

if TYPE_CHECKING:
    from typing_extensions import Unpack


class RankDiffusion(Reranker):
    r"""Score candidates by their affinity to the query after a regularized diffusion of the affinity itself.

    .. math::
        \mathbf{A} \leftarrow \alpha\, \mathbf{S} \mathbf{A} \mathbf{S}^{\top} + (1 - \alpha)\, \mathbf{I}, \quad
        \alpha = \frac{1}{1 + \mu}, \quad s'_i = A_{qi}

    with :math:`\mathbf{S} = \mathbf{D}^{-1/2} \mathbf{W} \mathbf{D}^{-1/2}` over the query and its candidates,
    :math:`\mathbf{W}` the mean of :math:`w_{ij} = \exp(-d_{ij}^2/\sigma^2)` and its transpose, where :math:`j` is one
    of the :math:`k` nodes nearest to :math:`i`, and :math:`d_{ij}` the squared distance divided by its maximum over all
    pairs. From :math:`\mathbf{A} = \mathbf{I}`, the diffusion stays a polynomial in :math:`\mathbf{S}`: its limit is
    :math:`(1 - \alpha) (\mathbf{I} - \alpha \mathbf{S}^2)^{-1}`, of which only the row of the query is computed, by
    conjugate gradients. :math:`O(K^2 D)` time per query, and two products by :math:`\mathbf{S}` a step. The diagnostics
    give the relative ``"residual"`` of each query.

    The released code diffuses all queries and the whole gallery together; ``transductive=True`` adds the other queries
    as nodes.

    Args:
        k: Neighbours :math:`k` of a node, itself counted.
        sigma: Width :math:`\sigma` of the kernel.
        mu: Weight :math:`\mu` of the identity.
        iters: Steps of the diffusion, 20 in the released code; ``None`` goes to the limit.
        tol: Relative residual at which the limit is reached.
        max_iter: Steps of the solver at most, of two products each.
        **options: As in :class:`~graphattn.retrieval.Reranker`.

    Raises:
        ValueError: If an option is out of range or not supported.

    Example:
        >>> gallery = torch.tensor([[-0.5, 0.7], [0.3, -0.8], [-1.0, -1.0], [0.5, -0.5]])
        >>> lists = RankDiffusion(k=3).rerank(torch.tensor([[1.0, 0.0]]), gallery)
        >>> lists.indices
        tensor([[3, 1, 2, 0]])

    Reference:
        Bai et al., "Regularized Diffusion Process on Bidirectional Context for Object Retrieval", 2019.
    """

    can_be_transductive = True

    def __init__(
        self,
        k: int = 30,
        *,
        sigma: float = 0.5,
        mu: float = 0.3,
        iters: int | None = None,
        tol: float = 1e-6,
        max_iter: int = 150,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(**options)
        for name, value, least in (("k", k, 1), ("iters", iters, 0), ("max_iter", max_iter, 1)):
            if (name, value) == ("iters", None):
                continue
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise ValueError(f"{name} is {value!r}; expected an integer, at least {least}")
        for name, number in (("sigma", sigma), ("mu", mu), ("tol", tol)):
            if not number > 0:
                raise ValueError(f"{name} is {number}; expected a positive number")
        self.k = k
        self.sigma = sigma
        self.mu = mu
        self.iters = iters
        self.tol = tol
        self.max_iter = max_iter

    def _scores(self, batch: CandidateBatch) -> Tensor:
        product = list_product(block_diagonal(self._affinity(batch)), batch.indices.size(0))

        def both_ends(x: Tensor) -> Tensor:
            return product(product(x))

        alpha = 1 / (1 + self.mu)
        query = torch.zeros_like(batch.node_mask, dtype=torch.float64)
        query[:, 0] = 1.0
        if self.iters is None:
            value, residual = solve_lists(both_ends, (1 - alpha) * query, alpha, self.tol, self.max_iter)
            batch.report(residual=residual)
        else:
            row = query.unsqueeze(2)
            for _ in range(self.iters):
                row = alpha * both_ends(row) + (1 - alpha) * query.unsqueeze(2)
            value = row.squeeze(2)
        return value[:, 1 : 1 + batch.indices.size(1)].to(batch.nodes.dtype)

    def _affinity(self, batch: CandidateBatch) -> Tensor:
        """Return the symmetric weights ``[B, n, n]`` between the nodes of each list."""
        between = batch.between
        square = between.diagonal(dim1=1, dim2=2)
        distance = (square.unsqueeze(1) + square.unsqueeze(2) - 2 * between).clamp(min=0.0)
        own = torch.arange(distance.size(1), device=distance.device)
        distance[:, own, own] = 0.0
        index, found = list_neighbors(-distance, self.k - 1, batch.node_mask, loops=True)
        there = batch.node_mask.unsqueeze(1) & batch.node_mask.unsqueeze(2)
        largest = distance.masked_fill(~there, 0.0).amax((1, 2), keepdim=True)
        distance = distance / largest.masked_fill(largest == 0, 1.0)
        values = torch.exp(-distance.gather(2, index).square() / self.sigma**2).masked_fill(~found, 0.0)
        weight = torch.zeros_like(distance).scatter_add(2, index, values)
        return (weight + weight.transpose(1, 2)) / 2

    def _bytes_per_query(self, num_nodes: int, width: int) -> int:
        return 4 * (8 * num_nodes * num_nodes + 3 * num_nodes * width) + 100 * num_nodes * min(2 * self.k, num_nodes)
