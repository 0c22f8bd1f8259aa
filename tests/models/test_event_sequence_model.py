"""The network of event sequences against its formula, message passing and the released block; what changes nothing."""

from __future__ import annotations

import json
import math
import pickle
import re
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from graphattn import ops
from graphattn.models.event_block import EventBlock
from graphattn.models.event_embedding import EventEmbedding
from graphattn.models.event_sequence_model import EventSequenceModel
from graphattn.nn.encodings import LearnedEncoding
from graphattn.nn.encodings.time.catalog import TIME_ENCODINGS
from graphattn.nn.global_attention.padding import places_of

EPS = torch.finfo(torch.float64).eps
TYPES, DIM = 5, 6
FORMS: dict[str, dict[str, Any]] = {
    "bochner": {},
    "released": {"compat": "xu2019", "time": "mercer_sum"},
    "released-order": {"compat": "xu2019", "time": "learned", "fusion": "add"},
    "mercer": {"time": "mercer", "time_options": {"harmonics": 1}, "heads": 3, "time_dim": 9},
    "kernel": {"fusion": "kernel", "heads": 2},
    "absolute": {"time": "tgat", "time_reference": "absolute", "head": "ranking"},
    "sinusoidal": {"time": "sinusoidal"},
    "learned": {"time": "learned", "fusion": "add", "head": "ranking"},
    "nothing": {"time": None},
}
every_form = pytest.mark.parametrize("form", FORMS)


def model_of(form: str = "bochner", **changes: Any) -> EventSequenceModel:
    """A network of two blocks whose parameters, biases and norms included, are far from their first values."""
    options = {"dim": DIM, "num_layers": 2, "dropout": 0.0} | FORMS[form] | changes
    model = EventSequenceModel(TYPES, **options).double().eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not re.search(r"encoding\.(theta|weight|raw)$", name):
                parameter.normal_().mul_(0.7)
    return model


def sequences(*lengths: int, start: int = 0) -> tuple[Tensor, Tensor]:
    """Sequences that are filled up from the left."""
    longest = max(lengths, default=0)
    event_type = torch.randint(1, TYPES + 1, (len(lengths), longest))
    t = start + torch.randint(0, 40, (len(lengths), longest)).cumsum(1)
    for row, length in enumerate(lengths):
        event_type[row, : longest - length] = 0
    return event_type, t


def close(found: Tensor, expected: Tensor, terms: int = 4096) -> None:
    """The same but for the order of sums: three normalizations and a few hundred terms each."""
    torch.testing.assert_close(found, expected, rtol=0, atol=terms * EPS * max(1.0, expected.abs().max().item()))


# The formulas #########################################################################################################


def literal_norm(x: Tensor, norm: nn.LayerNorm) -> Tensor:
    x = x - x.mean(1, keepdim=True)
    return x / (x.square().mean(1, keepdim=True) + norm.eps).sqrt() * norm.weight + norm.bias


def literal_attention(queries: Tensor, sources: Tensor, block: EventBlock, kernel: Tensor | None) -> Tensor:
    """Rows of a causal matrix, a head at a time."""
    attention, n, width = block.attention, len(queries), queries.size(1)
    q_weight, k_weight, v_weight = attention.qkv.weight.chunk(3)
    q_bias, k_bias, v_bias = attention.qkv.bias.chunk(3)
    q, k, v = queries @ q_weight.t() + q_bias, sources @ k_weight.t() + k_bias, sources @ v_weight.t() + v_bias
    size = width // attention.heads
    heads = []
    for head in range(attention.heads):
        at = slice(head * size, (head + 1) * size)
        rows = []
        for i in range(n):
            scores = q[i, at] @ k[: i + 1, at].t() / math.sqrt(size)
            if kernel is not None:
                scores = scores + block.time_weight[head] * kernel[i, : i + 1]
            weights = scores.exp() / scores.exp().sum()
            rows.append(weights @ v[: i + 1, at])
        heads.append(torch.stack(rows))
    found = torch.cat(heads, dim=1)
    return found if isinstance(attention.proj, nn.Identity) else attention.proj(found)


