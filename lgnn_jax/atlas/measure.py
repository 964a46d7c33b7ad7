"""Runs in, numbers and arrays out: the first step of an analysis."""

import json
import re
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np

from lgnn_jax.analysis.activations import SharedRegions, class_means, shared_regions
from lgnn_jax.analysis.correlations import correlation_maps
from lgnn_jax.analysis.feature_vis import visualize
from lgnn_jax.analysis.filters import filter_features, magnitudes
from lgnn_jax.analysis.topography import Topography, topography
from lgnn_jax.atlas import class_sets
from lgnn_jax.atlas.features import Features
from lgnn_jax.atlas.measured import Measured, array_name
from lgnn_jax.atlas.numbers import (
    correlations_entry,
    map_entry,
    regions_entry,
    topography_entry,
    visualisations_entry,
)
from lgnn_jax.atlas.settled import settle_layer
from lgnn_jax.atlas.shown import chosen_places, shown_regions
from lgnn_jax.atlas.view import part_around
from lgnn_jax.maps.settling_layers import settle_layers
from lgnn_jax.maps.shapes import Map
from lgnn_jax.maps.words import did_you_mean
from lgnn_jax.methods.method import Method
from lgnn_jax.models.network import Stream
from lgnn_jax.training import data
from lgnn_jax.training.config import to_json
from lgnn_jax.training.errors import RunError
from lgnn_jax.training.trained import Trained

_TESTED = 1000  # images that a visualisation has to exceed
_COLOURS = (1, 3)  # of what can be shown as a picture
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Request:
    """What to look at.

    Attributes:
      layers: convolutions for Figures 2 and 3; the last one if empty. Numbers are of all layers.
      classes: sets of classes for Figure 3, see `lgnn_jax.atlas.class_sets.members`; some if empty.
      visualize: which neurons of `layers` to visualise: those in the figures, all, or none.
      steps: of each visualisation.
      shuffles: shuffled maps for each number of a layer; regions take 999.
    """

    layers: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    visualize: Literal["shown", "all", "none"] = "shown"
    steps: int = 128
    shuffles: int = 200


class Scope(NamedTuple):
    """What a request comes to, of some runs.

    Attributes:
      maps: of each layer that has one, in the layers' order.
      layers: those to look at.
      sets: labels of classes, by the text that names them.
    """

    maps: dict[str, Map]
    layers: tuple[str, ...]
    sets: dict[str, tuple[int, ...]]


def scope(trained: Sequence[Trained], dataset: data.Dataset, request: Request) -> Scope:
    """Returns what a request comes to; takes no time.

    Raises:
      RunError: for a layer or a class that does not exist, and for maps of one layer that differ
        from run to run.
    """
    maps = _common_maps(trained)
    chosen = request.layers or tuple(maps)[-1:]
    for layer in chosen:
        if layer not in maps:
            raise RunError(
                f"no convolution {layer!r} with a map{did_you_mean(layer, list(maps))} Those with "
                f"one are {', '.join(maps)}."
            )
    names = dataset.class_names
    texts = request.classes or class_sets.usual(dataset.name, names)
    try:
        sets = {text: class_sets.members(text, dataset.name, names) for text in texts}
    except ValueError as error:
        raise RunError(str(error)) from None
    if sets and len(names) < 3:
        raise RunError(f"{dataset.name} has {len(names)} classes: sets of them need three.")
    return Scope(maps, chosen, sets)


