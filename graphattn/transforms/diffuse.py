"""Replace the edges of a graph by those of its diffusion, computed block by block."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch_geometric.data import Data
from torch_geometric.data.datapipes import functional_transform
from torch_geometric.transforms import BaseTransform
from torch_geometric.utils import add_self_loops, is_undirected

from graphattn.affinity import Affinity, DenseAffinity, SparseAffinity
from graphattn.nn.diffusion_kernel import apply_kernel, resolve_kernel

_DEFAULTS: dict[str, dict[str, float]] = {
    "ppr": {"hops": math.inf, "decay": 0.85},
    "katz": {"hops": math.inf, "decay": 0.85},
    "heat": {"time": 5.0},
}
_NORMALIZATIONS = ("symmetric", "row", "column", "none")
_BLOCK_BYTES = 8 << 20


@functional_transform("diffuse")
class Diffuse(BaseTransform):
    r"""Replace the edges of a graph by the strongest entries of its diffusion (functional name: ``diffuse``).

    .. math::
        \mathbf{S} = (1 - c)\,(\mathbf{I} - c\,\mathbf{T})^{-1} \text{ (ppr)}, \quad
        c\,(\mathbf{I} - c\,\mathbf{T})^{-1}\,\mathbf{T} \text{ (katz)}, \quad
        \exp(-\tau\,(\mathbf{I} - \mathbf{T})) \text{ (heat)}

    with the normalized affinity :math:`\mathbf{T}` of the graph with self-loops, :math:`c` = ``decay`` and
    :math:`\tau` = ``time``. It is PyG's ``GDC(exact=True)`` without dense matrices: rows of :math:`\mathbf{S}` are
    computed, thinned out and dropped block by block, in :math:`O(N k)` memory for k entries a row besides the block,
    and time :math:`O(N E)` for each hop. Directed and weighted graphs and isolated nodes are served.

    What PyG calls ``"col"`` (the weights into a target sum to 1) is ``"row"`` here, as rows are targets; its ``"row"``
    is ``"column"``; its ``alpha`` is ``1 - decay``. Entries of 0 are no edges.

    The result has ``edge_index`` and its weights under the name ``weight``. Other attributes named ``edge_*`` with a
    row for every old edge are removed, since those edges are gone (``edge_label*`` stays); all else is left as it is.

    Args:
        kernel: ``"ppr"``, ``"katz"`` or ``"heat"``.
        hops: Number of hops of ppr and katz; ``math.inf``, all of them, by default.
        decay: How much a further hop counts in ppr and katz, by default 0.85.
        time: Duration of heat, by default 5.
        normalize: How the graph is normalized: ``"symmetric"``, ``"row"``, ``"column"``, or ``"none"`` for weights
            whose spectral radius is at most 1.
        self_loop_weight: Added to the loop of every node; 0 adds none.
        top_k: Keep the k strongest sources of every target.
        threshold: Keep entries of at least this value.
        avg_degree: Keep the strongest entries of all, so many that a node has this many on average (and those as strong
            as the last); by default 64.
        normalize_out: How the kept entries are normalized.
        weight: Name of the weights, read if the graph has them.
        tol: Largest relative residual of a row, and largest weight of the hops that heat leaves out.

    Raises:
        ValueError: If an option is unknown, out of range or contradicts another; when called, if the graph has no edges
            attribute, or weights that are negative or of another shape.
        TypeError: When called, if the graph is not a ``Data``.

    Warns:
        graphattn.diffusion.ConvergenceWarning: If an infinite number of hops does not converge.

    Example:
        >>> path = Data(edge_index=torch.tensor([[0, 1, 1, 2], [1, 0, 2, 1]]), num_nodes=3)
        >>> Diffuse("heat", time=1.0, top_k=2)(path)
        Data(edge_index=[2, 6], num_nodes=3, edge_weight=[6])

    Reference:
        Gasteiger et al., "Diffusion Improves Graph Learning", 2019.
    """

    def __init__(
        self,
        kernel: str = "ppr",
        *,
        hops: float | None = None,
        decay: float | None = None,
        time: float | None = None,
        normalize: str = "symmetric",
        self_loop_weight: float = 1.0,
        top_k: int | None = None,
        threshold: float | None = None,
        avg_degree: int | None = None,
        normalize_out: str = "row",
        weight: str = "edge_weight",
        tol: float = 1e-6,
    ) -> None:
        if kernel not in _DEFAULTS:
            raise ValueError(f"kernel is {kernel!r}; expected one of {', '.join(map(repr, _DEFAULTS))}")
        given = {"hops": hops, "decay": decay, "time": time}
        default = _DEFAULTS[kernel]
        self.kernel = resolve_kernel(kernel, **{n: default.get(n) if v is None else v for n, v in given.items()})
        for name, kind in (("normalize", normalize), ("normalize_out", normalize_out)):
            if kind not in _NORMALIZATIONS:
                raise ValueError(f"{name} is {kind!r}; expected one of {', '.join(map(repr, _NORMALIZATIONS))}")
        if not 0.0 <= self_loop_weight < math.inf:
            raise ValueError(f"self_loop_weight is {self_loop_weight!r}; expected a number of at least 0")
        counts = {"top_k": top_k, "avg_degree": avg_degree}
        kept = [name for name, value in {"threshold": threshold, **counts}.items() if value is not None]
        if len(kept) > 1:
            raise ValueError(f"{' and '.join(kept)} are given; choose one of them")
        for name, count in counts.items():
            if count is not None and (not isinstance(count, int) or isinstance(count, bool) or count < 1):
                raise ValueError(f"{name} is {count!r}; expected an integer of at least 1")
        if threshold is not None and not threshold > 0:
            raise ValueError(f"threshold is {threshold!r}; expected a positive number")
        if not tol > 0:
            raise ValueError(f"tol is {tol!r}; expected a positive number")
        self.top_k = top_k
        self.threshold = threshold
        self.avg_degree = avg_degree if kept else 64
        self.normalize = normalize
        self.normalize_out = normalize_out
        self.self_loop_weight = self_loop_weight
        self.weight = weight
        self.tol = tol

    @torch.no_grad()
    def forward(self, data: Data) -> Data:
        """Replace the edges of a graph; PyG calls it on a shallow copy."""
        if not isinstance(data, Data):
            raise TypeError(
                f"data is a {type(data).__name__}; expected a Data: diffuse one edge type at a time, or call "
                "to_homogeneous() first"
            )
        if data.edge_index is None:
            raise ValueError("data has no edge_index, which is what is diffused")
        num_nodes, num_edges = data.num_nodes, data.edge_index.size(1)
        transition = self._transition(data.edge_index, self._read_weight(data), num_nodes)
        diffused = _normalize(self._strongest(transition), self.normalize_out)
        for name, value in data.to_dict().items():
            of_edges = name.startswith("edge_") and not name.startswith(("edge_index", "edge_label"))
            if of_edges and isinstance(value, Tensor) and value.dim() > 0 and value.size(0) == num_edges:
                del data[name]
        data.edge_index = diffused.edge_index
        data[self.weight] = diffused.weights()
        if data.num_nodes != num_nodes:
            data.num_nodes = num_nodes
        return data

    def __repr__(self) -> str:
        kept = {"top_k": self.top_k, "threshold": self.threshold, "avg_degree": self.avg_degree}
        options = [f"{name}={value}" for name, value in kept.items() if value is not None]
        return f"{type(self).__name__}({self.kernel.describe()}, {', '.join(options)})"

    def _read_weight(self, data: Data) -> Tensor:
        num_edges = data.edge_index.size(1)
        if self.weight not in data:
            return torch.ones(num_edges, device=data.edge_index.device)
        weight = data[self.weight]
        if not isinstance(weight, Tensor) or tuple(weight.shape) != (num_edges,):
            shape = tuple(weight.shape) if isinstance(weight, Tensor) else type(weight).__name__
            raise ValueError(
                f"{self.weight} is {shape}; expected a Tensor of shape ({num_edges},), one weight per edge"
            )
        weight = weight.to(torch.promote_types(weight.dtype, torch.float32))
        if bool((weight < 0).any()):
            raise ValueError(f"{self.weight} contains {weight.min():.4g}; expected no negative weights")
        return weight

    def _transition(self, edge_index: Tensor, weight: Tensor, num_nodes: int) -> SparseAffinity:
        """The normalized affinity of the graph with its loops."""
        if self.self_loop_weight > 0:
            edge_index, weight = add_self_loops(edge_index, weight, self.self_loop_weight, num_nodes)
        symmetric = is_undirected(edge_index, weight, num_nodes)
        A = Affinity.from_edge_index(edge_index, weight, num_nodes, symmetric=symmetric)
        return _normalize(A, self.normalize)

    def _strongest(self, transition: SparseAffinity) -> SparseAffinity:
        """The entries of the diffusion that are kept; a row of it is a column of its transpose."""
        n, backward = transition.shape[0], transition.T
        dtype, device = transition.dtype, transition.device
        edges, weights = torch.empty(2, 0, dtype=torch.long, device=device), torch.empty(0, dtype=dtype, device=device)
        smallest = torch.finfo(dtype).tiny if self.threshold is None else self.threshold
        room = math.inf if self.avg_degree is None else self.avg_degree * n
        size = max(1, _BLOCK_BYTES // (max(n, 1) * dtype.itemsize))
        for start in range(0, n, size):
            nodes = torch.arange(start, min(start + size, n), device=device)
            unit = torch.zeros(n, nodes.numel(), dtype=dtype, device=device)
            unit[nodes, nodes - start] = 1.0
            rows = apply_kernel(self.kernel, backward, unit, self.kernel.decay, self.tol).t()
            block = DenseAffinity(rows).threshold(smallest)
            part = (block if self.top_k is None else block.top_k(self.top_k)).to_sparse()
            edges = torch.cat([edges, part.edge_index + start * part.edge_index.new_tensor([[0], [1]])], dim=1)
            weights = torch.cat([weights, part.weights()])
            if weights.numel() > room:
                smallest = weights.topk(int(room)).values[-1].item()
                edges, weights = edges[:, weights >= smallest], weights[weights >= smallest]
        return SparseAffinity(edges, weights, (n, n))


def _normalize(A: SparseAffinity, kind: str) -> SparseAffinity:
    return A.T.normalize("row").T if kind == "column" else A.normalize(kind)
