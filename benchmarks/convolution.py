"""Convolutions on a CPU: `lax.conv_general_dilated` against patches and Winograd's algorithm.

    python benchmarks/convolution.py [--repeats 9] [--output convolution.json]

Forward, input gradient and kernel gradient together. `lgnn_jax.models.layers.convolve` counts
multiplications to choose a form ("chosen"); this shows what the choice is worth.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from timing import alternate, environment, ratio, report

from lgnn_jax.models import layers
from lgnn_jax.models.winograd import winograd, winograd_rows

# batch, side, c_in, c_out, window, stride
CASES = [
    (128, 32, 3, 64, 3, 1),
    (128, 16, 64, 128, 3, 1),
    (128, 8, 256, 256, 3, 1),
    (128, 4, 512, 512, 3, 1),
    (128, 2, 128, 128, 3, 1),
    (32, 32, 16, 128, 3, 1),
    (32, 32, 128, 128, 3, 1),
    (32, 16, 256, 256, 3, 1),
    (32, 32, 128, 256, 3, 2),
    (32, 16, 256, 256, 1, 1),
]


@dataclass(frozen=True)
class Arguments:
    """Convolutions on a CPU, forward and backward."""

    repeats: int = 9
    """Rounds, each of every form in turn."""
    output: Path | None = None
    """Where to write all timings as JSON."""


def main(arguments: Arguments) -> None:
    """Measures, prints and writes."""
    header, rows, data = environment("jax", "numpy"), [], {}
    for batch, side, c_in, c_out, size, stride in CASES:
        rng = np.random.default_rng(0)
        x = jnp.asarray(rng.normal(size=(side, side, batch, c_in)), jnp.float32)
        kernel = jnp.asarray(rng.normal(size=(size, size, c_in, c_out)) / size, jnp.float32)
        forms = {
            "lax": partial(layers._lax_convolve, stride=stride),
            "patches": partial(layers._patches, stride=stride),
        }
        if (size, stride) == (3, 1):
            forms |= {"winograd": winograd, "rows": winograd_rows}
        forms["chosen"] = partial(layers.convolve, stride=stride)
        calls = {name: _forward_and_backward(form, x, kernel) for name, form in forms.items()}
        seconds = alternate(calls, arguments.repeats)
        name = f"{batch} x {side}x{side}, {c_in} -> {c_out}, {size}x{size}, stride {stride}"
        rows.append(
            [name, f"{np.median(seconds['lax']) * 1e3:.1f} ms"]
            + [
                ratio(seconds["lax"], seconds[form]) if form in seconds else ""
                for form in ("patches", "winograd", "rows", "chosen")
            ]
        )
        data[name] = {form: values.tolist() for form, values in seconds.items()}
    report(
        f"Convolutions: median of {arguments.repeats} ratios (10th to 90th percentile)",
        header,
        ["convolution", "lax", "lax / patches", "/ Winograd", "/ its rows alone", "/ chosen"],
        rows,
        data,
        arguments.output,
    )


def _forward_and_backward(conv, x, kernel):
    @jax.jit
    def step(x, kernel):
        y, pull_back = jax.vjp(conv, x, kernel)
        return y, pull_back(y)

    return lambda: jax.block_until_ready(step(x, kernel))


if __name__ == "__main__":
    main(tyro.cli(Arguments))
