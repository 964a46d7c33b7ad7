"""A second reading of what the docstrings of `lgnn_jax.maps.table` say of tables."""

import math
import re
from collections import Counter
from collections.abc import Mapping

import numpy as np
import pytest
from strategies import leaves_by_path

import lgnn_jax as lgnn

ignore_the_keys_warnings = pytest.mark.filterwarnings(
    "ignore:som_table (key|speaks):UserWarning", "ignore:Possible:FutureWarning"
)


def is_table(table):
    """Whether a table is in order, whatever the parameters are."""

    def is_key(key):
        if isinstance(key, str):
            try:
                re.compile(key)
            except Exception:
                return False
            return True
        return type(key) in (int, np.int64)

    def is_value(value):
        if value is None or isinstance(value, (lgnn.Map, lgnn.LayerMap)):
            return True
        return (
            isinstance(value, (tuple, list))
            and len(value) == 2
            and all(type(side) in (int, np.int8) and side > 0 for side in value)
        )

    return isinstance(table, Mapping) and all(is_key(k) and is_value(v) for k, v in table.items())


def kind(path, leaf):
    """What a parameter is, for names as in `strategies.WORDS`.

    "convolution": counts mean it; "unclear": nobody knows whether they do; "bias": its whole path
    alone means it; or "other".
    """
    names = [name.rstrip("_0123456789").lower() for name in path.split("/")]
    if leaf.ndim < 2 or names[-1] in ("bias", "scale", "embedding"):
        return "bias"
    if leaf.ndim == 2:
        return "other"
    sides, ends = leaf.shape, (leaf.shape[:-2], leaf.shape[2:])
    if names[-1] != "kernel" and leaf.size == max(sides) > 1 and (leaf.ndim == 3 or sides[-1] == 1):
        return "bias"  # one number a neuron, as a bias that is broadcast
    if names[-1] not in ("kernel", "") and leaf.ndim == 3 and sides[0] == 1:
        return "bias"  # the same for every image, as an embedding of positions
    if "conv" in names:
        return "convolution"
    if leaf.ndim > 3 and any(len({*w}) == 1 and w[0] in range(3, 99, 2) for w in ends):
        return "convolution"  # a window of 3x3, 5x5 or so
    if {"attention", "dense"} & set(names) or ("embedding" in names and leaf.ndim == 3):
        return "other"
    return "convolution" if leaf.ndim > 3 else "unclear"


def is_wrong_way_round(shape, axis):
    """Whether the neurons of a convolution seem to be at its other end.

    There they are if what is left there is a square window, narrower than the layer has channels,
    and what is left here is none.
    """
    first, last = axis in (0, -len(shape)), axis in (-1, len(shape) - 1)
    if len(shape) < 4 or not (first or last):
        return False
    here, there = shape if last else shape[::-1], shape[::-1] if last else shape
    *window, _, _ = here
    *other, inputs, neurons = there
    is_window = len({*window}) == 1 and window[0] < 8
    return len({*other}) == 1 and other[0] < max(inputs, neurons) and not is_window


def neurons(leaf, layer_map):
    """How many a parameter has on the axes of its map; None if it lacks one of them."""
    axes = layer_map.neuron_axis
    axes = axes if isinstance(axes, tuple) else (axes,)
    if not all(-leaf.ndim <= axis < leaf.ndim for axis in axes):
        return None
    places = {axis % leaf.ndim for axis in axes}
    return math.prod(leaf.shape[axis] for axis in places) if len(places) == len(axes) else None


def expected_map(path, leaf, table, axis):
    """What the docstring of `layer_maps` says of a parameter: (its map,), or () for none.

    Raises:
      ValueError: where it has to be refused.
    """
    what, has_axis = kind(path, leaf), -leaf.ndim <= axis < leaf.ndim
    finds = re.fullmatch if what == "bias" else re.search
    keys = [key for key in table if isinstance(key, str) and finds(key, path)]
    if not keys and what in ("bias", "other"):
        return ()
    if not keys and what == "unclear":
        # Where it lacks the axis, the last is what counts its neurons in JAX.
        if (leaf.shape[axis] if has_axis else leaf.shape[-1]) in table:
            raise ValueError("a count may mean it or not")
        return ()
    if not keys:
        if not has_axis or is_wrong_way_round(leaf.shape, axis):
            raise ValueError("its neurons are elsewhere")
        keys = [leaf.shape[axis]]
        if keys[0] not in table:
            raise ValueError("no entry covers it")
    value = table[keys[0]]
    if value is None:
        return (None,)
    if not isinstance(value, lgnn.LayerMap):
        value = lgnn.LayerMap(value if isinstance(value, lgnn.Map) else lgnn.grid(*value), axis)
    if neurons(leaf, value) != value.map.count * value.groups:
        raise ValueError("another number of neurons")
    return (value,)


def expected_maps(tree, table, axis):
    """What the docstring of `layer_maps` says; None where it has to refuse."""
    if not is_table(table):
        return None
    leaves, maps = leaves_by_path(tree), {}
    shared = Counter(path for path, _ in leaves)
    for path, leaf in leaves:
        if leaf.dtype == np.int32:
            continue
        try:
            found = expected_map(path, leaf, table, axis)
        except ValueError:
            return None
        if found and shared[path] > 1:
            return None
        if found:
            (maps[path],) = found
    return maps
