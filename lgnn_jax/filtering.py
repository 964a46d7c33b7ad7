"""The low-pass filter over the map (equation 3, "Apply LPF" of Algorithm 1), in equal forms.

A layer's gradient is viewed as `(before, m, n, after)`, where `(m, n)` is its map: a reshape
without a transposition, wherever the neuron axis lies. Each form then correlates the two middle
axes with the Gaussian window. They agree to float32 rounding and differ in speed, by platform (see
`_fastest`).
"""

from collections.abc import Callable
from math import prod
from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from lgnn_jax.som import SomDimensions

Method = Literal["auto", "conv", "separable", "banded", "matmul"]
Padding = Literal["replicate", "wrap", "zero"]

_PAD_MODE = {"replicate": "edge", "wrap": "wrap", "zero": "constant"}


def low_pass(
    x: jax.Array,
    dims: SomDimensions,
    taps: jax.Array,
    *,
    padding: Padding = "replicate",
    method: Method = "auto",
    neuron_axis: int = -1,
) -> jax.Array:
    """Low-pass filters `x` over the map of its neurons.

    Args:
      x: floating-point array of any rank, say a kernel gradient `(spatial..., c_in, c_out)`.
      dims: SOM dimensions `(m, n)` with `m * n == x.shape[neuron_axis]`.
      taps: one-dimensional window of odd length; the filter is its outer product with itself. See
        `lgnn_jax.som.gaussian_taps`.
      padding: what lies beyond the map's edge: "replicate" (the edge again, as in the paper),
        "wrap" (the opposite edge: the map is a torus) or "zero".
      method: "conv" (`jax.lax` convolution, the reference), "separable" (shifts and sums, rows then
        columns), "banded" (shifts and sums, both at once), "matmul" (one product with a `c_out x
        c_out` matrix) or "auto" (the fastest measured on the platform that the program is compiled
        for).
      neuron_axis: the axis of `x` that counts the neurons.

    Returns:
      An array of the shape and dtype of `x`, computed in float32 (float64 for float64).

    Raises:
      ValueError: for an unknown `padding` or `method`, or `dims` that do not fit.

    Reference:
      Algorithm 1 and equation (3) of the paper.

    Example:
      >>> import jax.numpy as jnp
      >>> import numpy as np
      >>> from lgnn_jax.som import gaussian_taps
      >>> impulse = jnp.zeros((1, 9)).at[0, 4].set(1.0)
      >>> print(np.asarray(low_pass(impulse, (3, 3), gaussian_taps(0.5))).reshape(3, 3).round(3))
      [[0.011 0.084 0.011]
       [0.084 0.619 0.084]
       [0.011 0.084 0.011]]
    """
    check_choice("padding", padding, Padding)
    check_choice("method", method, Method)
    axis = neuron_axis % x.ndim
    if prod(dims) != x.shape[axis]:
        raise ValueError(f"dims {dims} do not fit axis {axis} of an array of shape {x.shape}.")
    dtype = x.dtype if jnp.finfo(x.dtype).bits >= 32 else jnp.float32
    view = x.reshape(prod(x.shape[:axis]), *dims, prod(x.shape[axis + 1 :])).astype(dtype)
    filtered = _FORMS[method](view, jnp.asarray(taps, dtype), padding)
    return filtered.astype(x.dtype).reshape(x.shape)


def check_choice(name: str, value: str, choices: type) -> None:
    """Raises ValueError unless `value` is one of a `Literal` type's values."""
    if value not in get_args(choices):
        allowed = ", ".join(repr(choice) for choice in get_args(choices))
        raise ValueError(f"{name} must be one of {allowed}, got {value!r}.")


def _conv(x: jax.Array, taps: jax.Array, padding: Padding) -> jax.Array:
    before, m, n, after = x.shape
    radius = len(taps) // 2
    images = jnp.moveaxis(x, 3, 1).reshape(before * after, 1, m, n)
    images = jnp.pad(
        images, ((0, 0), (0, 0), (radius, radius), (radius, radius)), _PAD_MODE[padding]
    )
    images = lax.conv_general_dilated(
        images,
        jnp.outer(taps, taps)[None, None],
        window_strides=(1, 1),
        padding="VALID",
        dimension_numbers=("NCHW", "OIHW", "NCHW"),
        precision=lax.Precision.HIGHEST,
    )
    return jnp.moveaxis(images.reshape(before, after, m, n), 1, 3)


