"""Tables for a terminal of any width, and for pipes.

On a terminal cells are folded at words.  Where a table does not fit even so, each row becomes a few lines, a cell a line: nothing
is cut.  Into a pipe or a file goes plain text, one row a line, without frames and colours.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

UNBOUNDED = 10_000  # columns


def show(table: Table, console: Console | None = None) -> None:
    """Prints a table on stdout, or on a console."""
    from rich.console import Console
    from rich.measure import Measurement

    console = console or Console()
    if not console.is_terminal:
        print("\n".join(plain(table)), file=console.file)
        return
    for column in table.columns:
        column.overflow = "fold"
    least = Measurement.get(console, console.options.update(width=UNBOUNDED), table).minimum
    if least <= console.width:
        console.print(table)
        return
    heads = [str(column.header) for column in table.columns]
    for row in _cells(table):
        console.print(f"[bold]{row[0]}[/bold]" if row[0] else "", highlight=False)
        for head, cell in zip(heads[1:], row[1:], strict=True):
            if cell:
                console.print(f"  {head}: {'; '.join(cell.splitlines())}", highlight=False)
    if table.caption:
        console.print(str(table.caption), style="dim", highlight=False)


def plain(table: Table) -> list[str]:
    """Lines of text: the heads, then a line a row, cells in columns with two spaces between."""
    from rich.text import Text

    heads = [str(column.header) for column in table.columns]
    rows = [[Text.from_markup(cell).plain.replace("\n", "; ") for cell in row] for row in _cells(table)]
    widths = [max(map(len, cells)) for cells in zip(heads, *rows, strict=True)]
    right = [column.justify == "right" for column in table.columns]
    lines = [
        "  ".join(c.rjust(w) if r else c.ljust(w) for c, w, r in zip(row, widths, right, strict=True)).rstrip()
        for row in (heads, *rows)
    ]
    return lines + ([str(table.caption)] if table.caption else [])


def _cells(table: Table) -> list[list[str]]:
    return [list(map(str, row)) for row in zip(*(column.cells for column in table.columns), strict=True)]
