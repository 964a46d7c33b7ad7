"""3x3 convolution by Winograd's minimal filtering, as matrix products alone: for CPUs.

A line of n pixels, zeros beyond its ends, is convolved with 3 taps by products of sums: with
constant matrices, `y = output @ ((kernel @ g) * (tiles @ x))`. On `(height, width, batch,
channels)` each constant matrix multiplies rows of contiguous memory. The zeros at the ends are in
the matrices; nothing is padded, gathered or scattered, forward or backward. With few channels the
matrices of two axes cost more than they save: then the rows alone are transformed.

    | pixels | products | multiplications saved, in two dimensions |
    | 1      | 1        | 9 x: the other taps see zeros            |
    | 2      | 3        | 4 x: Karatsuba's product                 |
    | 4 t    | 6 t      | 4 x: tiles of F(4, 3)                    |

References: Winograd, "Arithmetic Complexity of Computations", 1980; Lavin and Gray, "Fast
Algorithms for Convolutional Neural Networks", 2016.
"""

from functools import lru_cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

# Up to so many pixels both axes are transformed by one matrix, which passes over memory once.
_SMALL_IMAGE = 64


class Line(NamedTuple):
    """Constants for one axis: `products` a tile, float64."""

    tiles: np.ndarray  # (products, tiles, pixels)
    kernel: np.ndarray  # (products, 3)
    output: np.ndarray  # (pixels, products, tiles)


