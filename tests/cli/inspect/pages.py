"""What tests of the report share: a reader of pages, and attention maps at random."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np


class Page(HTMLParser):
    """Read a page: its tags, what it refers to, and the text of each tag."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.handlers: list[str] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)
        assert not self.open, f"tags stay open: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in ("meta", "link", "br"):
            self.open.append(tag)
        for name, value in attrs:
            if name in ("src", "href", "xlink:href", "action", "data", "poster", "srcset"):
                self.links.append(value or "")
            if name.startswith("on"):
                self.handlers.append(name)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def safe(page: Page) -> None:
    """Check that a page neither runs nor loads anything."""
    assert "script" not in page.tags
    assert "img" not in page.tags
    assert not page.handlers
    assert all(link.startswith(("data:", "#")) for link in page.links)
    assert "http://" not in page.source
    assert "https://" not in page.source
    assert "url(" not in page.source
    assert "@import" not in page.source


def random_maps(nodes: int, layers: int = 2, heads: int = 3, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).dirichlet(np.full(nodes, 0.4), size=(layers, heads, nodes))


def write(path: Path, **arrays: Any) -> Path:
    np.savez(path, **arrays)
    return path
