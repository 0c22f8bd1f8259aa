"""One layer of a graph transformer: attention along edges, attention between all nodes, and a perceptron."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from graphattn.nn.attention_conv import AttentionConv
from graphattn.nn.dropout import drop
from graphattn.nn.feed_forward import FeedForward, check_options, make_norm


class GraphTransformerLayer(nn.Module):
    r"""Let nodes gather along the edges and from their whole graph, then map each by a perceptron.

    .. math::
        \text{norm last:} \quad \mathbf{L} &= \operatorname{norm}(\mathbf{H} + \operatorname{conv}(\mathbf{H})), \quad
        \mathbf{G} = \operatorname{norm}(\mathbf{H} + \operatorname{attend}(\mathbf{H})), \quad
        \mathbf{H}' = \operatorname{norm}(\mathbf{L} + \mathbf{G} + \operatorname{mlp}(\mathbf{L} + \mathbf{G}))

        \text{norm first:} \quad \mathbf{M} &= \mathbf{H} + \operatorname{conv}(\operatorname{norm}(\mathbf{H})) +
        \operatorname{attend}(\operatorname{norm}(\mathbf{H})), \quad
        \mathbf{H}' = \mathbf{M} + \operatorname{mlp}(\operatorname{norm}(\mathbf{M}))

    Norm last is the layer of GraphGPS; without ``conv`` it is that of a transformer, without ``attention`` that of a
    graph network with a perceptron.

    Args:
        channels: Width of the nodes :math:`C`.
        conv: Layer over edges: any of PyG's or ours that keeps the width; ``None`` for none.
        attention: Attention between all nodes of a graph, called with ``(x, batch)``: any of
            :mod:`graphattn.nn.global_attention`, or a module of yours; ``None`` for none.
        norm: ``"layer"``, ``"batch"`` or ``None``.
        norm_first: Whether normalization stands before each part or behind it.
        ff_channels: Hidden width of the perceptron; by default :math:`2C`.
        act: ``"relu"``, ``"elu"``, ``"gelu"`` or ``"leaky_relu"``.
        dropout: Probability of dropping an activation in training.

    Shapes:
        - **input:** ``x`` :math:`(N, C)`
        - **output:** :math:`(N, C)`

    Raises:
        ValueError: If there is neither ``conv`` nor ``attention``, or an option is unknown.

    Example:
        >>> import torch
        >>> from graphattn.nn.global_attention import LinearAttention
        >>> layer = GraphTransformerLayer(8, AttentionConv(8, 4, heads=2), LinearAttention(8, heads=2))
        >>> layer(torch.rand(3, 8), torch.tensor([[0, 1], [1, 2]])).shape
        torch.Size([3, 8])

    Reference:
        Rampášek et al., "Recipe for a General, Powerful, Scalable Graph Transformer", 2022; Xiong et al., "On Layer
        Normalization in the Transformer Architecture", 2020 (norm first).
    """

    def __init__(
        self,
        channels: int,
        conv: nn.Module | None = None,
        attention: nn.Module | None = None,
        *,
        norm: str | None = "layer",
        norm_first: bool = False,
        ff_channels: int | None = None,
        act: str = "relu",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        check_options(act, dropout=dropout)
        if conv is None and attention is None:
            raise ValueError("conv and attention are both None; pass at least one of them")
        self.conv = conv
        self.attention = attention
        self.norm_first = norm_first
        self.norm1, self.norm2, self.norm3 = (make_norm(norm, channels) for _ in range(3))
        self.mlp = FeedForward(channels, ff_channels, act=act, dropout=dropout)
        self.dropout = dropout

    def reset_parameters(self) -> None:
        """Draw all parameters anew."""
        modules: list[Any] = [module for module in self.children() if not isinstance(module, nn.Identity)]
        for module in modules:
            module.reset_parameters()

    def forward(
        self,
        x: Tensor,
        edge_index: Any = None,
        edge_attr: Tensor | None = None,
        batch: Tensor | None = None,
        *,
        return_loss: bool = False,
    ) -> Any:
        """Map the nodes of one or more graphs.

        Args:
            x: Nodes.
            edge_index: Edges, in any form that ``conv`` takes.
            edge_attr: Edge features, if ``conv`` takes any.
            batch: Graph of each node; by default all belong to one.
            return_loss: Whether to return the loss of the attention too, for one that has one
                (:class:`~graphattn.nn.global_attention.PrimalAttention`).

        Returns:
            The nodes; with ``return_loss`` also the loss.

        Raises:
            ValueError: If edges or their features are given without a ``conv``, or missing with one.
        """
        if self.conv is None and (edge_index is not None or edge_attr is not None):
            raise ValueError("edges are given, but conv is None; leave them out, or pass a conv to the layer")
        if self.conv is not None and edge_index is None:
            raise ValueError("edge_index is missing; expected edges for conv")
        loss: Tensor | None = None
        near, far = None, None
        if self.conv is not None:
            h = self.norm1(x) if self.norm_first else x
            near = self._drop(self._along_edges(self.conv, h, edge_index, edge_attr, batch))
        if self.attention is not None:
            h = self.norm2(x) if self.norm_first else x
            if return_loss:
                far, loss = self.attention(h, batch, return_loss=True)
            else:
                far = self.attention(h, batch)
            far = self._drop(far)
        if self.norm_first:
            both = x + sum(part for part in (near, far) if part is not None)
            out = both + self._drop(self.mlp(self.norm3(both)))
        else:
            normed = [norm(x + part) for norm, part in ((self.norm1, near), (self.norm2, far)) if part is not None]
            both = sum(normed[1:], normed[0])
            out = self.norm3(both + self._drop(self.mlp(both)))
        return (out, loss) if return_loss else out

    def _along_edges(
        self, conv: nn.Module, x: Tensor, edge_index: Any, edge_attr: Tensor | None, batch: Tensor | None
    ) -> Tensor:
        features: dict[str, Tensor | None] = {} if edge_attr is None else {"edge_attr": edge_attr}
        if isinstance(conv, AttentionConv):
            features["batch"] = batch
        return conv(x, edge_index, **features)

    def _drop(self, x: Tensor) -> Tensor:
        return drop(x, self.dropout, self.training)
