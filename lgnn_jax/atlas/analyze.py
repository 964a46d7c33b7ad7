"""Trained runs made visible: the paper's figures, and numbers of their maps beside their nulls."""

import json
import re
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from lgnn_jax.analysis.activations import class_means, shared_regions
from lgnn_jax.analysis.arrange import arrange
from lgnn_jax.analysis.correlations import correlation_maps
from lgnn_jax.analysis.feature_vis import exceeds_best, visualize
from lgnn_jax.analysis.filters import (
    Magnitudes,
    filter_correlations,
    filter_features,
    magnitudes,
    normalized_filters,
)
from lgnn_jax.analysis.topography import Topography, topography
from lgnn_jax.atlas import class_sets, figures
from lgnn_jax.maps.table import SomDimensions
from lgnn_jax.models.streams import streams
from lgnn_jax.training import data
from lgnn_jax.training.config import nearest, to_json
from lgnn_jax.training.errors import RunError
from lgnn_jax.training.files import replace_text
from lgnn_jax.training.trained import Trained

FOLDER, NUMBERS = "figures", "analysis.json"
_POSITIONS = ((1, 1), (1, 3), (1, 5))  # of the filters in Figure 2
_REGIONS = 3  # that are shown of a set of classes
_TESTED = 1000  # images that a visualisation has to exceed
_SAFE = r"\w.+-"  # in names of files
_LARGEST = 6  # classes of a set whose maps are shown
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Request:
    """What to look at.

    Maps are taken as planes, also where the filter's padding makes a torus of them.

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


class _Layer(NamedTuple):
    """What is known of a layer of a run."""

    dims: SomDimensions
    weights: Topography
    untrained: Topography
    activations: Topography
    resorted: Topography
    magnitudes: Magnitudes
    means: np.ndarray  # of each test image, `(images, neurons)`


def analyze(
    trained: Sequence[Trained],
    dataset: data.Dataset,
    out: Path,
    request: Request,
    *,
    progress: Progress,
) -> dict[str, Any]:
    """Writes `out / "analysis.json"` and figures in `out / "figures"`.

    Args:
      trained: see `lgnn_jax.training.trained.load`.
      dataset: their images; the test images are used.
      out: a folder.
      request: what to look at.
      progress: called with a stage in words, how much of it is done, and of how much.

    Returns:
      What analysis.json holds.

    Raises:
      RunError: for a layer or a class that does not exist, for maps of one layer that differ from
        run to run, activations that are not finite, and a folder that cannot be written to.
    """
    maps = _common_maps(trained)
    chosen = request.layers or tuple(maps)[-1:]
    for layer in chosen:
        if layer not in maps:
            raise RunError(
                f"no convolution {layer!r} with a map{nearest(layer, list(maps))} Those with one "
                f"are {', '.join(maps)}."
            )
    names = dataset.class_names
    texts = request.classes or class_sets.usual(dataset.name, names)
    try:
        sets = {text: class_sets.members(text, dataset.name, names) for text in texts}
    except ValueError as error:
        raise RunError(str(error)) from None
    if sets and len(names) < 3:
        raise RunError(f"{dataset.name} has {len(names)} classes: sets of them need three.")
    _check_writable(out)
    document: dict[str, Any] = {
        "date": time.strftime("%Y-%m-%d"),
        "test_images": len(dataset.test_images),
        "shuffles": request.shuffles,
        "runs": {},
    }
    measured = {}
    for t in trained:
        measured[t.name] = _measure(t, maps, dataset, request, progress)
        document["runs"][t.name] = {
            "config": json.loads(to_json(t.config)),
            "step": t.step,
            "layers": {layer: _numbers(found) for layer, found in measured[t.name].items()},
        }
    drawn = _overview(trained, maps, measured)
    for layer in chosen:
        look = _Look(trained, layer, maps[layer], measured, dataset, sets, request, progress)
        drawn |= look.draw(document)
    drawn = dict(zip(_file_names(drawn), drawn.values(), strict=True))
    document["figures"] = list(drawn)
    earlier = _figures_before(out)
    try:
        for name, figure in drawn.items():
            figures.save(figure, out / FOLDER / name)
        for name in earlier - set(drawn):
            for suffix in figures.SUFFIXES:
                (out / FOLDER / (name + suffix)).unlink(missing_ok=True)
        replace_text(out / NUMBERS, json.dumps(document, indent=1, allow_nan=False) + "\n")
    except OSError as error:
        where = str(error.filename or out).removesuffix(".tmp")
        raise RunError(f"cannot write to {where}: {error.strerror}.") from error
    return document


def _check_writable(out):
    """Raises RunError unless files can be made in the folder and in that of its figures."""
    for folder in (out, out / FOLDER):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            raise RunError(f"cannot write to {folder}: {error.strerror}.") from error
    if (out / NUMBERS).is_dir():
        raise RunError(f"cannot write to {out / NUMBERS}: it is a folder.")


def _figures_before(out):
    """The names of the figures that the analysis.json in a folder says that there are."""
    try:
        names = json.loads((out / NUMBERS).read_text())["figures"]
        return {name for name in names if re.fullmatch(rf"[{_SAFE}]+", name)}
    except (OSError, ValueError, KeyError, TypeError):
        return set()  # there is none, or it is something else


def _file_names(names):
    """Names that any file system takes, each once."""
    found = []
    for name in names:
        short = re.sub(rf"[^{_SAFE}]+", "_", name)[:80]
        found.append(short if short not in found else f"{short}_{len(found)}")
    return found


def _common_maps(trained):
    """The map of each layer that one of the runs has one for, in the layers' order."""
    maps = {}
    for t in trained:
        for layer, dims in t.maps.items():
            first, other = maps.setdefault(layer, (t.name, dims))
            if other != dims:
                raise RunError(
                    f"{first} and {t.name} cannot be compared: {layer} is on a map of {other} in "
                    f"one and of {dims} in the other."
                )
    if not maps:
        raise RunError(f"{trained[0].name} has no layer with a map of two or more neurons.")
    return {layer: maps[layer][1] for layer in trained[0].convolutions if layer in maps}


