"""Docstrings as Markdown, for the pages of systems and for the API's."""

from __future__ import annotations

import re

# `name   what it is`, aligned, as docstrings have it; prose has no three spaces in a row
ITEM = re.compile(r'("?[\w.+-]+"?(?:, "?[\w.+-]+"?)*) {3,}(\S.*)')


def markdown(text: str) -> str:
    """A docstring's prose as Markdown: its aligned lists become lists; indented blocks are code there already."""
    lines: list[str] = []
    inside = False
    for line in text.splitlines():
        item = ITEM.fullmatch(line)
        if item:
            if not inside and lines and lines[-1]:
                lines.append("")
            lines.append(f"- `{item[1].strip()}`: " + re.sub(r" {3,}", " ", item[2]))
        elif inside and line.startswith("  "):
            lines.append(f"  {line.strip()}")
        else:
            lines += ["", line] if inside and line else [line]
        inside = bool(item) or (inside and line.startswith("  "))
    return "\n".join(lines).strip()
