"""What is found of a settled map, and how it reads."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from lgnn_jax.analysis.agreement import Agreement
from lgnn_jax.analysis.shuffles import AgainstShuffles
from lgnn_jax.analysis.topography import Topography
from lgnn_jax.maps.grid import as_json
from lgnn_jax.maps.part import part_with
from lgnn_jax.maps.shapes import Map


@dataclass(frozen=True)
class ClassOrder:
    """What classes look like on a map, beside maps with the neurons shuffled.

    All three numbers are means over the classes, of what `lgnn_jax.analysis.class_regions` returns.

    Attributes:
      morans_i: Moran's I of the responses to a class; about 0 by chance, 1 at most.
      patch: of the neurons that respond most to a class, the share in their largest patch.
      nearness: by how much nearer these are to each other than any two neurons: 1 less `spread`. 0
        by chance; 0.2 if they are a fifth nearer.
      own_order: the same three if neurons lie on the map as they are numbered.
      classes: how many have a held-out sample.
      left_out: how many have none. They are in no mean.
    """

    morans_i: AgainstShuffles
    patch: AgainstShuffles
    nearness: AgainstShuffles
    own_order: tuple[float, float, float]
    classes: int
    left_out: int


@dataclass(frozen=True)
class Judgement:
    """Whether a layer's neurons have a map. `print` shows it in ten lines or so.

    All numbers are of the held-out samples, on which the neurons did not settle, unless it says
    otherwise.

    Attributes:
      verdict: "no map", "weak map" or "clear map", see `lgnn_jax.analysis.settled.judge`.
      reason: of the verdict, in a few words.
      map: the shape.
      places: int `(places,)`, the neuron at each place, as half of the samples has it. For use,
        settle on all samples: that map will be no worse.
      settled_on: int, which samples these are.
      held_out: int, the other samples.
      order: correlation of neighbours and by distance, trustworthiness and more; of neurons that
        are standardised.
      on_settled: the correlation of neighbours on the samples on which they settled. It is larger,
        for part of it is chance.
      own_order: the correlation of neighbours if neurons lie on the map as they are numbered.
      classes: what classes look like; None without labels.
      other_half: agreement with the map that the held-out samples make.
      other_start: agreement with the map that the same samples make from a random start. Noise
        agrees with itself, too: some of it is there even without a map.
      left_out: int, the neurons that are constant on one of the halves. They have a place on the
        map, but are in none of the numbers.
    """

    verdict: str
    reason: str
    map: Map
    places: np.ndarray
    settled_on: np.ndarray
    held_out: np.ndarray
    order: Topography
    on_settled: float
    own_order: float
    classes: ClassOrder | None
    other_half: Agreement
    other_start: Agreement
    left_out: np.ndarray

    @property
    def compared(self) -> tuple[Map, np.ndarray]:
        """The part of the map whose neurons vary over both halves, and the neuron at each place."""
        neurons = np.setdiff1d(self.places, self.left_out)
        return part_with(self.map, self.places, neurons)

    @property
    def is_in_order(self) -> bool:
        """Whether neighbours correlate as much, or nearly, where neurons lie as they are numbered.

        As after training with a filter; then settling finds nothing new.
        """
        chance = self.order.neighbours.shuffled.mean()
        return bool(self.own_order - chance >= 0.9 * (self.order.neighbours.value - chance))

    @property
    def noise(self) -> float:
        """By how much two unrelated neurons correlate by chance: `1 / sqrt(held-out samples)`.

        It is the standard deviation of one correlation. A mean over many pairs is known better.
        """
        return float(1 / np.sqrt(len(self.held_out)))

    def as_json(self) -> dict[str, Any]:
        """Returns all numbers but those of single shuffles and samples, for a file in JSON."""
        order, curve = self.order, self.order.by_distance
        neighbours = {"own_order": self.own_order, "on_settled": self.on_settled}
        return {
            "verdict": self.verdict,
            "reason": self.reason,
            "map": as_json(self.map),
            "neurons": self.map.count,
            "left_out": self.left_out.tolist(),
            "settled_on": len(self.settled_on),
            "held_out": len(self.held_out),
            "noise": self.noise,
            "neighbours": _beside(order.neighbours) | neighbours,
            "trustworthiness": _beside(order.trustworthiness),
            "by_distance": {
                "distance": curve.distance.tolist(),
                "value": curve.value.tolist(),
                "shuffled": curve.mean.tolist(),
            },
            "classes": None if self.classes is None else _class_json(self.classes),
            "other_half": _agreement_json(self.other_half),
            "other_start": _agreement_json(self.other_start),
        }

    def __str__(self) -> str:
        """A verdict, a table, and what to compare it with, in at most 80 columns."""
        found, map = self.order, self.map
        k = self.other_half.neighbours
        lines = [
            f"{self.verdict.capitalize()}: {self.reason}.",
            f"{map.count:,} neurons on map {map}, settled on {len(self.settled_on):,} samples, "
            f"judged on {len(self.held_out):,} others.",
        ]
        if len(self.left_out):
            lines.append(f"{len(self.left_out):,} of them do not vary on a half, and are left out.")
        if self.is_in_order and self.verdict != "no map":
            lines.append("The network's own order is as good: its neurons lie on a map already.")
        lines += [
            _row("", "map", "shuffled", "own order"),
            _numbers("correlation of neighbours", found.neighbours, self.own_order),
            _numbers("trustworthiness: the nearest are most alike", found.trustworthiness),
        ]
        if self.classes is not None:
            lines += _class_rows(self.classes)
        return "\n".join(
            [
                *lines,
                _percents(f"{k} nearest: as near on the other half's map", self.other_half.nearest),
                _numbers("correlation of distances with that map's", self.other_half.distances),
                _numbers("the same with that from a random start", self.other_start.distances),
                f"On the half they settled on, neighbours correlate {_two(self.on_settled)} "
                f"(one pair: +- {self.noise:.2f}).",
            ]
        )


def _beside(found: AgainstShuffles) -> dict[str, float]:
    return {"value": found.value, "shuffled": float(found.shuffled.mean()), "p": found.p}


def _agreement_json(found: Agreement) -> dict[str, Any]:
    return {
        "distances": _beside(found.distances),
        "nearest": _beside(found.nearest),
        "neighbours": found.neighbours,
    }


def _class_json(found: ClassOrder) -> dict[str, Any]:
    morans_i, patch, nearness = found.own_order
    return {
        "classes": found.classes,
        "left_out": found.left_out,
        "morans_i": _beside(found.morans_i) | {"own_order": morans_i},
        "patch": _beside(found.patch) | {"own_order": patch},
        "nearness": _beside(found.nearness) | {"own_order": nearness},
    }


def _class_rows(found: ClassOrder) -> list[str]:
    morans_i, patch, nearness = found.own_order
    without = f" ({found.left_out} left out)" if found.left_out else ""
    return [
        _numbers(f"Moran's I, mean of {found.classes} classes{without}", found.morans_i, morans_i),
        _percents("a class's strongest neurons in one patch", found.patch, patch),
        _percents("how much closer they are than any two neurons", found.nearness, nearness),
    ]


def _numbers(name: str, found: AgainstShuffles, own: float | None = None) -> str:
    return _row(name, *(_two(x) for x in (found.value, found.shuffled.mean(), own)))


def _percents(name: str, found: AgainstShuffles, own: float | None = None) -> str:
    return _row(name, *(_percent(x) for x in (found.value, found.shuffled.mean(), own)))


def _row(name: str, of_map: str, shuffled: str, own: str) -> str:
    return f"{name:46}{of_map:>8}{shuffled:>11}{own:>12}".rstrip()


def _two(x: float | None) -> str:
    return "" if x is None else f"{round(float(x), 2) + 0.0:.2f}"  # not -0.00


def _percent(x: float | None) -> str:
    return "" if x is None else f"{round(100 * float(x))} %"
