"""The encodings of TGAT, TGN and GraphMixer against PyG's modules and the released formula."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch_geometric.nn.encoding import TemporalEncoding
from torch_geometric.nn.models.tgn import TimeEncoder

from graphattn.nn.encodings.time import GraphMixerEncoding, TGATEncoding
from tests.nn.encodings.time.cases import CHANNELS, EPS


def test_is_pygs_time_encoder() -> None:
    theirs = TimeEncoder(CHANNELS).double()
    ours = TGATEncoding(CHANNELS).double()
    ours.weight.data, ours.bias.data = theirs.lin.weight.detach().flatten(), theirs.lin.bias.detach()
    t = torch.randint(0, 1000, (30,)).double()
    torch.testing.assert_close(ours(t), theirs(t), rtol=0, atol=8 * EPS * 1000)
    torch.testing.assert_close(ours.frequencies(), theirs.lin.weight.flatten(), rtol=0, atol=0)


def test_is_tgats_time_encode() -> None:
    """TimeEncode of the released code: cos(t w + phase), w = 10^-linspace(0, 9, C) as float32."""
    encoding = TGATEncoding(CHANNELS).double()
    weight = (1 / 10 ** np.linspace(0, 9, CHANNELS)).astype(np.float32).astype(np.float64)
    t = np.array([0.0, 5.0, 1e6])
    assert np.allclose(encoding(torch.from_numpy(t)).detach(), np.cos(t[:, None] * weight), rtol=0, atol=8e6 * EPS)
    theirs = TimeEncoder(CHANNELS).double()
    theirs.lin.weight.data, theirs.lin.bias.data = torch.from_numpy(weight[:, None]), torch.zeros(CHANNELS).double()
    found = encoding(torch.from_numpy(t))
    torch.testing.assert_close(found, theirs(torch.from_numpy(t)), rtol=0, atol=8e6 * EPS)


def test_first_values_of_pyg() -> None:
    for seed in range(3):
        torch.manual_seed(seed)
        theirs = TimeEncoder(CHANNELS)
        torch.manual_seed(seed)
        ours = TGATEncoding(CHANNELS, compat="pyg")
        assert torch.equal(ours.weight, theirs.lin.weight.flatten())
        assert torch.equal(ours.bias, theirs.lin.bias)


@pytest.mark.parametrize("channels", [1, 9, CHANNELS])
def test_is_pygs_temporal_encoding(channels: int) -> None:
    theirs, ours = TemporalEncoding(channels).double(), GraphMixerEncoding(channels).double()
    assert torch.equal(ours.weight, theirs.weight.flatten())
    t = torch.randint(0, 1000, (30,)).double()
    torch.testing.assert_close(ours(t), theirs(t), rtol=0, atol=8 * EPS * 1000)


def test_pygs_grid_differs_from_its_docstring() -> None:
    assert GraphMixerEncoding(9).weight[1].item() == pytest.approx(0.662, abs=1e-3)
    documented = math.sqrt(9) ** (-1 / 3)
    assert documented == pytest.approx(0.693, abs=1e-3)


def test_unknown_compat() -> None:
    with pytest.raises(ValueError, match="compat is 'tgn'; expected None or 'pyg'"):
        TGATEncoding(4, compat="tgn")
