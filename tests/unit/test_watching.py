"""A folder that is watched, by `segment` and by `portrait`: what lies in it and what comes, once each, until one says stop."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest
from PIL import Image

from segmentarium.cli import portrait, segment
from segmentarium.cli.inputs import Inputs, check_watch, watched
from segmentarium.comparison.time_left import TimeLeft
from segmentarium.media import sources
from segmentarium.media.sources import watch


@pytest.fixture
def inbox(tmp_path: Path) -> Path:
    folder = tmp_path / "inbox"
    folder.mkdir()
    Image.new("RGB", (16, 12)).save(folder / "a.png")
    return folder


def test_both_verbs_watch() -> None:
    for verb in (segment, portrait):
        parser = argparse.ArgumentParser()
        verb.add_arguments(parser)
        assert parser.parse_args(["inbox", "--watch"]).watch


@pytest.mark.parametrize(
    ("source", "out"), [(["inbox", "b"], "out"), (["a.png"], "out"), (["-"], "out"), (["inbox"], "-")]
)
def test_one_folder_is_watched_for_another(inbox: Path, source: list[str], out: str) -> None:
    given = [str(inbox) if name == "inbox" else name for name in source]
    with pytest.raises(ValueError, match="--watch is for one folder, and a folder of results"):
        check_watch(argparse.Namespace(source=given), out)


@pytest.mark.parametrize("out", [".", "..", "../inbox"])
def test_results_among_or_above_the_inputs_are_refused(inbox: Path, out: str) -> None:
    given = argparse.Namespace(source=[str(inbox)])
    with pytest.raises(ValueError, match=r"--watch leaves out what lies in .*; give another --out"):
        check_watch(given, inbox / out)
    check_watch(given, inbox / "results")


def test_each_is_done_once_also_by_a_later_watch(inbox: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looks = []

    def sleep(_: float) -> None:  # what happens between two looks
        looks.append(len(looks))
        if len(looks) == 2:
            Image.new("RGB", (16, 12)).save(inbox / "b.png")

    monkeypatch.setattr(sources.time, "sleep", sleep)
    out = tmp_path / "out"
    options = argparse.Namespace(source=[str(inbox)], overwrite=False)
    for wanted in (["a.png", "b.png"], []):
        looks.clear()
        listed, found = Inputs(out, "segment"), []
        for item in watched(options, out, listed, stop=lambda: len(looks) == 5):
            found.append(Path(item.origin).name)
            listed.done(item.origin, [out / f"{item.name}.png"])
        assert found == wanted
    assert len(json.loads((out / "_inputs.json").read_text())["inputs"]) == 2


def test_two_of_one_name_that_come_into_a_folder_have_results_of_their_own(inbox: Path) -> None:
    Image.new("RGB", (16, 12)).save(inbox / "a.jpg")
    looks = iter((False, False, True))
    assert [item.name for item in watch(inbox, every=0.0, stop=lambda: next(looks))] == ["a", "a-2"]


def test_hidden_folders_are_passed_over_as_without_a_watch(inbox: Path) -> None:
    for folder in (".thumbs", "new"):
        (inbox / folder).mkdir()
        Image.new("RGB", (16, 12)).save(inbox / folder / "t.png")
    looks = iter((False, False, True))
    found = [item.origin for item in watch(inbox, every=0.0, stop=lambda: next(looks))]
    assert found == [item.origin for item in sources.expand(inbox)]


def test_what_another_verb_did_is_not_done_by_this_one(tmp_path: Path) -> None:
    listed = Inputs(tmp_path, "segment")
    listed.done("a.png", ["a_mask.png"])
    listed.write()
    assert "a.png" in Inputs(tmp_path, "segment")
    with pytest.raises(FileExistsError, match=r"_inputs\.json is there already"):
        Inputs(tmp_path, "portrait")
    assert "a.png" not in Inputs(tmp_path, "portrait", overwrite=True)


def test_a_watch_ends_where_it_is_asked_to(inbox: Path) -> None:
    assert list(watch(inbox, every=0.0, stop=lambda: True)) == []


def test_the_time_that_a_comparison_has_left() -> None:
    left = TimeLeft({"training": 2, "evaluation": 2, "timing": 4}, seconds=300)
    assert str(left) == "; 10 min left at least"  # nobody knows what evaluations take
    left.taken = {"training": [310.0], "evaluation": [20.0, 40.0], "timing": [5.0]}
    left.without("training", 1)
    assert str(left) == "; about 6 min left"
    with left.part("evaluation"):
        pass
    assert (left.parts["evaluation"], len(left.taken["evaluation"])) == (1, 3)
    with left.part("evaluation", wanted=False):
        pass
    assert left.parts["evaluation"] == 1
    assert str(TimeLeft({"training": 0})) == ""
