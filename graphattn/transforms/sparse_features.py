"""Keep node features as a sparse matrix where most of them are 0."""

from __future__ import annotations

import torch
from torch_geometric.data import Data
from torch_geometric.data.datapipes import functional_transform
from torch_geometric.transforms import BaseTransform


@functional_transform("sparse_features")
class SparseFeatures(BaseTransform):
    r"""Store ``x`` in CSR if at most a share of its entries is not 0 (functional name: ``sparse_features``).

    .. math:: \operatorname{nnz}(\mathbf{X}) \le \rho \, N F

    The first linear map of a network of :mod:`graphattn.models` then costs :math:`O(\operatorname{nnz}(\mathbf{X}) C)`
    instead of :math:`O(N F C)`; its values stay the same but for rounding, while dropout draws a number for each entry
    that is there. From a share of about 0.2 on the dense product is faster, training included. Use it last: other
    transforms expect dense features. Features that are dense enough, categories (integers) and those that are sparse
    already are left as they are.

    Args:
        density: Largest share :math:`\rho` of entries that are not 0, by default with a margin.

    Raises:
        ValueError: If ``density`` is no share; when called, if the graph has no matrix of features.

    Example:
        >>> words = Data(x=torch.eye(20))
        >>> SparseFeatures()(words).x.layout, SparseFeatures(density=0.01)(words).x.layout
        (torch.sparse_csr, torch.strided)
    """

    def __init__(self, density: float = 0.125) -> None:
        if not 0.0 <= density <= 1.0:
            raise ValueError(f"density is {density!r}; expected a share in [0, 1]")
        self.density = density

    def forward(self, data: Data) -> Data:
        """Make the features sparse; PyG calls it on a shallow copy."""
        if data.x is None or data.x.dim() != 2:
            found = "no x" if data.x is None else f"x of shape {tuple(data.x.shape)}"
            raise ValueError(f"data has {found}; expected features [nodes, columns]")
        numbers = data.x.layout == torch.strided and data.x.is_floating_point()
        if numbers and int(torch.count_nonzero(data.x)) <= self.density * data.x.numel():
            data.x = data.x.to_sparse_csr()
        return data

    def __repr__(self) -> str:
        return f"{type(self).__name__}(density={self.density})"
