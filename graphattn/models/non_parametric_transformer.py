"""The non-parametric transformer: a network that reads a whole table and fills in its hidden cells."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from graphattn.affinity import SparseAffinity
from graphattn.nn.dropout import drop
from graphattn.nn.global_attention.padding import readable
from graphattn.nn.table_attention import COMPATS, TableAttention

_COMMON_SCALE = 0.02


class NonParametricTransformer(nn.Module):
    r"""Predict every cell of a table from all others, by attention between datapoints and between attributes.

    A cell of column :math:`j` is encoded to :math:`\mathbf{c}`, one-hot for a category, and its number for a continuous
    value, or zeros where it is hidden, which the flag :math:`m` tells:

    .. math::
        \mathbf{H}_{ij} = [\mathbf{c}_{ij}; m_{ij}] \mathbf{W}_j + \mathbf{index}_j + \mathbf{type}_j, \qquad
        \mathbf{H} \leftarrow \operatorname{attributes}(\operatorname{datapoints}(\mathbf{H})), \qquad
        \hat{\mathbf{c}}_{ij} = \mathbf{H}_{ij} \mathbf{V}_j + \mathbf{b}_j

    The layers are :class:`~graphattn.nn.table_attention.TableAttention`, in turn between datapoints and between
    attributes. Targets are columns like any other: to predict them is to hide them. Rows have no order: permuted rows
    give permuted outputs. Types are left out where all columns are of one. Without ``compat`` index and type start
    small and keys as the queries, so that at first rows attend to rows that are alike.

    Args:
        categories: For each column its number of categories, 0 for a continuous one.
        channels: Width of a cell :math:`e`.
        depth: Layers, an even number of at least 2.
        heads: Attention heads; they divide ``channels``.
        abd: ``"full"`` for attention between rows of width :math:`d e`, as published; ``"shared"`` for attention within
            every column by weights of width :math:`e`, which is far smaller.
        dropout: Probability of dropping a hidden value in training.
        attention_dropout: Probability of dropping an attention weight in training; on a CPU the attention is then not
            fused.
        compat: ``"npt"`` for the layers of the authors' code, ``"saint"`` for those of SAINT, which attend between
            attributes first.

    Shapes:
        - **input:** ``x`` :math:`(n, d)`, ``hidden`` :math:`(n, d)`, ``rows`` :math:`n \times n`
        - **output:** :math:`d` tensors :math:`(n, c_j)`, with :math:`c_j = 1` for a continuous column

    Raises:
        ValueError: If an option is out of range.

    Example:
        >>> model = NonParametricTransformer([0, 3], channels=8, depth=2, heads=2).eval()
        >>> x = torch.tensor([[0.5, 2.0], [-0.5, 0.0], [0.1, 1.0]])
        >>> number, logits = model(x, hidden=torch.tensor([[False, True], [False, False], [True, False]]))
        >>> number.shape, logits.shape
        (torch.Size([3, 1]), torch.Size([3, 3]))

    Reference:
        Kossen et al., "Self-Attention Between Datapoints: Going Beyond Individual Input-Output Pairs in Deep Learning",
        2021.
    """

    offset: Tensor
    is_category: Tensor

    def __init__(
        self,
        categories: Sequence[int],
        channels: int = 64,
        depth: int = 8,
        heads: int = 8,
        *,
        abd: str = "full",
        dropout: float = 0.1,
        attention_dropout: float = 0.1,
        compat: str | None = None,
    ) -> None:
        super().__init__()
        if not len(categories) or min(categories) < 0:
            raise ValueError(
                f"categories is {list(categories)}; expected for each column its number of categories, 0 if continuous"
            )
        if depth < 2 or depth % 2:
            raise ValueError(f"depth is {depth}; expected an even number of layers, at least 2")
        if compat not in COMPATS:
            raise ValueError(f"compat is {compat!r}; expected one of {', '.join(map(repr, COMPATS))}")
        self.categories = tuple(int(number) for number in categories)
        self.channels, self.dropout = channels, dropout
        sizes = torch.tensor([max(1, number) for number in self.categories])
        self.register_buffer("offset", sizes.cumsum(0) - sizes, persistent=False)
        self.register_buffer("is_category", torch.tensor(self.categories) > 0, persistent=False)
        self.value = nn.Parameter(torch.empty(int(sizes.sum()), channels))
        self.flag = nn.Parameter(torch.empty(len(sizes), channels))
        self.index = nn.Embedding(len(sizes), channels)
        mixed = 0 < int(self.is_category.sum()) < len(sizes)
        self.kind = nn.Embedding(2, channels) if mixed else None
        order = ("attributes", "datapoints") if compat == "saint" else ("datapoints", "attributes")
        self.layers = nn.ModuleList(
            TableAttention(
                len(sizes),
                channels,
                heads,
                between=order[layer % 2],
                width=abd,
                dropout=dropout,
                attention_dropout=attention_dropout,
                compat=compat,
            )
            for layer in range(depth)
        )
        self.heads = nn.ModuleList(nn.Linear(channels, int(size)) for size in sizes)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all parameters anew, those of a column as a linear map of its encoding and its flag."""
        first = 0
        for column, number in enumerate(self.categories):
            size = max(1, number)
            bound = (size + 1) ** -0.5
            nn.init.uniform_(self.value[first : first + size], -bound, bound)
            nn.init.uniform_(self.flag[column], -bound, bound)
            first += size
        for module in (self.index, self.kind, *self.layers, *self.heads):
            if module is not None:
                module.reset_parameters()
        if self.layers[0].compat is None:
            # What all rows have in common starts small beside what makes them different.
            for embedding in (self.index, self.kind):
                if embedding is not None:
                    nn.init.normal_(embedding.weight, std=_COMMON_SCALE)

    def forward(
        self,
        x: Tensor,
        hidden: Tensor,
        rows: SparseAffinity | None = None,
        *,
        num_context: int | None = None,
        chunk: int | None = None,
    ) -> list[Tensor]:
        """Predict all cells.

        Args:
            x: Numbers of continuous columns, codes of categories from 0; -1 is a category that is not known. Hidden
                cells may hold anything, NaN too.
            hidden: Which cells are hidden.
            rows: Which rows draw on which, as the layers take it; all on all by default.
            num_context: So many rows, the first, draw on one another, and every other row draws on them and on itself,
                so that its predictions do not depend on the others.
            chunk: Rows that a layer computes at a time, where no gradient is needed.

        Returns:
            For each column predicted numbers, or logits of the categories.

        Raises:
            ValueError: If shapes do not fit, a code names no category, or both ``rows`` and ``num_context`` are given.
        """
        h = self.encode(x, hidden, rows, num_context=num_context, chunk=chunk)
        return [self.decode(h, column) for column in range(len(self.categories))]

    def encode(
        self,
        x: Tensor,
        hidden: Tensor,
        rows: SparseAffinity | None = None,
        *,
        num_context: int | None = None,
        chunk: int | None = None,
    ) -> Tensor:
        """Return the cells ``[n, d, e]`` after the last layer; arguments as of :meth:`forward`."""
        n = x.size(0)
        if x.shape != (n, len(self.categories)) or hidden.shape != x.shape:
            raise ValueError(
                f"x has shape {tuple(x.shape)} and hidden {tuple(hidden.shape)}; "
                f"expected [n, {len(self.categories)}], a column for each of categories"
            )
        if hidden.dtype != torch.bool:
            raise TypeError(f"hidden has dtype {hidden.dtype}; expected torch.bool")
        if rows is not None and num_context is not None:
            raise ValueError("rows and num_context are both given; rows already say who draws on whom")
        if rows is not None and rows.shape != (n, n):
            raise ValueError(f"rows is {rows.shape[0]} x {rows.shape[1]}; expected an affinity of {n} x {n}")
        if num_context is not None and not 0 <= num_context <= n:
            raise ValueError(f"num_context is {num_context}; expected a number of rows from 0 to {n}")
        h = drop(self._embed(x, hidden), self.dropout, self.training)
        for layer in self.layers:
            h = layer(h, rows, num_context=num_context, chunk=chunk)
        return h

    def decode(self, h: Tensor, column: int) -> Tensor:
        """Return what cells ``[n, d, e]`` predict for a column, numbers ``[n, 1]`` or logits ``[n, c]``."""
        return self.heads[column](h[:, column])

    def _embed(self, x: Tensor, hidden: Tensor) -> Tensor:
        """Encode cells [n, d] to [n, d, e]."""
        x = x.masked_fill(hidden, 0.0)
        code = torch.where(self.is_category, x, 0.0).long()
        if readable(code):
            largest = code.amax(0) if code.size(0) else code.new_zeros(code.size(1))
            wrong = (self.is_category & (largest >= torch.tensor(self.categories))).nonzero().flatten().tolist()
            if wrong:
                raise ValueError(
                    f"x holds the code {int(largest[wrong[0]])} in column {wrong[0]}, "
                    f"which has {self.categories[wrong[0]]} categories"
                )
        known = ~hidden & (code >= 0)
        factor = torch.where(self.is_category, 1.0, x) * known
        h = factor.unsqueeze(2) * F.embedding(self.offset + code.clamp(min=0), self.value)
        h = h + hidden.unsqueeze(2) * self.flag + self.index.weight
        return h if self.kind is None else h + self.kind(self.is_category.long())