def literal_block(x: Tensor, block: EventBlock, kernel: Tensor | None) -> Tensor:
    released = block.compat == "xu2019"
    normed = literal_norm(x, block.norm1)
    y = (normed if released else x) + literal_attention(normed, x if released else normed, block, kernel)
    normed = literal_norm(y, block.norm2)
    mapped = block.lin2(block.lin1(normed).clamp(min=0))
    if block.lin2.out_features != block.lin1.in_features:
        return mapped
    return mapped + (normed if released else y)


def literal(model: EventSequenceModel, event_type: Tensor, t: Tensor) -> Tensor:
    """Outputs of one sequence without padding."""
    embedding = model.embedding
    x = embedding.types.weight[event_type - 1] * math.sqrt(DIM)
    kernel = None
    if embedding.encoding is not None:
        order = not hasattr(embedding.encoding, "kernel")
        since = t - t[0] if model.time_reference == "first" else t
        places = torch.arange(len(t))
        places = places if isinstance(embedding.encoding, LearnedEncoding) else places.double()
        encoded = embedding.encoding(places if order else since)
        if embedding.fusion == "concat":
            x = torch.cat([x, encoded], dim=1)
        elif embedding.fusion == "add":
            x = x + encoded
        else:
            kernel = encoded @ encoded.t()
    for block in model.blocks:
        x = literal_block(x, block, kernel)
    return literal_norm(x if model.lin is None else model.lin(x), model.norm)


@every_form
def test_is_its_formula(form: str) -> None:
    model = model_of(form)
    event_type, t = sequences(7, 1, 0, 4, start=10**3)
    found = model(event_type, t)
    for row, length in enumerate((7, 1, 0, 4)):
        assert torch.equal(found[row, : 7 - length], torch.zeros(7 - length, DIM).double())
        if length:
            expected = literal(model, event_type[row, 7 - length :], t[row, 7 - length :])
            # Encodings of the order are in single precision for integers.
            torch.testing.assert_close(
                found[row, 7 - length :], expected, rtol=0, atol=1e-5 if form == "sinusoidal" else 1e-10
            )


@pytest.mark.parametrize("compat", [None, "xu2019"])
def test_the_attention_is_message_passing_over_causal_edges(compat: str | None) -> None:
    block = EventBlock(DIM, heads=2, by_kernel=True, compat=compat).double()
    nn.init.normal_(block.time_weight)
    x, ptr = torch.randn(9, DIM).double(), torch.tensor([0, 4, 4, 9])
    places, encoded = places_of(x, ptr=ptr), torch.randn(9, 3).double()
    padded = places.pad(encoded)
    found = block(x, places, padded @ padded.transpose(1, 2))

    graph = torch.bucketize(torch.arange(9), ptr[1:], right=True)
    target, source = ((graph[:, None] == graph) & torch.ones(9, 9).tril().bool()).nonzero().t()
    normed = block.norm1(x)
    first, second = (normed, normed) if compat is None else (normed, x)
    weight, bias = block.attention.qkv.weight.chunk(3), block.attention.qkv.bias.chunk(3)
    inputs = (first, second, second)
    q, k, v = (F.linear(h, w, b).unflatten(1, (2, -1)) for h, w, b in zip(inputs, weight, bias, strict=True))
    edges = torch.stack([source, target])
    scores = ops.sddmm(q, k, edges) / math.sqrt(DIM / 2)
    scores = scores + (encoded[source] * encoded[target]).sum(1, keepdim=True) * block.time_weight
    weights = ops.edge_softmax(scores, edges, num_rows=9)
    gathered = block.attention.proj(ops.spmm(weights, v, edges, num_rows=9).flatten(1))
    y = gathered + (x if compat is None else normed)
    normed = block.norm2(y)
    close(found, block.lin2(block.lin1(normed).relu()) + (y if compat is None else normed))


def test_released_block_without_normalization_is_ours() -> None:
    ours, released = EventBlock(DIM, heads=2).double(), EventBlock(DIM, heads=2, compat="xu2019").double()
    weights = released.state_dict()
    ours.load_state_dict({**weights, "attention.proj.weight": torch.eye(DIM), "attention.proj.bias": torch.zeros(DIM)})
    x = torch.randn(5, DIM).double()
    assert not torch.allclose(ours(x, places_of(x)), released(x, places_of(x)))
    for block in (ours, released):
        block.norm1 = block.norm2 = nn.Identity()
    close(ours(x, places_of(x)), released(x, places_of(x)))


