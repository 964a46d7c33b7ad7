"""The low-pass filter over the map (equation 3, "Apply LPF" of Algorithm 1), in three equal forms.

A layer's gradient is viewed as `(before, m, n, after)`, where `(m, n)` is its map: a reshape
without a transposition, wherever the neuron axis lies. Each form then correlates the two middle
axes with the Gaussian window. They agree to float32 rounding and differ in speed, by platform (see
`_fastest`).
"""

from collections.abc import Callable
from math import prod
from typing import Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from lgnn_jax.som import SomDimensions

Method = Literal["auto", "conv", "separable", "matmul"]
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
        columns), "matmul" (one product with a `c_out x c_out` matrix) or "auto" (the fastest
        measured on the platform that the program is compiled for).
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
    radius = len(taps) // 2
    for axis in (1, 2):
        side = x.shape[axis]
        widths = [(radius, radius) if a == axis else (0, 0) for a in range(4)]
        padded = jnp.pad(x, widths, _PAD_MODE[padding])
        shifts = [lax.slice_in_dim(padded, k, k + side, axis=axis) for k in range(len(taps))]
        x = sum(tap * shift for tap, shift in zip(taps, shifts, strict=True))
    return x


def _matmul(x: jax.Array, taps: jax.Array, padding: Padding) -> jax.Array:
    before, m, n, after = x.shape
    rows, columns = (_line_matrix(side, taps, padding) for side in (m, n))
    flat = x.reshape(before, m * n, after)
    filtered = jnp.einsum(
        "bca,cd->bda", flat, jnp.kron(rows, columns), precision=lax.Precision.HIGHEST
    )
    return filtered.reshape(x.shape)


def _line_matrix(side: int, taps: jax.Array, padding: Padding) -> jax.Array:
    """The filter along one side of the map as a matrix `(from, to)`."""
    radius = len(taps) // 2
    source = np.pad(np.eye(side, dtype=np.float32), ((radius, radius), (0, 0)), _PAD_MODE[padding])
    shifts = np.stack([source[k : k + side].T for k in range(len(taps))])
    return jnp.tensordot(taps, shifts.astype(taps.dtype), axes=1, precision=lax.Precision.HIGHEST)


def _fastest(x: jax.Array, taps: jax.Array, padding: Padding) -> jax.Array:
    """Chooses the form by the platform that the program is compiled for, not the one that compiles.

    On a (3, 3, 512, 512) gradient and a (32, 16) map, two CPU cores: separable 5.2 ms, matmul 11.8,
    conv 62. For a whole VGG-11 step on TPU v5e the compiler reckons (an estimate, not a timing)
    0.22 GB of extra memory traffic for matmul, 0.79 GB for separable. GPUs are not measured:
    separable is memory-bound wherever shifts and sums fuse.
    """

    def form(name):
        return lambda x, taps: _FORMS[name](x, taps, padding)

    return lax.platform_dependent(x, taps, tpu=form("matmul"), default=form("separable"))


_FORMS: dict[str, Callable[[jax.Array, jax.Array, Padding], jax.Array]] = {
    "auto": _fastest,
    "conv": _conv,
    "separable": _separable,
    "matmul": _matmul,
}
