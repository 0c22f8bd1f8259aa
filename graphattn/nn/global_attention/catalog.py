"""The attentions between all nodes by name, so that a configuration can swap one for another."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from graphattn._names import nearest
from graphattn.nn.global_attention.infsa import InfSA
from graphattn.nn.global_attention.linear import LinearAttention
from graphattn.nn.global_attention.linear_infsa import LinearInfSA
from graphattn.nn.global_attention.nystrom import NystromAttention
from graphattn.nn.global_attention.pattern import PatternAttention
from graphattn.nn.global_attention.performer import PerformerAttention
from graphattn.nn.global_attention.primal import PrimalAttention
from graphattn.nn.global_attention.softmax import SoftmaxAttention
from graphattn.nn.interaction import HyperAttention, HyperFeatureAttention


def _interaction(method: Callable[..., nn.Module], **defaults: Any) -> Callable[..., nn.Module]:
    def make(channels: int, heads: int, **options: Any) -> nn.Module:
        if heads != 1:
            raise ValueError(f"heads is {heads}, but {method.__name__} has none; pass heads=1")
        return method(channels, channels, **defaults | options)

    return make


ATTENTIONS: Mapping[str, Callable[..., nn.Module]] = {
    "softmax": SoftmaxAttention,
    "linear": LinearAttention,
    "performer": PerformerAttention,
    "nystrom": NystromAttention,
    "primal": PrimalAttention,
    "infsa": InfSA,
    "linear_infsa": LinearInfSA,
    "pattern": PatternAttention,
    "hyper": _interaction(HyperAttention, rank=8),
    "hyper_feature": _interaction(HyperFeatureAttention),
}


def make_attention(name: str, channels: int, heads: int = 1, **options: Any) -> nn.Module:
    """Make an attention between all nodes of a graph by its name.

    Args:
        name: ``"softmax"``, ``"linear"``, ``"performer"``, ``"nystrom"``, ``"primal"``, ``"infsa"``,
            ``"linear_infsa"``, ``"pattern"``, ``"hyper"`` or ``"hyper_feature"``.
        channels: Width of the nodes, which it keeps.
        heads: Number of heads.
        **options: What the attention has of its own.

    Returns:
        The module, called with ``(x, batch)``.

    Raises:
        ValueError: If the name is unknown or an option is out of range.
        TypeError: If the attention does not have an option.

    Example:
        >>> make_attention("nystrom", 8, heads=2, num_landmarks=4).num_landmarks
        4
    """
    if name not in ATTENTIONS:
        near = nearest(name, ATTENTIONS)
        raise ValueError(f"attention is {name!r}; did you mean {near!r}? Expected one of {', '.join(ATTENTIONS)}")
    return ATTENTIONS[name](channels, heads, **options)
