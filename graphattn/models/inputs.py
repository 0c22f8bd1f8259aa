"""What stands before the layers: features of nodes and edges, numbers or categories, become channels."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from graphattn.models.network import reset
from graphattn.nn.dropout import drop
from graphattn.nn.sparse_features import linear, with_values

ENCODERS = ("linear", "embedding")


class CategoryEmbedding(nn.Module):
    r"""Sum one embedding for each column of categories, as for the atoms and bonds of OGB.

    .. math:: \mathbf{h}_i = \textstyle\sum_f \mathbf{E}_f[x_{if}]

    Args:
        vocabulary: Number of categories of each column.
        out_channels: Channels :math:`C`.

    Shapes:
        - **input:** :math:`(N, F)`, integers
        - **output:** :math:`(N, C)`

    Raises:
        ValueError: If there is no column, or one without categories.

    Example:
        >>> embed = CategoryEmbedding([5, 6], 4)
        >>> x = torch.tensor([[0, 3], [4, 5]])
        >>> torch.equal(embed(x)[0], embed.tables[0].weight[0] + embed.tables[1].weight[3])
        True
    """

    def __init__(self, vocabulary: Sequence[int], out_channels: int) -> None:
        super().__init__()
        if not vocabulary or min(vocabulary) < 1:
            raise ValueError(f"vocabulary is {list(vocabulary)}; expected a number of categories for each column")
        self.tables = nn.ModuleList(nn.Embedding(size, out_channels) for size in vocabulary)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all embeddings anew."""
        for parameter in self.tables.parameters():
            nn.init.xavier_uniform_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        """Return the sum of the embeddings.

        Args:
            x: Category of each node or edge in each column.

        Raises:
            ValueError: If there are not as many columns as tables, or a category is out of range.
            TypeError: If the categories are not integers.
        """
        sizes = [table.num_embeddings for table in self.tables]
        if x.dim() != 2 or x.size(1) != len(sizes):
            raise ValueError(f"categories have shape {tuple(x.shape)}; expected {len(sizes)} columns, one per table")
        if x.is_floating_point() or x.dtype == torch.bool:
            raise TypeError(f"categories have dtype {x.dtype}; expected integers, pass .long() of whole numbers")
        if x.device.type == "cpu" and not torch.compiler.is_compiling():
            outside = ((x < 0) | (x >= x.new_tensor(sizes))).nonzero()
            if len(outside):
                row, column = outside[0].tolist()
                raise ValueError(
                    f"category {int(x[row, column])} in row {row}, column {column} is not below the vocabulary "
                    f"of {sizes[column]}"
                )
        return torch.stack([table(column) for table, column in zip(self.tables, x.unbind(1), strict=True)]).sum(dim=0)


