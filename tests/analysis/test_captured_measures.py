"""The measures read what is captured of a model, padded and not, and of a graph."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from torch import nn

from graphattn.analysis.capture import capture
from graphattn.analysis.flow import flow
from graphattn.analysis.head_similarity import head_similarity
from graphattn.analysis.rollout import rollout, rollout_rows
from graphattn.analysis.sinks import sinks
from graphattn.analysis.spectrum import spectrum
from graphattn.analysis.symmetric_init import symmetric_init_
from graphattn.analysis.symmetry import query_key_symmetry
from graphattn.nn import AttentionConv

EPS32 = np.finfo(np.float32).eps


@pytest.fixture
def encoder() -> nn.TransformerEncoder:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)


def test_padding_changes_no_measure(encoder: nn.TransformerEncoder) -> None:
    x = torch.randn(1, 5, 8)
    padded = torch.cat([x, torch.full((1, 2, 8), 3.0)], dim=1)
    padding = torch.arange(7)[None] >= 5
    short = capture(encoder, x)
    long = capture(encoder, {"src": padded, "src_key_padding_mask": padding})
    measures = []
    for captured in (short, long):
        maps = captured.maps()
        outputs = [layer.head_outputs[0][:, maps.positions] for layer in captured.layers]  # type: ignore[index]
        similarity = head_similarity(outputs, maps, quantile=0.5)
        measures.append(
            {
                "rollout": rollout(maps).relevance,
                "flow": flow(maps).flow,
                "strength": np.stack(sinks(maps).strength),
                "entropy": np.stack(sinks(maps).entropy),
                "values": np.stack(spectrum(maps).values),
                "pairs": similarity.n_pairs,
                "distance": similarity.mean_distance,
            }
        )
    for name, found in measures[0].items():
        assert_allclose(measures[1][name], found, rtol=0, atol=100 * EPS32, err_msg=name)
    assert_allclose(measures[0]["rollout"].sum(-1), 1.0, rtol=0, atol=100 * EPS32)


def test_captured_weights_show_a_symmetric_start(encoder: nn.TransformerEncoder) -> None:
    symmetric_init_(encoder.layers[1].self_attn)
    captured = capture(encoder, torch.randn(1, 3, 8))
    pairs = [(layer.query_weight, layer.key_weight) for layer in captured.layers]
    found = query_key_symmetry(pairs, heads=2, per_head=True)
    assert_allclose(found.symmetry[1], 1.0, rtol=0, atol=100 * EPS32)
    assert (found.symmetry[0] < 0.9).all()


def test_a_layer_over_a_graph() -> None:
    torch.manual_seed(0)
    conv = AttentionConv(4, 3, heads=2)
    edge_index = torch.tensor([[0, 1, 2, 3, 0], [1, 2, 3, 0, 2]])
    captured = capture(conv, (torch.randn(4, 4), edge_index))
    maps = captured.maps()
    assert maps.is_sparse(0)
    dense = type(maps).from_arrays([maps.dense(0)])
    assert_allclose(rollout(maps).relevance, rollout(dense).relevance, rtol=0, atol=100 * EPS32)
    assert_allclose(rollout_rows(maps, [2]).relevance[0], rollout(dense).relevance[0, [2]], rtol=0, atol=100 * EPS32)
    outputs = captured.layers[0].head_outputs
    assert outputs is not None
    assert head_similarity([outputs.transpose(0, 1)], maps).n_pairs.tolist() == [1, 1]
