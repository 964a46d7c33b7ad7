"""Activations of networks of every framework, against what numpy computes by hand."""

import dataclasses
from functools import partial

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import lgnn_jax as lgnn
from lgnn_jax.models.equinox import EquinoxNetwork
from lgnn_jax.models.linen import LinenNetwork
from lgnn_jax.models.network import Output
from lgnn_jax.models.nnx import NnxNetwork

IMAGES = np.random.default_rng(0).normal(size=(7, 16, 16, 3)).astype(np.float32)
SHAPE = IMAGES.shape[1:]


class Encoder(nn.Module):
    """A transformer of one block, on patches of 4x4 pixels."""

    bias: bool = True

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(12, (4, 4), strides=4, padding="VALID", name="patch")(x)
        x = x.reshape(len(x), -1, 12)
        attention = nn.MultiHeadDotProductAttention(
            2, qkv_features=8, use_bias=self.bias, name="attention"
        )
        x = x + attention(nn.LayerNorm(name="norm")(x))
        x = x + nn.Dense(12, name="down")(nn.relu(nn.Dense(20, name="up")(x)))
        return nn.Dense(5, name="head")(x.mean(1))


class NnxEncoder(nnx.Module):
    """The same."""

    def __init__(self, rngs):
        self.patch = nnx.Conv(3, 12, (4, 4), strides=4, padding="VALID", rngs=rngs)
        self.norm = nnx.LayerNorm(12, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(2, 12, 8, decode=False, rngs=rngs)
        self.up = nnx.Linear(12, 20, rngs=rngs)
        self.down = nnx.Linear(20, 12, rngs=rngs)
        self.head = nnx.Linear(12, 5, rngs=rngs)

    def __call__(self, x):
        x = self.patch(x)
        x = x.reshape(len(x), -1, 12)
        x = x + self.attention(self.norm(x))
        x = x + self.down(nnx.relu(self.up(x)))
        return self.head(x.mean(1))


class EqxNet(eqx.Module):
    """A convolution, layers on each of its pixels, and a head on one image."""

    patch: eqx.nn.Conv2d
    mlp: eqx.nn.MLP
    head: eqx.nn.Linear

    def __init__(self, key):
        keys = jax.random.split(key, 3)
        self.patch = eqx.nn.Conv2d(3, 12, 4, 4, key=keys[0])
        self.mlp = eqx.nn.MLP(12, 12, 20, 1, key=keys[1])
        self.head = eqx.nn.Linear(12, 5, key=keys[2])

    def __call__(self, image):
        pixels = self.patch(image).reshape(12, -1).T
        return self.head(jax.vmap(self.mlp)(pixels).mean(0))


def patches(images):
    """The 4x4 pixels of each of the 16 patches, `(n, 16, 4, 4, 3)`."""
    images = images.astype(np.float64).reshape(len(images), 4, 4, 4, 4, 3)
    return images.swapaxes(2, 3).reshape(len(images), 16, 4, 4, 3)


def encoder(params, images):
    """What each layer of `Encoder` returns, `(n, tokens, ...)`."""
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)

    def dense(name, x, axes=1):
        layer = params
        for part in name.split("/"):
            layer = layer[part]
        return np.tensordot(x, layer["kernel"], axes) + layer.get("bias", 0)

    found = {"patch": dense("patch", patches(images), 3)}
    x = found["patch"]
    normal = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
    normal = normal * params["norm"]["scale"] + params["norm"]["bias"]
    q, k, v = (dense(f"attention/{name}", normal) for name in ("query", "key", "value"))
    weights = np.exp(np.einsum("nqhs,nkhs->nhqk", q, k) / np.sqrt(q.shape[-1]))
    weights /= weights.sum(-1, keepdims=True)
    mixed = np.einsum("nhqk,nkhs->nqhs", weights, v)
    found |= {"attention/query": q, "attention/key": k, "attention/value": v}
    found["attention/out"] = dense("attention/out", mixed, 2)
    x = x + found["attention/out"]
    found["up"] = dense("up", x)
    found["down"] = dense("down", np.maximum(found["up"], 0))
    found["head"] = dense("head", (x + found["down"]).mean(1))
    return found