def _measure(t, maps, dataset, request, progress):
    """Returns what is known of each layer of a run."""
    progress(f"{t.name}: activations", 0, 1)
    means = t.activations(dataset.test_images, list(maps))
    resorted = _resort(t, maps, request, progress)
    found = {}
    for i, (layer, dims) in enumerate(maps.items()):
        progress(f"{t.name}: numbers", i, len(maps))

        def numbers(features, dims=dims):
            return topography(features, dims, shuffles=request.shuffles)

        found[layer] = _Layer(
            dims,
            numbers(filter_features(t.kernel(layer))),
            numbers(filter_features(t.kernel(layer, t.initial))),
            numbers(means[layer].T),
            resorted[layer],
            magnitudes(t.kernel(layer)),
            means[layer],
        )
    return found


def _resort(t, maps, request, progress):
    """The numbers of each layer's weights, had its filters been sorted onto its map by `arrange`.

    Layers that write to one stream of channels share their order.
    """
    found = {}
    for stream in streams(t.plan.model):
        progress(f"{t.name}: sorting anew", len(found), len(maps))
        layers = [layer for layer in stream.writers if layer in maps]
        if not layers:
            continue
        correlations = np.mean([filter_correlations(t.kernel(layer)) for layer in layers], axis=0)
        order = arrange(correlations, maps[layers[0]])
        for layer in layers:
            features = filter_features(t.kernel(layer))[order]
            found[layer] = topography(features, maps[layer], shuffles=request.shuffles)
    return found


def _overview(trained, maps, measured):
    """Figures of whole networks."""
    drawn = {}
    first = trained[0].plan.model.first_layer
    if first in maps and trained[0].kernel(first).shape[2] in (1, 3):
        kernels = {t.name: t.kernel(first) for t in trained}
        initial = [t.kernel(first, t.initial) for t in trained]
        if all(np.array_equal(kernel, initial[0]) for kernel in initial):
            kernels = {"before training": initial[0], **kernels}
        drawn["first_layer"] = figures.first_layer(
            {name: normalized_filters(kernel) for name, kernel in kernels.items()},
            maps[first],
            first,
            {name: magnitudes(kernel) for name, kernel in kernels.items()},
        )
    runs = {
        t.name: {
            layer: _alive(found.weights, found.dims) for layer, found in measured[t.name].items()
        }
        for t in trained
    }
    control = next((t.name for t in trained if t.config.variant == "baseline"), trained[0].name)
    controls = {
        f"{control}, sorted after training": {
            layer: found.resorted.neighbours.value
            for layer, found in measured[control].items()
            if _alive(found.resorted, found.dims)
        }
    }
    untrained = {}  # runs by the values that they began with
    for t in trained:
        values = {n: x.untrained.neighbours.value for n, x in measured[t.name].items()}
        untrained.setdefault(tuple(values.items()), []).append(t.name)
    for values, names in untrained.items():
        of = f": {', '.join(names)}" if len(untrained) > 1 else ""
        controls[f"untrained{of}"] = dict(values)
    drawn["order"] = figures.order_by_layer(runs, controls)
    return drawn


def _alive(found, dims):
    """The correlation of neighbours, or None if no two filters are alive to have one."""
    return found.neighbours if dims[0] * dims[1] - found.dead_count > 1 else None