def _separable(x: jax.Array, taps: jax.Array, padding: Padding) -> jax.Array:
    rows, columns = (_Line.of(side, taps, padding) for side in x.shape[1:3])
    x = _banded_product(x, rows, _Line.identity(x.shape[2], taps.dtype))
    return _banded_product(x, _Line.identity(x.shape[1], taps.dtype), columns)


def _banded(x: jax.Array, taps: jax.Array, padding: Padding) -> jax.Array:
    return _banded_product(x, *(_Line.of(side, taps, padding) for side in x.shape[1:3]))


def _matmul(x: jax.Array, taps: jax.Array, padding: Padding) -> jax.Array:
    before, m, n, after = x.shape
    rows, columns = (_Line.of(side, taps, padding).matrix for side in (m, n))
    flat = x.reshape(before, m * n, after)
    filtered = jnp.einsum(
        "bca,cd->bda", flat, jnp.kron(rows, columns), precision=lax.Precision.HIGHEST
    )
    return filtered.reshape(x.shape)


class _Line(NamedTuple):
    """The filter along a side of the map as a matrix `(from, to)`, and where it can be non-zero."""

    matrix: jax.Array  # shape=(side, side); may be traced
    pattern: np.ndarray  # shape=(side, side), dtype=bool; known when the program is traced

    @classmethod
    def of(cls, side: int, taps: jax.Array, padding: Padding) -> "_Line":
        radius = len(taps) // 2
        source = np.pad(np.eye(side), ((radius, radius), (0, 0)), _PAD_MODE[padding])
        shifts = np.stack([source[k : k + side].T for k in range(len(taps))]).astype(taps.dtype)
        matrix = jnp.tensordot(taps, shifts, axes=1, precision=lax.Precision.HIGHEST)
        return cls(matrix, shifts.any(axis=0))

    @classmethod
    def identity(cls, side: int, dtype: jnp.dtype) -> "_Line":
        return cls(jnp.eye(side, dtype=dtype), np.eye(side, dtype=bool))


def _banded_product(x: jax.Array, rows: _Line, columns: _Line) -> jax.Array:
    """Multiplies by `kron(rows, columns)`, diagonal by diagonal.

    The neurons stay one long axis: a diagonal is one shift along it, of contiguous memory, times a
    vector of weights in which the map's edges are already accounted for. XLA fuses all of them into
    one loop, with no test for edges in it.
    """
    before, m, n, after = x.shape
    sources, targets = np.nonzero(np.kron(rows.pattern, columns.pattern))
    offsets = np.unique(sources - targets)
    reach = np.abs(offsets).max()
    padded = jnp.pad(x.reshape(before, m * n, after), ((0, 0), (reach, reach), (0, 0)))
    target = np.arange(m * n)
    source = target + offsets[:, None]
    inside = (source >= 0) & (source < m * n)
    source = np.where(inside, source, 0)
    weights = rows.matrix[source // n, target // n] * columns.matrix[source % n, target % n]
    # Without the barrier the weights are fused into the loop and looked up anew for each element.
    weights = lax.optimization_barrier(jnp.where(inside, weights, 0))[..., None]
    shifted = [
        lax.slice_in_dim(padded, reach + offset, reach + offset + m * n, axis=1)
        for offset in offsets.tolist()
    ]
    return sum(w[None] * v for w, v in zip(weights, shifted, strict=True)).reshape(x.shape)


def _fastest(x: jax.Array, taps: jax.Array, padding: Padding) -> jax.Array:
    """Chooses the form by the platform that the program is compiled for, not the one that compiles.

    A (3, 3, 512, 512) gradient on a (32, 16) map, two x86-64 cores with AVX2, times a copy of it
    (0.76 ms): banded 2.3, separable 3.3, matmul 23, conv 90; before, with padding and slices of the
    four-dimensional view, separable was 5.4. The work of banded grows with the window's area, so
    separable takes over at 5x5. For a whole VGG-11 step on TPU v5e the compiler reckons (an
    estimate, not a timing) 0.22 GB of extra memory traffic for matmul, 0.79 GB for shifts and sums.
    GPUs are not measured: shifts and sums are memory-bound wherever they fuse.
    """

    def form(name):
        return lambda x, taps: _FORMS[name](x, taps, padding)

    shifts = "banded" if len(taps) <= 3 else "separable"
    return lax.platform_dependent(x, taps, tpu=form("matmul"), default=form(shifts))


_FORMS: dict[str, Callable[[jax.Array, jax.Array, Padding], jax.Array]] = {
    "auto": _fastest,
    "banded": _banded,
    "conv": _conv,
    "separable": _separable,
    "matmul": _matmul,
}
