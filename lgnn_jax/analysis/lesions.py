"""Where on a map a class lies, so that the place can be silenced and what is lost be counted."""

import numpy as np

from lgnn_jax.maps.grid import as_map
from lgnn_jax.maps.shapes import Map


def class_lesions(
    evidence: np.ndarray, map: Map | tuple[int, int], *, share: float = 0.15
) -> np.ndarray:
    """Returns for each class the one region of the map with the most evidence for it.

    A region is a place and the places nearest to it.

    Args:
      evidence: `(classes, places)`, finite, in the map's order: what each place does for each
        class, such as its activation times the gradient of the class's logit. Of other images than
        those on which the region's silence is judged.
      map: of as many places; `(m, n)` for a grid.
      share: of the map that a region takes, in (0, 1); at least one place.

    Returns:
      int `(classes, region)`, the places of each, ascending.

    Raises:
      ValueError: if `evidence` has not one column for each place, or is not finite, or `share` is
        out of its range.

    Example:
      >>> evidence = np.zeros((3, 36))
      >>> evidence[0, [14, 15, 20]] = evidence[1, 35] = 1.0
      >>> class_lesions(evidence, (6, 6), share=0.1).tolist()[0]
      [8, 13, 14, 15]
    """
    evidence, map = np.asarray(evidence, np.float64), as_map(map)
    if (
        evidence.ndim != 2
        or evidence.shape[1] != map.count
        or 0 in evidence.shape
        or not np.isfinite(evidence).all()
    ):
        raise ValueError(
            f"evidence must be finite, (classes, {map.count}) for map {map}, got shape "
            f"{evidence.shape}."
        )
    if not 0 < share < 1:
        raise ValueError(f"share must be in (0, 1), got {share}.")
    size = max(1, round(share * map.count))
    regions = np.argsort(map.distances(), axis=1, kind="stable")[:, :size]
    best = evidence[:, regions].sum(axis=2).argmax(axis=1)
    return np.sort(regions[best], axis=1)
