"""Diffusion of features over a given graph as a PyG layer: many hops, few or no parameters."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch_geometric.nn.conv import MessagePassing
from torch_geometric.nn.dense.linear import Linear
from torch_geometric.nn.inits import constant, zeros

from graphattn.affinity import Affinity, ImplicitAffinity, SparseAffinity
from graphattn.nn.diffusion_kernel import apply_kernel, resolve_kernel
from graphattn.nn.edges import append_loops
from graphattn.nn.hops import fraction, logit, tolerance
from graphattn.nn.messages import SUMS, edge_factors, needs_messages
from graphattn.nn.sparse_features import linear

_NORMALIZATIONS = ("symmetric", "row", "none")


class DiffusionConv(MessagePassing):
    r"""Spread features over the edges of a given graph, hop by hop or over all hops at once.

    .. math::
        \text{ppr:} \quad & \mathbf{Z}_{t+1} = c\,\mathbf{A} \mathbf{Z}_t + (1 - c)\,\mathbf{X}, \quad
        \mathbf{Z}_0 = \mathbf{X}; \qquad K = \infty: \; (1 - c)\,(\mathbf{I} - c\,\mathbf{A})^{-1}\,\mathbf{X}

        \text{sgc:} \quad & \mathbf{A}^{K}\,\mathbf{X}

        \text{katz:} \quad & \textstyle\sum_{t=1}^{K} c^t \mathbf{A}^t\,\mathbf{X}; \qquad
        K = \infty: \; c\,(\mathbf{I} - c\,\mathbf{A})^{-1}\,\mathbf{A}\,\mathbf{X}

        \text{heat:} \quad & \exp(-\tau\,(\mathbf{I} - \mathbf{A}))\,\mathbf{X}

    With :math:`K` = ``hops``, :math:`c` = ``decay`` and :math:`\tau` = ``time``. ``ppr`` is PyG's ``APPNP`` with
    ``alpha = 1 - decay``, ``sgc`` with channels is ``SGConv``, ``katz`` is the series of Infinite Feature Selection.
    All hops is one linear system, solved to the precision of the dtype with an implicit gradient, whose memory does not
    grow with the hops; it warns where it does not converge.

    Args:
        in_channels: Width of the features for a linear map after the diffusion, -1 to derive it from the first input;
            ``None`` for a layer without weights. (The two commute; the narrower features are spread.)
        out_channels: Width after the map; ``None`` without one.
        kernel: ``"ppr"``, ``"sgc"``, ``"katz"`` or ``"heat"``.
        hops: Number of hops :math:`K`; by default 10, and 2 for sgc; ``math.inf`` for all hops of ppr and katz.
        decay: How much a further hop counts in ppr and katz, :math:`c` in (0, 1), by default 0.9.
        time: Duration :math:`\tau` of heat, by default 1.
        normalize: ``"symmetric"`` (by the square roots of both degrees, as in PyG's ``gcn_norm``), ``"row"``, or
            ``"none"`` for edges that are normalized already: their spectral radius must not exceed 1.
        add_self_loops: Whether nodes without a loop get one of weight 1 (of several the first counts); by default so
            unless ``normalize="none"``.
        learn_decay: Whether :math:`c` is learned, from ``decay`` on.
        bias: Whether the linear map has a bias.
        **kwargs: Further arguments of ``torch_geometric.nn.MessagePassing``.

    Shapes:
        - **input:** ``x`` :math:`(N, F)`, ``edge_index`` :math:`(2, E)`, ``edge_weight`` :math:`(E,)`
        - **output:** :math:`(N, F)`, or :math:`(N, C)` with ``out_channels`` :math:`C`

    Raises:
        ValueError: If an option is unknown, out of range, or one that the kernel does not have.

    Example:
        >>> conv = DiffusionConv(kernel="ppr", hops=math.inf, decay=0.5)
        >>> pair = torch.tensor([[0, 1], [1, 0]])
        >>> conv(torch.tensor([[0.0], [1.0]]), pair).flatten()
        tensor([0.2500, 0.7500])

    Reference:
        Gasteiger et al., "Predict then Propagate", 2019 (ppr); Wu et al., "Simplifying Graph Convolutional Networks",
        2019 (sgc); Katz, 1953, and Roffo et al., "Infinite Feature Selection", 2015 (katz); Gasteiger et al.,
        "Diffusion Improves Graph Learning", 2019 (heat).
    """

    def __init__(
        self,
        in_channels: int | None = None,
        out_channels: int | None = None,
        *,
        kernel: str = "ppr",
        hops: float | None = None,
        decay: float | None = None,
        time: float | None = None,
        normalize: str = "symmetric",
        add_self_loops: bool | None = None,
        learn_decay: bool = False,
        bias: bool = True,
        **kwargs: Any,
    ) -> None:
        kwargs.setdefault("aggr", "add")
        super().__init__(node_dim=0, **kwargs)
        if self.flow != "source_to_target":
            raise ValueError(f"flow is {self.flow!r}; pass edge_index.flip(0) to reverse the edges instead")
        if self.aggr not in SUMS:
            raise ValueError(f"aggr is {self.aggr!r}; a diffusion sums over neighbours, pass aggr='add'")
        if normalize not in _NORMALIZATIONS:
            raise ValueError(f"normalize is {normalize!r}; expected one of {', '.join(map(repr, _NORMALIZATIONS))}")
        if (in_channels is None) != (out_channels is None):
            raise ValueError(
                f"in_channels is {in_channels} and out_channels is {out_channels}; "
                "pass both for a linear map, or neither"
            )
        if out_channels is not None and out_channels < 1:
            raise ValueError(f"out_channels is {out_channels}; expected at least 1")
        self.kernel = resolve_kernel(kernel, hops, decay, time)
        if learn_decay and self.kernel.decay is None:
            raise ValueError(f"learn_decay is True, but kernel {kernel!r} has no decay")

        self.in_channels = in_channels
        self.out_channels = out_channels
        self.normalize = normalize
        self.add_self_loops = normalize != "none" if add_self_loops is None else add_self_loops
        self.lin: Linear | None = None
        self.bias: nn.Parameter | None = None
        if out_channels is not None:
            self.lin = Linear(in_channels, out_channels, bias=False)
            self.bias = nn.Parameter(torch.empty(out_channels)) if bias else None
        self.decay_logit = nn.Parameter(torch.empty(())) if learn_decay else None
        self.reset_parameters()

    @property
    def decay(self) -> float | Tensor | None:
        """How much a further hop counts: a number, a scalar tensor if it is learned, ``None`` if there is none."""
        return self.kernel.decay if self.decay_logit is None else fraction(self.decay_logit)

    def reset_parameters(self) -> None:
        """Draw all parameters anew."""
        super().reset_parameters()
        if self.lin is not None:
            self.lin.reset_parameters()
        zeros(self.bias)
        if self.kernel.decay is not None:
            constant(self.decay_logit, logit(self.kernel.decay))

    def forward(self, x: Tensor, edge_index: Any, edge_weight: Tensor | None = None) -> Tensor:
        r"""Spread features along the edges.

        Args:
            x: Node features, dense or, with a linear map, CSR.
            edge_index: Edges, source row first: a Tensor, an ``EdgeIndex``, a torch sparse matrix (row = target) or an
                :class:`~graphattn.Affinity`, which keeps its sorted form between calls. Normalize an ``Affinity`` once
                and pass ``normalize="none"`` to do so only once.
            edge_weight: Weights of the edges, ones by default; a matrix or an ``Affinity`` has its own.

        Returns:
            The spread features, in the dtype of ``x``, computed in at least float32.

        Raises:
            ValueError: If a shape, a device or an index does not fit, a weight is negative or given twice; or if
                single messages are to be seen while ``hops`` is infinite.
            TypeError: If a dtype or a layout does not fit.

        Warns:
            graphattn.diffusion.ConvergenceWarning: If an infinite number of hops does not converge.
        """
        edges = self._normalized(x, edge_index, edge_weight)
        A = self._by_messages(edges) if needs_messages(self, DiffusionConv) else edges
        # Sparse features are mapped first whatever their width, and stay sparse until then.
        early = self.lin is not None and (self.lin.out_channels < x.size(1) or x.layout != torch.strided)
        h = linear(self.lin, x) if self.lin is not None and early else x
        h = h.to(torch.promote_types(h.dtype, torch.float32))
        h = apply_kernel(self.kernel, A, h, self.decay, tolerance(h.dtype)).to(x.dtype)
        if self.lin is not None and not early:
            h = self.lin(h)
        return h if self.bias is None else h + self.bias

    def message(self, x_j: Tensor, edge_weight: Tensor) -> Tensor:
        """Weigh the features of single sources; the path that hooks and explainers see, once for every hop."""
        return edge_weight.unsqueeze(-1) * x_j

    def explain_message(self, inputs: Tensor, dim_size: int | None) -> Tensor:
        """Weigh messages by the edge mask of an explainer; self-loops that the layer added keep theirs."""
        return inputs * edge_factors(self, inputs.size(0)).unsqueeze(-1)

    def __repr__(self) -> str:
        channels = "" if self.in_channels is None else f"{self.in_channels}, {self.out_channels}, "
        return f"{type(self).__name__}({channels}{self.kernel.describe()})"

    def _normalized(self, x: Any, edge_index: Any, edge_weight: Tensor | None) -> SparseAffinity:
        """Read the edges, whatever they came as, and normalize them."""
        if not isinstance(x, Tensor) or x.dim() != 2:
            found = f"shape {tuple(x.shape)}" if isinstance(x, Tensor) else f"type {type(x).__name__}"
            raise ValueError(f"x has {found}; expected a Tensor [nodes, channels]")
        if not x.is_floating_point():
            raise TypeError(f"x has dtype {x.dtype}; expected a floating-point dtype")
        if x.layout not in ((torch.strided,) if self.lin is None else (torch.strided, torch.sparse_csr)):
            raise TypeError(f"x has layout {x.layout}; expected dense or, in a layer with channels, CSR")
        if isinstance(edge_index, Tensor) and edge_index.layout != torch.strided:
            edge_index = Affinity.from_torch_sparse(edge_index)
        if isinstance(edge_index, Affinity):
            if edge_weight is not None:
                raise ValueError("edge_weight is given, but edge_index has weights of its own; pass one of them")
            A = edge_index.to_sparse()
        else:
            A = Affinity.from_edge_index(edge_index, edge_weight, x.size(0))
        if A.shape != (x.size(0), x.size(0)):
            raise ValueError(f"edge_index is {A.shape[0]} x {A.shape[1]}, but x has {x.size(0)} rows; expected as many")
        if A.num_heads > 1:
            raise ValueError(f"edge_index has weights for {A.num_heads} heads; expected one weight per edge")
        if A.device != x.device:
            raise ValueError(f"x is on {x.device} but edge_index is on {A.device}; move one of them")
        weight = A.weights() if A.weight is not None else torch.ones(A.num_edges, dtype=x.dtype, device=x.device)
        weight = weight.reshape(-1).to(torch.promote_types(weight.dtype, torch.float32))
        readable = weight.device.type == "cpu" and not torch.compiler.is_compiling()
        if self.normalize != "none" and readable and bool((weight < 0).any()):
            raise ValueError(
                f"edge_weight contains {weight.min():.4g}; normalize={self.normalize!r} takes no negatives"
            )
        layout = A.layout
        if self.add_self_loops:
            layout, columns, _ = append_loops(layout, weight.unsqueeze(1), None, 1.0)
            weight = columns.squeeze(1)
        return SparseAffinity(layout, weight, symmetric=A.symmetric).normalize(self.normalize)

    def _by_messages(self, A: SparseAffinity) -> ImplicitAffinity:
        """Let every product with the affinity go through ``propagate``."""
        if self.kernel.hops == math.inf:
            raise ValueError(
                "hops is inf, whose solver makes no single messages for a hook, an explainer or decomposed layers; "
                "choose a number of hops"
            )
        edge_index, weight = A.edge_index.long(), A.weights()

        def hop(x: Tensor) -> Tensor:
            return self.propagate(edge_index, x=x, edge_weight=weight, size=A.shape)

        return ImplicitAffinity(hop, A.shape, dtype=weight.dtype, device=A.device)
