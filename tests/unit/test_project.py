"""The project held against its own rules: headers, cards, sizes, rooms, and what must not be in the repository."""

from __future__ import annotations

import ast
import os
import re
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from segmentarium.registry import known, registered

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "src" / "segmentarium"
FILES = sorted(SOURCE.rglob("*.py"))
LONGEST = 500

# Doors against the order of the rooms, each with its reason in docs/architecture.md.
BACK_DOORS = {
    ("registry", "backbones"),
    ("registry", "weights"),
    ("composition", "semantic"),
    ("matting", "inference"),
    ("benchmarking", "cli"),
}


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


@cache
def syntax(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"))


@cache
def tracked() -> tuple[Path, ...]:
    """The files that git keeps and that exist here."""
    done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"not a git checkout: {done.stderr.strip()}")
    return tuple(path for name in done.stdout.split("\0") if name and (path := ROOT / name).is_file())


# model files ------------------------------------------------------------------------------------------------------------

MODULES = sorted({facts["module"] for facts in known().values()})


def words(text: str) -> str:
    return " ".join(text.split())


@pytest.mark.parametrize("module", MODULES)
def test_a_model_file_has_its_header(module: str) -> None:
    """Idea and figures stand in the docstring, the paper's data in `Paper` alone."""
    docstring = ast.get_docstring(syntax(SOURCE / f"{module.replace('.', '/')}.py")) or ""
    title, _, body = docstring.partition("\n\n")
    assert 3 < len(words(title)) < 130, "the first line names the system"
    assert len(words(body)) > 200, "the idea, what the code does and the paper does not say, what we change"
    assert "Published" in body
    for paper in {found.card.paper for found in registered(module)}:
        repeated = [
            fact for fact in (paper.title, paper.authors, f"{paper.venue} {paper.year}", paper.url, paper.code) if fact
        ]
        # a short title is the system's own name
        assert [fact for fact in repeated if words(fact) in words(docstring) and len(words(fact)) > 12] == []


@pytest.mark.parametrize("module", MODULES)
def test_a_model_file_says_where_it_comes_from(module: str) -> None:
    for paper in {found.card.paper for found in registered(module)}:
        assert all((paper.title, paper.authors, paper.venue))
        assert 1990 < paper.year < 2100
        assert paper.url.startswith("https://")
        assert bool(paper.code) == bool(paper.code_licence)
        assert not paper.code or paper.code.startswith("https://")


# files ------------------------------------------------------------------------------------------------------------------


def test_every_module_says_what_it_is() -> None:
    everything = [*FILES, *(path for path in tracked() if path.suffix == ".py")]
    assert [named(path) for path in everything if syntax(path).body and not ast.get_docstring(syntax(path))] == []


def test_no_file_is_too_long_to_read() -> None:
    everything = {*FILES, *(path for path in tracked() if path.suffix == ".py")}
    long = {named(path): count for path in everything if (count := len(path.read_text("utf-8").splitlines())) > LONGEST}
    assert long == {}


def test_no_drawers_and_no_star_imports() -> None:
    drawers = {"utils", "util", "helpers", "misc", "common"}
    assert [named(path) for path in FILES if path.stem in drawers or path.parent.name in drawers] == []
    stars = [
        f"{named(path)}:{node.lineno}"
        for path in FILES
        for node in ast.walk(syntax(path))
        if isinstance(node, ast.ImportFrom) and any(alias.name == "*" for alias in node.names)
    ]
    assert stars == []


