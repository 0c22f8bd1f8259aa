"""The plan: what it prints for a width, a size, a depth and a model, the picture, and mistakes."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from graphattn.analysis.depth_width import depth_threshold, fitted_depth, fitted_width, optimal_shape
from graphattn.cli import main


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]):
    """Run a plan and return its lines by the name that they begin with."""

    def run(*words: str) -> dict[str, str]:
        assert main(["plan", *words]) == 0
        first, *rest = capsys.readouterr().out.splitlines()
        named = dict(re.split(r"\s{2,}", line.strip(), maxsplit=1) for line in rest if line.startswith("  "))
        return {"": first, **named, "last": rest[-1]}

    return run


def test_a_width(say) -> None:
    said = say("--width", "1024")
    assert said[""] == "width 1,024"
    assert said["depth threshold"].startswith(f"{depth_threshold(1024):.2f} layers, by theory")
    assert said["efficient depth"] == f"up to {fitted_depth(1024):.1f} ± 1.0 layers, fitted"
    assert said["parameters"].startswith("429M")


def test_a_size(say) -> None:
    said = say("--params", "350M", "--heads", "16")
    assert said[""] == "350M parameters"
    best = optimal_shape(3.5e8)
    assert said["best shape"] == f"{best.depth:.1f} layers of width {best.width:,.0f}, fitted"
    whole = re.match(r"(\d+) layers of width ([\d,]+): (\d+)M", said["in whole numbers"])
    assert whole is not None
    depth, width, size = (int(number.replace(",", "")) for number in whole.groups())
    assert width % 16 == width % 64 == 0
    assert size == round(12 * depth * width**2 / 1e6)


def test_a_depth(say) -> None:
    said = say("--depth", "24")
    assert said[""] == "depth 24"
    assert said["efficient width"].startswith(f"at least {fitted_width(24):,.0f} (560 to 611), fitted")
    assert said["parameters"].startswith("98.4M")


@pytest.mark.parametrize(
    ("words", "first", "found"),
    [
        (("--depth", "24", "--width", "1024"), "24 layers of width 1,024: 302M", "depth-efficient"),
        (("--depth", "96", "--width", "12288"), "96 layers of width 12,288: 174B", "depth-inefficient"),
        (("--depth", "24", "--width", "585"), "24 layers of width 585: 98.6M", "balanced"),
        (("--params", "302M", "--depth", "24"), "24 layers of width 1,024: 302M", "depth-efficient"),
        (("--params", "302M", "--width", "1024"), "24 layers of width 1,024: 302M", "depth-efficient"),
    ],
)
def test_where_a_model_stands(say, words: tuple[str, ...], first: str, found: str) -> None:
    said = say(*words)
    assert said[""].startswith(first)
    assert said["this model"].startswith(found)
    assert "depth threshold" in said


@pytest.mark.parametrize("size", ["1300M", "1.3B", "1.3e9", "1,300,000,000", "1.3b", "1.3E+9"])
def test_sizes_are_written_in_many_ways(say, size: str) -> None:
    assert say("--params", size) == say("--params", "1300000000")


def test_what_lies_beyond_the_fit_is_marked(say) -> None:
    assert "extrapolated: the fit covers 6 to 48 layers" in say("--params", "1T")["best shape"]
    assert "extrapolated" in say("--depth", "96")["efficient width"]
    assert "extrapolated" in say("--depth", "96", "--width", "12288")["this model"]
    assert "extrapolated" not in say("--params", "350M")["best shape"]
    assert "below 1 layer" in say("--width", "100")["efficient depth"]
    assert say("--params", "10K", "--multiple", "8")["in whole numbers"].startswith("1 layer of width 32:")


def test_the_picture_shows_the_model_and_the_fit(say, drawn: dict[str, Figure], tmp_path: Path) -> None:
    path = tmp_path / "plan.png"
    assert say("--depth", "30", "--width", "1000", "--plot", str(path))["last"] == f"wrote {path}"
    assert path.read_bytes().startswith(b"\x89PNG")
    assert [entry.name for entry in tmp_path.iterdir()] == ["plan.png"]
    axes = drawn["plan"].axes[0]
    known, own = (points.get_offsets().tolist() for points in axes.collections[1:])
    assert own == [[30.0, 1000.0]]
    assert [96.0, 12288.0] in known
    fit = next(line for line in axes.lines if line.get_label().startswith("fit: as deep"))
    depths, widths = np.asarray(fit.get_xdata()), np.asarray(fit.get_ydata())
    assert depths.min() >= 6
    assert depths.max() <= 48
    np.testing.assert_allclose(widths, [fitted_width(depth) for depth in depths], rtol=1e-13)
    assert axes.get_legend_handles_labels()[1][-1] == "30 layers of width 1,000"
    assert axes.get_yscale() == "log"
    assert to_hex(fit.get_color()) == "#2c7fb8"


@pytest.mark.parametrize(
    ("words", "place"),
    [
        (("--width", "1024"), (fitted_depth(1024), 1024)),
        (("--depth", "24"), (24, fitted_width(24))),
        (("--params", "1e13"), (optimal_shape(1e13).depth, optimal_shape(1e13).width)),
    ],
)
def test_the_picture_of_a_plan_has_its_shape(say, drawn, words, place, tmp_path: Path) -> None:
    say(*words, "--plot", str(tmp_path / "a.png"))
    axes = drawn["a"].axes[0]
    assert axes.collections[-1].get_offsets().tolist() == [pytest.approx(place)]
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    assert left < place[0] < right
    assert low < place[1] < high


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "nothing to plan; pass one of --width, --params and --depth"),
        (["--width", "8", "--depth", "2", "--params", "9"], "one thing too many"),
        (["--params", "5"], "one layer of one feature has 12"),
        (["--depth", "1e9"], "expected at most 10000 layers"),
        (["--width", "64", "--heads", "0"], "--heads is 0"),
        (["--width", "64", "--plot", "plan.png"], "--plot: the fit has no depth for width 64"),
        (["--width", "640", "--plot", "missing/plan.png"], "missing/plan.png cannot be written: No such file"),
    ],
)
def test_mistakes_are_named(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", *words]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("size", ["many", "-5", "0", "1e999", "", "5X"])
def test_sizes_that_are_no_numbers(size: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["plan", f"--params={size}"])
    assert stop.value.code == 2
    assert f"--params is {size!r}; expected a positive number such as 24, 350M or 1e9" in capsys.readouterr().err


def test_help_is_the_manual(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["plan", "--help"])
    said = capsys.readouterr().out
    assert "graphattn plan --params 350M --heads 16" in said
    assert "asymptotic" in said
