"""Networks of every framework, trained by the trainer, checkpointed, resumed and looked at."""

import dataclasses
from functools import partial

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from rich.console import Console

from lgnn_jax.models.build import build_network
from lgnn_jax.models.equinox import EquinoxNetwork
from lgnn_jax.models.linen import LinenNetwork
from lgnn_jax.models.network import Stream, at_path, kernels, neurons_last
from lgnn_jax.models.nnx import NnxNetwork
from lgnn_jax.training import data, trained
from lgnn_jax.training.config import Data, Optimizer
from lgnn_jax.training.errors import RunError
from lgnn_jax.training.log import Log
from lgnn_jax.training.run import run
from lgnn_jax.training.session import Session, tree_sha256


class Plain(nn.Module):
    """No statistics and no argument but images."""

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(8, (3, 3), strides=2, name="conv1")(x))
        x = nn.relu(nn.Conv(12, (3, 3), strides=2, name="conv2")(x))
        return nn.Dense(5, name="head")(x.mean((1, 2)))


class Normed(nn.Module):
    """Batch normalisation and dropout; `deterministic`, where others say `train`."""

    @nn.compact
    def __call__(self, x, deterministic=True):
        x = nn.Conv(8, (3, 3), strides=2, name="conv1")(x)
        x = nn.relu(nn.BatchNorm(use_running_average=deterministic, momentum=0.9, name="bn")(x))
        x = nn.Dropout(0.2, deterministic=deterministic)(x)
        return nn.Dense(5, name="head")(x.mean((1, 2)))


class Nnx(nnx.Module):
    def __init__(self, rngs):
        self.conv1 = nnx.Conv(3, 8, (3, 3), strides=2, rngs=rngs)
        self.bn = nnx.BatchNorm(8, momentum=0.9, rngs=rngs)
        self.dropout = nnx.Dropout(0.2, rngs=rngs)
        self.blocks = nnx.List([nnx.Conv(8, 12, (3, 3), strides=2, rngs=rngs)])
        self.head = nnx.Linear(12, 5, rngs=rngs)

    def features(self, x):
        x = nnx.relu(self.bn(self.conv1(x)))
        return self.blocks[0](self.dropout(x))

    def __call__(self, x):
        return self.head(nnx.relu(self.features(x)).mean((1, 2)))


class Eqx(eqx.Module):
    conv1: eqx.nn.Conv2d
    conv2: eqx.nn.Conv2d
    head: eqx.nn.Linear

    def __init__(self, key):
        keys = jax.random.split(key, 3)
        self.conv1 = eqx.nn.Conv2d(3, 8, 3, 2, key=keys[0])
        self.conv2 = eqx.nn.Conv2d(8, 12, 3, 2, key=keys[1])
        self.head = eqx.nn.Linear(12, 5, key=keys[2])

    def features(self, image):
        return self.conv2(jax.nn.relu(self.conv1(image)))

    def __call__(self, image):
        return self.head(jax.nn.relu(self.features(image)).mean((1, 2)))


class EqxNormed(eqx.Module):
    conv1: eqx.nn.Conv2d
    bn: eqx.nn.BatchNorm
    dropout: eqx.nn.Dropout
    head: eqx.nn.Linear

    def __init__(self, key):
        keys = jax.random.split(key, 2)
        self.conv1 = eqx.nn.Conv2d(3, 8, 3, 2, key=keys[0])
        self.bn = eqx.nn.BatchNorm(8, "batch", mode="batch")
        self.dropout = eqx.nn.Dropout(0.2)
        self.head = eqx.nn.Linear(8, 5, key=keys[1])

    def __call__(self, image, state, *, key):
        x, state = self.bn(self.conv1(image), state)
        return self.head(self.dropout(jax.nn.relu(x), key=key).mean((1, 2))), state


NETWORKS = {
    "linen": LinenNetwork(Plain()),
    "linen, statistics": LinenNetwork(Normed()),
    "nnx": NnxNetwork(Nnx, activations=lambda m, x: {"blocks/0": m.features(x)}),
    "equinox": EquinoxNetwork(Eqx),
    "equinox, statistics": EquinoxNetwork(partial(eqx.nn.make_with_state(EqxNormed)), keys=True),
}
LAST = {"linen": "conv2", "nnx": "blocks/0", "equinox": "conv2"}