def functions(tree: ast.Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Public functions and methods of public classes."""
    for node in tree.body:
        body = node.body if isinstance(node, ast.ClassDef) and not node.name.startswith("_") else [node]
        for child in body:
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef) and not child.name.startswith("_"):
                yield child


def test_public_functions_are_typed() -> None:
    untyped = [
        f"{named(path)}:{function.lineno} {function.name}"
        for path in FILES
        for function in functions(syntax(path))
        if (function.returns is None and "contextmanager" not in ast.unparse(function.decorator_list or [ast.Pass()]))
        or any(
            argument.annotation is None
            for argument in (*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs)
            if argument.arg not in ("self", "cls")
        )
    ]
    assert untyped == []


# rooms ------------------------------------------------------------------------------------------------------------------


def rooms() -> list[str]:
    """The rooms in the order of the table in docs/architecture.md."""
    found: list[str] = []
    for line in (ROOT / "docs" / "architecture.md").read_text("utf-8").splitlines():
        if line.startswith("| `"):
            found += re.findall(r"`(\w+)(?:/|\.py)`", line.split("|")[1])
        elif found:
            break
    return found


def room(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Line and room of each import of ours, those inside functions included."""
    for node in ast.walk(syntax(path)):
        modules: list[str] = []
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{named(path)}:{node.lineno} imports relatively"
            assert node.module is not None
            modules = [node.module]
            if node.module == "segmentarium":
                modules = [f"segmentarium.{alias.name}" for alias in node.names]
        for module in modules:
            parts = module.split(".")
            if parts[0] == "segmentarium" and len(parts) > 1:
                yield node.lineno, parts[1]


def test_the_table_names_every_room() -> None:
    there = {room(path) for path in FILES} - {"__init__", "__main__"}
    assert set(rooms()) == there
    assert len(rooms()) == len(there)


def test_a_room_imports_only_from_rooms_above_it() -> None:
    order = {name: index for index, name in enumerate(rooms())}
    wrong = [
        f"{named(path)}:{line} imports {other}"
        for path in FILES
        if room(path) in order
        for line, other in imports(path)
        if other in order and order[other] > order[room(path)] and (room(path), other) not in BACK_DOORS
    ]
    assert wrong == []


def test_a_back_door_opens_only_inside_a_function() -> None:
    for path in FILES:
        top = {
            line
            for node in syntax(path).body
            for line in (node.lineno,)
            if isinstance(node, ast.Import | ast.ImportFrom)
        }
        for line, other in imports(path):
            assert (room(path), other) not in BACK_DOORS or line not in top, f"{named(path)}:{line}"


# the repository ---------------------------------------------------------------------------------------------------------


def test_no_path_of_a_machine_and_no_index_of_packages() -> None:
    # put together from pieces, so that this file does not hold them
    forbidden = [
        "/" + "work/",
        "/" + "root/",
        "/" + "home/",
        "files.python" + "hosted",
        "index" + "-url",
        "find" + "-links",
    ]
    for variable in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "UV_INDEX_URL", "UV_DEFAULT_INDEX", "UV_INDEX"):
        host = urlsplit(os.environ.get(variable, "")).hostname
        forbidden += [host] if host else []
    found = [f"{named(path)}: {word}" for path in tracked() for word in forbidden if word.encode() in path.read_bytes()]
    assert found == []


def test_no_unfinished_work() -> None:
    marks = re.compile(rb"\b(" + b"|".join([b"TO" + b"DO", b"FIX" + b"ME", b"X" + b"XX", b"HA" + b"CK"]) + rb")\b")
    text = {".py", ".md", ".toml", ""}
    assert [named(path) for path in tracked() if path.suffix in text and marks.search(path.read_bytes())] == []


def test_no_lock_file_is_tracked() -> None:
    locks = {
        "uv.lock",
        "poetry.lock",
        "Pipfile.lock",
        "pdm.lock",
        "pixi.lock",
        "pylock.toml",
        "package-lock.json",
        "npm-shrinkwrap.json",
    }
    assert [named(path) for path in tracked() if path.name in locks] == []


def test_no_requirement_is_pinned() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    requirements = [
        *project["project"]["dependencies"],
        *(need for extra in project["project"]["optional-dependencies"].values() for need in extra),
    ]
    assert requirements
    assert [need for need in requirements if re.search(r"==|<|~=|@", need)] == []


def test_ci_runs_what_the_readme_says() -> None:
    script = (ROOT / ".ci" / "run").read_text("utf-8")
    commands = [line for line in script.splitlines() if re.search(r"\bpytest\b", line)]
    assert len(commands) == 1
    assert "$" not in commands[0]
    readme = (ROOT / "README.md").read_text("utf-8")
    shown = [command for line in readme.splitlines() for command in re.findall(r"uv run pytest.*?(?=`|\s*$)", line)]
    assert shown == commands
    assert "set -euo pipefail" in script
    assert os.access(ROOT / ".ci" / "run", os.X_OK)


def test_every_link_in_the_pages_leads_somewhere() -> None:
    missing = []
    for page in (path for path in tracked() if path.suffix == ".md"):
        for link in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text("utf-8")):
            if not link.startswith(("http://", "https://", "mailto:")) and not (page.parent / link).exists():
                missing.append(f"{named(page)}: {link}")
    assert missing == []
