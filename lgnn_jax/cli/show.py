"""How commands print: tables without rules, and sentences as they are."""

from typing import Any

from rich.console import Console
from rich.table import Table

NONE = "\u2013"  # in place of a number that is not defined


def make_table(*columns: tuple[str, str]) -> Table:
    """Returns an empty table with columns of a title and "left" or "right"."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for title, justify in columns:
        table.add_column(title, justify=justify, overflow="fold")
    return table


def say(console: Console, text: str) -> None:
    """Prints a line as it is, however long."""
    console.print(text, highlight=False, soft_wrap=True, markup=False)


def dimensions(map: Any) -> str:
    """Returns a map in a word, be it one or what JSON has of it."""
    if map is None:
        return ""
    return "x".join(str(side) for side in map) if isinstance(map, list) else str(map)
