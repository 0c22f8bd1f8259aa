"""Co-occurrence: a literal double loop agrees, sequences are apart, chunks make no difference, errors speak."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from graphattn.affinity import SparseAffinity
from graphattn.affinity.cooccurrence import cooccurrence


def by_loops(sequences: Sequence[Sequence[int]], window: int, weighting: str, symmetric: bool, size: int) -> np.ndarray:
    counts = np.zeros((size, size))
    for sequence in sequences:
        for t, word in enumerate(sequence):
            for s in range(max(t - window, 0), t):
                weight = 1 / (t - s) if weighting == "harmonic" else 1.0
                counts[word, sequence[s]] += weight
                if symmetric:
                    counts[sequence[s], word] += weight
    return counts


def random_sequences(num_tokens: int = 9) -> list[list[int]]:
    return [np.random.randint(0, num_tokens, length).tolist() for length in (0, 1, 40, 3, 0, 17, 100, 2)]


def matrix(A: SparseAffinity) -> np.ndarray:
    return A.to_dense().matrix.numpy()


@pytest.fixture(autouse=True)
def double() -> Iterator[None]:
    """Weights in float64, so that they can be compared with the loops."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def close(a: Any, b: Any) -> None:
    """Equal up to the order of sums of at most 10^3 positive numbers."""
    np.testing.assert_allclose(a, b, rtol=1e3 * np.finfo(np.float64).eps, atol=0)


