"""Equal layers for PyG's attention layers: one at a time, or all of them inside a model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from torch import nn
from torch_geometric.nn import GATConv, GATv2Conv, MessagePassing, TransformerConv

from graphattn.nn.attention_conv import AttentionConv
from graphattn.nn.scores import GAT, GATv2

_CONVERTED = (GATConv, GATv2Conv, TransformerConv)


def from_pyg(layer: MessagePassing) -> AttentionConv:
    r"""Turn a PyG ``GATConv``, ``GATv2Conv`` or ``TransformerConv`` into the equal :class:`AttentionConv`.

    The parameters are not copied but shared: an optimizer that holds them goes on training them, and both layers give
    the same outputs and gradients up to rounding.

    Args:
        layer: The layer to convert, initialized or lazy.

    Returns:
        A layer with the same parameters, options and training mode. Its returned attention weights follow the
        caller's edges; PyG's do not where self-loops are added.

    Raises:
        TypeError: If the layer is of another class, a subclass included.
        ValueError: If the layer uses something that cannot be converted; the message says what.

    Example:
        >>> import torch
        >>> layer = GATConv(8, 4, heads=2)
        >>> x, edge_index = torch.randn(3, 8), torch.tensor([[0, 1, 2], [1, 2, 2]])
        >>> torch.allclose(from_pyg(layer)(x, edge_index), layer(x, edge_index), atol=1e-6)
        True
    """
    if type(layer) not in _CONVERTED:
        names = ", ".join(cls.__name__ for cls in _CONVERTED)
        raise TypeError(f"layer is a {type(layer).__name__}; expected one of {names}, and no subclass")
    obstacle = next(_obstacles(layer), None)
    if obstacle is not None:
        raise ValueError(f"layer is a {type(layer).__name__} with {obstacle}, which cannot be converted")
    conv = _transformer(layer) if isinstance(layer, TransformerConv) else _gat(layer)
    conv.explain, conv.decomposed_layers = layer.explain, layer.decomposed_layers
    return conv.train(layer.training)


@dataclass
class Acceleration:
    """What :func:`accelerate` did; print it to read it.

    Attributes:
        replaced: (name, class) of every layer that was replaced.
        kept: (name, class, reason) of every attention layer that was left as it was.

    Example:
        >>> print(accelerate(nn.Sequential(GATConv(8, 4), nn.ReLU())))
        replaced 1 layers, kept 0
          replaced 0 (GATConv)
    """

    replaced: list[tuple[str, str]] = field(default_factory=list)
    kept: list[tuple[str, str, str]] = field(default_factory=list)

    def __str__(self) -> str:
        lines = [f"replaced {len(self.replaced)} layers, kept {len(self.kept)}"]
        lines += [f"  replaced {name} ({cls})" for name, cls in self.replaced]
        lines += [f"  kept     {name} ({cls}): {reason}" for name, cls, reason in self.kept]
        return "\n".join(lines)


def accelerate(model: nn.Module) -> Acceleration:
    r"""Replace every ``GATConv``, ``GATv2Conv`` and ``TransformerConv`` inside a PyG model by its equal, in place.

    The new layers share the old parameters, so the model's outputs stay the same and existing optimizers stay valid.
    The keys of the state dict follow the new layers: save checkpoints before, or load them into an accelerated model.

    Args:
        model: A module that contains such layers.

    Returns:
        What was replaced, and what was kept for which reason.

    Raises:
        ValueError: If the model itself is such a layer: it has no parent to be replaced in; use :func:`from_pyg`.

    Example:
        >>> from torch_geometric.nn.models import GAT
        >>> print(accelerate(GAT(16, 32, num_layers=2, heads=4)))
        replaced 2 layers, kept 0
          replaced convs.0 (GATConv)
          replaced convs.1 (GATConv)
    """
    if isinstance(model, _CONVERTED):
        raise ValueError(f"model is itself a {type(model).__name__}; use from_pyg(model), which returns the new layer")
    report = Acceleration()
    equals: dict[nn.Module, AttentionConv] = {}  # a layer used in two places stays one layer
    for name, module in list(model.named_modules(remove_duplicate=False)):
        if not isinstance(module, _CONVERTED):
            continue
        cls = type(module).__name__
        try:
            equal = equals[module] if module in equals else from_pyg(module)
        except (TypeError, ValueError) as error:
            report.kept.append((name, cls, str(error)))
            continue
        equals[module] = equal
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, equal)
        report.replaced.append((name, cls))
    return report


def _obstacles(layer: MessagePassing) -> Iterator[str]:
    if layer.flow != "source_to_target":
        yield f"flow={layer.flow!r}"
    hooks = [name for name, value in vars(layer).items() if name.endswith("_hooks") and value]
    if hooks:
        yield f"registered hooks ({', '.join(hooks)})"
    if layer.aggr is None or not isinstance(layer.aggr, str):
        yield f"aggr={layer.aggr!r}"
    if getattr(layer, "parametrizations", None):
        yield "parametrized weights"


def _gat(layer: GATConv | GATv2Conv) -> AttentionConv:
    is_v2 = isinstance(layer, GATv2Conv)
    score = GATv2(layer.negative_slope, layer.share_weights) if is_v2 else GAT(layer.negative_slope)
    conv = AttentionConv(
        layer.in_channels,
        layer.out_channels,
        layer.heads,
        concat=layer.concat,
        score=score,
        edge_dim=layer.edge_dim,
        dropout=layer.dropout,
        add_self_loops=layer.add_self_loops,
        fill_value=layer.fill_value,
        residual=layer.residual,
        bias=layer.bias is not None,
        aggr=layer.aggr,
    )
    if is_v2:
        score.lin_l, score.lin_r, score.att = layer.lin_l, layer.lin_r, layer.att
    else:
        score.lin_src = layer.lin_src if layer.lin is None else layer.lin
        score.lin_dst = layer.lin_dst
        score.att_src, score.att_dst, score.att_edge = layer.att_src, layer.att_dst, layer.att_edge
    score.lin_edge, conv.res, conv.bias = layer.lin_edge, layer.res, layer.bias
    return conv


def _transformer(layer: TransformerConv) -> AttentionConv:
    conv = AttentionConv(
        layer.in_channels,
        layer.out_channels,
        layer.heads,
        concat=layer.concat,
        score="dot",
        edge_dim=layer.edge_dim,
        dropout=layer.dropout,
        root_weight=layer.root_weight,
        beta=layer.beta,
        bias=layer.lin_query.bias is not None,
        aggr=layer.aggr,
    )
    score = conv.score
    score.lin_query, score.lin_key, score.lin_value = layer.lin_query, layer.lin_key, layer.lin_value
    score.lin_edge = layer.lin_edge
    if layer.root_weight:
        conv.lin_skip, conv.lin_beta = layer.lin_skip, layer.lin_beta
    return conv