class InputEncoder(nn.Module):
    r"""Map node features to channels: numbers by a linear map, categories by embeddings.

    Sparse features (``x.to_sparse_csr()``, such as bags of words) stay sparse: dropout acts on the entries that are
    there, and the linear map costs as much as there are of them.

    Args:
        encoder: ``"linear"`` or ``"embedding"``.
        in_channels: Columns of the features :math:`F`.
        out_channels: Channels :math:`C`.
        vocabulary: Number of categories of each column, with ``"embedding"``.
        dropout: Probability of dropping a feature in training, with ``"linear"``.

    Shapes:
        - **input:** :math:`(N, F)`, dense or CSR
        - **output:** :math:`(N, C)`

    Raises:
        ValueError: If the encoder is unknown, or the vocabulary does not fit it.

    Example:
        >>> InputEncoder("linear", 7, 4)(torch.rand(3, 7)).shape
        torch.Size([3, 4])
    """

    def __init__(
        self,
        encoder: str,
        in_channels: int,
        out_channels: int,
        vocabulary: Sequence[int] | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if encoder not in ENCODERS:
            raise ValueError(f"encoder is {encoder!r}; expected one of {', '.join(map(repr, ENCODERS))}")
        if (vocabulary is not None) != (encoder == "embedding"):
            raise ValueError(
                f"encoder is {encoder!r} and vocabulary is {vocabulary}; 'embedding' needs one, 'linear' takes none"
            )
        if vocabulary is not None and len(vocabulary) != in_channels:
            raise ValueError(f"vocabulary has {len(vocabulary)} columns, but in_channels is {in_channels}")
        self.dropout = dropout
        self.lin = nn.Linear(in_channels, out_channels) if vocabulary is None else None
        self.embed = None if vocabulary is None else CategoryEmbedding(vocabulary, out_channels)

    def reset_parameters(self) -> None:
        """Draw all parameters anew."""
        reset(self.lin, self.embed)

    def forward(self, x: Tensor) -> Tensor:
        """Return the channels of the nodes.

        Args:
            x: Node features.

        Raises:
            ValueError: If ``x`` has other columns, or a category is out of range.
            TypeError: If ``x`` holds integers where numbers are expected or the reverse, or is sparse but not CSR.
        """
        if self.lin is None:
            assert self.embed is not None, "there is one of the two"
            return self.embed(x)
        check_features(x, self.lin.in_features)
        return linear(self.lin, drop_features(x, self.dropout if self.training else 0.0))


def optional_encoder(
    encoder: str | None,
    in_channels: int,
    hidden_channels: int,
    vocabulary: Sequence[int] | None = None,
    dropout: float = 0.0,
) -> InputEncoder | None:
    """Make an encoder, or none where the first layer maps the features itself.

    Example:
        >>> optional_encoder(None, 7, 4) is None
        True
    """
    if encoder is not None:
        return InputEncoder(encoder, in_channels, hidden_channels, vocabulary, dropout)
    if vocabulary is not None:
        raise ValueError("vocabulary is given, but encoder is None; pass encoder='embedding'")
    return None


def first_channels(
    encoder: InputEncoder | None, x: Tensor, in_channels: int, act: Callable[[Tensor], Tensor], dropout: float
) -> Tensor:
    """Return what the first layer sees: the encoded nodes or, without an encoder, the features, dropped alike.

    Example:
        >>> first_channels(None, torch.ones(2, 3), 3, torch.relu, 0.0).shape
        torch.Size([2, 3])
    """
    if encoder is None:
        check_features(x, in_channels)
        return drop_features(x, dropout)
    return drop(act(encoder(x)), dropout)


def check_features(x: Tensor, in_channels: int) -> None:
    """Raise unless features are numbers, dense or CSR, with as many columns as expected."""
    if x.layout not in (torch.strided, torch.sparse_csr):
        raise TypeError(f"x has layout {x.layout}; expected dense or CSR, pass x.to_sparse_csr()")
    if not x.is_floating_point():
        raise TypeError(f"x has dtype {x.dtype}; expected numbers, pass encoder='embedding' for categories")
    if x.dim() != 2 or x.size(1) != in_channels:
        raise ValueError(f"x has shape {tuple(x.shape)}; expected [nodes, {in_channels}]")


def drop_features(x: Tensor, dropout: float) -> Tensor:
    """Drop entries of dense features, or of those that a CSR matrix has; scale the others up."""
    if dropout == 0.0:
        return x
    if x.layout == torch.strided:
        return drop(x, dropout)
    return with_values(x, drop(x.values(), dropout))


def scale_rows(x: Tensor, factors: Tensor) -> Tensor:
    """Multiply each row of dense or CSR features by its factor.

    Example:
        >>> scale_rows(torch.eye(2).to_sparse_csr(), torch.tensor([2.0, 3.0])).to_dense()
        tensor([[2., 0.],
                [0., 3.]])
    """
    if x.layout == torch.strided:
        return x * factors.unsqueeze(1)
    rows = factors.repeat_interleave(x.crow_indices().diff(), output_size=x.values().size(0))
    return with_values(x, x.values() * rows)


def edge_encoder(
    edge_dim: int | None, edge_vocabulary: Sequence[int] | None, channels: int
) -> tuple[CategoryEmbedding | None, int | None]:
    """Make the embedding of edge categories, and tell the width of what the layers see of the edges.

    Args:
        edge_dim: Columns of the edge features; ``None`` if there are none.
        edge_vocabulary: Number of categories of each column; ``None`` for numbers, which the layers take as they are.
        channels: Channels of the embedding.

    Returns:
        The embedding, ``None`` for numbers, and the width.

    Raises:
        ValueError: If there are not as many vocabularies as columns.

    Example:
        >>> edge_encoder(2, [3, 4], 8)[1], edge_encoder(2, None, 8)
        (8, (None, 2))
    """
    if edge_vocabulary is None:
        return None, edge_dim
    if len(edge_vocabulary) != edge_dim:
        raise ValueError(f"edge_vocabulary has {len(edge_vocabulary)} columns, but edge_dim is {edge_dim}")
    return CategoryEmbedding(edge_vocabulary, channels), channels


def encode_edges(encoder: nn.Module | None, edge_attr: Tensor | None) -> Tensor | None:
    """Return what the layers see of the edges: the embedding of categories, or the features as they are.

    Example:
        >>> encode_edges(None, torch.ones(2, 3)).shape
        torch.Size([2, 3])
    """
    return edge_attr if encoder is None or edge_attr is None else encoder(edge_attr)


def split_width(channels: int, heads: int) -> int:
    """Return the channels of a head, or raise if the heads do not divide the channels."""
    if heads < 1 or channels < 1 or channels % heads:
        raise ValueError(f"hidden_channels is {channels} and heads is {heads}; expected a width that the heads divide")
    return channels // heads
