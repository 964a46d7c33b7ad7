"""What `lgnn analyze` prints of the order of the maps."""

import math
from collections.abc import Callable
from typing import Any

from rich.console import Console
from rich.table import Table

from lgnn_jax.cli.show import NONE, dimensions, make_table, say


def analysis(console: Console, document: dict[str, Any]) -> None:
    """Prints the numbers of `lgnn_jax.atlas.analyze.analyze`, a table for each run."""
    for name, found in document["runs"].items():
        say(console, f"\n{name}, step {found['step']:,}: order of the weights on the maps")
        _print(console, found["layers"], _order)
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
        f"\ntraining); {NONE}: not defined, as of dead filters",
    )
    settled = {
        name: {x: n["settled"] for x, n in found["layers"].items() if "settled" in n}
        for name, found in document["runs"].items()
    }
    for name, layers in settled.items():
        if layers:
            say(console, f"\n{name}: neurons settled on what they do for half of the images")
            _print(console, layers, _settled)
    if any(settled.values()):
        say(
            console,
            "\nneighbours, trust: of the other images; one patch: of the neurons that a class"
            "\nexcites most, the share that lies in one patch (on shuffled maps); before: in the"
            "\nnetwork's order of neurons",
        )


def _print(console: Console, layers: dict[str, Any], make: Callable[..., Table]) -> None:
    """Prints a table of layers, with their names broken where it would be too wide."""
    table = make(layers)
    unbounded = console.options.update(max_width=10**6)
    if console.measure(table, options=unbounded).maximum > console.width:
        table = make(layers, fold=True)
    console.print(table)


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
            dimensions(numbers["map"]),
            f"{near['value']:z.3f} ({near['shuffled']:z.3f})" if alive else NONE,
            NONE if near["z"] is None else f"{near['p']:.3f}",
            f"{numbers['sorted_after_training']['neighbours']['value']:z.3f}" if alive else NONE,
            # Without a z, all maps have one value, whatever lies on them.
            NONE if moran["z"] is None else f"{moran['value']:z.3f}",
            NONE if trust["z"] is None else f"{trust['value']:z.3f}",
            f"{_short(weights['effective_dimensionality'])} "
            f"({_short(before['effective_dimensionality'])})",
        )
    return table


def _settled(layers: dict[str, Any], *, fold: bool = False) -> Table:
    """A table of how layers settled; `fold` breaks the layers' names at /."""
    table = make_table(
        ("layer", "left"), ("verdict", "left"), ("neighbours", "right"), ("before", "right"),
        ("trust", "right"), ("one patch", "right"), ("before", "right"),
    )  # fmt: skip
    for layer, numbers in layers.items():
        name = layer.replace("/", "/\n") if fold else layer
        if "refused" in numbers:
            table.add_row(name, *[NONE] * 6)
            continue
        near, patch = numbers["neighbours"], numbers["classes"]["patch"]
        table.add_row(
            name,
            numbers["verdict"],
            f"{near['value']:z.3f} ({near['shuffled']:z.3f})",
            f"{near['own_order']:z.3f}",
            f"{numbers['trustworthiness']['value']:z.3f}",
            f"{patch['value']:.0%} ({patch['shuffled']:.0%})",
            f"{patch['own_order']:.0%}",
        )
    return table


def _neurons(numbers: dict[str, Any]) -> int:
    """How many a layer has, from its numbers: a grid's sides tell, other maps say so."""
    map = numbers["map"]
    return math.prod(map) if isinstance(map, list) else numbers["neurons"]


def _short(number: float) -> str:
    """A number from 0 to some hundreds, of two digits at least."""
    return f"{number:.1f}" if number < 9.95 else f"{number:.0f}"
