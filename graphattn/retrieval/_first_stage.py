"""Lists as a first stage returned them: read, checked, sorted, and written again once they have new scores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from graphattn.retrieval.lists import RankedLists

_TAIL_GAP = 1e-3
_TOP = 10
_SLACK = 64  # rounding errors, in units of eps, by which the scores of copies may differ


@dataclass(frozen=True, eq=False)
class FirstStage:
    """Sorted lists ``[B, K]``: what can be ranked first, then what has a broken score, then empty slots."""

    indices: Tensor
    usable: Tensor
    scores: Tensor | None
    order: Tensor
    duplicates: Tensor


def read_lists(indices: Any, scores: Any, x: Tensor, size: int | None) -> tuple[Tensor, Tensor | None]:
    """Return ids and scores ``[Q, K]`` as tensors beside the queries ``x``."""
    ids = read_ids("indices", indices, x, size)
    if ids.dim() != 2:
        raise ValueError(f"indices has shape {tuple(ids.shape)}; expected [{x.size(0)}, K]")
    if scores is None:
        return ids, None
    values = _as_tensor("scores", scores, x.device)
    if not values.is_floating_point():
        raise TypeError(f"scores has dtype {values.dtype}; expected a floating-point dtype")
    if values.shape != ids.shape:
        raise ValueError(f"scores has shape {tuple(values.shape)}; expected {tuple(ids.shape)}, as indices")
    return ids, values


def read_ids(name: str, value: Any, x: Tensor, size: int | None) -> Tensor:
    """Return ids, one or more for each query, as an int64 tensor within ``[-1, size)``."""
    ids = _as_tensor(name, value, x.device)
    if ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool:
        raise TypeError(f"{name} has dtype {ids.dtype}; expected an integer dtype")
    if ids.dim() < 1 or ids.size(0) != x.size(0):
        raise ValueError(f"{name} has shape {tuple(ids.shape)}; expected {x.size(0)} rows, one per query")
    ids = ids.long()
    if ids.numel():
        low, high = (int(value) for value in torch.aminmax(ids))
        if low < -1 or (size is not None and high >= size):
            wrong = low if low < -1 else high
            bound = "" if size is None else f" below {size}, the size of the gallery,"
            raise ValueError(f"{name} contains {wrong}; expected ids{bound} or -1 for an empty slot")
    return ids


def sort_lists(
    indices: Tensor, scores: Tensor | None, own: Tensor | None, *, first_row: int, duplicates: str, nan_policy: str
) -> FirstStage:
    """Sort lists by their scores, if they have some, and take out the queries themselves and repeated ids."""
    order = torch.arange(indices.size(1), device=indices.device).expand_as(indices)
    usable = indices >= 0
    if scores is not None:
        usable = usable & scores.isfinite()
        if nan_policy == "raise" and bool((usable != (indices >= 0)).any()):
            rows = (usable != (indices >= 0)).any(1).nonzero().squeeze(1) + first_row
            raise ValueError(
                f"scores is not finite in row(s) {', '.join(map(str, rows[:5].tolist()))}; "
                "pass nan_policy='last' to rank these candidates last"
            )
        order = scores.masked_fill(~usable, -torch.inf).sort(dim=1, descending=True, stable=True).indices
        indices, usable = indices.gather(1, order), usable.gather(1, order)
    if own is not None:
        indices = indices.masked_fill(indices == own.unsqueeze(1), -1)
    repeated = _repeated(indices)
    if duplicates == "error" and bool(repeated.any()):
        row, slot = repeated.nonzero()[0].tolist()
        raise ValueError(
            f"indices holds {int(indices[row, slot])} twice in row {row + first_row}; "
            "pass duplicates='keep_first' to keep its first occurrence"
        )
    indices = indices.masked_fill(repeated, -1)
    usable = usable & (indices >= 0)

    last = (~usable).long() + (indices < 0)
    place = last.sort(dim=1, stable=True).indices
    order = order.gather(1, place)
    return FirstStage(
        indices.gather(1, place),
        usable.gather(1, place),
        None if scores is None else scores.gather(1, order),
        order,
        repeated.sum(1),
    )


def level_copies(scores: Tensor, mask: Tensor, vectors: Tensor) -> Tensor:
    """Give copies of one vector, which only the rounding of products sets apart, the same score: their largest."""
    value, place = scores.masked_fill(~mask, -torch.inf).sort(dim=1, descending=True, stable=True)
    slack = _SLACK * torch.finfo(scores.dtype).eps * scores.masked_fill(~mask, 0.0).abs().amax(1, keepdim=True)
    row, slot = (value[:, :-1] - value[:, 1:] <= slack).nonzero(as_tuple=True)
    same = (vectors[row, place[row, slot]] == vectors[row, place[row, slot + 1]]).all(1)
    # Each score becomes that of the first in its run of copies.
    first = torch.arange(value.size(1), device=value.device).repeat(value.size(0), 1)
    first[row[same], slot[same] + 1] = 0
    return torch.empty_like(scores).scatter(1, place, value.gather(1, first.cummax(1).values))


def unit_range(scores: Tensor, mask: Tensor) -> Tensor:
    """Map the scores of each row to [0, 1]; equal scores become 0."""
    low = scores.masked_fill(~mask, torch.inf).amin(1, keepdim=True)
    high = scores.masked_fill(~mask, -torch.inf).amax(1, keepdim=True)
    return (scores - low) / (high - low).masked_fill(high <= low, 1.0)


def ranked(first: FirstStage, new: Tensor, mask: Tensor, *, keep_tail: bool) -> RankedLists:
    """Sort lists by the new scores ``[B, head]`` of what ``mask`` has of their heads; the tails follow."""
    head = new.size(1)
    full = new.new_full(first.indices.shape, -torch.inf)
    full[:, :head] = new.masked_fill(~mask, -torch.inf)
    usable = torch.cat([mask, first.usable[:, head:]], dim=1)
    if not keep_tail:
        usable = usable & (torch.arange(usable.size(1), device=usable.device) < head)
    elif head < usable.size(1):
        lowest = new.masked_fill(~mask, torch.inf).amin(1, keepdim=True)
        lowest = lowest.masked_fill(lowest == torch.inf, 0.0)
        if first.scores is None:
            gap = _TAIL_GAP * torch.arange(usable.size(1) - head, device=new.device, dtype=new.dtype)
        else:
            gap = (first.scores[:, head - 1 : head] - first.scores[:, head:]).to(new.dtype)
        # Whatever the size of the scores, float32 must tell head and tail apart.
        below = torch.nextafter(lowest.float(), lowest.new_full((), -torch.inf).float()).to(new.dtype)
        tail = torch.minimum(lowest - _TAIL_GAP - gap, below)
        full[:, head:] = tail.masked_fill(~first.usable[:, head:], -torch.inf)

    full, place = full.sort(dim=1, descending=True, stable=True)
    indices = first.indices if keep_tail else first.indices.masked_fill(~usable, -1)
    before = usable & (usable.cumsum(1) <= _TOP)
    count = usable.sum(1).clamp(max=_TOP)
    overlap = before.gather(1, place)[:, :_TOP].sum(1) / count.clamp(min=1)
    diagnostics = {"overlap": overlap.masked_fill(count == 0, 1.0), "duplicates": first.duplicates}
    return RankedLists(indices.gather(1, place), full.float(), first.order.gather(1, place), diagnostics)


def join(parts: list[RankedLists]) -> RankedLists:
    """Put the lists of all chunks together; what was not reported of a query is 0."""
    diagnostics = {}
    for name in dict.fromkeys(name for part in parts for name in part.diagnostics):
        given = next(part.diagnostics[name] for part in parts if name in part.diagnostics)
        values = [part.diagnostics.get(name, given.new_zeros(len(part))) for part in parts]
        diagnostics[name] = torch.cat(values)
    columns = ("indices", "scores", "order")
    indices, scores, order = (torch.cat([getattr(part, name) for part in parts]) for name in columns)
    return RankedLists(indices, scores, order, diagnostics)


def _repeated(indices: Tensor) -> Tensor:
    """Mark every id that has come before in its row."""
    value, place = indices.sort(dim=1, stable=True)
    again = torch.zeros_like(indices, dtype=torch.bool)
    again[:, 1:] = (value[:, 1:] == value[:, :-1]) & (value[:, 1:] >= 0)
    return torch.zeros_like(again).scatter(1, place, again)


def _as_tensor(name: str, value: Any, device: torch.device) -> Tensor:
    if isinstance(value, np.ndarray):
        try:
            return torch.from_numpy(np.array(value)).to(device)
        except (TypeError, ValueError):  # a dtype or a byte order that torch does not have
            raise TypeError(f"{name} has dtype {value.dtype}; expected numbers as this machine has them") from None
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} is a {type(value).__name__}; expected a Tensor or an array")
    if value.device != device:
        raise ValueError(f"{name} is on {value.device} but the queries are on {device}; move one of them")
    return value
