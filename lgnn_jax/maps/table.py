"""The table: which parameter's neurons lie on which map."""

import operator
import re
import warnings
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, NamedTuple

import jax
import numpy as np

from lgnn_jax.maps.grid import grid, som_dimensions
from lgnn_jax.maps.parameters import Parameter, parameters, path_name, wrong_way_round
from lgnn_jax.maps.shapes import Map, check_map
from lgnn_jax.maps.windows import one_line
from lgnn_jax.maps.words import did_you_mean

SomDimensions = tuple[int, int]


@dataclass(frozen=True)
class LayerMap:
    """A map, and where a parameter counts the neurons that lie on it.

    Attributes:
      map: of as many places as there are neurons (in a group).
      neuron_axis: the axis of the parameter that counts its neurons; or several, say the heads and
        the size of a head, that count them together, the last one fastest.
      groups: the neurons are so many groups of equal size, one after the other, each on a map of
        its own; as of a grouped convolution.
      leader: the path of another parameter of the same neurons, the kernel where this is its bias,
        say: where they settle, this follows. None if it stands for itself.

    Raises:
      ValueError: if a field is not what it should be.

    Example:
      >>> LayerMap(grid(8, 16), (1, 2)).axes((64, 8, 16))
      (1, 2)
    """

    map: Map
    neuron_axis: int | tuple[int, ...] = -1
    groups: int = 1
    leader: str | None = None

    def __post_init__(self):
        """Checks what the attributes promise."""
        if not isinstance(self.map, Map):
            raise ValueError(
                f"map must be a map, such as lgnn_jax.grid(8, 8), got {one_line(self.map):.80}."
            )
        try:
            hash(self.map)
        except TypeError as error:
            raise ValueError(
                f"{type(self.map).__name__} must be hashable: {error}; a frozen dataclass with "
                "tuples in its fields is."
            ) from None
        if not type(self.map).__module__.startswith("lgnn_jax."):
            check_map(self.map)
        try:
            axis = self.neuron_axis
            several = isinstance(axis, (tuple, list))
            axis = tuple(map(operator.index, axis)) if several else operator.index(axis)
            groups = operator.index(self.groups)
        except TypeError:
            raise ValueError(
                "neuron_axis must be an int or a tuple of ints, and groups an int, got "
                f"{one_line(self.neuron_axis):.80} and {one_line(self.groups):.80}."
            ) from None
        if axis == () or groups < 1:
            raise ValueError(
                f"neuron_axis must name an axis and groups be at least 1, got {axis} and {groups}."
            )
        if not (self.leader is None or isinstance(self.leader, str)):
            raise ValueError(f"leader must be a path or None, got {one_line(self.leader):.80}.")
        object.__setattr__(self, "neuron_axis", axis)
        object.__setattr__(self, "groups", groups)

    @property
    def count(self) -> int:
        """Number of neurons."""
        return self.map.count * self.groups

    def axes(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Returns the axes that count the neurons of a parameter of some shape, from 0.

        Raises:
          ValueError: if it lacks one of them, or one is named twice.
        """
        axis = self.neuron_axis
        axes = axis if isinstance(axis, tuple) else (axis,)
        if not all(-len(shape) <= a < len(shape) for a in axes):
            raise ValueError(f"with shape {shape} has no neuron_axis {axis}.")
        found = tuple(a % len(shape) for a in axes)
        if len(set(found)) < len(found):
            raise ValueError(f"with shape {shape} has one axis twice in neuron_axis {axis}.")
        return found

    def __str__(self) -> str:
        """The map in a word or two."""
        return f"{self.groups} of {self.map}" if self.groups > 1 else str(self.map)


SomTable = Mapping[int | str, SomDimensions | Map | LayerMap | str | None]


def som_table(
    params: Any, *, neuron_axis: int = -1, dense: bool = False
) -> dict[int | str, SomDimensions]:
    """Returns near-square SOM dimensions for every convolution kernel in `params`.

    Args:
      params: any tree of parameters; arrays or `jax.ShapeDtypeStruct`. Floating-point leaves of
        four or more dimensions count as convolution kernels, those of three if "conv" is in their
        path. Biases, scales, embeddings and the kernels of attention and dense layers do not, as
        far as their names tell; nor does what has one number a neuron, `(c_out, 1, 1)`, or, in
        three dimensions, a first one of 1, unless it is named a kernel. `lgnn_jax.explain` says it
        for each.
      neuron_axis: the axis of a kernel that counts its neurons: -1 for JAX's `(spatial..., c_in,
        c_out)`, 0 for `(c_out, c_in, spatial...)`.
      dense: whether to have dense layers, `(inputs, neurons)`, as well: each by its path.

    Returns:
      Output-channel count -> `(m, n)`, in ascending order; a table for `lgnn_jax.transform`. Warns
      of each prime count above 3, whose map is a strip of one column, and of parameters that may be
      kernels or not, which are left out.

    Raises:
      ValueError: for a kernel that lacks `neuron_axis`, that has no neurons, or whose neurons seem
        to be on another axis.

    Reference:
      Section III-A of the paper: "we store the SOM dimensions as a lookup table".

    Example:
      >>> import jax.numpy as jnp
      >>> som_table({"conv": {"kernel": jnp.zeros((3, 3, 64, 128)), "bias": jnp.zeros(128)}})
      {128: (16, 8)}
    """
    found = parameters(params)
    kernels = [p for p in found if p.kind == "convolution"]
    counts = {_count(p, neuron_axis) for p in kernels}
    table = {c_out: som_dimensions(c_out) for c_out in sorted(counts)}
    if dense:
        axis = 0 if neuron_axis == 0 else -1
        table |= {
            _pattern(p): som_dimensions(p.shape[axis])
            for p in found
            if len(p.shape) == 2 and p.kind == "other"
        }
    for c_out, columns in {rows * columns: columns for rows, columns in table.values()}.items():
        if columns == 1 and c_out > 3:  # no count makes a plane of three, the colours of an image
            warnings.warn(
                f"{c_out} output channels, a prime number, make a ({c_out}, 1) map: a strip, on "
                "which a neuron has two neighbours at most. A count with divisors makes a plane.",
                stacklevel=2,
            )
    if unclear := [p for p in found if p.kind == "unclear"]:
        names = ", ".join(f"{p.path} {p.shape}" for p in unclear[:3])
        warnings.warn(
            f"left out: {names}{', ...' * (len(unclear) > 3)}: with three axes and no 'conv' in "
            "its name, a parameter may be a convolution along a line, heads, or stacked layers. To "
            f"have it on a map, name it in the table: {_remedy(unclear[0], neuron_axis)}.",
            stacklevel=2,
        )
    return table


class Entry(NamedTuple):
    """What a table says of a parameter.

    Attributes:
      parameter: see `Parameter`.
      key: the key of the table that speaks of it, or None if none does.
      layer_map: its map, or None for a parameter that is left alone.
    """

    parameter: Parameter
    key: int | str | None
    layer_map: LayerMap | None


def layer_maps(
    params: Any, table: SomTable, *, neuron_axis: int = -1
) -> dict[str, LayerMap | None]:
    r"""Looks up the map of every parameter that `table` speaks of.

    Args:
      params: any tree of arrays (or `jax.ShapeDtypeStruct`).
      table: maps an output-channel count (int), or a regular expression that is searched for in the
        '/'-joined path of a parameter (str), to SOM dimensions `(m, n)`, to a map, to a `LayerMap`,
        or to None: leave it alone. Strings are tried first, in order; the first match wins. A count
        applies to convolution kernels only, see `som_table`; a string can name any parameter, a
        bias by its whole path. To have other parameters of the neurons filtered along with them,
        map their path to that of the kernel, in which `\1` is what the first group matched:
        `{64: (8, 8), r"conv(\d)/bias": r"conv\1/kernel"}`.
      neuron_axis: the axis of a parameter that counts its neurons, where the entry is no
        `LayerMap`.

    Returns:
      Path -> `LayerMap`, or None for a parameter that the table leaves alone by name; in the order
      of `params`. Parameters that the table does not speak of (biases, say) are absent.

    Raises:
      ValueError: for a convolution kernel that no entry covers, that lacks `neuron_axis` or whose
        neurons seem to be on another axis; for a parameter of three axes that a count may mean or
        not; for a map whose places are not as many as the parameter's neurons; for a malformed
        table; and for two parameters with one path.

    Example:
      >>> import jax.numpy as jnp
      >>> stem, conv = jnp.zeros((3, 3, 3, 16)), jnp.zeros((3, 3, 16, 64))
      >>> params = {"stem": {"kernel": stem}, "conv": {"kernel": conv}}
      >>> for path, found in layer_maps(params, {"stem": None, 64: (8, 8)}).items():
      ...     print(path, found)
      conv/kernel 8x8
      stem/kernel None
    """
    check_table(table)
    paths = Counter(path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(params))
    maps = {}
    found = parameters(params)
    others = {p.path: p for p in found}
    for p in found:
        entry = find_entry(p, table, neuron_axis, others)
        if entry.key is None:
            continue
        if paths[p.path] > 1:
            raise ValueError(f"two parameters share the path {p.path!r}: rename one of them.")
        maps[p.path] = entry.layer_map
    for path, found in maps.items():
        if found is not None and found.leader is not None:
            _check_leader(path, found, maps.get(found.leader))
    return maps


def _check_leader(path: str, follower: LayerMap, leader: LayerMap | None) -> None:
    if leader is None or leader.leader is not None:
        raise ValueError(
            f"{path!r} lies as {follower.leader!r} does, which has no map of its own: name the "
            "kernel."
        )
    if (leader.map, leader.groups) != (follower.map, follower.groups):
        raise ValueError(
            f"{path!r} lies on {follower}, but {follower.leader!r}, its leader, on {leader}."
        )


def find_entry(
    p: Parameter, table: SomTable, neuron_axis: int, others: Mapping[str, Parameter]
) -> Entry:
    """Returns what a table that is in order says of a parameter; raises as `layer_maps`.

    Args:
      p: the parameter.
      table: see `layer_maps`.
      neuron_axis: see there.
      others: all parameters, by path.
    """
    key = _named(p, table)
    if key is None:
        if p.kind == "convolution":
            key = _count(p, neuron_axis)
            if key not in table:
                raise ValueError(_uncovered(p, key))
        elif p.kind == "unclear" and _likely_count(p, neuron_axis) in table:
            raise ValueError(
                f"{p.path!r} with shape {p.shape} may be a convolution along a line, heads or "
                f"stacked layers: say in the table which, with {_remedy(p, neuron_axis)}, or None "
                "to leave it alone."
            )
        else:
            return Entry(p, None, None)
    if isinstance(table[key], str):
        return Entry(p, key, _follower(p, key, table, neuron_axis, others))
    found = _layer_map(table[key], neuron_axis)
    if found is not None:
        try:
            count = prod(p.shape[axis] for axis in found.axes(p.shape))
        except ValueError as error:
            raise ValueError(f"{p.path!r} {error}") from None
        if found.count != count:
            raise ValueError(_misfit(p, count, found))
    return Entry(p, key, found)


def _follower(p, key, table, neuron_axis, others):
    """Where a parameter lies that has one number for each neuron of another one."""
    match = re.fullmatch(key, p.path) or re.search(key, p.path)
    try:
        path = match.expand(table[key])
    except (re.error, IndexError) as error:
        raise ValueError(f"som_table[{key!r}], {table[key]!r}: {error}.") from None
    named = f"som_table[{key!r}] says that {p.path!r} lies as {path!r} does"
    if path not in others:
        raise ValueError(f"{named}, which is no parameter{did_you_mean(path, list(others))}")
    leader = others[path]
    own = _named(leader, table)
    follows = own is not None and isinstance(table[own], str)
    found = None if follows else find_entry(leader, table, neuron_axis, others).layer_map
    if found is None:
        raise ValueError(f"{named}, which has no map of its own: name the kernel.")
    neurons = tuple(leader.shape[axis] for axis in found.axes(leader.shape))
    axes = [axis for axis, side in enumerate(p.shape) if side > 1 or p.shape == neurons]
    if tuple(p.shape[axis] for axis in axes) not in (neurons, (prod(neurons),)):
        raise ValueError(
            f"{named}: it must have one number for each of {prod(neurons)} neurons, got shape "
            f"{p.shape}."
        )
    return LayerMap(found.map, tuple(axes), found.groups, leader=path)


def warn_of_unmatched(params: Any, table: SomTable, *, neuron_axis: int = -1) -> None:
    """Warns of a table that no kernel is filtered by, and of patterns that no path holds."""
    paths = [path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    if not paths:  # as where optax.partition has no leaf for one of its transformations
        return
    known = ", ".join(paths[:3]) + (", ..." if len(paths) > 3 else "")
    found = parameters(params)
    for key in table:
        if not isinstance(key, str):
            continue
        named = [p for p in found if re.search(key, p.path)]
        if not any(re.search(key, path) for path in paths):
            warnings.warn(
                f"som_table key {key!r} matches no parameter path; the paths are {known}",
                stacklevel=4,
            )
        elif table[key] is not None and named and not any(_means(key, p) for p in named):
            warnings.warn(
                f"som_table key {key!r} matches biases and the like alone, such as "
                f"{named[0].path}: they are filtered only where a key matches the whole path.",
                stacklevel=4,
            )
    if any(p.kind != "bias" for p in found) and not layer_maps(
        params, table, neuron_axis=neuron_axis
    ):
        remedy = "lgnn_jax.explain(params, som_table) says why."
        if any(p.kind == "other" and len(p.shape) == 2 for p in found):
            remedy += " For dense layers, lgnn_jax.som_table(params, dense=True) makes one."
        warnings.warn(
            f"som_table speaks of none of the parameters, {known}: nothing is filtered. {remedy}",
            stacklevel=4,
        )


def check_table(table: SomTable) -> None:
    """Raises ValueError for a table that is wrong whatever the parameters are."""
    if not isinstance(table, Mapping):
        raise ValueError(
            "som_table must map channel counts or path patterns to (m, n), got "
            f"{one_line(table):.80}. lgnn_jax.som_table(params) makes one."
        )
    for key, value in table.items():
        if isinstance(key, str):
            try:
                re.compile(key)
            except (re.error, OverflowError, RecursionError) as error:
                reason = " ".join(str(error).split())
                raise ValueError(
                    f"som_table key {key!r} is not a regular expression: {reason}."
                ) from None
        elif isinstance(key, bool) or not isinstance(key, (int, np.integer)):
            raise ValueError(
                f"som_table key {key!r} must be an int (a channel count) or a str (a path pattern)."
            )
        named = isinstance(key, str) and isinstance(value, str)
        known = value is None or isinstance(value, (Map, LayerMap)) or _are_dimensions(value)
        if not (named or known):
            raise ValueError(
                f"som_table[{key!r}] must be (m, n), two positive ints, a map, a LayerMap, the "
                f"path of a kernel where the key is a path, or None, got {one_line(value):.80}. "
                "lgnn_jax.som_table(params) makes a table."
            )


def _named(p: Parameter, table: SomTable) -> str | None:
    """The first pattern of a table that means a parameter."""
    return next((key for key in table if isinstance(key, str) and _means(key, p)), None)


def _means(key: str, p: Parameter) -> bool:
    # The name of a layer is found in its bias's path as well, and means its kernel.
    matches = re.fullmatch if p.kind == "bias" else re.search
    return matches(key, p.path) is not None


def _layer_map(value: Any, neuron_axis: int) -> LayerMap | None:
    if value is None or isinstance(value, LayerMap):
        return value
    if isinstance(value, Map):
        return LayerMap(value, neuron_axis)
    return LayerMap(grid(*value), neuron_axis)


def _count(p: Parameter, neuron_axis: int) -> int:
    """The number of neurons of a convolution kernel, where its axis is no matter of doubt."""
    if not -len(p.shape) <= neuron_axis < len(p.shape):
        raise ValueError(f"{p.path!r} with shape {p.shape} has no neuron_axis {neuron_axis}.")
    axis = wrong_way_round(p.shape, neuron_axis)
    if axis is not None:
        order = "(c_out, c_in, spatial...)" if axis == 0 else "(spatial..., c_in, c_out)"
        raise ValueError(
            f"{p.path!r} with shape {p.shape} looks like {order}: pass neuron_axis={axis}; or, if "
            f"it is not, say so in the table: {_remedy(p, neuron_axis)}."
        )
    return p.shape[neuron_axis]


def _likely_axis(p: Parameter, neuron_axis: int) -> int:
    """The axis that would count its neurons; the last one, if it lacks the usual."""
    return neuron_axis if -len(p.shape) <= neuron_axis < len(p.shape) else -1


def _likely_count(p: Parameter, neuron_axis: int) -> int:
    return p.shape[_likely_axis(p, neuron_axis)]


def _remedy(p: Parameter, neuron_axis: int) -> str:
    axis = _likely_axis(p, neuron_axis)
    sides = ", ".join(map(str, som_dimensions(max(p.shape[axis], 1))))
    return f"{{{_pattern(p)!r}: LayerMap(grid({sides}), {axis})}}"


def _pattern(p: Parameter) -> str:
    """The key of a table that means one parameter, and none whose path goes on or begins before."""
    return f"^{re.escape(p.path)}$"


def _are_dimensions(value: Any) -> bool:
    return (
        isinstance(value, (tuple, list))
        and len(value) == 2
        and all(isinstance(d, (int, np.integer)) and not isinstance(d, bool) for d in value)
        and min(value) >= 1
    )


def _uncovered(p: Parameter, c_out: int) -> str:
    remedy = f"add {c_out}: {som_dimensions(c_out)}, or {_pattern(p)!r}: None to leave it alone."
    return (
        f"som_table covers neither the path nor the channel count of kernel {p.path!r} with shape "
        f"{p.shape}: {_of_a_part() or remedy}"
    )


def _misfit(p: Parameter, count: int, found: LayerMap) -> str:
    sides = getattr(found.map, "sides", None)
    if found.groups == 1 and sides is not None and len(sides) == 2:
        remedy = f"use {som_dimensions(count)} or another pair with that product."
        if len(p.shape) > 2 and found.count == p.shape[-2] * p.shape[-1]:
            remedy = (
                f"use {som_dimensions(count)}, or LayerMap(grid{sides}, (-2, -1)) for both axes."
            )
        return (
            f"SOM dimensions {sides} hold {found.count} neurons, but {p.path!r} with shape "
            f"{p.shape} has {count}: {_of_a_part() or remedy}"
        )
    part = _of_a_part()
    return (
        f"the map {found} has {found.count} places, but {p.path!r} with shape {p.shape} has "
        f"{count} neurons on axis {found.neuron_axis}{': ' + part if part else '.'}"
    )


def _of_a_part() -> str:
    """What is wrong with a shape inside `jax.shard_map`, most likely; nothing elsewhere."""
    axes = jax.sharding.get_abstract_mesh().manual_axes
    if not axes:
        return ""
    return (
        f"that is one device's part, in shard_map over {', '.join(map(repr, axes))}, and the "
        "neurons of a map must be whole on each device: shard another axis, or update outside of "
        "shard_map."
    )
