"""The encoder against its formulas, written as loops in float64."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from graphattn.models import ContextualEncoder

Vector = list[float]


def linear(x: Vector, weight: Tensor, bias: Tensor) -> Vector:
    rows = zip(weight.tolist(), bias.tolist(), strict=True)
    return [sum(w * v for w, v in zip(row, x, strict=True)) + b for row, b in rows]


def layer_norm(x: Vector, weight: Tensor, bias: Tensor) -> Vector:
    mean = sum(x) / len(x)
    variance = sum((v - mean) ** 2 for v in x) / len(x)
    columns = zip(x, weight.tolist(), bias.tolist(), strict=True)
    return [(v - mean) / math.sqrt(variance + 1e-5) * w + b for v, w, b in columns]


def gelu(v: float) -> float:
    return v * 0.5 * (1 + math.erf(v / math.sqrt(2)))


def attention(nodes: list[Vector], block: dict[str, Tensor], heads: int) -> list[Vector]:
    width = len(nodes[0])
    size = width // heads
    mixed = [linear(node, block["qkv.weight"], block["qkv.bias"]) for node in nodes]
    result = []
    for i in range(len(nodes)):
        row: Vector = []
        for head in range(heads):
            at = slice(head * size, (head + 1) * size)
            q = mixed[i][:width][at]
            scores = [
                sum(a * b for a, b in zip(q, other[width : 2 * width][at], strict=True)) / math.sqrt(size)
                for other in mixed
            ]
            weights = [math.exp(score - max(scores)) for score in scores]
            values = [other[2 * width :][at] for other in mixed]
            row += [sum(w * v[c] for w, v in zip(weights, values, strict=True)) / sum(weights) for c in range(size)]
        result.append(linear(row, block["proj.weight"], block["proj.bias"]))
    return result


def literal(affinity: Tensor, encoder: ContextualEncoder) -> Tensor:
    """Codes of one list without missing nodes."""
    state = encoder.state_dict()
    nodes = [linear(row, state["embed.weight"], state["embed.bias"]) for row in affinity.tolist()]
    for number, module in enumerate(encoder.blocks):
        prefix = f"blocks.{number}."
        block = {name[len(prefix) :]: value for name, value in state.items() if name.startswith(prefix)}
        normed = [layer_norm(x, block["norm1.weight"], block["norm1.bias"]) for x in nodes]
        attended = attention(normed, block, module.heads)
        nodes = [[a + b for a, b in zip(x, y, strict=True)] for x, y in zip(nodes, attended, strict=True)]
        for i, x in enumerate(nodes):
            hidden = linear(
                layer_norm(x, block["norm2.weight"], block["norm2.bias"]), block["fc1.weight"], block["fc1.bias"]
            )
            added = linear([gelu(v) for v in hidden], block["fc2.weight"], block["fc2.bias"])
            nodes[i] = [a + b for a, b in zip(x, added, strict=True)]
    return torch.tensor(nodes, dtype=torch.float64)


def encoder_of(**options: Any) -> ContextualEncoder:
    """An encoder whose every parameter, biases and norms included, is drawn far from its initial value."""
    encoder = ContextualEncoder(**{"num_anchors": 5, "width": 6, "depth": 2, "heads": 3, **options}).double()
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.normal_()
    return encoder.eval()


@pytest.mark.parametrize("depth", [0, 1, 2])
def test_equals_the_formulas(depth: int) -> None:
    encoder = encoder_of(depth=depth)
    affinity = torch.randn(2, 7, 5, dtype=torch.float64)
    codes = encoder(affinity, torch.ones(2, 7, dtype=torch.bool))
    truth = torch.stack([literal(rows, encoder) for rows in affinity])
    torch.testing.assert_close(
        codes, truth, rtol=0, atol=1e3 * torch.finfo(torch.float64).eps * float(truth.abs().max())
    )


def test_missing_nodes_do_not_exist() -> None:
    encoder = encoder_of()
    affinity = torch.randn(3, 7, 5, dtype=torch.float64)
    mask = torch.tensor([[1, 1, 0, 1, 0, 1, 1], [1] * 7, [1, 0, 0, 0, 0, 0, 0]], dtype=torch.bool)
    codes = encoder(affinity, mask)
    other = encoder(affinity.masked_fill(~mask.unsqueeze(2), 1e3), mask)
    for row in range(3):
        alone = encoder(affinity[row, mask[row]].unsqueeze(0), torch.ones(1, int(mask[row].sum()), dtype=torch.bool))[0]
        torch.testing.assert_close(codes[row, mask[row]], alone)
        torch.testing.assert_close(other[row, mask[row]], alone)


def test_nodes_may_come_in_any_order() -> None:
    encoder = encoder_of()
    affinity = torch.randn(2, 7, 5, dtype=torch.float64)
    mask = torch.tensor([[1, 1, 0, 1, 0, 1, 1], [1] * 7], dtype=torch.bool)
    order = torch.tensor([3, 0, 5, 1, 6, 2, 4])
    torch.testing.assert_close(encoder(affinity[:, order], mask[:, order]), encoder(affinity, mask)[:, order])


def test_the_published_size() -> None:
    assert sum(p.numel() for p in ContextualEncoder().parameters()) == 14_963_456


def test_initial_weights() -> None:
    encoder = ContextualEncoder(64, 96, 2, 4)
    for name, parameter in encoder.named_parameters():
        if name.endswith("bias"):
            assert (parameter == 0).all(), name
        elif "norm" in name:
            assert (parameter == 1).all(), name
        else:
            assert parameter.std().item() == pytest.approx(0.02, rel=0.1), name


def test_dropout_only_in_training() -> None:
    encoder = encoder_of(dropout=0.5)
    affinity, mask = torch.randn(2, 7, 5, dtype=torch.float64), torch.ones(2, 7, dtype=torch.bool)
    assert torch.equal(encoder(affinity, mask), encoder(affinity, mask))
    encoder.train()
    assert not torch.equal(encoder(affinity, mask), encoder(affinity, mask))


def test_whole_branches_are_dropped_in_the_last_block_alone() -> None:
    encoder = encoder_of(dropout=0.5)
    assert [block.drop_path for block in encoder.blocks] == [0.0, 0.5]
    block = encoder.blocks[1].train()
    kept = block._branch(torch.ones(4000, 1, 1, dtype=torch.float64)).flatten()
    assert set(kept.tolist()) == {0.0, 2.0}
    assert kept.mean().item() == pytest.approx(1.0, abs=5 / math.sqrt(4000))


def test_gradients() -> None:
    encoder = encoder_of(num_anchors=3, width=4, depth=1, heads=2)
    mask = torch.tensor([[True, True, False, True]])
    affinity = torch.randn(1, 4, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: F.normalize(encoder(x, mask), dim=2)[mask], affinity)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_anchors": 0}, "num_anchors is 0; expected an integer, at least 1"),
        ({"width": True}, "width is True; expected an integer"),
        ({"depth": -1}, "depth is -1; expected an integer, at least 0"),
        ({"heads": 0}, "heads is 0; expected an integer, at least 1"),
        ({"width": 10, "heads": 4}, "width is 10 and heads is 4; expected a width that the heads divide"),
        ({"dropout": 1.0}, r"dropout is 1.0; expected a number in \[0, 1\)"),
    ],
)
def test_bad_sizes(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ContextualEncoder(**options)
