"""The sparse core: score, normalize and propagate over edges; one definition per op, several backends."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any, Literal, overload

import torch
from torch import Tensor

from graphattn._optional import require
from graphattn.ops import csr, reference, scatter, triton
from graphattn.ops.inputs import (
    as_layout,
    check_device,
    check_dropout,
    check_edge_features,
    check_edges,
    check_nodes,
    check_sizes,
    keep_mask,
    promote,
    widen,
    without_autocast,
)
from graphattn.ops.layout import Layout, check_edge_index, check_range

_MODULES: dict[str, ModuleType] = {"reference": reference, "csr": csr, "scatter": scatter, "triton": triton}
BACKENDS = ("auto", *_MODULES)
_SMALL = 1 << 20  # edges x heads x channels of a graph that is gathered faster than it is sorted


def sddmm(q: Tensor, k: Tensor, edge_index: Any, *, backend: str = "auto") -> Tensor:
    r"""Compute the dot product of the two ends of every edge (sampled dense-dense product).

    .. math:: s_{e} = \mathbf{q}_i^{\top} \mathbf{k}_j \quad \text{for edge } e = (j, i)

    Args:
        q: Queries of the targets.
        k: Keys of the sources; one head serves all heads of ``q``.
        edge_index: Edges, source row first: a Tensor, an ``EdgeIndex``, or an object with a ``layout`` such as an
            ``Affinity``.
        backend: ``"auto"``, ``"reference"``, ``"csr"``, ``"scatter"`` or ``"triton"``.

    Shapes:
        - **input:** ``q`` :math:`(N, H, C)`, ``k`` :math:`(M, H, C)` or :math:`(M, 1, C)`, ``edge_index``
          :math:`(2, E)`
        - **output:** :math:`(E, H)`, in the caller's edge order

    Returns:
        The unscaled products, in the dtype of the inputs; sums are taken in at least float32.

    Raises:
        ValueError: If a shape, a device or an index does not fit, or the backend cannot serve the call.
        TypeError: If an input is not a floating-point tensor or ``edge_index`` not an integer one.

    Example:
        >>> edges = torch.tensor([[0, 1], [1, 0]])
        >>> x = torch.tensor([[[1.0, 2.0]], [[3.0, 4.0]]])
        >>> sddmm(x, x, edges).flatten().tolist()
        [11.0, 11.0]
    """
    check_nodes(q=q, k=k)
    check_sizes("k", k, heads=None if k.size(1) == 1 else q.size(1), channels=q.size(2))
    layout = as_layout(edge_index, q.size(0), k.size(0))
    check_device(layout, q=q, k=k)
    module = choose_backend(backend, layout, q)
    (q, k), dtype = _prepare(module)(q, k)
    with without_autocast(layout.edge_index.device):
        return module.sddmm(q, k, layout).to(dtype)


def spmm(weights: Tensor, x: Tensor, edge_index: Any, *, num_rows: int | None = None, backend: str = "auto") -> Tensor:
    r"""Sum weighted source features into the targets (sparse-dense product): one hop over an affinity.

    .. math:: \mathbf{y}_i = \sum_{e = (j, i)} w_e \, \mathbf{x}_j

    Args:
        weights: One weight per edge and head, in the caller's edge order.
        x: Features of the sources; one head serves all heads of ``weights``.
        edge_index: Edges, source row first: a Tensor, an ``EdgeIndex``, or an object with a ``layout``.
        num_rows: Number of targets :math:`N`; by default that of the layout, else as many as ``x`` has rows.
        backend: ``"auto"``, ``"reference"``, ``"csr"``, ``"scatter"`` or ``"triton"``.

    Shapes:
        - **input:** ``weights`` :math:`(E, H)`, ``x`` :math:`(M, H, C)` or :math:`(M, 1, C)`, ``edge_index``
          :math:`(2, E)`
        - **output:** :math:`(N, H, C)`

    Returns:
        The sums; targets without edges get 0 and parallel edges add up. Sums are taken in at least float32.

    Raises:
        ValueError: If a shape, a device or an index does not fit, or the backend cannot serve the call.
        TypeError: If an input is not a floating-point tensor or ``edge_index`` not an integer one.

    Example:
        >>> edges = torch.tensor([[0, 1, 2], [1, 0, 0]])
        >>> x = torch.tensor([1.0, 10.0, 100.0]).view(3, 1, 1)
        >>> spmm(torch.full((3, 1), 0.5), x, edges).flatten().tolist()
        [55.0, 0.5, 0.0]
    """
    check_nodes(x=x)
    if num_rows is None and isinstance(edge_index, Tensor):
        num_rows = x.size(0)
    layout = as_layout(edge_index, num_rows, x.size(0))
    check_edges("weights", weights, layout, heads=None if x.size(1) == 1 else x.size(1))
    check_device(layout, weights=weights, x=x)
    module = choose_backend(backend, layout, weights, x)
    (weights, x), dtype = _prepare(module)(weights, x)
    with without_autocast(layout.edge_index.device):
        return module.spmm(weights, x, layout).to(dtype)


def edge_softmax(scores: Tensor, edge_index: Any, *, num_rows: int | None = None, backend: str = "auto") -> Tensor:
    r"""Normalize edge scores over the incoming edges of each target.

    .. math:: p_e = \frac{\exp(s_e - m_i)}{\sum_{e' \to i} \exp(s_{e'} - m_i)}, \quad m_i = \max_{e' \to i} s_{e'}

    Args:
        scores: One score per edge and head, in the caller's edge order; ``-inf`` removes an edge.
        edge_index: Edges, source row first: a Tensor, an ``EdgeIndex``, or an object with a ``layout``.
        num_rows: Number of targets :math:`N`; needed when ``edge_index`` is a plain tensor.
        backend: ``"auto"``, ``"reference"``, ``"csr"``, ``"scatter"`` or ``"triton"``.

    Shapes:
        - **input:** ``scores`` :math:`(E, H)`, ``edge_index`` :math:`(2, E)`
        - **output:** :math:`(E, H)`

    Returns:
        Weights that sum to 1 over each target's edges. A target whose scores are all ``-inf`` is empty: weights and
        gradients are 0. NaN or ``+inf`` in a score makes the weights of that target and head NaN, and no others.
        Maximum and sum are taken in at least float32.

    Raises:
        ValueError: If a shape, a device or an index does not fit, ``num_rows`` is missing, or the backend cannot
            serve the call.
        TypeError: If ``scores`` is not a floating-point tensor or ``edge_index`` not an integer one.

    Example:
        >>> edges = torch.tensor([[0, 1, 2], [0, 0, 1]])
        >>> edge_softmax(torch.zeros(3, 1), edges, num_rows=2).flatten().tolist()
        [0.5, 0.5, 1.0]
    """
    if isinstance(edge_index, Tensor):
        if num_rows is None:
            raise ValueError("num_rows is None; pass the number of targets, which a plain edge_index does not tell")
        check_edge_index(edge_index)
        # Only targets matter: with every edge as its own source no bound on the real sources is needed.
        sources = torch.arange(edge_index.size(1), device=edge_index.device)
        edges = torch.stack([sources, edge_index[1].long()])
        layout = Layout(edges, num_rows, edge_index.size(1), reused=False)
    else:
        layout = as_layout(edge_index, num_rows, None)
    check_edges("scores", scores, layout)
    check_device(layout, scores=scores)
    module = choose_backend(backend, layout, scores)
    (scores,), dtype = _prepare(module)(scores)
    with without_autocast(layout.edge_index.device):
        return module.edge_softmax(scores, layout).to(dtype)


@overload
def edge_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    edge_index: Any,
    *,
    scale: float | None = ...,
    bias: Tensor | None = ...,
    edge_attr: Tensor | None = ...,
    edge_proj: Tensor | None = ...,
    edge_values: bool = ...,
    dropout: float = ...,
    return_weights: Literal[False] = ...,
    backend: str = ...,
) -> Tensor: ...
@overload
def edge_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    edge_index: Any,
    *,
    scale: float | None = ...,
    bias: Tensor | None = ...,
    edge_attr: Tensor | None = ...,
    edge_proj: Tensor | None = ...,
    edge_values: bool = ...,
    dropout: float = ...,
    return_weights: bool,
    backend: str = ...,
) -> Tensor | tuple[Tensor, Tensor]: ...
def edge_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    edge_index: Any,
    *,
    scale: float | None = None,
    bias: Tensor | None = None,
    edge_attr: Tensor | None = None,
    edge_proj: Tensor | None = None,
    edge_values: bool = True,
    dropout: float = 0.0,
    return_weights: bool = False,
    backend: str = "auto",
) -> Tensor | tuple[Tensor, Tensor]:
    r"""Attend along the edges of a graph: scaled dot products, softmax over each target's edges, weighted sum.

    .. math::
        \mathbf{o}_i = \sum_{e=(j,i)} p_e (\mathbf{v}_j + \mathbf{W}\mathbf{e}_e), \quad
        p_e = \operatorname{softmax}_{e \to i}\left(
        \tau\,\mathbf{q}_i^{\top}(\mathbf{k}_j + \mathbf{W}\mathbf{e}_e) + b_e\right)

    On a complete graph this is ``torch.nn.functional.scaled_dot_product_attention``. The ``csr`` backend needs time
    :math:`O(E H C)` and memory :math:`O(N H C + E H)`, ``triton`` the same time and :math:`O(N H C)` beyond what it is
    given and asked for; ``reference`` and ``scatter`` need :math:`O(E H C)` memory.

    Args:
        q: Queries of the targets.
        k: Keys of the sources.
        v: Values of the sources.
        edge_index: Edges, source row first: a Tensor, an ``EdgeIndex``, or an object with a ``layout`` such as an
            ``Affinity``, which keeps the sorted form between calls.
        scale: Factor :math:`\tau` of the products; :math:`1/\sqrt{C}` by default.
        bias: Added to the scores; ``-inf`` removes an edge.
        edge_attr: Edge features :math:`\mathbf{e}`, added to keys and values after projection.
        edge_proj: Their projection :math:`\mathbf{W}`, one matrix a head; needed with ``edge_attr``.
        edge_values: Whether values get the edge features too, or keys alone.
        dropout: Probability of dropping a weight; kept weights are divided by ``1 - dropout``. The mask is drawn from
            torch's global generator in the caller's edge order; ``triton`` takes a seed from there and draws its own.
        return_weights: Whether to also return the weights, as they were before dropout.
        backend: ``"auto"`` (on the CPU ``csr``, or ``reference`` for a graph so small that preparing it would take
            longer; on CUDA ``triton``, else ``scatter`` if installed, else ``reference``), ``"reference"``, ``"csr"``,
            ``"scatter"`` or ``"triton"``.

    Shapes:
        - **input:** ``q`` :math:`(N, H, C)`, ``k`` :math:`(M, H, C)`, ``v`` :math:`(M, H, C_v)`, ``edge_index``
          :math:`(2, E)`, ``bias`` :math:`(E, H)`, ``edge_attr`` :math:`(E, D)`, ``edge_proj`` :math:`(H, C, D)`
        - **output:** :math:`(N, H, C_v)`, and weights :math:`(E, H)` in the caller's edge order

    Returns:
        The attended values, and the weights if asked for. Targets without edges get 0. Everything is computed in at
        least float32 and cast back once.

    Raises:
        ValueError: If a shape, a device or an index does not fit, ``dropout`` lies outside [0, 1], or the backend
            cannot serve the call.
        TypeError: If an input is not a floating-point tensor or ``edge_index`` not an integer one.

    Example:
        >>> edges = torch.tensor([[0, 1, 2], [0, 0, 1]])
        >>> x = torch.tensor([1.0, 3.0, 5.0]).view(3, 1, 1)
        >>> edge_attention(torch.zeros(3, 1, 1), x, x, edges).flatten().tolist()
        [2.0, 5.0, 0.0]

    Reference:
        Vaswani et al., "Attention Is All You Need", 2017; Shi et al., "Masked Label Prediction", 2021 (edge features).
    """
    check_nodes(q=q, k=k, v=v)
    check_sizes("k", k, rows=v.size(0), heads=q.size(1), channels=q.size(2))
    check_sizes("v", v, heads=q.size(1))
    layout = as_layout(edge_index, q.size(0), k.size(0))
    if bias is not None:
        check_edges("bias", bias, layout, heads=q.size(1))
    check_edge_features(edge_attr, edge_proj, layout, heads=q.size(1), channels=q.size(2))
    check_sizes("v", v, channels=q.size(2) if edge_attr is not None else None)
    if not edge_values and edge_attr is None:
        raise ValueError("edge_values is False but edge_attr is None; pass edge features, or leave edge_values out")
    check_device(layout, q=q, k=k, v=v, bias=bias, edge_attr=edge_attr, edge_proj=edge_proj)
    scale = q.size(2) ** -0.5 if scale is None else scale
    module = choose_backend(backend, layout, q, v, edge_attr=edge_attr)
    keep = _keep(module, layout, q.size(1), dropout)
    (q, k, v, bias, edge_attr, edge_proj), dtype = _prepare(module)(q, k, v, bias, edge_attr, edge_proj)
    with without_autocast(layout.edge_index.device):
        edges = (edge_attr, edge_proj, return_weights, edge_values)
        out, weights = module.attention(q, k, v, layout, scale, bias, keep, *edges)
        out = _rescale(module, out, dropout).to(dtype)
    return (out, weights.to(dtype)) if return_weights else out


def edge_aggregate(
    scores: Tensor,
    v: Tensor,
    edge_index: Any,
    *,
    num_rows: int | None = None,
    edge_attr: Tensor | None = None,
    edge_proj: Tensor | None = None,
    dropout: float = 0.0,
    return_weights: bool = False,
    backend: str = "auto",
) -> Tensor | tuple[Tensor, Tensor]:
    r"""Attend with scores of your own: softmax over each target's edges, then the weighted sum of the values.

    .. math::
        \mathbf{o}_i = \sum_{e=(j,i)} p_e (\mathbf{v}_j + \mathbf{W}\mathbf{e}_e), \quad
        p = \operatorname{softmax}_{e \to i}(s)

    Args:
        scores: One score per edge and head, in the caller's edge order; ``-inf`` removes an edge.
        v: Values of the sources.
        edge_index: Edges, source row first: a Tensor, an ``EdgeIndex``, or an object with a ``layout``.
        num_rows: Number of targets :math:`N`; by default that of the layout, else as many as ``v`` has rows.
        edge_attr: Edge features :math:`\mathbf{e}`, added to the values after projection.
        edge_proj: Their projection :math:`\mathbf{W}`, one matrix a head; needed with ``edge_attr``.
        dropout: Probability of dropping a weight, as in :func:`edge_attention`.
        return_weights: Whether to also return the weights, as they were before dropout.
        backend: ``"auto"``, ``"reference"``, ``"csr"``, ``"scatter"`` or ``"triton"``.

    Shapes:
        - **input:** ``scores`` :math:`(E, H)`, ``v`` :math:`(M, H, C)`, ``edge_index`` :math:`(2, E)`, ``edge_attr``
          :math:`(E, D)`, ``edge_proj`` :math:`(H, C, D)`
        - **output:** :math:`(N, H, C)`, and weights :math:`(E, H)` in the caller's edge order

    Returns:
        The attended values, and the weights if asked for. Targets without edges get 0.

    Raises:
        ValueError: If a shape, a device or an index does not fit, ``dropout`` lies outside [0, 1], or the backend
            cannot serve the call.
        TypeError: If an input is not a floating-point tensor or ``edge_index`` not an integer one.

    Example:
        >>> edges = torch.tensor([[0, 1], [0, 0]])
        >>> scores = torch.tensor([[0.0], [3.0]]).log()
        >>> edge_aggregate(scores, torch.tensor([[[7.0]], [[9.0]]]), edges).flatten().tolist()
        [9.0, 0.0]
    """
    check_nodes(v=v)
    if num_rows is None and isinstance(edge_index, Tensor):
        num_rows = v.size(0)
    layout = as_layout(edge_index, num_rows, v.size(0))
    check_edges("scores", scores, layout, heads=v.size(1))
    check_edge_features(edge_attr, edge_proj, layout, heads=v.size(1), channels=v.size(2))
    check_device(layout, scores=scores, v=v, edge_attr=edge_attr, edge_proj=edge_proj)
    module = choose_backend(backend, layout, scores, v, edge_attr=edge_attr)
    keep = _keep(module, layout, v.size(1), dropout)
    (scores, v, edge_attr, edge_proj), dtype = _prepare(module)(scores, v, edge_attr, edge_proj)
    with without_autocast(layout.edge_index.device):
        out, weights = module.aggregate(scores, v, layout, keep, edge_attr, edge_proj, return_weights)
        out = _rescale(module, out, dropout).to(dtype)
    return (out, weights.to(dtype)) if return_weights else out


def sorts(backend: str, layout: Layout, v: Tensor) -> bool:
    """Tell whether a backend, which may be ``"auto"``, works on sorted edges, so that sorting them first is no loss.

    Args:
        backend: Name of the backend.
        layout: The graph.
        v: Values of the sources.

    Example:
        >>> sorts("auto", Layout(torch.tensor([[0], [1]]), 2, 2), torch.ones(2, 1, 4))
        True
    """
    return (_fastest(layout, (v,), v.size(1), v.size(2), v.size(2)) if backend == "auto" else backend) == "csr"


def choose_backend(name: str, layout: Layout, *inputs: Tensor, edge_attr: Tensor | None = None) -> ModuleType:
    """Choose the module that computes on some inputs, of which the first has the heads and the last the channels.

    ``edge_attr`` are features that are scored or attended with the channels.
    """
    device = layout.edge_index.device
    channels = max([1, *[x.size(2) for x in inputs if x.dim() == 3]])
    widest = channels if edge_attr is None else max(channels, edge_attr.size(1))
    if name == "auto":
        name = _fastest(layout, inputs, inputs[0].size(1), channels, widest)
    if name not in _MODULES:
        raise ValueError(f"backend is {name!r}; expected one of {', '.join(map(repr, BACKENDS))}")
    if name == "csr" and device.type != "cpu":
        raise ValueError(f"backend 'csr' serves CPU tensors only, but the inputs are on {device}; use 'auto'")
    if name == "scatter":
        require("torch_scatter", "scatter")
    if name == "triton":
        if not triton.installed():
            require("triton", "triton")
        refusal = triton.refusal(device, inputs, widest)
        if refusal is not None:
            raise ValueError(f"backend 'triton' {refusal}; use 'auto'")
    if name == "reference" and device.type == "cpu" and not torch.compiler.is_compiling():
        check_range(layout.edge_index, layout.num_rows, layout.num_cols)
    return _MODULES[name]


def _fastest(layout: Layout, inputs: tuple[Tensor, ...], heads: int, channels: int, widest: int) -> str:
    compiling, device = torch.compiler.is_compiling(), layout.edge_index.device
    if device.type == "cpu":
        # Sorting a small graph for one call takes longer than gathering. Compiled code does not branch on sizes.
        small = not compiling and not layout.reused and layout.num_edges * heads * channels <= _SMALL
        return "reference" if small else "csr"
    if triton.serves(layout, inputs, heads, widest):
        return "triton"
    # torch-scatter's kernels have no fake versions, so that a compiled graph would break there.
    return "scatter" if device.type == "cuda" and not compiling and scatter.serves_cuda() else "reference"


# The fused kernels read half precision as it is, draw dropout themselves and scale what it keeps.


def _prepare(module: ModuleType) -> Callable[..., tuple[list[Any], torch.dtype]]:
    return promote if module is triton else widen


def _keep(module: ModuleType, layout: Layout, heads: int, dropout: float) -> Tensor | float | None:
    if module is triton:
        check_dropout(dropout)
        return dropout
    return keep_mask(layout.num_edges, heads, dropout, layout.edge_index.device)


def _rescale(module: ModuleType, out: Tensor, dropout: float) -> Tensor:
    return out / (1.0 - dropout) if module is not triton and 0.0 < dropout < 1.0 else out
