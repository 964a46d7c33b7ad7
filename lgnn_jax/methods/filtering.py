"""The low-pass filter over the map (equation 3, "Apply LPF" of Algorithm 1), in equal forms.

On a grid most forms view a layer's gradient as `(before, m, n, after)`, where `(m, n)` is its map:
a reshape without a transposition, wherever the neuron axis lies. They correlate the middle axes
with the Gaussian window. All agree to float32 rounding and differ in speed, by platform (see
`_fastest`). On any other map, and where the window is the whole map, the filter is one matrix
product.
"""

from collections.abc import Callable
from functools import partial, reduce
from itertools import product
from math import prod
from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import AxisType

from lgnn_jax.maps.grid import Grid, as_map
from lgnn_jax.maps.shapes import Map

Form = Literal["auto", "conv", "separable", "banded", "matmul"]
Padding = Literal["replicate", "wrap", "zero"]

# Of the gradient, to bfloat16, and of the weights, to the sum of two.
_ROUNDED = (lax.Precision.DEFAULT, lax.Precision.HIGH)

_PAD_MODE = {"replicate": "edge", "wrap": "wrap", "zero": "constant"}


def low_pass(
    x: jax.Array,
    map: Map | tuple[int, int],
    window: jax.Array | tuple[jax.Array, ...],
    *,
    padding: Padding = "replicate",
    method: Form = "auto",
    neuron_axis: int | tuple[int, ...] = -1,
    groups: int = 1,
    floor: jax.typing.ArrayLike = 0.0,
    places: jax.Array | None = None,
) -> jax.Array:
    """Low-pass filters `x` over the map of its neurons.

    Args:
      x: floating-point array of any rank, say a kernel gradient `(spatial..., c_in, c_out)`.
      map: of the neurons; `(m, n)` for a grid.
      window: see `lgnn_jax.maps.windows`. Either the taps of a window on a grid, of odd length,
        whose outer product with itself is the filter; or a matrix `(places, places)`, from, to; or
        matrices `(side, side)`, one for each side of a grid, whose Kronecker product it is.
      padding: what lies beyond the edge of a grid: "replicate" (the edge again, as in the paper),
        "wrap" (the opposite edge: the map is a torus) or "zero". Sides that wrap do so in any case,
        and a matrix knows no padding.
      method: "conv" (`jax.lax` convolution, the reference), "separable" (shifts and sums, side by
        side of the grid), "banded" (shifts and sums, all at once), "matmul" (one product with a
        `places x places` matrix) or "auto" (the fastest measured on the platform that the program
        is compiled for). A matrix is always a product.
      neuron_axis: the axis of `x` that counts the neurons, or several that do so together, the last
        one fastest.
      groups: the neurons are so many groups, one after the other, each on a map of its own.
      floor: share of `x` that passes unfiltered, in [0, 1].
      places: int `(neurons,)`, the neuron at each place; None if they lie as they are numbered. Of
        groups, those of the first group come first.

    Returns:
      An array of the shape and dtype of `x`, computed in float32 (float64 for float64). On TPUs
      "auto", and a matrix, round `x` to bfloat16, some 0.2 % of it, as JAX there rounds what the
      convolution read that computed the gradient. On GPUs they keep float32's accuracy for float32,
      to some 1e-6 in three TF32 products where the GPUs at hand have them; for bfloat16 and float16
      they take one, which is exact for `x` and rounds the filter's weights by 0.1 % at most. On
      both `jax_default_matmul_precision`, where it is set, decides instead, for `x` and the
      filter's weights alike ("float32" rounds neither). What is not finite in `x` may spread beyond
      its window, and to another map.

    Raises:
      ValueError: for an unknown `padding` or `method`, a `neuron_axis` that `x` has not, or a map
        or window that does not fit.

    Reference:
      Algorithm 1 and equation (3) of the paper.

    Example:
      >>> import jax.numpy as jnp
      >>> import numpy as np
      >>> from lgnn_jax.maps.windows import gaussian_taps
      >>> impulse = jnp.zeros((1, 9)).at[0, 4].set(1.0)
      >>> filtered = low_pass(impulse, (3, 3), gaussian_taps(0.5))
      >>> print(np.asarray(filtered).reshape(3, 3).round(3))
      [[0.011 0.084 0.011]
       [0.084 0.619 0.084]
       [0.011 0.084 0.011]]
    """
    check_choice("padding", padding, Padding)
    check_choice("method", method, Form)
    map = as_map(map)
    axes = neuron_axis if isinstance(neuron_axis, tuple) else (neuron_axis,)
    if not all(-x.ndim <= axis < x.ndim for axis in axes):
        raise ValueError(
            f"neuron_axis {neuron_axis} is not an axis of an array of shape {x.shape}."
        )
    axes = tuple(axis % x.ndim for axis in axes)
    count = prod(x.shape[axis] for axis in axes)
    if map.count * groups != count:
        maps = f"{groups} maps {map}" if groups > 1 else f"map {map}"
        raise ValueError(
            f"{maps} of {map.count} places does not fit the {count} neurons on axis {neuron_axis} "
            f"of an array of shape {x.shape}."
        )
    lines = isinstance(window, tuple)
    sides = [line.shape for line in window] if lines else window.shape
    if lines and not (isinstance(map, Grid) and sides == [(side, side) for side in map.sides]):
        raise ValueError(f"lines of shapes {sides} do not fit the map {map}.")
    if not lines and window.ndim == 2 and sides != (map.count, map.count):
        raise ValueError(f"a window of shape {sides} does not fit the map {map}.")
    if not lines and window.ndim == 1 and not isinstance(map, Grid):
        raise ValueError(f"{map} is no grid: its window is a matrix, see heat_kernel.")
    dtype = compute_dtype(x)
    has_floor = not (isinstance(floor, float) and floor == 0)  # optax may hand in an array

    def filtered(x, window, floor):
        x, neurons, unmerged = _one_axis(x, axes, 1)
        if places is not None:
            x = jnp.take(x, places, neurons)
        view, axis, back = _one_axis(x, (neurons,), groups)
        if lines:
            form = partial(_line_products, given=x.dtype)
        elif window.ndim == 2:
            form = partial(_matrix_product, given=x.dtype)
        else:
            form = partial(_fastest, given=x.dtype) if method == "auto" else _FORMS[method]
            window = _Window(map.sides, window, _paddings(map, padding))
        result = form(view.astype(dtype), window, axis)
        if has_floor:
            result = floor * view.astype(dtype) + (1 - floor) * result.astype(dtype)
        result = back(result.astype(x.dtype))
        if places is not None:
            result = jnp.take(result, jnp.argsort(places), neurons)
        return unmerged(result)

    sharding = jax.typeof(x).sharding
    if AxisType.Explicit in sharding.mesh.axis_types:
        # Reshapes that merge a sharded axis need to be told where the result lies. XLA finds it.
        filtered = jax.sharding.auto_axes(filtered, out_sharding=sharding)
    window = jax.tree.map(lambda taps: jnp.asarray(taps, dtype), window)
    return filtered(x, window, floor)