ENCODERS = {
    "linen": LinenNetwork(Encoder()),
    "linen, no bias": LinenNetwork(Encoder(bias=False)),
    "nnx": NnxNetwork(NnxEncoder),
}


@pytest.mark.parametrize("name", ENCODERS)
@pytest.mark.parametrize("reduce", ["mean", "max"])
def test_a_transformer_by_hand(name, reduce):
    network = ENCODERS[name]
    params, state = network.init(jax.random.key(1), SHAPE)
    found = lgnn.activations(network, IMAGES, params, state, reduce=getattr(jnp, reduce))
    expected = encoder(params, IMAGES)
    assert list(found) == list(network.layers(SHAPE))
    assert set(found) == set(expected)
    for layer, values in expected.items():
        if layer != "head":
            values = getattr(values, reduce)(1)
        values = values.reshape(len(IMAGES), -1)  # heads, then what is in them
        assert found[layer].dtype == np.float32
        np.testing.assert_allclose(found[layer], values, atol=1e-5, err_msg=layer)


def test_equinox_by_hand():
    network = EquinoxNetwork(EqxNet)
    params, state = network.init(jax.random.key(1), SHAPE)
    found = lgnn.activations(network, IMAGES, params, state)
    weights = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    patch = np.einsum("npijc,ocij->npo", patches(IMAGES), weights["patch"]["weight"])
    patch += weights["patch"]["bias"].ravel()
    first, last = (weights["mlp"]["layers"][i] for i in "01")
    up = patch @ first["weight"].T + first["bias"]
    down = np.maximum(up, 0) @ last["weight"].T + last["bias"]
    head = down.mean(1) @ weights["head"]["weight"].T + weights["head"]["bias"]
    expected = {
        "patch": patch.mean(1),
        "mlp/layers/0": up.mean(1),
        "mlp/layers/1": down.mean(1),
        "head": head,
    }
    assert list(found) == list(expected)
    for layer, values in expected.items():
        np.testing.assert_allclose(found[layer], values, atol=1e-5, err_msg=layer)


def test_a_table_says_what_a_neuron_is():
    network = ENCODERS["linen"]
    params, _ = network.init(jax.random.key(1), SHAPE)
    table = {
        **lgnn.som_table(params),
        "query": lgnn.LayerMap(lgnn.line(2), 1),  # heads
        "key": lgnn.LayerMap(lgnn.grid(4, 2), (2, 1)),  # all, the head fastest
        "value": None,
    }
    found = lgnn.activations(network, IMAGES, params, table=table)
    by_hand = encoder(params, IMAGES)
    query, key, value = (by_hand[f"attention/{x}"] for x in ("query", "key", "value"))
    np.testing.assert_allclose(found["attention/query"], query.mean((1, 3)), atol=1e-5)
    key = key.mean(1).swapaxes(1, 2).reshape(7, 8)
    np.testing.assert_allclose(found["attention/key"], key, atol=1e-5)
    np.testing.assert_allclose(found["attention/value"], value.mean(1).reshape(7, 8), atol=1e-5)
    table["attention/out"] = lgnn.LayerMap(lgnn.line(2), 0)  # heads, which it reads
    assert "attention/out" not in lgnn.activations(network, IMAGES, params, table=table)
    with pytest.raises(ValueError, match=r"output of attention/out, of shape \(7, 16, 12\) for 7"):
        lgnn.activations(network, IMAGES, params, table=table, layers=["attention/out"])


def test_batches_are_read_one_by_one_by_one_program():
    network = ENCODERS["linen"]
    params, _ = network.init(jax.random.key(1), SHAPE)
    whole = lgnn.activations(network, IMAGES, params)
    traced = []

    def mean(x, axis):
        traced.append(len(x))
        return x.mean(axis)

    def batches():
        for start, end in ((0, 1), (1, 1), (1, 6), (6, 7)):
            held.append(start)
            yield jnp.asarray(IMAGES[start:end])

    for images in (IMAGES, batches(), list(IMAGES[:, None])):
        held = []
        traced.clear()
        found = lgnn.activations(
            network, images, params, layers=["up", "patch"], batch_size=3, reduce=mean
        )
        assert list(found) == ["up", "patch"]
        assert traced in ([3, 3], [])  # one program with two layers, or the one that there is
        for layer, values in found.items():
            np.testing.assert_allclose(values, whole[layer], atol=1e-5)


