"""Places spread evenly over a sphere: a surface without an edge, on which all places are alike."""

import operator
from dataclasses import dataclass
from math import pi, sqrt

import numpy as np

from lgnn_jax.maps.shapes import Layout, Map

_GOLDEN = (1 + sqrt(5)) / 2


@dataclass(frozen=True)
class Sphere(Map):
    """See `sphere`.

    Attributes:
      places: their number, at least 1.
    """

    places: int

    def __post_init__(self):
        """Checks what the attribute promises."""
        if self.places < 1:
            raise ValueError(f"sphere takes a number of places, at least 1, got {self.places}.")

    @property
    def count(self) -> int:
        """Number of places."""
        return self.places

    @property
    def radius(self) -> float:
        """In map units; a place has the area of a hexagon whose neighbours are 1 away."""
        return sqrt(self.places * sqrt(0.75) / (4 * pi))

    @property
    def dimensions(self) -> int:
        """Of the surface, two."""
        return 2

    @property
    def positions(self) -> np.ndarray:
        """In space: `(places, 3)`, the last coordinate from pole to pole."""
        height, angle = self._spiral()
        across = np.sqrt(1 - np.square(height))
        unit = np.stack([across * np.cos(angle), across * np.sin(angle), height], axis=1)
        return self.radius * unit

    def distances(self) -> np.ndarray:
        """Returns the lengths of arcs of great circles."""
        positions = self.positions
        # From the chord: the arc cosine of a product loses half the digits of what is near.
        chords = np.sqrt(np.square(positions[:, None] - positions).sum(axis=-1))
        return 2 * self.radius * np.arcsin(np.minimum(chords / (2 * self.radius), 1))

    def layout(self) -> Layout:
        """Returns the sphere unrolled: its axis down, once around to the right, true to area."""
        height, angle = self._spiral()
        centres = self.radius * np.stack([1 - height, angle % (2 * pi)], axis=1)
        angles = np.radians(np.arange(0, 360, 30))
        # Places lie unevenly on paper; so wide, discs touch and hardly overlap.
        return Layout(centres, 0.45 * np.stack([np.cos(angles), np.sin(angles)], axis=1))

    def _spiral(self) -> tuple[np.ndarray, np.ndarray]:
        """Height in [-1, 1] and angle of each place, on a spiral from pole to pole."""
        steps = np.arange(self.places)
        return 1 - (2 * steps + 1) / self.places, 2 * pi * steps / _GOLDEN

    def __str__(self) -> str:
        """As in "sphere of 100"."""
        return f"sphere of {self.places}"


def sphere(n: int) -> Sphere:
    """Returns `n` places spread evenly over a sphere, on a spiral from pole to pole.

    Args:
      n: at least 1.

    Raises:
      ValueError: if `n` is no whole number, or less than 1.

    Reference:
      Gonzalez, "Measurement of areas on a sphere using Fibonacci and latitude-longitude lattices",
      2010.

    Example:
      >>> m = sphere(100)
      >>> m.positions.shape, str(m)
      ((100, 3), 'sphere of 100')
    """
    try:
        n = operator.index(n)
    except TypeError:
        raise ValueError(f"the number of places must be a whole number, got {n!r}.") from None
    return Sphere(n)
