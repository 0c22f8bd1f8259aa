"""Attention over the edges of a graph as a PyG layer: score, normalize, propagate."""

from __future__ import annotations

import copy
import math
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch_geometric.nn.conv import MessagePassing
from torch_geometric.nn.dense.linear import Linear
from torch_geometric.nn.inits import constant, zeros

from graphattn import ops
from graphattn.affinity.normalize import NORMALIZATIONS, EdgeSupport, log_prior, normalize_scores
from graphattn.nn.edges import FILLS, append_loops, check_edge_attr, read_edges
from graphattn.nn.encodings.rotary import RotaryEncoding
from graphattn.nn.encodings.time import TimeEncoding
from graphattn.nn.hops import SERIES, Step, bound_radius, check_hops, fraction, logit, sum_hops
from graphattn.nn.messages import SUMS, drop_weights, edge_factors, needs_messages
from graphattn.nn.positions import check_rotary, rotate
from graphattn.nn.scores import Projected, Score, resolve
from graphattn.nn.sparse_features import linear
from graphattn.nn.times import check_edge_time, fuse, fused_dim, loop_times
from graphattn.ops import Layout
from graphattn.ops.attention import BACKENDS


class AttentionConv(MessagePassing):
    r"""Let every node attend to its neighbours: one hop, many or all over an affinity built from the features.

    .. math::
        \mathbf{o}_i = \sum_{j \to i} A_{ij} (\mathbf{v}_j + \mathbf{W}_e \mathbf{e}_{ij}), \quad
        A = \operatorname{normalize}(s(\mathbf{q}_i, \mathbf{k}_j, \mathbf{e}_{ij}))

    With ``score="dot"``, ``"gat"`` or ``"gatv2"`` it is PyG's ``TransformerConv``, ``GATConv`` or ``GATv2Conv``
    (:func:`~graphattn.nn.from_pyg` converts them), computed without ever storing an edge-by-channel tensor:
    memory is :math:`O(N H C + E H)` where those layers need :math:`O(E H C)`. Whenever something needs to see single
    messages (an explainer, a hook, ``decomposed_layers``, a subclass with its own ``message``), the layer goes
    through ``message`` and ``propagate`` instead, with the same numbers.

    More ``hops`` let the neighbours' neighbours speak along the same affinity, with :math:`c` = ``decay``,
    :math:`\mathbf{u}` the :math:`\mathbf{o}` above and weights that sum to 1, so that with weights of rows that sum to
    1 every output stays between the values. Edge features enter the values in the first hop. ``series="sum"`` keeps
    the raw weights :math:`c^t` of Infinite Feature Selection.

    .. math::
        \mathbf{O} = \sum_{t=1}^{K} w_t\,\mathbf{A}^{t-1}\,\mathbf{U}, \quad w_t \propto c^{t-1}; \qquad
        K = \infty: \quad \mathbf{O} = (1 - c)\,(\mathbf{I} - c\,\mathbf{A})^{-1}\,\mathbf{U}

    All hops is one linear system, solved by :func:`~graphattn.diffusion.resolvent` to the precision of the dtype, with
    an implicit gradient; it warns where it does not converge. The series converges as the spectral radius of
    :math:`\mathbf{A}` is at most 1 (see ``normalize``). Dropout acts on the first hop alone: the expected output is
    that without it, and dropped weights, scaled up, cannot make the series diverge.

    Args:
        in_channels: Width of the node features, or (source, target) widths of a bipartite graph; -1 derives it from
            the first input.
        out_channels: Channels per head :math:`C`.
        heads: Heads :math:`H`.
        concat: Whether heads are concatenated; otherwise they are averaged.
        score: ``"dot"``, ``"gat"``, ``"gatv2"``, ``"cosine"``, ``"gaussian"``, or a :class:`~graphattn.nn.Score`.
        normalize: ``"softmax"``, ``"row"``, ``"symmetric"``, ``"sigmoid"``, ``"sinkhorn"``, ``"relu_frobenius"`` or
            ``"none"``, which has one hop only. With more hops sigmoid weights are divided by their largest row sum in
            the graph, and relu_frobenius weights where parallel edges add up to a norm above 1.
        hops: Number of hops :math:`K`: an integer, or ``math.inf`` for all.
        decay: How much less every further hop counts, :math:`c`, between 0 and 1.
        series: ``"mean"``, where one hop is plain attention whatever the decay, or ``"sum"``.
        learn_decay: Whether :math:`c` is learned, one for each head, from ``decay`` on.
        edge_dim: Width of the edge features; ``None`` if there are none.
        dropout: Probability of dropping an attention weight in training, in the first hop.
        add_self_loops: Whether every node also attends to itself, exactly once. The caller's edges keep their places.
        fill_value: Edge features of the loops: a number, a tensor, or how to reduce the features of the edges that
            enter the node (``"mean"``, ``"add"``, ``"min"``, ``"max"``, ``"mul"``).
        residual: Whether to add a linear map of the target features, without bias.
        root_weight: Whether to add a linear map of the target features, with bias; ``None`` does what the PyG layer
            of the score does (dot: yes, gat and gatv2: no).
        beta: Whether a learned gate mixes the root term and the attended values instead of adding them.
        bias: Whether there are biases: in the projections for dot, also on the output for gat and gatv2.
        rotary: Rotates queries and keys of every head by the positions of the nodes, so that the scores of
            ``"dot"`` and ``"cosine"`` see relative positions; goes without edge features. ``None`` for no positions.
        time_encoding: Encodes the time that passes along each edge, ``edge_time``, for ``"dot"`` and ``"cosine"``.
            Several layers may share it: resetting a layer leaves it as it is. ``None`` for no times.
        time_fusion: How the time comes in: ``"concat"`` behind the edge features, ``"add"`` to them, which needs equal
            widths, or ``"kernel"``, which adds :math:`\alpha_h K(t_{ij}, 0)` to the scores, with :math:`\alpha_h`
            learned from 0 on.
        backend: ``"auto"``, ``"reference"``, ``"csr"``, ``"scatter"`` or ``"triton"``, see
            :mod:`graphattn.ops`; the solver of ``hops=math.inf`` has its own. ``"triton"`` draws its own dropout.
        **kwargs: Further arguments of ``torch_geometric.nn.MessagePassing``.

    Shapes:
        - **input:** ``x`` :math:`(N, F)` or :math:`((M, F_s), (N, F_t))`, ``edge_index`` :math:`(2, E)`,
          ``edge_attr`` :math:`(E, D)`, ``edge_time`` :math:`(E,)`
        - **output:** :math:`(N, H C)`, or :math:`(N, C)` if not ``concat``; weights :math:`(E, H)`

    Raises:
        ValueError: If an option is unknown or contradicts another.

    Example:
        >>> conv = AttentionConv(16, 8, heads=4)
        >>> x, edge_index = torch.randn(3, 16), torch.tensor([[0, 1, 2], [1, 1, 0]])
        >>> conv(x, edge_index).shape
        torch.Size([3, 32])
        >>> _, (_, alpha) = conv(x, edge_index, return_attention_weights=True)
        >>> torch.allclose(alpha[:2].sum(0), torch.ones(4))  # both edges into node 1
        True
        >>> AttentionConv(16, 8, hops=3, decay=0.5, learn_decay=True).decay.tolist()
        [0.5]
        >>> from graphattn.nn.encodings.time import BochnerEncoding
        >>> timed = AttentionConv(16, 8, time_encoding=BochnerEncoding(4))
        >>> timed(x, edge_index, edge_time=torch.tensor([60, 3, 9])).shape
        torch.Size([3, 8])

    Reference:
        Shi et al., 2021 (dot); Veličković et al., 2018 (gat); Brody et al., 2022 (gatv2); Roffo et al., "Infinite
        Feature Selection", 2015 (all hops); Roffo et al., "Infinite Self-Attention", 2026 (relu_frobenius, sum); Su et
        al., "RoFormer", 2021 (rotary); Xu et al., "Self-attention with Functional Time Representation Learning", 2019.
    """

    def __init__(
        self,
        in_channels: int | tuple[int, int],
        out_channels: int,
        heads: int = 1,
        *,
        concat: bool = True,
        score: str | Score = "dot",
        normalize: str = "softmax",
        hops: float = 1,
        decay: float = 0.9,
        series: str = "mean",
        learn_decay: bool = False,
        edge_dim: int | None = None,
        dropout: float = 0.0,
        add_self_loops: bool = False,
        fill_value: float | Tensor | str = "mean",
        residual: bool = False,
        root_weight: bool | None = None,
        beta: bool = False,
        bias: bool = True,
        rotary: RotaryEncoding | None = None,
        time_encoding: TimeEncoding | None = None,
        time_fusion: str = "concat",
        backend: str = "auto",
        **kwargs: Any,
    ) -> None:
        kwargs.setdefault("aggr", "add")
        super().__init__(node_dim=0, **kwargs)
        if self.flow != "source_to_target":
            raise ValueError(f"flow is {self.flow!r}; pass edge_index.flip(0) to reverse the edges instead")
        if normalize not in NORMALIZATIONS:
            raise ValueError(f"normalize is {normalize!r}; expected one of {', '.join(map(repr, NORMALIZATIONS))}")
        if backend not in BACKENDS:
            raise ValueError(f"backend is {backend!r}; expected one of {', '.join(map(repr, BACKENDS))}")
        if not 0.0 <= dropout <= 1.0:
            raise ValueError(f"dropout is {dropout}; expected a probability in [0, 1]")
        if isinstance(fill_value, str) and fill_value not in FILLS:
            raise ValueError(f"fill_value is {fill_value!r}; expected a number, a Tensor or one of {', '.join(FILLS)}")
        if out_channels < 1 or heads < 1:
            raise ValueError(f"out_channels is {out_channels} and heads is {heads}; expected at least 1 each")
        check_hops(hops, decay)
        if series not in SERIES:
            raise ValueError(f"series is {series!r}; expected one of {', '.join(map(repr, SERIES))}")
        if hops != 1 and normalize == "none":
            raise ValueError(f"hops is {hops} but normalize is 'none', whose weights have no bound; choose another one")
        if hops != 1 and self.aggr not in SUMS:
            raise ValueError(f"hops is {hops} but aggr is {self.aggr!r}; further hops are sums, pass aggr='add'")
        if learn_decay and hops == 1 and series == "mean":
            raise ValueError("learn_decay is True, but one hop with series='mean' does not depend on the decay")

        self.in_channels = in_channels
        self.out_channels = out_channels
        self.heads = heads
        self.concat = concat
        self.normalize = normalize
        self.hops = hops
        self.series = series
        self.edge_dim = edge_dim
        self.dropout = dropout
        self.add_self_loops = add_self_loops
        self.fill_value = fill_value
        self.backend = backend

        self.score = resolve(score)
        if rotary is not None:
            check_rotary(rotary, self.score, out_channels, edge_dim)
        self.rotary = rotary
        fused = fused_dim(time_encoding, time_fusion, self.score, edge_dim, rotary)
        self.time_encoding = time_encoding
        self.time_fusion = time_fusion
        by_kernel = time_encoding is not None and time_fusion == "kernel"
        self.time_weight = nn.Parameter(torch.empty(heads)) if by_kernel else None
        self.score.setup(in_channels, out_channels, heads, fused, bias)
        self.root_weight = self.score.root_weight if root_weight is None else root_weight
        if residual and self.root_weight:
            raise ValueError("residual and root_weight are both True; they add the same term, choose one")
        if beta and not self.root_weight:
            raise ValueError("beta is True but root_weight is False; the gate has nothing to mix in")

        width = heads * out_channels if concat else out_channels
        target = in_channels[1] if isinstance(in_channels, tuple) else in_channels
        self.lin_skip = Linear(target, width, bias=bias) if self.root_weight else None
        self.lin_beta = Linear(3 * width, 1, bias=False) if beta else None
        self.res = Linear(target, width, bias=False, weight_initializer="glorot") if residual else None
        self.bias = nn.Parameter(torch.empty(width)) if bias and self.score.output_bias else None
        self._decay = decay
        self.decay_logit = nn.Parameter(torch.empty(heads)) if learn_decay else None
        self.reset_parameters()

    @property
    def decay(self) -> float | Tensor:
        """How much less every further hop counts: a number, or one for each head if it is learned."""
        return self._decay if self.decay_logit is None else fraction(self.decay_logit)

    def reset_parameters(self) -> None:
        """Draw all parameters anew, but for those of the time encoding, which other layers may share."""
        super().reset_parameters()
        self.score.reset_parameters()
        for module in (self.lin_skip, self.lin_beta, self.res):
            if module is not None:
                module.reset_parameters()
        zeros(self.bias)
        zeros(self.time_weight)
        constant(self.decay_logit, logit(self._decay))

    def forward(
        self,
        x: Tensor | tuple[Tensor, Tensor | None],
        edge_index: Any,
        edge_attr: Tensor | None = None,
        size: tuple[int | None, int | None] | None = None,
        *,
        pos: Tensor | tuple[Tensor, Tensor] | None = None,
        edge_time: Tensor | None = None,
        batch: Tensor | None = None,
        return_attention_weights: bool = False,
    ) -> Tensor | tuple[Tensor, tuple[Tensor, Tensor]]:
        r"""Attend along the edges.

        Args:
            x: Node features, or (source, target) features of a bipartite graph. Target features may be ``None`` with
                ``score="gat"``.
            edge_index: Edges, source row first: a Tensor, an ``EdgeIndex``, a torch sparse matrix (row = target), or
                an :class:`~graphattn.Affinity`, which keeps its sorted form between calls. The weights of the last
                two are a prior: they multiply the exponentials of the scores (or the unnormalized affinity).
            edge_attr: Edge features; without them the edge terms are 0.
            size: (number of sources, number of targets), where the features do not tell.
            pos: Positions of the nodes for ``rotary``, :math:`(N,)` or with several coordinates :math:`(N, P)`; of
                (sources, targets) in a bipartite graph.
            edge_time: Time from the source to the target of each edge, :math:`t_i - t_j`, for ``time_encoding``: int64
                or float64, as the difference of two times is. A self-loop has 0.
            batch: Graph of each target, for ``normalize="relu_frobenius"``, whose norm is one per graph, and for
                ``"sigmoid"`` with more than one hop.
            return_attention_weights: Whether to also return ``(edge_index, alpha)``, the weights of one hop: the
                caller's edges first, in their order, then the self-loops that the layer added.

        Returns:
            The attended features; nodes without edges get the root or bias term alone.

        Raises:
            ValueError: If a shape, a device or an index does not fit, or a prior weight is negative.
            TypeError: If a dtype does not fit.
        """
        x_src, x_dst = x if isinstance(x, (tuple, list)) else (x, x)
        layout, prior = read_edges(edge_index, x_src, x_dst, size, self.heads)
        edge_attr = check_edge_attr(edge_attr, self.edge_dim, layout)
        check_edge_time(self.time_encoding, edge_time, layout)
        if self.add_self_loops:
            edges = layout
            layout, prior, edge_attr = append_loops(layout, prior, edge_attr, self.fill_value)
            edge_time = None if edge_time is None else loop_times(edge_time, edges, layout)
        bias = None
        if self.time_encoding is not None and edge_time is not None:
            if self.time_weight is None:
                edge_attr = fuse(self.time_encoding, self.time_fusion, edge_time, edge_attr, self.edge_dim, x_src)
            else:
                kernel = self.time_encoding.kernel(edge_time, torch.zeros_like(edge_time))
                bias = self.time_weight * kernel.unsqueeze(1).to(x_src.dtype)

        projected = self.score.project(x_src, x_dst, edge_attr)
        if self.rotary is not None or pos is not None:
            projected = rotate(self.rotary, projected, pos, isinstance(x, (tuple, list)))
        values = edge_attr if self.score.edge_values else None
        # Further hops go along the weights of the first.
        more, messages = self.hops != 1 or self.series == "sum", needs_messages(self, AttentionConv)
        step = self._step(projected, values, layout, prior, bias) if more and not messages else None
        return_weights = return_attention_weights or (more and step is None)
        alpha: Tensor | None
        if messages:
            out, alpha = self._pass_messages(projected, values, layout, prior, bias, batch)
        else:
            out, alpha = self._attend(projected, values, layout, prior, bias, batch, return_weights)

        if more:
            weights: Tensor | Step
            if step is not None:
                weights = step
            else:
                assert alpha is not None, "both paths return the weights that further hops need"
                weights = alpha if not self.explain else alpha * edge_factors(self, alpha.size(0)).unsqueeze(1)
            out = sum_hops(out, weights, layout, self.hops, self.decay, self.series, self.backend)
        # A prior may be of another dtype; the layer keeps that of its features.
        out = out.to(projected[2].dtype)
        out = out.reshape(-1, self.heads * self.out_channels) if self.concat else out.mean(dim=1)
        out = self._add_root(out, x_dst)
        if not return_attention_weights:
            return out
        assert alpha is not None, "both paths return the weights that were asked for"
        return out, (layout.edge_index, alpha.to(projected[2].dtype))

    def message(self, v_j: Tensor, alpha: Tensor, e: Tensor | None) -> Tensor:
        """Weigh the values of single edges; the path that hooks and explainers see."""
        return alpha.unsqueeze(-1) * (v_j if e is None else v_j + e)

    def explain_message(self, inputs: Tensor, dim_size: int | None) -> Tensor:
        """Weigh messages by the edge mask of an explainer; self-loops that the layer added keep theirs."""
        return inputs * edge_factors(self, inputs.size(0)).view(-1, 1, 1)

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({self.in_channels}, {self.out_channels}, heads={self.heads}, "
            f"score={type(self.score).__name__}{'' if self.hops == 1 else f', hops={self.hops}'})"
        )

    def _attend(
        self,
        projected: Projected,
        edge_attr: Tensor | None,
        layout: Layout,
        prior: Tensor | None,
        bias: Tensor | None,
        batch: Tensor | None,
        return_weights: bool,
    ) -> tuple[Tensor, Tensor | None]:
        """Score, normalize and propagate in the fused kernels."""
        q, k, v, e = projected
        dropout = self.dropout if self.training else 0.0
        if self.normalize != "softmax":
            alpha = self._normalized(_add(self._scores(projected, layout), bias), layout, prior, batch)
            kept = drop_weights(alpha, dropout)
            out = ops.spmm(kept, v, layout, backend=self.backend)
            if edge_attr is not None:
                out = out + self._sum_edges(kept, edge_attr, layout)
            return out, alpha

        edgewise = self.score.kind != "dot"
        if edgewise and e is None and not return_weights and ops.sorts(self.backend, layout, v):
            # Nobody sees single edges: in the order of the kernels nothing has to be brought there and back.
            layout, order = layout.sorted()
            if order is not None:
                prior, bias = (x if x is None else x.index_select(0, order) for x in (prior, bias))
        if prior is not None:
            bias = _add(log_prior(prior).expand(-1, self.heads), bias)
        options: dict[str, Any] = {"dropout": dropout, "return_weights": return_weights, "backend": self.backend}
        if edge_attr is not None:
            options |= {"edge_attr": edge_attr, "edge_proj": self.score.edge_proj(edge_attr)}
        if not edgewise:
            result = ops.edge_attention(q, k, v, layout, scale=self.score.scale, bias=bias, **options)
        elif edge_attr is None and (operands := self._fused(projected, layout)):
            result = ops.additive_attention(v=v, edge_index=layout, bias=bias, **operands, **options)
        else:
            scores = self._scores(projected, layout)
            result = ops.edge_aggregate(_add(scores, bias), v, layout, **options)
        return result if return_weights else (result, None)

    def _step(
        self,
        projected: Projected,
        values: Tensor | None,
        layout: Layout,
        prior: Tensor | None,
        bias: Tensor | None,
    ) -> Step | None:
        """A hop that computes its weights anew, where the backend then never stores them."""
        q, k, v, e = projected
        if self.normalize != "softmax" or self.hops == math.inf:
            return None
        if prior is not None:
            bias = _add(log_prior(prior).expand(-1, self.heads), bias)
        options: dict[str, Any] = {"edge_index": layout, "bias": bias, "backend": self.backend}
        if self.score.kind == "dot" and (e is None) == (values is None):
            if not ops.fuses(self.backend, layout, q, k, v, values):
                return None
            if values is not None:
                # What the first hop adds to its values, the further ones only score.
                options |= {"edge_attr": values, "edge_proj": self.score.edge_proj(values), "edge_values": False}
            return partial(ops.edge_attention, q, k, scale=self.score.scale, **options)
        operands = None if values is not None else self._fused(projected, layout)
        return None if operands is None else lambda x: ops.additive_attention(v=x, **operands, **options)

    def _fused(self, projected: Projected, layout: Layout) -> dict[str, Any] | None:
        """The operands of an additive score that the backend computes inside its softmax."""
        q, k, v, e = projected
        if not ops.fuses(self.backend, layout, k, k, v):
            return None
        operands = self.score.additive(q, k, e)
        edge_attr = None if operands is None else operands.get("edge_attr")
        return operands if edge_attr is None or ops.fuses(self.backend, layout, k, k, v, edge_attr) else None

    def _pass_messages(
        self,
        projected: Projected,
        edge_attr: Tensor | None,
        layout: Layout,
        prior: Tensor | None,
        bias: Tensor | None,
        batch: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """Do the same edge by edge, where hooks, explainers and subclasses can look on and take part."""
        edge_index = layout.edge_index.long()
        q, k, v, e = projected
        q_i = None if q is None else q.index_select(0, edge_index[1])
        scores = self.score.edge(q_i, k.index_select(0, edge_index[0]), e)
        alpha = self._normalized(_add(scores, bias), layout, prior, batch)
        kept = drop_weights(alpha, self.dropout if self.training else 0.0)
        # Decomposition splits the channels of nodes alone, so the edges' part is then added as a whole.
        whole = self.decomposed_layers == 1
        lifted = self.score.lift(edge_attr) if edge_attr is not None and whole else None
        size = (layout.num_cols, layout.num_rows)
        if prior is not None and self.aggr not in SUMS:
            # A removed edge adds 0 to a sum, but would count in a mean or a maximum: it goes to a row of its own.
            removed = (prior == 0).all(dim=1)
            edge_index = torch.stack([edge_index[0], torch.where(removed, layout.num_rows, edge_index[1])])
            size = (layout.num_cols, layout.num_rows + 1)
        out = self.propagate(edge_index, v=v, alpha=kept, e=lifted, size=size)[: layout.num_rows]
        if edge_attr is not None and not whole:
            out = out + self._sum_edges(kept, edge_attr, layout)
        return out, alpha

    def _scores(self, projected: Projected, layout: Layout) -> Tensor:
        q, k, _, e = projected
        if self.score.kind == "dot" and e is None:
            return self.score.scale * ops.sddmm(q, k, layout, backend=self.backend)
        if self.score.kind == "separable" or self.backend == "reference":
            source, target = layout.edge_index.long()
            return self.score.edge(None if q is None else q.index_select(0, target), k.index_select(0, source), e)
        return ops.edge_scores(_snapshot(self.score).edge, q, k, e, layout, tuple(self.score.parameters()))

    def _normalized(self, scores: Tensor, layout: Layout, prior: Tensor | None, batch: Tensor | None) -> Tensor:
        alpha = normalize_scores(self.normalize, scores, EdgeSupport(layout, batch), prior)
        return alpha if self.hops == 1 else bound_radius(self.normalize, alpha, layout, batch)

    def _sum_edges(self, weights: Tensor, edge_attr: Tensor, layout: Layout) -> Tensor:
        """Sum projected edge features into their targets: the projection of the weighted sum of the raw ones."""
        sums = ops.spmm(weights, edge_attr.unsqueeze(1), layout.incidence(), backend=self.backend)
        return torch.einsum("nhd,hcd->nhc", sums, self.score.edge_proj(edge_attr).to(sums.dtype))

    def _add_root(self, out: Tensor, x_dst: Tensor | None) -> Tensor:
        if x_dst is not None and self.lin_skip is not None:
            root = linear(self.lin_skip, x_dst)
            if self.lin_beta is None:
                out = out + root
            else:
                beta = self.lin_beta(torch.cat([out, root, out - root], dim=-1)).sigmoid()
                out = beta * root + (1 - beta) * out
        if x_dst is not None and self.res is not None:
            out = out + self.res(x_dst)
        return out if self.bias is None else out + self.bias


def _snapshot(module: Any) -> Any:
    """Copy a module around the same tensors: the backward evaluates the edges anew, with the parameters of this call.

    ``torch.func.functional_call`` has taken them out of the module itself by then.
    """
    if torch.compiler.is_compiling():
        return module
    clone = copy.copy(module)
    clone._parameters, clone._buffers = dict(module._parameters), dict(module._buffers)
    clone._modules = {name: child and _snapshot(child) for name, child in module._modules.items()}
    return clone


def _add(scores: Tensor, bias: Tensor | None) -> Tensor:
    return scores if bias is None else scores + bias
