"""How attention over edges takes in the time that passes along them: beside the edge features, or in the scores."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from graphattn.nn.encodings.rotary import RotaryEncoding
from graphattn.nn.encodings.time import TimeEncoding
from graphattn.nn.scores import Score
from graphattn.ops import Layout

FUSIONS = ("concat", "add", "kernel")


def fused_dim(
    encoding: Any, fusion: str, score: Score, edge_dim: int | None, rotary: RotaryEncoding | None
) -> int | None:
    """Return the width of the edge features with the time in them, or raise if the time does not fit in."""
    if fusion not in FUSIONS:
        raise ValueError(f"time_fusion is {fusion!r}; expected one of {', '.join(map(repr, FUSIONS))}")
    if encoding is None:
        if fusion != "concat":
            raise ValueError(f"time_fusion is {fusion!r}, but time_encoding is None; pass a TimeEncoding")
        return edge_dim
    if not isinstance(encoding, TimeEncoding):
        raise TypeError(f"time_encoding is a {type(encoding).__name__}; expected a TimeEncoding or None")
    if score.kind != "dot":
        raise ValueError(
            f"time_encoding needs a score of products, 'dot' or 'cosine'; {type(score).__name__} takes edge_attr only"
        )
    if fusion == "kernel":
        return edge_dim
    if rotary is not None:
        raise ValueError(
            f"rotary and time_fusion={fusion!r} are both given; rotated queries would weigh the time by absolute "
            "positions, pass time_fusion='kernel'"
        )
    if edge_dim is not None and edge_dim < 0:
        raise ValueError(f"edge_dim is {edge_dim}, but time_encoding needs to know it; pass the width of edge_attr")
    if fusion == "concat":
        return encoding.channels + (edge_dim or 0)
    if edge_dim not in (None, encoding.channels):
        raise ValueError(
            f"edge_dim is {edge_dim} and time_encoding has {encoding.channels} channels; time_fusion='add' needs equal "
            "widths"
        )
    return encoding.channels


def check_edge_time(encoding: TimeEncoding | None, edge_time: Any, layout: Layout) -> None:
    """Raise unless there is a time for each edge where the layer has an encoding, and none where it has not."""
    if (encoding is None) != (edge_time is None):
        found = "given, but time_encoding is None" if encoding is None else "None, but the layer has a time encoding"
        raise ValueError(f"edge_time is {found}; pass both or neither")
    if edge_time is None:
        return
    if not isinstance(edge_time, Tensor):
        raise TypeError(f"edge_time is a {type(edge_time).__name__}; expected a Tensor, int64 or float64")
    if tuple(edge_time.shape) != (layout.num_edges,):
        raise ValueError(f"edge_time has shape {tuple(edge_time.shape)}; expected ({layout.num_edges},): edges")
    device = layout.edge_index.device
    if edge_time.device != device:
        raise ValueError(f"edge_time is on {edge_time.device} but edge_index is on {device}; move one of them")


def loop_times(edge_time: Tensor, layout: Layout, looped: Layout) -> Tensor:
    """Return the times of the edges and of the loops behind them: none passes from a node to itself."""
    source, target = layout.edge_index
    return F.pad(torch.where(source == target, 0, edge_time), (0, looped.num_edges - layout.num_edges))


def fuse(
    encoding: TimeEncoding, fusion: str, edge_time: Tensor, edge_attr: Tensor | None, edge_dim: int | None, like: Tensor
) -> Tensor:
    """Return edge features with the time in them; features that are missing are 0."""
    encoded = encoding(edge_time).to(like.dtype if edge_attr is None else edge_attr.dtype)
    if fusion == "add":
        return encoded if edge_attr is None else edge_attr + encoded
    if edge_attr is None:
        return F.pad(encoded, (edge_dim, 0)) if edge_dim else encoded
    return torch.cat([edge_attr, encoded], dim=1)