@pytest.fixture
def config(tiny_config):
    return dataclasses.replace(
        tiny_config,
        epochs=2,
        data=Data("random", pad=2),
        optimizer=Optimizer(learning_rate=0.05, decay_epochs=(1,)),
    )


@pytest.mark.parametrize("name", NETWORKS)
def test_trained_by_the_trainer(config, tiny_dataset, tmp_path, name, monkeypatch):
    """It learns, a resumed run ends with the same bits, and the analysis can look at it."""
    monkeypatch.setattr(jax, "devices", lambda: jax.local_devices()[:2])
    network = NETWORKS[name]
    log = partial(Log, Console(quiet=True))
    with log() as whole:
        summary, _, state = run(config, tiny_dataset, tmp_path / "a", whole, network=network)
    losses = [r["loss"] for r in whole.records if r["split"] == "train"]
    assert losses[-1] < losses[0]
    short = dataclasses.replace(config, epochs=1)
    with log() as first:
        run(short, tiny_dataset, tmp_path / "b", first, network=network)
    with log() as second:
        _, _, again = run(
            config, tiny_dataset, tmp_path / "b", second, network=network, resume=True
        )
    assert tree_sha256(again) == tree_sha256(state)
    found = trained.read(tmp_path / "a", tiny_dataset, network)
    assert tree_sha256(found.params) == tree_sha256(jax.device_get(state.params))
    tested = found.evaluate(tiny_dataset.test_images, tiny_dataset.test_labels)
    assert tested.accuracy == pytest.approx(summary["test_accuracy"])
    assert found.kernel("conv1").shape[-1] == 8
    assert str(found.maps["conv1"]) == "4x2"
    if layer := LAST.get(name):
        values = found.activations(tiny_dataset.test_images, [layer])[layer]
        assert values.shape == (21, 12)
        assert values.std() > 0


@pytest.mark.parametrize("name", NETWORKS)
def test_the_state_changes_in_training_alone(name):
    network = NETWORKS[name]
    params, state = network.init(jax.random.key(3), (32, 32, 3))
    x = jax.random.normal(jax.random.key(4), (6, 32, 32, 3))
    out = network.apply(params, state, x)
    assert out.logits.shape == (6, 5)
    assert jax.tree.structure(out.state) == jax.tree.structure(state)
    for kept, before in zip(jax.tree.leaves(out.state), jax.tree.leaves(state), strict=True):
        np.testing.assert_array_equal(kept, before)
    again = network.apply(params, state, x, train=True, rng=jax.random.key(0))
    assert jax.tree.structure(again.state) == jax.tree.structure(state)
    if state:
        changed = jax.tree.map(lambda a, b: bool((a != b).any()), again.state, state)
        assert any(jax.tree.leaves(changed))


def test_random_numbers_are_those_of_the_key():
    for name in ("linen, statistics", "nnx", "equinox, statistics"):
        network = NETWORKS[name]
        params, state = network.init(jax.random.key(3), (32, 32, 3))
        x = jax.random.normal(jax.random.key(4), (6, 32, 32, 3))
        first, same, other = (
            network.apply(params, state, x, train=True, rng=jax.random.key(k)).logits
            for k in (0, 0, 1)
        )
        np.testing.assert_array_equal(first, same)
        assert (first != other).any()
        np.testing.assert_array_equal(*(network.apply(params, state, x).logits for _ in "ab"))


def test_equinox_computes_what_its_module_does():
    network = NETWORKS["equinox"]
    key = jax.random.key(7)
    params, state = network.init(key, (32, 32, 3))
    x = jax.random.normal(jax.random.key(4), (6, 32, 32, 3))
    module = Eqx(key)
    expected = jnp.stack([module(image.transpose(2, 0, 1)) for image in x])
    np.testing.assert_allclose(network.apply(params, state, x).logits, expected, atol=1e-6)
    gradient = jax.grad(lambda p: network.apply(p, state, x).logits.sum())(params)
    direct = eqx.filter_grad(lambda m: jax.vmap(m)(x.transpose(0, 3, 1, 2)).sum())(module)
    np.testing.assert_allclose(gradient["conv1"]["weight"], direct.conv1.weight, atol=1e-5)


