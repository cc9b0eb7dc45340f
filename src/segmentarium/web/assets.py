"""The page's files, read once: no request reaches the file system."""

from __future__ import annotations

import json
from importlib import resources
from typing import Literal

TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
    ".json": "application/json",
}
SERVER_ONLY = ("docs.html", "docs.js", "server.js")
OFFLINE_ONLY = ("offline.js", "matte.js")


def assets(mode: Literal["server", "offline"]) -> dict[str, tuple[bytes, str]]:
    """Path of the address ("/", "/app.js", "/docs") -> (content, media type) of the page in one of its two modes."""
    left_out = OFFLINE_ONLY if mode == "server" else SERVER_ONLY
    found: dict[str, tuple[bytes, str]] = {}
    for file in sorted(resources.files("segmentarium.web").joinpath("static").iterdir(), key=lambda file: file.name):
        suffix = file.name[file.name.rfind(".") :]
        if suffix not in TYPES or file.name in left_out:
            continue
        path = {"index.html": "/", "docs.html": "/docs"}.get(file.name, f"/{file.name}")
        found[path] = (file.read_bytes(), TYPES[suffix])
    if mode == "server":
        found["/config.json"] = (json.dumps({"mode": "server"}).encode(), TYPES[".json"])
    return found
