"""What of a map is shown on paper: all of it, or a part that goes on across the map's seam."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from lgnn_jax.maps.grid import Grid, as_map, grid
from lgnn_jax.maps.hexagonal import Hexagonal
from lgnn_jax.maps.shapes import Map


@dataclass(frozen=True, eq=False)
class View:
    """Places of a map, and where each of them is drawn.

    Attributes:
      map: of which they are.
      places: int `(shown,)`.
      centres: float64 `(shown, 2)`: of each, down and to the right, in map units. On a part of a
        grid these are rows and columns, which go on below 0 or beyond the last across a seam.
      outline: float64 `(corners, 2)`: of each place, around its centre.
      block: rows and columns, where the places are a block of a grid of two dimensions, row by row.
    """

    map: Map
    places: np.ndarray
    centres: np.ndarray
    outline: np.ndarray
    block: tuple[int, int] | None = None

    @property
    def corners(self) -> np.ndarray:
        """Of each place, float64 `(shown, corners, 2)`."""
        return self.centres[:, None] + self.outline

    @property
    def box(self) -> tuple[float, float, float, float]:
        """The rectangle around all that is shown: top, left, bottom, right."""
        corners = self.corners
        return (*corners.min(axis=(0, 1)).tolist(), *corners.max(axis=(0, 1)).tolist())

    @property
    def height(self) -> float:
        """In map units."""
        return self.box[2] - self.box[0]

    @property
    def width(self) -> float:
        """In map units."""
        return self.box[3] - self.box[1]


def whole(map: Map | tuple[int, int]) -> View:
    """Returns a view of all places of a map, place by place."""
    map = as_map(map)
    if isinstance(map, Grid):
        return _block(map, [(0, side) for side in map.sides])
    layout = map.layout()
    return View(map, np.arange(map.count), layout.centres, layout.outline)


def part_around(map: Map | tuple[int, int], places: Sequence[int], margin: int = 2) -> View:
    """Returns a view of chosen places and of those around them.

    Of a grid this is the least block that holds them, widened on each side; of other maps all
    places that are near one of them. Where the map is closed, the part goes on across its seam.

    Args:
      map: any map; `(m, n)` for a grid.
      places: of the map, one or more.
      margin: by how much to widen it, in map units, at least 0.

    Example:
      >>> from lgnn_jax.maps.grid import ring
      >>> view = part_around(ring(8), [0, 7], margin=1)
      >>> view.places.tolist(), view.centres[:, 1].tolist()
      ([6, 7, 0, 1], [6.0, 7.0, 8.0, 9.0])
    """
    map = as_map(map)
    if isinstance(map, Grid):
        taken = np.unravel_index(np.asarray(places), map.sides)
        spans = [_span(*side, margin) for side in zip(taken, map.sides, map.wrap, strict=True)]
        return _block(map, spans)
    near = map.distances()[list(places)].min(axis=0) <= margin + 1e-9
    return _unrolled(map, places, np.flatnonzero(near))


def has_rows_and_columns(map: Map) -> bool:
    """Tells whether a place can be named by its row and its column."""
    return isinstance(map, Hexagonal) or (isinstance(map, Grid) and len(map.sides) == 2)


def row_and_column(map: Map, place: int) -> tuple[int, int]:
    """Returns those of a place, of a map that has them."""
    row, column = divmod(int(place), map.sides[1] if isinstance(map, Grid) else map.columns)
    return row, column


def _block(map: Grid, spans: Iterable[tuple[int, int]]) -> View:
    """So many places along each side from a first one, which may lie before 0."""
    first, lengths = zip(*spans, strict=True)
    numbers = [f + np.arange(n) for f, n in zip(first, lengths, strict=True)]
    on_map = [n % side for n, side in zip(numbers, map.sides, strict=True)]
    places = np.ravel_multi_index(np.meshgrid(*on_map, indexing="ij"), map.sides).ravel()
    layout = grid(*lengths).layout()
    centres = layout.centres + [0, *first][-2:]
    return View(map, places, centres, layout.outline, lengths if len(lengths) == 2 else None)


def _span(taken: np.ndarray, side: int, wraps: bool, margin: int) -> tuple[int, int]:
    """The shortest stretch of a side that holds some of its numbers, widened: first, length."""
    taken = np.unique(taken)
    if not wraps:
        first = max(0, int(taken[0]) - margin)
        return first, min(side, int(taken[-1]) + margin + 1) - first
    gaps = np.diff(taken, append=taken[0] + side)
    widest = len(gaps) - 1 - int(gaps[::-1].argmax())  # of equal ones the seam stays where it is
    first, length = int(taken[(widest + 1) % len(taken)]), side - int(gaps[widest]) + 1
    widened = min(side, length + 2 * margin)
    if widened == side and first + length <= side:
        return 0, side
    return first - (widened - length) // 2, widened


def _unrolled(map: Map, chosen: Sequence[int], shown: np.ndarray) -> View:
    """Goes from each place to the next through their sides, which may lie across a seam."""
    layout = map.layout()
    steps = layout.outline + np.roll(layout.outline, -1, axis=0)
    left, centres = set(shown.tolist()), {}
    for start in chosen:
        queue = [(int(start), layout.centres[start])] if start in left else []
        left -= {int(start)}
        for place, centre in queue:
            centres[place] = centre
            for beyond, step in zip(layout.beyond[place].tolist(), steps, strict=True):
                if beyond in left:
                    left.remove(beyond)
                    queue.append((beyond, centre + step))
    for place in left:  # near a chosen place, but not on paper
        centres[place] = layout.centres[place]
    return View(map, shown, np.array([centres[p] for p in shown.tolist()]), layout.outline)
