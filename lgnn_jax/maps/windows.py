"""How far a neuron reaches on its map: the eta of equations (2) and (3) of the paper."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lgnn_jax.maps.grid import Grid
from lgnn_jax.maps.shapes import Map


def gaussian_kernel(sigma: jax.typing.ArrayLike, size: int = 3) -> jax.Array:
    """Returns the normalised two-dimensional Gaussian neighbourhood function.

    Args:
      sigma: standard deviation in map units, at least 0; a number or a (possibly traced) scalar. At
        0 the kernel is the identity: 1 in the middle.
      size: side of the window, odd.

    Returns:
      A float32 array `(size, size)`, symmetric, that sums to 1: the outer product of
      `gaussian_taps(sigma, size)` with itself.

    Raises:
      ValueError: if `size` is not odd and positive, or `sigma` is known and negative or not finite.

    Reference:
      Section III-A ("a Gaussian window of a fixed size and shrinking sigma"); section IV-A uses
      size 3 and sigma 0.5.

    Example:
      >>> import numpy as np
      >>> print(np.asarray(gaussian_kernel(0.5)).round(3))
      [[0.011 0.084 0.011]
       [0.084 0.619 0.084]
       [0.011 0.084 0.011]]
    """
    taps = gaussian_taps(sigma, size)
    return jnp.outer(taps, taps)


def gaussian_taps(
    sigma: jax.typing.ArrayLike, size: int = 3, dtype: jax.typing.DTypeLike = jnp.float32
) -> jax.Array:
    """Returns the one-dimensional factor of `gaussian_kernel`: `(size,)`, sum 1, of `dtype`."""
    check_size(size)
    check_sigma(sigma)
    squared_offsets = np.arange(-(size // 2), size // 2 + 1, dtype=dtype) ** 2
    with np.errstate(over="ignore"):  # infinite is as good as beyond the type: all taps are equal
        sigma = jnp.asarray(sigma, dtype)
    # 0 / 0 in the middle and a square that underflows are both avoided: the middle is 1 by
    # definition, and the quotient is squared only after it was taken.
    scaled = jnp.sqrt(squared_offsets) / jnp.where(sigma == 0, 1.0, sigma)
    outside = jnp.where(sigma == 0, 0.0, jnp.exp(-0.5 * scaled**2))
    weights = jnp.where(squared_offsets == 0, 1.0, outside)
    return weights / weights.sum()


def heat_kernel(
    map: Map, sigma: jax.typing.ArrayLike, dtype: jax.typing.DTypeLike = jnp.float32
) -> jax.Array:
    """Returns the neighbourhood that reaches over a whole map, of any shape.

    `exp(-sigma^2 L / 2)`, L the map's Laplacian: how heat that starts at one place spreads.
    Symmetric, and its rows add up to 1, so that a gradient's mean is kept.

    Args:
      map: any map.
      sigma: width in map units, at least 0; a number or a (possibly traced) scalar. At 0 it is the
        identity, to rounding.
      dtype: of the result.

    Returns:
      An array `(places, places)`.

    Raises:
      ValueError: if `sigma` is known and negative or not finite.

    Reference:
      Kondor and Lafferty, "Diffusion kernels on graphs and other discrete structures", 2002.

    Example:
      >>> import numpy as np
      >>> from lgnn_jax.maps.grid import ring
      >>> print(np.asarray(heat_kernel(ring(4), 1.0)).round(3)[0])
      [0.468 0.216 0.1   0.216]
    """
    check_sigma(sigma)
    with np.errstate(over="ignore"):  # infinite is as good as beyond the type
        return _heat(map, jnp.asarray(sigma, dtype), dtype)


def heat_lines(
    map: Grid, sigma: jax.typing.ArrayLike, dtype: jax.typing.DTypeLike = jnp.float32
) -> tuple[jax.Array, ...]:
    """Returns one matrix `(side, side)` for each side of a grid; `heat_kernel` is their product.

    The Laplacian of a grid is a sum over its sides.

    Example:
      >>> import numpy as np
      >>> from lgnn_jax.maps.grid import grid
      >>> rows, columns = heat_lines(grid(3, 2), 0.8)
      >>> bool(np.allclose(np.kron(rows, columns), heat_kernel(grid(3, 2), 0.8)))
      True
    """
    width = jnp.asarray(sigma, dtype)
    lines = [Grid((n,), (wraps,)) for n, wraps in zip(map.sides, map.wrap, strict=True)]
    return tuple(_heat(line, width, dtype) for line in lines)


def _heat(map: Map, width: jax.Array, dtype: jax.typing.DTypeLike) -> jax.Array:
    if isinstance(map, Grid) and len(map.sides) > 1:
        return functools.reduce(jnp.kron, heat_lines(map, width, dtype))
    values, vectors = (x.astype(dtype) for x in _spectrum(map))
    # The exponent of an infinite width times 0, the eigenvalue of the mean, would be no number.
    exponents = jnp.where(values == 0, 0, -0.5 * jnp.square(width) * values)
    return jnp.matmul(
        vectors * jnp.exp(exponents)[None], vectors.T, precision=jax.lax.Precision.HIGHEST
    )


@functools.lru_cache(maxsize=32)
def _spectrum(map: Map) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues of a map's Laplacian, ascending, and its eigenvectors as columns; float64."""
    values, vectors = np.linalg.eigh(map.laplacian())
    return np.where(values > 1e-12 * max(values[-1], 1), values, 0.0), vectors