def test_released_perceptron_that_narrows_adds_nothing() -> None:
    model = model_of("released")
    last = model.blocks[-1]
    assert (last.lin2.in_features, last.lin2.out_features, model.lin) == (2 * DIM, DIM, None)
    nn.init.zeros_(last.lin2.weight), nn.init.zeros_(last.lin2.bias)
    event_type, t = sequences(4)
    close(model(event_type, t)[0], model.norm.bias.expand(4, DIM))


# What changes nothing #################################################################################################


@every_form
@pytest.mark.parametrize("place", [0, 3, 5])
def test_the_future_changes_nothing(form: str, place: int) -> None:
    model = model_of(form)
    event_type, t = sequences(6, 6)
    before = model(event_type, t)
    types, times = event_type.clone(), t.clone()
    types[0, place + 1 :] = TYPES + 1 - types[0, place + 1 :]
    times[0, place + 1 :] += torch.arange(7, 7 + 5 - place)
    after = model(types, times)
    close(after[0, : place + 1], before[0, : place + 1])
    close(after[1], before[1])
    if place < 5 and FORMS[form].get("time", "") is not None:
        assert (after[0, place + 1 :] - before[0, place + 1 :]).abs().max() > 1e-3, "the events do matter"


@every_form
def test_what_fills_up_changes_nothing(form: str) -> None:
    model = model_of(form)
    event_type, t = sequences(5, 3)
    t = t.double()
    expected = model(event_type, t)
    for left, right in ((1, 0), (17, 0), (0, 4), (3, 2)):
        types, mask = F.pad(event_type, (left, right), value=TYPES), F.pad(event_type > 0, (left, right))
        times = F.pad(t, (left, right), value=math.nan)
        found = model(types, times, mask)
        close(found[:, left : left + 5], expected)
        assert not found[~mask].any()
    # Nor does a gap between the events.
    kept = torch.tensor([0, 1, 4, 6, 7])
    types, times = torch.zeros(2, 8, dtype=torch.long), torch.full((2, 8), -1.0).double()
    types[:, kept], times[:, kept] = event_type, t
    close(model(types, times)[:, kept], expected)


@every_form
def test_sequences_of_nothing_are_zeros(form: str) -> None:
    model = model_of(form)
    event_type, t = sequences(0, 3, 0)
    out = model(event_type, t)
    assert torch.equal(out[[0, 2]], torch.zeros(2, 3, DIM).double())
    out.sum().backward()
    assert all(p.grad is None or bool(p.grad.isfinite().all()) for p in model.parameters())
    for shape in ((2, 3), (0, 3), (2, 0)):
        empty = model(torch.zeros(shape, dtype=torch.long), torch.zeros(shape, dtype=torch.long))
        assert torch.equal(empty, torch.zeros(*shape, DIM).double())


@pytest.mark.parametrize("shift", [10**9, -(10**6), 1.7e18])
@pytest.mark.parametrize("form", [form for form in FORMS if form != "absolute"])
def test_a_shift_of_all_times_changes_nothing(form: str, shift: float) -> None:
    model = model_of(form)
    event_type, t = sequences(6, 4)
    assert torch.equal(model(event_type, t + int(shift)), model(event_type, t))
    if abs(shift) < 1e15:  # where float64 still tells the times apart
        assert torch.equal(model(event_type, t.double() + shift), model(event_type, t.double()))


def test_a_shift_matters_for_absolute_times_but_not_for_their_kernel() -> None:
    event_type, t = sequences(6, 4)
    model = model_of("absolute")
    assert not torch.allclose(model(event_type, t + 1000), model(event_type, t), atol=1e-3)
    model = model_of("kernel", time_reference="absolute")
    # Phases of a thousand are rounded to a thousandth of what those of one are.
    close(model(event_type, t + 1000), model(event_type, t), terms=4096 * 1000)


def test_a_warp_of_time_matters_unless_order_alone_is_seen() -> None:
    event_type, t = sequences(6)
    warped = (t.double() + 1).log()
    for form, changes in (("sinusoidal", False), ("learned", False), ("nothing", False), ("bochner", True)):
        model = model_of(form)
        assert torch.equal(model(event_type, t), model(event_type, warped)) != changes


