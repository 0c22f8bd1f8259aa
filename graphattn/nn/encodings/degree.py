"""How much a node draws on others, and others on it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from graphattn.nn.encodings.inputs import read_graph


@torch.no_grad()
def degree_encoding(A: Any, *, edge_weight: Tensor | None = None, num_nodes: int | None = None) -> Tensor:
    r"""Encode every node by the logarithms of its two degrees.

    .. math:: \mathrm{PE}_i = \Big(\log\big(1 + \textstyle\sum_j A_{ij}\big),\;
        \log\big(1 + \textstyle\sum_j A_{ji}\big)\Big)

    Args:
        A: An affinity, a torch sparse matrix (row = target), or ``edge_index`` :math:`(2, E)`.
        edge_weight: Weights of an ``edge_index``, ones by default.
        num_nodes: Number of nodes of an ``edge_index``, by default the largest index plus one.

    Returns:
        Encodings :math:`(N, 2)`, of the edges that enter and that leave a node, in the dtype of the weights, at least
        float32, without gradient. An isolated node gets 0.

    Raises:
        ValueError: If a shape or a weight does not fit.
        TypeError: If a dtype does not fit.

    Example:
        >>> degree_encoding(torch.tensor([[0, 2], [1, 1]]))  # log 3 for two edges, log 2 for one
        tensor([[0.0000, 0.6931],
                [1.0986, 0.0000],
                [0.0000, 0.6931]])
    """
    graph = read_graph(A, edge_weight, num_nodes)
    graph = graph.to(torch.promote_types(graph.dtype, torch.float32))
    return torch.stack([graph.row_sums().reshape(-1), graph.T.row_sums().reshape(-1)], dim=1).log1p()
