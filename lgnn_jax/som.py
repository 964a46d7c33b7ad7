"""The map: which layer's neurons lie on which grid, and how far a neuron reaches on it.

Neuron `j` of a layer with SOM dimensions `(m, n)` lies at row `j // n`, column `j % n`. Around each
neuron lies a Gaussian neighbourhood function: the eta of equations (2) and (3) of the paper.
"""

import re
import warnings
from collections import Counter
from collections.abc import Mapping
from math import isqrt
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

SomDimensions = tuple[int, int]
SomTable = Mapping[int | str, SomDimensions | None]


def som_dimensions(c_out: int) -> SomDimensions:
    """Returns the most nearly square SOM dimensions for a layer of `c_out` neurons.

    Args:
      c_out: number of neurons (output channels), at least 1.

    Returns:
      `(m, n)` with `m * n == c_out` and `m >= n`: rows, columns. A prime count gives `(c_out, 1)`.

    Raises:
      ValueError: if `c_out` is less than 1.

    Example:
      >>> som_dimensions(512), som_dimensions(160), som_dimensions(7)
      ((32, 16), (16, 10), (7, 1))
    """
    if c_out < 1:
        raise ValueError(f"c_out must be at least 1, got {c_out}.")
    columns = next(n for n in range(isqrt(c_out), 0, -1) if c_out % n == 0)
    return c_out // columns, columns


def som_table(params: Any, *, neuron_axis: int = -1) -> dict[int, SomDimensions]:
    """Returns near-square SOM dimensions for every convolution kernel in `params`.

    Args:
      params: any tree of parameters; arrays or `jax.ShapeDtypeStruct`. Floating-point leaves of
        three or more dimensions count as convolution kernels.
      neuron_axis: the axis of a kernel that counts its neurons: -1 for JAX's `(spatial..., c_in,
        c_out)`, 0 for `(c_out, c_in, spatial...)`.

    Returns:
      Output-channel count -> `(m, n)`, in ascending order; a table for `lgnn_jax.transform`. Warns
      of each prime count, whose map is a strip of one column.

    Raises:
      ValueError: for a kernel that lacks `neuron_axis`, or that has no neurons.

    Reference:
      Section III-A of the paper: "we store the SOM dimensions as a lookup table".

    Example:
      >>> import jax.numpy as jnp
      >>> som_table({"conv": {"kernel": jnp.zeros((3, 3, 64, 128)), "bias": jnp.zeros(128)}})
      {128: (16, 8)}
    """
    counts = {shape[neuron_axis] for _, shape in _shapes(params, neuron_axis) if len(shape) >= 3}
    table = {c_out: som_dimensions(c_out) for c_out in sorted(counts)}
    for c_out, (rows, columns) in table.items():
        if columns == 1 and rows > 1:
            warnings.warn(
                f"{c_out} output channels, a prime number, make a ({rows}, 1) map: a strip, on "
                "which a neuron has two neighbours at most. A count with divisors makes a plane.",
                stacklevel=2,
            )
    return table


def layer_maps(
    params: Any, table: SomTable, *, neuron_axis: int = -1
) -> dict[str, SomDimensions | None]:
    """Looks up the map of every parameter that `table` speaks of.

    Args:
      params: any tree of arrays (or `jax.ShapeDtypeStruct`).
      table: maps an output-channel count (int), or a regular expression that is searched for in the
        '/'-joined path of a parameter (str), to SOM dimensions `(m, n)`, or to None: leave it
        alone. Strings are tried first, in order; the first match wins. A count applies to
        convolution kernels only (three or more dimensions); a string can name any parameter.
      neuron_axis: the axis of a parameter that counts its neurons.

    Returns:
      Path -> `(m, n)`, or None for a parameter that the table leaves alone by name; in the order of
      `params`. Parameters that the table does not speak of (biases, say) are absent.

    Raises:
      ValueError: for a convolution kernel that no entry covers or that lacks `neuron_axis`, for
        dimensions whose product is not the parameter's number of neurons, for a malformed table,
        and for two parameters with one path.

    Example:
      >>> import jax.numpy as jnp
      >>> stem, conv = jnp.zeros((3, 3, 3, 16)), jnp.zeros((3, 3, 16, 64))
      >>> params = {"stem": {"kernel": stem}, "conv": {"kernel": conv}}
      >>> layer_maps(params, {"stem": None, 64: (8, 8)})
      {'conv/kernel': (8, 8), 'stem/kernel': None}
    """
    check_table(table)
    patterns = [(re.compile(key), dims) for key, dims in table.items() if isinstance(key, str)]
    paths = Counter(path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(params))
    maps = {}
    for path, shape in _shapes(params, neuron_axis):
        # The name of a layer is found in its bias's path as well, and means its kernel.
        names = re.Pattern.search if len(shape) > 1 else re.Pattern.fullmatch
        named = next((entry for entry in patterns if names(entry[0], path)), None)
        if named is not None:
            dims = named[1]
        elif len(shape) < 3:
            continue
        elif shape[neuron_axis] in table:
            dims = table[shape[neuron_axis]]
        else:
            raise ValueError(_uncovered(path, shape, shape[neuron_axis]))
        if dims is not None:
            dims = int(dims[0]), int(dims[1])  # the product of short integers may overflow
            if dims[0] * dims[1] != shape[neuron_axis]:
                raise ValueError(_misfit(path, shape, shape[neuron_axis], dims))
        if paths[path] > 1:
            raise ValueError(f"two parameters share the path {path!r}: rename one of them.")
        maps[path] = dims
    return maps


