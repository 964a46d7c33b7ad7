"""Some of the places of a map, as a map: for leaving out neurons that are constant."""

from dataclasses import dataclass

import numpy as np

from lgnn_jax.maps.shapes import Layout, Map


@dataclass(frozen=True)
class Part(Map):
    """Some places of a map, in any order. They lie as far apart as on the whole.

    Attributes:
      whole: the map.
      places: of the whole: those that are places 0, 1, ... of the part; each at most once.

    Example:
      >>> from lgnn_jax.maps.grid import ring
      >>> part = Part(ring(6), (5, 0, 2))
      >>> part.distances()[0].tolist(), part.edges().tolist()
      ([0.0, 1.0, 3.0], [[0, 1]])
    """

    whole: Map
    places: tuple[int, ...]

    @property
    def count(self) -> int:
        """Number of places."""
        return len(self.places)

    @property
    def positions(self) -> np.ndarray:
        """Those on the whole."""
        return self.whole.positions[list(self.places)]

    def distances(self) -> np.ndarray:
        """Returns the distances on the whole."""
        return self.whole.distances()[np.ix_(self.places, self.places)]

    def edges(self) -> np.ndarray:
        """Returns the pairs of places that are neighbours on the whole."""
        number = self._numbers()
        ends = number[self.whole.edges()]
        return np.sort(ends[(ends >= 0).all(axis=1)], axis=1)

    def layout(self) -> Layout:
        """Returns the whole on paper, without the other places."""
        centres, outline, beyond = self.whole.layout()
        places = list(self.places)
        beside = self._numbers()[beyond[places]]
        return Layout(centres[places], outline, np.where(beyond[places] < 0, -1, beside))

    def _numbers(self):
        """The number of each place of the whole in the part; -1 if it is not there."""
        number = np.full(self.whole.count, -1)
        number[list(self.places)] = np.arange(self.count)
        return number

    def __str__(self) -> str:
        """As in "3 places of 8x4"."""
        return f"{self.count} places of {self.whole}"


def part_with(map: Map, places: np.ndarray, neurons: np.ndarray) -> tuple[Part, np.ndarray]:
    """Returns the part of a map on which some neurons lie, and the neuron at each place of it.

    Args:
      map: any map.
      places: int `(places,)`, the neuron at each place.
      neurons: int, those to keep.

    Example:
      >>> from lgnn_jax.maps.grid import line
      >>> part, there = part_with(line(4), np.array([3, 0, 2, 1]), np.array([1, 3]))
      >>> part.places, there.tolist()
      ((0, 3), [3, 1])
    """
    kept = np.flatnonzero(np.isin(places, neurons))
    return Part(map, tuple(kept.tolist())), np.asarray(places)[kept]