@pytest.mark.parametrize("chunk", [1, 30, 100, 1 << 20])
@pytest.mark.parametrize("window", [1, 4, 200])
@pytest.mark.parametrize("weighting", ["harmonic", "uniform"])
@pytest.mark.parametrize("symmetric", [True, False])
def test_double_loop(symmetric: bool, weighting: str, window: int, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks smaller than a sequence, of several sequences, and of all of them."""
    # The package has a function of the module's name.
    monkeypatch.setattr(sys.modules[cooccurrence.__module__], "_CHUNK_PAIRS", chunk)
    sequences = random_sequences()
    A = cooccurrence(sequences, window=window, weighting=weighting, symmetric=symmetric)
    close(matrix(A), by_loops(sequences, window, weighting, symmetric, 9))
    assert A.symmetric is symmetric
    source, target = A.edge_index
    assert torch.equal((target * 9 + source).unique(), target * 9 + source)  # ordered, and no parallel edges
    assert bool((A.weights() > 0).all())
    assert A.labels is None


@pytest.mark.parametrize("transform", ["raw", "log1p", "ppmi"])
@pytest.mark.parametrize("symmetric", [True, False])
def test_transforms(transform: str, symmetric: bool) -> None:
    sequences = random_sequences()
    counts = by_loops(sequences, 3, "harmonic", symmetric, 11)
    truth = counts
    if transform == "log1p":
        truth = np.log(1 + counts)
    if transform == "ppmi":
        p = counts / counts.sum()
        expected = p.sum(1, keepdims=True) * p.sum(0, keepdims=True)
        # Word by word: log 0 stands for no edge.
        truth = np.vectorize(lambda a, b: max(0.0, math.log(a / b)) if a > 0 else 0.0)(p, expected)
        assert (truth > 0).sum() < (counts > 0).sum()
    A = cooccurrence(sequences, window=3, transform=transform, symmetric=symmetric, num_tokens=11)
    # A logarithm near 0 is as exact as its argument near 1.
    np.testing.assert_allclose(matrix(A), truth, rtol=1e-13, atol=1e-13)
    assert bool((A.weights() > 0).all())
    assert A.symmetric is symmetric
    assert (matrix(A) == matrix(A).T).all() == symmetric


def test_known_example() -> None:
    """GloVe counts both directions, so that a word next to itself counts twice."""
    assert matrix(cooccurrence([[1, 1, 0]], window=2)).tolist() == [[0.0, 1.5], [1.5, 2.0]]
    assert matrix(cooccurrence([[1, 1, 0]], window=2, symmetric=False)).tolist() == [[0.0, 1.5], [0.0, 1.0]]
    assert matrix(cooccurrence([[0, 1], [1, 2]], symmetric=False)).tolist() == [[0, 0, 0], [1, 0, 0], [0, 1, 0]]


def test_a_hop_reads_the_context_to_the_left() -> None:
    A = cooccurrence([[0, 1, 2]], window=1, symmetric=False)
    assert (A @ torch.tensor([1.0, 10.0, 100.0])).tolist() == [0.0, 1.0, 10.0]


def test_kinds_of_sequences() -> None:
    numbers = [[3, 0, 1, 0], [2, 2, 1]]
    truth = matrix(cooccurrence(numbers))
    for kind in (tuple, torch.tensor, np.array, lambda x: np.array(x, dtype=np.uint8), lambda x: torch.tensor(x).int()):
        assert (matrix(cooccurrence(kind(sequence) for sequence in numbers)) == truth).all()
    rows = torch.tensor([[0, 1, 2], [2, 1, 0]])
    assert (matrix(cooccurrence(rows)) == matrix(cooccurrence(rows.tolist()))).all()
    words = [["d", "a", "b", "a"], ["c", "c", "b"]]
    A, B = cooccurrence(words), cooccurrence(np.array(sequence) for sequence in words)
    assert A.labels == B.labels
    assert (matrix(A) == matrix(B)).all()


def test_a_generator_is_read_once_and_not_kept() -> None:
    alive = 0

    class Tracked(list):
        def __init__(self, items: list[int]) -> None:
            nonlocal alive
            alive += 1
            super().__init__(items)

        def __del__(self) -> None:
            nonlocal alive
            alive -= 1

    sequences = random_sequences()
    most = 0

    def stream() -> Iterator[list[int]]:
        nonlocal most
        for sequence in sequences:
            most = max(most, alive)
            yield Tracked(sequence)

    close(matrix(cooccurrence(stream())), matrix(cooccurrence(sequences)))
    assert most <= 2


def test_vocabulary_by_frequency_then_alphabet() -> None:
    sequences = [["a", "c", "b", "b"], ["c", "d", "b"]]
    A = cooccurrence(sequences, window=2)
    assert A.labels == ("b", "c", "a", "d")
    number = {word: i for i, word in enumerate(A.labels)}
    lines = [[number[word] for word in line] for line in sequences]
    close(matrix(A), by_loops(lines, 2, "harmonic", True, 4))
    left = cooccurrence(sequences, window=2, symmetric=False)
    close(matrix(left), by_loops(lines, 2, "harmonic", False, 4))
    assert (left.edge_index[1] * 4 + left.edge_index[0]).diff().min() > 0
    assert cooccurrence(reversed(sequences)).labels == A.labels


def test_rare_words_keep_their_places() -> None:
    A = cooccurrence([["a", "rare", "b", "a", "b"]], window=2, min_count=2)
    assert A.labels == ("a", "b")
    # a_b: 2 apart once (over the rare word), 1 apart twice; a_a: 3 apart; b_b: 2 apart, in both directions.
    assert matrix(A).tolist() == [[0.0, 2.5], [2.5, 1.0]]
    none = cooccurrence([["a", "b"]], min_count=2)
    assert (none.shape, none.labels, none.num_edges) == ((0, 0), (), 0)


@pytest.mark.parametrize("transform", ["raw", "log1p", "ppmi"])
def test_nothing_to_count(transform: str) -> None:
    for sequences, options, shape in (
        ([], {}, (0, 0)),
        ([[], torch.empty(0)], {}, (0, 0)),
        ([], {"num_tokens": 3}, (3, 3)),
        ([[4]], {}, (5, 5)),
        ([["alone"]], {}, (1, 1)),
    ):
        A = cooccurrence(sequences, transform=transform, **options)
        assert (A.shape, A.num_edges, A.symmetric, A.dtype) == (shape, 0, True, torch.float64)
        assert A.row_sums().tolist() == [0.0] * shape[0]


def test_dtype_is_the_default_one() -> None:
    torch.set_default_dtype(torch.float32)
    A = cooccurrence([[0, 1, 0]])
    assert (A.dtype, A.edge_index.dtype) == (torch.float32, torch.int64)


def test_sequences_are_not_edited() -> None:
    sequence: Tensor = torch.tensor([2, 0, 1, 0])
    cooccurrence([sequence], transform="ppmi")
    assert sequence.tolist() == [2, 0, 1, 0]


@pytest.mark.parametrize(
    ("sequences", "options", "error", "message"),
    [
        (["the cat"], {}, TypeError, r"sequences\[0\] is the string 'the cat'; split it into a list of tokens"),
        ([1, 2], {}, TypeError, r"sequences\[0\] is a int; expected a list, array or tensor of tokens"),
        ([[0], [1, -1]], {}, ValueError, r"sequences\[1\] contains -1; expected integers at least 0"),
        ([[0, 3]], {"num_tokens": 3}, ValueError, r"sequences\[0\] contains 3; expected integers in \[0, 3\)"),
        ([[0, -2]], {"num_tokens": 3}, ValueError, r"sequences\[0\] contains -2; expected integers in \[0, 3\)"),
        ([[0.5]], {}, TypeError, r"sequences\[0\] has dtype float64; expected integers or strings"),
        ([[True]], {}, TypeError, r"sequences\[0\] has dtype bool"),
        ([np.array(["a"], dtype=object)], {}, TypeError, r"sequences\[0\] has dtype object"),
        ([torch.zeros(2, 2).long()], {}, ValueError, r"sequences\[0\] has shape \(2, 2\); expected one dimension"),
        ([["a", 1]], {}, TypeError, r"sequences\[0\] mixes strings with 1; expected one kind of token"),
        ([["a"], [1]], {}, TypeError, r"sequences\[1\] holds integers, but the sequences before it hold strings"),
        ([[1], ["a"]], {}, TypeError, r"sequences\[1\] holds strings, but the sequences before it hold integers"),
        ([["a"]], {"num_tokens": 3}, ValueError, "num_tokens is 3 but tokens are strings"),
        ([[1]], {"min_count": 2}, ValueError, "min_count is 2 but tokens are integers"),
        ([[1]], {"window": 0}, ValueError, "window is 0; expected an integer of at least 1"),
        ([[1]], {"window": 2.0}, ValueError, "window is 2.0; expected an integer"),
        ([[1]], {"min_count": True}, ValueError, "min_count is True; expected an integer"),
        ([[1]], {"num_tokens": -1}, ValueError, "num_tokens is -1; expected an integer of at least 0"),
        ([[1]], {"weighting": "inverse"}, ValueError, "weighting is 'inverse'; expected one of 'harmonic', 'uniform'"),
        ([[1]], {"transform": "log"}, ValueError, "transform is 'log'; expected one of 'raw', 'log1p', 'ppmi'"),
    ],
)
def test_errors(sequences: Any, options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        cooccurrence(sequences, **options)
