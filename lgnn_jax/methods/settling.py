"""Neurons find their places while the network trains: the places are state of the optimiser.

The network is not touched. To move a neuron on its map, its place in the state changes; parameters,
batch statistics and moments stay as they are. What places decide is who is whose neighbour.
"""

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lgnn_jax.maps.parameters import parameters, path_name
from lgnn_jax.maps.swaps import squared_distances, sweeps
from lgnn_jax.maps.table import LayerMap
from lgnn_jax.maps.windows import one_line
from lgnn_jax.maps.words import did_you_mean
from lgnn_jax.methods.pull import check_activations, means, standardised

_KEPT = 0.95  # of the running mean of correlations, from one look at them to the next
# A look multiplies all neurons with each other. One in seven updates is enough, or 20 before each
# settling. The period is odd, as batches may come round in an even number.
_LONGEST_PERIOD, _LOOKS = 7, 20
# A convolution's gradient is summed over its window if it has so many inputs: the sums say more
# about what a neuron is for. In conv4_2 and conv5_1 of a trained VGG-11 the correlations of
# gradients correlate with those of evidence for classes by 0.76 and 0.75 then, by 0.67 and 0.57
# without the sum (means of 20 batches; those of activations: 0.29 and 0.42). In a first layer, with
# three inputs, the window is what tells neurons apart.
_INPUTS = 16
_ROWS = 512  # inputs; more than these are sketched
_NO_PLACES = (
    "no places in this optimiser's state: they are there with lgnn_jax.transform(table, "
    "settle=lgnn_jax.Settling(...)), if the table covers a parameter."
)
_BY_NAME = ("activations", "weights")
_AGAIN = 1.0  # map units: the width with which neurons that have places begin to settle again


@dataclass(frozen=True)
class Settling:
    """How neurons settle on their maps while a network trains.

    Attributes:
      every: updates from one settling to the next, at least 1; the first one comes after so many.
        Likeness is a running mean over some of the updates in between: all of them up to 39, every
        seventh from 140 on.
      sweeps: of each settling, at least 1; see `lgnn_jax.settle`.
      start_width: of the neighbourhood in the first sweep of the first settling, in map units, at
        least `end_width`. If None, half of the map's longest side. Later ones begin at 1 at most,
        as neurons have places to go on from; so does the first one after `lgnn_jax.with_places`.
        Neurons that lie as they are numbered have no places yet: where that is their order on the
        map, as after `lgnn_jax.reorder`, give 1.
      end_width: in the last sweep, at least 0.1.
      until: the last update after which neurons may settle; None for no end.
      on: what is alike: neurons that do the same, "activations"; that have learned the same,
        "weights"; or a mixture, the share of activations in it. None for activations if the update
        is given them, and weights in their place, with a warning, if not.
      gradients: the share of gradients in what is alike, in [0, 1]; `on` says what the rest is.
        Neurons whose gradients agree respond to the same, and the loss asks the same of them. With
        1, `on` does not matter, and no activations are needed. A parameter with one number a neuron
        has no gradients to compare.

    Raises:
      ValueError: if an attribute is out of its range.
    """

    every: int
    sweeps: int = 60
    start_width: float | None = None
    end_width: float = 0.5
    until: int | None = None
    on: Literal["activations", "weights"] | float | None = "activations"
    gradients: float = 0.0

    def __post_init__(self):
        """Checks what the attributes promise."""
        for name in ("every", "sweeps", "until"):
            value = getattr(self, name)
            whole = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
            if not (whole and 1 <= value < 2**31) and (name, value) != ("until", None):
                raise ValueError(
                    f"{name} must be a whole number, from 1 to 2**31 - 1, got "
                    f"{one_line(value):.80}."
                )
        for name, least in (("end_width", 0.1), ("start_width", self.end_width)):
            value = getattr(self, name)
            number = isinstance(value, (int, float, np.number)) and not isinstance(value, bool)
            if not (number and least <= value < math.inf) and (name, value) != (
                "start_width",
                None,
            ):
                bound = least if name == "end_width" else f"end_width, {least}"
                raise ValueError(
                    f"{name} must be a number, at least {bound}, got {one_line(value):.80}."
                )
        named = self.on is None or (isinstance(self.on, str) and self.on in _BY_NAME)
        if not named and not (isinstance(self.on, (int, float, np.number)) and 0 <= self.on <= 1):
            raise ValueError(
                "on must be 'activations', 'weights', or the share of activations in [0, 1], got "
                f"{one_line(self.on):.80}."
            )
        if isinstance(self.on, np.number):
            object.__setattr__(self, "on", float(self.on))
        share = self.gradients
        number = isinstance(share, (int, float, np.number)) and not isinstance(share, bool)
        if not (number and 0 <= share <= 1):
            raise ValueError(f"gradients must be a number in [0, 1], got {one_line(share):.80}.")
        object.__setattr__(self, "gradients", float(share))

    @property
    def shares(self) -> tuple[float, float]:
        """Of activations and of weights in what is alike; the rest is that of gradients."""
        share = {"activations": 1.0, "weights": 0.0, None: 1.0}.get(self.on, self.on)
        rest = 1 - self.gradients
        return rest * share, rest * (1 - share)


