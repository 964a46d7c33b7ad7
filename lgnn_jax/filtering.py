"""The low-pass filter over the map (equation 3, "Apply LPF" of Algorithm 1), in equal forms.

Most forms view a layer's gradient as `(before, m, n, after)`, where `(m, n)` is its map: a reshape
without a transposition, wherever the neuron axis lies. They correlate the two middle axes with the
Gaussian window. All agree to float32 rounding and differ in speed, by platform (see `_fastest`).
"""

from collections.abc import Callable
from functools import partial
from math import prod
from typing import Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from lgnn_jax.som import SomDimensions

Method = Literal["auto", "conv", "separable", "banded", "matmul"]
Padding = Literal["replicate", "wrap", "zero"]

# Of the gradient, to bfloat16, and of the weights, to the sum of two.
_ROUNDED = (lax.Precision.DEFAULT, lax.Precision.HIGH)

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
      An array of the shape and dtype of `x`, computed in float32 (float64 for float64). On TPUs
      "auto" rounds `x` to bfloat16, some 0.2 % of it, as JAX there rounds the operands of the
      convolution that computed the gradient. On GPUs it keeps float32's accuracy for float32, to
      some 1e-6 in three TF32 products where the GPUs at hand have them; for bfloat16 and float16 it
      takes one, which is exact for `x` and rounds the filter's weights by 0.1 % at most. On both
      `jax_default_matmul_precision`, where it is set, decides instead, for `x` and the filter's
      weights alike ("float32" rounds neither). What is not finite in `x` may spread beyond its
      window, and to another map.

    Raises:
      ValueError: for an unknown `padding` or `method`, a `neuron_axis` that `x` has not, or `dims`
        that do not fit.

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
    if not -x.ndim <= neuron_axis < x.ndim:
        raise ValueError(
            f"neuron_axis {neuron_axis} is not an axis of an array of shape {x.shape}."
        )
    axis = neuron_axis % x.ndim
    if prod(dims) != x.shape[axis]:
        raise ValueError(f"dims {dims} do not fit axis {axis} of an array of shape {x.shape}.")
    dtype = compute_dtype(x)
    form = partial(_fastest, given=x.dtype) if method == "auto" else _FORMS[method]
    return form(x.astype(dtype), dims, jnp.asarray(taps, dtype), padding, axis).astype(x.dtype)


def compute_dtype(x: jax.Array) -> jnp.dtype:
    """Returns the type that `x` is filtered in: its own, or float32 for shorter ones."""
    return x.dtype if jnp.finfo(x.dtype).bits >= 32 else jnp.dtype(jnp.float32)


def check_choice(name: str, value: str, choices: type) -> None:
    """Raises ValueError unless `value` is one of a `Literal` type's values."""
    if value not in get_args(choices):
        allowed = ", ".join(repr(choice) for choice in get_args(choices))
        raise ValueError(f"{name} must be one of {allowed}, got {value!r}.")


def _by_map(form):
    """Makes a form of `(before, m, n, after)` one of arrays with a neuron axis."""

    def filtered(x, dims, taps, padding, axis):
        view = x.reshape(prod(x.shape[:axis]), *dims, prod(x.shape[axis + 1 :]))
        return form(view, taps, padding).reshape(x.shape)

    return filtered


@_by_map
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


def _separable(x, dims, taps, padding, axis):
    one = jnp.ones(1, taps.dtype)
    x = _banded_product(x, dims, taps, one, padding, axis)
    return _banded_product(x, dims, one, taps, padding, axis)


def _banded(x, dims, taps, padding, axis):
    return _banded_product(x, dims, taps, taps, padding, axis)


def _matmul(x, dims, taps, padding, axis, *, precision=lax.Precision.HIGHEST, dtype=None):
    # On the gradient as it is: merging its other axes first costs a TPU three copies of it.
    filtered = lax.dot_general(
        x,
        _matrix(dims, taps, padding),
        (((axis,), (0,)), ((), ())),
        precision=precision,
        preferred_element_type=dtype,
    )
    return jnp.moveaxis(filtered, -1, axis)


