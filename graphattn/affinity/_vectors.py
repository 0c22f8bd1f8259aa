"""The vectors of a gallery: read where they are needed, checked, and scaled to unit length."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from graphattn.affinity.neighbors import nearest

Source = Tensor | np.ndarray | Callable[[Any], Any]

_BLOCK_BYTES = 1 << 23


class Vectors:
    """Rows of a tensor, of an array (memory-mapped or not), or of a function that fetches them by id.

    Args:
        source: ``[N, D]``, or a function from ids ``[n]`` to vectors ``[n, D]``.
        like: Vectors that the rows are compared with: their width is expected, and their dtype and device are used.
            Without them the dtype is that of the rows, but at least float32.
        normalize: Whether rows are divided by their length; zero rows stay zero.
        nan_policy: ``"raise"``, or ``"last"``: rows that are not finite become zero and are reported as missing.
        name: What error messages call the source.
        as_numpy: Whether a function is handed its ids as an array.
    """

    def __init__(
        self,
        source: Any,
        *,
        like: Tensor | None = None,
        normalize: bool = True,
        nan_policy: str = "raise",
        name: str = "gallery",
        as_numpy: bool = False,
    ) -> None:
        self.name = name
        self.normalize = normalize
        self.nan_policy = nan_policy
        self.size: int | None = None
        self.width = None if like is None else like.size(1)
        self.dtype = torch.float32 if like is None else like.dtype
        self.device = torch.device("cpu") if like is None else like.device
        self._source = source
        self._as_numpy = as_numpy
        if isinstance(source, (Tensor, np.ndarray)):
            self._check(source)
            self.size = source.shape[0]
            self.width = source.shape[1]
            if like is None:
                own = source.dtype if isinstance(source, Tensor) else _torch_dtype(name, source.dtype)
                self.dtype = torch.promote_types(own, torch.float32)
                self.device = source.device if isinstance(source, Tensor) else self.device
        elif not callable(source):
            raise TypeError(f"{name} is a {type(source).__name__}; expected a Tensor, an array or a function of ids")

    def all(self) -> tuple[Tensor, Tensor]:
        """Return every row, and which rows are finite."""
        return self._clean(self._source[:], torch.arange(self.size or 0))

    def take(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Return the rows ``[..., D]`` of ids ``[...]``, zero where an id is -1, and which of them are there."""
        flat = ids.flatten()
        wanted = flat >= 0
        if not bool(wanted.any()):
            return torch.zeros(*ids.shape, self.width or 0, dtype=self.dtype, device=self.device), ids >= 0
        if isinstance(self._source, Tensor):
            rows = self._source.index_select(0, flat.clamp(min=0))
        elif self.size is not None:
            rows = self._source[flat.clamp(min=0).cpu().numpy()]
        else:
            unique, inverse = torch.unique(flat[wanted], return_inverse=True)
            place = torch.zeros_like(flat).masked_scatter_(wanted, inverse)
            rows = _as_tensor(self._fetch(unique)).to(self.device)[place]
        rows, there = self._clean(rows, flat, wanted)
        return rows.view(*ids.shape, -1), there.view(ids.shape)

    def blocks(self) -> Iterator[tuple[int, Tensor, Tensor]]:
        """Yield all rows in blocks: number of the first row, rows, which of them are finite."""
        step = max(1, _BLOCK_BYTES // ((self.width or 1) * self.dtype.itemsize))
        for start in range(0, self.size or 0, step):
            rows = self._source[start : start + step]
            yield start, *self._clean(rows, torch.arange(start, start + rows.shape[0]))

    def nearest(self, queries: Tensor, k: int, own: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Find the rows of the largest inner products with each query exactly, block by block.

        Args:
            queries: ``[Q, D]``, finite, scaled as the rows are.
            k: Length of the lists.
            own: Id ``[Q]`` of the row that is the query itself and is left out; -1 for none.

        Returns:
            Ids ``[Q, k]``, ties from the lowest, -1 where there are fewer rows; and the products, ``-inf`` there.
        """
        ids = torch.full((queries.size(0), k), -1, device=self.device)
        similarity = queries.new_full((queries.size(0), k), -torch.inf)
        if k == 0:
            return ids, similarity
        for start, rows, finite in self.blocks():
            there = finite.nonzero().squeeze(1)
            rows = rows if there.numel() == rows.size(0) else rows[there]
            value, place = nearest(queries, k if own is None else k + 1, y=rows, metric="dot")
            found = there[place] + start
            if own is not None:
                itself = found == own.unsqueeze(1)
                value, found = value.masked_fill(itself, -torch.inf), found.masked_fill(itself, -1)
            # Earlier blocks have lower ids and stand in front, which is where a stable sort leaves them among equals.
            similarity, order = torch.cat([similarity, value], dim=1).sort(dim=1, descending=True, stable=True)
            similarity, ids = similarity[:, :k], torch.cat([ids, found], dim=1).gather(1, order[:, :k])
        return ids, similarity

    def _check(self, rows: Any) -> None:
        """Raise unless these are vectors of the right width, dtype and device."""
        if not isinstance(rows, (Tensor, np.ndarray)):
            raise TypeError(f"{self.name} returned a {type(rows).__name__}; expected a Tensor or an array")
        dtype = rows.dtype if isinstance(rows, Tensor) else _torch_dtype(self.name, rows.dtype)
        if not dtype.is_floating_point:
            raise TypeError(f"{self.name} has dtype {rows.dtype}; expected a floating-point dtype")
        if rows.ndim != 2 or rows.shape[1] < 1:
            raise ValueError(f"{self.name} has shape {tuple(rows.shape)}; expected [rows, width], width at least 1")
        if self.width not in (None, rows.shape[1]):
            raise ValueError(f"{self.name} has width {rows.shape[1]}, but the queries have width {self.width}")
        if isinstance(rows, Tensor) and self.width is not None and rows.device != self.device:
            raise ValueError(f"{self.name} is on {rows.device} but the queries are on {self.device}; move one of them")

    def _fetch(self, ids: Tensor) -> Any:
        """Ask the function for the vectors of these ids."""
        rows = self._source(ids.cpu().numpy() if self._as_numpy else ids)
        self._check(rows)
        if rows.shape[0] != ids.numel():
            raise ValueError(f"{self.name} returned {rows.shape[0]} vectors for {ids.numel()} ids")
        return rows

    def _clean(self, rows: Any, ids: Tensor, wanted: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Bring rows to the dtype and device of the computation, check and scale them; edits rows of its own only."""
        rows = _as_tensor(rows).detach().to(self.device, self.dtype, copy=wanted is None)
        length = torch.linalg.vector_norm(rows, dim=1)
        there = length.isfinite() if wanted is None else length.isfinite() & wanted
        missing = (~there).nonzero().squeeze(1)
        broken = missing if wanted is None else missing[wanted[missing]]
        if self.nan_policy == "raise" and broken.numel():
            bad = ids.to(broken.device)[broken].unique()
            raise ValueError(
                f"{self.name} is not finite in {bad.numel()} row(s): {', '.join(map(str, bad[:5].tolist()))}"
                f"{', ...' if bad.numel() > 5 else ''}; pass nan_policy='last' to rank them last"
            )
        rows.index_fill_(0, missing, 0.0)
        if self.normalize:
            length.index_fill_(0, missing, 1.0)
            rows /= length.masked_fill_(length == 0, 1.0).unsqueeze(1)
        return rows, there


def stable_top_k(values: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return the ``k`` largest along the last axis and their places, from the largest; ties go to the lowest place."""
    if k == 0 or values.numel() == 0:
        empty = values[..., :k]
        return empty, torch.zeros_like(empty, dtype=torch.int64)
    if values.device.type != "cpu" or torch.compiler.is_compiling():
        # Reads nothing back from the device, which waits for it, and has shapes that a compiler knows.
        top, place = values.sort(dim=-1, descending=True, stable=True)
        return top[..., :k], place[..., :k]
    least = _kth_largest(values, k)
    chosen = values >= least
    place = chosen.flatten().nonzero().squeeze(1)
    if place.numel() > chosen.numel() // chosen.size(-1) * k:
        # Of the entries that tie at the end of a list, the first fill it up.
        crowded = chosen.sum(-1) > k
        tied = values[crowded] == least[crowded]
        spare = k - (values[crowded] > least[crowded]).sum(-1, keepdim=True)
        chosen[crowded] &= ~(tied & (tied.cumsum(-1) > spare))
        place = chosen.flatten().nonzero().squeeze(1)
    place = (place % values.size(-1)).view(*values.shape[:-1], k)
    top, order = values.gather(-1, place).sort(dim=-1, descending=True, stable=True)
    return top, place.gather(-1, order)


def _kth_largest(values: Tensor, k: int) -> Tensor:
    """Return the ``k``-th largest along the last axis, which is kept with length 1."""
    if values.dtype in (torch.float32, torch.float64):
        # It needs no order of the others, and NumPy has vector instructions for that.
        n = values.size(-1)
        return torch.from_numpy(np.partition(values.detach().numpy(), n - k, axis=-1)[..., n - k, None])
    return values.topk(k, dim=-1).values[..., -1:]


def _as_tensor(rows: Any) -> Tensor:
    """Copy an array, which may be read-only or mapped from a file; leave a tensor as it is."""
    return torch.from_numpy(np.array(rows)) if isinstance(rows, np.ndarray) else rows


def _torch_dtype(name: str, dtype: np.dtype[Any]) -> torch.dtype:
    try:
        return torch.from_numpy(np.empty(0, dtype)).dtype
    except (TypeError, ValueError):  # a dtype or a byte order that torch does not have
        raise TypeError(f"{name} has dtype {dtype}; expected a floating-point dtype of this machine") from None
