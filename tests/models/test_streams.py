"""Networks whose neurons are in another order compute the same."""

from functools import partial

import equinox as eqx
import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import lgnn_jax as lgnn
from lgnn_jax import Stream
from lgnn_jax.models.build import build_model
from lgnn_jax.models.equinox import EquinoxNetwork
from lgnn_jax.models.linen import LinenNetwork
from lgnn_jax.models.network import at_path
from lgnn_jax.models.nnx import NnxNetwork

NETWORKS = ["vgg11", "vgg19", "wrn16_2", "wrn10_1"]
RNG = np.random.default_rng(3)


def _varied(tree):
    """With biases, scales and statistics that differ from channel to channel."""
    rng = np.random.default_rng(1)

    def vary(leaf):
        return leaf + 0.3 * rng.uniform(size=leaf.shape).astype(np.float32) * (leaf.ndim == 1)

    return jax.tree.map(vary, tree)


def _network(name):
    network = LinenNetwork(build_model(name, num_classes=7, width=1 / 8))
    return network, *map(_varied, network.init(jax.random.key(0), (32, 32, 3)))


def _places(network, params, layers):
    kernels = network.layers((32, 32, 3))
    return {
        layer: RNG.permutation(at_path(params, kernels[layer]).shape[network.neuron_axis])
        for layer in layers
    }


@partial(jax.jit, static_argnums=0)
def _apply(network, params, state, x):
    return network.apply(params, state, x, activations=True)


def _check(network, params, state, streams, places, image_shape):
    """That logits are the same, and the neurons of each stream where they were sent."""
    x = np.random.default_rng(2).normal(size=(4, *image_shape)).astype(np.float32)
    before = _apply(network, params, state, x)
    moved, moved_state = lgnn.reorder(
        params, places, streams, state, neuron_axis=network.neuron_axis
    )
    assert jax.tree.structure((moved, moved_state)) == jax.tree.structure((params, state))
    after = _apply(network, moved, moved_state, x)
    np.testing.assert_allclose(after.logits, before.logits, rtol=1e-5, atol=1e-5)
    order = {
        layer: places[named]
        for named in places
        for stream in streams
        if named in stream.writers
        for layer in stream.writers
    }
    for layer, values in before.activations.items():
        values = np.asarray(values)
        if layer in order:
            values = values[..., order[layer]]
        np.testing.assert_allclose(after.activations[layer], values, atol=1e-4, err_msg=layer)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_of_the_paper_computes_the_same(name):
    network, params, state = _network(name)
    streams = network.streams((32, 32, 3))
    places = _places(network, params, [stream.writers[-1] for stream in streams])
    _check(network, params, state, streams, places, (32, 32, 3))
    one = {streams[1].writers[0]: places[streams[1].writers[-1]]}
    _check(network, params, state, streams, one, (32, 32, 3))


@pytest.mark.parametrize("name", NETWORKS)
def test_every_layer_writes_and_reads_once(name):
    network, params, _ = _network(name)
    paths = {path.rpartition("/")[0] for path in flax.traverse_util.flatten_dict(params, sep="/")}
    found = network.streams((32, 32, 3))
    writers = [layer for stream in found for layer in stream.writers]
    norms = [layer for stream in found for layer in stream.norms]
    readers = [layer for stream in found for layer in stream.readers]
    assert sorted(writers + norms + ["head"]) == sorted(paths)
    assert sorted(readers) == sorted(set(writers[1:]) | {"head"})


class Flat(nn.Module):
    """A convolution, its pixels side by side, and two dense layers."""

    @nn.compact
    def __call__(self, x):
        x = nn.relu(
            nn.BatchNorm(use_running_average=True, name="bn")(nn.Conv(6, (3, 3), name="c")(x))
        )
        x = nn.max_pool(x, (2, 2), (2, 2)).reshape(len(x), -1)
        x = nn.LayerNorm(name="ln")(nn.Dense(8, name="d")(x))
        return nn.Dense(5, name="head")(nn.gelu(x))


class FlatNnx(nnx.Module):
    def __init__(self, rngs):
        self.c = nnx.Conv(3, 6, (3, 3), rngs=rngs)
        self.bn = nnx.BatchNorm(6, rngs=rngs)
        self.d = nnx.Linear(6 * 16, 8, rngs=rngs)
        self.ln = nnx.LayerNorm(8, rngs=rngs)
        self.head = nnx.Linear(8, 5, rngs=rngs)

    def __call__(self, x):
        x = nnx.relu(self.bn(self.c(x)))
        x = nnx.max_pool(x, (2, 2), (2, 2)).reshape(len(x), -1)
        return self.head(nnx.gelu(self.ln(self.d(x))))


