"""What commands print on a terminal: tables."""

import json
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from lgnn_jax.config import Config

_COMMANDS = "commands.json"  # those that made a sweep's folder


def make_table(*columns: tuple[str, str]) -> Table:
    """Returns an empty table with columns of a title and "left" or "right"."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for title, justify in columns:
        table.add_column(title, justify=justify)
    return table


def plan(console: Console, config: Config, plan: Any, train_count: int) -> None:
    """Prints every parameter of a `lgnn_jax.session.Plan` with its map, and the steps."""
    import jax

    from lgnn_jax.som import path_name

    table = make_table(
        ("parameter", "left"), ("shape", "right"), ("count", "right"), ("map", "right")
    )
    for path, leaf in jax.tree_util.tree_leaves_with_path(plan.shapes):
        dims = plan.maps.get(path_name(path)) if config.variant != "baseline" else None
        shape = "x".join(map(str, leaf.shape))
        table.add_row(path_name(path), shape, f"{leaf.size:,}", _dimensions(dims))
    console.print(table)
    parameters = sum(leaf.size for leaf in jax.tree.leaves(plan.shapes))
    say(
        console,
        f"{parameters:,} parameters; {train_count:,} images, {plan.steps_per_epoch:,} steps "
        f"an epoch, {plan.steps_per_epoch * config.epochs:,} steps in all",
    )


def topography(console: Console, plan: Any, params: Any) -> None:
    """Prints, by layer, how alike neighbours on the map are, beside the same for shuffled maps."""
    from lgnn_jax.sweep import figures

    table = make_table(
        ("layer", "left"), ("map", "right"), ("neighbours", "right"), ("shuffled", "right")
    )
    for layer, figure in figures(plan, params)["maps"].items():
        table.add_row(
            layer,
            _dimensions(figure["map"]),
            f"{figure['neighbours']:.3f}",
            f"{figure['shuffled']:.3f} \u00b1 {figure['shuffled_deviation']:.3f}",
        )
    if table.row_count:
        say(console, "\nmean correlation of the weights of neighbours on the map")
        console.print(table)


def sweep_tables(console: Console, out: Path, commands: list[str]) -> None:
    """Prints the tables of the runs that are finished, and writes them to files beside the runs.

    Those files name the commands that made the runs: these, after those of earlier sweeps.
    """
    from lgnn_jax import report, results
    from lgnn_jax.claims import claims
    from lgnn_jax.log import replace_text

    settings = results.collect(out)
    path = out / _COMMANDS
    earlier = json.loads(path.read_text()) if path.exists() else []
    commands = list(dict.fromkeys([*earlier, *commands]))
    replace_text(path, json.dumps(commands, indent=1) + "\n")
    for grid in results.tables(settings):
        table = make_table(*((t, "right" if i else "left") for i, t in enumerate(grid.columns)))
        for row in grid.rows:
            table.add_row(*row)
        say(console, f"\n{grid.title}")
        console.print(table)
    for claim in claims(settings):
        say(console, f"\n{claim.text}?")
        for finding in claim.findings:
            console.print(f"  {finding}", highlight=False)
    report.write(out, settings, commands)
    say(console, f"\nwritten to {out}/results.md, .csv and .json")


def say(console: Console, text: str) -> None:
    """Prints a line as it is, however long."""
    console.print(text, highlight=False, soft_wrap=True)


def _dimensions(dims: Any) -> str:
    return "" if dims is None else f"{dims[0]}x{dims[1]}"
