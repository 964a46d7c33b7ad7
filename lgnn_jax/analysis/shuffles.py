"""A statistic of a map means little by itself: beside it stands that of shuffled maps."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from lgnn_jax.maps.grid import as_map, som_dimensions
from lgnn_jax.maps.shapes import Map

# Statistics are sums in various orders: where they differ by less than this share of the largest,
# they are equal.
ROUNDING = 1e-12


@dataclass(frozen=True)
class AgainstShuffles:
    """A statistic of a map, and the same of maps with the neurons shuffled.

    Order makes every statistic in this package larger, never smaller.

    Attributes:
      value: of the map as it is.
      shuffled: float64 `(shuffles,)`.

    Example:
      >>> found = AgainstShuffles(2.0, np.array([0.0, 1.0, 2.0, 3.0]))
      >>> found.p, round(found.z, 3)
      (0.6, 0.447)
    """

    value: float
    shuffled: np.ndarray

    @property
    def z(self) -> float | None:
        """The value less the mean of the shuffled, in their (population's) standard deviations.

        None where these are 0: values that do not differ, of a map with nothing but dead neurons
        or of a single shuffle, are no measure.
        """
        deviation = self.shuffled.std()
        if deviation <= ROUNDING * np.abs(self.shuffled).max():
            return None
        return float((self.value - self.shuffled.mean()) / deviation)

    @property
    def p(self) -> float:
        """One-sided p-value: the chance of a value this large on a map without order.

        `(1 + number of shuffled >= value) / (1 + shuffles)`, which is never 0. Values that differ
        by rounding are equal.

        Reference:
          Phipson and Smyth, "Permutation p-values should never be zero", 2010.
        """
        rounding = ROUNDING * max(abs(self.value), np.abs(self.shuffled).max())
        as_large = int(np.count_nonzero(self.shuffled >= self.value - rounding))
        return (1 + as_large) / (1 + len(self.shuffled))


def shuffled_maps(
    count: int, map: Map | tuple[int, int], shuffles: int, seed: int
) -> list[np.ndarray]:
    """Returns the neurons in the order in which they lie on each of `shuffles` random maps.

    Args:
      count: number of neurons.
      map: of at least two neurons; `(m, n)` for a grid.
      shuffles: number of maps, at least 1.
      seed: one seed means the same maps.

    Raises:
      ValueError: for a map that does not hold `count` neurons or holds one, and for no shuffles.
    """
    map = as_map(map)
    if map.count != count:
        raise ValueError(
            f"map {map} does not fit {count} filters: use {som_dimensions(count)} or another of as "
            "many places."
        )
    if count == 1:
        raise ValueError(f"map {map} holds a single neuron: order takes two or more.")
    if shuffles < 1:
        raise ValueError(f"shuffles must be at least 1, got {shuffles}.")
    rng = np.random.default_rng(seed)
    return [rng.permutation(count) for _ in range(shuffles)]


def against_shuffles(
    statistic: Callable[[np.ndarray], float], maps: Sequence[np.ndarray]
) -> AgainstShuffles:
    """Returns a statistic of the neurons in their own order, beside that of each of `maps`."""
    value = statistic(np.arange(len(maps[0])))
    return AgainstShuffles(float(value), np.array([statistic(neurons) for neurons in maps]))
