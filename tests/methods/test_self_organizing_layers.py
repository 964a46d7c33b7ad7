"""The recipe in one line, on layers of every kind and trees of every framework."""

import warnings

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import lgnn_jax as lgnn
from lgnn_jax import LayerMap

MAP, COUNT = lgnn.grid(4, 3), 12


def tuned(batch, shape=(), seed=0):
    """Activations `(batch, *shape, 12)` of neurons that are tuned to places in a plane."""
    rng = np.random.default_rng(seed)
    shuffled = np.random.default_rng(9).permutation(COUNT)
    shown = rng.uniform(0, 3, (batch, 1, 2))
    means = np.exp(-np.square(shown - MAP.positions[shuffled]).sum(-1) / 2)
    noise = rng.normal(0, 0.01, (batch, *shape, COUNT))
    return jnp.asarray(means.reshape(batch, *(1 for _ in shape), COUNT) + noise, jnp.float32)


def order(places):
    found = np.corrcoef(np.asarray(tuned(500, seed=5))[:, np.asarray(places)].T)
    return found[MAP.distances() == 1].mean()


# A kernel, what a table says of it, and its activations: each row of neurons on a map of 12.
KINDS = {
    "convolution along a line": ((3, 8, 12), "conv", LayerMap(MAP), tuned(64, (9,))),
    "convolution of volumes": ((3, 3, 3, 2, 12), "conv", LayerMap(MAP), tuned(64, (2, 3, 2))),
    "transposed convolution": ((2, 2, 8, 12), "conv", LayerMap(MAP), tuned(64, (4, 4))),
    "grouped convolution, over all": ((3, 3, 4, 12), "conv", LayerMap(MAP), tuned(64, (4, 4))),
    "depthwise convolution": ((3, 3, 1, 12), "conv", LayerMap(MAP), tuned(64, (4, 4))),
    "dense": ((8, 12), "dense", LayerMap(MAP), tuned(64)),
    "features of all heads": ((8, 4, 3), "query", LayerMap(MAP, (1, 2)), tuned(64, (5,))),
    "heads": ((8, 12, 3), "query", LayerMap(MAP, 1), tuned(64, (5,))),
    "channels first": ((12, 2, 3, 3), "conv", LayerMap(MAP, 0), tuned(64, (4, 4))),
}


@pytest.mark.parametrize(
    ("kind", "on"),
    [(kind, None) for kind in KINDS] + [("dense", "weights"), ("features of all heads", "weights")],
)
def test_neurons_settle_and_learn_with_their_neighbours(kind, on):
    shape, name, layer_map, activations = KINDS[kind]
    rng = np.random.default_rng(0)
    params = {name: {"kernel": jnp.asarray(rng.normal(size=shape), jnp.float32)}}
    table = {f"{name}/kernel": layer_map}
    tx = lgnn.self_organizing(table, steps=10, on=on, gradients=0.0)
    state = tx.init(params)
    given = {} if on == "weights" else {"activations": {name: activations}}
    update = jax.jit(tx.update)
    before, state = update(params, state, params, **given)
    (places,) = lgnn.places(state).values()
    assert sorted(places.tolist()) == list(range(COUNT))
    if on is None:
        assert order(places) > 0.5 > order(np.arange(COUNT)) + 0.2
    # The first update was by the order of numbers, the next one is by the places.
    after, _ = update(params, state, params, **given)
    plain = lgnn.transform({f"{name}/kernel": layer_map})
    expected = plain.update(params, plain.init(params))[0][name]["kernel"]
    np.testing.assert_allclose(before[name]["kernel"], expected, atol=1e-6, rtol=1e-6)
    axes = layer_map.axes(shape)
    lined = np.moveaxis(np.asarray(params[name]["kernel"]), axes, range(-len(axes), 0))
    lined = lined.reshape(-1, COUNT)[:, places]
    expected = lgnn.transform({"^x$": MAP}).update({"x": jnp.asarray(lined)}, plain.init(params))
    moved = np.moveaxis(np.asarray(after[name]["kernel"]), axes, range(-len(axes), 0))
    np.testing.assert_allclose(
        moved.reshape(-1, COUNT)[:, places], expected[0]["x"], atol=1e-6, rtol=1e-6
    )


@pytest.mark.parametrize(
    ("shape", "layer_map", "trailing"),
    [
        ((8, 2, 12), LayerMap(MAP, (1, 2), groups=2), (2, 12)),  # features within each head
        ((2, 8, 12), LayerMap(MAP, (0, 2), groups=2), (2, 12)),  # experts, or stacked layers
        ((3, 3, 4, 24), LayerMap(MAP, groups=2), (24,)),  # a convolution of two groups
    ],
    ids=["within heads", "experts", "groups"],
)
def test_groups_settle_each_on_a_map_of_its_own(shape, layer_map, trailing):
    params = {"layer": {"kernel": jnp.ones(shape)}}
    parts = [tuned(64, (5,), seed) for seed in range(2)]
    activations = jnp.stack(parts, axis=-2).reshape(64, 5, *trailing)
    tx = lgnn.self_organizing({"layer/kernel": layer_map}, steps=10)
    _, state = tx.update(params, tx.init(params), params, activations={"layer": activations})
    (places,) = lgnn.places(state).values()
    for group in range(2):
        own = np.asarray(places)[12 * group : 12 * group + 12] - 12 * group
        assert sorted(own.tolist()) == list(range(COUNT))
        assert order(own) > 0.5


