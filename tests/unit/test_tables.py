"""Tables at 80 columns and in pipes: folded, never cut."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest
from rich.console import Console
from rich.table import Table

from segmentarium.benchmarking.case import Case, Measurement
from segmentarium.benchmarking.report import table as benchmark_table
from segmentarium.benchmarking.timing import Latency
from segmentarium.cli.main import VERBS, main, parser_for
from segmentarium.cli.tables import plain, show
from segmentarium.comparison.outcome import Comparison, Outcome

ROOT = Path(__file__).resolve().parents[2]


def terminal(width: int) -> Console:
    return Console(file=io.StringIO(), force_terminal=True, color_system=None, width=width, legacy_windows=False)


def printed(table: Table, width: int) -> str:
    console = terminal(width)
    show(table, console)
    return console.file.getvalue()  # type: ignore[attr-defined]


def measured() -> Table:
    latency = Latency(1234.5, 1345.6, 2345.6, 1200.0, 20)
    names = ("person", "a_network_of_a_long_name_r101.cityscapes-512x1024")
    cases = [
        Measurement(Case(name, form), latency=latency, memory=1200, same_class=0.9999)
        for name in names
        for form in ("eager", "openvino-bf16")
    ]
    return benchmark_table([*cases, Measurement(Case("person", "compile"), problem="none", skipped=True)])


def compared() -> Table:
    forms = ("eager", "deploy", "onnxruntime", "openvino")
    speed = {form: {"p50": 123.45, "same_class": 1.0} for form in forms}
    scores = {"miou": 0.7512, "boundary_iou": 0.61}
    outcomes = [
        Outcome(name, "trained", scores=scores, speed=speed, facts={"parameters": 3.1, "multiply_adds": 12.2})
        for name in ("bisenetv2", "segformer_b0")
    ]
    return Comparison(outcomes, {"task": "segmentation"}, {}, {}, "", forms).table()


@pytest.mark.parametrize("make", [measured, compared])
@pytest.mark.parametrize("width", [80, 60, 40])
def test_nothing_is_cut_and_nothing_runs_over(make, width: int) -> None:
    table = make()
    text = printed(table, width)
    assert "…" not in text
    assert all(len(line.rstrip()) <= width for line in text.splitlines())
    squeezed = re.sub(r"[\s│]", "", text)
    for line in plain(make())[1:]:
        for cell in re.split(r"\s{2,}", line):
            parts = re.findall(r"[\w.%×/-]+", cell)
            assert all(part in squeezed for part in parts), cell


def test_a_pipe_gets_plain_lines() -> None:
    file = io.StringIO()
    show(measured(), Console(file=file))
    lines = file.getvalue().splitlines()
    assert len(lines) == 6
    assert lines[0].split()[:2] == ["model", "engine"]
    assert not re.search(r"[│─━┃\x1b]|\[red\]", file.getvalue())
    assert "skipped" in lines[-1]


def test_models_at_80_columns(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "dumb")
    assert main(["models", "segformer_b*"]) == 0
    text = re.sub(r"\x1b\[[\d;]*m", "", capsys.readouterr().out)
    assert all(len(line.rstrip()) <= 80 for line in text.splitlines())
    assert "…" not in text
    assert "segformer_b5" in text


@pytest.mark.parametrize("verb", VERBS)
def test_help_folds_and_its_examples_can_be_typed(verb: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import shlex

    monkeypatch.setenv("COLUMNS", "80")
    parser = parser_for(verb)
    lines = parser.format_help().splitlines()
    assert any(line.strip().startswith("--debug") for line in lines)
    ends = lines.index("examples:") if "examples:" in lines else len(lines)
    assert [
        line for line in lines[lines.index("") : ends] if len(line) > 80 and "{" not in line
    ] == []  # choices stay whole
    for line in lines[ends:]:
        if line.strip().startswith("segmentarium "):
            words = shlex.split(re.sub(r" [<>] \S+", "", line))
            assert words[1] == verb or VERBS[words[1]] == VERBS[verb]
            parser.parse_args(words[2:])


@pytest.mark.parametrize(
    "page", [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))], ids=lambda page: page.name
)
def test_lines_of_the_pages_can_be_typed(page: Path) -> None:
    import shlex

    text = re.sub(r"\\\n\s*", " ", page.read_text("utf-8"))  # lines that go on
    for line in re.findall(r"^ {4}(?:uv run )?segmentarium (.*)$", text, re.MULTILINE):
        verb, *words = shlex.split(re.sub(r" [<>] \S+", "", line), comments=True)
        ends = next((i for i, word in enumerate(words) if word in ("|", "&&", "…")), len(words))
        parser_for(verb).parse_args(words[:ends])


@pytest.mark.parametrize("verb", VERBS)
def test_defaults_that_help_shows_are_true(verb: str) -> None:
    for action in parser_for(verb)._actions:
        found = re.search(
            r"default:? (?:is )?([\w.-]+)\)?$", (action.help or "").splitlines()[-1] if action.help else ""
        )
        if found is None or action.default in (None, "==SUPPRESS==", False):
            continue
        given = action.default
        shown = {str(given), "x".join(map(str, given)) if isinstance(given, tuple) else str(given)}
        true = float(found[1]) == given if isinstance(given, int | float) else found[1].rstrip(".") in shown
        assert true, (action.option_strings, action.help)
