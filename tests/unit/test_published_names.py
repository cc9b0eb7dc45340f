"""A name of the catalogue, for every system and publisher that it holds: what is made of a file of theirs is the model that the
file was made from, with its classes and the preprocessing of its publication.

The files are made by the key tables read backwards.  Most are only thought of, with every tensor filled by a number of its own, so
that networks of any size cost nothing; some are written, fetched from a server on this machine, and compared by their outputs.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from segmentarium.meta import on_meta
from segmentarium.registry import Entry, entry, known
from segmentarium.weights import source
from segmentarium.weights.data_sets import DATA_SETS
from segmentarium.weights.layouts import UNFIT, get_layout
from segmentarium.weights.published import Published, class_lists, list_published
from segmentarium.weights.source import bare, open_weights
from segmentarium.weights.store import describe
from segmentarium.weights.table import fit, to_theirs

# where nothing of the default form of a model stands in such a file: what to begin with
FIRST: dict[tuple[str, str], dict[str, Any]] = {
}


def rows() -> list[Published]:
    """Of each system and publisher the smallest model that is named in full."""
    smallest: dict[tuple[str, str], tuple[tuple[bool, float], Published]] = {}
    for row in list_published():
        size = known()[row.model or ""].get("parameters") or float("inf")
        rank = (not row.name.startswith(f"{row.model}."), size)
        key = (row.system, row.layout)
        if key not in smallest or rank < smallest[key][0]:
            smallest[key] = rank, row
    return [row for _, row in smallest.values()]


def classes_of(row: Published) -> int | None:
    """How many the data set has; None: no list is known."""
    if row.data_set.startswith("ImageNet"):
        return 1000 if row.data_set == "ImageNet-1k" else 21841
    name = DATA_SETS[row.data_set].classes
    name = "coco-panoptic" if (name, row.task) == ("coco", "panoptic") else name
    return len(class_lists()[name]["classes"]) if name else None


class Made:
    """A file as the publisher of a row would have written it: `state`, of a model of ours with these arguments."""

    def __init__(self, row: Published, table: str) -> None:
        self.layout = get_layout(table)
        named = entry(row.model or "")
        self.entry: Entry = named if named.build is entry(self.layout.model).build else entry(self.layout.model)
        classes = classes_of(row) or self.entry.card.num_classes
        told = {"num_classes": classes} if self.entry.takes("num_classes") else {}
        given = {**told, **row.arguments, **FIRST.get((row.system, row.layout), {})}
        # what its keys say of a model, until they are that model's
        for _ in range(5):
            self.arguments = given
            shapes = self.shapes()
            self.numbers = {key: float(number) for number, key in enumerate(shapes, 1)}
            numbered = {key: torch.tensor(self.numbers[key], dtype=t.dtype).expand(t.shape) for key, t in shapes.items()}
            self.state, left = backwards(numbered, self.layout.rules)
            given = {**given, **self.layout.arguments(self.state)}
            if given == self.arguments:
                break
        if left:
            raise KeyError(f"{table} has no rule for {left}")

    def shapes(self) -> dict[str, Tensor]:
        with on_meta():
            return self.entry.make(**self.entry.completed(self.arguments)).state_dict()


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


def plain(value: Any) -> Any:
    """As a file's header would hold it."""
    if isinstance(value, Mapping):
        return {key: plain(inner) for key, inner in value.items()}
    return [plain(inner) for inner in value] if isinstance(value, list | tuple) else value


@pytest.mark.parametrize("row", rows(), ids=lambda row: row.name)
def test_a_name_becomes_the_model_that_its_file_is_of(row: Published, monkeypatch: pytest.MonkeyPatch) -> None:
    made = made_of(row)
    monkeypatch.setattr(source, "locate", lambda *given, **told: Path("theirs.pth"))
    monkeypatch.setattr(source, "read_all", lambda path: (made.state, None, {}))
    stored = open_weights(row.name)
    assert stored.layout is made.layout
    assert plain(stored.all_arguments) == plain(made.entry.completed(made.arguments))
    if row.name.startswith(f"{row.model}."):
        assert stored.entry.name == row.model

    fitting, report = fit(stored.shapes(), stored.state, stored.rules)
    assert report.complete, str(report)
    assert not report.adapted
    for key, tensor in fitting.items():
        corners = tensor[(0,) * tensor.ndim], tensor[(-1,) * tensor.ndim]
        assert [float(corner) for corner in corners] == [made.numbers[key]] * 2, key
    if stored.headless:
        return
    with on_meta():
        model = stored.entry.model(**stored.arguments)
    missing, unexpected = bare(model).load_state_dict(fitting, strict=False, assign=True)
    assert not unexpected
    assert all(key.endswith("num_batches_tracked") for key in missing)
    describe(model, stored.header)
    print(row.system, row.layout, row.data_set, model.preprocessing, len(getattr(model, "classes", None) or ()), model.labels().get("num_classes"))