def _matrix(dims: SomDimensions, taps: jax.Array, padding: Padding) -> jax.Array:
    """The filter of a whole map as a matrix `(m * n, m * n)`, from, to.

    It is the Kronecker product of the lines' matrices, but made of comparisons, which a TPU fuses
    into the product. `jnp.kron` passes through four axes, the last of 16 neurons or so, and a TPU
    pads it to 128.
    """
    count, n = prod(dims), dims[1]
    source = lax.broadcasted_iota(jnp.int32, (count, count), 0)
    target = np.arange(count, dtype=np.int32)

    def line(side, source, target):
        shifts = _shifts(side, len(taps), padding)
        seen = np.where(shifts.any(axis=1), shifts.argmax(axis=1), -1).astype(np.int32)
        return sum(jnp.where(source == seen[k, target][None], taps[k], 0) for k in range(len(taps)))

    return line(dims[0], source // n, target // n) * line(n, source % n, target % n)


def _shifts(side: int, size: int, padding: Padding) -> np.ndarray:
    """What each tap of a window sees on a line of neurons: `(size, side, side)`, from, to."""
    radius = size // 2
    padded = np.pad(np.eye(side), ((radius, radius), (0, 0)), _PAD_MODE[padding])
    return np.stack([padded[k : k + side].T for k in range(size)])


def _weighted(taps: jax.Array, constants: np.ndarray) -> jax.Array:
    return jnp.tensordot(
        taps, constants.astype(taps.dtype), axes=1, precision=lax.Precision.HIGHEST
    )


def _diagonals(side: int, size: int, padding: Padding) -> tuple[list[int], np.ndarray]:
    """The shifts of a line by the diagonals of their matrices.

    Returns:
      The offsets (from - to) of the diagonals that are not zero; and what each tap has there,
      `(size, offsets, side)`, by the neuron that it goes to.
    """
    shifts = _shifts(side, size, padding)
    sources, targets = np.nonzero(shifts.any(axis=0))
    offsets = np.unique(sources - targets).tolist()
    entries = np.zeros((size, len(offsets), side))
    for i, offset in enumerate(offsets):
        to = np.arange(max(0, -offset), min(side, side - offset))
        entries[:, i, to] = shifts[:, to + offset, to]
    return offsets, entries


def _banded_product(x, dims, rows, columns, padding, axis):
    """Filters with the taps `rows` down the map and `columns` across it, diagonal by diagonal.

    The neurons stay one long axis: a diagonal is one shift along it, of contiguous memory, times a
    vector of weights that has the map's edges in it. XLA fuses all of them into one loop with no
    test for edges.
    """
    (m, n), after = dims, prod(x.shape[axis + 1 :])
    row_offsets, row_entries = _diagonals(m, len(rows), padding)
    column_offsets, column_entries = _diagonals(n, len(columns), padding)
    shifts = [(a * n + b) * after for a in row_offsets for b in column_offsets]
    # One product for all weights: as a matrix product it is not fused into the loop, where it would
    # be done anew for each element and take longer than all the rest.
    entries = np.einsum("tar,ubc->tuabrc", row_entries, column_entries)
    entries = entries.reshape(len(rows) * len(columns), -1)
    weights = _weighted(jnp.outer(rows, columns).ravel(), entries)
    # A line is a map with the axes after it. The axes before its own stay as they are: were they
    # merged, the loop into which XLA fuses filter and momentum would find each element's place by
    # division, LLVM would not see that what it reads of the momentum is what it overwrites, and
    # would use no vectors: 3.5 times as long. With one or two lines they are merged all the same,
    # as the ends below are padded, which costs more.
    lead, size = x.shape[: max(axis - 1, 0)], m * n * after
    count = prod(x.shape[len(lead) : axis])
    if count < 3:
        lead, count = (), prod(x.shape[:axis])
    lines = x.reshape(*lead, count, size)
    weights = jnp.repeat(weights.reshape(-1, *(1,) * len(lead), 1, m * n), after, axis=-1)
    if count < 3:
        return _padded_sum(lines, weights, shifts).reshape(x.shape)
    # A shift of an inner line may read from the next: its weight is zero there. So only the first
    # and the last are padded, which for all would take two thirds as long as the sum itself.
    flat = x.reshape(*lead, count * size)

    def shifted(d):
        # No shift as a slice of the flat array would be the same, but where the size is no power of
        # two XLA then divides the place of each element: three times as long.
        if d == 0:
            return lines[..., 1:-1, :]
        inner = lax.slice_in_dim(flat, size + d, d + (count - 1) * size, axis=-1)
        return inner.reshape(*lead, count - 2, size)

    middle = sum(w * shifted(d) for w, d in zip(weights, shifts, strict=True))
    ends = lines[..., :1, :], lines[..., -1:, :]
    first, last = (_padded_sum(end, weights, shifts) for end in ends)
    return jnp.concatenate([first, middle, last], axis=-2).reshape(x.shape)


def _padded_sum(lines, weights, shifts):
    reach, size = max(map(abs, shifts)), lines.shape[-1]
    padded = jnp.pad(lines, [(0, 0)] * (lines.ndim - 1) + [(reach, reach)])
    shifted = [lax.slice_in_dim(padded, reach + d, reach + d + size, axis=-1) for d in shifts]
    return sum(w * v for w, v in zip(weights, shifted, strict=True))


def _fastest(x, dims, taps, padding, axis, *, given):
    """Chooses the form by the platform that the program is compiled for, not the one that compiles.

    CPUs: a (3, 3, 512, 512) gradient on a (32, 16) map, two x86-64 cores with AVX-512, n = 45, as
    multiples of a copy's time (`python benchmarks/filter.py`): banded 1.1, separable 2.0, matmul
    5.6, conv 24. With a 5x5 window separable is ahead, as its sums grow with the window's side and
    not with its area.

    TPUs: for a whole VGG-11 step on a v5e the compiler reckons (an estimate, not a timing; `python
    benchmarks/tpu.py`) 1.36 GB of memory traffic without the filter, 1.41 so, 1.49 with float32
    throughout, 3.08 with separable.

    GPUs: VGG-11 in bfloat16, batch 128, on one H200, by hand, medians of 7: .881 ms a step without
    the filter, .945 with products in TF32, 1.09 in float32, 1.28 with shifts (`benchmarks/gpu` is
    there to measure it again). For an H100 the compiler puts one product for all layers of a size,
    and adds 5 % to the step's memory traffic (an estimate; `python benchmarks/h100.py`). How many
    products float32 takes depends on the GPUs at hand, as no compiler target names them here.

    `given` is the dtype that the gradient had before it was converted to that of `x`.
    """

    def form(name, **options):
        filtered = partial(_FORMS[name], **options)
        return lambda x, taps: filtered(x, dims, taps, padding, axis).astype(given)

    shifts = "banded" if len(taps) <= 3 else "separable"
    if jax.config.jax_default_matmul_precision:
        tpu = gpu = form("matmul", precision=None)
    else:
        # The weights stay exact to 1e-5 and add up to 1.
        tpu = form("matmul", precision=_ROUNDED)
        gpu = form("matmul", precision=_gpu_precision(given), dtype=given)
    return lax.platform_dependent(x, taps, tpu=tpu, cuda=gpu, rocm=gpu, default=form(shifts))


def _gpu_precision(given):
    """How a GPU multiplies, to lose nothing of a gradient of a type.

    TF32 has 11 bits of mantissa, as float16 has, and bfloat16 8: of such a gradient it loses
    nothing. The filter's weights lose as much as the result does in float16, an eighth of it in
    bfloat16. Three products of TF32 keep 22 of float32's 24 bits.
    """
    if jnp.finfo(given).bits < 32:
        return lax.Precision.DEFAULT
    if given == jnp.float32 and _gpus_have_tf32():
        return lax.DotAlgorithmPreset.TF32_TF32_F32_X3
    return lax.Precision.HIGHEST


def _gpus_have_tf32() -> bool:
    """Whether there are GPUs here, each of NVIDIA's Ampere generation or later."""
    try:
        devices = jax.local_devices(backend="cuda")
    except RuntimeError:
        return False
    return all(int(device.compute_capability.partition(".")[0]) >= 8 for device in devices)


_FORMS: dict[str, Callable[..., jax.Array]] = {  # of (x, dims, taps, padding, axis)
    "banded": _banded,
    "conv": _conv,
    "separable": _separable,
    "matmul": _matmul,
}