class Places(NamedTuple):
    """What settling keeps: two trees like the parameters, without leaves where there is no map.

    Attributes:
      places: int32 `(neurons,)`, the neuron at each place; of groups, one after the other.
      alike: float32 `(groups, neurons, neurons)`, a running mean of the correlations of activations
        over a batch and of gradients, by their shares; without leaves if neurons settle on weights
        alone.
    """

    places: Any
    alike: Any


def places(opt_state: Any) -> dict[str, jax.Array]:
    """Returns the neuron at each place, for every layer that settles while it trains.

    Args:
      opt_state: of an optimiser with `lgnn_jax.transform` in it, wherever it stands: in a chain, or
        within `optax.masked`, `optax.inject_hyperparams` or `optax.MultiSteps`.

    Returns:
      By path, int32 `(neurons,)`. Traced values are returned as they are, so a training step may
      use them.

    Raises:
      ValueError: if nothing in the state has places.

    Example:
      >>> import lgnn_jax as lgnn
      >>> params = {"conv": {"kernel": jnp.zeros((3, 3, 8, 16))}}
      >>> tx = lgnn.transform({16: (4, 4)}, settle=lgnn.Settling(every=100))
      >>> {path: x.shape for path, x in places(tx.init(params)).items()}
      {'conv/kernel': (16,)}
    """
    found = find_places(opt_state)
    if not found:
        raise ValueError(_NO_PLACES)
    return found


def with_places(opt_state: Any, places: Mapping[str, jax.typing.ArrayLike]) -> Any:
    """Returns an optimiser's state whose neurons lie at given places, to go on from there.

    As when a trained network is trained on: first its neurons settle, then its map becomes clearer.

    Args:
      opt_state: as for `lgnn_jax.places`.
      places: by path, int `(neurons,)`, as of `lgnn_jax.places` or `lgnn_jax.settle_layers`. Layers
        that are not named keep the places they have.

    Raises:
      ValueError: if nothing in the state has places, a path is none of its layers, or places are no
        permutation of a layer's neurons.

    Example:
      >>> import lgnn_jax as lgnn
      >>> params = {"conv": {"kernel": jnp.zeros((3, 3, 8, 16))}}
      >>> tx = lgnn.transform({16: (4, 4)}, settle=lgnn.Settling(every=100))
      >>> answers = np.random.default_rng(0).normal(size=(200, 16))
      >>> settled = {"conv/kernel": lgnn.settle(answers, (4, 4))}
      >>> state = with_places(tx.init(params), settled)
      >>> bool((lgnn.places(state)["conv/kernel"] == settled["conv/kernel"]).all())
      True
    """
    known = find_places(opt_state)
    if not known:
        raise ValueError(_NO_PLACES)
    if not isinstance(places, Mapping):
        raise ValueError(f"places must be a dict, of places by path, got {type(places).__name__}.")
    for path, given in places.items():
        if path not in known:
            raise ValueError(
                f"places name {path!r:.80}, which has none{did_you_mean(str(path), list(known))}"
            )
        count, given = len(known[path]), np.asarray(given)
        if given.dtype.kind not in "iu" or not np.array_equal(np.sort(given), np.arange(count)):
            raise ValueError(
                f"places of {path} must name each of {count} neurons once, from 0, got "
                f"{one_line(given):.80}."
            )

    def moved(part):
        if not isinstance(part, Places):
            return part

        def leaf(path, old):
            given = places.get(path_name(path))
            return old if given is None else jnp.asarray(given, old.dtype)

        return part._replace(places=jax.tree_util.tree_map_with_path(leaf, part.places))

    return jax.tree.map(moved, opt_state, is_leaf=lambda part: isinstance(part, Places))


def find_places(opt_state: Any) -> dict[str, jax.Array]:
    """Returns the same as `places`; nothing if neurons do not settle."""
    leaves = jax.tree.leaves(opt_state, is_leaf=lambda x: isinstance(x, Places))
    trees = [x.places for x in leaves if isinstance(x, Places)]
    return {path: leaf for tree in trees for path, leaf in by_path(tree).items()}


