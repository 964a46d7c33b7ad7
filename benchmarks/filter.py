"""The filter's time, by form and kernel, against a copy and against PyTorch's `F.conv2d`.

    python benchmarks/filter.py [--repeats 15] [--output filter.json]

A copy reads and writes the gradient once: no filter can be faster. PyTorch (optional) computes what
the paper's authors would: Algorithm 1 on a `(c_out, c_in, s, s)` gradient, transpositions included.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from timing import alternate, environment, ratio, report

from lgnn_jax.maps.grid import grid
from lgnn_jax.maps.table import som_dimensions
from lgnn_jax.maps.windows import gaussian_taps, heat_kernel, heat_lines
from lgnn_jax.methods.filtering import Form, low_pass

# Kernels of VGG-11 and 19, WRN-16-8 and 28-10: the large ones of each width.
SHAPES = [
    (3, 3, 3, 64),
    (3, 3, 64, 128),
    (3, 3, 128, 256),
    (3, 3, 256, 256),
    (3, 3, 256, 512),
    (3, 3, 512, 512),
    (3, 3, 16, 128),
    (1, 1, 256, 512),
    (3, 3, 320, 320),
    (3, 3, 640, 640),
]

# The neighbourhood that reaches over the whole map: a product along each side, or one with all.
WHOLE = {"lines": heat_lines, "matrix": heat_kernel}


@dataclass(frozen=True)
class Arguments:
    """The filter's time, by form and kernel."""

    repeats: int = 15
    """Rounds, each of every form in turn."""
    kernel_size: int = 3
    """Side of the Gaussian window, odd."""
    sigma: float = 0.5
    """Width of the Gaussian; traced, as under a schedule."""
    output: Path | None = None
    """Where to write all timings as JSON."""


def main(arguments: Arguments) -> None:
    """Measures, prints and writes."""
    header, rows, data = environment("jax", "numpy", "torch"), [], {}
    methods = get_args(Form)
    for shape in SHAPES:
        calls = {"copy": _copy(shape)}
        calls |= {method: _ours(shape, method, arguments) for method in methods}
        calls |= {name: _whole(shape, window, arguments) for name, window in WHOLE.items()}
        torch_call = _pytorch(shape, arguments)
        if torch_call is not None:
            calls["PyTorch"] = torch_call
        seconds = alternate(calls, arguments.repeats)
        name = "x".join(map(str, shape))
        rows.append(
            [name, f"{np.median(seconds['copy']) * 1e3:.2f} ms"]
            + [ratio(seconds[method], seconds["copy"]) for method in (*methods, *WHOLE)]
            + ([ratio(seconds["PyTorch"], seconds["auto"])] if torch_call else [])
        )
        data[name] = {name: values.tolist() for name, values in seconds.items()}
        print(f"{name} done", flush=True)
    columns = ["gradient", "copy", *(f"{method} / copy" for method in (*methods, *WHOLE))]
    columns += ["PyTorch / auto"] if torch_call else []
    size = arguments.kernel_size
    report(
        f"Filter {size}x{size}: median of {arguments.repeats} ratios (10th to 90th percentile)",
        header,
        columns,
        rows,
        data,
        arguments.output,
    )


def _gradient(shape):
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def _copy(shape):
    x = jnp.asarray(_gradient(shape))
    copy = jax.jit(lambda x: x * 1.0001)
    return lambda: copy(x).block_until_ready()


def _ours(shape, method, arguments):
    x, sigma = jnp.asarray(_gradient(shape)), jnp.float32(arguments.sigma)
    dims = som_dimensions(shape[-1])

    @jax.jit
    def filtered(x, sigma):
        return low_pass(x, dims, gaussian_taps(sigma, arguments.kernel_size), method=method)

    return lambda: filtered(x, sigma).block_until_ready()


def _whole(shape, window, arguments):
    x, sigma = jnp.asarray(_gradient(shape)), jnp.float32(arguments.sigma)
    map = grid(*som_dimensions(shape[-1]))
    filtered = jax.jit(lambda x, sigma: low_pass(x, map, window(map, sigma)))
    return lambda: filtered(x, sigma).block_until_ready()


def _pytorch(shape, arguments):
    """Algorithm 1 in PyTorch, checked against ours; None where PyTorch is not installed."""
    try:
        import pytorch
        import torch
    except ImportError:
        return None
    x = torch.from_numpy(_gradient(shape)).permute(3, 2, 0, 1).contiguous()
    dims = som_dimensions(shape[-1])
    taps = np.array(gaussian_taps(arguments.sigma, arguments.kernel_size))
    window = torch.from_numpy(np.outer(taps, taps))

    def filtered():
        return pytorch.low_pass(x, dims, window)

    ours = low_pass(jnp.asarray(_gradient(shape)), dims, jnp.asarray(taps))
    np.testing.assert_allclose(filtered().permute(2, 3, 1, 0).numpy(), ours, atol=1e-5)
    return filtered


if __name__ == "__main__":
    main(tyro.cli(Arguments))