def test_nnx_computes_what_its_module_does():
    network = NETWORKS["nnx"]
    key = jax.random.key(7)
    params, state = network.init(key, (32, 32, 3))
    x = jax.random.normal(jax.random.key(4), (6, 32, 32, 3))
    module = Nnx(nnx.Rngs(key))
    module.eval()
    np.testing.assert_allclose(network.apply(params, state, x).logits, module(x), atol=1e-6)
    module.train()
    module(x)
    updated = network.apply(params, state, x, train=True).state
    np.testing.assert_allclose(updated["bn"]["mean"], module.bn.mean[...], atol=1e-6)


def test_linen_computes_what_its_module_does():
    network, module = NETWORKS["linen, statistics"], Normed()
    params, state = network.init(jax.random.key(7), (32, 32, 3))
    x = jax.random.normal(jax.random.key(4), (6, 32, 32, 3))
    variables = {"params": params, "batch_stats": state}
    out = network.apply(params, state, x, train=True, rng=jax.random.key(1))
    expected, updated = module.apply(
        variables, x, False, rngs={"dropout": jax.random.key(1)}, mutable=["batch_stats"]
    )
    np.testing.assert_allclose(out.logits, expected, atol=1e-6)
    np.testing.assert_allclose(out.state["bn"]["var"], updated["batch_stats"]["bn"]["var"])
    named = NETWORKS["linen"].apply(
        NETWORKS["linen"].init(jax.random.key(7), (32, 32, 3))[0], {}, x, activations=True
    )
    assert {layer: values.shape for layer, values in named.activations.items()} == {
        "conv1": (6, 16, 16, 8),
        "conv2": (6, 8, 8, 12),
        "head": (6, 5),
    }


def test_networks_of_the_paper_know_their_streams():
    network = build_network("vgg11", num_classes=5, width=1 / 16)
    layers = network.layers((32, 32, 3))
    assert next(iter(layers)) == "conv1_1"
    assert layers["conv5_2"] == "conv5_2/kernel"
    assert network.streams((32, 32, 3))[0] == Stream(("conv1_1",), ("bn1_1",), ("conv2_1",))
    assert network is build_network("vgg11", num_classes=5, width=1 / 16)
    assert NETWORKS["linen"].streams((8, 8, 3)) == [
        Stream(("conv1",)),
        Stream(("conv2",)),
        Stream(("head",)),
    ]


def test_kernels_with_their_neurons_last():
    kernel = np.arange(2 * 3 * 4).reshape(2, 3, 4)
    np.testing.assert_array_equal(neurons_last(kernel, (0,)), kernel.transpose(1, 2, 0))
    heads = neurons_last(kernel, (2, 0))  # the last one fastest
    np.testing.assert_array_equal(heads[1], [kernel[j, 1, i] for i in range(4) for j in range(2)])
    assert at_path({"a": {"b": 3}}, "a/b") == 3


def test_variables_that_no_trainer_can_keep(tiny_config, tiny_dataset):
    class Cached(nn.Module):
        @nn.compact
        def __call__(self, x):
            self.variable("cache", "seen", jnp.zeros, 3)
            return nn.Dense(5)(x.mean((1, 2)))

    with pytest.raises(RunError, match="Cached has the variables cache: a network may have params"):
        Session(tiny_config, tiny_dataset, network=LinenNetwork(Cached()))


def test_statistics_are_averaged_over_devices(config, tiny_dataset):
    """Two devices keep the mean of what each would have kept of its half of a batch."""
    network = NETWORKS["linen, statistics"]
    config = dataclasses.replace(config, data=Data("random", pad=0, flip=False))
    session = Session(config, tiny_dataset, jax.devices()[:2], network=network)
    state = session.place(session.initial_state)
    rows = session.epoch_order(0)[:1]
    new, _ = session.train_steps(state, rows, 0)
    start = session.initial_state
    mean, deviation = data.statistics(tiny_dataset.train_images)
    halves = [
        network.apply(
            start.params,
            start.batch_stats,
            data.standardize(jnp.asarray(tiny_dataset.train_images[half]), mean, deviation),
            train=True,
            rng=jax.random.key(0),
        ).state["bn"]["mean"]
        for half in rows[0]
    ]
    np.testing.assert_allclose(new.batch_stats["bn"]["mean"], np.mean(halves, axis=0), atol=1e-5)
    assert (new.params["conv1"]["kernel"] != start.params["conv1"]["kernel"]).any()


