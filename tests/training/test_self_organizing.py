"""Runs whose neurons settle and are pulled together while they train."""

import dataclasses
import itertools
import signal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import runs

import lgnn_jax as lgnn
from lgnn_jax.analysis.topography import neighbour_correlation
from lgnn_jax.experiments.sweep import measure
from lgnn_jax.models.linen import LinenNetwork
from lgnn_jax.models.network import at_path
from lgnn_jax.training import data, trained
from lgnn_jax.training.config import Model, Pulling, Settling
from lgnn_jax.training.optimizer import build_optimizer
from lgnn_jax.training.session import Session, plan
from lgnn_jax.training.signals import Stopped
from lgnn_jax.training.steps import AXIS, init_state, make_train_step, parallelize


@pytest.fixture
def config(tiny_config):
    return dataclasses.replace(
        tiny_config,
        variant="self_organizing",
        data=dataclasses.replace(tiny_config.data, pad=0, flip=False),
        settling=Settling(every=0.5, sweeps=5, filter=True),
        pull=Pulling(weight=3.0, width=1.5),
    )


def steps_of(config, dataset, devices, count, **options):
    session = Session(config, dataset, devices, **options)
    state = session.place(session.initial_state)
    rows = np.concatenate([session.epoch_order(epoch) for epoch in range(config.epochs)])
    for indices in rows[:count]:
        state, metrics = session.train_steps(state, indices[None], 0)
        jax.block_until_ready(metrics)
    return jax.device_get(state)


@pytest.mark.parametrize(("network", "devices"), [("vgg11", 4), ("wrn10_1", 1)])
def test_the_gradient_is_that_of_cross_entropy_and_pull(config, tiny_dataset, network, devices):
    """On four devices and on one, of the whole batch; the activations are taken by another way."""
    width = {"vgg11": 1 / 16, "wrn10_1": 1 / 4}[network]
    config = dataclasses.replace(config, model=Model(network, width=width, dropout=0.0))
    session = Session(config, tiny_dataset, jax.devices()[:devices])
    table = {f"^{path}$": m for path, m in session.plan.mapped.values()}
    settled = lgnn.transform(table, settle=lgnn.Settling(every=9))
    tx = optax.GradientTransformation(  # gradients as the optimiser's state, beside the places
        lambda params: {"found": params, "settled": settled.init(params)},
        lambda updates, state, params: (
            jax.tree.map(jnp.zeros_like, params),
            state | {"found": updates},
        ),
    )
    mean, deviation = np.full(3, 100.0, np.float32), np.full(3, 60.0, np.float32)
    step = make_train_step(
        session.plan.network, tx, config, image_shape=(32, 32, 3), steps_per_epoch=6, mean=mean,
        deviation=deviation, layers=session.plan.mapped, axis_name=AXIS,
    )  # fmt: skip
    mapped = parallelize(step, session.devices, whole=4, shares=1)
    state = init_state(session.plan.network, tx, (32, 32, 3), 0)
    images, labels = tiny_dataset.train_images[:16], tiny_dataset.train_labels[:16]
    indices = np.arange(16).reshape(devices, -1)
    found = mapped(state, images.reshape(16, -1), labels, np.int32(0), indices)[0].opt_state[
        "found"
    ]

    @jax.jit
    @jax.grad
    def expected(params):
        x = data.standardize(images, mean, deviation)
        module = session.plan.network.module.clone(axis_name=None)
        (logits, named), _ = module.apply(
            {"params": params, "batch_stats": state.batch_stats}, x, train=True,
            activations=True, mutable=["batch_stats"],
        )  # fmt: skip
        pulls = [
            m.count * lgnn.pull(named[layer].pre, np.arange(m.count), m.map, 1.5)
            for layer, (_, m) in session.plan.mapped.items()
        ]
        neurons = sum(m.count for _, m in session.plan.mapped.values())
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
        return loss + 3.0 * sum(pulls) / neurons

    def close(a, b):
        np.testing.assert_allclose(a, b, atol=1e-4 * np.abs(b).max() + 1e-6)

    jax.tree.map(close, found, expected(state.params))


class Small(nn.Module):
    @nn.compact
    def __call__(self, x, train=False):
        for i in range(2):
            x = nn.Conv(16, (3, 3), strides=4, name=f"conv{i}")(x)
            x = nn.relu(nn.BatchNorm(use_running_average=not train, name=f"bn{i}")(x))
        return nn.Dense(5, name="head")(x.mean((1, 2)))


def test_settling_alone_changes_nothing_of_the_network(config, tiny_dataset):
    """To the bit: parameters, batch statistics and momentum.

    Operation by operation: in one program XLA may fuse and round the rest another way, by what else
    is in it.
    """
    alone = dataclasses.replace(config, pull=Pulling(weight=0.0))
    alone = dataclasses.replace(alone, settling=Settling(every=1 / 6, sweeps=1))
    baseline = dataclasses.replace(config, variant="baseline")
    images = tiny_dataset.train_images.reshape(100, -1)
    found = []
    for c in (alone, baseline):
        network = LinenNetwork(Small())
        planned = plan(c, tiny_dataset.info, network)
        tx = build_optimizer(c, planned.shapes, 6)
        step = make_train_step(
            network, tx, c, image_shape=(32, 32, 3), steps_per_epoch=6,
            mean=np.full(3, 100.0, np.float32), deviation=np.full(3, 60.0, np.float32),
            layers=planned.mapped,
        )  # fmt: skip
        state = init_state(network, tx, (32, 32, 3), 0)
        with jax.disable_jit():
            for i in range(3):
                rows = np.arange(16) + 16 * i
                state, _ = step(state, images, tiny_dataset.train_labels, 0, rows)
        found.append(jax.device_get(state))
    found, plain = found
    runs.assert_same((found.params, found.batch_stats), (plain.params, plain.batch_stats))
    runs.assert_same(found.opt_state[1:], plain.opt_state)
    moved = [
        not np.array_equal(x, np.arange(len(x))) for x in lgnn.places(found.opt_state).values()
    ]
    assert any(moved)


