"""Affinity: how strongly each node draws on each other, and what every storage of it can do."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import networkx as nx
import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor
from torch_geometric.data import Data

from graphattn.affinity.spectrum import spectral_radius

if TYPE_CHECKING:
    from graphattn.affinity.dense import DenseAffinity
    from graphattn.affinity.sparse import SparseAffinity

Self = TypeVar("Self", bound="Affinity")


class Affinity(ABC):
    r"""An affinity matrix: :math:`A_{ij}` says how strongly node :math:`i` draws on node :math:`j`.

    Rows are receivers (targets), columns are sources: a PyG edge :math:`(j, i)` is entry :math:`A_{ij}`, and ``A @ x``
    gathers at the targets. An affinity is never changed: every method returns a new one, and the tensors it was made
    of, which are not copied, must not be edited. A head axis holds several affinities over the same nodes.

    Make one with :meth:`from_edge_index`, :meth:`from_dense`, :meth:`from_networkx`, :meth:`from_scipy`,
    :meth:`from_torch_sparse`, :meth:`from_data` or :meth:`from_numpy`. ``symmetric`` records what the maker of the
    affinity knows, :math:`A = A^{\top}`; it is never found by looking at the values.

    Example:
        >>> A = Affinity.from_edge_index(torch.tensor([[0, 1, 2], [1, 0, 0]]))
        >>> A
        SparseAffinity(3 x 3, edges=3, heads=1, dtype=torch.float32)
        >>> (A.normalize("row") @ torch.tensor([1.0, 2.0, 4.0])).tolist()
        [3.0, 1.0, 0.0]
    """

    symmetric: bool
    _radius: Tensor | None = None

    # What a storage provides ##########################################################################################

    @property
    @abstractmethod
    def shape(self) -> tuple[int, int]:
        """Number of targets and number of sources, ``(N, M)``."""

    @property
    @abstractmethod
    def has_heads(self) -> bool:
        """Whether there is a head axis, be it of length 1."""

    @property
    @abstractmethod
    def num_heads(self) -> int:
        """Number of heads; 1 without a head axis."""

    @property
    @abstractmethod
    def dtype(self) -> torch.dtype:
        """Dtype of the weights; torch's default dtype for edges without weights."""

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Device of edges and weights."""

    @property
    @abstractmethod
    def T(self: Self) -> Self:  # noqa: N802 - the name torch and NumPy give it
        """The transposed affinity, in which sources receive and targets send."""

    @abstractmethod
    def to(self: Self, *args: Any, **kwargs: Any) -> Self:
        """Move to a device or a floating-point dtype, with the arguments of ``Tensor.to``."""

    @abstractmethod
    def row_sums(self) -> Tensor:
        """Sum of the weights that each target receives: shape :math:`(N,)`, or :math:`(N, H)` with heads."""

    @abstractmethod
    def norm_bound(self) -> Tensor:
        r"""Bound the spectral radius by sums: the smaller of the largest absolute row sum and column sum.

        .. math:: \rho(A) \le \min(\max_i \textstyle\sum_j |A_{ij}|, \max_j \sum_i |A_{ij}|)

        Returns:
            A scalar, or shape :math:`(H,)` with heads; unlike :meth:`spectral_radius` it needs no iteration.

        Example:
            >>> Affinity.from_dense(torch.tensor([[0.0, 2.0], [1.0, 1.0]])).norm_bound()
            tensor(2.)
        """

    @abstractmethod
    def normalize(self: Self, kind: str) -> Self:
        r"""Normalize the weights, taken as scores, over rows, columns or the spectrum.

        Args:
            kind: ``"softmax"``, ``"row"``, ``"symmetric"``, ``"sigmoid"``, ``"sinkhorn"``, ``"relu_frobenius"``,
                ``"none"`` (defined in :mod:`graphattn.affinity.normalize`; ``row``, ``symmetric`` and
                ``relu_frobenius`` read the positive part), or ``"spectral"``: divide by :meth:`spectral_radius`, a
                constant without gradient; a radius of 0 leaves the weights as they are.

        Returns:
            A new affinity over the same edges; rows without edges stay 0. ``symmetric`` is kept except by ``softmax``,
            ``row`` and ``sinkhorn``, which end on rows.

        Raises:
            ValueError: If ``kind`` is unknown, or ``"spectral"`` is asked of a rectangular affinity.

        Example:
            >>> star = Affinity.from_edge_index(torch.tensor([[0, 1, 0, 2], [1, 0, 2, 0]]), torch.ones(4))
            >>> star.normalize("row").to_dense().matrix.tolist()
            [[0.0, 0.5, 0.5], [1.0, 0.0, 0.0], [1.0, 0.0, 0.0]]
        """

    @abstractmethod
    def top_k(self: Self, k: int) -> Self:
        """Keep the ``k`` largest weights of each row and head; ties go to the lowest column.

        With several heads a sparse edge stays if any head keeps it; the other heads give it weight 0.

        Args:
            k: How many to keep, at least 1.

        Returns:
            A new affinity, no longer marked ``symmetric``.

        Raises:
            ValueError: If ``k`` is not a positive integer.

        Example:
            >>> A = Affinity.from_dense(torch.tensor([[1.0, 3.0, 3.0], [0.0, 2.0, 0.0]]))
            >>> A.top_k(1).matrix.tolist()
            [[0.0, 3.0, 0.0], [0.0, 2.0, 0.0]]
        """

    @abstractmethod
    def threshold(self: Self, value: float) -> Self:
        """Keep the edges whose weight is at least ``value``, by the rule for heads of :meth:`top_k`.

        Args:
            value: Smallest weight that stays.

        Returns:
            A new affinity.

        Example:
            >>> Affinity.from_dense(torch.tensor([[1.0, 3.0]])).threshold(2.0).matrix.tolist()
            [[0.0, 3.0]]
        """

    @abstractmethod
    def to_dense(self) -> DenseAffinity:
        """Store as a matrix; parallel edges add up."""

    @abstractmethod
    def to_sparse(self) -> SparseAffinity:
        """Store as edges: the nonzero entries, in row-major order (heads share the union of theirs)."""

    @abstractmethod
    def _apply(self, x: Tensor) -> Tensor:
        """Multiply ``x [M, C]`` or ``[M, H, C]`` to ``[N, C]``, or ``[N, H, C]`` where either has heads."""

    # What every storage can do then ###################################################################################

    def __matmul__(self, x: Tensor) -> Tensor:
        """Gather source features at the targets: ``A @ x`` is :meth:`matmul`."""
        return self.matmul(x)

    def matmul(self, x: Tensor) -> Tensor:
        r"""Gather source features at the targets, one hop along the affinity.

        The same as ``A @ x``, which ``torch.compile`` does not understand between an object and a tensor: there, write
        ``A.matmul(x)``.

        .. math:: \mathbf{y}_i = \sum_j A_{ij} \mathbf{x}_j

        Args:
            x: Features of the sources.

        Shapes:
            - **input:** :math:`(M,)`, :math:`(M, C)` or :math:`(M, H, C)`
            - **output:** as the input with N rows; with a head axis :math:`(N, H)` for :math:`(M,)`, else
              :math:`(N, H, C)`: features without heads are gathered by every head, and a single head serves all
              heads of the features

        Returns:
            The sums; targets without edges get 0.

        Raises:
            ValueError: If a shape or a device does not fit.
            TypeError: If ``x`` is not a floating-point tensor.

        Example:
            >>> A = Affinity.from_dense(torch.tensor([[0.0, 2.0], [1.0, 0.0], [0.0, 0.0]]))
            >>> (A @ torch.tensor([3.0, 4.0])).tolist()
            [8.0, 3.0, 0.0]
        """
        if not isinstance(x, Tensor):
            raise TypeError(f"x is a {type(x).__name__}; expected a floating-point Tensor")
        if not x.is_floating_point():
            raise TypeError(f"x has dtype {x.dtype}; expected a floating-point dtype")
        if x.device != self.device:
            raise ValueError(f"x is on {x.device} but the affinity is on {self.device}; move one of them")
        heads_fit = x.dim() < 3 or self.num_heads in (1, x.size(1))
        if not 1 <= x.dim() <= 3 or x.size(0) != self.shape[1] or not heads_fit:
            heads = f", {self.num_heads}" if self.num_heads > 1 else ", H"
            m = self.shape[1]
            raise ValueError(f"x has shape {tuple(x.shape)}; expected [{m}], [{m}, C] or [{m}{heads}, C]")
        return self._apply(x.unsqueeze(-1)).squeeze(-1) if x.dim() == 1 else self._apply(x)

    def spectral_radius(self) -> Tensor:
        r"""Compute the largest absolute eigenvalue, :math:`\rho(A) = \max_k |\lambda_k|`, of each head.

        Computed on the host in float64, once: dense solver up to 64 nodes, ARPACK above, over strongly connected
        components only, so that a directed acyclic graph has radius exactly 0.

        Returns:
            A detached scalar, or shape :math:`(H,)` with heads, of at least float32.

        Raises:
            ValueError: If the affinity is rectangular.
            RuntimeError: If the iteration does not converge.

        Example:
            >>> ring = Affinity.from_edge_index(torch.tensor([[0, 1, 2], [1, 2, 0]]))
            >>> ring.spectral_radius().item()
            1.0
        """
        n, m = self.shape
        if n != m:
            raise ValueError(f"the affinity is {n} x {m}; only a square one has a spectral radius")
        if self._radius is None:
            values = [spectral_radius(matrix, self.symmetric) for matrix in self.to_sparse()._host_matrices()]
            dtype = torch.promote_types(self.dtype, torch.float32)
            radius = torch.tensor(values, dtype=dtype, device=self.device)
            self._radius = radius if self.has_heads else radius[0]
        return self._radius

    # Conversions ######################################################################################################
    # They are imported late: the converters make the storages, which are subclasses of this class.

    @staticmethod
    def from_edge_index(
        edge_index: Tensor,
        weight: Tensor | None = None,
        num_nodes: int | tuple[int, int] | None = None,
        *,
        symmetric: bool = False,
        labels: Sequence[Hashable] | None = None,
    ) -> SparseAffinity:
        r"""Make an affinity of PyG edges, source row first.

        Args:
            edge_index: Edges. A sorted ``EdgeIndex`` lends its size and the pointers it has cached.
            weight: Weights; ones by default.
            num_nodes: Number of nodes, or ``(num_sources, num_targets)`` in the order of PyG's ``size``; by default
                the largest index plus one, which is read on the host.
            symmetric: Whether every edge has its reverse of the same weight.
            labels: Names of the nodes.

        Shapes:
            - **input:** ``edge_index`` :math:`(2, E)`, ``weight`` :math:`(E,)` or :math:`(E, H)`

        Returns:
            An affinity with ``shape == (num_targets, num_sources)``.

        Raises:
            ValueError: If a shape or a device does not fit; on the CPU also if an index is out of range
                or a weight NaN.
            TypeError: If ``edge_index`` is not an integer tensor or ``weight`` not a floating-point one.

        Example:
            >>> Affinity.from_edge_index(torch.tensor([[0, 2], [1, 1]]), num_nodes=(3, 2)).shape
            (2, 3)
        """
        from graphattn.affinity import convert

        return convert.from_edge_index(edge_index, weight, num_nodes, symmetric=symmetric, labels=labels)

    @staticmethod
    def from_dense(matrix: Tensor, *, symmetric: bool = False) -> DenseAffinity:
        """Take a matrix ``[N, M]``, or ``[H, N, M]`` with heads, as it is; zeros are no edges.

        Example:
            >>> Affinity.from_dense(torch.eye(2))
            DenseAffinity(2 x 2, heads=1, dtype=torch.float32)
        """
        from graphattn.affinity import convert

        return convert.from_dense(matrix, symmetric=symmetric)

    @staticmethod
    def from_numpy(array: np.ndarray, *, symmetric: bool = False) -> DenseAffinity:
        """Copy a NumPy matrix ``[N, M]`` or ``[H, N, M]``; integers become torch's default dtype.

        Example:
            >>> Affinity.from_numpy(np.eye(2))
            DenseAffinity(2 x 2, heads=1, dtype=torch.float64)
        """
        from graphattn.affinity import convert

        return convert.from_numpy(array, symmetric=symmetric)

    @staticmethod
    def from_networkx(graph: nx.Graph, weight: str | None = "weight") -> SparseAffinity:
        """Read a networkx graph: edge u -> v becomes ``A[v, u]``, parallel edges stay apart, labels are kept.

        Args:
            graph: Any networkx graph. An undirected one gives both directions (a self-loop once), marked symmetric.
            weight: Edge attribute that holds the weight, 1 where missing; ``None`` reads no weights.

        Raises:
            TypeError: If a weight is not a number.
            ValueError: If a weight is NaN.

        Example:
            >>> graph = nx.DiGraph([("a", "b")])
            >>> A = Affinity.from_networkx(graph)
            >>> A.labels, A.to_dense().matrix.tolist()
            (('a', 'b'), [[0.0, 0.0], [1.0, 0.0]])
        """
        from graphattn.affinity import convert

        return convert.from_networkx(graph, weight)

    @staticmethod
    def from_scipy(matrix: Any, transpose: bool = False, *, symmetric: bool = False) -> SparseAffinity:
        """Copy a SciPy sparse matrix or array, taken as A itself: rows receive; ``transpose=True`` if rows send.

        Example:
            >>> A = Affinity.from_scipy(csr_array(([2.0], ([1], [0])), shape=(2, 2)))
            >>> A.edge_index.tolist(), A.weight.tolist()
            ([[0], [1]], [2.0])
        """
        from graphattn.affinity import convert

        return convert.from_scipy(matrix, transpose, symmetric=symmetric)

    @staticmethod
    def from_torch_sparse(matrix: Tensor, transpose: bool = False, *, symmetric: bool = False) -> SparseAffinity:
        """Read a COO, CSR or CSC tensor, taken as A itself: rows receive (PyG's ``adj_t``).

        Values may have one dense dimension, the heads: shape ``[N, M, H]``. Duplicates of a COO tensor add up.

        Example:
            >>> Affinity.from_torch_sparse(torch.tensor([[0.0, 5.0]]).to_sparse_csr()).edge_index.tolist()
            [[1], [0]]
        """
        from graphattn.affinity import convert

        return convert.from_torch_sparse(matrix, transpose, symmetric=symmetric)

    @staticmethod
    def from_data(data: Data, weight: str = "edge_weight", *, symmetric: bool = False) -> SparseAffinity:
        """Read the edges of a PyG graph, and their weights if it has that attribute.

        Example:
            >>> Affinity.from_data(Data(edge_index=torch.tensor([[0], [1]]), num_nodes=3)).shape
            (3, 3)
        """
        from graphattn.affinity import convert

        return convert.from_data(data, weight, symmetric=symmetric)

    def to_edge_index(self) -> tuple[Tensor, Tensor]:
        """Return PyG's ``edge_index`` and the weights, ones where there are none.

        Example:
            >>> Affinity.from_dense(torch.tensor([[0.0, 5.0]])).to_edge_index()
            (tensor([[1],
                    [0]]), tensor([5.]))
        """
        edges = self.to_sparse()
        return edges.edge_index, edges.weights()

    def to_networkx(self, weight: str = "weight", *, multigraph: bool = False) -> nx.Graph:
        """Make a networkx graph: ``A[v, u]`` becomes edge u -> v; undirected if the affinity is marked symmetric.

        Args:
            weight: Edge attribute for the weights; edges without weights get none.
            multigraph: Keep parallel edges apart instead of adding them up.

        Raises:
            ValueError: If the affinity is rectangular or has several heads.

        Example:
            >>> Affinity.from_dense(torch.tensor([[0.0, 5.0], [0.0, 0.0]])).to_networkx().edges(data="weight")
            OutEdgeDataView([(1, 0, 5.0)])
        """
        from graphattn.affinity import convert

        return convert.to_networkx(self.to_sparse(), weight, multigraph)

    def to_scipy(self) -> csr_array:
        """Copy to a SciPy ``csr_array`` in which rows receive; parallel edges add up.

        Raises:
            ValueError: If there are several heads.

        Example:
            >>> Affinity.from_edge_index(torch.tensor([[0, 0], [1, 1]])).to_scipy().toarray().tolist()
            [[0.0, 0.0], [2.0, 0.0]]
        """
        from graphattn.affinity import convert

        return convert.to_scipy(self.to_sparse())

    def to_torch_sparse(self, layout: torch.layout = torch.sparse_csr) -> Tensor:
        """Return a torch sparse tensor ``[N, M]`` (``[N, M, H]`` with heads); parallel edges add up.

        Args:
            layout: ``torch.sparse_coo``, ``torch.sparse_csr`` or ``torch.sparse_csc``.

        Raises:
            ValueError: If ``layout`` is another one.

        Example:
            >>> Affinity.from_dense(torch.tensor([[0.0, 5.0]])).to_torch_sparse().col_indices().tolist()
            [1]
        """
        from graphattn.affinity import convert

        return convert.to_torch_sparse(self.to_sparse(), layout)

    def to_data(self) -> Data:
        """Return a PyG graph: ``edge_index``, ``num_nodes`` and, if there are any, ``edge_weight`` and ``edge_type``.

        Raises:
            ValueError: If the affinity is rectangular.

        Example:
            >>> Affinity.from_edge_index(torch.tensor([[0], [1]])).to_data()
            Data(edge_index=[2, 1], num_nodes=2)
        """
        from graphattn.affinity import convert

        return convert.to_data(self.to_sparse())

    def to_numpy(self) -> np.ndarray:
        """Copy to a NumPy array ``[N, M]``, or ``[H, N, M]`` with heads; parallel edges add up.

        Example:
            >>> Affinity.from_edge_index(torch.tensor([[0], [1]])).to_numpy().tolist()
            [[0.0, 0.0], [1.0, 0.0]]
        """
        from graphattn.affinity import convert

        return convert.to_numpy(self.to_dense())
