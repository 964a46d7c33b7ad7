"""Figure 3 of the paper: what each class lights up on a map, and regions that classes share."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lgnn_jax.maps.grid import as_map
from lgnn_jax.maps.shapes import Map, connected


@dataclass(frozen=True)
class Region:
    """Adjacent neurons that every class of a set activates more than the other classes do.

    Attributes:
      neurons: int `(size,)`, in ascending order.
      mass: by how much their scores exceed the threshold, summed.
      p: the probability that shuffled maps have a region of at least that mass anywhere.
    """

    neurons: np.ndarray
    mass: float
    p: float


@dataclass(frozen=True)
class SharedRegions:
    """Regions of a map that a set of classes shares.

    Attributes:
      scores: float64 `(neurons,)`: see `shared_regions`.
      threshold: scores above it make a region.
      regions: the least likely first.
    """

    scores: np.ndarray
    threshold: float
    regions: tuple[Region, ...]


def class_means(activations: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
    """Returns the mean activation of every neuron over the images of each class.

    Args:
      activations: `(images, neurons)`, each the mean over a feature map, finite.
      labels: int `(images,)`, in [0, classes).
      classes: how many classes there are.

    Returns:
      float64 `(classes, neurons)`.

    Raises:
      ValueError: if a class has no image, or an activation is not finite.

    Reference:
      Section IV-C of the paper: averages over all test images of a class, and over space.

    Example:
      >>> activations = np.array([[1.0, 2.0], [3.0, 4.0], [7.0, 0.0]])
      >>> class_means(activations, np.array([0, 0, 1]), 2).tolist()
      [[2.0, 3.0], [7.0, 0.0]]
    """
    activations = np.asarray(activations, np.float64)
    finite = np.isfinite(activations).all(axis=0)
    if not finite.all():
        raise ValueError(f"the activations of neuron {finite.argmin()} are not finite.")
    counts = np.bincount(labels, minlength=classes)
    if not counts.all():
        raise ValueError(f"class {counts.argmin()} has no image among the {len(labels)}.")
    sums = np.zeros((classes, activations.shape[1]))
    np.add.at(sums, labels, activations)
    return sums / counts[:, None]


def shared_regions(
    means: np.ndarray,
    map: Map | tuple[int, int],
    members: Sequence[int],
    *,
    threshold: float = 0.5,
    shuffles: int = 999,
    seed: int = 0,
) -> SharedRegions:
    """Finds regions of a map that all classes of a set activate more than other classes do.

    Each neuron is standardised over all classes, so that one that is always active counts for
    nothing; its score is the least of its values for the classes of the set. Regions are neurons
    above the threshold that are connected by the map's edges. They are held against maps on which
    the neurons are shuffled: a region's p is the share of maps whose heaviest region is as heavy,
    so that however many regions there are, none has a small p by chance more often than that.

    Args:
      means: `(classes, neurons)`, see `class_means`; at least three classes.
      map: of as many places; `(m, n)` for a grid.
      members: the classes of the set, one or more but not all.
      threshold: in standard deviations over the classes.
      shuffles: number of shuffled maps, at least 1; p is at least 1 / (shuffles + 1).
      seed: of the shuffles.

    Raises:
      ValueError: if `map` or `members` do not fit, there are less than three classes, `shuffles`
        is less than 1, or a mean is not finite.

    Reference:
      The paper's Figure 3 finds such regions by eye. The test is that of Maris and Oostenveld,
      "Nonparametric statistical testing of EEG- and MEG-data", 2007, with clusters on the map.

    Example:
      >>> means = np.zeros((4, 64))
      >>> means[:2, :4] = 1.0  # half of the first row of an 8x8 map, for the first two classes
      >>> [region] = shared_regions(means, (8, 8), [0, 1]).regions
      >>> region.neurons.tolist(), region.p < 0.05
      ([0, 1, 2, 3], True)
    """
    means = np.asarray(means, np.float64)
    classes, neurons = means.shape
    map = as_map(map)
    if map.count != neurons:
        raise ValueError(f"map {map} does not fit {neurons} neurons.")
    if classes < 3 or shuffles < 1:
        raise ValueError(
            f"classes must be at least 3 and shuffles at least 1, got {classes} and {shuffles}."
        )
    if not np.isfinite(means).all():
        raise ValueError("means must be finite.")
    members = sorted(set(members))
    if not members or len(members) >= classes or not 0 <= members[0] <= members[-1] < classes:
        raise ValueError(f"members must be some of {classes} classes, from 0, got {members}.")
    deviation = means.std(axis=0)
    # Neurons that no class tells from another: what is left of their deviation is rounding.
    dead = deviation <= 1e-6 * np.abs(means).max(axis=0)
    centred = means - means.mean(axis=0)
    standardised = np.divide(centred, deviation, out=np.zeros_like(means), where=~dead)
    scores = standardised[members].min(axis=0)
    edges = map.edges()
    found = _regions(scores, threshold, edges)
    rng = np.random.default_rng(seed)
    maps = (rng.permutation(scores) for _ in range(shuffles if found else 0))
    heaviest = np.array([max(mass for _, mass in _regions(x, threshold, edges)) for x in maps])
    # The same region on a shuffled map may differ by the rounding of its sum.
    regions = [
        Region(where, mass, float((1 + (heaviest >= mass * (1 - 1e-12)).sum()) / (1 + shuffles)))
        for where, mass in found
    ]
    regions.sort(key=lambda region: -region.mass)
    return SharedRegions(scores, threshold, tuple(regions))


def _regions(scores, threshold, edges):
    """Neurons and mass of each connected region."""
    parts = connected(edges, scores > threshold)
    return [(part, float((scores[part] - threshold).sum())) for part in parts]
