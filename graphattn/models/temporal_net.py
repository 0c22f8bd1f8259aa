"""TemporalNet: what nodes remember of all their events, and attention over the last ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch_geometric.data import Data
from torch_geometric.nn.models.tgn import IdentityMessage, LastAggregator, TGNMemory

from graphattn.models.event_network import EventNetwork
from graphattn.models.network import reset
from graphattn.models.temporal_stack import TemporalStack
from graphattn.models.tgat import NodeStart
from graphattn.nn.encodings.time import TimeEncoding
from graphattn.nn.global_attention.padding import readable


class MemoryNetwork(EventNetwork):
    """A network whose :class:`Memory` is all that it keeps of events."""

    memory: Memory

    def reset_state(self) -> None:
        """Forget all events."""
        self.memory.reset_state()

    def update_state(self, src: Tensor, dst: Tensor, t: Tensor, msg: Tensor | None = None) -> None:
        """Remember events; the arguments are those of :class:`EventNetwork`."""
        self.memory.remember(src, dst, t, msg)


class TemporalNet(MemoryNetwork):
    r"""Embed nodes at a time by a memory of all their events and attention over some of the last ones.

    .. math::
        \mathbf{s}_i \leftarrow \operatorname{GRU}([\mathbf{s}_i ; \mathbf{s}_j ; \mathbf{e}_{ij} ;
        \Phi(t_e - t_i^{-})], \mathbf{s}_i), \qquad
        \mathbf{h}_i^{(0)}(t) = \mathbf{s}_i + \mathbf{W} \mathbf{x}_i + \mathbf{b}

    where :math:`t_i^{-}` is the time of the event of node :math:`i` before, and of the events of a batch the last one
    of each node counts: the memory of TGN, PyG's ``TGNMemory``. The layers above are those of :class:`TGAT`. Without
    node features :math:`\mathbf{h}_i^{(0)} = \mathbf{s}_i`. The memory is a part of the ``state_dict``.

    Args:
        num_nodes: Number of nodes.
        in_channels: Columns of the node features; 0 without.
        hidden_channels: Width of the memory and of the layers.
        out_channels: Width of the output.
        num_layers: Number of layers.
        edge_dim: Columns of the features of events; 0 without.
        heads: Heads of the attention.
        time_encoding: Name of the time encoding, which memory and layers share, as in :class:`TGAT`.
        time_channels: Its width; ``hidden_channels`` by default, rounded up to one that it can have.
        mode: ``"product"`` or ``"map"``: how neighbours are scored.
        dropout: Probability of dropping an attention weight or an activation in training.

    Shapes:
        - **input:** a sample of :class:`~graphattn.training.TemporalSampler`, with a hop for each layer
        - **output:** a row for each distinct pair that was asked for

    Raises:
        ValueError: If an option is unknown or out of range.

    Example:
        >>> from torch_geometric.data import TemporalData
        >>> from graphattn.training import TemporalSampler
        >>> met = torch.tensor([10, 20, 30])
        >>> events = TemporalData(src=torch.tensor([0, 1, 0]), dst=torch.tensor([1, 2, 2]), t=met)
        >>> net = TemporalNet(3, 0, 8, 4).eval()
        >>> net.update_state(events.src, events.dst, events.t)
        >>> past = TemporalSampler(events, [10]).sample(torch.tensor([0, 2]), torch.tensor([35, 35]))
        >>> net(past).shape
        torch.Size([2, 4])

    Reference:
        Rossi et al., "Temporal Graph Networks for Deep Learning on Dynamic Graphs", 2020.
    """

    def __init__(
        self,
        num_nodes: int,
        in_channels: int,
        hidden_channels: int,
        out_channels: int,
        num_layers: int = 1,
        *,
        edge_dim: int = 0,
        heads: int = 2,
        time_encoding: str = "tgat",
        time_channels: int | None = None,
        mode: str = "product",
        dropout: float = 0.1,
    ) -> None:
        super().__init__(locals())
        if num_nodes < 1:
            raise ValueError(f"num_nodes is {num_nodes}; expected at least 1")
        self.num_layers = num_layers
        self.stack = TemporalStack(
            hidden_channels,
            hidden_channels,
            out_channels,
            num_layers,
            edge_dim=edge_dim,
            heads=heads,
            time_encoding=time_encoding,
            time_channels=time_channels,
            mode=mode,
            dropout=dropout,
        )
        self.start = NodeStart(in_channels, hidden_channels) if in_channels else None
        self.memory = Memory(num_nodes, edge_dim, hidden_channels, self.stack.time_encoding)

    def reset_parameters(self) -> None:
        """Draw all parameters anew and forget all events."""
        reset(self.start, self.stack, self.memory)

    def forward(self, past: Data) -> Tensor:
        """Return the embeddings of the distinct pairs that a sample was asked for.

        Args:
            past: The sample; node features, if there are any, are its ``x``, a row for each of its rows.

        Raises:
            ValueError: If node features, features of events or hops are not as many as the network has, or a node is
                not one of those of the memory.
        """
        h = self.memory.of(past.n_id)[0]
        if self.start is not None:
            h = h + self.start(past)
        out: Tensor = self.stack(h, past)
        return out


class Memory(TGNMemory):
    """PyG's memory with times of float64, node ids that may repeat, and no gradients beyond a batch.

    Args:
        num_nodes: Number of nodes.
        edge_dim: Width of the features of events; 0 if there are none.
        channels: Width of the memory.
        time_encoding: Encodes the time between two events of a node; ``None`` for PyG's own encoder, as wide.

    Example:
        >>> memory = Memory(3, 0, 4).eval()
        >>> memory.remember(torch.tensor([0]), torch.tensor([2]), torch.tensor([7]))
        >>> memory.last_update
        tensor([7., 0., 7.], dtype=torch.float64)
    """

    last_update: Tensor

    def __init__(self, num_nodes: int, edge_dim: int, channels: int, time_encoding: TimeEncoding | None = None) -> None:
        width = max(edge_dim, 1)  # PyG's memory needs a message: a 0, where events have no features
        time_dim = channels if time_encoding is None else time_encoding.channels
        message: Any = IdentityMessage(width, channels, time_dim)
        super().__init__(num_nodes, width, channels, time_dim, message, LastAggregator())
        self.edge_dim = edge_dim
        if time_encoding is not None:
            self.time_enc = _Elapsed(time_encoding)
        self.last_update = self.last_update.double()
        self.register_load_state_dict_post_hook(_drop_messages)

    @property
    def device(self) -> torch.device:
        """Where the memory is."""
        return self.memory.device

    def of(self, n_id: Tensor) -> tuple[Tensor, Tensor]:
        """Return the memory of nodes, and when each was updated last; a node may come more than once."""
        if n_id.numel() and readable(n_id) and int(n_id.max()) >= self.num_nodes:
            raise ValueError(f"n_id has node {int(n_id.max())}, but num_nodes is {self.num_nodes}")
        if not self.training:
            memory, last_update = self(n_id)  # is only looked up, which nothing has to wait for
            return memory, last_update
        distinct, place = n_id.unique(return_inverse=True)
        memory, last_update = self(distinct)
        return memory[place], last_update[place]

    @torch.no_grad()
    def remember(self, src: Tensor, dst: Tensor, t: Tensor, msg: Tensor | None = None) -> None:
        """Update the memory by what has happened; gradients of later batches end here."""
        found = 0 if msg is None else msg.size(1)
        if found != self.edge_dim:
            raise ValueError(f"msg has {found} columns, but edge_dim is {self.edge_dim}; pass the features of events")
        filled = self.memory.new_zeros(len(src), 1) if msg is None or not found else msg.to(self.memory.dtype)
        self.update_state(src, dst, t.double(), filled)

    @torch.no_grad()
    def train(self, mode: bool = True) -> Memory:
        """Switch between training and evaluation, which works off the messages that are left, if there are any."""
        if mode and not self.training:
            self._reset_message_store()  # in evaluation they are worked off at once
        if any(len(t) for store in (self.msg_s_store, self.msg_d_store) for _, _, t, _ in store.values()):
            super().train(mode)
        else:
            nn.Module.train(self, mode)
        return self

    def _reset_message_store(self) -> None:
        super()._reset_message_store()
        t = torch.empty(0, dtype=torch.float64, device=self.device)
        for store in (self.msg_s_store, self.msg_d_store):
            store.update({node: (src, dst, t, msg) for node, (src, dst, _, msg) in store.items()})

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Memory:
        last_update = self.last_update
        super()._apply(fn, recurse)
        self.last_update = last_update.to(self.device)  # seconds of an epoch do not fit in fewer bits
        for store in (self.msg_s_store, self.msg_d_store):
            for node, (*event, msg) in store.items():
                store[node] = (*(part.to(self.device) for part in event), msg.to(self.device, self.memory.dtype))
        return self


class _Elapsed(nn.Module):
    """A time encoding as PyG's memory calls its own: on differences of float32."""

    def __init__(self, time_encoding: TimeEncoding) -> None:
        super().__init__()
        self.time_encoding = time_encoding

    def reset_parameters(self) -> None:
        """Leave the encoding to the layers that share it."""

    def forward(self, t: Tensor) -> Tensor:
        return self.time_encoding(t.double()).to(t.dtype)


def _drop_messages(memory: TGNMemory, _: Any) -> None:
    """Forget messages that are not in the state that was loaded."""
    memory._reset_message_store()