def test_integers_are_numbers_as_they_are():
    network = ENCODERS["linen"]
    params, _ = network.init(jax.random.key(1), SHAPE)
    images = np.random.default_rng(1).integers(0, 256, IMAGES.shape).astype(np.uint8)
    ours = lgnn.activations(network, images, params, layers=["patch"])["patch"]
    expected = encoder(params, images)["patch"].mean(1)
    np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-3)


class TwiceLinen(nn.Module):
    @nn.compact
    def __call__(self, x):
        layer = nn.Dense(3, name="layer")
        return layer(layer(x.mean((1, 2))))


class TwiceNnx(nnx.Module):
    def __init__(self, rngs):
        self.layer = nnx.Linear(3, 3, rngs=rngs)

    def __call__(self, x):
        return self.layer(self.layer(x.mean((1, 2))))


class TwiceEqx(eqx.Module):
    layer: eqx.nn.Linear

    def __init__(self, key):
        self.layer = eqx.nn.Linear(3, 3, key=key)

    def __call__(self, image):
        return self.layer(self.layer(image.mean((1, 2))))


@pytest.mark.parametrize(
    "network", [LinenNetwork(TwiceLinen()), NnxNetwork(TwiceNnx), EquinoxNetwork(TwiceEqx)]
)
def test_of_several_calls_the_last_one_counts(network):
    params, state = network.init(jax.random.key(1), SHAPE)
    found = lgnn.activations(network, IMAGES, params, state)
    logits = network.apply(params, state, IMAGES).logits
    np.testing.assert_allclose(found["layer"], logits, atol=1e-6)


class HiddenNnx(nnx.Module):
    def __init__(self, rngs):
        self.inner = nnx.Linear(3, 4, rngs=rngs)
        self.head = nnx.Linear(4, 5, rngs=rngs)

    def __call__(self, x):
        inner = nnx.jit(lambda layer, x: layer(x))(self.inner, x.mean((1, 2)))
        return self.head(inner)


class HiddenEqx(eqx.Module):
    inner: eqx.nn.Linear
    cell: eqx.nn.GRUCell
    head: eqx.nn.Linear

    def __init__(self, key):
        self.inner = eqx.nn.Linear(3, 4, key=key)
        self.cell = eqx.nn.GRUCell(4, 4, key=key)
        self.head = eqx.nn.Linear(4, 5, key=key)

    def __call__(self, image):
        inner = jax.checkpoint(lambda x: self.inner(x))(image.mean((1, 2)))
        return self.head(self.cell(inner, jnp.zeros(4)))


@pytest.mark.parametrize("network", [NnxNetwork(HiddenNnx), EquinoxNetwork(HiddenEqx)])
def test_layers_out_of_sight_are_left_out(network):
    params, state = network.init(jax.random.key(1), SHAPE)
    assert list(lgnn.activations(network, IMAGES, params, state)) == ["head"]
    with pytest.raises(
        ValueError, match="the network gives no activations of inner: its module has"
    ):
        lgnn.activations(network, IMAGES, params, state, layers=["inner"])

    # Nor is a gradient in the way of the others.
    def head(x):
        return network.apply(params, state, x, activations=True).activations["head"].sum()

    def logits(x):
        return network.apply(params, state, x).logits.sum()

    np.testing.assert_allclose(jax.grad(head)(IMAGES), jax.grad(logits)(IMAGES), atol=1e-6)


