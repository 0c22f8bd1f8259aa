"""No test of this folder opens a connection: only addresses of files on this machine are served."""

from __future__ import annotations

import urllib.request
from typing import Any
from urllib.error import URLError

import pytest


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Refuse every address but ``file:``, and list those that were asked for."""
    asked: list[str] = []
    really = urllib.request.urlopen

    def urlopen(request: Any, *args: Any, **kwargs: Any) -> Any:
        url = request if isinstance(request, str) else request.full_url
        asked.append(url)
        if not url.startswith("file:"):
            raise URLError("this test is offline")
        return really(request, *args, **kwargs)

    monkeypatch.setattr(urllib.request, "urlopen", urlopen)
    return asked