def winograd(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """3x3 convolution with stride 1 and one zero around the image.

    Args:
      x: `(height, width, batch, c_in)`, float32.
      kernel: `(3, 3, c_in, c_out)`, float32.

    Returns:
      `(height, width, batch, c_out)`. The rounding error is about 8e-7 (root mean square, 64
      channels, outputs of order 1), where a plain sum has some 2e-7.
    """
    height, width, batch, c_in = x.shape
    c_out = kernel.shape[-1]
    rows, columns = _line(height), _line(width)
    (r, t, _), (s, u, _) = rows.tiles.shape, columns.tiles.shape

    taps = _constant(np.kron(rows.kernel, columns.kernel)) @ kernel.reshape(9, c_in * c_out)
    if height * width <= _SMALL_IMAGE:
        both = np.einsum("rti,suj->rstuij", rows.tiles, columns.tiles)
        tiles = _constant(both.reshape(-1, height * width)) @ x.reshape(height * width, -1)
        products = tiles.reshape(r * s, -1, c_in) @ taps.reshape(r * s, c_in, c_out)
        both = np.einsum("irt,jsu->ijrstu", rows.output, columns.output)
        y = _constant(both.reshape(height * width, -1)) @ products.reshape(-1, batch * c_out)
        return y.reshape(height, width, batch, c_out)

    # The matrices of the columns and the taps are repeated, so that no product needs a transposed
    # copy of its other operand.
    lines = _constant(rows.tiles.reshape(r * t, height)) @ x.reshape(height, -1)
    across = _repeated(columns.tiles.reshape(s * u, width), r * t)
    tiles = across @ lines.reshape(r * t, width, batch * c_in)
    taps = jnp.broadcast_to(taps.reshape(r, 1, s, c_in, c_out), (r, t, s, c_in, c_out))
    products = tiles.reshape(r, t, s, u * batch, c_in) @ taps
    across = _repeated(columns.output.reshape(width, s * u), r * t)
    lines = across @ products.reshape(r * t, s * u, batch * c_out)
    y = _constant(rows.output.reshape(height, r * t)) @ lines.reshape(r * t, -1)
    return y.reshape(height, width, batch, c_out)


def winograd_rows(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """As `winograd`, with products of whole windows along the width: for few channels."""
    height, width, batch, c_in = x.shape
    c_out = kernel.shape[-1]
    rows = _line(height)
    r, t, _ = rows.tiles.shape

    lines = _constant(rows.tiles.reshape(r * t, height)) @ x.reshape(height, -1)
    lines = lines.reshape(r, t, width, batch, c_in)
    lines = jnp.pad(lines, [(0, 0), (0, 0), (1, 1), (0, 0), (0, 0)])
    windows = jnp.concatenate([lines[:, :, j : j + width] for j in range(3)], -1)
    taps = _constant(rows.kernel) @ kernel.reshape(3, -1)
    products = windows.reshape(r, -1, 3 * c_in) @ taps.reshape(r, 3 * c_in, c_out)
    y = _constant(rows.output.reshape(height, r * t)) @ products.reshape(r * t, -1)
    return y.reshape(height, width, batch, c_out)


def multiplications(height: int, width: int, c_in: int, c_out: int) -> tuple[float, float]:
    """Counts those of `winograd` and of `winograd_rows`, for each output of each image.

    A plain sum has `9 * c_in`.
    """
    rows, columns = (np.prod(_line(side).tiles.shape[:2]) for side in (height, width))
    small = height * width <= _SMALL_IMAGE
    both = rows * columns if small else rows + rows / height * columns
    transforms = np.array([both, rows]) * (1 + c_in / c_out)
    products = np.array([rows * columns / (height * width), 3 * rows / height]) * c_in
    return tuple(transforms + products)


def _constant(matrix):
    return jnp.asarray(matrix, jnp.float32)


def _repeated(matrix, times):
    return jnp.broadcast_to(_constant(matrix), (times, *matrix.shape))


@lru_cache
def _line(pixels: int) -> Line:
    if pixels == 1:
        return Line(np.ones((1, 1, 1)), np.array([[0.0, 1.0, 0.0]]), np.ones((1, 1, 1)))
    if pixels == 2:
        # y0 = g1 x0 + g2 x1, y1 = g0 x0 + g1 x1: they share g1 (x0 + x1).
        tiles = np.array([[1.0, 1.0], [0.0, 1.0], [1.0, 0.0]])
        kernel = np.array([[0.0, 1.0, 0.0], [0.0, -1.0, 1.0], [1.0, -1.0, 0.0]])
        output = np.array([[1.0, 1.0, 0.0], [1.0, 0.0, 1.0]])
        return Line(tiles[:, None], kernel, output[:, :, None])
    tile, kernel, output = _toom_cook()
    count = -(-pixels // 4)
    tiles = np.zeros((6, count, 1 + 4 * count + 1))  # of the line with its zeros
    outputs = np.zeros((4 * count, 6, count))
    for i in range(count):
        tiles[:, i, 4 * i : 4 * i + 6] = tile
        outputs[4 * i : 4 * i + 4, :, i] = output
    return Line(tiles[:, :, 1 : pixels + 1], kernel, outputs[:pixels])


def _toom_cook() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """F(4, 3): matrices `(6, 6)` for a tile, `(6, 3)` for the taps and `(4, 6)` for the outputs.

    By evaluating polynomials at five points and infinity. As the transforms are matrix products,
    the points need not be small integers: of those tried, 0, +-2/3 and +-3/2 round best, with a
    root mean square error of 8e-7, where 0, +-1 and +-2 have 1.9e-6. Barabasz, Anderson,
    Soodhalter and Gregg, "Error Analysis and Improving the Accuracy of Winograd Convolution for
    Deep Neural Networks", 2020, explain why.
    """
    points = np.array([0, 2 / 3, -2 / 3, 3 / 2, -3 / 2])

    def powers(count):
        infinity = np.eye(count)[-1:]
        return np.concatenate([points[:, None] ** np.arange(count), infinity])

    tile, kernel, output = np.linalg.inv(powers(6)).T, powers(3), powers(4).T
    of_tile, of_kernel = abs(tile).sum(1, keepdims=True), abs(kernel).max(1, keepdims=True)
    return tile / of_tile, kernel / of_kernel, output * (of_tile * of_kernel).T
