"""The roofline's bytes: the kernels' against a count by hand, PyG's against what a small graph allocates."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest
import torch


@pytest.fixture
def roofline(scripts: Path) -> ModuleType:
    import roofline

    return roofline


def test_bytes_of_the_kernels_by_hand(roofline: ModuleType) -> None:
    """2 heads of 16 channels in float32: a row is 128 bytes, a number a head 8 bytes."""
    costs = roofline.kernel_costs(roofline.Problem(10, 100, 2, 16))
    forward = costs["forward"]
    assert forward.gather == 128 + 128  # key, value
    assert forward.edge == 4  # column
    assert forward.node == 4 + 128 + 128 + 8 + 8  # pointer, query, output, maximum, sum
    assert forward.most(roofline.Problem(10, 100, 2, 16)) == 10 * 276 + 100 * (4 + 256)
    assert forward.least(roofline.Problem(10, 100, 2, 16)) == 10 * 276 + 100 * 4 + 10 * 256
    rows = costs["backward_rows"]
    assert rows.gather == 128 + 128  # key, value
    # Pointer, query, gradient, output, maximum, sum, delta; gradient of the query.
    assert rows.node == 4 + 128 + 128 + 128 + 8 + 8 + 8 + 128
    columns = costs["backward_columns"]
    assert columns.gather == 128 + 128 + 8 + 8 + 8  # query, gradient, maximum, sum, delta
    assert columns.edge == 4 + 8  # row, slot
    assert columns.node == 4 + 2 * (128 + 128)  # pointer; key and value, and the gradients of both
    assert list(costs) == ["forward", "backward_rows", "backward_columns"]


def test_bytes_of_edge_features_by_hand(roofline: ModuleType) -> None:
    """2 heads of 16 channels in bfloat16 are 64 bytes; 5 features an edge are 8: 16 bytes, or 64 for heads' float32."""
    problem = roofline.Problem(10, 100, 2, 16, "dot", 2, 5)
    plain, costs = roofline.kernel_costs(roofline.Problem(10, 100, 2, 16, "dot", 2)), roofline.kernel_costs(problem)
    # Pointer, query, what scores the features, output and features' sum in float32, maximum, sum; output narrowed.
    assert costs["forward"].node == 4 + 64 + 64 + 128 + 64 + 8 + 8 + (128 + 64)
    assert {n: costs[n].edge - plain[n].edge for n in plain} == dict.fromkeys(plain, 16)
    assert costs["backward_columns"].gather == plain["backward_columns"].gather + 64 + 64
    edges = costs["backward_edges"]
    assert edges.edge == 4 + 16 + 16  # column, features, their gradient
    assert edges.gather == 64 + 64  # key, value
    # Pointer; query and gradient, for the features too; maximum, sum, delta.
    assert edges.node == 4 + 64 + 64 + 64 + 64 + 8 + 8 + 8


def test_bytes_of_edge_features_inside_a_score_by_hand(roofline: ModuleType) -> None:
    """They lie as they are: 5 in bfloat16 are 10 bytes, and none is attended."""
    plain, costs = (roofline.kernel_costs(roofline.Problem(10, 100, 2, 16, "gatv2", 2, dim)) for dim in (0, 5))
    assert {n: costs[n].edge - plain[n].edge for n in plain} == dict.fromkeys(plain, 10)
    assert {n: costs[n].flops - plain[n].flops for n in plain} == dict.fromkeys(plain, 2 * 32 * 5)
    assert all((costs[n].node, costs[n].gather) == (plain[n].node, plain[n].gather) for n in plain)
    pairs = costs["backward_pairs"]
    assert pairs.edge == 4 + 8 + 10 + 10  # column, row, features, their gradient
    assert pairs.gather == 64 + 64  # key, value
    assert pairs.node == 64 + 64 + 8 + 8 + 8  # query, gradient; maximum, sum, delta


def test_operations_of_the_kernels_by_hand(roofline: ModuleType) -> None:
    """A multiply-add is two operations: 32 of them score, 32 add the value."""
    assert roofline.kernel_costs(roofline.Problem(10, 100, 2, 16))["forward"].flops == 64 + 64 + 2 * 5
    assert roofline.kernel_costs(roofline.Problem(10, 100, 2, 16, "gatv2"))["forward"].flops == 160 + 64 + 2 * 5


def test_narrow_heads_are_padded(roofline: ModuleType) -> None:
    gat = roofline.kernel_costs(roofline.Problem(10, 100, 2, 5, "gat", 2))["forward"]
    assert gat.gather == 2 * 8 * 2 + 2 * 8 * 2  # 8 channels instead of 1, and instead of 5


def test_few_edges_gather_less_than_all_rows(roofline: ModuleType) -> None:
    problem = roofline.Problem(1000, 3, 2, 16)
    cost = roofline.kernel_costs(problem)["forward"]
    assert cost.least(problem) == cost.most(problem)


def test_what_gather_and_scatter_allocates_by_hand(roofline: ModuleType) -> None:
    """Tensors of E x H x C, E x H, N x H x C and N x H elements that the operations of the dot form make."""
    nodes, edges, heads, channels = 7, 23, 3, 5
    forward, backward = roofline.pyg_traffic(roofline.Problem(nodes, edges, heads, channels), "cpu")
    wide, scores, rows, sums = edges * heads * channels, edges * heads, nodes * heads * channels, nodes * heads
    # Queries, keys, products, values, messages; sum, scale, two gathers, difference, exponential, quotient; output;
    # maximum, total and total + 1e-16.
    assert forward.allocated == 4 * (5 * wide + 7 * scores + rows + 3 * sums)
    # Gradients of messages, values, weights by channel, keys, queries; ten steps of softmax; three sums, each made of
    # zeros; one sum for the softmax, likewise.
    assert backward.allocated == 4 * (5 * wide + 10 * scores + 6 * rows + 2 * sums)


@pytest.mark.parametrize("score", ["dot", "gat", "gatv2"])
def test_tensors_without_data_count_as_real_ones(roofline: ModuleType, score: str) -> None:
    problem = roofline.Problem(7, 23, 3, 5, score)
    for real, without_data in zip(
        roofline.pyg_traffic(problem, "cpu"), roofline.pyg_traffic(problem, "meta"), strict=True
    ):
        assert (real.read, real.written, real.allocated) == (
            without_data.read,
            without_data.written,
            without_data.allocated,
        )


def test_the_counter_on_single_operations(roofline: ModuleType) -> None:
    x, index = torch.ones(4, 3), torch.tensor([0, 2, 2, 1, 0])
    for run, read, written in [
        (lambda: x * 2, 48, 48),
        (lambda: x.view(12), 0, 0),
        (lambda: x.index_select(0, index), 40 + 60, 60),
        (lambda: x + torch.ones(3).expand(4, 3), 48 + 12, 48 + 12),
    ]:
        with roofline.Traffic() as traffic:
            run()
        assert (traffic.read, traffic.written) == (read, written)


def test_times_come_from_the_slower_of_bytes_and_operations(roofline: ModuleType) -> None:
    assert roofline.seconds(2.039e12, 0, "A100") == pytest.approx(1)
    assert roofline.seconds(1, 67e12, "H100") == pytest.approx(1)


def test_every_time_is_called_a_prediction(roofline: ModuleType) -> None:
    problem = roofline.Problem(50, 400, 2, 8)
    text = roofline.report({"predictions": {"tiny": roofline.predict(problem)}})
    assert "predicted, not measured" in text
    assert all("predicted" in line for line in text.splitlines() if "ms" in line and line.startswith("| case"))
