"""A small causal language model with known head roles: it continues what it has seen before, and can nothing else.

What is said about heads from their attention alone can be checked on it by taking the heads away.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

WEIGHTS = Path(__file__).parent / "probe_model.npz"


class ProbeModel(nn.Module):
    r"""Predict each next token with layers of causal attention and nothing else.

    .. math:: \mathbf{x}_l = \mathbf{x}_{l-1} + \operatorname{MHA}_l(\mathbf{u}_l + \mathbf{p},\ \mathbf{u}_l +
        \mathbf{p},\ \mathbf{u}_l), \quad \mathbf{u}_l = \operatorname{LayerNorm}(\mathbf{x}_{l-1})

    Positions :math:`\mathbf{p}` tell queries and keys where they are; values do not carry them, so that what a head
    moves is the content of tokens. :func:`~graphattn.analysis.capture` reads its attention.

    Args:
        vocab_size: Number of token ids.
        max_length: Longest sequence.
        dim: Width.
        num_layers: Number of layers.
        heads: Number of heads of each.

    Example:
        >>> model = ProbeModel(vocab_size=8, max_length=6, dim=4)
        >>> model(torch.zeros(2, 5, dtype=torch.long)).shape
        torch.Size([2, 5, 8])
    """

    def __init__(self, vocab_size: int, max_length: int, dim: int, num_layers: int = 2, heads: int = 2) -> None:
        super().__init__()
        self.heads = heads
        self.token = nn.Embedding(vocab_size, dim)
        self.position = nn.Embedding(max_length, dim)
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(num_layers))
        self.layers = nn.ModuleList(
            nn.MultiheadAttention(dim, heads, bias=False, batch_first=True) for _ in range(num_layers)
        )
        self.norm = nn.LayerNorm(dim)
        self.output = nn.Linear(dim, vocab_size, bias=False)

    def forward(self, ids: Tensor) -> Tensor:
        """Return the logits of each next token.

        Args:
            ids: Token ids.

        Shapes:
            - **input:** ``ids`` :math:`(B, T)`
            - **output:** :math:`(B, T, V)`

        Raises:
            ValueError: If there are more tokens than positions.
        """
        length, longest = ids.size(1), self.position.num_embeddings
        if length > longest:
            raise ValueError(f"ids has {length} tokens but the model has {longest} positions; pass a shorter sequence")
        x, places = self.token(ids), self.position.weight[:length]
        later = torch.ones(length, length, dtype=torch.bool, device=ids.device).triu(1)
        for norm, layer in zip(self.norms, self.layers, strict=True):
            values = norm(x)
            keys = values + places
            x = x + layer(keys, keys, values, attn_mask=later, need_weights=False)[0]
        return self.output(self.norm(x))

    def head_weights(self, layer: int, head: int) -> list[Tensor]:
        """Return the weights of a head, as views: its queries, keys and values, and its share of the output.

        Args:
            layer: Number of the layer.
            head: Number of the head in it.

        Example:
            >>> [tuple(weight.shape) for weight in ProbeModel(8, 6, dim=4).head_weights(0, 1)]
            [(2, 4), (2, 4), (2, 4), (4, 2)]
        """
        width = self.token.embedding_dim // self.heads
        own = slice(head * width, (head + 1) * width)
        attention: nn.MultiheadAttention = self.layers[layer]  # type: ignore[assignment]
        return [*(weight[own] for weight in attention.in_proj_weight.chunk(3)), attention.out_proj.weight[:, own]]

    @torch.no_grad()
    def without_heads(self, *heads: tuple[int, int]) -> ProbeModel:
        """Return a copy to which some heads contribute nothing: what they have read is multiplied by 0.

        Args:
            heads: Layer and number of each.

        Example:
            >>> whole, ids = load_probe_model(), torch.tensor([[0, 5, 3, 5]])
            >>> bool((whole.without_heads((0, 1))(ids) != whole(ids)).any())
            True
        """
        options = self.token.num_embeddings, self.position.num_embeddings, self.token.embedding_dim
        copy = ProbeModel(*options, len(self.layers), self.heads).to(self.token.weight).train(self.training)
        copy.load_state_dict(self.state_dict())
        for layer, head in heads:
            copy.head_weights(layer, head)[-1].zero_()
        return copy


def repetition_loss(model: nn.Module, ids: Tensor) -> Tensor:
    r"""Compute the loss on what has been seen before: the second copy of each sequence, from its second token on.

    .. math:: -\frac{1}{B (T_0 - 1)} \sum_b \sum_{i = T - T_0 + 1}^{T - 1} \log p(x_{b,i} \mid x_{b,<i})

    Nothing but the first copy tells what comes, so that a model that does not look there stays near the entropy of its
    vocabulary.

    Args:
        model: Module that returns the logits of each next token.
        ids: Sequences as :func:`~graphattn.analysis.roles.repeated_tokens` makes them, of one length; a first token
            that makes their length odd is in no copy.

    Shapes:
        - **input:** ``ids`` :math:`(B, T)`
        - **output:** scalar

    Raises:
        ValueError: If the copies have fewer than two tokens.

    Example:
        >>> from graphattn.analysis.roles import repeated_tokens
        >>> ids = repeated_tokens(12, 32, generator=torch.Generator().manual_seed(0))[None]
        >>> bool(repetition_loss(load_probe_model(), ids) < 0.1)
        True
    """
    known = ids.size(1) // 2 - 1
    if known < 1:
        raise ValueError(f"ids has {ids.size(1)} tokens; expected two copies of at least two")
    logits = model(ids)[:, -known - 1 : -1]
    return F.cross_entropy(logits.transpose(1, 2), ids[:, -known:])


def load_probe_model(path: str | Path = WEIGHTS) -> ProbeModel:
    """Load the packaged model, which has learnt to continue repeated sequences: two layers of two heads.

    Args:
        path: Another file that :func:`save_probe_model` has written.

    Returns:
        The model in evaluation mode.

    Example:
        >>> model = load_probe_model()
        >>> len(model.layers), model.heads, sum(parameter.numel() for parameter in model.parameters()) * 4 < 200 * 1024
        (2, 2, True)
    """
    with np.load(path, allow_pickle=False) as file:
        state = {name: torch.from_numpy(file[name]) for name in file.files if name != "heads"}
        heads = int(file["heads"])
    layers = sum(name.endswith("in_proj_weight") for name in state)
    vocab_size, dim = state["token.weight"].shape
    model = ProbeModel(vocab_size, state["position.weight"].shape[0], dim, layers, heads)
    model.load_state_dict(state)
    return model.eval()


def save_probe_model(model: ProbeModel, path: str | Path) -> None:
    """Write the weights to a ``.npz`` file, which holds arrays only.

    Args:
        model: The model.
        path: The file.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "model.npz"
        >>> save_probe_model(ProbeModel(8, 6, dim=4), file)
        >>> load_probe_model(file).position
        Embedding(6, 4)
    """
    state = {name: value.detach().cpu().numpy() for name, value in model.state_dict().items()}
    with Path(path).open("wb") as file:
        np.savez(file, heads=np.array(model.heads), **state)
