"""Which words stand near which: the co-occurrence affinity of token sequences."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from scipy.sparse import coo_array, csr_array
from torch import Tensor

from graphattn.affinity.sparse import SparseAffinity

__all__ = ["cooccurrence"]

_WEIGHTINGS = ("harmonic", "uniform")
TRANSFORMS = ("raw", "log1p", "ppmi")

_CHUNK_PAIRS = 1 << 20  # pairs that are listed before they are added up


def cooccurrence(
    sequences: Iterable[Sequence[int] | Sequence[str] | Tensor | np.ndarray],
    *,
    window: int = 5,
    weighting: str = "harmonic",
    transform: str = "raw",
    symmetric: bool = True,
    num_tokens: int | None = None,
    min_count: int = 1,
) -> SparseAffinity:
    r"""Count how often tokens stand within a window of each other, nearer ones more.

    .. math:: X_{ij} = \sum_{(s, t)\,:\,w_s = j,\ w_t = i,\ 1 \le t - s \le L} \frac{1}{t - s}

    adds up the places :math:`t` of token :math:`i` at which token :math:`j` stands to the left: :math:`i` draws on its
    context :math:`j`. With ``symmetric`` the context is on both sides, :math:`\mathbf{X} + \mathbf{X}^{\top}`, as in
    GloVe, where a token next to itself counts twice. Windows never cross from one sequence into the next.

    Sequences are read once, one after the other, and may come from a generator: memory is needed for one of them, for
    the pairs that were found so far and for a chunk of new ones.

    Args:
        sequences: Token sequences, of non-negative integers or of strings.
        window: How far :math:`L` the context reaches.
        weighting: ``"harmonic"`` for the weight :math:`1 / (t - s)` above, or ``"uniform"`` for 1.
        transform: ``"raw"`` for :math:`X_{ij}`; ``"log1p"`` for :math:`\log(1 + X_{ij})`; or ``"ppmi"``, positive
            pointwise mutual information, :math:`\max(0, \log (X_{ij} \sum X / (\sum_l X_{il} \sum_l X_{lj})))`.
        symmetric: Whether the context is on both sides, or on the left alone.
        num_tokens: Number of nodes :math:`V` where tokens are integers; by default the largest one plus 1.
        min_count: How often a string must occur to become a node. Rarer ones keep their places between the others.

    Returns:
        An affinity :math:`V \times V` in torch's default dtype without zero weights, edges ordered by (target, source),
        marked symmetric if ``symmetric`` is true. Nodes are the integers or, for strings, the vocabulary from the most
        frequent on, ties in alphabetical order, which ``labels`` names.

    Raises:
        ValueError: If an argument or a token is out of range, or one is given that the tokens have no use for.
        TypeError: If a sequence does not hold integers or strings, or the kinds are mixed.

    Example:
        >>> A = cooccurrence([["to", "be", "or", "not", "to", "be"]], window=2)
        >>> A.labels
        ('be', 'to', 'not', 'or')
        >>> A.to_dense().matrix
        tensor([[0., 2., 1., 1.],
                [2., 0., 1., 1.],
                [1., 1., 0., 1.],
                [1., 1., 1., 0.]])
        >>> cooccurrence([[0, 1, 2]], symmetric=False).to_dense().matrix
        tensor([[0.0000, 0.0000, 0.0000],
                [1.0000, 0.0000, 0.0000],
                [0.5000, 1.0000, 0.0000]])

    Reference:
        Pennington et al., "GloVe: Global Vectors for Word Representation", 2014; Levy and Goldberg, "Neural Word
        Embedding as Implicit Matrix Factorization", 2014 (positive pointwise mutual information).
    """
    for name, number, least in (("window", window, 1), ("min_count", min_count, 1), ("num_tokens", num_tokens or 0, 0)):
        if not isinstance(number, int) or isinstance(number, bool) or number < least:
            raise ValueError(f"{name} is {number!r}; expected an integer of at least {least}")
    for name, given, known in (("weighting", weighting, _WEIGHTINGS), ("transform", transform, TRANSFORMS)):
        if given not in known:
            raise ValueError(f"{name} is {given!r}; expected one of {', '.join(map(repr, known))}")

    tokens = _Tokens(num_tokens, min_count)
    weights = np.ones(window) if weighting == "uniform" else 1 / np.arange(1, window + 1)
    counts = _resize(_count(tokens.numbers(sequences), weights), tokens.size())
    labels = tokens.vocabulary()
    if labels is not None:
        order = [tokens.number[word] for word in labels]
        counts = counts[order][:, order]
    if symmetric:
        counts = counts + counts.T
    counts = transform_counts(counts, transform, symmetric)
    counts.sort_indices()
    entries = counts.tocoo()
    return SparseAffinity(
        torch.from_numpy(np.stack([entries.col, entries.row]).astype(np.int64)),
        torch.from_numpy(entries.data).to(torch.get_default_dtype()),
        entries.shape,
        symmetric=symmetric,
        labels=labels,
    )


class _Tokens:
    """Numbers the tokens of sequences, and knows afterwards how many there are and what they are called."""

    def __init__(self, num_tokens: int | None, min_count: int) -> None:
        self.number: dict[str, int] = {}
        self._num_tokens = num_tokens
        self._min_count = min_count
        self._frequency: Counter[str] = Counter()
        self._largest = -1

    def numbers(self, sequences: Iterable[Any]) -> Iterator[np.ndarray]:
        """Read one sequence after the other; empty ones are passed over."""
        kind = ""
        for index, sequence in enumerate(sequences):
            name = f"sequences[{index}]"
            tokens = _read(name, sequence)
            if len(tokens) == 0:
                continue
            found = "strings" if isinstance(tokens, list) else "integers"
            kind = kind or found
            if found != kind:
                raise TypeError(f"{name} holds {found}, but the sequences before it hold {kind}; expected one kind")
            yield self._number_words(tokens) if isinstance(tokens, list) else self._check_range(name, tokens)

    def _number_words(self, words: list[str]) -> np.ndarray:
        if self._num_tokens is not None:
            raise ValueError(
                f"num_tokens is {self._num_tokens} but tokens are strings, whose number is found; leave it"
            )
        self._frequency.update(words)
        number = self.number
        return np.array([number.setdefault(word, len(number)) for word in words], dtype=np.int64)

    def _check_range(self, name: str, numbers: np.ndarray) -> np.ndarray:
        if self._min_count > 1:
            raise ValueError(
                f"min_count is {self._min_count} but tokens are integers, all of which are nodes; leave it"
            )
        low, high = int(numbers.min()), int(numbers.max())
        if low < 0 or (self._num_tokens is not None and high >= self._num_tokens):
            expected = "at least 0" if self._num_tokens is None else f"in [0, {self._num_tokens}), as num_tokens says"
            raise ValueError(f"{name} contains {low if low < 0 else high}; expected integers {expected}")
        self._largest = max(self._largest, high)
        return numbers.astype(np.int64)

    def size(self) -> int:
        """How many numbers there are, those of rare words included."""
        if self.number:
            return len(self.number)
        return self._largest + 1 if self._num_tokens is None else self._num_tokens

    def vocabulary(self) -> list[str] | None:
        """Words that are frequent enough, the most frequent first; ``None`` where tokens are integers."""
        if not self.number:
            return None
        frequent = [word for word, count in self._frequency.items() if count >= self._min_count]
        return sorted(frequent, key=lambda word: (-self._frequency[word], word))


def _read(name: str, sequence: Any) -> list[str] | np.ndarray:
    """One sequence, as a list of strings or as an array of integers."""
    if isinstance(sequence, str):
        raise TypeError(f"{name} is the string {sequence[:40]!r}; split it into a list of tokens")
    if isinstance(sequence, Tensor):
        sequence = sequence.detach().cpu().numpy()
    if isinstance(sequence, np.ndarray) and sequence.dtype.kind == "U":
        sequence = sequence.tolist()
    if not isinstance(sequence, (np.ndarray, list, tuple)):
        raise TypeError(f"{name} is a {type(sequence).__name__}; expected a list, array or tensor of tokens")
    if not isinstance(sequence, np.ndarray) and any(isinstance(token, str) for token in sequence):
        for token in sequence:
            if not isinstance(token, str):
                raise TypeError(f"{name} mixes strings with {token!r}; expected one kind of token")
        return list(sequence)
    numbers = np.asarray(sequence)
    if numbers.ndim != 1:
        raise ValueError(f"{name} has shape {numbers.shape}; expected one dimension")
    if numbers.size and numbers.dtype.kind not in "iu":
        raise TypeError(f"{name} has dtype {numbers.dtype}; expected integers or strings")
    return numbers


def _count(sequences: Iterator[np.ndarray], weights: np.ndarray) -> csr_array:
    """Add up the weights of all pairs (token, token to its left)."""
    # Sums of decreasing size, as in a binary counter: every pair is merged a logarithmic number of times.
    sums: list[csr_array] = [csr_array((0, 0))]
    for tokens, reach in _chunks(sequences, weights.size):
        for part in _sums(tokens, reach, weights):
            sums.append(part)
            while len(sums) > 1 and sums[-2].nnz <= 2 * sums[-1].nnz:
                sums.append(_add(sums.pop(), sums.pop()))
    while len(sums) > 1:
        sums.append(_add(sums.pop(), sums.pop()))
    return sums[0]


def _chunks(sequences: Iterator[np.ndarray], window: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield joined sequences of bounded length, and how many places to the left belong to each token's context."""
    size = max(window, _CHUNK_PAIRS // window)
    parts: list[tuple[np.ndarray, np.ndarray]] = []
    length = 0
    for tokens in sequences:
        for start in range(0, tokens.size, size):
            stop = min(start + size, tokens.size)
            # A part of a long sequence repeats the end of the part before it, as context alone.
            first = max(start - window, 0)
            reach = np.arange(stop - first)
            reach[: start - first] = 0
            parts.append((tokens[first:stop], reach))
            length += stop - first
            if length >= size:
                yield _join(parts)
                parts, length = [], 0
    if parts:
        yield _join(parts)


def _join(parts: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    tokens, reach = zip(*parts, strict=True)
    return np.concatenate(tokens), np.concatenate(reach)


def _sums(tokens: np.ndarray, reach: np.ndarray, weights: np.ndarray) -> Iterator[csr_array]:
    """Sum the weights of the pairs of a chunk, a bounded number of pairs at a time."""
    size, farthest = int(tokens.max()) + 1, min(weights.size, int(reach.max()))
    rows, cols, values, listed = [], [], [], 0
    for distance in range(1, farthest + 1):
        (at,) = np.nonzero(reach >= distance)
        rows.append(tokens[at])
        cols.append(tokens[at - distance])
        values.append(np.full(at.size, weights[distance - 1]))
        listed += at.size
        if listed >= _CHUNK_PAIRS or distance == farthest:
            coords = np.concatenate(rows), np.concatenate(cols)
            yield coo_array((np.concatenate(values), coords), shape=(size, size)).tocsr()
            rows, cols, values, listed = [], [], [], 0


def _resize(counts: csr_array, size: int) -> csr_array:
    counts.resize(size, size)
    return counts


def _add(a: csr_array, b: csr_array) -> csr_array:
    size = max(a.shape[0], b.shape[0])
    return _resize(a, size) + _resize(b, size)


def transform_counts(counts: csr_array, transform: str, symmetric: bool) -> csr_array:
    """Turn raw counts into what ``transform`` of :func:`cooccurrence` says; zeros that it makes are no entries."""
    if transform == "log1p":
        return counts.log1p()
    if transform == "ppmi":
        rows = counts.sum(axis=1)
        # The same sums in the same order keep a symmetric matrix symmetric to the last bit.
        cols = rows if symmetric else counts.sum(axis=0)
        entries = counts.tocoo()
        information = np.log(entries.data * counts.sum() / (rows[entries.row] * cols[entries.col]))
        entries.data = np.maximum(information, 0.0)
        counts = entries.tocsr()
        counts.eliminate_zeros()
    return counts
