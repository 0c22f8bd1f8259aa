"""Transforms of tasks: named and recorded, so that a checkpoint can tell what its network has seen."""

from __future__ import annotations

import copy
import inspect
import json
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch_geometric.transforms
from scipy.sparse.linalg import eigsh
from torch_geometric.data import Data
from torch_geometric.transforms import BaseTransform

import graphattn.transforms
from graphattn._names import nearest
from graphattn.datasets._checks import check_graph
from graphattn.datasets.events import EventTask
from graphattn.datasets.tasks import GraphTask, Task
from graphattn.engine import seeded

T = TypeVar("T", bound=Task)

_CLASSES: dict[str, type[BaseTransform]] = {
    name: getattr(module, name)
    for module in (torch_geometric.transforms, graphattn.transforms)
    for name in module.__all__
    if isinstance(getattr(module, name), type) and name not in ("BaseTransform", "Compose", "ComposeFilters")
}
# What an unsuitable graph makes transforms raise, besides their own words for it.
_UNSUITABLE = (AttributeError, AssertionError, IndexError, KeyError, NotImplementedError, RuntimeError, TypeError)


def transform(task: T, transforms: Mapping[str, Mapping[str, Any]]) -> T:
    """Put the graphs of a task through transforms, one after the other.

    The transforms are recorded in ``task.transform``, behind those that are there already. Their random numbers are
    seeded anew for every graph, so that a graph looks the same whenever and beside whatever others it is transformed.
    Nodes stay what they are in tasks about nodes and links; edges that a transform derives, such as those of a
    diffusion, may well join pairs that are to be predicted.

    Args:
        task: The task, which is left as it is.
        transforms: For each name of a class of :mod:`torch_geometric.transforms` or :mod:`graphattn.transforms` its
            arguments, of plain values that JSON can hold.

    Returns:
        The task of the new graphs.

    Raises:
        TypeError: If ``transforms`` is no mapping of names to arguments, an argument is no plain value, or the task is
            of events.
        ValueError: If a name or an argument is unknown, a transform was applied before, does not suit the graphs or
            changes the nodes, or a new feature is NaN.

    Example:
        >>> from graphattn.datasets import load
        >>> names = {"AddRandomWalkPE": {"walk_length": 4, "attr_name": "pe"}, "SparseFeatures": {}}
        >>> task = transform(load("karate"), names)
        >>> task.data.pe.shape, task.data.x.layout, list(task.transform)
        (torch.Size([34, 4]), torch.sparse_csr, ['AddRandomWalkPE', 'SparseFeatures'])
    """
    if isinstance(task, EventTask):
        raise TypeError(f"{task.name} is a stream of events; transforms are of graphs, change its data instead")
    apply = make_transform(transforms)
    twice = [name for name in transforms if name in task.transform]
    if twice:
        raise ValueError(f"transforms has {twice[0]!r}, which {task.name} went through before; apply it once")
    # A copy, since a task that is made checks its links, and edges that are derived from others are no leak.
    new = copy.copy(task)
    if isinstance(task, GraphTask):
        graphs = [apply(graph, f"graph {number} of {task.name}") for number, graph in enumerate(task.graphs)]
        object.__setattr__(new, "graphs", graphs)
    else:
        data = apply(task.data, task.name)
        if data.num_nodes != task.data.num_nodes:
            raise ValueError(
                f"transforms leave {data.num_nodes} of the {task.data.num_nodes} nodes of {task.name}, whose split "
                "names nodes; expected transforms of edges or features"
            )
        object.__setattr__(new, "data", data)
    object.__setattr__(new, "transform", {**task.transform, **json.loads(json.dumps(transforms))})
    return new


def make_transform(transforms: Mapping[str, Mapping[str, Any]]) -> Callable[[Data, str], Data]:
    """Make one function of several transforms.

    Args:
        transforms: As in :func:`transform`.

    Returns:
        What maps a graph, which it leaves as it is, and its name in messages to the new graph. It raises ``ValueError``
        if a transform does not suit the graph or a new feature is NaN.

    Raises:
        TypeError: If ``transforms`` is no mapping of names to arguments, or an argument is no plain value.
        ValueError: If a name or an argument is unknown.

    Example:
        >>> import torch
        >>> ring = Data(edge_index=torch.tensor([[0, 1, 2], [1, 2, 0]]), num_nodes=3)
        >>> make_transform({"Constant": {"value": 2.0}})(ring, "ring").x.flatten().tolist()
        [2.0, 2.0, 2.0]
    """
    if not isinstance(transforms, Mapping) or not all(isinstance(value, Mapping) for value in transforms.values()):
        example: dict[str, dict[str, Any]] = {"NormalizeFeatures": {}}
        raise TypeError(f"transforms is {transforms!r}; expected arguments by name, such as {example}")
    made = [(name, _make(name, arguments)) for name, arguments in transforms.items()]

    def apply(data: Data, where: str) -> Data:
        for name, step in made:
            try:
                with seeded(0):
                    result = step(data)
            except (ValueError, *_UNSUITABLE) as error:
                raise ValueError(f"{name} cannot be applied to {where} ({type(error).__name__}: {error})") from error
            if not isinstance(result, Data):
                raise ValueError(f"{name} makes a {type(result).__name__} of {where}; expected one graph")
            if result.edge_index is None and data.edge_index is not None:
                raise ValueError(f"{name} takes away the edge_index of {where}, which networks need")
            data = result
        check_graph(where, data)
        return data

    return apply


def _make(name: str, arguments: Mapping[str, Any]) -> BaseTransform:
    if name not in _CLASSES:
        near = nearest(name, _CLASSES)
        raise ValueError(f"transforms has {name!r}, which is none of PyG or of graphattn; did you mean {near!r}?")
    try:
        json.dumps(arguments)
    except TypeError as error:
        raise TypeError(f"arguments of {name} are {dict(arguments)!r} ({error}); expected plain values") from error
    signature = inspect.signature(_CLASSES[name])
    known = [key for key, parameter in signature.parameters.items() if parameter.kind is not parameter.VAR_KEYWORD]
    unknown = [key for key in arguments if key not in known]
    if unknown and len(known) == len(signature.parameters):
        hint = f"did you mean {nearest(unknown[0], known)!r}?" if known else "it takes none"
        raise ValueError(f"{name} does not take {unknown[0]!r}; {hint}")
    try:
        signature.bind(**arguments)
        return _CLASSES[name](**{**_constants(name), **arguments})
    except (TypeError, ValueError, AssertionError) as error:
        raise ValueError(f"{name} cannot be made with {dict(arguments)!r} ({error})") from error


def _constants(name: str) -> dict[str, Any]:
    """Return what makes a transform repeatable whose random numbers are not torch's."""
    eigenvectors = name == "AddLaplacianEigenvectorPE" and "rng" in inspect.signature(eigsh).parameters
    return {"rng": 0} if eigenvectors else {}