class _Window(NamedTuple):
    """A window on a grid.

    Attributes:
      sides: of the grid.
      taps: of each side.
      paddings: what lies beyond the edges of each side.
    """

    sides: tuple[int, ...]
    taps: jax.Array
    paddings: tuple[Padding, ...]


def _paddings(map: Grid, padding: Padding) -> tuple[Padding, ...]:
    return tuple("wrap" if wraps else padding for wraps in map.wrap)


def _one_axis(
    x: jax.Array, axes: tuple[int, ...], groups: int
) -> tuple[jax.Array, int, Callable[[jax.Array], jax.Array]]:
    """A view with one axis for the neurons of a map, which axis it is, and the way back."""
    if len(axes) == 1 and groups == 1:
        return x, axes[0], lambda filtered: filtered
    first, many = axes[0], len(axes)
    if axes != tuple(range(first, first + many)):
        last = tuple(range(-many, 0))
        moved = jnp.moveaxis(x, axes, last)
        view, axis, back = _one_axis(moved, tuple(range(x.ndim - many, x.ndim)), groups)
        return view, axis, lambda filtered: jnp.moveaxis(back(filtered), last, axes)
    count = prod(x.shape[first : first + many])
    parts = (groups, count // groups) if groups > 1 else (count,)
    view = x.reshape(*x.shape[:first], *parts, *x.shape[first + many :])
    return view, first + len(parts) - 1, lambda filtered: filtered.reshape(x.shape)


def compute_dtype(x: jax.Array) -> jnp.dtype:
    """Returns the type that `x` is filtered in: its own, or float32 for shorter ones."""
    return x.dtype if jnp.finfo(x.dtype).bits >= 32 else jnp.dtype(jnp.float32)


def check_floor(floor: jax.typing.ArrayLike) -> None:
    """Raises ValueError unless `floor` is a share."""
    if not isinstance(floor, jax.core.Tracer) and not 0 <= floor <= 1:
        raise ValueError(f"floor must be in [0, 1], got {floor}.")


def check_choice(name: str, value: str, choices: type) -> None:
    """Raises ValueError unless `value` is one of a `Literal` type's values."""
    if value not in get_args(choices):
        allowed = ", ".join(repr(choice) for choice in get_args(choices))
        raise ValueError(f"{name} must be one of {allowed}, got {value!r}.")


def _conv(x: jax.Array, window: _Window, axis: int) -> jax.Array:
    sides, taps, paddings = window
    view = x.reshape(prod(x.shape[:axis]), *sides, prod(x.shape[axis + 1 :]))
    before, after = view.shape[0], view.shape[-1]
    radius = len(taps) // 2
    images = jnp.moveaxis(view, -1, 1).reshape(before * after, 1, *sides)
    for side, padding in enumerate(paddings, start=2):
        pads = [(radius, radius) if i == side else (0, 0) for i in range(images.ndim)]
        images = jnp.pad(images, pads, _PAD_MODE[padding])
    images = lax.conv_general_dilated(
        images,
        reduce(jnp.multiply.outer, [taps] * len(sides))[None, None],
        window_strides=(1,) * len(sides),
        padding="VALID",
        precision=lax.Precision.HIGHEST,
    )
    return jnp.moveaxis(images.reshape(before, after, *sides), 1, -1).reshape(x.shape)


def _separable(x, window, axis):
    one = jnp.ones(1, window.taps.dtype)
    for side in range(len(window.sides)):
        taps = [window.taps if i == side else one for i in range(len(window.sides))]
        x = _banded_product(x, window.sides, taps, window.paddings, axis)
    return x


def _banded(x, window, axis):
    taps = [window.taps] * len(window.sides)
    return _banded_product(x, window.sides, taps, window.paddings, axis)


def _matmul(x, window, axis, *, precision=lax.Precision.HIGHEST, dtype=None):
    return _product(x, _matrix(window), axis, precision=precision, dtype=dtype)


def _product(x, matrix, axis, *, precision, dtype):
    # On the gradient as it is: merging its other axes first costs a TPU three copies of it.
    filtered = lax.dot_general(
        x,
        matrix,
        (((axis,), (0,)), ((), ())),
        precision=precision,
        preferred_element_type=dtype,
    )
    return jnp.moveaxis(filtered, -1, axis)


def _matrix(window: _Window) -> jax.Array:
    """The filter of a whole map as a matrix `(places, places)`, from, to.

    It is the Kronecker product of the lines' matrices, but made of comparisons, which a TPU fuses
    into the product. `jnp.kron` passes through four axes, the last of 16 neurons or so, and a TPU
    pads it to 128.
    """
    sides, taps, paddings = window
    count = prod(sides)
    source = lax.broadcasted_iota(jnp.int32, (count, count), 0)
    target = np.arange(count, dtype=np.int32)

    def line(i):
        side, stride = sides[i], prod(sides[i + 1 :])

        def place(neurons):
            neurons = neurons if stride == 1 else neurons // stride
            return neurons if i == 0 else neurons % side

        shifts = _shifts(side, len(taps), paddings[i])
        seen = np.where(shifts.any(axis=1), shifts.argmax(axis=1), -1).astype(np.int32)
        from_, to = place(source), place(target)
        return sum(jnp.where(from_ == seen[k, to][None], taps[k], 0) for k in range(len(taps)))

    return reduce(jnp.multiply, [line(i) for i in range(len(sides))])


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


def _banded_product(x, sides, taps, paddings, axis):
    """Filters with the taps of each side of the grid, diagonal by diagonal.

    The neurons stay one long axis: a diagonal is one shift along it, of contiguous memory, times a
    vector of weights that has the map's edges in it. XLA fuses all of them into one loop with no
    test for edges.
    """
    count, after = prod(sides), prod(x.shape[axis + 1 :])
    strides = [prod(sides[i + 1 :]) for i in range(len(sides))]
    found = [_diagonals(n, len(t), p) for n, t, p in zip(sides, taps, paddings, strict=True)]
    shifts = [
        sum(offset * stride for offset, stride in zip(offsets, strides, strict=True)) * after
        for offsets in product(*(offsets for offsets, _ in found))
    ]
    # One product for all weights: as a matrix product it is not fused into the loop, where it would
    # be done anew for each element and take longer than all the rest.
    entries = reduce(_kronecker, (entries for _, entries in found))
    weights = _weighted(reduce(jnp.multiply.outer, taps).ravel(), entries.reshape(len(entries), -1))
    # A line is a map with the axes after it. The axes before its own stay as they are: were they
    # merged, the loop into which XLA fuses filter and momentum would find each element's place by
    # division, LLVM would not see that what it reads of the momentum is what it overwrites, and
    # would use no vectors: 3.5 times as long. With one or two lines they are merged all the same,
    # as the ends below are padded, which costs more.
    lead, size = x.shape[: max(axis - 1, 0)], count * after
    many = prod(x.shape[len(lead) : axis])
    if many < 3:
        lead, many = (), prod(x.shape[:axis])
    lines = x.reshape(*lead, many, size)
    weights = jnp.repeat(weights.reshape(-1, *(1,) * len(lead), 1, count), after, axis=-1)
    if many < 3:
        return _padded_sum(lines, weights, shifts).reshape(x.shape)
    # A shift of an inner line may read from the next: its weight is zero there. So only the first
    # and the last are padded, which for all would take two thirds as long as the sum itself.
    flat = x.reshape(*lead, many * size)

    def shifted(d):
        # No shift as a slice of the flat array would be the same, but where the size is no power of
        # two XLA then divides the place of each element: three times as long.
        if d == 0:
            return lines[..., 1:-1, :]
        inner = lax.slice_in_dim(flat, size + d, d + (many - 1) * size, axis=-1)
        return inner.reshape(*lead, many - 2, size)

    middle = sum(w * shifted(d) for w, d in zip(weights, shifts, strict=True))
    ends = lines[..., :1, :], lines[..., -1:, :]
    first, last = (_padded_sum(end, weights, shifts) for end in ends)
    return jnp.concatenate([first, middle, last], axis=-2).reshape(x.shape)


def _kronecker(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Of two arrays `(taps, offsets, places)`, the products along each axis."""
    both = np.einsum("tar,ubc->tuabrc", first, second)
    return both.reshape([n * m for n, m in zip(first.shape, second.shape, strict=True)])


def _padded_sum(lines, weights, shifts):
    reach, size = max(map(abs, shifts)), lines.shape[-1]
    padded = jnp.pad(lines, [(0, 0)] * (lines.ndim - 1) + [(reach, reach)])
    shifted = [lax.slice_in_dim(padded, reach + d, reach + d + size, axis=-1) for d in shifts]
    return sum(w * v for w, v in zip(weights, shifted, strict=True))


def _fastest(x, window, axis, *, given):
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
    shifts = "banded" if len(window.taps) ** len(window.sides) <= 9 else "separable"

    def form(name, **options):
        filtered = partial(_FORMS[name], **options)
        return lambda x, taps: filtered(x, window._replace(taps=taps), axis).astype(given)

    tpu, gpu = (form("matmul", **options) for options in _by_platform(given))
    shifts = form(shifts)
    return lax.platform_dependent(x, window.taps, tpu=tpu, cuda=gpu, rocm=gpu, default=shifts)


def _matrix_product(x, matrix, axis, *, given):
    """The filter as a product with a whole matrix, with the precision that `_fastest` takes."""

    def form(**options):
        return lambda x, matrix: _product(x, matrix, axis, **options).astype(given)

    tpu, gpu = (form(**options) for options in _by_platform(given))
    exact = form(precision=lax.Precision.HIGHEST, dtype=None)
    return lax.platform_dependent(x, matrix, tpu=tpu, cuda=gpu, rocm=gpu, default=exact)


def _line_products(x, lines, axis, *, given):
    """The filter of a whole grid: a product along each side on CPUs, with a whole matrix elsewhere.

    A CPU takes 0.40 times as long so for a (3, 3, 512, 512) gradient on a (32, 16) map, 0.25 times
    for 640 neurons, and as long for 256 or fewer (`python benchmarks/filter.py`, medians of 9).
    """

    def side_by_side(x, *lines):
        view = jnp.moveaxis(x, axis, -1)
        found = view.reshape(-1, *map(len, lines))
        for line in reversed(lines):  # each along the last axis, which then moves to the front
            found = jnp.matmul(
                found.reshape(-1, len(line)), line, precision=lax.Precision.HIGHEST
            ).reshape(found.shape)
            found = jnp.moveaxis(found, -1, 1)
        return jnp.moveaxis(found.reshape(view.shape), -1, axis).astype(given)

    def whole(**options):
        return lambda x, *lines: _product(x, reduce(jnp.kron, lines), axis, **options).astype(given)

    tpu, gpu = (whole(**options) for options in _by_platform(given))
    return lax.platform_dependent(x, *lines, tpu=tpu, cuda=gpu, rocm=gpu, default=side_by_side)


def _by_platform(given):
    """How a TPU and a GPU multiply a gradient that had the dtype `given`."""
    if jax.config.jax_default_matmul_precision:
        return ({"precision": None, "dtype": None},) * 2
    # The weights stay exact to 1e-5 and add up to 1.
    tpu = {"precision": _ROUNDED, "dtype": None}
    return tpu, {"precision": _gpu_precision(given), "dtype": given}


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


_FORMS: dict[str, Callable[..., jax.Array]] = {  # of (x, window, axis)
    "banded": _banded,
    "conv": _conv,
    "separable": _separable,
    "matmul": _matmul,
}