class Kinds(eqx.Module):
    """Layers that ask what the others are."""

    layers: eqx.nn.Sequential

    def __init__(self, key):
        linear = eqx.nn.Linear(3, 4, key=key)
        self.layers = eqx.nn.Sequential(
            [linear, eqx.nn.Lambda(jax.nn.relu), eqx.nn.Linear(4, 5, key=key)]
        )

    def __call__(self, image):
        assert isinstance(self.layers[0], eqx.nn.Linear)
        assert self.layers[0].out_features == 4
        return self.layers(image.mean((1, 2)))


def test_layers_stay_what_they_are():
    network = EquinoxNetwork(Kinds)
    params, state = network.init(jax.random.key(1), SHAPE)
    out = network.apply(params, state, IMAGES, activations=True)
    assert out.activations["layers/layers/0"].shape == (7, 4)
    np.testing.assert_array_equal(out.activations["layers/layers/2"], out.logits)
    kinds = set()

    class Asking(NnxEncoder):
        def __call__(self, x):
            kinds.add((isinstance(self.up, nnx.Linear), self.up.out_features))
            return super().__call__(x)

    network = NnxNetwork(Asking)
    params, state = network.init(jax.random.key(1), SHAPE)
    plain = network.apply(params, state, IMAGES).logits
    np.testing.assert_array_equal(
        network.apply(params, state, IMAGES, activations=True).logits, plain
    )
    assert kinds == {(True, 20)}
    assert type(NnxEncoder(nnx.Rngs(0)).up) is nnx.Linear


def test_a_function_of_ones_own():
    def own(module, x):
        return {"mine": 2 * module.patch(x)}

    network = NnxNetwork(NnxEncoder, activations=own)
    params, state = network.init(jax.random.key(1), SHAPE)
    found = lgnn.activations(network, IMAGES, params, state)
    assert list(found) == ["mine"]
    expected = 2 * encoder(params, IMAGES)["patch"].mean(1)
    np.testing.assert_allclose(found["mine"], expected, atol=1e-5)


def test_modules_that_are_trained_already():
    """What `init` gives is theirs, and they stay as they are."""
    module = NnxEncoder(nnx.Rngs(5))
    expected = module(IMAGES)
    network = NnxNetwork(lambda rngs: nnx.clone(module))
    found = lgnn.activations(network, IMAGES, *network.init(jax.random.key(1), SHAPE))
    np.testing.assert_allclose(found["head"], expected, atol=1e-5)
    np.testing.assert_array_equal(module(IMAGES), expected)
    module = EqxNet(jax.random.key(5))
    network = EquinoxNetwork(lambda key: module)
    found = lgnn.activations(network, IMAGES, *network.init(jax.random.key(1), SHAPE))
    expected = jax.vmap(module)(IMAGES.transpose(0, 3, 1, 2))
    np.testing.assert_allclose(found["head"], expected, atol=1e-5)


