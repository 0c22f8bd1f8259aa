"""What goes through ``message``: hooks, explainers, decomposition and subclasses."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch_geometric.explain import AttentionExplainer, Explainer, GNNExplainer

from graphattn.nn import AttentionConv
from tests.nn.cases import (
    BIPARTITE,
    CHANNELS,
    EDGE_DIM,
    HEADS,
    NORMALIZE_KINDS,
    SCORE_NAMES,
    SQUARE,
    WIDTH,
    Graph,
    assert_same_run,
    features,
    make,
    rebuild,
    run,
    width,
)

every_score = pytest.mark.parametrize("score", SCORE_NAMES)


class _Net(nn.Module):
    def __init__(self, conv: AttentionConv) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, x: Tensor, edge_index: Tensor, edge_attr: Tensor | None = None) -> Tensor:
        return self.conv(x, edge_index, edge_attr)


def _explain(algorithm: Any, conv: AttentionConv, x: Tensor, edge_index: Tensor, **kwargs: Any) -> Tensor:
    explainer = Explainer(
        _Net(conv),
        algorithm,
        explanation_type="model",
        edge_mask_type="object",
        model_config={"mode": "regression", "task_level": "node"},
    )
    return explainer(x, edge_index, **kwargs).edge_mask


@pytest.mark.parametrize("reduce", ["mean", "max"])
@pytest.mark.parametrize(
    "edges",
    [[[0, 0], [0, 1]], [[0, 1, 2, 2, 3], [1, 1, 2, 2, 0]], [[0, 2, 1], [1, 0, 2]]],
    ids=["two nodes", "loops", "no loops"],
)
@pytest.mark.parametrize("with_edge_attr", [False, True])
@every_score
def test_attention_explainer_reads_the_callers_edges(
    score: str, with_edge_attr: bool, edges: list[list[int]], reduce: str
) -> None:
    """With self-loops PyG's own mask belongs to other edges: 0.418, 1 where the truth is 1, 0.418."""
    conv = make(score, add_self_loops=True, edge_dim=EDGE_DIM)
    edge_index = torch.tensor(edges)
    x = torch.randn(4, WIDTH).double()
    edge_attr = torch.randn(edge_index.size(1), EDGE_DIM).double() if with_edge_attr else None
    mask = _explain(AttentionExplainer(reduce=reduce), conv, x, edge_index, edge_attr=edge_attr)
    _, (_, alpha) = conv(x, edge_index, edge_attr, return_attention_weights=True)
    alpha = alpha[: edge_index.size(1)].detach()
    torch.testing.assert_close(mask, alpha.mean(1) if reduce == "mean" else alpha.amax(1))


@pytest.mark.parametrize("add_self_loops", [False, True])
@every_score
def test_gnn_explainer_learns_a_mask(score: str, add_self_loops: bool) -> None:
    """One edge into node 1 decides its output; the other ends at a node that it cannot reach."""
    conv = make(score, dtype=torch.float32, add_self_loops=add_self_loops)
    edge_index = torch.tensor([[0, 2], [1, 3]])
    mask = _explain(GNNExplainer(epochs=3), conv, torch.randn(4, WIDTH), edge_index, index=1)
    assert mask.shape == (2,)
    assert mask[0] > 0
    assert mask[1] == 0


@pytest.mark.parametrize("apply_sigmoid", [False, True])
@every_score
def test_explain_message_masks_the_callers_edges_alone(score: str, apply_sigmoid: bool) -> None:
    conv = make(score, add_self_loops=True)
    x, mask = features(SQUARE), torch.randn(SQUARE.num_edges).double()
    _, (edges, alpha) = conv(x, SQUARE.edge_index, return_attention_weights=True)
    conv.explain, conv._edge_mask, conv._apply_sigmoid = True, mask, apply_sigmoid
    factors = torch.cat([mask.sigmoid() if apply_sigmoid else mask, torch.ones(8).double()])
    expected = rebuild(conv, x, edges, alpha * factors.unsqueeze(1))
    torch.testing.assert_close(conv(x, SQUARE.edge_index), expected)


