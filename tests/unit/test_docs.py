"""What is generated from the code is up to date, and what the README links to exists."""

from __future__ import annotations

import importlib.util
import inspect
import json
import re
from pathlib import Path
from types import ModuleType

import pytest

from segmentarium.registry import known, registered

ROOT = Path(__file__).resolve().parents[2]


def loaded(name: str) -> ModuleType:
    """A file of docs/ as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    return loaded("generate")


@pytest.fixture(scope="module")
def files(generator: ModuleType) -> dict[Path, str]:
    return generator.generated()


def test_what_is_generated_is_up_to_date(files: dict[Path, str]) -> None:
    stale = [path.name for path, text in files.items() if not path.is_file() or path.read_text("utf-8") != text]
    stale += [path.name for path in (ROOT / "docs" / "models").glob("*.md") if path not in files]
    assert not stale, "run `python docs/generate.py`"


def test_every_module_that_registers_is_found(
    generator: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert set(generator.model_modules()) == {facts["module"] for facts in known().values()}
    (tmp_path / "room").mkdir()
    texts = {
        "new": "for size in (1, 2):\n    register(f'a{size}', Net, card)\n",
        "helped": "def _register(name): register_decoder(name, Net, card)\n_register('b')\n",
        "registry": "def register(name): ...\n",
        "other": "no_register = 1\n",
    }
    for name, text in texts.items():
        (tmp_path / "room" / f"{name}.py").write_text(text)
    monkeypatch.setattr(generator, "SOURCE", tmp_path)
    asked: list[str] = []
    monkeypatch.setattr(generator, "registered", lambda module: asked.append(module) or module != "room.registry")
    assert generator.model_modules() == ["room.helped", "room.new"]
    assert asked == ["room.helped", "room.new", "room.registry"]  # the others call nothing of the kind


def test_models_json_is_in_the_order_of_modules_and_of_their_registering(files: dict[Path, str]) -> None:
    rows = json.loads(files[ROOT / "src" / "segmentarium" / "models.json"])
    modules = list(dict.fromkeys(row["module"] for row in rows.values()))
    assert modules == sorted(modules)
    for module in modules:
        assert [found.name for found in registered(module)] == [n for n, row in rows.items() if row["module"] == module]


def test_a_page_has_every_class_and_every_variant_s_own_limits(generator: ModuleType, files: dict[Path, str]) -> None:
    for module, entries in generator.systems().items():
        text = files[ROOT / "docs" / "models" / f"{module.replace('.', '-')}.md"]
        for found in entries:
            assert f"\n## `{generator.class_of(found).__name__}`" in text
            assert all(f"| `{name}` |" in text for name in inspect.signature(found.build).parameters)
            for what, why in found.card.limits.items():
                having = [e for e in entries if e.card.limits.get(what) == why]
                line = next(line for line in text.splitlines() if line.startswith(f"- {what}") and line.endswith(why))
                assert len(having) == len(entries) or f"`{found.name}`" in line
        assert text.count("\nShapes of `") == len({generator.class_of(found) for found in entries})


def test_lists_of_a_docstring_stay_lists(generator: ModuleType) -> None:
    given = """Forms:
"paper"   one of a kind,
          on two lines
v1c       another    (mmseg)
After the list.  Two spaces are no list.

    code   stays
- and a list of Markdown's"""
    assert (
        generator.markdown(given)
        == """Forms:

- `"paper"`: one of a kind,
  on two lines
- `v1c`: another (mmseg)

After the list.  Two spaces are no list.

    code   stays
- and a list of Markdown's"""
    )


def test_the_readme_has_families_and_the_page_of_models_all_systems(files: dict[Path, str]) -> None:
    readme, table = files[ROOT / "README.md"], files[ROOT / "docs" / "models" / "README.md"]
    for family in {facts["module"].partition(".")[0] for facts in known().values()}:
        assert f"](docs/models/README.md#{family})" in readme
        assert f"\n## {family}\n" in table
    assert all(f"`{name}`" in table for name in known())


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "docs/architecture.md", "docs/results.md"])
def test_links_lead_somewhere(page):
    path = ROOT / page
    targets = re.findall(r"\]\((?!https?:)([^)#]+)\)", path.read_text(encoding="utf-8"))
    missing = [target for target in targets if not (path.parent / target).exists()]
    assert not missing


def test_the_site_has_every_verb_every_public_name_and_every_notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    """`mkdocs build --strict`, which CI runs, says whether its links hold."""
    import segmentarium
    from segmentarium.cli.main import VERBS

    monkeypatch.setenv("COLUMNS", "84")
    site = loaded("site")
    verbs = site.verb_pages()
    assert verbs.keys() == {"verbs/index.md", *(f"verbs/{verb}.md" for verb in VERBS)}
    assert "--max-steps" in verbs["verbs/train.md"]
    told = "".join(site.reference_pages().values())
    assert all(f".{name}\n" in told for name in segmentarium.__all__ if name != "__version__")
    pages = site.notebook_pages()
    assert len(pages) == len(list((ROOT / "docs" / "notebooks").glob("*.ipynb")))
    assert all("```python\n" in page and page.startswith("# ") for page in pages.values())


@pytest.mark.parametrize(
    ("path", "place", "link", "turned"),
    [
        ("README.md", "index.md", "docs/portrait.md", "portrait.md"),
        ("README.md", "index.md", "docs/models/README.md", "models/README.md"),
        ("README.md", "index.md", "docs/models", "models/README.md"),
        ("README.md", "index.md", "docs/notebooks/1_cut_out.ipynb", "notebooks/1_cut_out.md"),
        ("docs/serve.md", "serve.md", "../CONTRIBUTING.md", "contributing.md"),
        ("docs/models/README.md", "models/README.md", "../results.md", "../results.md"),
        ("docs/results.md", "results.md", "../recipes/person.py", "files/recipes/person.py.txt"),
        ("docs/serve.md", "serve.md", "https://example.org/a.md", "https://example.org/a.md"),
    ],
)
def test_links_are_turned_to_where_pages_stand(path: str, place: str, link: str, turned: str) -> None:
    assert loaded("site").moved(f"[a]({link}#b)", path, place) == f"[a]({turned}#b)"