class _OutOfOrder(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.Conv(4, (3, 3), name="stem")(x)
        for i in (1, 2, 10):
            x = nn.Conv(4, (3, 3), name=f"block_{i}")(x)
        return nn.Dense(5, name="a_head")(x.mean((1, 2)))


class _OutOfOrderNnx(nnx.Module):
    def __init__(self, rngs):
        self.stem = nnx.Conv(3, 4, (3, 3), rngs=rngs)
        self.blocks = nnx.List([nnx.Conv(4, 4, (3, 3), rngs=rngs) for _ in range(11)])
        self.a_head = nnx.Linear(4, 5, rngs=rngs)


class _OutOfOrderEqx(eqx.Module):
    stem: eqx.nn.Conv2d
    blocks: list
    a_head: eqx.nn.Linear

    def __init__(self, key):
        self.stem = eqx.nn.Conv2d(3, 4, 3, key=key)
        self.blocks = [eqx.nn.Conv2d(4, 4, 3, key=key) for _ in range(11)]
        self.a_head = eqx.nn.Linear(4, 5, key=key)


def test_layers_are_in_the_order_of_the_network_not_of_their_names():
    blocks = [f"blocks/{i}" for i in range(11)]
    linen = LinenNetwork(_OutOfOrder()).layers((8, 8, 3))
    assert list(linen) == ["stem", "block_1", "block_2", "block_10", "a_head"]
    for network in (NnxNetwork(_OutOfOrderNnx), EquinoxNetwork(_OutOfOrderEqx)):
        assert list(network.layers((8, 8, 3))) == ["stem", *blocks, "a_head"]


def test_layers_with_several_kernels_and_kernels_without_a_layer():
    found = kernels({"gru": {"weight_ih": np.zeros((4, 6)), "weight_hh": np.zeros((2, 6))}})
    assert found == {"gru/weight_hh": "gru/weight_hh", "gru/weight_ih": "gru/weight_ih"}
    assert kernels({"kernel": np.zeros((4, 6))}) == {"kernel": "kernel"}


class _Dropped(nnx.Module):
    """Logits that say what two streams of random numbers dropped."""

    def __init__(self, rngs):
        self.head = nnx.Linear(3, 5, rngs=rngs)
        self.first = nnx.Dropout(0.5, rngs=rngs.fork())
        self.second = nnx.Dropout(0.5, rngs=rngs.fork())

    def __call__(self, x):
        ones = jnp.ones((len(x), 500))
        both = jnp.stack([self.first(ones).mean(1), self.second(ones).mean(1)], 1)
        return jnp.pad(both, ((0, 0), (0, 3))) + 0 * self.head(x.mean((1, 2)))


def test_streams_of_random_numbers_differ():
    network = NnxNetwork(_Dropped)
    params, state = network.init(jax.random.key(0), (8, 8, 3))
    x = jnp.zeros((4, 8, 8, 3))
    logits = network.apply(params, state, x, train=True, rng=jax.random.key(1)).logits
    assert (logits[:, 0] != logits[:, 1]).all()
    network = NETWORKS["equinox, statistics"]
    params, state = network.init(jax.random.key(3), (32, 32, 3))
    same = jnp.broadcast_to(jax.random.normal(jax.random.key(4), (1, 32, 32, 3)), (6, 32, 32, 3))
    logits = network.apply(params, state, same, train=True, rng=jax.random.key(1)).logits
    assert len(np.unique(np.asarray(logits), axis=0)) == 6  # each image drops for itself


class _Counted(nnx.Module):
    def __init__(self, rngs):
        self.head = nnx.Linear(3, 5, rngs=rngs)
        self.seen = nnx.Variable(jnp.zeros(3))


def test_nnx_variables_that_no_trainer_can_keep(tiny_config, tiny_dataset):
    with pytest.raises(RunError, match=r"_Counted has seen, which is neither a nnx.Param nor"):
        Session(tiny_config, tiny_dataset, network=NnxNetwork(_Counted))


def test_a_module_that_cannot_be_hashed():
    with pytest.raises(ValueError, match="Sequential must be hashable: tuples instead of lists"):
        LinenNetwork(nn.Sequential([nn.Dense(3)]))