class FlatEqx(eqx.Module):
    c1: eqx.nn.Conv2d
    c: eqx.nn.Conv2d
    d: eqx.nn.Linear
    ln: eqx.nn.LayerNorm
    head: eqx.nn.Linear

    def __init__(self, key):
        keys = jax.random.split(key, 4)
        self.c1 = eqx.nn.Conv2d(3, 7, 3, padding=1, key=keys[0])
        self.c = eqx.nn.Conv2d(7, 6, 3, padding=1, key=keys[1])
        self.d = eqx.nn.Linear(6 * 64, 8, key=keys[2])
        self.ln = eqx.nn.LayerNorm(8)
        self.head = eqx.nn.Linear(8, 5, key=keys[3])

    def __call__(self, image):
        x = jax.nn.relu(self.c(jax.nn.relu(self.c1(image))))
        return self.head(jax.nn.gelu(self.ln(self.d(x.reshape(-1)))))


@pytest.mark.parametrize(
    ("network", "layers"),
    [
        (LinenNetwork(Flat()), ["c", "d", "head"]),
        (NnxNetwork(FlatNnx), ["c", "d", "head"]),
        (EquinoxNetwork(FlatEqx), ["c1", "c", "d", "head"]),
    ],
)
def test_a_chain_with_a_flatten_computes_the_same(network, layers):
    params, state = map(_varied, network.init(jax.random.key(0), (8, 8, 3)))
    norms = {"c": "bn", "d": ["ln"]} if state else {"d": "ln"}
    streams = lgnn.layer_chain(*layers, norms=norms)
    places = _places(network, params, layers[:-1])
    _check(network, params, state, streams, places, (8, 8, 3))
    by_path = {
        f"{layer}/{'weight' if 'c1' in layers else 'kernel'}": x for layer, x in places.items()
    }
    again, _ = lgnn.reorder(params, by_path, streams, state, neuron_axis=network.neuron_axis)
    moved, _ = lgnn.reorder(params, places, streams, state, neuron_axis=network.neuron_axis)
    jax.tree.map(np.testing.assert_array_equal, again, moved)


def test_lists_and_orders_there_and_back():
    """Any tree of parameters; an order and its inverse give what there was."""
    rng = np.random.default_rng(0)
    params = [
        {"weight": rng.normal(size=(n, m)).astype(np.float32), "bias": np.zeros(n, np.float32)}
        for m, n in ((3, 10), (10, 4))
    ]
    order = rng.permutation(10).astype(np.int32)
    streams = lgnn.layer_chain("0", "1")
    moved, state = lgnn.reorder(params, {"0": order}, streams, neuron_axis=0)
    assert state is None
    np.testing.assert_array_equal(moved[0]["weight"], params[0]["weight"][order])
    np.testing.assert_array_equal(moved[1]["weight"], params[1]["weight"][:, order])
    back, _ = lgnn.reorder(moved, {"0": np.argsort(order)}, streams, neuron_axis=0)
    jax.tree.map(np.testing.assert_array_equal, back, params)
    same, _ = lgnn.reorder(params, {}, streams, neuron_axis=0)
    jax.tree.map(np.testing.assert_array_equal, same, params)


def _params(**shapes):
    return {name: {"kernel": np.zeros(shape, np.float32)} for name, shape in shapes.items()}


CONVS = _params(conv1=(3, 3, 3, 8), conv2=(3, 3, 8, 4), head=(4, 5))
CHAIN = lgnn.layer_chain("conv1", "conv2", "head")
UP = np.arange(8)


