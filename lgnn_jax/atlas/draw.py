"""Figures of what was measured: the second step of an analysis, without runs and images."""

import numpy as np
from matplotlib.figure import Figure

from lgnn_jax.analysis.activations import Region
from lgnn_jax.analysis.correlations import CorrelationMaps
from lgnn_jax.analysis.filters import magnitudes, normalized_filters
from lgnn_jax.analysis.shuffles import AgainstShuffles
from lgnn_jax.analysis.topography import DistanceCurve
from lgnn_jax.atlas import class_sets, plots
from lgnn_jax.atlas.class_pictures import ClassPictures, draw_pictures
from lgnn_jax.atlas.folder import file_names
from lgnn_jax.atlas.measured import Measured
from lgnn_jax.atlas.numbers import places_of
from lgnn_jax.atlas.shown import shown_classes, shown_regions
from lgnn_jax.methods.method import NAMED, Method

_LARGEST = 6  # classes of a set whose maps are shown


def draw(measured: Measured) -> dict[str, Figure]:
    """Returns all figures, by names that any file system takes.

    Args:
      measured: see `lgnn_jax.atlas.measure.measure` and `lgnn_jax.atlas.bundle.load`, which give
        the same figures.
    """
    drawn = {}
    if measured.first_filters is not None:
        drawn["first_filters"] = _first_filters(measured, measured.first_filters)
    drawn["order"] = plots.order_by_layer(_orders(measured), _controls(measured))
    for layer in measured.looked_at:
        drawn |= _layer(measured, layer)
    return dict(zip(file_names(drawn), drawn.values(), strict=True))


def _first_filters(measured: Measured, layer: str) -> Figure:
    kernels = {run: measured.array(run, layer, "kernel") for run in measured.runs}
    initial = [measured.array(run, layer, "initial_kernel") for run in measured.runs]
    if all(np.array_equal(kernel, initial[0]) for kernel in initial):
        kernels = {"before training": initial[0], **kernels}
    return plots.first_filters(
        {name: normalized_filters(kernel) for name, kernel in kernels.items()},
        measured.maps[layer],
        layer,
        {name: magnitudes(kernel) for name, kernel in kernels.items()},
    )


def _orders(measured: Measured) -> dict[str, dict[str, AgainstShuffles | None]]:
    """The correlation of neighbours by run and layer; None where no two filters have one."""
    return {
        run: {
            layer: AgainstShuffles(
                _neighbours(measured, run, layer, "weights"),
                measured.array(run, layer, "neighbours"),
            )
            if _alive(measured, run, layer, "weights")
            else None
            for layer in measured.maps
        }
        for run in measured.runs
    }


def _controls(measured: Measured) -> dict[str, dict[str, float]]:
    """The same of weights that were sorted after training, and of those before it."""
    control, sorted_ = _control(measured), "sorted_after_training"
    controls = {
        f"{control}, sorted after training": {
            layer: _neighbours(measured, control, layer, sorted_)
            for layer in measured.maps
            if _alive(measured, control, layer, sorted_)
        }
    }
    untrained: dict[tuple[float, ...], list[str]] = {}  # runs by the values that they began with
    for run in measured.runs:
        values = [_neighbours(measured, run, x, "untrained_weights") for x in measured.maps]
        untrained.setdefault(tuple(values), []).append(run)
    for values, names in untrained.items():
        of = f": {', '.join(names)}" if len(untrained) > 1 else ""
        controls[f"untrained{of}"] = dict(zip(measured.maps, values, strict=True))
    return controls


def _control(measured: Measured) -> str:
    """The run whose filters are sorted after training: one without a method, or the first."""
    for run in measured.runs:
        # Not by its config's `method`: that may be a file, which drawing does not need.
        if NAMED.get(measured.numbers["runs"][run]["config"]["variant"]) == Method():
            return run
    return measured.runs[0]


def _neighbours(measured: Measured, run: str, layer: str, which: str) -> float:
    return measured.layer(run, layer)[which]["neighbours"]["value"]


def _alive(measured: Measured, run: str, layer: str, which: str) -> bool:
    """Whether two filters are alive, to correlate."""
    return measured.maps[layer].count - len(measured.layer(run, layer)[which]["dead"]) > 1


def _layer(measured: Measured, layer: str) -> dict[str, Figure]:
    """Figures 2 and 3 of one layer, for all runs, and how it settles."""
    map = measured.maps[layer]
    pictures = {
        run: measured.array(run, layer, "pictures")
        for run in measured.runs
        if "visualisations" in measured.layer(run, layer)
    }
    drawn = {
        f"{layer}_correlations": plots.correlations(
            {run: _correlations(measured, run, layer) for run in measured.runs},
            map,
            layer,
            pictures or None,
        ),
        f"{layer}_distance": plots.distance_curves(
            {run: _curve(measured, run, layer) for run in measured.runs}, layer, map
        ),
    }
    for run in measured.runs:
        of = f"_{run}" if len(measured.runs) > 1 else ""
        for text in measured.layer(run, layer)["classes"]:
            drawn[f"{layer}_classes_{text}{of}"] = _classes(
                measured, run, layer, text, pictures.get(run)
            )
        if "verdict" in measured.layer(run, layer).get("settled", {}):
            drawn[f"{layer}_settled{of}"] = _settled(measured, run, layer)
        if run in pictures and measured.pictures_of_all:
            drawn[f"{layer}_visualisations{of}"] = plots.visualizations(
                pictures[run], map, layer, run
            )
    return drawn


def _classes(
    measured: Measured, run: str, layer: str, text: str, pictures: np.ndarray | None
) -> Figure:
    """Figure 3 of a set of classes."""
    found = measured.layer(run, layer)["classes"][text]
    names = found["classes"]
    regions = [Region(np.array(r["neurons"]), r["mass"], r["p"]) for r in found["regions"]]
    rows = [measured.class_names.index(name) for name in names[:_LARGEST]]
    return plots.class_maps(
        measured.array(run, layer, "means")[rows],
        names[:_LARGEST],
        measured.maps[layer],
        f"{layer}, {run}",
        shared_by=class_sets.parts(text, measured.class_names),
        regions=shown_regions(regions),
        pictures=pictures,
    )


def _settled(measured: Measured, run: str, layer: str) -> Figure:
    """What classes excite before the layer settled, and after."""
    found = measured.layer(run, layer)["settled"]
    classes = found["classes"]["by_name"]
    pictures = ClassPictures(
        tuple(classes),
        measured.array(run, layer, "settled_responses"),
        np.array([x["own_order"] for x in classes.values()]),
        np.array([x["patch"] for x in classes.values()]),
    )
    return draw_pictures(
        pictures,
        shown_classes(pictures),
        measured.maps[layer],
        measured.array(run, layer, "settled_places"),
        f"{layer}, {run}, {found['verdict']}",
    )


def _correlations(measured: Measured, run: str, layer: str) -> CorrelationMaps:
    """Those of the chosen filters, from their numbers and their values."""
    map, entry = measured.maps[layer], measured.layer(run, layer)
    found, dead = entry["correlations"], entry["weights"]["dead"]
    chosen = places_of(found["filters"], map)
    return CorrelationMaps(
        chosen,
        measured.array(run, layer, "correlations"),
        found["threshold"],
        tuple(places_of(near, map) for near in found["neighbours"]),
        tuple(place not in dead for place in chosen),
    )


def _curve(measured: Measured, run: str, layer: str) -> DistanceCurve:
    names = ("distance", "distance_pairs", "distance_values", "distance_shuffled")
    return DistanceCurve(*(measured.array(run, layer, name) for name in names))