def test_a_kernel_without_weight_is_no_time() -> None:
    model = EventSequenceModel(TYPES, DIM, 2, time="mercer", fusion="kernel").double().eval()
    plain = EventSequenceModel(TYPES, DIM, 2, time=None).double().eval()
    weights = model.state_dict()
    plain.load_state_dict({name: weights[name] for name in plain.state_dict()})
    event_type, t = sequences(6, 2)
    close(model(event_type, t), plain(event_type, t))
    nn.init.ones_(model.blocks[0].time_weight)
    assert not torch.allclose(model(event_type, t), plain(event_type, t))


@every_form
def test_batched_equals_looped(form: str) -> None:
    model = model_of(form)
    event_type, t = sequences(5, 2, 1, 5)
    alone = [model(event_type[row : row + 1], t[row : row + 1]) for row in range(4)]
    close(model(event_type, t), torch.cat(alone))
    order = torch.tensor([2, 0, 3, 1])
    close(model(event_type[order], t[order]), model(event_type, t)[order])


# Heads ################################################################################################################


def test_scores_of_the_next_type() -> None:
    model = model_of("bochner")
    x = torch.randn(2, 3, DIM).double()
    close(model.type_scores(x), x @ model.lin_type.weight.t() + model.lin_type.bias)
    tied = model_of("learned")
    close(tied.type_scores(x), x @ tied.embedding.types.weight.t())
    assert tied.lin_type is None


def test_the_median_halves_what_is_drawn() -> None:
    model = model_of()
    x = torch.randn(4, DIM).double()
    mean, std = model.gap_distribution(x)
    assert (std > 0).all()
    drawn = torch.distributions.LogNormal(mean, std).sample((20_000,)) - 1
    below = (drawn < model.median_gap(x)).double().mean(0)
    positive = model.median_gap(x) > 0
    assert positive.any()
    # Four standard errors.
    assert ((below - 0.5).abs()[positive] < 4 * 0.5 / math.sqrt(20_000)).all()
    assert (model.median_gap(x) >= 0).all()


@pytest.mark.parametrize("unit", [1.0, 86_400.0])
def test_predicted_times_start_from_those_given(unit: float) -> None:
    model = EventSequenceModel(TYPES, DIM)
    gap = unit * torch.rand(100, dtype=torch.float64)
    model.center_gaps(gap)
    mean, std = model.gap_distribution(torch.zeros(DIM))
    torch.testing.assert_close(mean.double(), gap.log1p().mean(), rtol=1e-6, atol=0)
    torch.testing.assert_close(std.double(), gap.log1p().std(correction=0), rtol=1e-5, atol=0)
    model.center_gaps(torch.full((5,), 3.0))
    mean, std = model.gap_distribution(torch.zeros(DIM))
    assert std > 0
    assert abs(model.median_gap(torch.zeros(DIM)).item() - 3) < 1e-5
    with pytest.raises(ValueError, match="gap has no times; expected at least one"):
        model.center_gaps(gap[:0])


# As a module ##########################################################################################################


@every_form
def test_a_config_builds_the_network_again(form: str) -> None:
    model = model_of(form)
    again = EventSequenceModel.from_config(json.loads(json.dumps(model.config, allow_nan=False))).double().eval()
    again.load_state_dict(model.state_dict())
    event_type, t = sequences(4, 2)
    for other in (again, pickle.loads(pickle.dumps(model))):
        assert other.config == model.config
        assert torch.equal(other(event_type, t), model(event_type, t))


@every_form
def test_gradients_reach_every_parameter_and_reset_draws_them_anew(form: str) -> None:
    model = model_of(form)
    event_type, t = sequences(30, 30, 20)
    x = model(event_type, t)
    (
        x.square().sum() + model.type_scores(x).square().sum() + sum(p.sum() for p in model.gap_distribution(x))
    ).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert (parameter.grad != 0).any(), name
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    model.reset_parameters()
    for name, parameter in model.named_parameters():
        fixed = re.search(r"encoding\.(theta|weight|bias|raw)$", name)
        assert fixed or not torch.equal(parameter, before[name]), name


