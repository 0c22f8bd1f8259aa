"""When a layer has to make single messages, which its fused path never does, and what is done to their weights."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor
from torch_geometric.nn.conv import MessagePassing

from graphattn.ops.inputs import keep_mask

_HOOKS = (
    "_propagate_forward_pre_hooks",
    "_propagate_forward_hooks",
    "_message_forward_pre_hooks",
    "_message_forward_hooks",
    "_aggregate_forward_pre_hooks",
    "_aggregate_forward_hooks",
)

SUMS = ("add", "sum")


def needs_messages(layer: MessagePassing, owner: type[MessagePassing]) -> bool:
    """Whether an explainer, a hook, another aggregation or a subclass of ``owner`` must see single messages."""
    return bool(
        layer.explain
        or layer.decomposed_layers > 1
        or layer.aggr not in SUMS
        or any(getattr(layer, name) for name in _HOOKS)
        or type(layer).message is not owner.message
        or type(layer).aggregate is not MessagePassing.aggregate
        or type(layer).update is not MessagePassing.update
    )


def edge_factors(layer: MessagePassing, num_edges: int) -> Tensor:
    """Factor of every edge under an explainer's mask: the caller's edges first, then ones for loops that were added."""
    mask = layer._edge_mask
    if mask is None:
        raise ValueError("_edge_mask is None; an explainer sets it before it runs the layer")
    mask = mask.sigmoid() if layer._apply_sigmoid else mask
    return F.pad(mask, (0, num_edges - mask.size(0)), value=1.0)


def drop_weights(alpha: Tensor, dropout: float) -> Tensor:
    """Drop some of the weights of the edges and scale up the others."""
    keep = keep_mask(alpha.size(0), alpha.size(1), dropout, alpha.device)
    return alpha if keep is None else alpha * keep / (1.0 - dropout if dropout < 1.0 else 1.0)
