"""What a task refuses: splits that leak or are empty, features that are NaN, labels that no class has."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations

import torch
from torch import Tensor
from torch_geometric.data import Data

PARTS = ("train", "val", "test")
_BLOCK_ENTRIES = 1 << 22


def check_parts(name: str, split: Mapping[str, Tensor]) -> None:
    """Raise unless a split has its three parts."""
    if sorted(split) != sorted(PARTS):
        raise ValueError(f"split of {name} has the parts {sorted(split)}; expected train, val and test")


def check_split(name: str, split: Mapping[str, Tensor], size: int, item: str) -> dict[str, Tensor]:
    """Return the ids of each part of a split, given as ids or as masks, once they are known to be sound.

    Args:
        name: Name of the set.
        split: Ids, or a mask, of each part.
        size: How many items there are.
        item: What they are, for the message.

    Raises:
        TypeError: If a part is neither a mask nor integers.
        ValueError: If a part is missing, empty, out of range, names an item twice or shares one with another part.
    """
    check_parts(name, split)
    ids = {part: _ids(name, part, split[part], size) for part in PARTS}
    for part, found in ids.items():
        if not len(found):
            raise ValueError(f"split {part!r} of {name} is empty; expected at least one {item}")
        if int(found.min()) < 0 or int(found.max()) >= size:
            raise ValueError(
                f"split {part!r} of {name} has ids from {int(found.min())} to {int(found.max())}, "
                f"but there are {size} {item}s"
            )
    owners = torch.full((size,), -1)
    for number, (part, found) in enumerate(ids.items()):
        taken = owners[found] >= 0
        if bool(taken.any()):
            first = int(found[taken][0])
            raise ValueError(
                f"split of {name} leaks: {int(taken.sum())} {item}s of {part!r} are also in "
                f"{PARTS[int(owners[first])]!r}, the first is {first}"
            )
        owners[found] = number
        if int((owners == number).sum()) < len(found):
            values, counts = found.unique(return_counts=True)
            raise ValueError(f"split {part!r} of {name} names {item} {int(values[counts > 1][0])} more than once")
    return ids


def _ids(name: str, part: str, value: Tensor, size: int) -> Tensor:
    if value.dtype == torch.bool:
        if value.shape != (size,):
            raise ValueError(f"split {part!r} of {name} is a mask of shape {tuple(value.shape)}; expected ({size},)")
        return value.nonzero().flatten()
    if value.is_floating_point() or value.is_complex() or value.dim() != 1:
        raise TypeError(
            f"split {part!r} of {name} has shape {tuple(value.shape)} and dtype {value.dtype}; expected a mask or ids"
        )
    return value.long()


def check_graph(name: str, data: Data, number: int | None = None) -> None:
    """Raise if a feature of a graph is not finite, or an edge ends at a node that is not there.

    Args:
        name: Name of the set.
        data: The graph.
        number: Its number, if the set has many.
    """
    of_graph = "" if number is None else f" of graph {number}"
    check_features(name, data.x, of_graph)
    for key in ("edge_attr", "pe"):
        check_features(name, data.get(key), f" of {key}{of_graph}")
    of_graph = name if number is None else f"{name}, graph {number},"
    check_edges(of_graph, data.edge_index, int(data.num_nodes or 0))


def check_features(name: str, values: Tensor | None, where: str = "") -> None:
    """Raise if a feature is NaN or infinite; a file that is mapped into memory is read block by block."""
    if values is None or not values.is_floating_point():
        return
    entries = values.values() if values.layout == torch.sparse_csr else values
    size = max(1, _BLOCK_ENTRIES // max(1, entries[:1].numel()))
    count, first = 0, list[int]()
    for start in range(0, len(entries), size):
        wrong = ~torch.isfinite(entries[start : start + size])
        if bool(wrong.any()):
            place = wrong.nonzero()[0].tolist()
            first = first or [start + place[0], *place[1:]]
            count += int(wrong.sum())
    if not count:
        return
    if entries is not values:
        row = torch.searchsorted(values.crow_indices(), first[0], right=True) - 1
        first = [int(row), int(values.col_indices()[first[0]])]
    column = f", column {first[1]}" if len(first) > 1 else ""
    raise ValueError(
        f"features of {name} hold {count} NaN or infinite values, the first in row {first[0]}{column}"
        f"{where}; replace them before loading"
    )


def check_labels(name: str, labels: Tensor, num_classes: int | None) -> None:
    """Raise if a label of a split is no class, or a target is infinite or, in a regression, NaN."""
    if num_classes is None or labels.is_floating_point():
        wrong = torch.isinf(labels) if num_classes is not None else ~torch.isfinite(labels)
        expected = "finite numbers"
    else:
        wrong = (labels < 0) | (labels >= num_classes)
        expected = f"classes from 0 to {num_classes - 1}"
    if bool(wrong.any()):
        value = labels[wrong][0].item()
        raise ValueError(f"labels of {name} hold {int(wrong.sum())} such as {value} in its split; expected {expected}")


def check_edges(name: str, edge_index: Tensor | None, num_nodes: int, what: str = "edge_index") -> None:
    """Raise if an edge ends at a node that is not there."""
    if edge_index is not None and edge_index.numel():
        low, high = int(edge_index.min()), int(edge_index.max())
        if low < 0 or high >= num_nodes:
            raise ValueError(f"{what} of {name} has nodes from {low} to {high}, but there are {num_nodes}")


def check_links(name: str, split: Mapping[str, Tensor], known: Tensor | None, num_nodes: int) -> None:
    """Raise if a link that is to be predicted is among the edges that messages take, or in two parts.

    Args:
        name: Name of the set.
        split: True links ``[2, E]`` of each part.
        known: Edges of the graph that a model sees.
        num_nodes: Number of nodes.
    """
    keys = {part: _keys(edges, num_nodes) for part, edges in split.items()}
    if known is not None:
        keys["graph"] = _keys(known, num_nodes)
    for first, second in combinations(keys, 2):
        if {first, second} == {"train", "graph"}:
            continue  # what a model trains on it may see
        shared = keys[first][torch.isin(keys[first], keys[second])]
        if len(shared):
            i, j = divmod(int(shared[0]), num_nodes)
            where = "edges of the graph" if second == "graph" else f"links of {second!r}"
            raise ValueError(f"split of {name} leaks: {len(shared)} links of {first!r} are {where}, such as {i} - {j}")


def _keys(edges: Tensor, num_nodes: int) -> Tensor:
    """One number for each pair of nodes, whatever its direction."""
    return (edges.amin(0) * num_nodes + edges.amax(0)).unique()
