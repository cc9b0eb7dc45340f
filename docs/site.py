"""What the site has beside docs/: README as its first page, the verbs' help, the API, the notebooks.  A hook of mkdocs.

Nothing generated lies in the repository.  Links that lead out of docs/ are turned to the pages and files that stand for them, so
that one text serves on a code host and here.
"""

from __future__ import annotations

import json
import posixpath
import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "src"))

# pages of the repository outside docs/ -> where they stand on the site
OUTSIDE = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "benchmarks/README.md": "benchmarks.md",
}
GUIDES = (
    "portrait", "data", "train", "weights", "evaluation", "compare", "serve", "masks", "long_tail", "pretraining", "keypoints",
    "lidar", "scale",
)  # fmt: skip
LINK = re.compile(r"(\]\()([^)#\s]+)((?:#[^)\s]*)?\))")


def on_config(config: Any) -> Any:
    """The navigation, of what exists."""
    from segmentarium.cli.main import VERBS

    docs = ROOT / "docs"
    guides = [f"{name}.md" for name in GUIDES if (docs / f"{name}.md").is_file()]
    systems = [
        "models/README.md",
        *sorted(f"models/{p.name}" for p in (docs / "models").glob("*.md") if p.name != "README.md"),
    ]
    notebooks = [f"notebooks/{path.stem}.md" for path in sorted((docs / "notebooks").glob("*.ipynb"))]
    verbs = [{verb: f"verbs/{verb}.md"} for verb in dict(sorted(VERBS.items()))]
    config.nav = [
        {"Start": ["index.md", *notebooks]},
        {"Guides": guides},
        {"Verbs": ["verbs/index.md", *verbs]},
        {"Systems": systems},
        {"API": ["reference/index.md", *(f"reference/{page}.md" for page in reference())]},
        {
            "Project": [
                "architecture.md",
                "results.md",
                "security.md",
                "benchmarks.md",
                "contributing.md",
                "changelog.md",
            ]
        },
    ]
    return config


def on_files(files: Any, config: Any) -> Any:
    """Adds the pages that are no files of docs/, and the files that pages link to."""
    from mkdocs.structure.files import File

    def add(path: str, content: str | bytes) -> None:
        if files.get_file_from_path(path) is None:
            files.append(File.generated(config, path, content=content))

    texts = {path: (ROOT / path).read_text("utf-8") for path in OUTSIDE if (ROOT / path).is_file()}
    for path, text in texts.items():
        add(OUTSIDE[path], moved(text, path, OUTSIDE[path]))
    for name, text in (verb_pages() | reference_pages() | notebook_pages()).items():
        add(name, text)
    pages = {f"docs/{file.src_uri}": file for file in files if file.src_uri.endswith(".md")}
    sources = texts | {path: (ROOT / path).read_text("utf-8") for path in pages if (ROOT / path).is_file()}
    for path, text in sources.items():
        for _, link, _ in LINK.findall(text):
            target = posixpath.normpath(posixpath.join(posixpath.dirname(path), link))
            if (
                ":" not in link
                and (ROOT / target).is_file()
                and target not in OUTSIDE
                and not target.startswith("docs/")
            ):
                add(
                    f"files/{target}.txt" if target.endswith((".py", ".md")) else f"files/{target}",
                    (ROOT / target).read_bytes(),
                )
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Links of docs/'s own pages."""
    path = f"docs/{page.file.src_uri}"
    return moved(markdown, path, page.file.src_uri) if (ROOT / path).is_file() else markdown


def moved(text: str, path: str, place: str) -> str:
    """A page's text, whose links are as they must be where it stands on the site.

    path   in the repository;  place: on the site
    """

    def turned(link: re.Match[str]) -> str:
        address = link[2]
        if ":" in address:
            return link[0]
        target = posixpath.normpath(posixpath.join(posixpath.dirname(path), address))
        if target in OUTSIDE:
            target = OUTSIDE[target]
        elif target == "docs/models":
            target = "models/README.md"
        elif target.startswith("docs/") and not target.endswith(".py"):
            target = re.sub(r"\.ipynb$", ".md", target.removeprefix("docs/"))
        elif (ROOT / target).is_file():
            target = f"files/{target}.txt" if target.endswith((".py", ".md")) else f"files/{target}"
        elif (ROOT / target).is_dir():
            return f"]({posixpath.relpath('index.md', posixpath.dirname(place) or '.')})"
        return f"{link[1]}{posixpath.relpath(target, posixpath.dirname(place) or '.')}{link[3]}"

    return LINK.sub(turned, text)


def verb_pages() -> dict[str, str]:
    """A page for each verb: what its --help says."""
    import os

    from segmentarium.cli.main import VERBS, parser_for

    os.environ["COLUMNS"] = "80"  # of the help: what a page shows without scrolling sideways
    pages = {}
    lines = ["# Verbs", "", "| verb | |", "|---|---|"]
    for verb, (_, line) in VERBS.items():
        lines.append(f"| [`{verb}`]({verb}.md) | {line} |")
        pages[f"verbs/{verb}.md"] = (
            f"# {verb}\n\n{line[0].upper() + line[1:]}.\n\n```text\n{parser_for(verb).format_help()}```\n"
        )
    return pages | {"verbs/index.md": "\n".join(lines) + "\n"}


def reference() -> dict[str, list[str]]:
    """Page of the API -> the public names that it documents, with their modules."""
    import segmentarium

    homes: dict[str, list[str]] = {}
    for name, module in segmentarium._PUBLIC.items():
        homes.setdefault(module.partition(".")[0], []).append(f"segmentarium.{module}.{name}")
    return dict(sorted(homes.items()))


def reference_pages() -> dict[str, str]:
    """Pages whose content mkdocstrings fills from the docstrings."""
    lines = ["# API", "", "Every public name, by the room that it is of.", ""]
    pages = {}
    for room, names in reference().items():
        lines.append(f"- [`{room}`]({room}.md): " + ", ".join(f"`{name.rpartition('.')[2]}`" for name in names))
        pages[f"reference/{room}.md"] = f"# {room}\n\n" + "\n".join(f"::: {name}\n" for name in names)
    return pages | {"reference/index.md": "\n".join(lines) + "\n"}


def notebook_pages() -> dict[str, str]:
    """The notebooks as pages: text, and code in blocks."""
    pages = {}
    for path in sorted((ROOT / "docs" / "notebooks").glob("*.ipynb")):
        parts = []
        for cell in json.loads(path.read_text("utf-8"))["cells"]:
            text = "".join(cell["source"])
            parts.append(text if cell["cell_type"] == "markdown" else f"```python\n{text}\n```")
        pages[f"notebooks/{path.stem}.md"] = "\n\n".join(parts) + "\n"
    return pages
