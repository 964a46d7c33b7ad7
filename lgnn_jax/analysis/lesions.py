"""Where on a map a class lies, so that the place can be silenced and what is lost be counted."""

import numpy as np

from lgnn_jax.analysis.class_regions import standardised
from lgnn_jax.maps.grid import as_map
from lgnn_jax.maps.shapes import Map


def class_lesions(
    means: np.ndarray, map: Map | tuple[int, int], *, share: float = 0.15, width: float = 1.5
) -> np.ndarray:
    """Returns for each class the places of the map that it lights up most, in one region.

    The response of a neuron to a class is its mean for that class, standardised over the classes.
    Responses are smoothed on the map by a Gaussian; around the place where they are largest then
    lie the places of the region, the nearest ones.

    Args:
      means: `(classes, places)`, finite, in the map's order; see
        `lgnn_jax.analysis.activations.class_means`. Of other images than those on which the
        region's silence is judged.
      map: of as many places; `(m, n)` for a grid.
      share: of the map that a region takes, in (0, 1); at least one place.
      width: of the Gaussian in map units, positive.

    Returns:
      int `(classes, region)`, the places of each, ascending.

    Raises:
      ValueError: if `means` has not one column for each place, or is not finite, or `share` or
        `width` is out of its range.

    Example:
      >>> means = np.zeros((3, 36))
      >>> means[0, [14, 15, 20]] = means[1, 35] = 1.0
      >>> class_lesions(means, (6, 6), share=0.1).tolist()[:2]
      [[8, 13, 14, 15], [28, 29, 34, 35]]
    """
    means, map = np.asarray(means, np.float64), as_map(map)
    if means.ndim != 2 or means.shape[1] != map.count or not np.isfinite(means).all():
        raise ValueError(
            f"means must be finite, (classes, {map.count}) for map {map}, got shape {means.shape}."
        )
    if not (0 < share < 1 and 0 < width < np.inf):
        raise ValueError(f"share must be in (0, 1) and width positive, got {share} and {width}.")
    distances = map.distances()
    window = np.exp(-np.square(distances) / (2 * width**2))
    smoothed = standardised(means) @ window / window.sum(axis=0)
    size = max(1, round(share * map.count))
    nearest = np.argsort(distances, axis=1, kind="stable")[:, :size]
    return np.sort(nearest[smoothed.argmax(axis=1)], axis=1)
