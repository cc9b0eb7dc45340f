"""What the tests of published weights share: a host on this machine in the place of all, and files as publishers write them."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from segmentarium.registry import Entry, entry
from segmentarium.weights.data_sets import DATA_SETS
from segmentarium.weights.layouts import UNFIT, get_layout, shapes_of
from segmentarium.weights.published import Published, class_lists
from segmentarium.weights.source import with_arguments
from segmentarium.weights.table import to_theirs


class Files(http.server.BaseHTTPRequestHandler):
    """Serves `files`; knows ranges, redirects, and how to break off."""

    files: ClassVar[dict[str, bytes]] = {}
    redirects: ClassVar[dict[str, str]] = {}
    asked: ClassVar[list[tuple[str, str | None]]] = []
    cut_after: int | None = None

    def do_GET(self) -> None:
        span = self.headers.get("Range")
        type(self).asked.append((self.path, span))
        if self.path in self.redirects:
            self.send_response(302)
            self.send_header("Location", self.redirects[self.path])
            self.end_headers()
            return
        data = self.files.get(self.path)
        if data is None:
            self.send_error(404)
            return
        start = int(span.removeprefix("bytes=").rstrip("-")) if span else 0
        self.send_response(206 if span else 200)
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        part = data[start:]
        if self.cut_after is not None:
            part, type(self).cut_after = part[: self.cut_after], None
        self.wfile.write(part)

    def log_message(self, *arguments: Any) -> None:
        pass


def serving(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[type[Files]]:
    """A host on this machine in the place of all, and an empty cache."""
    handler = type("Handler", (Files,), {"files": {}, "redirects": {}, "asked": [], "cut_after": None})
    running = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=running.serve_forever, daemon=True).start()
    monkeypatch.setenv("SEGMENTARIUM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("SEGMENTARIUM_MIRROR", f"http://127.0.0.1:{running.server_port}")
    monkeypatch.delenv("SEGMENTARIUM_OFFLINE", raising=False)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    yield handler
    running.shutdown()
    running.server_close()


# where nothing of the default form of a model stands in such a file: what to begin with
FIRST: dict[str, dict[str, Any]] = {
    "deeplabv3_mobilenet_v2.voc-transformers": {"backbone": "mobilenet_v2"},
    "deeplabv3_resnest101.ade20k-zhanghang1989": {"backbone": "resnest101"},
    "erfnet.cityscapes-mmseg": {"head_channels": 128},
    "upernet_lvvit_large.ade20k-zihangjiang": {
        "backbone": "lvvit_s",
        "neck": "projected",
        "backbone_arguments": {"out_indices": (6, 9, 12, 15)},
    },
}


def classes_of(row: Published) -> int | None:
    """How many the data set has; None: no list is known."""
    if row.data_set.startswith("ImageNet"):
        return 1000 if row.data_set == "ImageNet-1k" else 21841
    name = DATA_SETS[row.data_set].classes
    name = "coco-panoptic" if (name, row.task) == ("coco", "panoptic") else name
    return len(class_lists()[name]["classes"]) if name else None


class Made:
    """A file as the publisher of a row would have written it: `state`, of the model `entry` with `arguments`, whose tensors are
    filled with `numbers`, by our keys.

    The arguments are what the table reads off the file, which is found by going round: from a first guess to its keys, and from
    these to the arguments that they tell.  Raises KeyError where that ends in no file that the table reads whole.
    """

    def __init__(self, row: Published, table: str) -> None:
        self.layout = get_layout(table)
        self.entry: Entry = entry(self.layout.model)
        variant = entry(row.model or "")
        classes = classes_of(row) or variant.card.num_classes
        told = {"num_classes": classes} if self.entry.takes("num_classes") else {}
        guesses = [{"backbone": variant.arguments["backbone"]}] if "backbone" in variant.arguments else []
        if variant.build is self.entry.build:
            guesses.insert(0, variant.arguments)
        for guess in [FIRST[row.name]] if row.name in FIRST else guesses or [{}]:
            left = self._go_round({**told, **guess}, row.arguments)
            if not left:
                return
        raise KeyError(f"{table} has no rule for {left[:4]}")

    def _go_round(self, given: dict[str, Any], told: Mapping[str, Any]) -> list[str]:
        for _ in range(4):
            shapes = shapes_of(self.layout.model, given)
            self.numbers = {key: float(number) for number, key in enumerate(shapes, 1)}
            filled = {key: torch.tensor(self.numbers[key], dtype=t.dtype).expand(t.shape) for key, t in shapes.items()}
            self.state, left = backwards(filled, self.layout.rules)
            self.arguments = with_arguments(self.layout.arguments(self.state), told)
            if not left and sizes(shapes_of(self.layout.model, self.arguments)) == sizes(shapes):
                return []
            given = {**given, **self.arguments}
        return left or ["a model of these sizes"]


def sizes(state: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    return {key: tensor.shape for key, tensor in state.items()}


def backwards(state: Mapping[str, Tensor], rules: Any) -> tuple[dict[str, Tensor], list[str]]:
    """`to_theirs` of what has a rule, and the keys that have none."""
    kept, left = dict(state), []
    while True:
        try:
            return to_theirs(kept, rules), left
        except KeyError as error:
            key = next(key for key in kept if f"'{key}'" in str(error))
            left.append(key)
            del kept[key]


def made_of(row: Published) -> Made:
    fitting = [name for name in row.own_layouts if entry(get_layout(name).model).build is entry(row.model or "").build]
    failed = []
    for name in fitting or row.own_layouts:
        try:
            return Made(row, name)
        except UNFIT as error:
            failed.append(f"{name}: {error!r:.200}")
    pytest.fail(f"no key table of {row.layout} gives a file of {row.name}: {'; '.join(failed)}")