def neighbourhood(
    map: Map, sigma: jax.typing.ArrayLike, size: int | None, dtype: jax.typing.DTypeLike
) -> jax.Array | tuple[jax.Array, ...]:
    """Returns how far a neuron reaches on a map: the taps of a window, a matrix, or one each side.

    Args:
      map: any map.
      sigma: see `gaussian_taps` and `heat_kernel`.
      size: side of the window on a grid, odd; None for the whole map. Other maps have no sides: the
        neighbourhood there is always the whole map.
      dtype: of the result.

    Returns:
      Taps `(size,)`; a matrix `(places, places)`; or, for a whole grid of several sides, a matrix
      `(side, side)` for each.
    """
    if size is not None and isinstance(map, Grid):
        return gaussian_taps(sigma, size, dtype)
    if isinstance(map, Grid) and len(map.sides) > 1:
        check_sigma(sigma)
        with np.errstate(over="ignore"):
            return heat_lines(map, sigma, dtype)
    return heat_kernel(map, sigma, dtype)


def check_size(size: int) -> None:
    """Raises ValueError unless `size` is an odd, positive kernel size."""
    if size < 1 or size % 2 == 0:
        raise ValueError(f"kernel_size must be odd and positive (3, 5, 7, ...), got {size}.")


def is_too_wide(sigma: float, size: int) -> bool:
    """Returns whether a Gaussian, cut off at a window, turns the sign of some patterns on the map.

    Within a window that is narrow for it a Gaussian is almost flat, and flat windows have negative
    gains: such patterns are learned the wrong way round. With 3 taps that begins at sigma 0.85.

    Example:
      >>> [is_too_wide(sigma, size) for sigma, size in ((0.84, 3), (0.86, 3), (1.0, 5), (2.0, 5))]
      [False, True, False, True]
    """
    offsets = np.arange(1, size // 2 + 1)
    with np.errstate(over="ignore", divide="ignore"):
        sides = np.exp(-0.5 * np.square(offsets / np.float64(sigma)))
    frequencies = np.linspace(0, np.pi, 257)
    gains = 1 + 2 * np.cos(np.outer(frequencies, offsets)) @ sides
    return bool(gains.min() < 0)


def check_sigma(sigma: Any) -> None:
    """Raises ValueError if `sigma` is known, and no number or a negative or infinite one."""
    if isinstance(sigma, jax.core.Tracer):
        return
    try:
        number = float(sigma)
    except (TypeError, ValueError, OverflowError):  # no number, or an int beyond all floats
        number = float("nan")
    if not 0 <= number < float("inf"):
        raise ValueError(
            f"sigma must be a finite number, 0 (no filter) or greater, got {one_line(sigma):.80}."
        )


def one_line(value: Any) -> str:
    """Returns what a value looks like, without its line breaks."""
    return " ".join(repr(value).split())
