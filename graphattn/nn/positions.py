"""How attention over edges takes the positions of its nodes in: rotated queries and keys."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from graphattn.nn.encodings.rotary import RotaryEncoding
from graphattn.nn.scores import DotProduct, Projected, Score


def check_rotary(rotary: Any, score: Score, out_channels: int, edge_dim: int | None) -> None:
    """Raise unless the scores would see relative positions alone."""
    if not isinstance(rotary, RotaryEncoding):
        raise TypeError(f"rotary is a {type(rotary).__name__}; expected a RotaryEncoding or None")
    if rotary.channels != out_channels:
        raise ValueError(f"rotary is for {rotary.channels} channels; expected {out_channels}, the channels of a head")
    if not isinstance(score, DotProduct):
        raise ValueError(
            f"rotary needs a score of products, 'dot' or 'cosine'; {type(score).__name__} would see absolute positions"
        )
    if edge_dim is not None:
        raise ValueError(
            "rotary and edge_dim are both given; rotated queries would weigh the edge features by absolute positions"
        )


def rotate(rotary: RotaryEncoding | None, projected: Projected, pos: Any, bipartite: bool) -> Projected:
    """Rotate queries and keys by the positions of their nodes."""
    if rotary is None or pos is None:
        found = "given, but rotary is None" if rotary is None else "None, but the layer has a rotary encoding"
        raise ValueError(f"pos is {found}; pass both or neither")
    if isinstance(pos, (tuple, list)) != bipartite:
        raise ValueError(
            f"pos is a {type(pos).__name__}; expected {'(sources, targets), as x is' if bipartite else 'a Tensor'}"
        )
    q, k, v, e = projected
    source, target = pos if bipartite else (pos, pos)
    coordinates = () if rotary.coordinates == 1 else (rotary.coordinates,)
    for name, nodes, where in (("sources", k, source), ("targets", q, target)):
        expected = (nodes.size(0), *coordinates)
        if not isinstance(where, Tensor) or tuple(where.shape) != expected:
            found = f"shape {tuple(where.shape)}" if isinstance(where, Tensor) else f"type {type(where).__name__}"
            raise ValueError(f"pos of the {name} has {found}; expected a Tensor of shape {expected}")
    return rotary(q, target.unsqueeze(1)), rotary(k, source.unsqueeze(1)), v, e
