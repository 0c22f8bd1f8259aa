"""Time encodings by name."""

from __future__ import annotations

import pytest
import torch

from graphattn.nn.encodings import time
from graphattn.nn.encodings.time import TimeEncoding
from graphattn.nn.encodings.time.catalog import TIME_ENCODINGS, make_time_encoding


def test_every_encoding_has_a_name() -> None:
    named = {type(make_time_encoding(name, 22)).__name__ for name in TIME_ENCODINGS}
    assert named == set(time.__all__) - {"TimeEncoding"} - {"make_time_encoding"}


@pytest.mark.parametrize("name", TIME_ENCODINGS)
def test_width_and_options(name: str) -> None:
    encoding = make_time_encoding(name, 22)
    assert isinstance(encoding, TimeEncoding)
    assert encoding(torch.arange(3)).shape == (3, 22)
    with pytest.raises(TypeError, match="unexpected keyword argument 'colour'"):
        make_time_encoding(name, 22, colour=1)


def test_options_reach_the_encoding() -> None:
    assert make_time_encoding("mercer", 10, harmonics=2, tie=False).harmonics == 2
    assert make_time_encoding("bochner", 4, compat="xu2019").compat == "xu2019"
    assert make_time_encoding("pyg_tgn", 4).compat == "pyg"
    assert make_time_encoding("tgat", 4).compat is None


def test_unknown_name() -> None:
    with pytest.raises(ValueError, match="time is 'mercers'; did you mean 'mercer'\\? Expected one of bochner, "):
        make_time_encoding("mercers", 11)