def linen_tree():
    module = nn.Conv(12, (3, 3), name="conv")
    return module.init(jax.random.key(0), jnp.zeros((1, 8, 8, 2))), -1


def nnx_tree():
    class Net(nnx.Module):
        def __init__(self):
            self.conv = nnx.Conv(2, 12, (3, 3), rngs=nnx.Rngs(0))

    return nnx.state(Net(), nnx.Param), -1


def equinox_tree():
    return eqx.filter({"conv": eqx.nn.Conv2d(2, 12, 3, key=jax.random.key(0))}, eqx.is_array), 0


def haiku_tree():
    """As `haiku.Conv2D` names its parameters."""
    return {"conv2_d": {"w": jnp.ones((3, 3, 2, 12)), "b": jnp.zeros(12)}}, -1


@pytest.mark.parametrize("make", [linen_tree, nnx_tree, equinox_tree, haiku_tree])
def test_trees_of_every_framework(make):
    """The table is counted; a layer's activations go by the name that `places` has for it."""
    params, axis = make()
    table = lgnn.som_table(params, neuron_axis=axis)
    assert table == {12: (4, 3)}
    tx = optax.chain(
        lgnn.self_organizing(table, steps=10, neuron_axis=axis), optax.adamw(1e-2)
    )  # fmt: skip
    state = tx.init(params)
    (path,) = lgnn.places(state)
    grads = jax.tree.map(jnp.ones_like, params)
    _, state = jax.jit(tx.update)(grads, state, params, activations={path: tuned(64, (8, 8))})
    assert order(lgnn.places(state)[path]) > 0.5


def test_without_activations_it_says_that_it_settles_on_weights():
    params = {"conv": {"kernel": jnp.asarray(np.random.default_rng(0).normal(size=(3, 3, 2, 12)))}}
    tx = lgnn.self_organizing({12: MAP}, steps=10)
    with pytest.warns(UserWarning, match=r"^update was given no activations, so neurons settle on"):
        _, state = tx.update(params, tx.init(params), params)
    on_weights = lgnn.self_organizing({12: MAP}, steps=10, on="weights")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _, expected = on_weights.update(params, on_weights.init(params), params)
    for path, places in lgnn.places(expected).items():
        np.testing.assert_array_equal(lgnn.places(state)[path], places)
        assert not np.array_equal(places, np.arange(COUNT))


def test_most_of_what_is_alike_is_that_of_gradients():
    rng = np.random.default_rng(0)
    grads = {"conv": {"kernel": jnp.asarray(rng.normal(size=(3, 3, 2, 12)))}}
    activations = {"conv": tuned(64)}
    found = []
    for tx in (
        lgnn.self_organizing({12: MAP}, steps=10),
        lgnn.transform({12: MAP}, settle=lgnn.Settling(every=1, gradients=0.65)),
        lgnn.transform({12: MAP}, settle=lgnn.Settling(every=1)),
    ):
        _, state = tx.update(grads, tx.init(grads), grads, activations=activations)
        found.append(lgnn.places(state)["conv/kernel"].tolist())
    assert found[0] == found[1] != found[2]


@pytest.mark.parametrize("neurons", [1, 2, 13])
def test_few_neurons_and_prime_counts(neurons):
    params = {"conv": {"kernel": jnp.ones((3, 3, 2, neurons))}}
    dims = lgnn.som_dimensions(neurons)
    tx = lgnn.self_organizing({neurons: dims}, steps=10)
    rng = np.random.default_rng(0)
    activations = {"conv": jnp.asarray(rng.normal(size=(32, 4, 4, neurons)))}
    for _ in range(2):
        found, state = tx.update(params, tx.init(params), params, activations=activations)
    assert sorted(lgnn.places(state)["conv/kernel"].tolist()) == list(range(neurons))
    np.testing.assert_allclose(found["conv"]["kernel"], 1, rtol=1e-6)


def test_through_inject_hyperparams():
    static = ("steps", "on", "gradients", "neuron_axis")
    make = optax.inject_hyperparams(lgnn.self_organizing, static_args=static)
    tx = make({12: MAP}, steps=10, on=0.5)
    tree = {"conv": {"kernel": jnp.ones((3, 3, 2, 12))}}
    _, state = tx.update(tree, tx.init(tree), tree, activations={"conv": tuned(64)})
    assert sorted(lgnn.places(state)["conv/kernel"].tolist()) == list(range(COUNT))


@pytest.mark.parametrize("steps", [0, -1, 1.5, True, None])
def test_steps_that_cannot_be(steps):
    with pytest.raises(ValueError, match=r"^steps must be a whole number, at least 1, got [^\n]*$"):
        lgnn.self_organizing({12: MAP}, steps=steps)


def test_neurons_settle_ten_times_in_a_run():
    params = {"conv": {"kernel": jnp.ones((3, 3, 2, 12))}}
    tx = lgnn.self_organizing({12: MAP}, steps=39, on="activations")
    state, seen = tx.init(params), [np.arange(COUNT)]
    update = jax.jit(tx.update)
    for i in range(39):
        noise = jnp.asarray(np.random.default_rng(i).normal(size=(8, COUNT)), jnp.float32)
        _, state = update(params, state, params, activations={"conv": noise})
        seen.append(np.asarray(lgnn.places(state)["conv/kernel"]))
    moved = [i for i in range(1, 40) if not np.array_equal(seen[i], seen[i - 1])]
    assert moved[0] == 4
    assert all(i % 4 == 0 for i in moved)
