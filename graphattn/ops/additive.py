"""Additive attention, the score of GAT and GATv2: fused where the backend can, else in blocks of edges."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from graphattn.ops import triton
from graphattn.ops.attention import choose_backend, edge_aggregate
from graphattn.ops.blocks import edge_scores
from graphattn.ops.inputs import (
    as_layout,
    check_device,
    check_dropout,
    check_edge_features,
    check_edges,
    check_float,
    check_nodes,
    check_sizes,
    promote,
    without_autocast,
)
from graphattn.ops.layout import Layout


def fuses(backend: str, layout: Layout, q: Tensor, k: Tensor, v: Tensor, edge_attr: Tensor | None = None) -> bool:
    """Tell whether a backend, which may be ``"auto"``, fuses score, softmax and sum, storing no weights.

    Args:
        backend: Name of the backend.
        layout: The graph.
        q: Queries of the targets.
        k: Keys of the sources.
        v: Values of the sources.
        edge_attr: Edge features, which a backend may serve to a limit.

    Example:
        >>> x = torch.ones(2, 1, 4)
        >>> fuses("csr", Layout(torch.tensor([[0], [1]]), 2, 2), x, x, x)
        False
    """
    # On the CPU "auto" never does, and choosing there may read all indices.
    possible = backend == "triton" or (backend == "auto" and layout.edge_index.device.type != "cpu")
    return possible and choose_backend(backend, layout, q, k, v, edge_attr=edge_attr) is triton


def additive_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    vector: Tensor,
    edge_index: Any,
    *,
    negative_slope: float = 0.2,
    edge_attr: Tensor | None = None,
    edge_proj: Tensor | None = None,
    bias: Tensor | None = None,
    dropout: float = 0.0,
    return_weights: bool = False,
    backend: str = "auto",
) -> Tensor | tuple[Tensor, Tensor]:
    r"""Attend along the edges of a graph with additive scores: GATv2, and with one channel GAT.

    .. math::
        \mathbf{o}_i = \sum_{e=(j,i)} p_e \mathbf{v}_j, \quad
        p_e = \operatorname{softmax}_{e \to i}\left(
        \mathbf{a}^{\top} \operatorname{LeakyReLU}(\mathbf{q}_i + \mathbf{k}_j + \mathbf{W}\mathbf{e}_e) + b_e\right)

    ``triton`` computes the scores inside the softmax, forward and backward, and stores none; the other backends store
    :math:`E \times H` scores, evaluated in blocks of edges.

    Args:
        q: Queries of the targets.
        k: Keys of the sources.
        v: Values of the sources.
        vector: The vector :math:`\mathbf{a}` of each head.
        edge_index: Edges, source row first: a Tensor, an ``EdgeIndex``, or an object with a ``layout``.
        negative_slope: Slope of the LeakyReLU below 0.
        edge_attr: Edge features :math:`\mathbf{e}`, added inside the LeakyReLU after projection.
        edge_proj: Their projection :math:`\mathbf{W}`, one matrix a head; needed with ``edge_attr``.
        bias: Added to the scores; ``-inf`` removes an edge.
        dropout: Probability of dropping a weight, as in :func:`edge_attention`.
        return_weights: Whether to also return the weights, as they were before dropout.
        backend: ``"auto"``, ``"reference"``, ``"csr"``, ``"scatter"`` or ``"triton"``.

    Shapes:
        - **input:** ``q`` :math:`(N, H, C)`, ``k`` :math:`(M, H, C)`, ``v`` :math:`(M, H, C_v)`, ``vector``
          :math:`(H, C)`, ``edge_index`` :math:`(2, E)`, ``edge_attr`` :math:`(E, D)`, ``edge_proj``
          :math:`(H, C, D)`, ``bias`` :math:`(E, H)`
        - **output:** :math:`(N, H, C_v)`, and weights :math:`(E, H)` in the caller's edge order

    Returns:
        The attended values, and the weights if asked for. Targets without edges get 0.

    Raises:
        ValueError: If a shape, a device or an index does not fit, ``dropout`` lies outside [0, 1], or the backend
            cannot serve the call.
        TypeError: If an input is not a floating-point tensor or ``edge_index`` not an integer one.

    Example:
        >>> edges = torch.tensor([[0, 1, 2], [0, 0, 1]])
        >>> x = torch.tensor([1.0, 3.0, 5.0]).view(3, 1, 1)
        >>> additive_attention(x, x, x, torch.zeros(1, 1), edges).flatten().tolist()
        [2.0, 5.0, 0.0]

    Reference:
        Veličković et al., "Graph Attention Networks", 2018; Brody et al., "How Attentive are Graph Attention
        Networks?", 2022.
    """
    check_nodes(q=q, k=k, v=v)
    check_sizes("k", k, rows=v.size(0), heads=q.size(1), channels=q.size(2))
    check_sizes("v", v, heads=q.size(1))
    check_float("vector", vector)
    if vector.shape != q.shape[1:]:
        raise ValueError(f"vector has shape {tuple(vector.shape)}; expected {tuple(q.shape[1:])}: heads, channels")
    layout = as_layout(edge_index, q.size(0), k.size(0))
    if bias is not None:
        check_edges("bias", bias, layout, heads=q.size(1))
    check_edge_features(edge_attr, edge_proj, layout, heads=q.size(1), channels=q.size(2))
    check_device(layout, q=q, k=k, v=v, vector=vector, edge_attr=edge_attr, edge_proj=edge_proj, bias=bias)
    (q, k, v, vector, edge_attr, edge_proj, bias), dtype = promote(q, k, v, vector, edge_attr, edge_proj, bias)
    if fuses(backend, layout, q, k, v, edge_attr):
        check_dropout(dropout)
        with without_autocast(layout.edge_index.device):
            out, weights = triton.additive_attention(
                q, k, v, vector, layout, negative_slope, edge_attr, edge_proj, bias, dropout, return_weights
            )
        out = out.to(dtype)
        return out if weights is None else (out, weights.to(dtype))

    def score(q_i: Tensor, k_j: Tensor, e_ij: Tensor | None) -> Tensor:
        total = q_i + k_j
        if e_ij is not None:
            total = total + torch.einsum("hcd,ed->ehc", edge_proj, e_ij)
        return (torch.nn.functional.leaky_relu(total, negative_slope) * vector).sum(dim=-1)

    if backend == "reference":  # differentiable twice
        source, target = layout.edge_index.long()
        scores = score(q.index_select(0, target), k.index_select(0, source), edge_attr)
    else:
        parameters = (vector,) if edge_proj is None else (vector, edge_proj)
        scores = edge_scores(score, q, k, edge_attr, layout, parameters)
    scores = scores if bias is None else scores + bias
    return edge_aggregate(scores, v, layout, dropout=dropout, return_weights=return_weights, backend=backend)
