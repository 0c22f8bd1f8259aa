"""Features that are categories: one embedding for each column."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from graphattn.models import AttentionNet, CategoryEmbedding, GPSNet, GraphTransformer, InfDiffusionNet, InputEncoder
from tests.models.cases import assert_equal, fill

VOCABULARY, BONDS = [4, 3, 5], [2, 6]
EDGES = torch.tensor([[0, 1, 2, 3, 3], [1, 0, 3, 2, 0]])


def test_embedding_equals_one_hot_columns() -> None:
    embed = fill(CategoryEmbedding(VOCABULARY, 6))
    x = torch.tensor([[0, 2, 4], [3, 0, 1], [1, 1, 0]])
    one_hot = torch.cat(
        [torch.nn.functional.one_hot(x[:, f], size).double() for f, size in enumerate(VOCABULARY)], dim=1
    )
    assert_equal(embed(x), one_hot @ torch.cat([table.weight for table in embed.tables]))


@pytest.mark.parametrize(
    "make",
    [
        lambda **options: AttentionNet(3, 6, 2, **options),
        lambda **options: GraphTransformer(3, 6, 2, **options),
        lambda **options: InfDiffusionNet(3, 6, 2, affinity="learned", **options),
        lambda **options: GPSNet(3, 6, 2, **options),
    ],
    ids=["attention", "transformer", "diffusion", "gps"],
)
def test_molecules(make: Any) -> None:
    """Every table, of atoms and of bonds, changes the output and receives a gradient where it was read."""
    net = fill(make(encoder="embedding", vocabulary=VOCABULARY, edge_dim=2, edge_vocabulary=BONDS))
    atoms = torch.stack([torch.randint(size, (4,)) for size in VOCABULARY], dim=1)
    bonds = torch.stack([torch.randint(size, (5,)) for size in BONDS], dim=1)
    out = net(atoms, EDGES, bonds)
    out.square().sum().backward()
    tables = [*zip(net.encoder.embed.tables, atoms.T, strict=True), *zip(net.edge_encoder.tables, bonds.T, strict=True)]
    for table, column in tables:
        read = torch.zeros(table.num_embeddings, dtype=torch.bool).index_fill(0, column, True)
        assert torch.equal((table.weight.grad != 0).any(dim=1), read)
    for changed in ((atoms.roll(1, 0), bonds), (atoms, (bonds + 1) % torch.tensor(BONDS))):
        assert not torch.allclose(net(changed[0], EDGES, changed[1]), out)


def test_bad_categories() -> None:
    embed = CategoryEmbedding(VOCABULARY, 6)
    with pytest.raises(ValueError, match=r"categories have shape \(2, 2\); expected 3 columns"):
        embed(torch.zeros(2, 2, dtype=torch.long))
    with pytest.raises(TypeError, match=r"categories have dtype torch.float32; expected integers"):
        embed(torch.zeros(2, 3))
    for category in (3, -1):
        x = torch.tensor([[0, 0, 0], [0, category, 0]])
        with pytest.raises(
            ValueError, match=f"category {category} in row 1, column 1 is not below the vocabulary of 3"
        ):
            embed(x)
    with pytest.raises(ValueError, match=r"vocabulary is \[\]; expected a number of categories"):
        CategoryEmbedding([], 6)


def test_bad_features() -> None:
    encode = InputEncoder("linear", 3, 6)
    with pytest.raises(ValueError, match=r"x has shape \(2, 4\); expected \[nodes, 3\]"):
        encode(torch.ones(2, 4))
    with pytest.raises(TypeError, match=r"x has dtype torch.int64; expected numbers, pass encoder='embedding'"):
        encode(torch.ones(2, 3, dtype=torch.long))
    with pytest.raises(TypeError, match=r"x has layout torch.sparse_coo; expected dense or CSR"):
        encode(torch.ones(2, 3).to_sparse())