@every_score
def test_hooks_can_change_messages(score: str) -> None:
    conv = make(score, edge_dim=EDGE_DIM)
    x, edge_attr = features(SQUARE), torch.randn(SQUARE.num_edges, EDGE_DIM).double()
    out, (_, alpha) = conv(x, SQUARE.edge_index, edge_attr, return_attention_weights=True)
    seen = {}

    def double(module: nn.Module, inputs: tuple[dict[str, Any]], messages: Tensor) -> Tensor:
        seen["messages"], seen["alpha"] = messages, inputs[0]["alpha"]
        return 2 * messages

    handle = conv.register_message_forward_hook(double)
    changed = conv(x, SQUARE.edge_index, edge_attr)
    handle.remove()
    torch.testing.assert_close(changed, rebuild(conv, x, SQUARE.edge_index, 2 * alpha, edge_attr))
    assert seen["messages"].shape == (SQUARE.num_edges, HEADS, CHANNELS)
    torch.testing.assert_close(seen["alpha"], alpha)
    assert torch.equal(conv(x, SQUARE.edge_index, edge_attr), out)


@pytest.mark.parametrize("kind", ["message", "propagate", "aggregate"])
@pytest.mark.parametrize("when", ["forward_pre_hook", "forward_hook"])
@every_score
def test_every_hook_is_called(score: str, when: str, kind: str) -> None:
    conv = make(score)
    calls: list[int] = []
    getattr(conv, f"register_{kind}_{when}")(lambda *args: calls.append(1))
    conv(features(SQUARE), SQUARE.edge_index)
    assert calls == [1]


@pytest.mark.parametrize("with_edge_attr", [False, True])
@pytest.mark.parametrize("graph", [SQUARE, BIPARTITE], ids=["square", "bipartite"])
@pytest.mark.parametrize("kind", NORMALIZE_KINDS)
@every_score
def test_decomposition_changes_nothing(score: str, kind: str, graph: Graph, with_edge_attr: bool) -> None:
    options: dict[str, Any] = {"in_channels": width(graph), "out_channels": 4, "normalize": kind}
    options |= {"edge_dim": EDGE_DIM if with_edge_attr else None, "add_self_loops": True}
    whole, split = make(score, **options), make(score, decomposed_layers=2, **options)
    split.load_state_dict(whole.state_dict())
    x = features(graph)
    edge_attr = torch.randn(graph.num_edges, EDGE_DIM).double() if with_edge_attr else None
    assert_same_run(run(split, x, graph.edge_index, edge_attr), run(whole, x, graph.edge_index, edge_attr))


class _Doubled(AttentionConv):
    def message(self, v_j: Tensor, alpha: Tensor, e: Tensor | None) -> Tensor:
        return 2 * super().message(v_j, alpha, e)


class _Halved(AttentionConv):
    def update(self, inputs: Tensor) -> Tensor:
        return inputs / 2


class _Largest(AttentionConv):
    def aggregate(
        self, inputs: Tensor, index: Tensor, ptr: Tensor | None = None, dim_size: int | None = None
    ) -> Tensor:
        out = inputs.new_full((dim_size, *inputs.shape[1:]), -torch.inf)
        return out.scatter_reduce(0, index.view(-1, 1, 1).expand_as(inputs), inputs, "amax")


@every_score
def test_subclasses_are_honoured(score: str) -> None:
    conv = make(score, root_weight=False, bias=False)
    x = features(SQUARE)
    out, (_, alpha) = conv(x, SQUARE.edge_index, return_attention_weights=True)
    found = {}
    for cls in (_Doubled, _Halved, _Largest):
        other = cls(WIDTH, CHANNELS, HEADS, score=make(score).score.__class__(), root_weight=False, bias=False).double()
        other.load_state_dict(conv.state_dict())
        found[cls] = other(x, SQUARE.edge_index)
    torch.testing.assert_close(found[_Doubled], 2 * out)
    torch.testing.assert_close(found[_Halved], out / 2)
    _, _, values, _ = conv.score.project(x, x, None)
    into_4 = SQUARE.edge_index[1] == 4
    weighted = alpha[into_4].unsqueeze(-1) * values[SQUARE.edge_index[0][into_4]]
    torch.testing.assert_close(found[_Largest][4], weighted.amax(0).flatten())
