"""Tables of a network's layers: before it is trained, and after."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from rich.console import Console

from lgnn_jax.cli.show import NONE, dimensions, make_table, say
from lgnn_jax.experiments.sweep import measure
from lgnn_jax.maps.parameters import path_name
from lgnn_jax.methods.method import Method
from lgnn_jax.training.config import Config
from lgnn_jax.training.errors import RunError
from lgnn_jax.training.session import Plan


def plan(console: Console, config: Config, plan: Plan, train_count: int) -> None:
    """Prints every parameter of a plan with its map, and the steps."""
    table = make_table(
        ("parameter", "left"), ("shape", "right"), ("count", "right"), ("map", "right")
    )
    for path, leaf in jax.tree_util.tree_leaves_with_path(plan.shapes):
        found = plan.maps.get(path_name(path)) if config.method != Method() else None
        shape = "x".join(map(str, leaf.shape))
        table.add_row(path_name(path), shape, f"{leaf.size:,}", dimensions(found))
    console.print(table)
    parameters = sum(leaf.size for leaf in jax.tree.leaves(plan.shapes))
    say(
        console,
        f"{parameters:,} parameters; {train_count:,} images, {plan.steps_per_epoch:,} steps "
        f"an epoch, {plan.steps_per_epoch * config.epochs:,} steps in all",
    )


def topography(console: Console, plan: Plan, params: Any, places: Mapping[str, Any]) -> None:
    """Prints, by layer, how alike neighbours on the map are, beside the same for shuffled maps.

    `places` are those of `Plan.weights`.

    Raises:
      RunError: if a parameter is not finite.
    """
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
    for layer, numbers in measure(plan, params, places)["maps"].items():
        near = f"{numbers['neighbours']:z.3f}"
        shuffled = f"{numbers['shuffled']:z.3f} \u00b1 {numbers['shuffled_deviation']:.3f}"
        if numbers["neighbours"] == numbers["shuffled_deviation"] == 0:  # dead filters
            near = shuffled = NONE
        table.add_row(layer, dimensions(numbers["map"]), near, shuffled)
    if table.row_count:
        say(console, "\nmean correlation of the weights of neighbours on the map")
        console.print(table)
