"""Locality guidance as a gradient transformation (Algorithm 1 of the paper).

Each layer's gradient is laid out on the layer's map and low-pass filtered there, between
back-propagation and the rest of the optimiser.
"""

import functools
import operator
import warnings
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lgnn_jax.maps import table, windows
from lgnn_jax.maps.grid import Grid, grid
from lgnn_jax.methods import filtering, settling


class LGNNState(NamedTuple):
    """State of `transform`."""

    count: jax.Array  # shape=(), dtype=int32: updates so far
    settled: settling.Places | tuple[()] = ()  # if neurons settle


def transform(
    som_table: table.SomTable,
    *,
    sigma: jax.typing.ArrayLike | optax.Schedule = 0.5,
    kernel_size: int | None = 3,
    padding: filtering.Padding = "replicate",
    method: filtering.Form = "auto",
    neuron_axis: int = -1,
    floor: jax.typing.ArrayLike = 0.0,
    settle: settling.Settling | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Low-pass filters each layer's gradient over the layer's map, so that neighbours grow alike.

    With the neurons of a layer on an `(m, n)` grid, row by row, and `eta` a normalised Gaussian
    window, the gradient `g[j]` of neuron `j` becomes `sum_k eta[j - k] g[k]`.

    Put it before weight decay and momentum, as in the paper. It is linear, so in data-parallel
    training it is enough to filter once, after the mean over the devices. Parameters may be
    sharded; over other axes than that of the neurons, the product that GPUs and TPUs take needs
    nothing of other devices. Inside `jax.shard_map` each device must hold all neurons of a map, and
    a channel count in the table means those that it holds.

    Args:
      som_table: maps an output-channel count (int), or a regular expression searched for in the
        '/'-joined parameter path (str), to SOM dimensions `(m, n)`, to any map, to a `LayerMap`
        (which has the neuron axis, too), or to None (leave this layer alone). Strings are tried
        first, in order, and the first match wins. Convolution kernels are filtered; everything else
        passes untouched unless a string names it, a bias by its whole path. `lgnn_jax.som_table`
        makes a table for all convolutions, `lgnn_jax.explain` says what a table does.
      sigma: width of the Gaussian in map units, finite, at least 0 (0 is the identity); or a
        schedule from the step to it, such as `lgnn_jax.decreasing_sigma`.
      kernel_size: side of the window in map units, odd; or None for the whole map, see
        `lgnn_jax.maps.windows.heat_kernel`. On maps that are no grids it is always the whole map.
      padding: what lies beyond a grid's edge: "replicate", "wrap" (a torus) or "zero".
      method: "conv" (`jax.lax` convolution, the reference), "separable", "banded", "matmul", or
        "auto", the fastest measured on the platform. They agree to float32 rounding; on TPUs "auto"
        takes the gradient in bfloat16, as by default JAX's convolutions there take all they read.
      neuron_axis: the axis of a kernel that counts its neurons: -1 for `(spatial..., c_in, c_out)`,
        0 for `(c_out, c_in, spatial...)`.
      floor: share of the gradient that passes unfiltered, in [0, 1]; so that no pattern on the map
        is learned more slowly than by that factor.
      settle: how neurons find their places while the network trains; None if they stay where they
        are, as in the paper. With `sigma=0` they settle and nothing is filtered.

    Returns:
      An `optax.GradientTransformationExtraArgs`. Updates keep their structure, shapes and dtypes;
      the filter runs in float32 (float64 for float64). Its `init` raises ValueError for a kernel
      that the table does not cover or whose channel count is not `m * n`, and warns of a string
      that matches no parameter. Its `update` takes `sigma=...`, a scalar that may be traced, in
      place of the schedule's: one compiled step then serves every schedule. Where neurons settle on
      activations it needs `activations=...`: by layer, named by the path of its kernel or that path
      less its last part, `(batch, ..., neurons)` of the whole batch, before or after the
      nonlinearity; of more than two axes the mean over those between is taken. Under
      `optax.MultiSteps` those of the last small batch count. Under `jax.shard_map`, settling needs
      `check_vma=False`. `lgnn_jax.places` reads the places out of the state.

    Raises:
      ValueError: if an argument is out of its range.
      TypeError: if `kernel_size` or `neuron_axis` is traced. `optax.inject_hyperparams` does that
        to every int unless `static_args=("kernel_size", "neuron_axis")` says otherwise.

    Reference:
      Tan, Khan, Guan, "Locality Guided Neural Networks for Explainable Artificial Intelligence",
      2020, Algorithm 1 and equation (3).

    Example:
      >>> import jax.numpy as jnp
      >>> import lgnn_jax as lgnn
      >>> import optax
      >>> params = {"conv": {"kernel": jnp.zeros((3, 3, 8, 64)), "bias": jnp.zeros(64)}}
      >>> tx = optax.chain(
      ...     lgnn.transform(lgnn.som_table(params)),
      ...     optax.add_decayed_weights(5e-4),
      ...     optax.sgd(0.1, momentum=0.9),
      ... )
      >>> state = tx.init(params)
    """
    table.check_table(som_table)
    if kernel_size is not None:
        kernel_size = _static_int("kernel_size", kernel_size)
        windows.check_size(kernel_size)
    neuron_axis = _static_int("neuron_axis", neuron_axis)
    filtering.check_choice("padding", padding, filtering.Padding)
    filtering.check_choice("method", method, filtering.Form)
    filtering.check_floor(floor)
    if not callable(sigma):
        windows.check_sigma(sigma)
    if not (settle is None or isinstance(settle, settling.Settling)):
        raise ValueError(f"settle must be an lgnn_jax.Settling, or None, got {settle!r:.80}.")

    def init_fn(params: Any) -> LGNNState:
        maps = table.layer_maps(params, som_table, neuron_axis=neuron_axis)
        table.warn_of_unmatched(params, som_table, neuron_axis=neuron_axis)
        first = sigma(jnp.zeros([], jnp.int32)) if callable(sigma) else sigma
        windows.check_sigma(first)
        cut_off = kernel_size is not None and any(
            found is not None and isinstance(found.map, Grid) for found in maps.values()
        )
        known = not isinstance(first, jax.core.Tracer)
        if cut_off and known and windows.is_too_wide(first, kernel_size):
            warnings.warn(
                f"sigma {float(first):g} is too wide for a window of {kernel_size}: patterns from "
                "neuron to neuron get gradients of the wrong sign. Take kernel_size=None, the "
                "whole map.",
                stacklevel=2,
            )
        settled = settling.init(params, _leading(maps), settle) if settle is not None else ()
        return LGNNState(count=jnp.zeros([], jnp.int32), settled=settled)

    scheduled = sigma if callable(sigma) else lambda count: sigma
    only_settles = settle is not None and isinstance(sigma, (int, float)) and sigma == 0

    def update_fn(
        updates: Any,
        state: LGNNState,
        params: Any = None,
        *,
        sigma: jax.typing.ArrayLike | None = None,
        activations: Any = None,
        **extra_args: Any,
    ):
        del extra_args
        maps = table.layer_maps(updates, som_table, neuron_axis=neuron_axis)
        width = scheduled(state.count) if sigma is None else sigma

        settled, at = state.settled, {}
        if settle is not None:
            # Filtered by the places that the loss was computed with.
            at = settling.by_path(settled.places)
            settled = settling.update(
                settled, state.count, updates, params, activations, _leading(maps), settle
            )

        @functools.cache
        def window(map, dtype):
            return windows.neighbourhood(map, width, kernel_size, dtype)

        def filter_leaf(path, leaf):
            name = table.path_name(path)
            found = maps.get(name)
            if found is None or (only_settles and sigma is None):
                return leaf
            # A window on a grid is the same for all grids.
            is_matrix = kernel_size is None or not isinstance(found.map, Grid)
            return filtering.low_pass(
                leaf,
                found.map,
                window(found.map if is_matrix else _ANY_GRID, filtering.compute_dtype(leaf)),
                padding=padding,
                method=method,
                neuron_axis=found.neuron_axis,
                groups=found.groups,
                floor=floor,
                places=at.get(found.leader or name),
            )

        updates = jax.tree_util.tree_map_with_path(filter_leaf, updates)
        return updates, LGNNState(optax.safe_increment(state.count), settled)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


_ANY_GRID = grid(1)


def _leading(maps: dict[str, table.LayerMap | None]) -> dict[str, table.LayerMap | None]:
    """Those whose neurons settle by themselves."""
    return {path: m for path, m in maps.items() if m is None or m.leader is None}


def _static_int(name: str, value: Any) -> int:
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError(
            f"{name} must be a Python int, got {value!r}. Under optax.inject_hyperparams, pass "
            'static_args=("kernel_size", "neuron_axis").'
        ) from None