def by_path(tree: Any) -> dict[str, jax.Array]:
    """Returns the leaves of a tree by their paths."""
    return {path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def init(params: Any, maps: Mapping[str, LayerMap | None], settling: Settling) -> Places:
    """Returns the places before the first update: neurons lie as they are numbered."""

    def new(make):
        def leaf(path, _):
            layer_map = maps.get(path_name(path))
            return _none() if layer_map is None else make(layer_map)

        return jax.tree_util.tree_map_with_path(leaf, params)

    def no_likeness(layer_map):
        count = layer_map.map.count
        return jnp.zeros((layer_map.groups, count, count), jnp.float32)

    return Places(
        new(lambda layer_map: jnp.arange(layer_map.count, dtype=jnp.int32)),
        new(no_likeness if settling.shares[0] + settling.gradients else _none),
    )


def _none(*_):
    return optax.MaskedNode()


def update(
    state: Places,
    count: jax.Array,
    updates: Any,
    params: Any,
    activations: Mapping[str, jax.Array] | None,
    maps: Mapping[str, LayerMap | None],
    settling: Settling,
) -> Places:
    """Returns the places after an update; pure, for within a jitted step.

    Args:
      state: before it.
      count: int32 `()`, updates before it.
      updates: the gradients, a tree like the parameters.
      params: as they are before it, for their weights.
      activations: by layer, see `lgnn_jax.transform`.
      maps: by path.
      settling: how they settle.
    """
    alike, (of_activations, of_weights) = state.alike, settling.shares
    if of_activations and settling.on is None and activations is None:
        warnings.warn(
            "update was given no activations, so neurons settle on weights in their place: "
            "neighbours come to look alike, and answer alike less. on='weights' says that it is "
            "meant.",
            stacklevel=3,
        )
        of_activations, of_weights = 0.0, of_activations
    given = _activations(activations, maps, updates) if of_activations else {}
    if of_activations + settling.gradients:
        period = max(1, min(_LONGEST_PERIOD, settling.every // _LOOKS))
        gradients = by_path(updates)
        convolutions = {p.path for p in parameters(updates) if p.kind == "convolution"}

        def look():
            looks = count // period
            kept = jnp.minimum(_KEPT, looks / (looks + 1))

            def running(path, leaf):
                name = path_name(path)
                found = 0.0
                if of_activations:
                    x = _by_group(means(given[name]), maps[name].groups, name)
                    found += of_activations * _products(x)
                if settling.gradients:
                    x = _of_gradient(gradients[name], maps[name], name in convolutions)
                    x = _by_group(x, maps[name].groups, name)
                    found += settling.gradients * _products(x)
                # What is not finite once would stay for ever.
                valid = jnp.isfinite(found).all()
                return jnp.where(valid, kept * leaf + (1 - kept) * found, leaf).astype(leaf.dtype)

            return jax.tree_util.tree_map_with_path(running, alike)

        alike = look() if period == 1 else jax.lax.cond(count % period == 0, look, lambda: alike)
    if of_weights and params is None:
        raise ValueError("to settle on weights, update needs params, as optax passes them on.")
    done = count + 1
    due = done % settling.every == 0
    if settling.until is not None:
        due &= done <= settling.until
    weights, correlations = by_path(params), by_path(alike)

    def settled(path, old):
        name = path_name(path)
        layer_map = maps[name]
        if layer_map.map.count < 3:
            return old

        def settle():
            found = correlations.get(name, 0.0)
            if of_weights:
                inputs = _inputs(weights[name], layer_map)
                found += of_weights * _products(_by_group(inputs, layer_map.groups, name))
            # Here, and not in every step: a pass over all pairs costs as much as their product.
            found = (found + found.transpose(0, 2, 1)) / 2
            found = jnp.where(np.eye(layer_map.map.count, dtype=bool), 0, found)
            return _settle(found, old, layer_map, settling)

        return jax.lax.cond(due, settle, lambda: old)

    return Places(jax.tree_util.tree_map_with_path(settled, state.places), alike)


def _settle(alike, old, layer_map, settling):
    """Places after some sweeps, from those before; as before if a likeness is not finite."""
    first = (old == np.arange(layer_map.count)).all()  # they lie as they are numbered
    groups, count = layer_map.groups, layer_map.map.count
    last = settling.end_width
    longest = np.ptp(layer_map.map.positions, axis=0).max() + 1
    start = settling.start_width or max(last, longest / 2)
    widths = [
        np.geomspace(width, last, max(settling.sweeps, 2))[-settling.sweeps :].astype(np.float32)
        for width in (start, max(last, min(start, _AGAIN)))
    ]
    widths = jnp.where(first, *widths)
    squares = squared_distances(layer_map.map)
    valid = jnp.isfinite(alike).all()
    alike = jnp.where(valid, alike, 0)
    fixed = jnp.zeros(count, bool)
    offsets = [group * count for group in range(groups)]
    found = [
        offset + sweeps(part, old[offset : offset + count] - offset, widths, squares, fixed)
        for part, offset in zip(alike, offsets, strict=True)
    ]
    return jnp.where(valid, jnp.concatenate(found), old).astype(old.dtype)


def _by_group(x, groups, name):
    """What is compared, standardised: `(samples, groups, neurons)`."""
    if x.ndim != 2 or x.shape[1] % groups:
        raise ValueError(f"activations of {name} have shape {x.shape}.")
    return standardised(x.astype(jnp.float32)).reshape(len(x), groups, -1)


def _products(x):
    """Correlations of the neurons of each group, `(groups, neurons, neurons)`."""
    return jnp.einsum("bgi,bgj->gij", x, x, precision=jax.lax.Precision.HIGHEST)


def _of_gradient(gradient, layer_map, is_convolution):
    """`(inputs, neurons)`: sums over the window, and of many inputs a sketch.

    Windows are known where neurons are on the first or the last axis.
    """
    x = gradient.astype(jnp.float32)
    last = layer_map.axes(x.shape) == (x.ndim - 1,)
    if is_convolution and (last or layer_map.axes(x.shape) == (0,)):
        window = tuple(range(x.ndim - 2) if last else range(2, x.ndim))
        if x.shape[-2 if last else 1] >= _INPUTS:
            x = x.sum(axis=window, keepdims=True)
    return _fold(_inputs(x, layer_map))


def _fold(x):
    """At most `_ROWS` rows, sums of all with random signs: correlations are kept on average.

    It is the sketch of Charikar, Chen and Farach-Colton, "Finding frequent items in data streams",
    2002; the error of a correlation is about 1/sqrt(rows).
    """
    folds = -(-len(x) // _ROWS)
    if folds == 1:
        return x
    # Afterwards the mean cannot be told from the rest. Behind a ReLU it is a large part of a
    # gradient: without this, correlations of 700 inputs were wrong by a third.
    x = x - x.mean(axis=0, keepdims=True)
    signs = np.random.default_rng(0).choice(np.float32([-1, 1]), (len(x), 1))
    padded = jnp.pad(x * signs, ((0, folds * _ROWS - len(x)), (0, 0)))
    return padded.reshape(folds, _ROWS, -1).sum(axis=0)


def _inputs(kernel, layer_map):
    """`(inputs, neurons)`."""
    axes = layer_map.axes(kernel.shape)
    last = jnp.moveaxis(kernel, axes, range(-len(axes), 0))
    return last.reshape(-1, layer_map.count)


def _activations(activations, maps, updates):
    """Activations by the path of a kernel; those of layers without a map are left out."""
    paths = by_path(updates)
    wanted = {path: found for path, found in maps.items() if found is not None}
    if activations is None:
        raise ValueError(
            "to settle on activations, update needs activations={layer: (batch, ..., neurons)}; "
            "Settling(on='weights') does without, and so does gradients=1."
        )
    if not isinstance(activations, Mapping):
        raise ValueError(
            f"activations must be a dict, {{layer: (batch, ..., neurons)}}, got "
            f"{type(activations).__name__}."
        )
    layers = {path.rpartition("/")[0]: path for path in wanted} | {path: path for path in wanted}
    found = {}
    for name, x in activations.items():
        if name not in layers:
            if _is_part(name, updates):
                continue
            raise ValueError(
                f"activations name {name!r:.80}, which is no layer"
                f"{did_you_mean(str(name), list(layers))}"
            )
        x, path = check_activations(f"activations of {name}", x), layers[name]
        kernel, count = paths[path].shape, wanted[path].count
        neurons = tuple(kernel[axis] for axis in wanted[path].axes(kernel))
        many = len(neurons)
        if x.ndim > many and x.shape[-many:] == neurons:  # such as heads, and features of each
            x = x.reshape(*x.shape[:-many], count)
        if x.ndim < 2 or x.shape[-1] != count:
            raise ValueError(
                f"activations of {name} must have shape (batch, ..., {count}), got {x.shape}."
            )
        found[path] = x
    missing = [path for path in wanted if path not in found]
    if missing:
        raise ValueError(f"activations lack those of {', '.join(missing)}.")
    return found


def _is_part(name, updates):
    """Whether it names a layer or a parameter, be it one that `optax.masked` hides from us."""
    hidden = jax.tree_util.tree_leaves_with_path(
        updates, is_leaf=lambda part: isinstance(part, optax.MaskedNode)
    )
    paths = [path_name(path) for path, _ in hidden]
    return any(
        name in (path, path.rpartition("/")[0])
        or (isinstance(leaf, optax.MaskedNode) and str(name).startswith(f"{path}/"))
        for path, (_, leaf) in zip(paths, hidden, strict=True)
    )
