"""Places of nodes in a padded batch."""

from __future__ import annotations

import pytest
import torch

from graphattn.nn.global_attention import SoftmaxAttention
from graphattn.nn.global_attention.padding import places_of
from tests.nn.global_attention.cases import CHANNELS, SIZES, shuffled_batch


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32])
def test_nodes_keep_their_order(dtype: torch.dtype) -> None:
    batch = shuffled_batch().to(dtype)
    x = torch.arange(1.0, len(batch) + 1)
    places = places_of(x, batch=batch)
    block = places.pad(x)
    for graph, size in enumerate(SIZES):
        assert block[graph, :size].tolist() == x[batch == graph].tolist()
        assert (block[graph, size:] == 0).all()
        assert places.mask[graph].tolist() == [i < size for i in range(max(SIZES))]
    assert torch.equal(places.unpad(block), x)
    graph, place = places.graph_and_place(torch.tensor([3, 0, 3]))
    assert torch.equal(block[graph, place], x[[3, 0, 3]])


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32])
def test_pointers_say_the_same(dtype: torch.dtype) -> None:
    batch = shuffled_batch().sort().values
    x = torch.rand(len(batch), 2, 3)
    ptr = torch.tensor((0, *SIZES)).cumsum(0).to(dtype)
    found, expected = places_of(x, ptr=ptr, max_nodes=9), places_of(x, batch=batch, max_nodes=9)
    assert torch.equal(found.pad(x), expected.pad(x))
    assert torch.equal(found.mask, expected.mask)
    assert found.pad(x).shape == (len(SIZES), 9, 2, 3)


def test_one_graph_is_not_copied() -> None:
    x = torch.rand(4, 2)
    places = places_of(x)
    assert places.mask is None
    assert places.pad(x).data_ptr() == x.data_ptr()
    assert torch.equal(places.unpad(places.pad(x)), x)
    assert [index.tolist() for index in places.graph_and_place(torch.tensor([2, 1]))] == [[0, 0], [2, 1]]


def test_graphs_of_one_size_need_no_mask() -> None:
    batch = torch.tensor([1, 0, 0, 1])
    assert places_of(batch, batch=batch).mask is None
    assert places_of(batch, batch=batch, num_graphs=3).mask is not None
    assert places_of(batch, batch=batch, max_nodes=2).mask is not None  # it is not known to hold


def test_bounds_that_are_not_checked_do_not_leak() -> None:
    """Compiled code reads no values; a node beyond the bound is refused, not given to the next graph."""
    torch._dynamo.reset()
    module = torch.compile(SoftmaxAttention(CHANNELS), fullgraph=True, dynamic=True, backend="aot_eager")
    x, batch = torch.rand(5, CHANNELS), torch.tensor([0, 0, 0, 1, 1])
    assert module(x, batch, num_graphs=2, max_nodes=3).isfinite().all()
    with pytest.raises((IndexError, RuntimeError), match="out of"):
        module(x, batch, num_graphs=2, max_nodes=2)


@pytest.mark.parametrize(("batch", "context_batch"), [([0, 1, 3], [1, 0]), ([1, 0, 1], [3, 1])])
def test_graphs_of_targets_or_sources_alone(batch: list[int], context_batch: list[int]) -> None:
    """The number of graphs is that of the side which knows more."""
    attend, x, context = SoftmaxAttention(CHANNELS), torch.rand(3, CHANNELS), torch.rand(2, CHANNELS)
    graphs = {"batch": torch.tensor(batch), "context_batch": torch.tensor(context_batch)}
    found = attend(x, context=context, **graphs)
    assert torch.equal(found, attend(x, context=context, num_graphs=4, **graphs))


def test_bad_arguments_of_other_sources() -> None:
    attend, x, batch = SoftmaxAttention(CHANNELS), torch.rand(3, CHANNELS), torch.tensor([0, 1, 0])
    for message, inputs in {
        "context_batch has shape \\(2,\\)": {"context_batch": batch[:2]},
        "context_batch has values from 0 to 1; expected 0 to 0": {"context_batch": batch, "num_graphs": 1},
        "context_ptr does not rise from 0 to 3": {"context_ptr": torch.tensor([0, 1, 2])},
        "context_max_nodes is 1, but a graph has 2": {"context_batch": batch, "context_max_nodes": 1},
        "context_batch and context_ptr are both": {"context_batch": batch, "context_ptr": torch.tensor([0, 1, 3])},
    }.items():
        with pytest.raises(ValueError, match=message):
            attend(x, batch if "num_graphs" not in inputs else torch.zeros(3, dtype=torch.long), context=x, **inputs)
    with pytest.raises(ValueError, match="ptr has shape"):
        attend(x, ptr=torch.zeros(0, dtype=torch.long))
    with pytest.raises(TypeError, match="ptr has dtype torch\\.bool"):
        attend(x, ptr=torch.tensor([False, True]))