@pytest.mark.usefixtures("one_device")
def test_a_run_is_resumed_to_the_same_bits_with_its_places(
    config, tiny_dataset, tmp_path, signal_at
):
    _, straight = runs.train(config, tiny_dataset, tmp_path / "straight")
    disarm = signal_at(signal.SIGTERM, 8)  # between two settlings
    with pytest.raises(Stopped):
        runs.train(config, tiny_dataset, tmp_path / "cut")
    disarm()
    _, resumed = runs.train(config, tiny_dataset, tmp_path / "cut", resume=True)
    runs.assert_same(resumed, straight)
    assert set(lgnn.places(resumed.opt_state)) == {
        path for path, _ in Session(config, tiny_dataset).plan.mapped.values()
    }


@pytest.mark.usefixtures("one_device")
def test_a_run_is_read_in_the_order_of_its_map(config, tiny_dataset, tmp_path):
    _, state = runs.train(config, tiny_dataset, tmp_path / "run")
    found, places = trained.read(tmp_path / "run", tiny_dataset), lgnn.places(state.opt_state)
    assert set(found.places) == set(places)
    plain = found._replace(places={})
    images = tiny_dataset.test_images
    values = found.activations(images, ["conv4_1"])["conv4_1"]
    order = places["conv4_1/kernel"]
    assert not np.array_equal(order, np.arange(32))
    as_numbered = plain.activations(images, ["conv4_1"])["conv4_1"]
    np.testing.assert_array_equal(values, as_numbered[:, order])
    np.testing.assert_array_equal(
        found.kernel("conv4_1"), np.asarray(state.params["conv4_1"]["kernel"])[..., order]
    )
    x = images / np.float32(255)
    np.testing.assert_array_equal(found.apply(x)["conv4_1"], plain.apply(x)["conv4_1"][..., order])
    near = measure(found.plan, found.params, found.places)["maps"]["conv4_1"]["neighbours"]
    expected = neighbour_correlation(found.kernel("conv4_1"), (8, 4)).value
    assert near == pytest.approx(expected)


def test_many_steps_a_call_equal_one_by_one(config, tiny_dataset):
    slow = dataclasses.replace(config.optimizer, learning_rate=1e-3)
    config = dataclasses.replace(config, optimizer=slow)
    one = steps_of(config, tiny_dataset, jax.devices()[:1], 3)
    session = Session(config, tiny_dataset, jax.devices()[:1], steps_per_call=3)
    many, _ = session.train_steps(
        session.place(session.initial_state), session.epoch_order(0)[:3], 0
    )
    many = jax.device_get(many)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5),
        many.params, one.params,
    )  # fmt: skip
    jax.tree.map(np.testing.assert_array_equal, *map(lgnn.places, (many.opt_state, one.opt_state)))


def test_neurons_settle_in_every_epoch_and_no_longer_than_they_are_to(config, tiny_dataset):
    """Runs of any number of epochs share programs, but not where settling has an end."""
    for until, moving in ((1.0, {1, 2, 3, 4}), (0.5, {1, 2})):
        settling = Settling(every=1.0, until=until)
        c = dataclasses.replace(config, epochs=4, settling=settling)
        session = Session(c, tiny_dataset, jax.devices()[:1])
        state, seen = session.place(session.initial_state), []
        for epoch in range(4):
            for indices in session.epoch_order(epoch):
                state, _ = session.train_steps(state, indices[None], epoch)
            seen.append(np.concatenate(list(lgnn.places(jax.device_get(state).opt_state).values())))
        start = np.concatenate(
            [np.arange(m.count) for _, m in dict(sorted(session.plan.mapped.values())).items()]
        )
        moved = [not np.array_equal(a, b) for a, b in itertools.pairwise([start, *seen])]
        assert {epoch for epoch, is_moved in enumerate(moved, start=1) if is_moved} == moving


def test_the_pull_makes_neighbours_answer_alike(config, tiny_dataset):
    """Over all pairs of neighbours of the network."""
    strong = dataclasses.replace(config, epochs=8, settling=Settling(every=1.0))
    without = dataclasses.replace(strong, pull=Pulling(weight=0.0))
    orders = []
    for c in (strong, without):
        session = Session(c, tiny_dataset, jax.devices()[:1])
        state = steps_of(c, tiny_dataset, jax.devices()[:1], 48)
        x = data.standardize(tiny_dataset.test_images, *data.statistics(tiny_dataset.train_images))
        acts = lgnn.activations(session.plan.network, x, state.params, state.batch_stats)
        at = lgnn.places(state.opt_state)
        found = []
        for layer, (path, m) in session.plan.mapped.items():
            assert at_path(state.params, path).shape[-1] == m.count
            correlations = np.corrcoef(acts[layer][:, at[path]].T)
            found.append(correlations[m.map.distances() == 1])
        orders.append(np.concatenate(found).mean())
    assert orders[0] > orders[1] + 0.1