def warn_of_unmatched(params: Any, table: SomTable) -> None:
    """Warns of each pattern in `table` that no path of `params` holds: a likely misspelling."""
    paths = [path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    for key in table:
        if isinstance(key, str) and not any(re.search(key, path) for path in paths):
            known = ", ".join(paths[:3]) + (", ..." if len(paths) > 3 else "")
            warnings.warn(
                f"som_table key {key!r} matches no parameter path; the paths are {known}",
                stacklevel=4,
            )


def path_name(path: tuple[Any, ...]) -> str:
    """Returns the '/'-joined name of a key path, as patterns in a table see it."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def check_table(table: SomTable) -> None:
    """Raises ValueError for a table that is wrong whatever the parameters are."""
    if not isinstance(table, Mapping):
        raise ValueError(
            "som_table must map channel counts or path patterns to (m, n), got "
            f"{_one_line(repr(table)):.80}. lgnn_jax.som_table(params) makes one."
        )
    for key, dims in table.items():
        if isinstance(key, str):
            try:
                re.compile(key)
            except (re.error, OverflowError, RecursionError) as error:
                raise ValueError(
                    f"som_table key {key!r} is not a regular expression: {_one_line(str(error))}."
                ) from None
        elif isinstance(key, bool) or not isinstance(key, (int, np.integer)):
            raise ValueError(
                f"som_table key {key!r} must be an int (a channel count) or a str (a path pattern)."
            )
        if dims is not None and not _are_dimensions(dims):
            raise ValueError(
                f"som_table[{key!r}] must be (m, n), two positive ints, or None, got "
                f"{_one_line(repr(dims)):.80}. lgnn_jax.som_table(params) makes a table."
            )


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


def check_size(size: int) -> None:
    """Raises ValueError unless `size` is an odd, positive kernel size."""
    if size < 1 or size % 2 == 0:
        raise ValueError(f"kernel_size must be odd and positive (3, 5, 7, ...), got {size}.")


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
            "sigma must be a finite number, 0 (no filter) or greater, got "
            f"{_one_line(repr(sigma)):.80}."
        )


def _shapes(params: Any, neuron_axis: int) -> list[tuple[str, tuple[int, ...]]]:
    """Path and shape of each leaf that can hold neurons: floating-point, with that axis."""
    leaves = [
        (path_name(path), leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(params)
        if hasattr(leaf, "shape") and jnp.issubdtype(leaf.dtype, jnp.inexact)
    ]
    needed = neuron_axis + 1 if neuron_axis >= 0 else -neuron_axis
    for path, leaf in leaves:
        if 3 <= leaf.ndim < needed:
            raise ValueError(f"{path!r} with shape {leaf.shape} has no neuron_axis {neuron_axis}.")
    return [(path, tuple(leaf.shape)) for path, leaf in leaves if leaf.ndim >= max(needed, 1)]


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _are_dimensions(dims: Any) -> bool:
    return (
        isinstance(dims, (tuple, list))
        and len(dims) == 2
        and all(isinstance(d, (int, np.integer)) and not isinstance(d, bool) for d in dims)
        and min(dims) >= 1
    )


def _uncovered(path: str, shape: tuple[int, ...], c_out: int) -> str:
    suggestion = som_dimensions(c_out)
    return (
        f"som_table covers neither the path nor the channel count of kernel {path!r} with shape "
        f"{shape}: add {c_out}: {suggestion}, or {re.escape(path)!r}: None to leave it alone."
    )


def _misfit(path: str, shape: tuple[int, ...], c_out: int, dims: SomDimensions) -> str:
    return (
        f"SOM dimensions {dims} hold {dims[0] * dims[1]} neurons, but {path!r} with shape "
        f"{shape} has {c_out}: use {som_dimensions(c_out)} or another pair with that product."
    )
