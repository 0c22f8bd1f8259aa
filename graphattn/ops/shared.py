"""Attention of all heads to the same features, those of a source beside those of an edge."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from graphattn.ops import csr_shared
from graphattn.ops.attention import edge_softmax, sddmm, spmm
from graphattn.ops.inputs import (
    as_layout,
    check_device,
    check_edges,
    check_float,
    check_nodes,
    keep_mask,
    widen,
    without_autocast,
)


def shared_attention(
    q: Tensor | None,
    x: Tensor,
    edge_attr: Tensor,
    edge_index: Any,
    *,
    bias: Tensor | None = None,
    dropout: float = 0.0,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    r"""Attend to the features of sources and edges themselves: they are the keys and the values of all heads.

    .. math::
        \mathbf{o}_i = \sum_{e=(j,i)} p_e \mathbf{z}_e, \quad
        p_e = \operatorname{softmax}_{e \to i}\left(\mathbf{q}_i^{\top} \mathbf{z}_e + b_e\right), \quad
        \mathbf{z}_e = [\mathbf{x}_j ; \mathbf{e}_e]

    Attention to linear keys and values comes to this: queries go through the map of the keys before, sums through that
    of the values behind, so that those maps act on rows, of which there are fewer than of edges. Nor is any
    :math:`\mathbf{z}_e` made: with ``csr`` this takes :math:`O(E H (C + D))` time and :math:`O(N H (C + D) + E H)`
    memory.

    Args:
        q: Queries of the targets; without them the bias is the score.
        x: Features of the sources.
        edge_attr: Features of the edges.
        edge_index: Edges, source row first: a Tensor, an ``EdgeIndex``, or an object with a ``layout``, which is needed
            without queries.
        bias: Added to the scores; ``-inf`` removes an edge.
        dropout: Probability of dropping a weight, as in :func:`edge_attention`.
        backend: ``"auto"`` (on the CPU ``csr``, however small the graph), ``"reference"``, ``"csr"``, ``"scatter"`` or
            ``"triton"``, of which all but ``csr`` put this together from the other ops.

    Shapes:
        - **input:** ``q`` :math:`(N, H, C + D)`, ``x`` :math:`(M, C)`, ``edge_attr`` :math:`(E, D)`, ``edge_index``
          :math:`(2, E)`, ``bias`` :math:`(E, H)`
        - **output:** :math:`(N, H, C + D)`, and weights :math:`(E, H)` in the caller's edge order, before dropout

    Returns:
        The sums and the weights. Targets without edges get 0.

    Raises:
        ValueError: If a shape, a device or an index does not fit, ``dropout`` lies outside [0, 1], or the backend
            cannot serve the call.
        TypeError: If an input is not a floating-point tensor or ``edge_index`` not an integer one.

    Example:
        >>> edges = torch.tensor([[0, 1], [0, 0]])
        >>> q, x, edge_attr = torch.zeros(1, 1, 2), torch.tensor([[1.0], [3.0]]), torch.tensor([[4.0], [6.0]])
        >>> shared_attention(q, x, edge_attr, edges)[0].flatten().tolist()
        [2.0, 5.0]
    """
    for name, features in (("x", x), ("edge_attr", edge_attr)):
        check_float(name, features)
        if features.dim() != 2 or features.size(1) < 1:
            raise ValueError(f"{name} has shape {tuple(features.shape)}; expected [rows, channels]")
    layout = as_layout(edge_index, None if q is None else q.size(0), x.size(0))
    if edge_attr.size(0) != layout.num_edges:
        raise ValueError(f"edge_attr has shape {tuple(edge_attr.shape)}; expected {layout.num_edges} rows: edges")
    if q is not None:
        check_nodes(q=q)
        width = x.size(1) + edge_attr.size(1)
        if q.size(2) != width:
            raise ValueError(f"q has {q.size(2)} channels; expected {width}, those of x and of edge_attr")
        heads = q.size(1)
    elif bias is not None:
        heads = bias.size(1)
    else:
        raise ValueError("q and bias are both None; pass queries, or the scores as bias")
    if bias is not None:
        check_edges("bias", bias, layout, heads)
    check_device(layout, q=q, x=x, edge_attr=edge_attr, bias=bias)
    device = layout.edge_index.device
    keep = keep_mask(layout.num_edges, heads, dropout, device)
    if keep is not None:
        keep = keep.to(x.dtype) / (1.0 - dropout if dropout < 1.0 else 1.0)

    if backend == "csr" or (backend == "auto" and device.type == "cpu"):
        if device.type != "cpu":
            raise ValueError(f"backend 'csr' serves CPU tensors only, but the inputs are on {device}; use 'auto'")
        (q, x, edge_attr, bias, keep), dtype = widen(q, x, edge_attr, bias, keep)
        with without_autocast(device):
            sums, weights = csr_shared.shared_attention(q, x, edge_attr, layout, bias, keep, heads)
        return sums.to(dtype), weights.to(dtype)

    x, edge_attr, incidence = x.unsqueeze(1), edge_attr.unsqueeze(1), layout.incidence()
    scores = x.new_zeros(layout.num_edges, heads) if bias is None else bias
    if q is not None:
        of_source, of_edge = (part.contiguous() for part in q.split([x.size(2), edge_attr.size(2)], dim=2))
        scores = scores + sddmm(of_source, x, layout, backend=backend)
        scores = scores + sddmm(of_edge, edge_attr, incidence, backend=backend)
    weights = edge_softmax(scores, layout, backend=backend)
    kept = weights if keep is None else weights * keep
    parts = [spmm(kept, x, layout, backend=backend), spmm(kept, edge_attr, incidence, backend=backend)]
    return torch.cat(parts, dim=2), weights
