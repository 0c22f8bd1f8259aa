"""Past events, their times and the attention over them against tgm, a library of temporal graphs."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch_geometric.data import TemporalData

from graphattn.nn import TemporalAttentionConv
from graphattn.nn.encodings.time import TGATEncoding
from graphattn.training import TemporalSampler

tgm = pytest.importorskip("tgm", reason="tgm-lib is not installed to compare with")
EPS = torch.finfo(torch.float64).eps


def test_recent_events_are_those_of_tgm() -> None:
    """Before each of 40 events: what its two nodes and a third one have had before, as their ring buffer keeps it."""
    from tgm.hooks import RecencyNeighborHook

    generator, nodes, count = torch.Generator().manual_seed(0), 6, 4
    src = torch.randint(nodes, (40,), generator=generator)
    dst = (src + torch.randint(1, nodes, (40,), generator=generator)) % nodes
    t, msg = torch.arange(40) * 3 + 1, torch.randn(40, 2, generator=generator)
    sampler = TemporalSampler(TemporalData(src=src, dst=dst, t=t, msg=msg), [count], num_nodes=nodes)
    theirs = RecencyNeighborHook(nodes, [count], ["asked"], ["at"])
    graph = SimpleNamespace(device=torch.device("cpu"), edge_x_dim=2)
    for event in range(40):
        row = slice(event, event + 1)
        asked = torch.stack([src[event], dst[event], (dst[event] + 1) % nodes]).unique()
        at = t[row].expand(len(asked))
        ends = {"edge_src": src[row].int(), "edge_dst": dst[row].int(), "asked": asked.int()}
        batch: Any = SimpleNamespace(**ends, edge_time=t[row], edge_x=msg[row], at=at)
        theirs(graph, batch)
        found = sampler.sample(asked, at)
        for node in range(len(asked)):
            slots = batch.nbr_nids[0][node] >= 0
            mine = found.edge_index[1] == node
            order = found.edge_time[mine].argsort(descending=True)  # theirs begin with the oldest
            others = found.n_id[found.edge_index[0][mine]][order]
            assert others.tolist() == batch.nbr_nids[0][node][slots].tolist()
            assert torch.equal(at[0] - found.edge_time[mine][order], batch.nbr_edge_time[0][node][slots])
            assert torch.equal(found.msg[mine][order], batch.nbr_edge_x[0][node][slots])


def test_times_are_encoded_as_by_tgm() -> None:
    from tgm.nn.modules import Time2Vec

    t = torch.tensor([0, 7, 1000])
    ours, theirs = TGATEncoding(9), Time2Vec(9)
    torch.testing.assert_close(ours.weight, theirs.w.weight.flatten(), rtol=torch.finfo(torch.float32).eps, atol=0)
    # Their phases are of float32.
    torch.testing.assert_close(ours(t), theirs(t), rtol=0, atol=8 * 1000 * torch.finfo(torch.float32).eps)


def test_attention_is_that_of_tgm() -> None:
    """Rows of 5, 2 and 1 of 5 slots. Theirs joins no events to the query, so that ours has none either."""
    from tgm.nn.modules import TemporalAttention

    nodes, times, heads, slots = 4, 6, 2, 5
    torch.manual_seed(0)
    theirs = TemporalAttention(heads, nodes, 1, times, dropout=0.0).double().eval()
    ours = TemporalAttentionConv(nodes, 3, TGATEncoding(times), heads=heads, dropout=0.0).double().eval()
    width = nodes + times
    w_kv = theirs.W_KV.weight.detach()
    w_kv = torch.cat([w_kv[:, :nodes], w_kv[:, nodes + 1 :]], dim=1)  # without the column of an event's feature
    ours.lin_query.load_state_dict(theirs.W_Q.state_dict())
    ours.lin_key.weight.data, ours.lin_value.weight.data = w_kv.split(width)
    ours.lin_out.load_state_dict(theirs.W_O.state_dict())
    ours.norm.load_state_dict(theirs.layer_norm.state_dict())
    there = torch.arange(slots) < torch.tensor([[5], [2], [1]])
    x, seen = torch.randn(3, nodes).double(), torch.randn(3, slots, nodes).double()
    elapsed = torch.randint(1, 60, (3, slots))
    expected = theirs(
        x,
        ours.time_encoding(torch.zeros(3).long()),
        torch.zeros(3, slots, 1).double(),
        seen,
        ours.time_encoding(elapsed),
        there,
    )
    row, slot = there.nonzero().T
    kept: list[Tensor] = []
    hook = ours.norm.register_forward_hook(lambda module, args, out: kept.append(out))
    ours((seen[row, slot], x), torch.stack([torch.arange(len(row)), row]), elapsed[row, slot])
    hook.remove()
    torch.testing.assert_close(kept[0], expected, rtol=0, atol=1024 * EPS * expected.abs().max().item())
