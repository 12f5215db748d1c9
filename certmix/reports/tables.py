"""Tables on the terminal whose numbers are never broken."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table


def print_table(console: Console, table: Table) -> None:
    """Print `table` as wide as it needs: on a narrower terminal its lines run on; no cell is cut or wrapped."""
    for column in table.columns:
        column.no_wrap = True
    before = console.width
    needed = console.measure(table, options=console.options.update(width=10_000)).maximum
    console.width = max(before, needed)
    try:
        console.print(table, crop=False)
    finally:
        console.width = before
