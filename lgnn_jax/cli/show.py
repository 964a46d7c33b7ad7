"""What commands print on a terminal: tables."""

import json
import math
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table

from lgnn_jax.training import notebook
from lgnn_jax.training.config import Config

_COMMANDS = "commands.json"  # those that made a sweep's folder
_NONE = "\u2013"  # in place of a number that is not defined


def make_table(*columns: tuple[str, str]) -> Table:
    """Returns an empty table with columns of a title and "left" or "right"."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for title, justify in columns:
        table.add_column(title, justify=justify, overflow="fold")
    return table


def plan(console: Console, config: Config, plan: Any, train_count: int) -> None:
    """Prints every parameter of a `lgnn_jax.training.session.Plan` with its map, and the steps."""
    import jax

    from lgnn_jax.maps.table import path_name

    table = make_table(
        ("parameter", "left"), ("shape", "right"), ("count", "right"), ("map", "right")
    )
    for path, leaf in jax.tree_util.tree_leaves_with_path(plan.shapes):
        found = plan.maps.get(path_name(path)) if config.variant != "baseline" else None
        shape = "x".join(map(str, leaf.shape))
        table.add_row(path_name(path), shape, f"{leaf.size:,}", _dimensions(found))
    console.print(table)
    parameters = sum(leaf.size for leaf in jax.tree.leaves(plan.shapes))
    say(
        console,
        f"{parameters:,} parameters; {train_count:,} images, {plan.steps_per_epoch:,} steps "
        f"an epoch, {plan.steps_per_epoch * config.epochs:,} steps in all",
    )


def topography(console: Console, plan: Any, params: Any) -> None:
    """Prints, by layer, how alike neighbours on the map are, beside the same for shuffled maps.

    Raises:
      RunError: if a parameter is not finite.
    """
    import jax
    import numpy as np

    from lgnn_jax.experiments.sweep import figures
    from lgnn_jax.maps.table import path_name
    from lgnn_jax.training.session import RunError

    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        finite = np.isfinite(np.asarray(leaf))
        if not finite.all():
            raise RunError(
                f"{path_name(path)} has {np.asarray(leaf)[~finite][0]} among its values: all "
                "parameters must be finite."
            )
    table = make_table(
        ("layer", "left"), ("map", "right"), ("neighbours", "right"), ("shuffled", "right")
    )
    for layer, figure in figures(plan, params)["maps"].items():
        near = f"{figure['neighbours']:z.3f}"
        shuffled = f"{figure['shuffled']:z.3f} \u00b1 {figure['shuffled_deviation']:.3f}"
        if figure["neighbours"] == figure["shuffled_deviation"] == 0:  # dead filters
            near = shuffled = _NONE
        table.add_row(layer, _dimensions(figure["map"]), near, shuffled)
    if table.row_count:
        say(console, "\nmean correlation of the weights of neighbours on the map")
        console.print(table)


def sweep_tables(console: Console, out: Path, commands: list[str]) -> None:
    """Prints the tables of the runs that are finished, and writes them to files beside the runs.

    Those files name the commands that made the runs: these, after those of earlier sweeps.
    """
    from lgnn_jax.experiments import report, results
    from lgnn_jax.experiments.claims import claims
    from lgnn_jax.training.files import replace_text
    from lgnn_jax.training.session import RunError

    settings = results.collect(out)
    for grid in results.tables(settings):
        table = make_table(*((t, "right" if i else "left") for i, t in enumerate(grid.columns)))
        for row in grid.rows:
            table.add_row(*row)
        say(console, f"\n{grid.title}")
        console.print(table)
    for claim in claims(settings):
        say(console, f"\n{claim.text}?")
        for finding in claim.findings:
            console.print(f"  {finding}", highlight=False, markup=False)
    path = out / _COMMANDS
    try:
        earlier = json.loads(path.read_text()) if path.exists() else []
        commands = list(dict.fromkeys([*map(str, earlier), *commands]))
        replace_text(path, json.dumps(commands, indent=1) + "\n")
        report.write(out, settings, commands)
    except (ValueError, TypeError) as error:
        raise RunError(f"{path} is damaged: {error}; remove it.") from None
    except OSError as error:
        raise RunError(f"cannot write to {error.filename or out}: {error.strerror}.") from error
    say(console, f"\nwritten to {out}/results.md, .csv and .json")


class Stages:
    """Shows how far a long command is: a bar where it can move, a line for each stage elsewhere."""

    def __init__(self, console: Console):
        """Shows it on `console`, or in the notebook that it is in."""
        self._console, self._stage = console, None
        self._notebook = notebook.Display() if console.is_jupyter else None
        self._bar = Progress(console=console, transient=True, disable=not console.is_terminal)
        self._task = self._bar.add_task("")

    def __enter__(self) -> "Stages":
        """Returns itself."""
        self._bar.start()
        return self

    def __exit__(self, *exception: Any) -> None:
        """Ends the bar."""
        self._bar.stop()
        if self._notebook is not None:
            self._notebook.close(keep_bar=False)

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Notes that `done` of `total` parts of a stage are done."""
        if self._notebook is not None:
            self._notebook.move(done, total, stage)
            return
        if stage != self._stage and not self._console.is_terminal:
            say(self._console, stage)
        self._stage = stage
        self._bar.update(self._task, description=escape(stage), completed=done, total=total)


