"""Is a settled map to be believed? Neurons settle on half of the samples, the others judge."""

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from lgnn_jax.analysis.activations import class_means
from lgnn_jax.analysis.agreement import agreement
from lgnn_jax.analysis.class_regions import ClassRegions, regions_on
from lgnn_jax.analysis.judgement import ClassOrder, Judgement
from lgnn_jax.analysis.shuffles import AgainstShuffles, shuffled_maps
from lgnn_jax.analysis.topography import Topography, topography
from lgnn_jax.maps import grid
from lgnn_jax.maps.likeness import standardised
from lgnn_jax.maps.part import part_with
from lgnn_jax.maps.settling import check_count, checked_features, settle
from lgnn_jax.maps.shapes import Map
from lgnn_jax.maps.windows import one_line

# The rule of the verdict. Both the correlation of neighbours and trustworthiness, of held-out
# samples, have to come so far on the way from chance, 0, to the most there can be, 1; and neither
# may be so large by chance more often than `CHANCE`.
NO_MAP, WEAK_MAP, CLEAR_MAP = "no map", "weak map", "clear map"
CHANCE = 0.01
WEAK, CLEAR = (0.02, 0.1), (0.1, 0.5)  # neighbours, trustworthiness
FEW = 100  # held-out samples: with fewer, "no map" may also mean that these were too few
# What the rule says of layers that are known, with the way that their two numbers come, on held-out
# samples of CIFAR-100 where there are images:
# - clear: EfficientNet-Lite0's last 1,280 neurons .14 and .77 with 4,000 images, .12 and .60 with
#   1,000; the eight layers of a trained VGG-11 .29 to .75 and .75 to .86; those of one with random
#   weights .51 to .76 and .65 to .89; 512 neurons with 50 factors .21 and .72;
# - weak: EfficientNet-Lite0 with 300 images .09 and .36, with 100 images .05 and .15; the VGG-11's
#   last layer with 30 images .11 and .17; 100 faint factors .08 and .59; 64 neurons with uneven
#   shares of one factor .14 and .13;
# - no map: white noise, EfficientNet-Lite0 with each neuron's samples shuffled, one factor in equal
#   shares (neighbours correlate .49 or .90, as others do), the same with 30 % of the neurons dead,
#   all at most .005 and .03, p above .01; EfficientNet-Lite0 with 30 images .04 and .06; 512
#   neurons with uneven shares of one factor .09 and .02.
# Of 1,500 layers without order, 64 neurons with 200 samples, 3 were weak and none clear.


