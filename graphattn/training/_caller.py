"""How a network is given a graph of a task."""

from __future__ import annotations

import inspect

from torch import Tensor, nn
from torch_geometric.data import Batch, Data

from graphattn.affinity import SparseAffinity
from graphattn.datasets import LinkTask
from graphattn.datasets.tasks import Task
from graphattn.models.network import Network
from graphattn.ops import Layout


class Caller:
    """Call a network on a graph with what it takes of it, and check that every output of the task comes back.

    Edges are sorted once for all layers of a network that takes them sorted, and once for all calls if the graph is
    kept.

    Args:
        task: The task.
        model: The network, or what a ``Fabric`` has made of it.

    Raises:
        TypeError: If the task is about links, and the network takes no pairs.
    """

    def __init__(self, task: Task, model: nn.Module) -> None:
        self.task, self.model = task, model
        network = inner(model)
        self._takes = inspect.signature(network.forward).parameters
        self._takes_affinity = getattr(network, "takes_affinity", False)
        if isinstance(task, LinkTask) and "pairs" not in self._takes:
            raise TypeError(f"model takes no pairs, which {task.name} is about; pass a LinkHead over it")
        self._columns = () if isinstance(task, LinkTask) else (task.out_channels,)
        self._kept: Data | None = None
        self._sorted: SparseAffinity | None = None

    def keep(self, data: Data) -> Data:
        """Return a graph, whose sorted edges are kept from its first call on."""
        self._kept, self._sorted = data, None
        return data

    def __call__(self, data: Data, **more: Tensor) -> Tensor:
        """Return the output of the network.

        Args:
            data: The graph.
            **more: What the network takes besides.

        Raises:
            ValueError: If the graph has no features, or the output has another shape than the task.
        """
        if data.x is None:
            raise ValueError(
                f"the graphs of {self.task.name} have no x; add features, such as the degrees of the nodes"
            )
        inputs = {name: data[name] for name in ("edge_attr", "pe", "batch") if data.get(name) is not None}
        if "num_graphs" in self._takes and isinstance(data, Batch):
            inputs["num_graphs"] = data.num_graphs
        weighted = data.get("edge_weight") is not None
        edges = self._edges(data) if self._takes_affinity or weighted else data.edge_index
        out: Tensor = self.model(x=data.x, edge_index=edges, **inputs, **more)
        if out.shape[1:] != self._columns:
            shape, needed = tuple(out.shape), ", ".join(["rows", *map(str, self._columns)])
            raise ValueError(f"model returns {shape}, but {self.task.name} needs [{needed}]; set out_channels")
        return out

    def _edges(self, data: Data) -> SparseAffinity:
        if data is not self._kept:
            return _affinity(data, reused=False)
        if self._sorted is None:
            self._sorted = _affinity(data, reused=True)
        return self._sorted


def takes_labels(model: nn.Module) -> bool:
    """Whether known labels are an input of a network."""
    network = inner(model)
    return isinstance(network, Network) and bool(network.config.get("label_input"))


def inner(model: nn.Module) -> nn.Module:
    """Return the network that a Fabric has wrapped, whose signature it hides."""
    inner: nn.Module = getattr(model, "module", model)
    return inner


def _affinity(data: Data, *, reused: bool) -> SparseAffinity:
    num_nodes = int(data.num_nodes or 0)
    return SparseAffinity(Layout(data.edge_index, num_nodes, num_nodes, reused=reused), data.get("edge_weight"))
