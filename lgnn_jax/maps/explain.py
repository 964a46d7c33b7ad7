"""What a table makes of a network, parameter by parameter."""

import textwrap
from collections.abc import Mapping
from typing import Any

from lgnn_jax.maps.parameters import Parameter, parameters
from lgnn_jax.maps.table import SomTable, check_table, find_entry

_COLUMNS = 100
_LONGEST = 40  # paths beyond that stand on a line of their own
_NARROWEST = 24  # reasons that had less stand below


def explain(params: Any, table: SomTable, *, neuron_axis: int = -1) -> None:
    """Prints for every parameter its shape, its neuron axis, its map, and why.

    Lines are at most 100 wide: long paths stand on lines of their own, long reasons on several.

    Args:
      params: any tree of arrays (or `jax.ShapeDtypeStruct`).
      table: as for `lgnn_jax.transform`.
      neuron_axis: as for `lgnn_jax.transform`.

    Raises:
      ValueError: for a malformed table. What `lgnn_jax.transform` would refuse is printed instead.

    Example:
      >>> import jax.numpy as jnp
      >>> params = {"conv": {"kernel": jnp.zeros((3, 3, 3, 64)), "bias": jnp.zeros(64)}}
      >>> explain(params, {64: (8, 8)})
      parameter    shape          axis  map  why
      conv/bias    (64)           -     -    no kernel, by its name
      conv/kernel  (3, 3, 3, 64)  -1    8x8  key 64; a convolution, by its name
    """
    check_table(table)
    rows = [("parameter", "shape", "axis", "map", "why")]
    found = parameters(params)
    others = {p.path: p for p in found}
    rows += [_row(p, table, neuron_axis, others) for p in found]
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    widths[0] = max(len(row[0]) for row in rows if len(row[0]) <= _LONGEST)
    for path, *cells, why in rows:
        if len(path) > widths[0]:
            print(path)
            path = ""
        cells = [cell.ljust(width) for cell, width in zip((path, *cells), widths, strict=True)]
        left = "  ".join([*cells, ""])
        if _COLUMNS - len(left) < max(_NARROWEST, *map(len, why.split())):
            print(left.rstrip())
            left = "    "
        room = _COLUMNS - len(left)
        first, *more = textwrap.wrap(why, room, break_long_words=False, break_on_hyphens=False)
        print(left + first)
        for line in more:
            print(" " * len(left) + line)


def _row(p: Parameter, table: SomTable, neuron_axis: int, others: Mapping[str, Parameter]):
    shape = f"({', '.join(map(str, p.shape))})"
    try:
        entry = find_entry(p, table, neuron_axis, others)
    except ValueError as error:
        return p.path, shape, "?", "?", f"refused: {error}"
    if entry.key is None:
        return p.path, shape, "-", "-", p.why
    if entry.layer_map is None:
        return p.path, shape, "-", "-", f"key {entry.key!r} leaves it alone"
    why = f"key {entry.key!r}; {p.why}"
    if entry.layer_map.leader is not None:
        why = f"key {entry.key!r}; as {entry.layer_map.leader}"
    read, neurons = (1, 0) if neuron_axis == 0 else (-2, -1)
    if p.kind == "convolution" and p.shape[read] == 1 < p.shape[neurons]:
        why += "; each neuron reads one channel: if its channels are groups, see LayerMap.groups"
    return p.path, shape, str(entry.layer_map.neuron_axis), str(entry.layer_map), why