@pytest.mark.parametrize(
    ("params", "places", "streams", "options", "match"),
    [
        (CONVS, {"conv1": UP[:7]}, CHAIN, {}, r"places of conv1 must be .* 0 to 7 once, got int64"),
        (CONVS, {"conv1": [0] * 8}, CHAIN, {}, "places of conv1 must be whole numbers, each"),
        (CONVS, {"conv1": UP + 0.0}, CHAIN, {}, "0 to 7 once, got float64"),
        (CONVS, {"conv1": 3}, CHAIN, {}, "places of conv1 must be whole numbers"),
        (CONVS, {"conv1": UP.reshape(2, 4)}, CHAIN, {}, r"of shape \(2, 4\)"),
        (CONVS, [UP], CHAIN, {}, "places must be orders by layer, got list"),
        (CONVS, {"conf1": UP}, CHAIN, {}, "no layer 'conf1' with a kernel; did you mean 'conv1'"),
        (CONVS, {3: UP}, CHAIN, {}, "no layer 3 with a kernel"),
        (CONVS, {"head": np.arange(5)}, CHAIN, {}, "no layer reads head.* the logits, keep their"),
        (CONVS, {"conv1": UP}, CHAIN[1:], {}, "no layer reads conv1, by the streams"),
        (CONVS, {"conv1": UP}, CHAIN + CHAIN, {}, "conv1 writes to 2 of the streams"),
        (
            CONVS,
            {"conv1": UP},
            CHAIN[0],
            {},
            r"streams must be a list of Stream.* got \('conv1',\)",
        ),
        (CONVS, {"conv1": UP}, [Stream("conv1")], {}, "each with tuples of names"),
        (CONVS, {"conv1": UP}, CHAIN, {"neuron_axis": 3}, "neuron_axis must be -1 or 0, got 3"),
        (
            CONVS,
            {"conv1": UP},
            [Stream(("conv1",), (), ("conf2",))],
            {},
            "no layer 'conf2' with a kernel; did you mean 'conv2'",
        ),
        (
            CONVS,
            {"conv1": UP},
            [Stream(("conv1",), ("bn1",), ("conv2",))],
            {},
            "bn1, which the streams name as a normalisation of conv1, has no parameters",
        ),
        (
            CONVS | {"bn": {"scale": np.zeros(3)}},
            {"conv1": UP},
            [Stream(("conv1",), ("bn",), ("conv2",))],
            {},
            r"bn/scale with shape \(3,\) must have the 8 channels of conv1 on axis -1",
        ),
        (
            CONVS | {"bn": {"scale": np.zeros(8)}},
            {"conv1": UP},
            [Stream(("conv1",), ("bn",), ("conv2",))],
            {"state": {"000": np.zeros(8)}},
            "the statistics of bn cannot be identified: the state has numbers for names",
        ),
        (
            CONVS | _params(skip=(1, 1, 3, 8)),
            {"conv1": UP, "skip": UP[::-1]},
            [Stream(("conv1", "skip"), (), ("conv2",))],
            {},
            "conv1 and skip write to one stream of channels: their places must be the same",
        ),
        (
            CONVS | _params(skip=(1, 1, 3, 6)),
            {"conv1": UP},
            [Stream(("conv1", "skip"), (), ("conv2",))],
            {},
            r"skip/kernel with shape \(1, 1, 3, 6\) must have the 8 channels",
        ),
        (
            CONVS,
            {"conv1": UP},
            [Stream(("conv1",), (), ("conv2",)), Stream(("other",), (), ("conv2",))],
            {},
            "conv2 reads several of the streams",
        ),
        (
            _params(conv1=(3, 3, 3, 8), conv2=(3, 3, 2, 8), head=(8, 5)),
            {"conv1": UP},
            CHAIN,
            {},
            r"conv2 with a kernel \(3, 3, 2, 8\) reads 2 channels where 8 .* a grouped convolution",
        ),
        (  # as a writer alone: its outputs are tied to groups of inputs, which stay
            _params(conv1=(3, 3, 3, 8), conv2=(3, 3, 1, 8), head=(8, 5)),
            {"conv2": UP},
            CHAIN,
            {},
            "conv2 .* reads 1 channels where 8 are written: a grouped convolution",
        ),
        (
            _params(conv1=(3, 3, 3, 8), conv2=(3, 3, 8, 4), head=(9, 5)),
            {"conv2": [1, 0, 3, 2]},
            CHAIN,
            {},
            "head with a kernel .* reads 9 channels where 4 are written",
        ),
        (
            {"mha": _params(value=(6, 2, 4), out=(2, 4, 6))} | _params(head=(6, 5)),
            {"mha/value": np.arange(4)},
            lgnn.layer_chain("mha/value", "mha/out", "head"),
            {},
            r"mha/value, with a kernel \(6, 2, 4\), cannot be reordered: dense layers and conv",
        ),
        (
            {"w1": np.zeros((3, 8)), "b1": np.zeros(8), "w2": np.zeros((8, 5))},
            {"w1": UP},
            lgnn.layer_chain("w1", "w2"),
            {},
            "w1 cannot be reordered: its module has other kernels",
        ),
    ],
)
def test_what_cannot_be_reordered_is_said_in_one_line(params, places, streams, options, match):
    with pytest.raises(ValueError, match=match) as error:
        lgnn.reorder(params, places, streams, **options)
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("layers", "norms", "match"),
    [
        (("a",), {}, "must be the names of two or more, each once, got"),
        (("a", "b", "a"), {}, "each once, got"),
        (("a", "b"), {"c": "bn"}, "norms names 'c', which is none of a, b"),
    ],
)
def test_no_chain(layers, norms, match):
    with pytest.raises(ValueError, match=match):
        lgnn.layer_chain(*layers, norms=norms)


def test_frameworks_without_streams_are_asked_for_them():
    network = NnxNetwork(FlatNnx)
    params, state = network.init(jax.random.key(0), (8, 8, 3))
    with pytest.raises(ValueError, match=r"no layer reads c.*layer_chain makes those of a plain"):
        lgnn.reorder(params, {"c": jnp.arange(6)}, network.streams((8, 8, 3)), state)


def test_a_normalisation_that_streams_do_not_name_is_noticed():
    ones = jnp.ones(4)
    params = {
        "conv": {"kernel": jnp.zeros((3, 3, 3, 4)), "bias": ones},
        "bn": {"scale": ones, "bias": ones},
        "head": {"kernel": jnp.zeros((4, 5))},
    }
    places = {"conv": [3, 2, 1, 0]}
    with pytest.warns(UserWarning, match=r"^bn/\w+ has one number for .* conv, .*'conv': 'bn'"):
        lgnn.reorder(params, places, lgnn.layer_chain("conv", "head"))
    lgnn.reorder(params, places, lgnn.layer_chain("conv", "head", norms={"conv": "bn"}))