def test_gradcheck() -> None:
    model = model_of("kernel", num_layers=1)
    event_type, t = sequences(4, 2)
    names = [
        "embedding.types.weight",
        "embedding.encoding.theta",
        "blocks.0.time_weight",
        "blocks.0.attention.qkv.weight",
    ]

    def run(*values: Tensor) -> Tensor:
        return torch.func.functional_call(model, dict(zip(names, values, strict=True)), (event_type, t))

    assert torch.autograd.gradcheck(run, [model.get_parameter(name).detach().requires_grad_() for name in names])


def test_dropout_only_in_training() -> None:
    model = model_of(dropout=0.5)
    event_type, t = sequences(6, 6)
    assert torch.equal(model(event_type, t), model(event_type, t))
    model.train()
    assert not torch.equal(model(event_type, t), model(event_type, t))


@every_form
def test_low_precision(form: str) -> None:
    """bfloat16 stays within thirty-two roundings of the largest output: two blocks of about ten operations."""
    torch.manual_seed(1)
    model = EventSequenceModel(TYPES, **{"dim": DIM, "num_layers": 2} | FORMS[form]).eval()
    event_type, t = sequences(6, 3)
    single = model(event_type, t)
    truth = pickle.loads(pickle.dumps(model)).double()(event_type, t)
    assert (single.double() - truth).abs().max() <= 1e-4 * truth.abs().max()
    low = model.bfloat16()(event_type, t)
    assert low.dtype == torch.bfloat16
    assert (low.double() - truth).abs().max() <= 32 * torch.finfo(torch.bfloat16).eps * truth.abs().max()


