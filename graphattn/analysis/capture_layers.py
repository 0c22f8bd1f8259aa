"""What is captured of a model: the attention of each layer, what its heads gather, and its query and key weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from graphattn.affinity import Affinity, DenseAffinity, SparseAffinity
from graphattn.analysis.maps import AttentionMaps


@dataclass(frozen=True, eq=False)
class LayerAttention:
    r"""Hold what one attention layer did in one call: copies on the CPU, without gradients.

    Args:
        name: Name of the module in the model. A module that is called several times gives as many layers.
        weights: Attention :math:`(B, H, N, M)`, row = target, or :math:`(E, H)` of the edges.
        num_nodes: Number of targets and of sources :math:`(N, M)`.
        edge_index: Edges :math:`(2, E)`, source row first, self-loops that the layer added among them; ``None`` of
            dense attention.
        mask: True for the sources that are real, :math:`(B, M)`; ``None`` if all are.
        head_outputs: What each head gathers, :math:`\mathbf{A}_h \mathbf{V}_h` (with edge features where the layer adds
            them to the values), before it is projected: :math:`(B, H, N, C)` or :math:`(N, H, C)`. ``None`` if it was
            not asked for.
        query_weight: Weights :math:`(D, H K)` of the queries :math:`\mathbf{x} \mathbf{W}_q`, heads side by side;
            ``None`` where the score is no product of queries and keys.
        key_weight: Weights of the keys, those of shared heads repeated.
        cross: Whether sources are other nodes than targets.

    Example:
        >>> layer = LayerAttention("conv", torch.tensor([[0.25], [0.75]]), (2, 2), torch.tensor([[0, 1], [1, 1]]))
        >>> layer.affinity()
        SparseAffinity(2 x 2, edges=2, heads=1, dtype=torch.float32)
    """

    name: str
    weights: Tensor
    num_nodes: tuple[int, int]
    edge_index: Tensor | None = None
    mask: Tensor | None = None
    head_outputs: Tensor | None = None
    query_weight: Tensor | None = None
    key_weight: Tensor | None = None
    cross: bool = False

    @property
    def heads(self) -> int:
        """Number of heads."""
        return self.weights.size(1)

    @property
    def num_samples(self) -> int:
        """Number of samples of the batch; 1 for edges, whose graphs are one."""
        return 1 if self.edge_index is not None else self.weights.size(0)

    def affinity(self, sample: int = 0, head: int | None = None) -> Affinity:
        """Return the attention as an affinity; padding is still in it.

        Args:
            sample: Which sample of the batch.
            head: Which head; all of them, on a head axis, by default.

        Raises:
            ValueError: If there is no such sample or head.

        Example:
            >>> LayerAttention("attn", torch.full((1, 2, 3, 3), 1 / 3), (3, 3)).affinity(head=1)
            DenseAffinity(3 x 3, heads=1, dtype=torch.float32)
        """
        check_number("sample", sample, self.num_samples)
        if head is not None:
            check_number("head", head, self.heads)
        chosen: Any = slice(None) if head is None else head
        if self.edge_index is None:
            return DenseAffinity(self.weights[sample, chosen])
        return SparseAffinity(self.edge_index, self.weights[:, chosen], self.num_nodes)

    def __repr__(self) -> str:
        n, m = self.num_nodes
        form = f"batch={self.num_samples}" if self.edge_index is None else f"edges={self.edge_index.size(1)}"
        return f"LayerAttention({self.name!r}, {n} x {m}, heads={self.heads}, {form}{', cross' if self.cross else ''})"


@dataclass(frozen=True, eq=False)
class Capture:
    """Hold the attention layers of a model, in the order in which they were called.

    Args:
        layers: The layers.

    Example:
        >>> even = torch.full((1, 2, 3, 3), 1 / 3)
        >>> captured = Capture((LayerAttention("first", even, (3, 3)), LayerAttention("second", even, (3, 3))))
        >>> captured, captured.maps(prefix="second").num_layers
        (Capture(2 layers: first, second), 1)
    """

    layers: tuple[LayerAttention, ...]

    def maps(
        self,
        sample: int = 0,
        *,
        tokens: Sequence[str] | None = None,
        prefix: str = "",
        causal: bool | None = None,
        validate: bool = True,
    ) -> AttentionMaps:
        """Return the self-attention of one sample in the form that the measures take, without padding.

        Args:
            sample: Which sample of the batch. Graphs of a batch of edges are one sample.
            tokens: Names of the tokens, padding too; their numbers by default.
            prefix: Only layers whose names start so, as of an encoder beside a decoder.
            causal: Whether no token draws on a later one; by default, whether no weight says otherwise.
            validate: Whether to check that rows sum to 1; pass False for layers that do not normalize them so.

        Raises:
            ValueError: If no layer remains, they have different nodes, there is no such sample, or the weights are no
                attention, see :meth:`AttentionMaps.from_arrays`.
        """
        chosen = [layer for layer in self.layers if layer.name.startswith(prefix) and not layer.cross]
        if not chosen:
            names = ", ".join(dict.fromkeys(layer.name for layer in self.layers))
            raise ValueError(f"no layer of self-attention has a name that starts with {prefix!r}; there are: {names}")
        sizes = {layer.num_nodes for layer in chosen}
        if len(sizes) > 1 or any(n != m for n, m in sizes):
            shown = ", ".join(f"{layer.name} {layer.num_nodes[0]} x {layer.num_nodes[1]}" for layer in chosen)
            raise ValueError(f"the layers have different nodes ({shown}); choose some of them with prefix=")
        mask = None
        for layer in chosen:
            check_number("sample", sample, layer.num_samples)
            mask = layer.mask[sample] if layer.mask is not None else mask
        arrays: list[Any] = [
            layer.weights[sample] if layer.edge_index is None else (layer.edge_index, layer.weights) for layer in chosen
        ]
        nodes = chosen[0].num_nodes[0]
        return AttentionMaps.from_arrays(
            arrays, num_nodes=nodes, mask=mask, tokens=tokens, causal=causal, validate=validate
        )

    def __repr__(self) -> str:
        names = [layer.name for layer in self.layers]
        shown = ", ".join(names if len(names) < 4 else [names[0], "...", names[-1]])
        return f"Capture({len(names)} layers: {shown})"


def check_number(name: str, number: int, size: int) -> None:
    """Check that a sample or a head is one of those there are."""
    if not 0 <= number < size:
        raise ValueError(f"{name} is {number} but there are {size}; pass a number of 0 to {size - 1}")


def copied(tensor: Tensor | None) -> Tensor | None:
    """Copy a tensor to the CPU, apart from the model and its gradients."""
    return None if tensor is None else tensor.detach().to("cpu", copy=True)


def linear_weight(module: Any) -> Tensor | None:
    """Return the weight of a linear map as (inputs, outputs), whether it is stored so or transposed."""
    weight = getattr(module, "weight", None)
    if not isinstance(weight, Tensor) or weight.dim() != 2 or not weight.is_floating_point():
        return None
    return weight if type(module).__name__ == "Conv1D" else weight.T


def split_heads(values: Tensor, heads: int) -> Tensor:
    """Split the channels of (B, N, H C) into heads: (B, H, N, C)."""
    return values.unflatten(-1, (heads, -1)).movedim(-2, 1)


def real_sources(padding: Tensor | None) -> Tensor | None:
    """Read a padding mask of torch, True or minus infinity where there is padding: (B, M), True for real sources."""
    if padding is None:
        return None
    real = ~padding if padding.dtype == torch.bool else padding == 0
    return torch.atleast_2d(real)
