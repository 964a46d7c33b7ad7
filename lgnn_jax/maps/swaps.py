"""Neurons change places, two by two, as long as that brings like to like.

Pure JAX: it runs within a jitted step as well as by itself, on any device.
"""

import math
from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from lgnn_jax.maps.grid import Grid
from lgnn_jax.maps.shapes import Map

# A smaller gain is rounding. Sums of likeness are some ten, of which float32 has six digits: with
# 1,280 neurons gains were off by 1e-5 at width 5, by 3e-7 at width 0.5.
_ENOUGH = 1e-6


def squared_distances(map: Map, dtype: jax.typing.DTypeLike = np.float32) -> tuple[np.ndarray, ...]:
    """Returns squared distances whose sum over the axes of a map is that of its places.

    A Gaussian of distance is the product of one along each axis. A grid has its sides as axes,
    `(side, side)` each, so that a product over all places is one over each line; other maps have a
    single axis, `(places, places)`.

    Example:
      >>> from lgnn_jax.maps.grid import grid
      >>> [x.shape for x in squared_distances(grid(40, 32))]
      [(40, 40), (32, 32)]
    """
    if not isinstance(map, Grid):
        return (np.square(map.distances()).astype(dtype),)
    lines = [Grid((side,), (wrap,)) for side, wrap in zip(map.sides, map.wrap, strict=True)]
    return tuple(np.square(line.distances()).astype(dtype) for line in lines)


@jax.jit
def sweeps(
    likeness: jax.Array,
    places: jax.Array,
    widths: jax.Array,
    squares: Sequence[jax.Array],
    fixed: jax.Array,
) -> jax.Array:
    """Returns places after one sweep for each width.

    A sweep finds, for each place, the place with which a swap of neurons would raise

        sum over pairs of places p, q of exp(-distance(p, q)^2 / (2 width^2)) likeness(p, q)

    the most, where likeness(p, q) is that of the neurons that lie there. Two places that choose
    each other swap their neurons, all such pairs at once. Each pair by itself raises the sum. Many
    together mostly raise it too, but not always: where there is hardly any order, sweeps of one
    width may go on and lower it by some percent.

    Args:
      likeness: float32 `(neurons, neurons)`, symmetric to the last bit, with a diagonal of 0.
      places: int32 `(neurons,)`: the neuron at each place.
      widths: float32 `(sweeps,)`, in map units, positive.
      squares: see `squared_distances`.
      fixed: bool `(neurons,)`: of each place, whether its neuron stays there.

    Returns:
      int32 `(neurons,)`.
    """
    sweep = partial(_sweep, likeness, squares, fixed)
    return jax.lax.scan(lambda places, width: (sweep(places, width), None), places, widths)[0]


def _sweep(likeness, squares, fixed, places, width):
    windows = [jnp.exp(-x / (2 * width**2)) for x in squares]
    between = likeness[places[:, None], places[None]]
    around = _around(windows, between)
    own = jnp.diag(around)
    # Of two that swap, each would find the other where it no longer is.
    gain = around + around.T - 2 * (1 - _product(windows)) * between
    gain -= own[:, None] + own[None]
    gain = jnp.where(fixed[:, None] | fixed[None], 0, gain)
    # Without an argmax, which takes longer than the rest on CPUs. Gains are symmetric to the last
    # bit, so two places that choose each other have the same largest one.
    best = gain.max(axis=1)
    index = jnp.arange(len(places))
    mutual = (gain == best[:, None]) & (gain == best[None])
    partner = jnp.where(mutual, index[None], -1).max(axis=1)
    swapping = (best > _ENOUGH) & (partner >= 0)
    # Where several places have the same largest gain with one, it takes the last of them.
    swapping &= swapping[partner] & (partner[partner] == index)
    return jnp.where(swapping, places[partner], places)


def _around(windows, between):
    """For each place, and each place's neuron: the sum of what is near the first, as it weighs."""
    count, left = len(between), 1
    for window in windows:
        side = len(window)
        # A batch of small products: XLA's other forms of it took twice as long on a CPU.
        batch = jnp.broadcast_to(window, (left, side, side))
        x = between.reshape(left, side, -1)
        between = jnp.matmul(batch, x, precision=jax.lax.Precision.HIGHEST)
        left *= side
    return between.reshape(count, count)


def _product(windows):
    """The window over pairs of places, as the product of those along the axes."""
    axes = len(windows)
    found = jnp.ones((1,) * (2 * axes), jnp.float32)
    for i, window in enumerate(windows):
        shape = [1] * (2 * axes)
        shape[i] = shape[axes + i] = len(window)
        found = found * window.reshape(shape)
    count = math.prod(len(window) for window in windows)
    return found.reshape(count, count)
