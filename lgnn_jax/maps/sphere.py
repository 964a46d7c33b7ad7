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
        """Returns the sphere unrolled: its axis down, once around to the right, true to area.

        The spiral is a lattice on paper, and each place has the lattice's cell. Beyond a side at a
        pole, which has no length on the sphere, lies the place itself.
        """
        height, angle = self._spiral()
        centres = self.radius * np.stack([1 - height, angle % (2 * pi)], axis=1)
        steps, ways = self._lattice()
        places = np.arange(self.places)[:, None]
        beyond = places + steps
        beyond = np.where((beyond >= 0) & (beyond < self.places), beyond, places)
        # A corner is as far from the place as from those beyond the sides that meet there.
        before = np.roll(ways, 1, axis=0)
        halves = np.square(np.stack([before, ways], axis=1)).sum(axis=-1) / 2
        outline = np.linalg.solve(np.stack([before, ways], axis=1), halves[..., None])[..., 0]
        return Layout(centres, outline, beyond)

    def _lattice(self) -> tuple[np.ndarray, np.ndarray]:
        """The six places around each on paper: steps along the spiral, and ways down and right."""
        around = 2 * pi * self.radius
        step, turn = np.array([2 * self.radius / self.places, around / _GOLDEN]), [0.0, around]
        basis = np.array([step, turn])

        def way(numbers):
            return numbers @ basis

        first, second = np.array([0, 1]), np.array([1, 0])
        while True:  # Lagrange's reduction
            if way(first) @ way(first) > way(second) @ way(second):
                first, second = second, first
            times = round(way(first) @ way(second) / (way(first) @ way(first)))
            if not times:
                break
            second = second - times * first
        if way(first) @ way(second) > 0:
            second = -second
        six = np.array([first, first + second, second])
        six = np.concatenate([six, -six])
        return six[:, 0], way(six)

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
