"""What the operators of the triton backend share."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

UNIT = 8  # channels: 16 bytes of half precision


def ready(x: Tensor) -> Tensor:
    """Make rows follow one another and start at a multiple of 16 bytes, as the kernels' loads assume."""
    x = x.contiguous()
    return x.clone() if x.data_ptr() % 16 else x


def wide_dtype(x: Tensor) -> torch.dtype:
    """Dtype of sums: at least float32."""
    return torch.promote_types(x.dtype, torch.float32)


def dot_scoring(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    edge_attr: Tensor | None,
    edge_query: Tensor | None,
    bias: Tensor | None,
    seed: Tensor | None,
    scale: float,
    dropout: float,
) -> dict[str, Any]:
    """Return the arguments from which a kernel scores dot products.

    An array that a call does not have is stood in for by another of its type.
    """
    wide = v.new_empty(1, dtype=wide_dtype(v))
    return {
        "q": q,
        "k": k,
        "v": v,
        "edge_attr": v if edge_attr is None else ready(edge_attr),
        "edge_query": wide if edge_query is None else ready(edge_query),
        "bias": wide if bias is None else bias.contiguous(),
        "seed": v.new_empty(1, dtype=torch.int64) if seed is None else seed,
        "key_units": q.size(2) // UNIT,
        "value_units": v.size(2) // UNIT,
        "edge_units": 0 if edge_query is None else edge_query.size(2) // UNIT,
        "scale": scale,
        "dropout": dropout,
        # The factor of the weights that dropout keeps.
        "boost": 1.0 / (1.0 - dropout) if dropout < 1.0 else 0.0,
        "has_bias": int(bias is not None),
        "has_dropout": int(seed is not None),
    }


def scoring(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    vector: Tensor | None = None,
    edge_attr: Tensor | None = None,
    edge_proj: Tensor | None = None,
    edge_query: Tensor | None = None,
    bias: Tensor | None = None,
    seed: Tensor | None = None,
    scale: float = 0.0,
    slope: float = 0.0,
    dropout: float = 0.0,
) -> dict[str, Any]:
    """Return the arguments from which a kernel scores dot products or pairs that are added."""
    given = dot_scoring(q, k, v, edge_attr, edge_query, bias, seed, scale, dropout)
    return given | {
        "vector": given["edge_query"] if vector is None else ready(vector),
        "edge_proj": v if edge_proj is None else ready(edge_proj),
        "edge_dim": 0 if edge_attr is None or edge_proj is None else edge_attr.size(1),
        "slope": slope,
        "additive": int(vector is not None),
    }


def refuse_double_backward(ctx, *grads):  # type: ignore[no-untyped-def]
    raise RuntimeError("backend 'triton' has no double backward; pass backend='reference' to differentiate twice")