def judge(
    features: Any,
    labels: Any = None,
    map: Map | tuple[int, int] | None = None,
    *,
    shuffles: int = 200,
    seed: int = 0,
    **settling: Any,
) -> Judgement:
    """Returns whether neurons that settle on a map have order there, or chance made it.

    `settle` finds a map in anything, in noise too: it puts side by side what happens to correlate.
    So the neurons settle on a random half of the samples here, and the others say whether
    neighbours are alike. All numbers stand beside those of maps with the neurons shuffled.

    The verdict needs no labels. It rests on two numbers of the held-out samples: the correlation of
    next neighbours, and trustworthiness, which says whether the nearest neurons are also the most
    alike. For each: how far is it on the way from chance to 1, `(value - shuffled) / (1 -
    shuffled)`, and how often is it this large by chance, p?

    - "clear map": at least 0.1 for neighbours, at least 0.5 for trustworthiness, both p at most
      0.01.
    - "weak map": at least 0.02 and 0.1, both p at most 0.01. With more samples it may become clear.
    - "no map": anything else. That is so where all neurons correlate, but all alike: their
      correlation is high, and no order is better than another. With fewer than 100 samples to judge
      by, it may also mean that these are too few, and the reason says so.

    A clear map says that a layer's neurons differ in an orderly way. It does not say that the
    network has learned anything: layers with random weights have clear maps, too.

    Args:
      features: `(samples, neurons)`, as for `settle`; at least 4 samples, better hundreds. They
        have to be independent: with copies of an image, or frames of one film, in both halves,
        chance looks like order. Take one of each.
      labels: `(samples,)`, the class of each sample, numbers or strings; at least two classes. They
        say whether what a class excites is in one place. Nothing settles on them.
      map: of as many places as neurons; `(m, n)` for a grid. If None, as for `settle`.
      shuffles: number of shuffled maps, at least 99: p is at least 1 / (shuffles + 1).
      seed: of the halves, of the shuffles and of random starts.
      **settling: what else `settle` takes. Places that are given as `start` are the start of the
        other half's map too, and make the two agree.

    Raises:
      ValueError: for what `settle` refuses, fewer than 4 samples or 99 shuffles, labels of another
        number or of fewer than two classes, and where there are no neighbours to compare, because
        there is a single neuron or almost all are constant.

    Reference:
      Trustworthiness is that of Venna and Kaski, see `lgnn_jax.analysis.trustworthiness`; the
      agreement of two maps is in `lgnn_jax.analysis.agreement`.

    Example:
      >>> rng = np.random.default_rng(0)
      >>> tuned_to = rng.uniform(0, 2 * np.pi, 48)
      >>> shown = rng.uniform(0, 2 * np.pi, (400, 1))
      >>> judge(np.cos(shown - tuned_to)).verdict
      'clear map'
      >>> judge(rng.normal(size=(400, 48))).verdict
      'no map'
    """
    features = checked_features(features, "features")
    count, neurons = features.shape
    if count < 4:
        raise ValueError(
            f"features must have 4 samples or more, better hundreds, got {count}: half of them "
            "place the neurons, and half judge."
        )
    check_count("shuffles", shuffles)
    check_count("seed", seed)
    if shuffles < 99:
        raise ValueError(
            f"shuffles must be at least 99, got {shuffles}: with fewer, p is never as small as "
            f"{CHANCE}."
        )
    labels = None if labels is None else _checked_labels(labels, count)
    map = grid.grid(*grid.som_dimensions(neurons)) if map is None else grid.as_map(map)
    order = np.random.default_rng(seed).permutation(count)
    settled_on, held_out = np.sort(order[: count // 2]), np.sort(order[count // 2 :])
    first, second = features[settled_on], features[held_out]

    (unit, constant), (unit_held_out, also) = standardised(first), standardised(second)
    live = np.flatnonzero(~(constant | also))
    vary = f"{len(live)} of {neurons} neurons vary over both halves of the samples"
    if len(live) < 2:
        raise ValueError(f"features: {vary}, and at least 2 are needed.")
    places, of_second, from_random = _settled_thrice(first, second, map, seed, settling)
    part, neurons_there = part_with(map, places, live)
    if not len(part.edges()):
        raise ValueError(f"features: {vary}, and no two of them are neighbours on map {map}.")
    shown = unit_held_out[:, neurons_there]
    own_order = np.argsort(neurons_there)  # neurons of the part as they are numbered
    found = topography(shown.T, part, shuffles=shuffles, seed=seed)
    classes = None
    if labels is not None:
        maps = shuffled_maps(part.count, part, shuffles, seed)
        classes = _class_order(shown, labels, held_out, part, own_order, maps)
    compared = {"neurons": live, "shuffles": shuffles, "seed": seed}
    verdict, reason = _verdict(found, len(held_out))
    return Judgement(
        verdict=verdict,
        reason=reason,
        map=map,
        places=places,
        settled_on=settled_on,
        held_out=held_out,
        order=found,
        on_settled=_of_neighbours(unit[:, neurons_there], part),
        own_order=_of_neighbours(shown[:, own_order], part),
        classes=classes,
        other_half=agreement(places, of_second, map, **compared),
        other_start=agreement(places, from_random, map, **compared),
        left_out=np.setdiff1d(np.arange(neurons), live),
    )


def _checked_labels(labels, count):
    """The class of each sample, from 0."""
    try:
        labels = np.asarray(labels)
        classes, found = np.unique(labels, return_inverse=True)
    except (TypeError, ValueError):
        raise ValueError(
            f"labels must be numbers or names, one for each sample, got {one_line(labels):.80}."
        ) from None
    if labels.shape != (count,):
        raise ValueError(
            f"labels must have shape ({count},), one for each sample, got {labels.shape}."
        )
    if labels.dtype.kind == "f" and np.isnan(labels).any():
        raise ValueError(
            f"labels must be known, and that of sample {np.isnan(labels).argmax()} is nan."
        )
    if len(classes) < 2:
        raise ValueError(f"labels must have at least 2 classes, got {classes[0]} alone.")
    return found


def _settled_thrice(first, second, map, seed, settling):
    """Places by the first half, by the second, and by the first from a random start."""
    random = {**settling, "start": "random", "start_width": None}
    with warnings.catch_warnings():
        # Of few samples and constant neurons: what is found says both.
        warnings.filterwarnings("ignore", "features", UserWarning)
        places = settle(first, map, seed=seed, **settling)
        return (
            places,
            settle(second, map, seed=seed + 1, **settling),
            settle(first, map, seed=seed + 1, **random),
        )


def _of_neighbours(unit, map):
    """Their mean correlation, given features of mean 0 and norm 1 in the map's order."""
    correlations = unit.T @ unit
    return float(correlations[*map.edges().T].mean())


def _class_order(features, labels, held_out, map, own_order, maps):
    """Of held-out features in the map's order."""
    present, of_held_out = np.unique(labels[held_out], return_inverse=True)
    if len(present) < 2:
        raise ValueError(
            f"labels must have at least 2 classes among the {len(held_out)} held-out samples: take "
            "more samples, or another seed."
        )
    regions = regions_on(class_means(features, of_held_out, len(present)), map)
    as_settled = _averages(regions(np.arange(map.count)))
    shuffled = np.transpose([_averages(regions(neurons)) for neurons in maps])
    morans_i, patch, nearness = (
        AgainstShuffles(*both) for both in zip(as_settled, shuffled, strict=True)
    )
    return ClassOrder(
        morans_i=morans_i,
        patch=patch,
        nearness=nearness,
        own_order=_averages(regions(own_order)),
        classes=len(present),
        left_out=int(labels.max()) + 1 - len(present),
    )


def _averages(found: ClassRegions) -> tuple[float, float, float]:
    means = (found.morans_i.mean(), found.patch.mean(), 1 - found.spread.mean())
    return tuple(float(x) for x in means)


def _verdict(order: Topography, samples: int) -> tuple[str, str]:
    """The verdict, and its reason in a few words."""
    found = (order.neighbours, order.trustworthiness)
    p = max(x.p for x in found)
    few = f", but {samples} samples are few" if samples < FEW else ""
    if p > CHANCE:
        return NO_MAP, f"no more order than by chance (p = {p:.2f}){few}"
    if not _reach(found, WEAK):
        return NO_MAP, f"too little order to see{few}"
    if not _reach(found, CLEAR):
        return WEAK_MAP, f"more order than by chance, but little{few}"
    return CLEAR_MAP, f"neurons beside each other are alike, on new samples too{few}"


def _reach(found: Sequence[AgainstShuffles], least: Sequence[float]) -> bool:
    return all(_way(x) >= least_ for x, least_ in zip(found, least, strict=True))


def _way(found: AgainstShuffles) -> float:
    """How far a statistic is on the way from chance, 0, to 1, the most that it can be."""
    left = 1 - found.shuffled.mean()
    return float((found.value - found.shuffled.mean()) / left) if left > 1e-9 else 0.0
