"""How the filter's cost grows: with parameters, with batch and image size, with devices.

    python benchmarks/growth.py [--repeats 15] [--output growth.json]

Three tables, of VGG-11. The first is timed: the filter alone, against a copy, which reads and
writes the gradient once. The others say what the filter adds to a whole training step as compiled
for a CPU: there the compiler adds up its figures in float32, so the last digit of a difference is
rounding.
"""

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from jax.extend.backend import clear_backends
from timing import alternate, environment, ratio, report

import lgnn_jax as lgnn
from lgnn_jax.training.config import Config, Model
from lgnn_jax.training.data import Info
from lgnn_jax.training.optimizer import build_optimizer
from lgnn_jax.training.session import plan
from lgnn_jax.training.steps import (
    AXIS,
    init_state,
    make_draw,
    make_train_step,
    many_train_steps,
    parallelize,
)

WIDTHS = (0.25, 0.5, 1.0, 2.0)
BATCHES, SIDES = (32, 64, 128), (32, 64)
DEVICES = (1, 2, 8)
COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "collective-permute", "all-to-all")


@dataclass(frozen=True)
class Arguments:
    """How the filter's cost grows: with parameters, with batch and image size, with devices."""

    repeats: int = 15
    """Rounds of the timed table, each of filter and copy in turn."""
    output: Path | None = None
    """Where to write the tables as JSON: for x.json, x_parameters.json and so on."""


def main(arguments: Arguments) -> None:
    """Measures, prints and writes, table by table."""
    header = environment("jax", "flax", "optax")
    for table in (parameters, inputs, devices):
        output = arguments.output
        if output is not None:
            output = output.with_stem(f"{output.stem}_{table.__name__}")
        title, *figures = table(arguments)
        report(title, header, *figures, output)
        print(flush=True)


def parameters(arguments: Arguments) -> tuple[str, list[str], list[list[str]], Any]:
    """Times the filter alone on the gradients of wider and wider networks."""
    rows, data = [], {}
    for width in WIDTHS:
        grads = _gradients(width)
        calls = {"copy": _copy(grads), "filter": _filter(grads)}
        seconds = alternate(calls, arguments.repeats)
        millions = sum(x.size for x in jax.tree.leaves(grads)) / 1e6
        copy, filtered = (np.median(seconds[name]) * 1e3 for name in calls)
        values = (millions, copy, filtered, filtered / millions)
        times = ratio(seconds["filter"], seconds["copy"])
        rows.append([f"{width:g}", *(f"{value:.2f}" for value in values), times])
        data[width] = {name: values.tolist() for name, values in seconds.items()}
    return (
        "Filter of all of VGG-11's gradients, by width: medians "
        f"of {arguments.repeats} (10th to 90th percentile)",
        ["width", "10^6 parameters", "copy, ms", "filter, ms", "ms / 10^6", "filter / copy"],
        rows,
        data,
    )


def inputs(arguments: Arguments) -> tuple[str, list[str], list[list[str]], Any]:
    """Compiles the step for several batch and image sizes and subtracts the baseline's figures."""
    del arguments
    rows, data = [], []
    for side in SIDES:
        for batch in BATCHES:
            costs = [
                lower_step(config, cifar(side), jax.devices()[:1]).compile().cost_analysis()
                for config in variants(batch)
            ]
            row = [f"{side}x{side}", str(batch)]
            for name in ("flops", "bytes accessed"):
                before, after = (cost[name] / 1e6 for cost in costs)
                row += [f"{before:.2f}", f"{after - before:.2f}"]
            rows.append(row)
            data.append({"side": side, "batch": batch, "costs": costs})
    return (
        "What the filter adds to a step of VGG-11 at width 0.25: the CPU compiler's figures",
        ["images", "batch", "step, MFLOP", "filter, MFLOP", "step, MB", "filter, MB"],
        rows,
        data,
    )


def devices(arguments: Arguments) -> tuple[str, list[str], list[list[str]], Any]:
    """Counts the collectives of the pmapped step on several devices."""
    del arguments
    clear_backends()
    jax.config.update("jax_num_cpu_devices", max(DEVICES))
    rows, data = [], []
    for count in DEVICES:
        for config in variants(128):
            compiled = lower_step(config, cifar(32), jax.devices("cpu")[:count]).compile()
            found = count_ops(compiled.as_text(), COLLECTIVES)
            rows.append([str(count), config.variant, *map(str, found.values())])
            data.append({"devices": count, "variant": config.variant, **found})
    return (
        "Collectives in a step of VGG-11 at width 0.25, by CPU devices",
        ["devices", "variant", *COLLECTIVES],
        rows,
        data,
    )


def cifar(side: int) -> Info:
    """Returns the sizes of CIFAR-100, with images of another side."""
    return Info((side, side, 3), tuple(map(str, range(100))), 50_000)


def variants(batch_size: int) -> list[Config]:
    """Returns the small run without the filter and with it."""
    model = Model("vgg11", width=0.25)
    return [
        Config(model=model, batch_size=batch_size, variant=variant)
        for variant in ("baseline", "constant")
    ]


def lower_step(
    config: Config, info: Info, devices: list[jax.Device], *, steps: int | None = None
) -> jax.stages.Lowered:
    """Returns the pmapped training step of a run, lowered for devices from shapes alone.

    With `steps` it is the call of so many steps that GPUs make.
    """
    planned = plan(config, info)
    tx = build_optimizer(config, planned.shapes, planned.steps_per_epoch)
    step = make_train_step(
        planned.network,
        tx,
        config,
        image_shape=info.image_shape,
        steps_per_epoch=planned.steps_per_epoch,
        mean=np.zeros(3, np.float32),
        deviation=np.ones(3, np.float32),
        axis_name=AXIS,
    )
    sigma, rows = [], (len(devices), config.batch_size // len(devices))
    if steps is not None:
        step = many_train_steps(
            step, make_draw(config, AXIS), takes_sigma=config.method.filter is not None
        )
        sigma, rows = [jax.ShapeDtypeStruct((), np.float32)], (steps, *rows)
    mapped = parallelize(
        step, devices, whole=4 + len(sigma), shares=1, axis=len(rows) - 2, donate=True
    )
    return mapped.lower(
        jax.eval_shape(partial(init_state, planned.network, tx, info.image_shape), config.seed),
        jax.ShapeDtypeStruct((info.train_count, math.prod(info.image_shape)), np.uint8),
        jax.ShapeDtypeStruct((info.train_count,), np.int32),
        jax.ShapeDtypeStruct((), np.int32),
        *sigma,
        jax.ShapeDtypeStruct(rows, np.int32),
    )


def count_ops(program: str, names: Iterable[str]) -> dict[str, int]:
    """Counts operations in a compiled program's text, synchronous or asynchronous ones."""
    return {name: len(re.findall(rf" {name}(?:-start)?\(", program)) for name in names}


def _gradients(width):
    shapes = plan(Config(model=Model("vgg11", width=width)), cifar(32)).shapes
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape), x.dtype), shapes)


def _copy(grads):
    copy = jax.jit(lambda grads: jax.tree.map(lambda x: x * 1.0001, grads))
    return lambda: jax.block_until_ready(copy(grads))


def _filter(grads):
    # A schedule, so that sigma is not known when the program is compiled.
    sigma = lgnn.decreasing_sigma(0.5, steps_per_epoch=390, epochs=200)
    tx = lgnn.transform(lgnn.som_table(grads), sigma=sigma)
    state, update = tx.init(grads), jax.jit(tx.update)
    return lambda: jax.block_until_ready(update(grads, state))


if __name__ == "__main__":
    main(tyro.cli(Arguments))
