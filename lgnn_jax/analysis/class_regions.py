"""What classes look like on a map: does a class excite one patch, or scattered neurons."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from lgnn_jax.analysis.topography import TOUCH
from lgnn_jax.maps.grid import as_map
from lgnn_jax.maps.shapes import Map, connected, pairs_within

STRONGEST = 0.05  # of the neurons: those that answer to a class most
# What is left of a neuron's deviation over the classes, relative to its means, if it has none.
_ROUNDING = 1e-6


@dataclass(frozen=True)
class ClassRegions:
    """What each class looks like on a map. The mean over the classes is `found.patch.mean()`.

    Attributes:
      morans_i: float64 `(classes,)`: Moran's I of the responses to a class, over next neighbours on
        the map. 1 if neighbours respond alike; -1 / (neurons - 1) on average without order.
      patch: float64 `(classes,)`: of the neurons that respond most, the share that lies in their
        largest patch; those that touch, at a side or a corner, are in one patch.
      spread: float64 `(classes,)`: the mean distance of two of these neurons, over that of any two
        places. 1 on average without order; less if they lie together.
      strongest: how many these neurons are: 5 % of all, at least 2.
    """

    morans_i: np.ndarray
    patch: np.ndarray
    spread: np.ndarray
    strongest: int


def class_regions(
    means: np.ndarray, map: Map | tuple[int, int], places: np.ndarray | None = None
) -> ClassRegions:
    """Returns how orderly each class looks on a map.

    The response of a neuron to a class is its mean for that class, standardised over the classes:
    so a neuron that is always active counts for nothing. Constant neurons respond with 0. Of two
    classes, all responses are 1 or -1: then chance picks the strongest, and Moran's I alone counts.

    Args:
      means: `(classes, neurons)`, finite, at least 2 of both; see
        `lgnn_jax.analysis.activations.class_means`.
      map: of as many places; `(m, n)` for a grid.
      places: int `(places,)`, the neuron at each place, such as `settle` returns. If None, neuron
        j lies at place j.

    Raises:
      ValueError: if the means are not finite or too few, or `map` or `places` do not fit.

    Reference:
      Moran, "Notes on continuous stochastic phenomena", 1950.

    Example:
      >>> means = np.zeros((3, 36))
      >>> means[0, [14, 15]] = means[1, [0, 35]] = 1.0  # side by side; in opposite corners
      >>> found = class_regions(means, (6, 6))
      >>> found.patch[:2].tolist(), found.spread[:2].round(1).tolist()
      ([1.0, 0.5], [0.3, 2.2])
    """
    means = np.asarray(means, np.float64)
    if means.ndim != 2 or min(means.shape) < 2:
        raise ValueError(
            f"means must have shape (classes, neurons), at least 2 of both, got {means.shape}."
        )
    neurons = means.shape[1]
    map, places = as_map(map), np.arange(neurons) if places is None else np.asarray(places)
    if map.count != neurons:
        raise ValueError(f"map {map} has {map.count} places, and means have {neurons} neurons.")
    if places.dtype.kind not in "iu" or not np.array_equal(np.sort(places), np.arange(neurons)):
        raise ValueError(f"places must name each of {neurons} neurons once, from 0.")
    finite = np.isfinite(means).all(axis=0)
    if not finite.all():
        raise ValueError(f"the means of neuron {finite.argmin()} are not finite.")
    return regions_on(means, map)(places)


def regions_on(means: np.ndarray, map: Map) -> Callable[[np.ndarray], ClassRegions]:
    """Returns `class_regions` as a function of places, for many maps of the same neurons."""
    responses = standardised(means)
    classes, neurons = responses.shape
    strongest = min(max(2, round(STRONGEST * neurons)), neurons)
    # Equal responses are ranked by chance: their order must not depend on where they lie.
    shuffled = np.random.default_rng(0).permutation(neurons)
    ranked = np.argsort(-responses[:, shuffled], axis=1, kind="stable")
    strong = shuffled[ranked[:, :strongest]]
    centred = responses - responses.mean(axis=1, keepdims=True)
    variances = np.square(centred).mean(axis=1)
    first, second = map.edges().T
    touching = pairs_within(map, TOUCH)
    distances = map.distances()
    apart = distances.sum() / (neurons * (neurons - 1))

    def found(places):
        on_map = centred[:, places]
        products = (on_map[:, first] * on_map[:, second]).mean(axis=1)
        where = np.argsort(places)[strong]  # the places of the strong neurons
        chosen = np.zeros((classes, neurons), bool)
        np.put_along_axis(chosen, where, True, axis=1)
        # Class by class: all at once would be 2 GB with 1,000 classes and 10,000 neurons.
        sums = np.array([distances[np.ix_(own, own)].sum() for own in where])
        return ClassRegions(
            morans_i=np.divide(products, variances, out=np.zeros(classes), where=variances > 0),
            patch=_largest(chosen, touching) / strongest,
            spread=sums / (strongest * (strongest - 1)) / apart,
            strongest=strongest,
        )

    return found


def standardised(means: np.ndarray) -> np.ndarray:
    """Returns class means with each neuron standardised over the classes; 0 for constant ones."""
    deviation = means.std(axis=0)
    constant = deviation <= _ROUNDING * np.abs(means).max(axis=0)
    centred = means - means.mean(axis=0)
    return np.divide(centred, deviation, out=np.zeros_like(means), where=~constant)


def _largest(chosen, touching):
    """The size of the largest patch of each class, of the places that are chosen for it."""
    first, second = touching.T
    classes, pairs = np.nonzero(chosen[:, first] & chosen[:, second])
    # All classes at once: each place of each class is a node of one graph.
    ends = classes[:, None] * chosen.shape[1] + touching[pairs]
    nodes, edges = np.unique(ends, return_inverse=True)
    largest = np.ones(len(chosen), int)  # there are some neurons, which may all lie alone
    for patch in connected(edges.reshape(-1, 2), np.ones(len(nodes), bool)):
        of = nodes[patch[0]] // chosen.shape[1]
        largest[of] = max(largest[of], len(patch))
    return largest
