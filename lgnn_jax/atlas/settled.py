"""Layers that settle on maps after training: features in, numbers and arrays out."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lgnn_jax.analysis.judgement import Judgement
from lgnn_jax.analysis.settled import NO_MAP, judge
from lgnn_jax.analysis.topography import DistanceCurve, correlation_by_distance
from lgnn_jax.atlas.class_pictures import ClassPictures, class_pictures
from lgnn_jax.atlas.features import Features
from lgnn_jax.atlas.shown import shown_classes
from lgnn_jax.maps.shapes import Map
from lgnn_jax.maps.words import did_you_mean
from lgnn_jax.training.errors import RunError

_SHUFFLES = 20  # for the bands of curves that nothing is judged by
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, eq=False)
class SettledLayer:
    """A layer that has settled on a map.

    Attributes:
      judged: how, and whether it has order.
      curves: correlation by distance, by what it is of: held-out samples, those on which the layer
        settled, and the network's own order.
      pictures: what all classes excite; None without labels.
    """

    judged: Judgement
    curves: Mapping[str, DistanceCurve]
    pictures: ClassPictures | None

    def as_json(self) -> dict[str, Any]:
        """Returns its numbers: those of `Judgement`, and how orderly each class is."""
        found = self.judged.as_json()
        if self.pictures is not None:
            rows = (self.pictures.names, self.pictures.patches, self.pictures.own_patches)
            found["classes"]["by_name"] = {
                name: {"patch": float(patch), "own_order": float(own)}
                for name, patch, own in zip(*rows, strict=True)
            }
        return found


@dataclass(frozen=True, eq=False)
class Settled:
    """All that figures and files of settled layers are made from.

    Attributes:
      layers: by name.
      shown: the classes to draw.
    """

    layers: Mapping[str, SettledLayer]
    shown: tuple[str, ...]


def settle_all(
    features: Features,
    maps: Mapping[str, Map | None],
    *,
    classes: Sequence[str] = (),
    progress: Progress,
    **settling: Any,
) -> Settled:
    """Settles every layer on its map, and judges what comes out.

    Args:
      features: of the layers.
      maps: by layer; the most nearly square grid for None.
      classes: names of those to draw. If empty, eight that lie most in one patch, on the layer
        where classes do so most; the same for all layers, so that these can be compared.
      progress: called with a stage in words, how much of it is done, and of how much.
      **settling: what else `lgnn_jax.analysis.settled.judge` takes.

    Raises:
      RunError: for a class that does not exist or has no held-out sample, and with the name of the
        layer for what `judge` refuses.
    """
    check_classes(features, classes)
    layers = {}
    for i, name in enumerate(features.layers):
        progress(f"{name}: settling", i, len(features.layers))
        try:
            layers[name] = settle_layer(features, name, maps[name], **settling)
        except ValueError as error:
            raise RunError(f"{name}: {str(error).removeprefix('features: ')}") from None
    shown = tuple(dict.fromkeys(classes))
    for name, found in layers.items():
        for missing in set(shown) - set(found.pictures.names if found.pictures else ()):
            raise RunError(
                f"{name}: class {missing!r} has no sample among the {len(found.judged.held_out)} "
                "held out: take more samples, or another seed."
            )
    return Settled(layers, shown or _most_telling(list(layers.values())))


def settle_layer(features: Features, name: str, map: Map | None, **settling: Any) -> SettledLayer:
    """Settles a layer on its map, and judges what comes out.

    Args:
      features: with this layer.
      name: of the layer.
      map: of as many places; the most nearly square grid for None.
      **settling: what else `lgnn_jax.analysis.settled.judge` takes.

    Raises:
      ValueError: for what `judge` refuses.
    """
    values = features.layers[name]
    judged = judge(values, features.labels, map, **settling)
    pictures = None
    if features.labels is not None:
        pictures = class_pictures(values, features.labels, features.class_names, judged)

    part, neurons_there = judged.compared

    def curve(samples, neurons):
        on_map = values[samples][:, neurons].T
        return correlation_by_distance(on_map, part, shuffles=_SHUFFLES)

    curves = {
        "settled, held-out": judged.order.by_distance,
        "settled, other samples": curve(judged.settled_on, neurons_there),
        "network's order, held-out": curve(judged.held_out, np.sort(neurons_there)),
    }
    return SettledLayer(judged, curves, pictures)


def check_classes(features: Features, classes: Sequence[str]) -> None:
    """Raises RunError for a name of a class that features do not have."""
    if classes and features.labels is None:
        raise RunError("classes can be drawn where samples have labels, and these have none.")
    for name in classes:
        if name not in features.class_names:
            close = did_you_mean(name, list(features.class_names))
            raise RunError(
                f"no class {name!r:.80}{close} There are {len(features.class_names)}, such as "
                f"{', '.join(features.class_names[:3])}."
            )


def _most_telling(layers: Sequence[SettledLayer]) -> tuple[str, ...]:
    """The classes to draw, by the layer where they lie most in one patch."""
    with_classes = [x for x in layers if x.pictures is not None]
    found = [x for x in with_classes if x.judged.verdict != NO_MAP] or with_classes
    if not found:
        return ()
    return shown_classes(max((x.pictures for x in found), key=lambda x: x.patches.mean()))