def analysis(console: Console, document: dict[str, Any]) -> None:
    """Prints the numbers of `lgnn_jax.atlas.analyze.analyze`, a table for each run."""
    for name, found in document["runs"].items():
        say(console, f"\n{name}, step {found['step']:,}: order of the weights on the maps")
        table = _order(found["layers"])
        unbounded = console.options.update(max_width=10**6)
        if console.measure(table, options=unbounded).maximum > console.width:
            table = _order(found["layers"], fold=True)
        console.print(table)
        for layer, numbers in found["layers"].items():
            dead = len(numbers["weights"]["dead"])
            if dead:
                count = _neurons(numbers)
                say(console, f"{layer}: {dead} of {count} filters dead (weights all equal)")
            if "visualisations" in numbers:
                made = numbers["visualisations"]
                say(
                    console,
                    f"{layer}: {made['exceed_best_of_images']:.0%} of {len(made['neurons'])} "
                    f"visualisations exceed the best of {made['images']:,} test images",
                )
    say(
        console,
        "\nneighbours: mean correlation on the map (of shuffled maps), p against these;"
        "\nsorted: the same, of the filters sorted onto the map after training; Moran:"
        "\nMoran's I; trust: trustworthiness; dimension: effective dimensionality (before"
        f"\ntraining); {_NONE}: not defined, as of dead filters",
    )


def _order(layers: dict[str, Any], *, fold: bool = False) -> Table:
    """A table of the numbers of a run's weights by layer; `fold` breaks the layers' names at /."""
    table = make_table(
        ("layer", "left"), ("map", "right"), ("neighbours", "right"), ("p", "right"),
        ("sorted", "right"), ("Moran", "right"), ("trust", "right"), ("dimension", "right"),
    )  # fmt: skip
    for layer, numbers in layers.items():
        weights, before = numbers["weights"], numbers["untrained_weights"]
        near, moran, trust = (weights[x] for x in ("neighbours", "morans_i", "trustworthiness"))
        alive = _neurons(numbers) - len(weights["dead"]) > 1  # two filters, to correlate
        table.add_row(
            layer.replace("/", "/\n") if fold else layer,
            _dimensions(numbers["map"]),
            f"{near['value']:z.3f} ({near['shuffled']:z.3f})" if alive else _NONE,
            _NONE if near["z"] is None else f"{near['p']:.3f}",
            f"{numbers['sorted_after_training']['neighbours']['value']:z.3f}" if alive else _NONE,
            # Without a z, all maps have one value, whatever lies on them.
            _NONE if moran["z"] is None else f"{moran['value']:z.3f}",
            _NONE if trust["z"] is None else f"{trust['value']:z.3f}",
            f"{_short(weights['effective_dimensionality'])} "
            f"({_short(before['effective_dimensionality'])})",
        )
    return table


def _neurons(numbers: dict[str, Any]) -> int:
    """How many a layer has, from its numbers: a grid's sides tell, other maps say so."""
    map = numbers["map"]
    return math.prod(map) if isinstance(map, list) else numbers["neurons"]


def _short(number: float) -> str:
    """A number from 0 to some hundreds, of two digits at least."""
    return f"{number:.1f}" if number < 9.95 else f"{number:.0f}"


def say(console: Console, text: str) -> None:
    """Prints a line as it is, however long."""
    console.print(text, highlight=False, soft_wrap=True, markup=False)


def _dimensions(map: Any) -> str:
    """A map in a word, be it one or what JSON has of it."""
    if map is None:
        return ""
    return "x".join(str(side) for side in map) if isinstance(map, list) else str(map)
