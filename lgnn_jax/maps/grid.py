"""Grids of one, two or three dimensions, any side of which may be closed to a ring."""

import math
import operator
from dataclasses import dataclass
from math import isqrt

import numpy as np

from lgnn_jax.maps.shapes import SQUARE, Layout, Map, adjacency, graph_laplacian


@dataclass(frozen=True)
class Grid(Map):
    """See `grid`.

    Attributes:
      sides: of one to three dimensions.
      wrap: for each, whether its ends meet.
    """

    sides: tuple[int, ...]
    wrap: tuple[bool, ...]

    def __post_init__(self):
        """Checks what the attributes promise."""
        if not 1 <= len(self.sides) <= 3 or min(self.sides) < 1:
            raise ValueError(
                f"grid takes one to three sides, each at least 1, got {_joined(self.sides)}."
            )
        if len(self.wrap) != len(self.sides):
            raise ValueError(
                f"wrap must be one flag or one for each of {len(self.sides)} sides, got "
                f"{self.wrap}."
            )

    @property
    def count(self) -> int:
        """Number of places."""
        return math.prod(self.sides)

    @property
    def positions(self) -> np.ndarray:
        """Row, column, ...; from 0."""
        return np.stack(np.unravel_index(np.arange(self.count), self.sides), axis=1).astype(float)

    def distances(self) -> np.ndarray:
        """Returns Euclidean distances, with the shorter way around where a side wraps."""
        squares = np.zeros((self.count, self.count), int)  # ties are exact
        places = np.unravel_index(np.arange(self.count), self.sides)
        for place, side, wraps in zip(places, self.sides, self.wrap, strict=True):
            apart = np.abs(place[:, None] - place)
            squares += np.square(np.minimum(apart, side - apart) if wraps else apart)
        return np.sqrt(squares)

    def edges(self) -> np.ndarray:
        """Returns the pairs of neighbours, side by side of the grid."""
        places = np.arange(self.count).reshape(self.sides)
        pairs = []
        for axis, (side, wraps) in enumerate(zip(self.sides, self.wrap, strict=True)):
            lines = np.moveaxis(places, axis, 0)
            pairs.append(np.stack([lines[:-1].ravel(), lines[1:].ravel()], axis=1))
            if wraps and side > 2:
                pairs.append(np.stack([lines[0].ravel(), lines[-1].ravel()], axis=1))
        return np.concatenate(pairs)

    def laplacian(self) -> np.ndarray:
        """Returns the number of a place's neighbours less their sum."""
        return graph_laplacian(adjacency(self))

    def layout(self) -> Layout:
        """Returns a line as a row, and three dimensions as slices side by side."""
        places = np.zeros((self.count, 3))
        places[:, -len(self.sides) :] = self.positions
        places[:, 2] += places[:, 0] * (self.sides[-1] + 1)
        up, right, down, left = (-2, -1), (-1, 1), (-2, 1), (-1, -1)
        beyond = [self._beside(axis, step) for axis, step in (up, right, down, left)]
        return Layout(places[:, 1:], SQUARE, np.stack(beyond, axis=1))

    def _beside(self, axis: int, step: int) -> np.ndarray:
        """The place one step along an axis, counted from the last; -1 beyond an edge."""
        if len(self.sides) < -axis:
            return np.full(self.count, -1)  # a line has nothing above and below
        places = [*np.unravel_index(np.arange(self.count), self.sides)]
        side, moved = self.sides[axis], places[axis] + step
        places[axis] = moved % side
        beside = np.ravel_multi_index(places, self.sides)
        on_map = (moved >= 0) & (moved < side)
        return beside if self.wrap[axis] else np.where(on_map, beside, -1)

    def __str__(self) -> str:
        """As in "32x16", "32x16 torus" or "ring of 64"."""
        if len(self.sides) == 1:
            return f"{'ring' if self.wrap[0] else 'line'} of {self.sides[0]}"
        name = _joined(self.sides)
        if all(self.wrap):
            return f"{name} torus"
        return f"{name} cylinder" if any(self.wrap) else name


def grid(*sides: int, wrap: bool | tuple[bool, ...] = False) -> Grid:
    """Returns a grid of places, row by row.

    Args:
      *sides: one to three whole numbers, each at least 1: rows and columns, say.
      wrap: whether the ends of the sides meet: one flag, or one for each side. With all of two
        sides it is a torus.

    Raises:
      ValueError: for another number of sides, a side below 1, or a number of flags that is neither
        one nor that of the sides.

    Example:
      >>> m = grid(8, 4, wrap=True)
      >>> m.count, m.distances()[0, 28].item(), str(m)
      (32, 1.0, '8x4 torus')
    """
    try:
        sides = tuple(operator.index(side) for side in sides)
    except TypeError:
        raise ValueError(f"sides must be whole numbers, got {_joined(sides)}.") from None
    flags = wrap if isinstance(wrap, (tuple, list)) else (wrap,) * len(sides)
    if not all(isinstance(flag, (bool, np.bool_)) for flag in flags):
        raise ValueError(f"wrap must be a bool, or one for each side, got {wrap!r:.80}.")
    return Grid(sides, tuple(bool(flag) for flag in flags))


def as_map(map: Map | tuple[int, int]) -> Map:
    """Returns a map as it is, and `grid(m, n)` for `(m, n)`, which is short for it.

    Raises:
      ValueError: if it is neither.
    """
    if isinstance(map, Map):
        return map
    if not isinstance(map, (tuple, list)) or len(map) != 2:
        raise ValueError(f"a map must be a map, or (m, n) for a grid, got {map!r:.80}.")
    return grid(*map)


def as_json(map: Map) -> list[int] | str:
    """Returns what a file has of a map: its sides for a plane grid, its name for others."""
    plane = isinstance(map, Grid) and len(map.sides) == 2 and not any(map.wrap)
    return list(map.sides) if plane else str(map)


def line(n: int) -> Grid:
    """Returns `n` places in a row: `grid(n)`."""
    return grid(n)


def ring(n: int) -> Grid:
    """Returns `n` places in a circle: `grid(n, wrap=True)`."""
    return grid(n, wrap=True)


def som_dimensions(c_out: int) -> tuple[int, int]:
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


def _joined(sides) -> str:
    return "x".join(map(str, sides)) or "none"