class _Look:
    """Figures 2 and 3 of one layer, for all runs."""

    def __init__(self, trained, layer, dims, measured, dataset, sets, request, progress):
        self.trained, self.layer, self.dims = trained, layer, dims
        self.measured = {t.name: measured[t.name][layer] for t in trained}
        self.dataset, self.sets, self.request = dataset, sets, request
        self.progress = progress
        # Pictures of grey or coloured images; of others there is no way to show one.
        self.pictured = request.visualize != "none" and dataset.info.image_shape[2] in (1, 3)

    def draw(self, document):
        """Returns figures by name, and adds what they show to the document."""
        layer, dims = self.layer, self.dims
        positions = [p for p in _POSITIONS if p[0] < dims[0] and p[1] < dims[1]] or [(0, 0)]
        correlated = {
            t.name: correlation_maps(t.kernel(layer), dims, positions) for t in self.trained
        }
        classes = {t.name: self._classes(t) for t in self.trained}
        pictures = {}
        for t in self.trained:
            entry = document["runs"][t.name]["layers"][layer]
            entry["correlations"] = _correlated(correlated[t.name])
            entry["classes"] = {
                text: _shared(shared, self.dataset.class_names, self.sets[text])
                for text, shared in classes[t.name][1].items()
            }
            if self.pictured:
                pictures[t.name], entry["visualisations"] = self._visualize(
                    t, positions, classes[t.name][1].values()
                )
        curves = {t.name: self.measured[t.name].weights.by_distance for t in self.trained}
        drawn = {
            f"{layer}_correlations": figures.correlations(correlated, layer, pictures or None),
            f"{layer}_distance": figures.distance_curves(curves, layer, dims),
        }
        for t in self.trained:
            run = f"_{t.name}" if len(self.trained) > 1 else ""
            means, shared = classes[t.name]
            for text, labels in self.sets.items():
                shown = labels[:_LARGEST]
                drawn[f"{layer}_classes_{text}{run}"] = figures.class_maps(
                    means[list(shown)],
                    [self.dataset.class_names[label] for label in shown],
                    dims,
                    f"{layer}, {t.name}",
                    shared_by=class_sets.parts(text, self.dataset.class_names),
                    regions=_shown(shared[text]),
                    pictures=pictures.get(t.name),
                )
            if self.pictured and self.request.visualize == "all":
                drawn[f"{layer}_visualisations{run}"] = figures.visualizations(
                    pictures[t.name], dims, layer, t.name
                )
        return drawn

    def _classes(self, t):
        count = len(self.dataset.class_names)
        try:
            means = class_means(self.measured[t.name].means, self.dataset.test_labels, count)
        except ValueError as error:
            raise RunError(str(error)) from None
        return means, {
            text: shared_regions(means, self.dims, labels) for text, labels in self.sets.items()
        }

    def _visualize(self, t, positions, shared):
        """Pictures of all neurons, white where none was asked for; and how good they are."""
        shape = self.dataset.info.image_shape
        count = self.dims[0] * self.dims[1]
        top, left, bottom, right = figures.part_around(positions, self.dims)
        shown = set(np.arange(count).reshape(self.dims)[top:bottom, left:right].ravel().tolist())
        for regions in shared:
            for region in _shown(regions):
                shown |= set(region.neurons.tolist())
        stage = f"{t.name}: visualisations of {self.layer}"
        channels = range(count) if self.request.visualize == "all" else sorted(shown)
        found = visualize(
            lambda images: t.apply(images)[self.layer],
            list(channels),
            image_shape=shape,
            steps=self.request.steps,
            progress=lambda done, all_: self.progress(stage, done, all_),
        )
        pictures = np.ones((count, *shape))
        pictures[found.channels] = found.images
        tested = self.measured[t.name].means[:_TESTED]
        exceeding = exceeds_best(found, tested)
        return pictures, {
            "neurons": found.channels.tolist(),
            "activations": found.activations.tolist(),
            "exceed_best_of_images": exceeding.fraction,
            "images": len(tested),
        }


def _shown(shared):
    """The regions that shuffled maps have at most one time in twenty."""
    return [region for region in shared.regions if region.p < 0.05][:_REGIONS]


def _numbers(found):
    """A layer's numbers, ready for JSON."""
    return {
        "map": list(found.dims),
        "weights": _topography(found.weights),
        "untrained_weights": _topography(found.untrained),
        "activations": _topography(found.activations),
        "sorted_after_training": _topography(found.resorted),
        "magnitudes": found.magnitudes._asdict(),
    }


def _topography(found):
    curve = found.by_distance
    names = ("neighbours", "morans_i", "smoothness", "trustworthiness")
    return {
        **{name: _figure(getattr(found, name)) for name in names},
        "by_distance": {
            "distance": curve.distance.tolist(),
            "correlation": curve.value.tolist(),
            "shuffled": curve.mean.tolist(),
            "shuffled_deviation": curve.deviation.tolist(),
        },
        "effective_dimensionality": found.effective_dimensionality,
        "dead": found.dead.tolist(),
    }


def _figure(figure):
    return {
        "value": figure.value,
        "shuffled": figure.shuffled.mean().item(),
        "shuffled_deviation": figure.shuffled.std().item(),
        "z": figure.z,
        "p": figure.p,
    }


def _correlated(found):
    return {
        "threshold": found.threshold,
        "filters": [list(position) for position in found.positions],
        "neighbours": [[list(place) for place in near] for near in found.neighbours],
    }


def _shared(shared, names, labels):
    return {
        "classes": [names[label] for label in labels],
        "threshold": shared.threshold,
        "regions": [
            {"neurons": region.neurons.tolist(), "mass": region.mass, "p": region.p}
            for region in shared.regions
        ],
    }