class Normed(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.BatchNorm(use_running_average=True, name="norm")(nn.Conv(4, (3, 3), name="conv")(x))
        return nn.Dense(5, name="head")(x.mean((1, 2)))


@pytest.mark.parametrize("state", [None, {}])
def test_a_state_that_is_missing(state):
    network = LinenNetwork(Normed())
    params, _ = network.init(jax.random.key(1), SHAPE)
    with pytest.raises(ValueError, match="state must be given: this network has one"):
        lgnn.activations(network, IMAGES, params, state)


def test_activations_that_are_not_finite():
    network = ENCODERS["linen"]
    params, _ = network.init(jax.random.key(1), SHAPE)
    images = IMAGES.copy()
    images[4, 0, 0, 0] = np.nan
    match = "activations of patch are not finite: that of neuron 0 on image 4 is nan"
    with pytest.raises(ValueError, match=match):
        lgnn.activations(network, images, params, batch_size=2)


@dataclasses.dataclass(frozen=True)
class Silent(LinenNetwork):
    def apply(self, *args, activations=False, **options):
        return Output(super().apply(*args, **options).logits, {}, {})


def test_a_network_without_activations():
    network = Silent(Encoder())
    params, _ = network.init(jax.random.key(1), SHAPE)
    assert lgnn.activations(network, IMAGES, params) == {}
    with pytest.raises(ValueError, match="gives no activations of 'u', nor of any other layer"):
        lgnn.activations(network, IMAGES, params, layers=["u"])


@pytest.mark.parametrize(
    ("images", "options", "match"),
    [
        (IMAGES[:0], {}, "images are empty: give at least one"),
        (iter([]), {}, "images are empty: give at least one"),
        (IMAGES[0], {}, r"got shape \(16, 16, 3\): a single image goes in as image\[None\]"),
        (list(IMAGES), {}, r"images must be \(n, height, width, channels\), got shape \(16, 16, 3"),
        (IMAGES.tolist(), {}, "each batch of images must be an array .*, got list"),
        ([(IMAGES, np.zeros(7))], {}, "without labels, got tuple"),
        ({"image": IMAGES}, {}, "or an iterable of such batches, got dict"),
        ("images", {}, "or an iterable of such batches, got str"),
        (3, {}, "or an iterable of such batches, got int"),
        ([IMAGES, IMAGES[:, :8]], {}, r"of one shape, got \(16, 16, 3\) and \(8, 16, 3\)"),
        (IMAGES.astype(complex), {}, "must be floating-point or integers, got complex128"),
        (IMAGES, {"batch_size": 0}, "batch_size must be a whole number, at least 1, got 0"),
        (IMAGES, {"batch_size": 2.5}, "batch_size must be a whole number, at least 1, got 2.5"),
        (IMAGES, {"layers": "up"}, r"layers must be a sequence of names, got 'up'"),
        (IMAGES, {"layers": []}, "layers must name at least one layer; None means all of them"),
        (IMAGES, {"layers": ["ap"]}, "no layer 'ap'; did you mean 'up'. There are patch, att"),
        (IMAGES, {"layers": [3]}, "no layer 3. There are patch"),
        (IMAGES, {"reduce": "mean"}, "reduce must be a function such as jnp.mean, got 'mean'"),
        (
            IMAGES,
            {"reduce": lambda x, axis: x, "layers": ["up"]},
            r"reduce must return an array \(7, 20\) of one \(7, 16, 20\) along its axes \(1,\), "
            r"for up; got shape \(7, 16, 20\)",
        ),
        (IMAGES, {"reduce": lambda x, axis: None}, "got NoneType"),
        (IMAGES, {"table": {12: (4, 3), "query": (3, 3)}}, "hold 9 neurons, but 'attention/query"),
        (IMAGES, {"table": {}}, "covers neither the path nor the channel count of kernel 'patch"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(images, options, match):
    network = ENCODERS["linen"]
    params, _ = network.init(jax.random.key(1), SHAPE)
    with pytest.raises(ValueError, match=match) as error:
        lgnn.activations(network, images, params, **options)
    assert len(str(error.value).splitlines()) == 1


def test_statistics_and_keys_of_equinox():
    class WithState(eqx.Module):
        conv: eqx.nn.Conv2d
        norm: eqx.nn.BatchNorm
        drop: eqx.nn.Dropout
        head: eqx.nn.Linear

        def __init__(self, key):
            self.conv = eqx.nn.Conv2d(3, 8, 3, key=key)
            self.norm = eqx.nn.BatchNorm(8, "batch", mode="batch")
            self.drop = eqx.nn.Dropout(0.5)
            self.head = eqx.nn.Linear(8, 5, key=key)

        def __call__(self, image, state, *, key):
            x, state = self.norm(self.conv(image), state)
            return self.head(self.drop(x.mean((1, 2)), key=key)), state

    network = EquinoxNetwork(partial(eqx.nn.make_with_state(WithState)), keys=True)
    params, state = network.init(jax.random.key(1), SHAPE)
    found = lgnn.activations(network, IMAGES, params, state)
    logits = network.apply(params, state, IMAGES).logits
    assert found["conv"].shape == (7, 8)
    np.testing.assert_allclose(found["head"], logits, atol=1e-6)


def test_a_module_is_to_be_wrapped():
    images = np.zeros((2, 8, 8, 3), np.float32)
    with pytest.raises(ValueError, match=r"network must be a Network, got Dense: wrap a module"):
        lgnn.activations(nn.Dense(3), images, {})
