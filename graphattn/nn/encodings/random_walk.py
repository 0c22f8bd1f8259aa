"""How likely a random walk is back where it started."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from graphattn.affinity import SparseAffinity
from graphattn.nn.encodings.inputs import components, read_graph, unit_blocks

_COMPAT = (None, "pyg", "graphgps")


@torch.no_grad()
def random_walk_encoding(
    A: Any,
    steps: int = 16,
    *,
    edge_weight: Tensor | None = None,
    num_nodes: int | None = None,
    compat: str | None = None,
) -> Tensor:
    r"""Encode every node by the probabilities that a random walk from it is back after 1 to ``steps`` steps.

    .. math:: \mathrm{PE}_i = \big((\mathbf{P}^t)_{ii}\big)_{t = 1}^{K}, \quad
        \mathbf{P} = \mathbf{D}^{-1} \mathbf{A}, \quad \mathbf{D} = \operatorname{diag}(\mathbf{A}\,\mathbf{1})

    A step goes from a node to one that it draws on, by the weights; pass ``A.T`` to walk along the edges. A node
    without sources gets 0. Powers of :math:`\mathbf{P}` are never formed: columns of them are computed in blocks, in
    :math:`O(N)` memory for each column and time :math:`O(K\,E\,n)` with the :math:`n` nodes of the largest connected
    component. A batch of graphs is one graph of many components and needs no more.

    Args:
        A: An affinity, a torch sparse matrix (row = target), or ``edge_index`` :math:`(2, E)`.
        steps: Number of steps :math:`K`.
        edge_weight: Weights of an ``edge_index``, ones by default.
        num_nodes: Number of nodes of an ``edge_index``, by default the largest index plus one.
        compat: ``"pyg"`` for PyG's ``AddRandomWalkPE``, whose walk follows the edges and whose steps have the
            probability :math:`1 / \max(1, d_j)` with the weighted degree, whatever the weight of the edge;
            ``"graphgps"`` for GraphGPS, whose walk follows the edges and ignores their weights.

    Returns:
        Encodings :math:`(N, K)` in the dtype of the weights, at least float32, without gradient.

    Raises:
        ValueError: If an argument is out of range, or a shape or a weight does not fit.
        TypeError: If a dtype does not fit.

    Example:
        >>> triangle = torch.tensor([[0, 1, 1, 2, 2, 0], [1, 0, 2, 1, 0, 2]])
        >>> random_walk_encoding(triangle, 3)[0]
        tensor([0.0000, 0.5000, 0.2500])

    Reference:
        Dwivedi et al., "Graph Neural Networks with Learnable Structural and Positional Representations", 2022.
    """
    if not isinstance(steps, int) or steps < 1:
        raise ValueError(f"steps is {steps!r}; expected an integer of at least 1")
    if compat not in _COMPAT:
        raise ValueError(f"compat is {compat!r}; expected one of {', '.join(map(repr, _COMPAT))}")
    walk = _transition(read_graph(A, edge_weight, num_nodes), compat)
    rank = torch.from_numpy(components(walk.to_scipy())[1]).to(walk.device)
    out = torch.zeros(walk.shape[0], steps, dtype=walk.dtype, device=walk.device)
    for nodes, column, hop in unit_blocks(rank, walk.dtype):
        for t in range(steps):
            hop = walk.matmul(hop)
            out[nodes, t] = hop[nodes, column]
    return out


def _transition(graph: SparseAffinity, compat: str | None) -> SparseAffinity:
    """The matrix of a step, or its transpose, which has the same diagonals."""
    weight = graph.weights().to(torch.promote_types(graph.dtype, torch.float32))
    graph = graph.with_weight(weight.reshape(-1))
    if compat is None:
        return graph.normalize("row")
    if compat == "graphgps":
        graph = graph.with_weight(torch.ones_like(graph.weights()))
    chance = 1.0 / graph.T.row_sums().clamp(min=1.0)
    return graph.with_weight(chance.index_select(0, graph.edge_index[0].long()))
