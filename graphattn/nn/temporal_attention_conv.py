"""Attention over the past events of a node as a PyG layer: what was there, what happened, and how long ago."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch_geometric.nn.conv import MessagePassing

from graphattn.affinity.normalize import log_prior
from graphattn.nn.dropout import drop
from graphattn.nn.edges import Size, check_edge_attr, read_edges
from graphattn.nn.encodings.time import TimeEncoding
from graphattn.nn.messages import drop_weights, edge_factors, needs_messages
from graphattn.nn.times import check_edge_time, fuse
from graphattn.ops import Layout
from graphattn.ops.attention import BACKENDS
from graphattn.ops.shared import shared_attention

_MODES = ("product", "map")


class TemporalAttentionConv(MessagePassing):
    r"""Let every node attend to its past events: the layer of TGAT.

    .. math::
        \mathbf{z}_i = [\mathbf{h}_i ; \mathbf{0} ; \Phi(0)], \quad
        \mathbf{z}_{ij} = [\mathbf{h}_j ; \mathbf{e}_{ij} ; \Phi(t_i - t_j)], \quad
        \mathbf{o}_i = \sum_{j \to i} \operatorname{softmax}_j\!\left(\tfrac{1}{\sqrt{C}}
        (\mathbf{W}_q \mathbf{z}_i)^{\top} \mathbf{W}_k \mathbf{z}_{ij}\right) \mathbf{W}_v \mathbf{z}_{ij}

    .. math::
        \mathbf{h}_i' = \mathbf{W}_2 \operatorname{relu}(\mathbf{W}_1 [\operatorname{LayerNorm}(\mathbf{W}_o
        \mathbf{o}_i + \mathbf{z}_i) ; \mathbf{h}_i] + \mathbf{b}_1) + \mathbf{b}_2

    Rows are nodes at a time and edges are earlier events, as :class:`~graphattn.training.TemporalSampler` cuts them:
    their sources are the other nodes as they were then. A row without a past attends to nothing,
    :math:`\mathbf{o}_i = 0`; the released code gives it the mean of padding.

    Keys and values of single events are never made: queries go through :math:`\mathbf{W}_k^{\top}`, and
    :math:`\mathbf{W}_v` acts on sums of :math:`\mathbf{z}_{ij}`. With :math:`D` the width of :math:`\mathbf{z}` this
    takes :math:`O(N D^2 + E H D)` time and :math:`O(N H D + E H)` memory beside the inputs. Hooks, explainers and
    subclasses with their own ``message`` see single messages, with the same numbers.

    Args:
        in_channels: Width of the node features.
        out_channels: Width of the output.
        time_encoding: Encodes times; several layers may share it, and resetting a layer leaves it as it is.
        edge_dim: Width of the features of events; ``None`` if there are none.
        heads: Heads :math:`H`, of :math:`C = D / H` channels.
        mode: ``"product"``, or ``"map"`` for scores :math:`\mathbf{a}^{\top} \mathbf{W}_k \mathbf{z}_{ij}`, with a
            LeakyReLU behind :math:`\mathbf{W}_o`. The released code adds a term of the query to those, which the
            softmax takes out again.
        dropout: Probability of dropping an attention weight or an entry behind :math:`\mathbf{W}_o` in training.
        backend: ``"auto"``, ``"reference"``, ``"csr"`` or ``"scatter"``, see :mod:`graphattn.ops`.

    Shapes:
        - **input:** ``x`` :math:`(N, F)` or :math:`((M, F), (N, F))`, ``edge_index`` :math:`(2, E)`, ``edge_time``
          :math:`(E,)`, ``edge_attr`` :math:`(E, D_e)`
        - **output:** :math:`(N, F')`; weights :math:`(E, H)`

    Raises:
        ValueError: If an option is unknown or out of range, or :math:`D` no multiple of the heads.
        TypeError: If ``time_encoding`` is no time encoding.

    Example:
        >>> from graphattn.nn.encodings.time import TGATEncoding
        >>> conv = TemporalAttentionConv(6, 8, TGATEncoding(4))
        >>> x, edge_index = torch.randn(3, 6), torch.tensor([[1, 2], [0, 0]])
        >>> conv(x, edge_index, torch.tensor([30, 5])).shape
        torch.Size([3, 8])

    Reference:
        Xu et al., "Inductive Representation Learning on Temporal Graphs", 2020.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        time_encoding: TimeEncoding,
        *,
        edge_dim: int | None = None,
        heads: int = 2,
        mode: str = "product",
        dropout: float = 0.1,
        backend: str = "auto",
    ) -> None:
        super().__init__(aggr="add", node_dim=0)
        if not isinstance(time_encoding, TimeEncoding):
            raise TypeError(f"time_encoding is a {type(time_encoding).__name__}; expected a TimeEncoding")
        if mode not in _MODES:
            raise ValueError(f"mode is {mode!r}; expected one of {', '.join(map(repr, _MODES))}")
        if backend not in BACKENDS:
            raise ValueError(f"backend is {backend!r}; expected one of {', '.join(map(repr, BACKENDS))}")
        if not 0.0 <= dropout <= 1.0:
            raise ValueError(f"dropout is {dropout}; expected a probability in [0, 1]")
        for name, size in (("in_channels", in_channels), ("out_channels", out_channels), ("heads", heads)):
            if size < 1:
                raise ValueError(f"{name} is {size}; expected at least 1")
        if edge_dim is not None and edge_dim < 1:
            raise ValueError(f"edge_dim is {edge_dim}; expected at least 1, or None without edge features")
        width = in_channels + (edge_dim or 0) + time_encoding.channels
        if width % heads:
            raise ValueError(
                f"in_channels + edge_dim + time channels is {width} and heads is {heads}; expected a multiple of heads"
            )
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.edge_dim = edge_dim
        self.heads = heads
        self.mode = mode
        self.dropout = dropout
        self.backend = backend
        self.width = width

        self.time_encoding = time_encoding
        self.lin_query = nn.Linear(width, width, bias=False) if mode == "product" else None
        self.att = nn.Parameter(torch.empty(width // heads)) if mode == "map" else None
        self.lin_key = nn.Linear(width, width, bias=False)
        self.lin_value = nn.Linear(width, width, bias=False)
        self.lin_out = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)
        self.merge = nn.Sequential(
            nn.Linear(width + in_channels, out_channels), nn.ReLU(), nn.Linear(out_channels, out_channels)
        )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all parameters anew, but for those of the time encoding, which other layers may share."""
        super().reset_parameters()
        for module in (self.lin_out, self.norm, self.merge[0], self.merge[2]):
            module.reset_parameters()  # type: ignore[operator]
        for linear in (self.lin_out, self.merge[0], self.merge[2]):
            nn.init.xavier_normal_(linear.weight)  # type: ignore[arg-type]
        std = (2 / (self.width + self.width // self.heads)) ** 0.5
        for projection in (self.lin_query, self.lin_key, self.lin_value):
            if projection is not None:
                nn.init.normal_(projection.weight, std=std)
        if self.att is not None:
            bound = self.att.numel() ** -0.5
            nn.init.uniform_(self.att, -bound, bound)

    def forward(
        self,
        x: Tensor | tuple[Tensor, Tensor],
        edge_index: Any,
        edge_time: Tensor,
        edge_attr: Tensor | None = None,
        size: Size = None,
        *,
        return_attention_weights: bool = False,
    ) -> Tensor | tuple[Tensor, tuple[Tensor, Tensor]]:
        r"""Attend along the edges.

        Args:
            x: Node features, or (source, target) features of a bipartite graph.
            edge_index: Edges, source row first: a Tensor, an ``EdgeIndex``, a torch sparse matrix (row = target), or
                an :class:`~graphattn.Affinity`. The weights of the last two are a prior: they multiply the
                exponentials of the scores.
            edge_time: How long before its target's time each event was, :math:`t_i - t_j`, int64 or float64.
            edge_attr: Features of the events; without them they are 0.
            size: (number of sources, number of targets), where the features do not tell.
            return_attention_weights: Whether to also return ``(edge_index, alpha)``.

        Returns:
            The new features of the targets, and the weights if asked for.

        Raises:
            ValueError: If a shape, a device or an index does not fit, a time is not finite, or a prior weight is
                negative.
            TypeError: If a dtype does not fit.
        """
        x_src, x_dst = x if isinstance(x, (tuple, list)) else (x, x)
        layout, prior = read_edges(edge_index, x_src, x_dst, size, self.heads)
        for name, features in (("sources", x_src), ("targets", x_dst)):
            if features.size(1) != self.in_channels:
                raise ValueError(f"x of the {name} has {features.size(1)} channels; expected {self.in_channels}")
        edge_attr = check_edge_attr(edge_attr, self.edge_dim, layout)
        check_edge_time(self.time_encoding, edge_time, layout)

        # One call of the encoding for the edges and for time 0 behind them: drawn frequencies serve both.
        if edge_attr is not None:
            edge_attr = F.pad(edge_attr, (0, 0, 0, 1))
        fused = fuse(self.time_encoding, "concat", F.pad(edge_time, (0, 1)), edge_attr, self.edge_dim, x_src)
        events, last = fused.split([layout.num_edges, 1])
        now = F.pad(last[0, self.edge_dim or 0 :], (self.width - self.time_encoding.channels, 0))

        dropout, single = self.dropout if self.training else 0.0, needs_messages(self, TemporalAttentionConv)
        q = self._queries(x_dst, now)
        bias = self._bias(x_src, events, layout, prior)
        sums, alpha = shared_attention(
            q, x_src, events, layout, bias=bias, dropout=0.0 if single else dropout, backend=self.backend
        )
        if single:
            node, event = self._weight(self.lin_value).split([self.in_channels, events.size(1)], dim=2)
            v, e = torch.einsum("md,hcd->mhc", x_src, node), torch.einsum("ed,hcd->ehc", events, event)
            kept, edges = drop_weights(alpha, dropout), layout.edge_index.long()
            out = self.propagate(edges, v=v, alpha=kept, e=e, size=(layout.num_cols, layout.num_rows))
        else:
            out = torch.bmm(sums.transpose(0, 1), self._weight(self.lin_value).mT).transpose(0, 1)
        out = self._finish(out.flatten(1), now, x_dst)
        return (out, (layout.edge_index, alpha)) if return_attention_weights else out

    def message(self, v_j: Tensor, alpha: Tensor, e: Tensor) -> Tensor:
        """Weigh the values of single events; the path that hooks and explainers see."""
        return alpha.unsqueeze(-1) * (v_j + e)

    def explain_message(self, inputs: Tensor, dim_size: int | None) -> Tensor:
        """Weigh messages by the edge mask of an explainer."""
        return inputs * edge_factors(self, inputs.size(0)).view(-1, 1, 1)

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({self.in_channels}, {self.out_channels}, heads={self.heads}, "
            f"time_encoding={type(self.time_encoding).__name__})"
        )

    def _queries(self, x_dst: Tensor, now: Tensor) -> Tensor | None:
        """Return what meets events as they are: queries that have gone through the map of the keys, scaled.

        z is a row's features and a constant, so that the maps of queries and keys meet before they meet the rows.
        """
        if self.lin_query is None:
            return None
        weight = self.lin_query.weight
        query = torch.cat([weight[:, : self.in_channels], (weight @ now).unsqueeze(1)], dim=1)
        maps = torch.bmm(query.view(self.heads, -1, self.in_channels + 1).mT, self._weight(self.lin_key))
        maps, shift = maps.transpose(0, 1).flatten(1).split([self.in_channels, 1])
        scale = (self.width // self.heads) ** -0.5
        return torch.addmm(shift, x_dst, maps, beta=scale, alpha=scale).unflatten(1, (self.heads, self.width))

    def _bias(self, x_src: Tensor, events: Tensor, layout: Layout, prior: Tensor | None) -> Tensor | None:
        """Return what is added to the scores: the prior, and in map mode the scores themselves."""
        bias = None if prior is None else log_prior(prior).to(x_src.dtype).expand(-1, self.heads)
        if self.att is None:
            return bias
        key = torch.einsum("c,hcd->hd", self.att, self._weight(self.lin_key))
        node, event = key.split([self.in_channels, events.size(1)], dim=1)
        scores = (x_src @ node.T).index_select(0, layout.edge_index[0]) + events @ event.T
        return scores if bias is None else scores + bias

    def _weight(self, linear: nn.Linear) -> Tensor:
        return linear.weight.view(self.heads, self.width // self.heads, self.width)

    def _finish(self, out: Tensor, now: Tensor, x_dst: Tensor) -> Tensor:
        out = self.lin_out(out)
        out = out if self.mode == "product" else F.leaky_relu(out, 0.2)
        z = torch.cat([x_dst, now[self.in_channels :].expand(x_dst.size(0), -1)], dim=1)
        out = self.norm(drop(out, self.dropout, self.training) + z)
        return self.merge(torch.cat([out, x_dst], dim=1))
