"""Result lists as the predictions that the ranking metrics of PyG read."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from graphattn.retrieval.lists import RankedLists


def prediction_matrix(lists: RankedLists, num_items: int) -> Tensor:
    """Return result lists as the ``pred_index_mat`` of the ``LinkPred*`` metrics of PyG.

    Those metrics would take an empty slot (-1) for an item; here it becomes an item that does not exist. PyG's
    ``LinkPredMAP(k)`` divides by the smaller of :math:`k` and the number of positives and is trec_eval's ``map`` for
    lists of at least as many candidates as there are positives.

    Args:
        lists: Result lists.
        num_items: Size of the gallery.

    Shapes:
        - **output:** :math:`(Q, K)`

    Returns:
        Ids, best first; ``num_items`` where there is none.

    Raises:
        ValueError: If an id is not below ``num_items``.

    Example:
        >>> from torch_geometric.metrics import LinkPredRecall
        >>> lists = RankedLists(torch.tensor([[2, 0], [1, -1]]), torch.zeros(2, 2), torch.zeros(2, 2))
        >>> recall = LinkPredRecall(k=2)
        >>> recall.update(prediction_matrix(lists, 4), torch.tensor([[0, 0, 1], [2, 3, 1]]))
        >>> recall.compute()
        tensor(0.7500)
    """
    indices = torch.as_tensor(lists.indices)
    if indices.numel() and int(indices.max()) >= num_items:
        raise ValueError(f"lists contains id {int(indices.max())}; expected ids below num_items, {num_items}")
    return indices.masked_fill(indices < 0, num_items)


def label_pairs(
    query_labels: Tensor | np.ndarray, item_labels: Tensor | np.ndarray, query_ids: Tensor | np.ndarray | None = None
) -> Tensor:
    """Return all pairs of a query and an item of the same label, the ``edge_label_index`` of PyG's metrics.

    Args:
        query_labels: Label of each query.
        item_labels: Label of each item of the gallery.
        query_ids: Which item each query is, -1 for none; that pair is left out, as from lists with ``exclude_self``.

    Shapes:
        - **input:** ``query_labels`` and ``query_ids`` :math:`(Q,)`, ``item_labels`` :math:`(N,)`
        - **output:** :math:`(2, P)`

    Returns:
        Numbers of the queries, increasing, and ids of the items. Memory :math:`O(Q + N + P)`.

    Raises:
        ValueError: If an argument does not have one axis, or ``query_ids`` is of another length than the queries.

    Example:
        >>> label_pairs(torch.tensor([5, 7]), torch.tensor([7, 5, 7]))
        tensor([[0, 1, 1],
                [1, 0, 2]])
    """
    queries, items = _vector("query_labels", query_labels), _vector("item_labels", item_labels)
    values, order = items.sort(stable=True)
    start = torch.searchsorted(values, queries)
    count = torch.searchsorted(values, queries, right=True) - start
    row = torch.arange(queries.numel(), device=queries.device).repeat_interleave(count)
    place = torch.arange(row.numel(), device=row.device) - (count.cumsum(0) - count)[row] + start[row]
    pairs = torch.stack([row, order[place]])
    if query_ids is None:
        return pairs
    own = _vector("query_ids", query_ids)
    if own.shape != queries.shape:
        raise ValueError(f"query_ids has length {own.numel()}; expected {queries.numel()}, one per query")
    return pairs[:, pairs[1] != own[pairs[0]]]


def _vector(name: str, value: Any) -> Tensor:
    result = torch.as_tensor(value)
    if result.dim() != 1:
        raise ValueError(f"{name} has shape {tuple(result.shape)}; expected one axis")
    return result
