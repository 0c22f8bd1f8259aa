"""Sequences and images as graphs: which node is what, which pairs are edges, and the way into a layer."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from graphattn.affinity import EdgeType, SparseAffinity, complete, global_nodes, grid, union, window
from graphattn.nn import AttentionConv
from graphattn.transforms import patches_to_graph, tokens_to_graph


def dense(graph: Any) -> torch.Tensor:
    return torch.zeros(graph.num_nodes, graph.num_nodes).index_put(
        (graph.edge_index[1], graph.edge_index[0]), torch.ones(()), accumulate=True
    )


def test_sequences() -> None:
    sequences = [[3, 1, 4], [], torch.tensor([1, 5])]
    graphs = tokens_to_graph(sequences, lambda n: union(window(n, 1), global_nodes(n, [0] if n else [])))
    assert graphs.num_graphs == 3
    assert graphs.x.tolist() == [3, 1, 4, 1, 5]
    assert graphs.pos.tolist() == [0, 1, 2, 0, 1]
    assert graphs.ptr.tolist() == [0, 3, 3, 5]
    assert torch.equal(dense(graphs), torch.block_diag(torch.ones(3, 3), torch.ones(2, 2)))
    last = graphs[2]
    assert last.x.tolist() == [1, 5]
    assert last.edge_type.tolist() == [EdgeType.WINDOW] * 4
    assert (graphs.edge_type == EdgeType.GLOBAL).sum() == 2


@pytest.mark.parametrize("pattern", ["complete", "causal"])
def test_attention_over_sequences_is_that_of_torch(pattern: str) -> None:
    """Through a layer, every sequence comes out as masked dense attention over it alone."""
    torch.manual_seed(0)
    conv = AttentionConv(5, 4, root_weight=False).double()
    sequences = [torch.randn(n, 5, dtype=torch.float64) for n in (6, 1, 4)]
    graphs = tokens_to_graph(sequences, pattern)
    out = conv(graphs.x, graphs.edge_index).split([6, 1, 4])
    for x, rows in zip(sequences, out, strict=True):
        loops = torch.arange(len(x)).repeat(2, 1)
        q, k, *_ = conv.score.project(x, x, None)
        shape = (1, len(x), 4)
        truth = F.scaled_dot_product_attention(
            q.view(shape), k.view(shape), conv(x, loops).view(shape), is_causal=pattern == "causal"
        )
        torch.testing.assert_close(rows, truth[0], rtol=0, atol=60 * torch.finfo(torch.float64).eps)


def test_patches_are_those_of_a_vision_transformer() -> None:
    """A linear layer on patches is the convolution with the stride of a patch."""
    torch.manual_seed(0)
    images = torch.randn(3, 2, 6, 8, dtype=torch.float64, requires_grad=True)
    conv = torch.nn.Conv2d(2, 5, kernel_size=(3, 2), stride=(3, 2)).double()
    graphs = patches_to_graph(images, (3, 2), "grid")
    tokens = F.linear(graphs.x, conv.weight.flatten(1), conv.bias)
    torch.testing.assert_close(tokens.view(3, 8, 5), conv(images).flatten(2).transpose(1, 2), rtol=0, atol=1e-14)
    row, col = graphs[1].pos.T
    pixel = images[1, :, row[5] * 3, col[5] * 2]
    assert torch.equal(graphs[1].x[5].view(2, 3, 2)[:, 0, 0], pixel)
    (gradient,) = torch.autograd.grad(graphs.x.sum(), images)
    assert torch.equal(gradient, torch.ones_like(images))


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("complete", complete(12)),
        ("grid", grid(3, 4)),
        ("window", grid(3, 4, diagonal=True)),
        (lambda rows, cols: grid(rows, cols, 2), grid(3, 4, 2)),
    ],
    ids=["complete", "grid", "window", "function"],
)
def test_patch_patterns(pattern: Any, expected: SparseAffinity) -> None:
    graphs = patches_to_graph(torch.rand(2, 1, 6, 8), 2, pattern)
    block = expected.to_dense().matrix
    assert torch.equal(dense(graphs), torch.block_diag(block, block))
    assert torch.equal(graphs[1].edge_type, expected.edge_type)


IMAGES = torch.rand(1, 1, 4, 6)
ERRORS: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "no sequence": (lambda: tokens_to_graph([]), ValueError, "sequences is empty; expected at least one"),
    "sequence shape": (
        lambda: tokens_to_graph([[1], torch.rand(1, 2, 3)]),
        ValueError,
        "sequences[1] has shape (1, 2, 3); expected [tokens] or [tokens, channels]",
    ),
    "unknown": (
        lambda: tokens_to_graph([[1]], "window"),
        ValueError,
        "pattern is 'window'; expected one of 'complete', 'causal', or a function of the length",
    ),
    "other type": (
        lambda: tokens_to_graph([[1]], lambda n: n),
        TypeError,
        "pattern returns a int; expected a SparseAffinity",
    ),
    "other size": (
        lambda: tokens_to_graph([[1]], lambda n: complete(n + 1)),
        ValueError,
        "pattern returns an affinity of shape (2, 2); expected (1, 1)",
    ),
    "unknown for patches": (
        lambda: patches_to_graph(IMAGES, 2, "causal"),
        ValueError,
        "pattern is 'causal'; expected one of 'complete', 'grid', 'window', or a function of rows and columns",
    ),
    "images": (
        lambda: patches_to_graph(IMAGES[0], 2),
        ValueError,
        "images has shape (1, 4, 6); expected [images, channels, height, width]",
    ),
    "patch size": (
        lambda: patches_to_graph(IMAGES, 4),
        ValueError,
        "patch_size is 4, which does not divide images of 4 x 6",
    ),
    "no patch": (lambda: patches_to_graph(IMAGES, 0), ValueError, "patch_size is 0, which does not divide"),
    "other size of patches": (
        lambda: patches_to_graph(IMAGES, 2, lambda rows, cols: complete(rows)),
        ValueError,
        "pattern returns an affinity of shape (2, 2); expected (6, 6)",
    ),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors(name: str) -> None:
    call, kind, message = ERRORS[name]
    with pytest.raises(kind, match=re.escape(message)):
        call()
