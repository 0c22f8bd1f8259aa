"""The network that fills in tables: rows have no order, what is hidden is not read, and columns may trade places."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from torch import Tensor

from graphattn.affinity import SparseAffinity, complete
from graphattn.models.non_parametric_transformer import NonParametricTransformer

CATEGORIES = [0, 3, 0, 2]
N, D, E = 6, 4, 8
EPS = torch.finfo(torch.float64).eps
CASES = list(product(["full", "shared"], [None, "npt", "saint"]))


def network(
    abd: str = "full", compat: str | None = None, categories: list[int] = CATEGORIES
) -> NonParametricTransformer:
    torch.manual_seed(0)
    return NonParametricTransformer(categories, E, 4, 2, abd=abd, compat=compat).double().eval()


def table(n: int = N, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, D, dtype=torch.float64, generator=generator)
    x[:, 1] = torch.randint(3, (n,), generator=generator)
    x[:, 3] = torch.randint(2, (n,), generator=generator)
    return x, torch.rand(n, D, generator=generator) < 0.25


def close(found: list[Tensor], expected: list[Tensor], factor: float = 1e4) -> None:
    """Equal but for rounding, which four layers of sums and normalizations amplify."""
    for a, b in zip(found, expected, strict=True):
        assert a.shape == b.shape
        assert (a - b).abs().max() <= factor * EPS * b.abs().max()


def differs(found: list[Tensor], expected: list[Tensor]) -> bool:
    return any((a - b).abs().max() > 1e-3 * b.abs().max() for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize(("abd", "compat"), CASES)
def test_permuted_rows_give_permuted_outputs(abd: str, compat: str | None) -> None:
    model, (x, hidden) = network(abd, compat), table()
    order = torch.tensor([1, 2, 0, 5, 3, 4])
    close(model(x[order], hidden[order]), [output[order] for output in model(x, hidden)])
    edges = torch.tensor([[0, 3, 5, 1, 1], [0, 0, 2, 4, 5]])
    back = order.argsort()
    rows, moved = SparseAffinity(edges, None, (N, N)), SparseAffinity(back[edges], None, (N, N))
    close(model(x[order], hidden[order], moved), [output[order] for output in model(x, hidden, rows)])


@pytest.mark.parametrize("abd", ["full", "shared"])
def test_what_is_hidden_is_not_read(abd: str) -> None:
    model, (x, hidden) = network(abd), table()
    expected = model(x, hidden)
    for other in (torch.nan, -7.0, 1e9):
        found = model(torch.where(hidden, other, x), hidden)
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    i, j = (~hidden).nonzero()[0].tolist()
    y = x.clone()
    y[i, j] = (y[i, j] + 1) % 3
    assert differs(model(y, hidden), expected)  # and what is not hidden is


@pytest.mark.parametrize("abd", ["full", "shared"])
def test_rows_behind_the_context_are_on_their_own(abd: str) -> None:
    model, (x, hidden) = network(abd), table()
    expected = model(x, hidden, num_context=4)
    changed = x.clone()
    changed[5, 0] += 3.0
    found = model(changed, hidden, num_context=4)
    close([output[:5] for output in found], [output[:5] for output in expected])
    alone = model(x[[0, 1, 2, 3, 5]], hidden[[0, 1, 2, 3, 5]], num_context=4)
    close([output[4:] for output in alone], [output[5:] for output in expected])
    close(model(x[:4], hidden[:4]), [output[:4] for output in expected])
    close(model(x, hidden, num_context=4, chunk=2), expected)
    changed = torch.where(hidden, x, 0.0)
    changed[0, 2] = 3.0
    hidden[0, 2] = False
    assert differs([o[4:] for o in model(changed, hidden, num_context=4)], [o[4:] for o in expected])


def test_other_rows_in_another_order_change_nothing() -> None:
    model, (x, hidden) = network(), table()
    order = torch.tensor([0, 3, 1, 5, 2, 4])
    close([o[:1] for o in model(x[order], hidden[order])], [o[:1] for o in model(x, hidden)])


def test_equal_rows_get_equal_outputs() -> None:
    model, (x, hidden) = network(), table()
    x[4], hidden[4] = x[1], hidden[1]
    found = model(x, hidden)
    close([o[4] for o in found], [o[1] for o in found])


def moved_columns(model: NonParametricTransformer, order: list[int], abd: str) -> NonParametricTransformer:
    """The network whose column ``c`` is column ``order[c]`` of another, with all that belongs to it."""
    found = network(abd, categories=[CATEGORIES[j] for j in order])
    state = {name: value.clone() for name, value in model.state_dict().items()}
    first = model.offset.tolist()
    sizes = [max(1, number) for number in CATEGORIES]
    state["value"] = torch.cat([model.value[first[j] : first[j] + sizes[j]] for j in order])
    state["flag"], state["index.weight"] = model.flag[order], model.index.weight[order]
    for column, j in enumerate(order):
        for part in ("weight", "bias"):
            state[f"heads.{column}.{part}"] = getattr(model.heads[j], part).clone()
    if abd == "full":
        # A vector of width d e has the cells of a row side by side: its weights move with them.
        wide = torch.arange(D * E).view(D, E)[order].flatten()
        for name in ("layers.0", "layers.2"):
            for norm in ("norm1", "norm2"):
                for part in ("weight", "bias"):
                    state[f"{name}.{norm}.{part}"] = state[f"{name}.{norm}.{part}"][wide]
            for lin in ("lin_q", "lin_kv", "lin_res", "mlp.lin1"):
                state[f"{name}.{lin}.weight"] = state[f"{name}.{lin}.weight"][:, wide]
            for lin in ("lin_out", "lin_res", "mlp.lin2"):
                state[f"{name}.{lin}.weight"] = state[f"{name}.{lin}.weight"][wide]
                state[f"{name}.{lin}.bias"] = state[f"{name}.{lin}.bias"][wide]
    found.load_state_dict(state)
    return found


@pytest.mark.parametrize("abd", ["full", "shared"])
def test_columns_move_with_their_parameters(abd: str) -> None:
    model, (x, hidden) = network(abd), table()
    order = [2, 0, 3, 1]
    found = moved_columns(model, order, abd)(x[:, order], hidden[:, order])
    expected = model(x, hidden)
    close(found, [expected[j] for j in order])


def test_cells_are_encoded_as_written() -> None:
    model, (x, hidden) = network(), table()
    x[0, 1], hidden[0, 1] = -1.0, False  # a category that is not known: zeros, and no flag
    found = model._embed(x, hidden)
    kinds = [0, 1, 0, 1]
    for i, j in product(range(N), range(D)):
        size = max(1, CATEGORIES[j])
        encoding = torch.zeros(size, dtype=torch.float64)
        if not hidden[i, j] and CATEGORIES[j] and x[i, j] >= 0:
            encoding[int(x[i, j])] = 1.0
        elif not hidden[i, j] and not CATEGORIES[j]:
            encoding[0] = x[i, j]
        first = int(model.offset[j])
        weights = torch.cat([model.value[first : first + size], model.flag[j : j + 1]])
        row = torch.cat([encoding, hidden[i, j].double().view(1)]) @ weights
        expected = row + model.index.weight[j] + model.kind.weight[kinds[j]]
        assert (found[i, j] - expected).abs().max() <= 8 * EPS * expected.abs().max()


@pytest.mark.parametrize("categories", [[0, 0], [2, 3]])
def test_types_are_left_out_where_all_columns_are_of_one(categories: list[int]) -> None:
    assert network(categories=categories).kind is None
    assert network().kind is not None


def test_saint_attends_between_attributes_first() -> None:
    assert [layer.between for layer in network(compat="saint").layers] == ["attributes", "datapoints"] * 2
    assert [layer.between for layer in network(compat="npt").layers] == ["datapoints", "attributes"] * 2


@pytest.mark.parametrize("depth", [2, 6])
def test_saint_is_its_layers_written_out(depth: int) -> None:
    """Columns and then rows, in turn: LN, then attention or a gated perceptron, added to what LN has made."""
    torch.manual_seed(0)
    model = NonParametricTransformer(CATEGORIES, E, depth, 2, compat="saint").double().eval()
    x, hidden = table()
    z = model._embed(x, hidden)
    for number, layer in enumerate(model.layers):
        over_rows = number % 2 == 1
        z = z.flatten(1).unsqueeze(0) if over_rows else z
        u, head = layer.norm1(z), 64 if over_rows else 16
        q, k, v = (
            part.unflatten(-1, (2, head)).transpose(1, 2)
            for part in torch.cat([layer.lin_q(u), layer.lin_kv(u)], dim=-1).chunk(3, dim=-1)
        )
        weights = (torch.einsum("bhid,bhjd->bhij", q, k) * head**-0.5).softmax(-1)
        gathered = torch.einsum("bhij,bhjd->bhid", weights, v).transpose(1, 2).flatten(2)
        u = layer.norm2(layer.lin_out(gathered) + u)
        value, gate = layer.mlp.lin1(u).chunk(2, dim=-1)
        z = layer.mlp.lin2(value * torch.nn.functional.gelu(gate)) + u
        z = z[0].unflatten(1, (D, E)) if over_rows else z
    close([model.encode(x, hidden)], [z])


def test_the_base_network_is_the_published_one() -> None:
    model = NonParametricTransformer([0, 0])
    assert (len(model.layers), model.channels, model.dropout) == (8, 64, 0.1)
    assert [layer.between for layer in model.layers] == ["datapoints", "attributes"] * 4
    assert {(layer.heads, layer.attention_dropout) for layer in model.layers} == {(8, 0.1)}
    assert model.layers[0].flat


def test_decode_gives_single_columns() -> None:
    model, (x, hidden) = network(), table()
    h = model.encode(x, hidden, complete(N))
    assert h.shape == (N, D, E)
    expected = model(x, hidden, complete(N))
    assert [output.shape for output in expected] == [(N, 1), (N, 3), (N, 1), (N, 2)]
    assert all(torch.equal(model.decode(h, j), output) for j, output in enumerate(expected))


def test_state_dict_and_reset() -> None:
    model, (x, hidden) = network(), table()
    other = network()
    other.reset_parameters()
    assert differs(other(x, hidden), model(x, hidden))
    other.load_state_dict(model.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(other(x, hidden), model(x, hidden), strict=True))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"categories": []}, r"categories is \[\]; expected for each column"),
        ({"categories": [0, -1]}, r"categories is \[0, -1\]"),
        ({"depth": 3}, "depth is 3; expected an even number of layers"),
        ({"depth": 0}, "depth is 0; expected an even number of layers"),
        ({"compat": "xu"}, "compat is 'xu'; expected one of None, 'npt', 'saint'"),
        ({"abd": "half"}, "width is 'half'; expected one of 'full', 'shared'"),
    ],
)
def test_option_errors(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NonParametricTransformer(**{"categories": CATEGORIES, "channels": E, "depth": 2, "heads": 2, **options})


def test_input_errors() -> None:
    model, (x, hidden) = network(), table()
    with pytest.raises(ValueError, match=r"x has shape \(6, 3\) and hidden \(6, 4\); expected \[n, 4\]"):
        model(x[:, :3], hidden)
    with pytest.raises(TypeError, match=r"hidden has dtype torch\.float64; expected torch\.bool"):
        model(x, hidden.double())
    with pytest.raises(ValueError, match="rows is 5 x 5; expected an affinity of 6 x 6"):
        model(x, hidden, complete(5))
    with pytest.raises(ValueError, match="rows and num_context are both given"):
        model(x, hidden, complete(6), num_context=2)
    with pytest.raises(ValueError, match="num_context is 7; expected a number of rows from 0 to 6"):
        model(x, hidden, num_context=7)
    x[2, 3], hidden[2, 3] = 2.0, False
    with pytest.raises(ValueError, match="x holds the code 2 in column 3, which has 2 categories"):
        model(x, hidden)
