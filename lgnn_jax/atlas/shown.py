"""Which filters, regions and classes of a layer the figures show."""

from collections.abc import Sequence

import numpy as np

from lgnn_jax.analysis.activations import Region
from lgnn_jax.atlas.class_pictures import ClassPictures
from lgnn_jax.atlas.view import has_rows_and_columns
from lgnn_jax.maps.grid import Grid
from lgnn_jax.maps.shapes import Map

_POSITIONS = ((1, 1), (1, 3), (1, 5))  # rows and columns of the filters in Figure 2
_REGIONS = 3  # that are shown of a set of classes
_CLASSES, _ALIKE = 8, 0.5  # classes that are shown, and how much two of them may correlate


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


def shown_classes(pictures: ClassPictures) -> tuple[str, ...]:
    """Returns the names of the classes to show where none are asked for, eight at most.

    Those whose neurons lie most in one patch come first. Of classes that excite the same neurons,
    maples and oaks say, one is shown, as long as there are others.

    Example:
      >>> maple, oak, shark = [3.0, 2.0, 0.0, 0.0], [2.0, 3.0, 0.0, 0.0], [0.0, 0.0, 1.0, 1.0]
      >>> names, patches = ("maple", "oak", "shark"), np.array([0.9, 0.8, 0.4])
      >>> shown_classes(ClassPictures(names, np.array([maple, oak, shark]), patches, patches))
      ('maple', 'shark', 'oak')
    """
    norms = np.linalg.norm(pictures.responses, axis=1, keepdims=True)
    directions = np.zeros_like(pictures.responses)
    np.divide(pictures.responses, norms, out=directions, where=norms > 0)
    alike = directions @ directions.T
    first: list[int] = []
    others: list[int] = []
    for row in np.argsort(-pictures.patches, kind="stable").tolist():
        (others if (alike[row, first] > _ALIKE).any() else first).append(row)
    return tuple(pictures.names[row] for row in [*first, *others][:_CLASSES])