def measure(
    trained: Sequence[Trained],
    dataset: data.Dataset,
    request: Request,
    *,
    progress: Progress,
) -> Measured:
    """Returns the numbers of runs, and the arrays that their figures show.

    Args:
      trained: see `lgnn_jax.training.trained.load`.
      dataset: their images; the test images are used.
      request: what to look at.
      progress: called with a stage in words, how much of it is done, and of how much.

    Raises:
      RunError: as `scope`, and for activations that are not finite.
    """
    maps, chosen, sets = scope(trained, dataset, request)
    numbers: dict[str, Any] = {
        "date": time.strftime("%Y-%m-%d"),
        "test_images": len(dataset.test_images),
        "shuffles": request.shuffles,
        "runs": {},
    }
    arrays: dict[str, np.ndarray] = {}
    means = {}
    for i, t in enumerate(trained):
        progress(f"{t.name}: activations", 0, 1)
        means[t.name] = t.activations(dataset.test_images, list(maps))
        layers, found = _layers(t, maps, means[t.name], request, progress)
        if t.config.method == Method():  # nothing has given its neurons places
            features = Features(means[t.name]).labelled(dataset.test_labels, dataset.class_names)
            for layer, (entry, pictures) in _settled(t, maps, features, request, progress).items():
                layers[layer]["settled"] = entry
                if layer in chosen:
                    found |= {(layer, what): x for what, x in pictures.items()}
        numbers["runs"][t.name] = {
            "config": json.loads(to_json(t.config)),
            "step": t.step,
            "layers": layers,
        }
        arrays |= {array_name(i, *where): x for where, x in found.items()}
    for layer in dict.fromkeys(chosen):
        for i, t in enumerate(trained):
            look = _Look(t, layer, maps[layer], means[t.name][layer], dataset)
            entry, found = look.measure(sets, request, progress)
            numbers["runs"][t.name]["layers"][layer] |= entry
            arrays |= {array_name(i, layer, what): x for what, x in found.items()}
    first = _first_filters(trained, maps)
    for i, t in enumerate(trained if first else ()):
        arrays[array_name(i, first, "kernel")] = t.kernel(first)
        arrays[array_name(i, first, "initial_kernel")] = t.kernel(first, t.initial)
    return Measured(
        numbers,
        arrays,
        maps,
        class_names=tuple(dataset.class_names),
        looked_at=tuple(dict.fromkeys(chosen)),
        first_filters=first,
        pictures_of_all=request.visualize == "all",
    )


def _common_maps(trained: Sequence[Trained]) -> dict[str, Map]:
    """The map of each layer that one of the runs has one for, in the layers' order."""
    maps: dict[str, tuple[str, Map]] = {}
    for t in trained:
        for layer, map in t.maps.items():
            first, other = maps.setdefault(layer, (t.name, map))
            if other != map:
                raise RunError(
                    f"{first} and {t.name} cannot be compared: {layer} is on map {other} in one "
                    f"and on map {map} in the other."
                )
    if not maps:
        raise RunError(f"{trained[0].name} has no layer with a map of two or more neurons.")
    return {layer: maps[layer][1] for layer in trained[0].plan.layers if layer in maps}


def _first_filters(trained: Sequence[Trained], maps: Mapping[str, Map]) -> str | None:
    """The layer that sees images, if it has a map and its weights have colours to be shown in."""
    first = next(iter(trained[0].plan.layers))
    shape = trained[0].kernel(first).shape
    return first if first in maps and len(shape) == 4 and shape[2] in _COLOURS else None


def _layers(
    t: Trained,
    maps: Mapping[str, Map],
    means: Mapping[str, np.ndarray],
    request: Request,
    progress: Progress,
) -> tuple[dict[str, Any], dict[tuple[str, str], np.ndarray]]:
    """The numbers of each layer; and arrays, by layer and what they are."""
    resorted = _resorted(t, maps, request, progress)
    entries, arrays = {}, {}
    for i, (layer, map) in enumerate(maps.items()):
        progress(f"{t.name}: numbers", i, len(maps))

        def of(features, map=map):
            return topography(features, map, shuffles=request.shuffles)

        weights = of(filter_features(t.kernel(layer)))
        entries[layer] = {
            **map_entry(map),
            "weights": topography_entry(weights),
            "untrained_weights": topography_entry(of(filter_features(t.kernel(layer, t.initial)))),
            "activations": topography_entry(of(means[layer].T)),
            "sorted_after_training": topography_entry(resorted[layer]),
            "magnitudes": magnitudes(t.kernel(layer))._asdict(),
        }
        curve = weights.by_distance
        arrays |= {
            (layer, "neighbours"): weights.neighbours.shuffled,
            (layer, "distance"): curve.distance,
            (layer, "distance_pairs"): curve.pairs,
            (layer, "distance_values"): curve.value,
            (layer, "distance_shuffled"): curve.shuffled,
        }
    return entries, arrays


