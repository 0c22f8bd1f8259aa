"""One propagation over the candidate graphs of many result lists at once, as a PyG layer."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch_geometric.nn.conv import MessagePassing

from graphattn.affinity import Affinity, SparseAffinity
from graphattn.affinity.gallery import list_neighbors
from graphattn.affinity.normalize import NORMALIZATIONS, EdgeSupport, normalize_scores
from graphattn.nn.messages import edge_factors, needs_messages


class RerankConv(MessagePassing):
    r"""Let every candidate take over features of its neighbours in the graph of its list.

    .. math:: \mathbf{y}_i = \sum_{j \to i} A_{ij} \mathbf{x}_j, \quad A = \operatorname{normalize}(w)

    The lists are one block-diagonal graph, as PyG batches graphs; :func:`candidate_graph` makes one. The layer has no
    weights. The fused path never stores an edge-by-channel tensor; hooks, explainers and subclasses are served through
    ``message`` with the same numbers.

    Args:
        normalize: How edge weights become affinities: ``"none"``, ``"row"``, ``"softmax"``, ``"symmetric"`` or another
            kind of :meth:`graphattn.Affinity.normalize` except ``"spectral"``.
        l2_normalize: Whether the sums are brought to unit length; sums of 0 stay 0.
        **kwargs: Further arguments of ``torch_geometric.nn.MessagePassing``.

    Shapes:
        - **input:** ``x`` :math:`(N, C)`, ``edge_index`` :math:`(2, E)`, ``edge_weight`` :math:`(E,)`, ``batch``
          :math:`(N,)`
        - **output:** :math:`(N, C)`

    Raises:
        ValueError: If ``normalize`` is unknown or ``flow`` is reversed.

    Example:
        >>> conv = RerankConv(normalize="row")
        >>> x = torch.tensor([[1.0], [2.0], [4.0]])
        >>> conv(x, torch.tensor([[1, 2], [0, 0]]), torch.tensor([1.0, 3.0])).flatten().tolist()
        [3.5, 0.0, 0.0]

    Reference:
        Zhang et al., "Understanding Image Retrieval Re-Ranking: A Graph Neural Network Perspective", 2020.
    """

    def __init__(self, normalize: str = "none", *, l2_normalize: bool = False, **kwargs: Any) -> None:
        kwargs.setdefault("aggr", "add")
        super().__init__(node_dim=0, **kwargs)
        if self.flow != "source_to_target":
            raise ValueError(f"flow is {self.flow!r}; pass edge_index.flip(0) to reverse the edges instead")
        if normalize not in NORMALIZATIONS:
            raise ValueError(f"normalize is {normalize!r}; expected one of {', '.join(map(repr, NORMALIZATIONS))}")
        self.normalize = normalize
        self.l2_normalize = l2_normalize

    def forward(
        self, x: Tensor, edge_index: Any, edge_weight: Tensor | None = None, batch: Tensor | None = None
    ) -> Tensor:
        r"""Propagate once.

        Args:
            x: Features of the candidates of all lists.
            edge_index: Edges, source row first: a Tensor, an ``EdgeIndex``, a torch sparse matrix (row = target) or an
                :class:`~graphattn.Affinity`, which keeps its sorted form between calls.
            edge_weight: Weights of the edges, ones by default; a matrix or an ``Affinity`` has its own.
            batch: List of each candidate, which edges must not leave; one list by default.

        Returns:
            The sums, in the dtype of ``x``, computed in at least float32. Candidates without edges get 0.

        Raises:
            ValueError: If a shape, a device or an index does not fit, weights are given twice, or (on the CPU) an edge
                joins two lists.
            TypeError: If a dtype does not fit.
        """
        A = _read_graph(x, edge_index, edge_weight)
        weights = A.weights().reshape(-1, 1)
        weights = weights.to(torch.promote_types(weights.dtype, torch.float32))
        if batch is not None:
            _check_batch(batch, A)
        alpha = normalize_scores(self.normalize, weights, EdgeSupport(A.layout, batch)).squeeze(1)
        if needs_messages(self, RerankConv):
            out = self.propagate(A.edge_index.long(), x=x, edge_weight=alpha, size=A.shape)
        else:
            out = A.with_weight(alpha).matmul(x)
        return (F.normalize(out, dim=1) if self.l2_normalize else out).to(x.dtype)

    def message(self, x_j: Tensor, edge_weight: Tensor) -> Tensor:
        """Weigh the features of single candidates; the path that hooks and explainers see."""
        return edge_weight.unsqueeze(-1) * x_j

    def explain_message(self, inputs: Tensor, dim_size: int | None) -> Tensor:
        """Weigh messages by the edge mask of an explainer."""
        return inputs * edge_factors(self, inputs.size(0)).unsqueeze(-1)

    def __repr__(self) -> str:
        unit = ", l2_normalize=True" if self.l2_normalize else ""
        return f"{type(self).__name__}(normalize={self.normalize!r}{unit})"


def candidate_graph(
    similarity: Tensor, k: int, mask: Tensor | None = None, *, loops: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    r"""Join every candidate to the nearest others of its list: one block-diagonal graph of all lists.

    Args:
        similarity: Similarities within each list.
        k: Neighbours of a candidate, itself not counted; ties go to the lowest number.
        mask: Which candidates are there; all by default. The others have no edges.
        loops: Whether every candidate is also joined to itself.

    Shapes:
        - **input:** ``similarity`` :math:`(B, n, n)`, ``mask`` :math:`(B, n)`
        - **output:** :math:`(2, E)`, :math:`(E,)` and :math:`(B n,)`

    Returns:
        ``edge_index`` (candidate i of list b is node :math:`b n + i` and draws on its neighbours), ``edge_weight`` (the
        similarities, with their gradient) and ``batch``, as :class:`RerankConv` takes them.

    Raises:
        ValueError: If a shape does not fit or ``k`` is negative.

    Example:
        >>> x = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]])
        >>> edge_index, edge_weight, batch = candidate_graph((x @ x.T).unsqueeze(0), k=1)
        >>> edge_index.tolist(), batch.tolist()
        ([[1, 0, 1], [0, 1, 2]], [0, 0, 0])
    """
    index, found = list_neighbors(similarity, k, mask, loops=loops)
    num_lists, n = similarity.shape[:2]
    which, target, slot = found.nonzero(as_tuple=True)
    source = index[which, target, slot]
    edge_index = torch.stack([source, target]) + which * n
    batch = torch.arange(num_lists, device=similarity.device).repeat_interleave(n)
    return edge_index, similarity[which, target, source], batch


def _read_graph(x: Any, edge_index: Any, edge_weight: Tensor | None) -> SparseAffinity:
    if not isinstance(x, Tensor) or x.dim() != 2:
        found = f"shape {tuple(x.shape)}" if isinstance(x, Tensor) else f"type {type(x).__name__}"
        raise ValueError(f"x has {found}; expected a Tensor [nodes, channels]")
    if isinstance(edge_index, Tensor) and edge_index.layout != torch.strided:
        edge_index = Affinity.from_torch_sparse(edge_index)
    if not isinstance(edge_index, Affinity):
        A = Affinity.from_edge_index(edge_index, edge_weight, x.size(0))
    elif edge_weight is not None:
        raise ValueError("edge_weight is given, but edge_index has weights of its own; pass one of them")
    else:
        A = edge_index.to_sparse()
    if A.shape != (x.size(0), x.size(0)):
        raise ValueError(f"edge_index is {A.shape[0]} x {A.shape[1]}, but x has {x.size(0)} rows; expected as many")
    if A.num_heads > 1:
        raise ValueError(f"edge_index has weights for {A.num_heads} heads; expected one weight per edge")
    return A


def _check_batch(batch: Tensor, A: SparseAffinity) -> None:
    if batch.shape != (A.shape[0],):
        raise ValueError(f"batch has shape {tuple(batch.shape)}; expected ({A.shape[0]},): the list of each candidate")
    if A.device.type == "cpu" and not torch.compiler.is_compiling():
        source, target = A.edge_index.long()
        crossing = batch[source] != batch[target]
        if bool(crossing.any()):
            edge = int(crossing.nonzero()[0])
            ends = f"{int(source[edge])} to {int(target[edge])}"
            raise ValueError(f"edge_index has edge {edge} from {ends}, which are in different lists of batch")