@pytest.mark.parametrize("time", TIME_ENCODINGS)
@pytest.mark.parametrize("heads", [1, 3])
def test_every_encoding_by_name_finds_a_width(time: str, heads: int) -> None:
    model = EventSequenceModel(TYPES, 8, heads=heads, time=time).eval()
    assert model.embedding.channels % heads == 0
    assert abs(model.embedding.encoding.channels - 8) <= 11 * heads
    event_type, t = sequences(3, 2)
    assert model(event_type, t).isfinite().all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_types": 0}, "num_types is 0; expected at least 1"),
        ({"dim": 0}, "dim is 0; expected at least 1"),
        ({"num_layers": 0}, "num_layers is 0; expected at least 1"),
        ({"heads": 0}, "heads is 0; expected at least 1"),
        ({"heads": 3, "time_dim": 6}, "heads is 3, which does not divide the 14 channels of the blocks; set time_dim"),
        ({"dropout": 1.0}, "dropout is 1.0; expected a probability in [0, 1)"),
        ({"time": "bochnr"}, "time is 'bochnr'; did you mean 'bochner'? Expected one of"),
        ({"time": "mercer", "time_dim": 8}, "channels is 8 and harmonics is 5; expected a multiple of 11 channels"),
        ({"time": None, "fusion": "kernel"}, "time is None, but fusion is 'kernel'"),
        ({"time": None, "time_dim": 4}, "its width 4; name an encoding"),
        ({"time": None, "time_options": {"harmonics": 3}}, "options of the encoding are {'harmonics': 3}, but time"),
        ({"fusion": "sum"}, "fusion is 'sum'; expected one of 'concat', 'add', 'kernel'"),
        ({"fusion": "add", "time_dim": 4}, "fusion is 'add', which needs equal widths; those of the events and"),
        ({"time_reference": "last"}, "time_reference is 'last'; expected 'first' or 'absolute'"),
        ({"head": "both"}, "head is 'both'; expected 'class' or 'ranking'"),
        ({"compat": "sasrec"}, "compat is 'sasrec'; expected None or 'xu2019'"),
        ({"max_length": 0}, "max_length is 0; expected at least 1"),
    ],
    ids=str,
)
def test_options_that_do_not_fit(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        EventSequenceModel(**{"num_types": TYPES, "dim": 8} | options)


TYPE, T = torch.tensor([[1, 2, 3]]), torch.tensor([[0, 5, 9]])


@pytest.mark.parametrize(
    ("inputs", "error", "message"),
    [
        ((TYPE.double(), T), TypeError, "event_type has dtype torch.float64; expected a Tensor of int64, types from 1"),
        ((TYPE.tolist(), T), TypeError, "event_type is a list; expected a Tensor of int64"),
        ((TYPE[0], T[0]), ValueError, "event_type has shape (3,); expected (sequences, events)"),
        ((TYPE, T.tolist()), TypeError, "t is a list; expected a Tensor of times"),
        ((TYPE, T.float()), TypeError, "t has dtype torch.float32; expected int64 or float64"),
        ((TYPE, T[:, :2]), ValueError, "t has shape (1, 2); expected (1, 3), as event_type"),
        ((TYPE, T / math.inf * math.nan), TypeError, "t has dtype torch.float32"),
        ((TYPE, T.double() * math.nan), ValueError, "t contains NaN or infinity; expected finite times"),
        ((TYPE, T.flip(1)), ValueError, "t decreases within a sequence; sort the events of each sequence by time"),
        ((TYPE, T, TYPE), TypeError, "mask has dtype torch.int64; expected a Tensor of bool"),
        ((TYPE, T, TYPE[:, :1] > 0), ValueError, "mask has shape (1, 1); expected (1, 3), as event_type"),
        ((TYPE + 3, T), ValueError, "event_type has values from 4 to 6; expected 1 to 5"),
        ((TYPE - 1, T, TYPE > 0), ValueError, "event_type has values from 0 to 2; expected 1 to 5"),
        ((TYPE, T.to("meta")), ValueError, "t is on meta but event_type is on cpu; move one of them"),
    ],
    ids=str,
)
def test_input_that_does_not_fit(inputs: tuple[Any, ...], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=re.escape(message)):
        EventSequenceModel(TYPES, 4)(*inputs)


@pytest.mark.parametrize("by_kernel", [True, False])
def test_a_block_takes_a_kernel_or_none(by_kernel: bool) -> None:
    x, kernel = torch.randn(3, 4), None if by_kernel else torch.ones(1, 3, 3)
    with pytest.raises(ValueError, match=f"kernel is .*, but by_kernel is {by_kernel}; pass both or neither"):
        EventBlock(4, by_kernel=by_kernel)(x, places_of(x), kernel)


def test_a_longer_sequence_than_there_are_places() -> None:
    model = EventSequenceModel(TYPES, 4, time="learned", fusion="add", max_length=3)
    event_type, t = sequences(4)
    model(event_type[:, :3], t[:, :3])
    with pytest.raises(ValueError, match="expected 0 to 2, or a larger"):
        model(event_type, t)


def test_the_embedding_starts_at_unit_scale() -> None:
    x, encoded = EventEmbedding(2000, 16, None)(torch.arange(2000), torch.arange(2000), torch.arange(2000))
    assert encoded is None
    # Of 32,000 normal numbers the variance strays by about 0.008.
    assert abs(x.var().item() - 1) < 0.04


def test_what_fills_up_needs_no_places() -> None:
    model = EventSequenceModel(TYPES, 4, time="learned", fusion="add", max_length=3).eval()
    event_type, t = sequences(3)
    wide = model(F.pad(event_type, (9, 0)), F.pad(t, (9, 0)))
    torch.testing.assert_close(wide[:, 9:], model(event_type, t))


@pytest.mark.parametrize("form", ["kernel", "released", "learned"])
def test_fake_cuda(form: str) -> None:
    """Nothing is left on the CPU, read back from the device or of a size that depends on values."""
    model = model_of(form)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        weights = {name: mode.from_tensor(value).to("cuda") for name, value in model.state_dict().items()}
        inputs = [value.to("cuda") for value in (torch.ones(3, 4).long(), torch.ones(3, 4).double())]
        out = torch.func.functional_call(model, weights, tuple(inputs))
    assert (out.device.type, out.shape) == ("cuda", (3, 4, DIM))


@pytest.mark.parametrize("form", ["kernel", pytest.param("released", marks=pytest.mark.slow)])
def test_compiles_as_one_graph(form: str, reset_dynamo: None) -> None:
    model = model_of(form)
    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend="eager")
    for lengths in ((5, 3), (4, 7, 2), (6, 6, 6, 2)):
        event_type, t = sequences(*lengths)
        close(compiled(event_type, t), model(event_type, t))
