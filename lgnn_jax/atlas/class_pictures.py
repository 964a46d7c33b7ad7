"""What each class excites on a layer's map, by the samples on which the layer did not settle."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure

from lgnn_jax.analysis.activations import class_means
from lgnn_jax.analysis.class_regions import class_regions, standardised
from lgnn_jax.analysis.judgement import Judgement
from lgnn_jax.atlas import plots
from lgnn_jax.maps.shapes import Map


@dataclass(frozen=True, eq=False)
class ClassPictures:
    """What classes excite, in the network's order of neurons and settled.

    Attributes:
      names: of the classes.
      responses: float64 `(classes, neurons)`: the mean answer of a neuron to a class, standardised
        over all classes, as z-scores; 0 for constant neurons.
      own_patches: float64 `(classes,)`: of the neurons that a class excites most, the share that
        lies in one patch where neurons lie as they are numbered.
      patches: the same where the neurons have settled.
    """

    names: tuple[str, ...]
    responses: np.ndarray
    own_patches: np.ndarray
    patches: np.ndarray


def class_pictures(
    features: np.ndarray, labels: np.ndarray, class_names: Sequence[str], judged: Judgement
) -> ClassPictures:
    """Returns what each class excites that has a held-out sample.

    Args:
      features: `(samples, neurons)` of the layer.
      labels: int `(samples,)`, from 0.
      class_names: one for each label.
      judged: how the layer settled.
    """
    held_out = labels[judged.held_out]
    present, numbers = np.unique(held_out, return_inverse=True)
    means = class_means(features[judged.held_out], numbers, len(present))
    part, settled = judged.compared
    return ClassPictures(
        tuple(class_names[label] for label in present),
        standardised(means),
        class_regions(means[:, np.sort(settled)], part).patch,
        class_regions(means[:, settled], part).patch,
    )


def draw_pictures(
    pictures: ClassPictures, shown: Sequence[str], map: Map, places: np.ndarray, layer: str
) -> Figure:
    """Draws what some classes excite, in the network's order and settled.

    Args:
      pictures: of the layer.
      shown: names of the classes to draw.
      map: of the layer.
      places: int `(places,)`, the neuron at each place.
      layer: its name, and what else is to be said of it.
    """
    rows = [pictures.names.index(name) for name in shown]
    return plots.settled_classes(
        pictures.responses[rows],
        shown,
        map,
        places,
        layer,
        patches=(pictures.own_patches[rows], pictures.patches[rows]),
    )
