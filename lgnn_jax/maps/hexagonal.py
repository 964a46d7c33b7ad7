"""Hexagons: each place has six neighbours, all as near."""

import operator
from dataclasses import dataclass

import numpy as np

from lgnn_jax.maps.shapes import Layout, Map, adjacency, graph_laplacian


@dataclass(frozen=True)
class Hexagonal(Map):
    """See `hexagonal`.

    Attributes:
      rows: at least 1; even, with `wrap`.
      columns: at least 1.
      wrap: whether opposite edges meet.
    """

    rows: int
    columns: int
    wrap: bool = False

    def __post_init__(self):
        """Checks what the attributes promise."""
        if min(self.rows, self.columns) < 1:
            raise ValueError(
                "hexagonal takes rows and columns, each at least 1, got "
                f"{self.rows}x{self.columns}."
            )
        if self.wrap and self.rows % 2:
            raise ValueError(
                f"a hexagonal map that wraps needs an even number of rows, got {self.rows}: every "
                "other row is shifted by half a place."
            )

    @property
    def count(self) -> int:
        """Number of places."""
        return self.rows * self.columns

    @property
    def positions(self) -> np.ndarray:
        """Down and to the right; rows are sqrt(3) / 2 apart, every other one shifted by 1/2."""
        row, column = np.divmod(np.arange(self.count), self.columns)
        return np.stack([row * np.sqrt(0.75), column + row % 2 / 2], axis=1)

    def distances(self) -> np.ndarray:
        """Returns Euclidean distances, the shortest way around with `wrap`."""
        row, column = np.divmod(np.arange(self.count), self.columns)
        down = np.abs(row[:, None] - row)
        right = 2 * column + row % 2  # in halves: whole numbers, so that ties are exact
        right = np.abs(right[:, None] - right)
        if self.wrap:
            down = np.minimum(down, self.rows - down)
            right = np.minimum(right, 2 * self.columns - right)
        return np.sqrt((3 * np.square(down) + np.square(right)) / 4)

    def edges(self) -> np.ndarray:
        """Returns the pairs of places that are 1 apart."""
        distances = self.distances()
        return np.stack(np.nonzero(np.triu((distances > 0.9) & (distances < 1.1), 1)), axis=1)

    def laplacian(self) -> np.ndarray:
        """Returns 2/3 of the number of a place's neighbours less their sum.

        Six steps of length 1 have the variance 3 along each dimension, the four on a grid have 2.
        """
        return graph_laplacian(adjacency(self) * (2 / 3))

    def layout(self) -> Layout:
        """Returns hexagons that fill the plane."""
        angles = np.radians(np.arange(0, 360, 60))
        outline = np.stack([np.cos(angles), np.sin(angles)], axis=1) / np.sqrt(3)
        # Beyond the sides, from the lowest corner on: down right, right, up right, and so on.
        ways = ((1, 1), (0, 2), (-1, 1), (-1, -1), (0, -2), (1, -1))
        beyond = [self._beside(down, halves) for down, halves in ways]
        return Layout(self.positions, outline, np.stack(beyond, axis=1))

    def _beside(self, down: int, halves: int) -> np.ndarray:
        """The place so many rows down and half places to the right; -1 beyond an edge."""
        row, column = np.divmod(np.arange(self.count), self.columns)
        halves = 2 * column + row % 2 + halves
        row = row + down
        column = (halves - row % 2) // 2
        on_map = (row >= 0) & (row < self.rows) & (column >= 0) & (column < self.columns)
        beside = row % self.rows * self.columns + column % self.columns
        return beside if self.wrap else np.where(on_map, beside, -1)

    def __str__(self) -> str:
        """As in "32x16 hexagonal"."""
        return f"{self.rows}x{self.columns} hexagonal{' torus' if self.wrap else ''}"


def hexagonal(m: int, n: int, *, wrap: bool = False) -> Hexagonal:
    """Returns places in the middle of hexagons, in `m` rows of `n`.

    Args:
      m: rows, at least 1; even, with `wrap`.
      n: columns, at least 1.
      wrap: whether opposite edges meet, so that every place has six neighbours.

    Raises:
      ValueError: for an argument out of its range.

    Example:
      >>> m = hexagonal(4, 4, wrap=True)
      >>> m.count, len(m.edges())
      (16, 48)
    """
    try:
        m, n = operator.index(m), operator.index(n)
    except TypeError:
        raise ValueError(f"rows and columns must be whole numbers, got {m!r}, {n!r}.") from None
    return Hexagonal(m, n, bool(wrap))
