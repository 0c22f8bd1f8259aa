"""Symmetric initialization: layers of attention that start with equal projections to queries and keys."""

from __future__ import annotations

import torch
from torch import Tensor, nn

# Attributes under which layers keep their projections to queries and to keys.
_PROJECTIONS = (("lin_query", "lin_key"), ("query", "key"), ("q_proj", "k_proj"), ("q_lin", "k_lin"))


def symmetric_init_(layer: nn.Module) -> nn.Module:
    r"""Set the query weights of a layer of attention to its key weights, in place: :math:`\mathbf{W}_q = \mathbf{W}_k`.

    Its scores start symmetric, as those of encoders become in training: in most of the paper's runs encoders then
    learned faster.
    Biases stay as they are. Keys that serve a group of heads are repeated for each of them.

    Args:
        layer: An :class:`~graphattn.nn.AttentionConv` with dot or cosine scores, a ``MultiheadAttention``, PyG's
            ``TransformerConv``, or a self-attention module of transformers.

    Returns:
        The layer.

    Raises:
        ValueError: If queries and keys are projected from features of different widths, or not yet initialized.
        TypeError: If the layer has no projections to queries and keys.

    Example:
        >>> layer = symmetric_init_(nn.MultiheadAttention(8, 2))
        >>> W_q, W_k, _ = layer.in_proj_weight.chunk(3)
        >>> torch.equal(W_q, W_k)
        True

    Reference:
        Saponati et al., "The underlying structures of self-attention: symmetry, directionality, and emergent dynamics
        in Transformer training", ICML 2025.
    """
    with torch.no_grad():
        query, key = _projections(layer)
    if query.shape[1] != key.shape[1] or query.shape[0] % key.shape[0]:
        raise ValueError(
            f"queries have weights {tuple(query.shape)} and keys {tuple(key.shape)}; only projections from the same "
            "features to the same channels, or groups of them, can be set equal"
        )
    groups = query.shape[0] // key.shape[0]
    with torch.no_grad():
        if groups > 1:
            channels = int(getattr(layer, "head_dim", 0))
            if channels < 1 or key.shape[0] % channels:
                raise ValueError(f"{type(layer).__name__} has fewer keys than queries but no head_dim divides them")
            key = key.unflatten(0, (-1, channels)).repeat_interleave(groups, dim=0).flatten(0, 1)
        query.copy_(key)
    return layer


def _projections(layer: nn.Module) -> tuple[Tensor, Tensor]:
    """Return the query and key weights of a layer, [channels, features], as they are stored."""
    if isinstance(layer, nn.MultiheadAttention):
        if layer.in_proj_weight is None:
            return layer.q_proj_weight, layer.k_proj_weight
        query, key, _ = layer.in_proj_weight.chunk(3)
        return query, key
    for owner in (layer, getattr(layer, "score", None)):
        for names in _PROJECTIONS:
            found = [getattr(getattr(owner, name, None), "weight", None) for name in names]
            if all(isinstance(weight, nn.UninitializedParameter) for weight in found):
                raise ValueError(f"{type(layer).__name__} is lazy and has no weights yet; call it once before")
            if all(isinstance(weight, Tensor) for weight in found):
                return found[0], found[1]  # type: ignore[return-value]
    known = ", ".join(f"{query}/{key}" for query, key in _PROJECTIONS)
    raise TypeError(f"layer is a {type(layer).__name__} without projections to queries and keys; looked for {known}")
