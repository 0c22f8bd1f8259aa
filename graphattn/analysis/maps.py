"""Attention maps of one sample: the one form in which every measure takes attention."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from graphattn.affinity import Affinity, DenseAffinity, SparseAffinity
from graphattn.analysis._maps_input import (
    Edges,
    Layer,
    check_finite,
    check_rows,
    common_size,
    is_lower,
    read_layer,
    read_mask,
    remove,
    split,
)

MAX_BYTES = 2**31  # of one layer made dense, or of one result


@dataclass(frozen=True, eq=False)
class AttentionMaps:
    r"""Hold the attention of one sample, layer by layer: :math:`A_{ij}` says how strongly node i draws on node j.

    Rows are targets (queries), columns are sources (keys). Each layer is dense or a list of edges; both have a head
    axis, and layers may differ in heads and in form. Tokens that were masked are gone: all that is here is real.
    Make one with :meth:`from_arrays`, which checks it, or get one from :func:`~graphattn.analysis.capture`.

    A measure reads ``num_layers``, ``num_nodes``, ``heads``, ``tokens``, ``causal``, and each layer through
    :meth:`dense` or :meth:`edges`, which give float64 whatever is stored; :meth:`is_sparse` tells which is cheap.
    Rows sum to 1, apart from rows without any attention, which are 0.

    Args:
        layers: Per layer an array :math:`(H, N, N)`, or a pair of ``edge_index`` :math:`(2, E)`, source row first, and
            weights :math:`(E, H)`. They are stored in the precision they came in, at least float32.
        num_nodes: Number of nodes or tokens :math:`N`.
        tokens: Their names.
        causal: Whether no token draws on a later one.
        positions: Where each token was in the input, before masked ones were removed.

    Example:
        >>> maps = AttentionMaps.from_arrays(np.full((2, 1, 3, 3), 1 / 3), tokens=["the", "blue", "whale"])
        >>> maps
        AttentionMaps(2 layers, heads 1, 3 nodes, dense)
        >>> maps.dense(0).shape, maps.tokens[2], maps.causal
        ((1, 3, 3), 'whale', False)
    """

    layers: tuple[Layer, ...]
    num_nodes: int
    tokens: tuple[str, ...]
    causal: bool
    positions: np.ndarray

    @classmethod
    def from_arrays(
        cls,
        layers: Any,
        *,
        num_nodes: int | None = None,
        mask: Any = None,
        tokens: Sequence[str] | None = None,
        causal: bool | None = None,
        sample: int | None = None,
        validate: bool = True,
    ) -> AttentionMaps:
        """Read attention maps, remove what is masked, and check the rest.

        Args:
            layers: An array of all layers, or a sequence with one entry a layer: an array, a pair ``(edge_index,
                weights)``, or an :class:`~graphattn.affinity.Affinity`. Arrays may be NumPy's or torch's.
            num_nodes: Number of nodes; needed if all layers are pairs, which do not tell.
            mask: True for real tokens. Rows and columns of the others are removed.
            tokens: Names of all tokens, masked ones too; their numbers by default.
            causal: Whether no token draws on a later one; by default, whether no weight says otherwise.
            sample: Which sample of a batch to read; needed if the arrays have a batch axis, and only then.
            validate: Whether to check that weights are not negative and that rows sum to 1, or to 0 where a row is
                empty. Pass False for attention whose normalization does not make them so.

        Shapes:
            - **input:** ``layers`` :math:`(L, H, N, N)`, or :math:`(B, L, H, N, N)` for a batch; entries
              :math:`(N, N)`, :math:`(H, N, N)`, or :math:`(B, H, N, N)` for a batch; ``mask`` :math:`(N)`, or
              :math:`(B, N)` for a batch

        Returns:
            The maps, which may share memory with the arrays they were made of.

        Raises:
            ValueError: If there is no layer or no token, layers differ in their tokens, a weight is not finite or a row
                does not sum to 1, a shape does not fit, or ``causal`` is claimed but not so.
            TypeError: If a layer is none of the above.

        Example:
            >>> A = np.array([[0.5, 0.5, 0.0], [0.2, 0.8, 0.0], [0.1, 0.1, 0.8]])
            >>> AttentionMaps.from_arrays(A[None, None], mask=[True, True, False]).dense(0).tolist()
            [[[0.5, 0.5], [0.2, 0.8]]]
        """
        entries, batched = split(layers, sample)
        read = [read_layer(layer, number, batched) for number, layer in enumerate(entries)]
        if not read:
            raise ValueError(
                "layers holds no layer; if a model returned none, its attention implementation keeps no maps: load it "
                'with attn_implementation="eager"'
            )
        size = common_size(read, num_nodes)
        kept = read_mask(mask, size, sample)
        names = tuple(map(str, range(size) if tokens is None else tokens))
        if len(names) != size:
            raise ValueError(f"tokens names {len(names)} tokens but the maps have {size}; pass one name for each")
        if not kept.any():
            raise ValueError(f"no tokens are left of {size}; pass maps and a mask with at least one real token")
        removed = []
        for number, (layer, _) in enumerate(read):
            removed.append(remove(layer, kept))
            check_finite(removed[-1], number)
            if validate:
                check_rows(layer, size, kept, number)
        positions = np.flatnonzero(kept)
        lower = causal is not False and all(is_lower(layer) for layer in removed)
        if causal and not lower:
            raise ValueError("causal is True but a token draws on a later one; pass causal=False or causal maps")
        chosen = tuple(names[position] for position in positions)
        return cls(tuple(removed), len(positions), chosen, lower, positions)

    @property
    def num_layers(self) -> int:
        """Number of layers."""
        return len(self.layers)

    @property
    def heads(self) -> tuple[int, ...]:
        """Number of heads of each layer."""
        return tuple(layer[1].shape[1] if isinstance(layer, tuple) else layer.shape[0] for layer in self.layers)

    def is_sparse(self, layer: int) -> bool:
        """Tell whether a layer is stored as edges."""
        return isinstance(self.layers[layer], tuple)

    def dense(self, layer: int) -> np.ndarray:
        """Return a layer as matrices, a new array; parallel edges add up.

        Args:
            layer: Number of the layer, counted from 0; negative ones from the end.

        Shapes:
            - **output:** :math:`(H, N, N)`, float64

        Raises:
            ValueError: If the matrices would take more than 2 GiB.

        Example:
            >>> edges = np.array([[0, 1], [1, 1]]), np.array([[0.25], [0.75]])
            >>> AttentionMaps.from_arrays([edges], num_nodes=2).dense(0).tolist()
            [[[0.0, 0.0], [0.25, 0.75]]]
        """
        stored = self.layers[layer]
        heads = self.heads[layer]
        needed = 8 * heads * self.num_nodes**2
        if needed > MAX_BYTES:
            raise ValueError(
                f"layer {layer} has {heads} heads over {self.num_nodes} nodes, which is {needed / 2**30:.1f} GiB as "
                "matrices; read its edges, or choose fewer nodes"
            )
        if not isinstance(stored, tuple):
            return stored.astype(np.float64)
        (source, target), weights = stored
        shape = self.num_nodes, self.num_nodes
        places = target * self.num_nodes + source
        return np.stack([np.bincount(places, head, minlength=shape[0] ** 2).reshape(shape) for head in weights.T])

    def edges(self, layer: int) -> Edges:
        """Return a layer as edges; of matrices, those to which some head gives weight, row by row.

        Args:
            layer: Number of the layer.

        Shapes:
            - **output:** ``edge_index`` :math:`(2, E)`, source row first, and weights :math:`(E, H)`, float64

        Example:
            >>> maps = AttentionMaps.from_arrays(np.array([[[[1.0, 0.0], [0.25, 0.75]]]]))
            >>> maps.edges(0)[0].tolist(), maps.edges(0)[1].ravel().tolist()
            ([[0, 0, 1], [0, 1, 1]], [1.0, 0.25, 0.75])
        """
        stored = self.layers[layer]
        if isinstance(stored, tuple):
            return stored[0], stored[1].astype(np.float64)
        target, source = np.nonzero((stored != 0).any(axis=0))
        return np.stack([source, target]), stored[:, target, source].T.astype(np.float64)

    def affinity(self, layer: int) -> Affinity:
        """Return a layer as an affinity with a head axis, in float64.

        Args:
            layer: Number of the layer.

        Example:
            >>> AttentionMaps.from_arrays(np.eye(2)[None, None]).affinity(0)
            DenseAffinity(2 x 2, heads=1, dtype=torch.float64)
        """
        if self.is_sparse(layer):
            edge_index, weights = (torch.from_numpy(array) for array in self.edges(layer))
            return SparseAffinity(edge_index, weights, (self.num_nodes, self.num_nodes))
        return DenseAffinity(torch.from_numpy(self.dense(layer)))

    def save(self, path: str | Path) -> None:
        """Write the maps to a ``.npz`` file, which holds arrays and names only.

        Args:
            path: The file.

        Example:
            >>> import tempfile
            >>> file = Path(tempfile.mkdtemp()) / "maps.npz"
            >>> AttentionMaps.from_arrays(np.eye(2)[None, None], tokens=["a", "b"]).save(file)
            >>> AttentionMaps.load(file).tokens
            ('a', 'b')
        """
        arrays: dict[str, np.ndarray] = {
            "tokens": np.array(self.tokens, dtype=np.str_),
            "causal": np.array(self.causal),
            "positions": self.positions,
            "num_layers": np.array(self.num_layers),
        }
        for number, layer in enumerate(self.layers):
            if isinstance(layer, tuple):
                arrays[f"edge_index_{number}"], arrays[f"weights_{number}"] = layer
            else:
                arrays[f"layer_{number}"] = layer
        with Path(path).open("wb") as file:
            np.savez_compressed(file, **arrays)  # type: ignore[arg-type]

    @classmethod
    def load(cls, path: str | Path, *, validate: bool = True) -> AttentionMaps:
        """Read a ``.npz`` file that :meth:`save` wrote, or one with an array ``attention`` of maps.

        Args:
            path: The file. Besides ``attention`` it may have ``tokens`` and ``mask``.
            validate: As in :meth:`from_arrays`.

        Raises:
            ValueError: If the file has neither form, holds pickled objects, or the maps are wrong.
        """
        with np.load(path, allow_pickle=False) as file:
            arrays = dict(file)
        if "attention" in arrays:
            tokens = _names(path, arrays["tokens"]) if "tokens" in arrays else None
            return cls.from_arrays(arrays["attention"], tokens=tokens, mask=arrays.get("mask"), validate=validate)
        try:
            layers = [
                arrays[f"layer_{number}"]
                if f"layer_{number}" in arrays
                else (arrays[f"edge_index_{number}"], arrays[f"weights_{number}"])
                for number in range(int(arrays["num_layers"]))
            ]
            names, causal = _names(path, arrays["tokens"]), bool(arrays["causal"])
            positions = arrays["positions"]
        except KeyError as error:
            raise ValueError(
                f"{path} holds {sorted(arrays)}, without {error}; expected an array 'attention' [L, H, N, N], or what "
                "AttentionMaps.save writes"
            ) from None
        maps = cls.from_arrays(layers, num_nodes=len(names), tokens=names, causal=causal, validate=validate)
        known = positions.shape == (len(names),) and positions.dtype.kind in "iu"
        if not known or (np.diff(positions, prepend=-1) <= 0).any():
            raise ValueError(f"{path} has positions {positions}; expected {len(names)} increasing numbers of tokens")
        return cls(maps.layers, maps.num_nodes, maps.tokens, maps.causal, positions)

    def __repr__(self) -> str:
        heads = sorted(set(self.heads))
        forms = ["edges" if self.is_sparse(number) else "dense" for number in range(self.num_layers)]
        form = forms[0] if len(set(forms)) == 1 else "dense and edges"
        shown = str(heads[0]) if len(heads) == 1 else f"{heads[0]}-{heads[-1]}"
        return (
            f"AttentionMaps({self.num_layers} layers, heads {shown}, {self.num_nodes} nodes, {form}"
            f"{', causal' if self.causal else ''})"
        )


def _names(path: str | Path, tokens: np.ndarray) -> list[str]:
    if tokens.ndim != 1:
        raise ValueError(f"{path} has tokens of shape {tokens.shape}; expected a list of names")
    return [str(name) for name in tokens]
