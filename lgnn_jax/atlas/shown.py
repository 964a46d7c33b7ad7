"""Which filters and regions of a layer the figures show."""

from collections.abc import Sequence

import numpy as np

from lgnn_jax.analysis.activations import Region
from lgnn_jax.atlas.view import has_rows_and_columns
from lgnn_jax.maps.grid import Grid
from lgnn_jax.maps.shapes import Map

_POSITIONS = ((1, 1), (1, 3), (1, 5))  # rows and columns of the filters in Figure 2
_REGIONS = 3  # that are shown of a set of classes


def chosen_places(map: Map) -> list[int]:
    """Returns the places of the filters in Figure 2.

    The paper's, in row 1 and the columns 1, 3 and 5, as far as the map has them; on a map without
    rows and columns, a place in the middle and others 2 and 4 away from it.

    Example:
      >>> from lgnn_jax.maps.grid import grid, ring
      >>> chosen_places(grid(8, 4)), chosen_places(ring(32))
      ([5, 7], [16, 14, 12])
    """
    if has_rows_and_columns(map):
        m, n = map.sides if isinstance(map, Grid) else (map.rows, map.columns)
        return [i * n + j for i, j in _POSITIONS if i < m and j < n] or [0]
    distances = map.distances()
    first = map.count // 2
    second = int(np.abs(distances[first] - 2).argmin())
    third = int((np.abs(distances[first] - 4) + np.abs(distances[second] - 2)).argmin())
    return list(dict.fromkeys([first, second, third]))


def shown_regions(regions: Sequence[Region]) -> list[Region]:
    """Returns the regions that shuffled maps have at most one time in twenty, three at most."""
    return [region for region in regions if region.p < 0.05][:_REGIONS]