def _resorted(
    t: Trained, maps: Mapping[str, Map], request: Request, progress: Progress
) -> dict[str, Topography]:
    """The numbers of each layer's weights, had its filters settled by these after training.

    Layers that write to one stream of channels share their order.
    """
    progress(f"{t.name}: sorting anew", 0, 1)
    kernels = {layer: t.kernel(layer) for layer in maps}
    # Filters of a single weight do not correlate, in whatever order.
    movable = {layer: x for layer, x in kernels.items() if x[..., 0].size > 1}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of dead filters, which are counted in any case
        places = settle_layers(
            movable,
            {f"^{re.escape(layer)}$": maps[layer] for layer in movable},
            streams=_of_one_map(t.network.streams(t.plan.image_shape), maps),
        )
    found = {}
    for layer, kernel in kernels.items():
        features = filter_features(kernel)[places.get(layer, slice(None))]
        found[layer] = topography(features, maps[layer], shuffles=request.shuffles)
    return found


def _settled(
    t: Trained,
    maps: Mapping[str, Map],
    features: Features,
    request: Request,
    progress: Progress,
) -> dict[str, tuple[dict[str, Any], dict[str, np.ndarray]]]:
    """By layer, how it settles on its activations for half of the images; and arrays of that."""
    found = {}
    for i, (layer, map) in enumerate(maps.items()):
        progress(f"{t.name}: settling", i, len(maps))
        try:
            # With fewer shuffled maps there is no verdict.
            of = settle_layer(features, layer, map, shuffles=max(99, request.shuffles))
        except ValueError as error:  # almost all neurons are dead, or there are few images
            found[layer] = {"refused": str(error)}, {}
            continue
        arrays = {"settled_places": of.judged.places}
        if of.pictures is not None:
            arrays["settled_responses"] = of.pictures.responses
        found[layer] = of.as_json(), arrays
    return found


def _of_one_map(streams: Sequence[Stream], maps: Mapping[str, Map]) -> list[Stream]:
    """The writers of each stream that have one map, and so can share an order."""
    writers: dict[tuple[int, Map], list[str]] = {}
    for i, stream in enumerate(streams):
        for layer in stream.writers:
            if layer in maps:
                writers.setdefault((i, maps[layer]), []).append(layer)
    return [Stream(tuple(layers)) for layers in writers.values()]


@dataclass(frozen=True)
class _Look:
    """A layer of a run that is looked at.

    Attributes:
      trained: the run.
      layer: its name.
      map: of its neurons.
      means: activations of each test image, `(images, neurons)`.
      dataset: of these images.
    """

    trained: Trained
    layer: str
    map: Map
    means: np.ndarray
    dataset: data.Dataset

    def measure(
        self, sets: Mapping[str, Sequence[int]], request: Request, progress: Progress
    ) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """Returns its numbers, and arrays by what they are."""
        chosen = chosen_places(self.map)
        correlated = correlation_maps(self.trained.kernel(self.layer), self.map, chosen)
        names = self.dataset.class_names
        try:
            means = class_means(self.means, self.dataset.test_labels, len(names))
        except ValueError as error:
            raise RunError(str(error)) from None
        shared = {text: shared_regions(means, self.map, labels) for text, labels in sets.items()}
        entry = {
            "correlations": correlations_entry(correlated, self.map),
            "classes": {
                text: regions_entry(found, [names[label] for label in sets[text]])
                for text, found in shared.items()
            },
        }
        arrays = {"correlations": correlated.values, "means": means}
        # Pictures of grey or coloured images; of others there is no way to show one.
        if request.visualize != "none" and self.dataset.info.image_shape[2] in _COLOURS:
            every = request.visualize == "all"
            neurons = range(self.map.count) if every else self._in_figures(shared)
            arrays["pictures"], entry["visualisations"] = self._pictures(neurons, request, progress)
        return entry, arrays

    def _in_figures(self, shared: Mapping[str, SharedRegions]) -> list[int]:
        """The neurons of which the figures have pictures."""
        shown = set(part_around(self.map, chosen_places(self.map)).places.tolist())
        for found in shared.values():
            for region in shown_regions(found.regions):
                shown |= set(region.neurons.tolist())
        return sorted(shown)

    def _pictures(
        self, neurons: Sequence[int], request: Request, progress: Progress
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Pictures of all neurons, white where none is asked for; and how good they are."""
        shape = self.dataset.info.image_shape
        stage = f"{self.trained.name}: visualisations of {self.layer}"
        made = visualize(
            lambda images: self.trained.apply(images)[self.layer],
            list(neurons),
            image_shape=shape,
            steps=request.steps,
            progress=lambda done, all_: progress(stage, done, all_),
        )
        pictures = np.ones((self.map.count, *shape), np.float32)
        pictures[made.channels] = made.images
        return pictures, visualisations_entry(made, self.means[:_TESTED])
