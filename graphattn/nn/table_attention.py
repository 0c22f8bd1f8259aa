"""Attention within a table: between its datapoints and between its attributes, over one bipartite graph of cells.

A table is a bipartite graph whose nodes are its rows and its columns and whose edges are its cells. Two cells are
neighbours if they share a column (attention between datapoints) or a row (attention between attributes);
:func:`datapoint_pairs` and :func:`attribute_pairs` list these neighbours, which the layers here never have to.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from graphattn import ops
from graphattn.affinity import SparseAffinity, complete
from graphattn.affinity.normalize import log_prior
from graphattn.nn.dropout import drop
from graphattn.nn.feed_forward import FeedForward, check_options
from graphattn.ops import Layout

BETWEEN = ("datapoints", "attributes")
WIDTHS = ("full", "shared")
COMPATS = (None, "npt", "saint")
_SAINT_HEAD = {"datapoints": 64, "attributes": 16}


def datapoint_pairs(num_rows: int, num_columns: int, rows: SparseAffinity | None = None) -> SparseAffinity:
    """Let every cell of a table draw on the cells of its column: all of them, or those of the rows that its row names.

    Args:
        num_rows: Rows :math:`n`.
        num_columns: Columns :math:`d`.
        rows: Which rows draw on which, :math:`n \\times n`; all on all by default.

    Returns:
        An affinity of ones between the :math:`n d` cells, numbered row by row.

    Example:
        >>> datapoint_pairs(2, 2).edge_index.tolist()
        [[0, 2, 1, 3, 0, 2, 1, 3], [0, 0, 1, 1, 2, 2, 3, 3]]
    """
    rows = complete(num_rows) if rows is None else rows
    column = torch.arange(num_columns, device=rows.edge_index.device)
    source, target = num_columns * rows.edge_index.unsqueeze(2) + column
    order = torch.argsort(target.flatten(), stable=True)
    edges = torch.stack([source.flatten(), target.flatten()])[:, order]
    return SparseAffinity(edges, None, (num_rows * num_columns, num_rows * num_columns))


def attribute_pairs(num_rows: int, num_columns: int) -> SparseAffinity:
    """Let every cell of a table draw on all cells of its row.

    Args:
        num_rows: Rows :math:`n`.
        num_columns: Columns :math:`d`.

    Returns:
        An affinity of ones between the :math:`n d` cells, numbered row by row.

    Example:
        >>> attribute_pairs(2, 2).edge_index.tolist()
        [[0, 1, 0, 1, 2, 3, 2, 3], [0, 0, 1, 1, 2, 2, 3, 3]]
    """
    return complete([num_columns] * num_rows)


class TableAttention(nn.Module):
    r"""Let the cells of a table attend to one another within their columns, or within their rows, and map them.

    With :math:`\mathbf{X}` the cells as the attention sees them,

    .. math::
        \mathbf{Y} = \mathbf{X} \mathbf{W}_{res} + \operatorname{attention}(\operatorname{norm} \mathbf{X}), \qquad
        \mathbf{X}' = \mathbf{Y} + \operatorname{mlp}(\operatorname{norm} \mathbf{Y})

    ``between="attributes"`` attends over the :math:`d` cells of each row. ``between="datapoints"`` attends over the
    :math:`n` rows: with ``width="full"`` the cells of a row are one vector of width :math:`d e`, with ``"shared"``
    every column attends on its own, by the same weights of width :math:`e`, which is message passing over
    :func:`datapoint_pairs`. All pairs run fused, in time :math:`O(n^2 d e)` and memory linear in the cells; an affinity
    between the rows takes their place, in time and memory of its edges. ``"full"`` has :math:`O((d e)^2)` weights.

    Args:
        num_columns: Columns :math:`d`.
        channels: Width of a cell :math:`e`.
        heads: Heads; they divide ``channels``.
        between: ``"datapoints"`` or ``"attributes"``.
        width: ``"full"`` or ``"shared"``, between datapoints.
        dropout: Probability of dropping a hidden value in training.
        attention_dropout: Probability of dropping an attention weight in training; on a CPU the attention is then not
            fused.
        compat: ``"npt"`` for the released code of its authors: scores are divided by the root of the whole width rather
            than of a head's, and keys and values are not normalized. ``"saint"`` for the block of SAINT: the residual
            is :math:`\operatorname{norm} \mathbf{X}`, heads have 64 channels between datapoints and 16 between
            attributes, and the perceptron is gated.

    Shapes:
        - **input:** ``h`` :math:`(n, d, e)`, ``rows`` :math:`n \times n`
        - **output:** :math:`(n, d, e)`

    Raises:
        ValueError: If an option is out of range.

    Example:
        >>> attend = TableAttention(num_columns=3, channels=8, heads=2, between="attributes").eval()
        >>> h = torch.rand(5, 3, 8)
        >>> torch.allclose(attend(h)[:1], attend(h[:1]), atol=1e-6)
        True

    Reference:
        Kossen et al., "Self-Attention Between Datapoints", 2021; Somepalli et al., "SAINT: Improved Neural Networks for
        Tabular Data via Row Attention and Contrastive Pre-Training", 2021.
    """

    def __init__(
        self,
        num_columns: int,
        channels: int,
        heads: int = 8,
        *,
        between: str = "datapoints",
        width: str = "full",
        dropout: float = 0.1,
        attention_dropout: float = 0.1,
        compat: str | None = None,
    ) -> None:
        super().__init__()
        for name, value, known in (
            ("between", between, BETWEEN),
            ("width", width, WIDTHS),
            ("compat", compat, COMPATS),
        ):
            if value not in known:
                raise ValueError(f"{name} is {value!r}; expected one of {', '.join(map(repr, known))}")
        if heads < 1 or channels % heads:
            raise ValueError(f"heads is {heads}, which does not divide channels={channels}")
        check_options("gelu", dropout=dropout, attention_dropout=attention_dropout)
        self.between, self.width, self.compat, self.heads = between, width, compat, heads
        self.dropout, self.attention_dropout = dropout, attention_dropout
        self.flat = between == "datapoints" and width == "full"
        size = num_columns * channels if self.flat else channels
        inner = heads * _SAINT_HEAD[between] if compat == "saint" else size
        self.scale = (size if compat == "npt" else inner // heads) ** -0.5
        eps = 1e-5 if compat == "saint" else 1e-12
        self.norm1, self.norm2 = nn.LayerNorm(size, eps=eps), nn.LayerNorm(size, eps=eps)
        self.lin_q = nn.Linear(size, inner, bias=compat != "saint")
        self.lin_kv = nn.Linear(size, 2 * inner, bias=compat != "saint")
        self.lin_out = nn.Linear(inner, size)
        self.lin_res = None if compat == "saint" else nn.Linear(size, size)
        gated = compat == "saint"
        self.mlp = _Gated(size, dropout) if gated else FeedForward(size, 4 * size, act="gelu", dropout=dropout)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all parameters anew; keys start as the queries do, so that like first attends to like.

        With ``compat`` they are drawn on their own, as in the released code.
        """
        for module in (self.norm1, self.norm2, self.lin_q, self.lin_kv, self.lin_out, self.lin_res, self.mlp):
            if module is not None:
                module.reset_parameters()
        if self.compat is None:
            with torch.no_grad():
                self.lin_kv.weight[: self.lin_q.out_features] = self.lin_q.weight
                self.lin_kv.bias[: self.lin_q.out_features] = self.lin_q.bias

    def forward(
        self,
        h: Tensor,
        rows: SparseAffinity | None = None,
        *,
        num_context: int | None = None,
        chunk: int | None = None,
    ) -> Tensor:
        """Attend between datapoints or attributes.

        Args:
            h: The cells.
            rows: Which rows draw on which between datapoints; weights multiply the exponentials of the scores, and a
                row without edges gathers 0. All rows draw on all by default.
            num_context: So many rows, the first, draw on one another, and every other row draws on them and on itself;
                not with ``rows``.
            chunk: Rows that are computed at a time, which bounds the memory where no gradient is needed.

        Returns:
            The mapped cells.
        """
        if self.between == "attributes":
            return _by_chunks(lambda part: self._map(h[part], self._attributes(h[part])), h.size(0), chunk)
        x = h.flatten(1).unsqueeze(0) if self.flat else h.transpose(0, 1)  # [B, n, C]
        k, v = self._keys(x, chunk)

        def attend(part: slice) -> Tensor:
            q = self._heads(self.lin_q(self.norm1(x[:, part])))
            if rows is not None:
                gathered = self._along(q, k, v, rows, part)
            elif num_context is None:
                gathered = self._all_pairs(q, k, v)
            else:
                gathered = self._with_context(q, k, v, num_context, part)
            return self._map(x[:, part], gathered).transpose(0, 1)

        return _by_chunks(attend, h.size(0), chunk).reshape(h.shape)

    def _attributes(self, x: Tensor) -> Tensor:
        """Gather over the cells of each row [n, d, e]."""
        k, v = self._keys(x, None)
        return self._all_pairs(self._heads(self.lin_q(self.norm1(x))), k, v)

    def _keys(self, x: Tensor, chunk: int | None) -> tuple[Tensor, Tensor]:
        """Keys and values [B, H, L, C] of all items [B, L, C']."""

        def project(part: slice) -> Tensor:
            items = x[:, part]
            return self.lin_kv(items if self.compat == "npt" else self.norm1(items)).transpose(0, 1)

        k, v = _by_chunks(project, x.size(1), chunk).transpose(0, 1).chunk(2, dim=2)
        return self._heads(k), self._heads(v)

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(2, (self.heads, -1)).transpose(1, 2)

    def _all_pairs(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
        dropout = self.attention_dropout if self.training else 0.0
        out = F.scaled_dot_product_attention(q, k, v, mask, dropout, scale=self.scale)
        return out.transpose(1, 2).flatten(2)

    def _with_context(self, q: Tensor, k: Tensor, v: Tensor, num_context: int, part: slice) -> Tensor:
        """Gather for the rows ``part``: from the context, and those behind it also from themselves."""
        own = slice(max(part.start, num_context), max(part.stop, num_context))
        if own.start == own.stop:
            return self._all_pairs(q, k[:, :, :num_context], v[:, :, :num_context])
        k, v = (torch.cat([values[:, :, :num_context], values[:, :, own]], dim=2) for values in (k, v))
        target = torch.arange(part.start, part.stop, device=q.device)
        source = torch.arange(own.start, own.stop, device=q.device)
        itself = target.unsqueeze(1) == source
        mask = torch.cat([itself.new_ones(target.numel(), num_context), itself], dim=1)
        return self._all_pairs(q, k, v, mask)

    def _along(self, q: Tensor, k: Tensor, v: Tensor, rows: SparseAffinity, part: slice) -> Tensor:
        """Gather for the rows ``part`` along the edges between rows; every column and head is a head of the edges."""
        layout, weight = rows.layout, rows.weight
        if q.size(2) < rows.shape[0]:
            layout, weight = _sub_rows(rows, part)
        prior = None if weight is None else weight.unsqueeze(1)
        q_, k_, v_ = (x.permute(2, 0, 1, 3).flatten(1, 2) for x in (q, k, v))
        bias = None if prior is None else log_prior(prior.to(q.dtype)).expand(-1, q_.size(1))
        dropout = self.attention_dropout if self.training else 0.0
        out = ops.edge_attention(q_, k_, v_, layout, scale=self.scale, bias=bias, dropout=dropout)
        return out.unflatten(1, (q.size(0), self.heads)).flatten(2).transpose(0, 1)

    def _map(self, x: Tensor, gathered: Tensor) -> Tensor:
        """Add what items have gathered [B, L, H C] to them [B, L, C'], and apply the perceptron."""
        gathered = drop(self.lin_out(gathered), self.dropout, self.training)
        y = gathered + (self.norm1(x) if self.lin_res is None else self.lin_res(x))
        z = self.norm2(y)
        residual = z if self.compat == "saint" else y
        return residual + drop(self.mlp(z), self.dropout, self.training)

    def extra_repr(self) -> str:
        width = f", width={self.width!r}" if self.between == "datapoints" else ""
        return f"between={self.between!r}, heads={self.heads}{width}, compat={self.compat!r}"


class _Gated(nn.Module):
    """The perceptron of SAINT: half of the hidden values, times GELU of the other half."""

    def __init__(self, channels: int, dropout: float) -> None:
        super().__init__()
        self.lin1 = nn.Linear(channels, 8 * channels)
        self.lin2 = nn.Linear(4 * channels, channels)
        self.dropout = dropout

    def reset_parameters(self) -> None:
        self.lin1.reset_parameters()
        self.lin2.reset_parameters()

    def forward(self, x: Tensor) -> Tensor:
        hidden, gate = self.lin1(x).chunk(2, dim=-1)
        return self.lin2(drop(hidden * F.gelu(gate), self.dropout, self.training))


def _by_chunks(compute: Callable[[slice], Tensor], size: int, chunk: int | None) -> Tensor:
    """Compute rows ``chunk`` at a time and join them."""
    if chunk is None or chunk >= size:
        return compute(slice(0, size))
    return torch.cat([compute(slice(start, min(start + chunk, size))) for start in range(0, size, chunk)])


def _sub_rows(rows: SparseAffinity, part: slice) -> tuple[Layout, Tensor | None]:
    """The edges of some targets and their weights."""
    rowptr, col, perm = rows.layout.csr()
    first, last = int(rowptr[part.start]), int(rowptr[part.stop])
    degree = rowptr[part.start : part.stop + 1].diff().long()
    target = torch.arange(degree.numel(), device=col.device).repeat_interleave(degree)
    layout = Layout(torch.stack([col[first:last].long(), target]), degree.numel(), rows.shape[1], reused=False)
    slots = slice(first, last) if perm is None else perm[first:last]
    return layout, None if rows.weight is None else rows.weight[slots]
