"""How strongly a target draws on a source: the score modules of :class:`~graphattn.nn.AttentionConv`."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch_geometric.nn.dense.linear import Linear
from torch_geometric.nn.inits import glorot

from graphattn.nn.sparse_features import linear

Projected = tuple[Any, Tensor, Tensor, Tensor | None]  # q, k, v, e; q is None where a score can do without targets


class Score(nn.Module):
    r"""Score the edges of a graph from learned projections of its nodes; subclass it and override :meth:`edge`.

    A score owns its projections. :meth:`project` works on nodes, once; :meth:`edge` works on edges and never sees a
    whole graph: it must treat every edge alike and give the same values each time it is called (no dropout). The base
    class projects to queries, keys and values as in scaled dot-product attention, and leaves :meth:`edge` to you.

    Attributes:
        kind: Which kernel evaluates the edges: ``"dot"`` (``scale * <q_i, k_j + W e_ij>``, fused),
            ``"separable"`` (:meth:`edge` sees one number per head for q, k and e), or ``"general"``
            (:meth:`edge` sees all channels, in blocks of edges that are recomputed in the backward).
        root_weight: Whether the layer adds a transformed root feature unless told otherwise.
        edge_values: Whether projected edge features are added to the values too.
        output_bias: Whether the layer's bias is added to its output (else only the projections have one).

    Example:
        >>> class Manhattan(Score):
        ...     def edge(self, q_i, k_j, e_ij):
        ...         return -(q_i - k_j).abs().sum(dim=-1)
        >>> from graphattn.nn import AttentionConv
        >>> conv = AttentionConv(16, 8, heads=2, score=Manhattan())
        >>> conv(torch.randn(3, 16), torch.tensor([[0, 1], [1, 2]])).shape
        torch.Size([3, 16])
    """

    kind: ClassVar[Literal["dot", "separable", "general"]] = "general"
    root_weight: ClassVar[bool] = True
    edge_values: ClassVar[bool] = True
    output_bias: ClassVar[bool] = False
    lin_edge: Linear | None

    def __init__(self) -> None:
        super().__init__()
        self.heads = 0
        self.out_channels = 0

    def setup(
        self, in_channels: int | tuple[int, int], out_channels: int, heads: int, edge_dim: int | None, bias: bool
    ) -> None:
        """Build the projections; called once, by the layer that the score is given to.

        Args:
            in_channels: Width of the node features, or (source, target) widths; -1 derives it from the first input.
            out_channels: Channels per head :math:`C`.
            heads: Heads :math:`H`.
            edge_dim: Width of the edge features, or ``None``.
            bias: Whether the projections have a bias.

        Raises:
            ValueError: If the score already belongs to a layer.
        """
        self._claim(out_channels, heads)
        source, target = in_channels if isinstance(in_channels, tuple) else (in_channels, in_channels)
        self.lin_query = Linear(target, heads * out_channels, bias=bias)
        self.lin_key = Linear(source, heads * out_channels, bias=bias)
        self.lin_value = Linear(source, heads * out_channels, bias=bias)
        self.lin_edge = None if edge_dim is None else Linear(edge_dim, heads * out_channels, bias=False)

    @property
    def scale(self) -> float:
        """Factor of the products of a ``"dot"`` score."""
        return float(self.out_channels) ** -0.5

    def _claim(self, out_channels: int, heads: int) -> None:
        if self.heads:
            raise ValueError(f"score is a {type(self).__name__} that already belongs to a layer; pass a new one")
        self.heads, self.out_channels = heads, out_channels

    def reset_parameters(self) -> None:
        """Draw all parameters anew."""
        for module in self.children():
            module.reset_parameters()  # type: ignore[operator]

    def project(self, x_src: Tensor, x_dst: Tensor | None, edge_attr: Tensor | None) -> Projected:
        """Project the nodes once: queries, keys and values, and what :meth:`edge` is to see of the edge features.

        Args:
            x_src: Source features.
            x_dst: Target features.
            edge_attr: Edge features, or ``None``.

        Shapes:
            - **input:** :math:`(M, F_s)`, :math:`(N, F_t)`, :math:`(E, D)`
            - **output:** q :math:`(N, H, C)`, k and v :math:`(M, H, C)`, e :math:`(E, D)`
        """
        q = self._split(linear(self.lin_query, _given(x_dst, self)))
        return q, self._split(linear(self.lin_key, x_src)), self._split(linear(self.lin_value, x_src)), edge_attr

    def edge(self, q_i: Any, k_j: Tensor, e_ij: Tensor | None) -> Tensor:
        """Score some edges from their two ends and features.

        Args:
            q_i: Queries of the targets, one row per edge.
            k_j: Keys of the sources, one row per edge.
            e_ij: Edge features as :meth:`project` returned them, or ``None``; :meth:`lift` projects them.

        Shapes:
            - **input:** :math:`(*, H, C)`, :math:`(*, H, C)`, :math:`(*, D)`
            - **output:** :math:`(*, H)`
        """
        raise TypeError(f"{type(self).__name__} does not define edge(q_i, k_j, e_ij)")

    def additive(self, q: Any, k: Tensor, e: Tensor | None) -> dict[str, Any] | None:
        """Return the operands of :func:`graphattn.ops.additive_attention` if this is a score of its form.

        Such a score is fused with its softmax where the backend can; ``None`` leaves it to :meth:`edge`.

        Args:
            q: Queries as :meth:`project` returned them.
            k: Keys as :meth:`project` returned them.
            e: Edge features as :meth:`project` returned them.
        """
        return None

    def lift(self, edge_attr: Tensor) -> Tensor:
        """Project edge features :math:`(*, D)` to heads and channels :math:`(*, H, C)`."""
        assert self.lin_edge is not None  # the layer has checked edge_dim
        return self._split(self.lin_edge(edge_attr))

    def edge_proj(self, edge_attr: Tensor) -> Tensor:
        """Return the edge projection as one matrix a head, :math:`(H, C, D)`."""
        assert self.lin_edge is not None
        if self.lin_edge.in_channels < 0:
            self.lin_edge(edge_attr[:0])  # a lazy Linear gets its shape from its first call
        return self.lin_edge.weight.view(self.heads, self.out_channels, -1)

    def _split(self, x: Tensor) -> Tensor:
        return x.view(-1, self.heads, self.out_channels)

    def _add_lifted(self, x: Tensor, e_ij: Tensor | None) -> Tensor:
        return x if e_ij is None else x + self.lift(e_ij)


class DotProduct(Score):
    r"""Scaled dot product, the score of PyG's ``TransformerConv``.

    .. math:: s_{ij} = \tau\, \mathbf{q}_i^{\top} (\mathbf{k}_j + \mathbf{W}_e \mathbf{e}_{ij})

    Args:
        scale: Factor :math:`\tau`; :math:`1/\sqrt{C}` by default.

    Example:
        >>> from graphattn.nn import AttentionConv
        >>> AttentionConv(16, 8, heads=2, score=DotProduct(scale=1.0))
        AttentionConv(16, 8, heads=2, score=DotProduct)

    Reference:
        Vaswani et al., "Attention Is All You Need", 2017; Shi et al., "Masked Label Prediction", 2021.
    """

    kind = "dot"

    def __init__(self, scale: float | None = None) -> None:
        super().__init__()
        self._scale = scale

    @property
    def scale(self) -> float:
        return float(self.out_channels) ** -0.5 if self._scale is None else self._scale

    def edge(self, q_i: Tensor, k_j: Tensor, e_ij: Tensor | None) -> Tensor:
        return self.scale * (q_i * self._add_lifted(k_j, e_ij)).sum(dim=-1)


class Cosine(DotProduct):
    r"""Cosine of query and key with a learned sharpness per head, the score of PyG's ``AGNNConv``.

    .. math:: s_{ij} = \beta \left\langle \frac{\mathbf{q}_i}{\|\mathbf{q}_i\|},
        \frac{\mathbf{k}_j}{\|\mathbf{k}_j\|} + \mathbf{W}_e \mathbf{e}_{ij} \right\rangle

    A zero vector has cosine 0 with everything. :math:`\beta` starts at 1.

    Example:
        >>> from graphattn.nn import AttentionConv
        >>> AttentionConv(16, 8, score="cosine").score.beta
        Parameter containing:
        tensor([1.], requires_grad=True)

    Reference:
        Thekumparampil et al., "Attention-based Graph Neural Network for Semi-supervised Learning", 2018.
    """

    def __init__(self) -> None:
        super().__init__(scale=1.0)

    def setup(
        self, in_channels: int | tuple[int, int], out_channels: int, heads: int, edge_dim: int | None, bias: bool
    ) -> None:
        super().setup(in_channels, out_channels, heads, edge_dim, bias)
        self.beta = nn.Parameter(torch.ones(heads))

    def reset_parameters(self) -> None:
        super().reset_parameters()
        nn.init.ones_(self.beta)

    def project(self, x_src: Tensor, x_dst: Tensor | None, edge_attr: Tensor | None) -> Projected:
        q, k, v, e = super().project(x_src, x_dst, edge_attr)
        assert q is not None
        return self.beta.unsqueeze(1) * F.normalize(q, dim=-1), F.normalize(k, dim=-1), v, e


class Gaussian(Score):
    r"""Negative squared distance with a learned bandwidth per head.

    .. math:: s_{ij} = -\frac{\|\mathbf{q}_i - \mathbf{k}_j - \mathbf{W}_e \mathbf{e}_{ij}\|^2}{2 \sigma^2}

    The bandwidth starts at :math:`\sigma^2 = \sqrt{C}`; its logarithm is learned.

    Example:
        >>> from graphattn.nn import AttentionConv
        >>> sigma = AttentionConv(16, 4, score="gaussian").score.log_sigma.exp()
        >>> round(sigma.square().item(), 4)
        2.0
    """

    def setup(
        self, in_channels: int | tuple[int, int], out_channels: int, heads: int, edge_dim: int | None, bias: bool
    ) -> None:
        super().setup(in_channels, out_channels, heads, edge_dim, bias)
        self.log_sigma = nn.Parameter(torch.empty(heads))
        nn.init.constant_(self.log_sigma, torch.tensor(out_channels).log().item() / 4)

    def reset_parameters(self) -> None:
        super().reset_parameters()
        nn.init.constant_(self.log_sigma, torch.tensor(self.out_channels).log().item() / 4)

    def edge(self, q_i: Tensor, k_j: Tensor, e_ij: Tensor | None) -> Tensor:
        distance = (q_i - self._add_lifted(k_j, e_ij)).square().sum(dim=-1)
        return -0.5 * distance * (-2 * self.log_sigma).exp()


class GAT(Score):
    r"""The score of graph attention networks; needs E x H numbers only.

    .. math:: s_{ij} = \operatorname{LeakyReLU}(\mathbf{a}_t^{\top} \mathbf{W} \mathbf{x}_i
        + \mathbf{a}_s^{\top} \mathbf{W} \mathbf{x}_j + \mathbf{a}_e^{\top} \mathbf{W}_e \mathbf{e}_{ij})

    The values are :math:`\mathbf{W} \mathbf{x}_j`. With one ``in_channels`` the two ends share :math:`\mathbf{W}`.

    Args:
        negative_slope: Slope of the LeakyReLU below 0.

    Example:
        >>> from graphattn.nn import AttentionConv
        >>> AttentionConv(16, 8, heads=2, score=GAT(negative_slope=0.1))
        AttentionConv(16, 8, heads=2, score=GAT)

    Reference:
        Veličković et al., "Graph Attention Networks", 2018.
    """

    kind = "separable"
    root_weight = False
    edge_values = False
    output_bias = True

    def __init__(self, negative_slope: float = 0.2) -> None:
        super().__init__()
        self.negative_slope = negative_slope

    def setup(
        self, in_channels: int | tuple[int, int], out_channels: int, heads: int, edge_dim: int | None, bias: bool
    ) -> None:
        self._claim(out_channels, heads)
        width = heads * out_channels
        source, target = in_channels if isinstance(in_channels, tuple) else (in_channels, None)
        self.lin_src = Linear(source, width, bias=False, weight_initializer="glorot")
        self.lin_dst = None if target is None else Linear(target, width, bias=False, weight_initializer="glorot")
        self.att_src = nn.Parameter(torch.empty(1, heads, out_channels))
        self.att_dst = nn.Parameter(torch.empty(1, heads, out_channels))
        self.lin_edge = self.att_edge = None
        if edge_dim is not None:
            self.lin_edge = Linear(edge_dim, width, bias=False, weight_initializer="glorot")
            self.att_edge = nn.Parameter(torch.empty(1, heads, out_channels))

    def reset_parameters(self) -> None:
        super().reset_parameters()
        glorot(self.att_src)
        glorot(self.att_dst)
        glorot(self.att_edge)

    def project(self, x_src: Tensor, x_dst: Tensor | None, edge_attr: Tensor | None) -> Projected:
        v = linear(self.lin_src, x_src)
        q: Tensor | None = None
        if x_dst is x_src and self.lin_dst is None:
            k, q = (v @ torch.cat([_diagonal(self.att_src), _diagonal(self.att_dst)], dim=1)).split(self.heads, dim=1)
        else:
            k = v @ _diagonal(self.att_src)
            if x_dst is not None:
                q = linear(self.lin_dst or self.lin_src, x_dst) @ _diagonal(self.att_dst)
        e = None
        if edge_attr is not None and self.att_edge is not None:
            # a . (W e) = (W^T a) . e keeps the edges at D features instead of H x C.
            e = edge_attr @ torch.einsum("hcd,hc->dh", self.edge_proj(edge_attr), self.att_edge[0])
        return q, k, self._split(v), e

    def additive(self, q: Tensor | None, k: Tensor, e: Tensor | None) -> dict[str, Any] | None:
        if q is None or type(self).edge is not GAT.edge:
            return None
        ends = {"q": q.unsqueeze(-1), "k": k.unsqueeze(-1), "vector": k.new_ones(self.heads, 1)}
        edges = {}
        if e is not None:
            # What the edges add, one number a head, as features of which each head takes its own.
            own = torch.eye(self.heads, dtype=e.dtype, device=e.device).unsqueeze(1)
            edges = {"edge_attr": e, "edge_proj": own}
        return {**ends, **edges, "negative_slope": self.negative_slope}

    def edge(self, q_i: Tensor | None, k_j: Tensor, e_ij: Tensor | None) -> Tensor:
        total = k_j if q_i is None else q_i + k_j
        return F.leaky_relu(total if e_ij is None else total + e_ij, self.negative_slope)


class GATv2(Score):
    r"""The dynamic attention score of GATv2.

    .. math:: s_{ij} = \mathbf{a}^{\top} \operatorname{LeakyReLU}(\mathbf{W}_r \mathbf{x}_i
        + \mathbf{W}_l \mathbf{x}_j + \mathbf{W}_e \mathbf{e}_{ij})

    The values are :math:`\mathbf{W}_l \mathbf{x}_j`.

    Args:
        negative_slope: Slope of the LeakyReLU below 0.
        share_weights: Whether :math:`\mathbf{W}_r = \mathbf{W}_l`.

    Example:
        >>> from graphattn.nn import AttentionConv
        >>> AttentionConv(16, 8, heads=2, score=GATv2(share_weights=True))
        AttentionConv(16, 8, heads=2, score=GATv2)

    Reference:
        Brody et al., "How Attentive are Graph Attention Networks?", 2022.
    """

    root_weight = False
    edge_values = False
    output_bias = True

    def __init__(self, negative_slope: float = 0.2, share_weights: bool = False) -> None:
        super().__init__()
        self.negative_slope = negative_slope
        self.share_weights = share_weights

    def setup(
        self, in_channels: int | tuple[int, int], out_channels: int, heads: int, edge_dim: int | None, bias: bool
    ) -> None:
        self._claim(out_channels, heads)
        width = heads * out_channels
        source, target = in_channels if isinstance(in_channels, tuple) else (in_channels, in_channels)
        self.lin_l = Linear(source, width, bias=bias, weight_initializer="glorot")
        self.lin_r = self.lin_l if self.share_weights else Linear(target, width, bias=bias, weight_initializer="glorot")
        self.att = nn.Parameter(torch.empty(1, heads, out_channels))
        self.lin_edge = None
        if edge_dim is not None:
            self.lin_edge = Linear(edge_dim, width, bias=False, weight_initializer="glorot")

    def reset_parameters(self) -> None:
        super().reset_parameters()
        glorot(self.att)

    def project(self, x_src: Tensor, x_dst: Tensor | None, edge_attr: Tensor | None) -> Projected:
        k = self._split(linear(self.lin_l, x_src))
        target = _given(x_dst, self)
        q = k if self.share_weights and target is x_src else self._split(linear(self.lin_r, target))
        return q, k, k, edge_attr

    def additive(self, q: Tensor, k: Tensor, e: Tensor | None) -> dict[str, Any] | None:
        if type(self).edge is not GATv2.edge:
            return None
        edges = {} if e is None else {"edge_attr": e, "edge_proj": self.edge_proj(e)}
        return {"q": q, "k": k, "vector": self.att[0], **edges, "negative_slope": self.negative_slope}

    def edge(self, q_i: Tensor, k_j: Tensor, e_ij: Tensor | None) -> Tensor:
        return (F.leaky_relu(self._add_lifted(q_i + k_j, e_ij), self.negative_slope) * self.att).sum(dim=-1)


SCORES: dict[str, type[Score]] = {
    "dot": DotProduct,
    "gat": GAT,
    "gatv2": GATv2,
    "cosine": Cosine,
    "gaussian": Gaussian,
}


def resolve(score: str | Score) -> Score:
    """Return the score module that a name stands for, or the module itself."""
    if isinstance(score, Score):
        return score
    if isinstance(score, str) and score in SCORES:
        return SCORES[score]()
    raise ValueError(f"score is {score!r}; expected a Score module or one of {', '.join(map(repr, SCORES))}")


def _given(x_dst: Tensor | None, score: Score) -> Tensor:
    if x_dst is None:
        raise ValueError(f"x[1] is None, but {type(score).__name__} needs target features; only GAT works without")
    return x_dst


def _diagonal(vectors: Tensor) -> Tensor:
    """Give the vector of each head, (1, H, C), a column of its own, (H C, H): one product then reads all heads once."""
    heads = torch.eye(vectors.size(1), dtype=vectors.dtype, device=vectors.device)
    return (vectors[0].unsqueeze(2) * heads.unsqueeze(1)).flatten(0, 1)
