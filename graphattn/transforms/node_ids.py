"""Give graphs without features the numbers of their nodes."""

from __future__ import annotations

import torch
from torch_geometric.data import Data
from torch_geometric.data.datapipes import functional_transform
from torch_geometric.transforms import BaseTransform


@functional_transform("node_ids")
class NodeIds(BaseTransform):
    r"""Let the only feature of a node be its number (functional name: ``node_ids``).

    .. math:: \mathbf{X} = (0, 1, \dots, N - 1)^\top

    A network of :mod:`graphattn.models` with ``encoder="embedding"`` and ``vocabulary=[N]`` then learns a vector for
    each node, as is usual for graphs without features, such as ogbl-ddi. It knows the nodes of this graph only.

    Raises:
        ValueError: When called, if the graph has features.

    Example:
        >>> NodeIds()(Data(edge_index=torch.tensor([[0, 2], [1, 1]]), num_nodes=3)).x.tolist()
        [[0], [1], [2]]
    """

    def forward(self, data: Data) -> Data:
        """Number the nodes; PyG calls it on a shallow copy."""
        if data.x is not None:
            raise ValueError(f"data has features of shape {tuple(data.x.shape)}; remove x to learn a vector per node")
        device = None if data.edge_index is None else data.edge_index.device
        data.x = torch.arange(data.num_nodes, device=device)[:, None]
        return data
