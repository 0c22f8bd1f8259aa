"""Write where every node is in its graph into the graph, once, before training."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

from torch import Tensor
from torch_geometric.data import Data
from torch_geometric.data.datapipes import functional_transform
from torch_geometric.transforms import BaseTransform

from graphattn.affinity import Affinity, SparseAffinity
from graphattn.nn.encodings import (
    degree_encoding,
    heat_kernel_encoding,
    laplacian_encoding,
    random_walk_encoding,
)


class _AddEncoding(BaseTransform):
    """Read the graph, encode its nodes, write the encodings."""

    def __init__(self, attr_name: str, weight: str) -> None:
        self.attr_name = attr_name
        self.weight = weight

    def forward(self, data: Data) -> Data:
        """Write the encodings; PyG calls it on a shallow copy."""
        if not isinstance(data, Data):
            raise TypeError(
                f"data is a {type(data).__name__}; expected a Data: encode one edge type at a time, or call "
                "to_homogeneous() first"
            )
        data[self.attr_name] = self._encode(Affinity.from_data(data, self.weight), data)
        return data

    @abstractmethod
    def _encode(self, graph: SparseAffinity, data: Data) -> Tensor:
        """Encode the nodes."""


@functional_transform("add_laplacian_encoding")
class AddLaplacianEncoding(_AddEncoding):
    """Add the lowest eigenvectors of the Laplacian (functional name: ``add_laplacian_encoding``).

    See :func:`~graphattn.nn.encodings.laplacian_encoding`. A batch of several graphs is encoded graph by graph. The
    eigenvalues are written under the same name with ``_values``, one row for each graph, as
    :class:`~graphattn.nn.encodings.SignNet` takes them.

    Args:
        k: Number of vectors.
        compat: ``"pyg"`` or ``"graphgps"`` for what they compute.
        attr_name: Name of the encodings.
        weight: Name of the weights, read if the graph has them.

    Raises:
        ValueError: When called, if the graph has no ``edge_index``, or an argument does not fit.
        TypeError: When called, if the graph is not a ``Data``.

    Example:
        >>> import torch
        >>> path = Data(edge_index=torch.tensor([[0, 1, 1, 2], [1, 0, 2, 1]]), num_nodes=3)
        >>> AddLaplacianEncoding(k=2)(path)
        Data(edge_index=[2, 4], num_nodes=3, pe_values=[1, 2], pe=[3, 2])
    """

    def __init__(
        self, k: int = 8, *, compat: str | None = None, attr_name: str = "pe", weight: str = "edge_weight"
    ) -> None:
        super().__init__(attr_name, weight)
        self.k = k
        self.compat = compat

    def _encode(self, graph: SparseAffinity, data: Data) -> Tensor:
        batch = data.batch if "batch" in data else None
        vectors, values = laplacian_encoding(graph, self.k, batch=batch, compat=self.compat)
        data[f"{self.attr_name}_values"] = values.reshape(-1, self.k)
        return vectors

    def __repr__(self) -> str:
        return f"{type(self).__name__}(k={self.k})"


@functional_transform("add_random_walk_encoding")
class AddRandomWalkEncoding(_AddEncoding):
    """Add the probabilities that a random walk returns (functional name: ``add_random_walk_encoding``).

    See :func:`~graphattn.nn.encodings.random_walk_encoding`.

    Args:
        steps: Number of steps.
        compat: ``"pyg"`` or ``"graphgps"`` for what they compute.
        attr_name: Name of the encodings.
        weight: Name of the weights, read if the graph has them.

    Raises:
        ValueError: When called, if the graph has no ``edge_index``, or an argument does not fit.
        TypeError: When called, if the graph is not a ``Data``.

    Example:
        >>> import torch
        >>> pair = Data(edge_index=torch.tensor([[0, 1], [1, 0]]), num_nodes=2)
        >>> AddRandomWalkEncoding(steps=4)(pair).pe[0]
        tensor([0., 1., 0., 1.])
    """

    def __init__(
        self, steps: int = 16, *, compat: str | None = None, attr_name: str = "pe", weight: str = "edge_weight"
    ) -> None:
        super().__init__(attr_name, weight)
        self.steps = steps
        self.compat = compat

    def _encode(self, graph: SparseAffinity, data: Data) -> Tensor:
        return random_walk_encoding(graph, self.steps, compat=self.compat)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(steps={self.steps})"


@functional_transform("add_heat_kernel_encoding")
class AddHeatKernelEncoding(_AddEncoding):
    """Add the diagonal of the heat kernel (functional name: ``add_heat_kernel_encoding``).

    See :func:`~graphattn.nn.encodings.heat_kernel_encoding`.

    Args:
        times: Durations.
        attr_name: Name of the encodings.
        weight: Name of the weights, read if the graph has them.

    Raises:
        ValueError: When called, if the graph has no ``edge_index``, or an argument does not fit.
        TypeError: When called, if the graph is not a ``Data``.

    Example:
        >>> import torch
        >>> pair = Data(edge_index=torch.tensor([[0, 1], [1, 0]]), num_nodes=2)
        >>> AddHeatKernelEncoding(times=[0.5])(pair).pe[0]  # exp(-1) / 2
        tensor([0.1839])
    """

    def __init__(
        self,
        times: Sequence[float] = tuple(range(1, 17)),
        *,
        attr_name: str = "pe",
        weight: str = "edge_weight",
    ) -> None:
        super().__init__(attr_name, weight)
        self.times = tuple(times)

    def _encode(self, graph: SparseAffinity, data: Data) -> Tensor:
        return heat_kernel_encoding(graph, self.times)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(times={self.times})"


@functional_transform("add_degree_encoding")
class AddDegreeEncoding(_AddEncoding):
    """Add the logarithms of both degrees (functional name: ``add_degree_encoding``).

    See :func:`~graphattn.nn.encodings.degree_encoding`.

    Args:
        attr_name: Name of the encodings.
        weight: Name of the weights, read if the graph has them.

    Raises:
        ValueError: When called, if the graph has no ``edge_index``, or a weight does not fit.
        TypeError: When called, if the graph is not a ``Data``.

    Example:
        >>> import torch
        >>> edge = Data(edge_index=torch.tensor([[0], [1]]), num_nodes=2)
        >>> AddDegreeEncoding()(edge).pe
        tensor([[0.0000, 0.6931],
                [0.6931, 0.0000]])
    """

    def __init__(self, *, attr_name: str = "pe", weight: str = "edge_weight") -> None:
        super().__init__(attr_name, weight)

    def _encode(self, graph: SparseAffinity, data: Data) -> Tensor:
        return degree_encoding(graph)
