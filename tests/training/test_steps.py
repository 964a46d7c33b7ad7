import dataclasses
import os
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import reference
from flax.traverse_util import flatten_dict

from lgnn_jax.models.build import build_network
from lgnn_jax.training import data, optimizer
from lgnn_jax.training.config import Data, Optimizer
from lgnn_jax.training.session import Session
from lgnn_jax.training.steps import AXIS, Metrics, init_state, make_train_step, parallelize

BLOCKS = [(4,), (8,), (16, 16), (32, 32), (32, 32)]


def _assert_close(actual, expected, rtol, atol):
    jax.tree.map(
        lambda a, e: np.testing.assert_allclose(a, e, rtol=rtol, atol=atol), actual, expected
    )


@pytest.mark.parametrize("variant", ["baseline", "constant", "decreasing"])
def test_two_steps_equal_a_float64_computation(tiny_config, tiny_dataset, variant):
    """Loss and parameters of a step: forward, backward, filter, decay, momentum, schedules."""
    config = dataclasses.replace(
        tiny_config,
        variant=variant,
        epochs=2,
        data=Data("random", pad=0, flip=False),
        optimizer=Optimizer(learning_rate=0.1, decay_epochs=(1,), weight_decay=0.01),
    )
    session = Session(config, tiny_dataset, devices=jax.devices()[:1])
    mean, deviation = data.statistics(tiny_dataset.train_images)
    tx = optimizer.build_optimizer(config, session.plan.shapes, steps_per_epoch=1)
    network = build_network("vgg11", num_classes=5, width=1 / 16)
    step = jax.jit(
        make_train_step(
            network,
            tx,
            config,
            image_shape=(32, 32, 3),
            steps_per_epoch=1,
            mean=mean,
            deviation=deviation,
        )
    )
    state = init_state(network, tx, (32, 32, 3), 0)
    images, labels = tiny_dataset.train_images, tiny_dataset.train_labels
    flat = images.reshape(len(images), -1)

    params, stats = jax.device_get((state.params, state.batch_stats))
    buffers = jax.tree.map(np.zeros_like, params)
    sigmas = {"baseline": (0, 0), "constant": (0.5, 0.5), "decreasing": (0.5, 0.25)}[variant]
    maps = {4: (2, 2), 8: (4, 2), 16: (4, 4), 32: (8, 4)}
    for epoch, sigma in enumerate(sigmas):
        indices = np.arange(16) + 16 * epoch
        state, metrics = step(state, flat, labels, 0, indices)

        x = (images[indices] - np.asarray(mean, np.float64)) / deviation
        loss, logits, gradients, stats = reference.vgg_loss_and_gradients(
            params, stats, x, labels[indices], BLOCKS
        )
        gradients = jax.tree.map(
            lambda g, sigma=sigma: (
                reference.low_pass(g, maps[g.shape[-1]], sigma) if g.ndim == 4 else g
            ),
            gradients,
        )
        params, buffers = reference.sgd_step(
            params, buffers, gradients, 0.1 * 0.2**epoch, momentum=0.9, weight_decay=0.01
        )
        assert float(metrics.loss) == pytest.approx(loss, rel=1e-4)
        assert float(metrics.accuracy) == (logits.argmax(-1) == labels[indices]).mean()
        _assert_close(state.params, params, rtol=1e-3, atol=2e-5)
        _assert_close(state.batch_stats, stats, rtol=1e-3, atol=2e-5)
    assert state.step == 2


def test_kernels_gradients_have_the_compute_type(tiny_config, tiny_dataset):
    """They are those by the float32 weights, which are cast in the layers: of the same digits.

    The mean over devices is taken in float32.
    """
    model = dataclasses.replace(tiny_config.model, dtype="bfloat16")
    config = dataclasses.replace(tiny_config, model=model, data=Data("random", pad=0, flip=False))
    session = Session(config, tiny_dataset, jax.devices()[:2])
    # Gradients as the optimiser's state; the weights stay.
    tx = optax.GradientTransformation(
        lambda params: params,
        lambda updates, state, params: (jax.tree.map(jnp.zeros_like, params), updates),
    )
    mean, deviation = np.full(3, 100.0, np.float32), np.full(3, 60.0, np.float32)
    step = make_train_step(
        session.plan.network,
        tx,
        config,
        image_shape=(32, 32, 3),
        steps_per_epoch=6,
        mean=mean,
        deviation=deviation,
        axis_name=AXIS,
    )
    mapped = parallelize(step, session.devices, whole=4, shares=1)
    state = init_state(session.plan.network, tx, (32, 32, 3), 0)
    images, labels = tiny_dataset.train_images[:16], tiny_dataset.train_labels[:16]
    arguments = state, images.reshape(16, -1), labels, np.int32(0), np.arange(16).reshape(2, 8)
    sums = re.findall(r"\S+ = psum\S*\[", str(jax.make_jaxpr(mapped)(*arguments)))
    assert sums
    assert not [text for text in sums if "bf16" in text]

    @jax.jit
    @jax.grad
    def expected(params):
        x = data.standardize(images, mean, deviation)
        variables = {"params": params, "batch_stats": state.batch_stats}
        network = session.plan.network.module.clone(axis_name=None)
        logits = network.apply(variables, x, train=True, mutable=["batch_stats"])[0]
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    found = flatten_dict(jax.device_get(mapped(*arguments)[0].opt_state), sep="/")
    for path, gradient in flatten_dict(jax.device_get(expected(state.params)), sep="/").items():
        is_kernel = path.endswith("kernel")
        assert found[path].dtype == (jnp.bfloat16 if is_kernel else jnp.float32), path
        if is_kernel:
            error = np.linalg.norm(found[path].astype(np.float32) - gradient)
            assert error < 0.05 * np.linalg.norm(gradient), path


@pytest.mark.parametrize("network", ["vgg11", "wrn10_1"])
def test_eight_devices_equal_one(tiny_config, tiny_dataset, network):
    """20 steps, augmentation on; batch statistics and gradients are those of the whole batch.

    The learning rate is small because training amplifies rounding: at 0.01, on one device, initial
    weights that differed by 1e-7 led to parameters 1e-2 apart in 20 steps.
    """
    width = {"vgg11": 1 / 16, "wrn10_1": 1 / 4}[network]
    model = dataclasses.replace(tiny_config.model, name=network, width=width, dropout=0.0)
    config = dataclasses.replace(
        tiny_config,
        model=model,
        epochs=4,
        optimizer=Optimizer(learning_rate=0.001, decay_epochs=()),
    )
    results = []
    for devices in (jax.devices()[:1], jax.devices()[:8]):
        session = Session(config, tiny_dataset, devices=devices)
        state = session.place(session.initial_state)
        rows = np.concatenate([session.epoch_order(epoch) for epoch in range(4)])[:20]
        for indices in rows:
            state, metrics = session.train_steps(state, indices[None], 0)
            jax.block_until_ready(metrics)
        tested = session.evaluate(state)
        results.append(jax.device_get((state.params, state.batch_stats, metrics, tested)))
    one, eight = results
    _assert_close(eight, one, rtol=1e-4, atol=1e-5)
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), one[0], session.initial_state.params)
    assert max(jax.tree.leaves(moved)) > 1e-3


def test_metrics_are_means_over_the_epoch_so_far(tiny_config, tiny_dataset):
    """Against the loss and hits of each batch, from the logits of the weights before its step."""
    config = dataclasses.replace(tiny_config, data=Data("random", pad=0, flip=False))
    session = Session(config, tiny_dataset, devices=jax.devices()[:2])
    model = session.plan.network.module.clone(axis_name=None)
    mean, deviation = data.statistics(tiny_dataset.train_images)
    state = session.place(session.initial_state)

    @jax.jit
    def logits_of(params, batch_stats, x):
        variables = {"params": params, "batch_stats": batch_stats}
        return model.apply(variables, x, train=True, mutable=["batch_stats"])[0]

    losses, hits = [], []
    for i, indices in enumerate([*session.epoch_order(0), *session.epoch_order(1)[:2]]):
        rows = indices.ravel()
        x = ((tiny_dataset.train_images[rows] - mean) / deviation).astype(np.float32)
        labels = tiny_dataset.train_labels[rows]
        params, stats = jax.device_get((state.params, state.batch_stats))
        logits = np.asarray(logits_of(params, stats, x), np.float64)
        losses.append(
            np.log(np.exp(logits).sum(axis=1)).mean() - logits[np.arange(16), labels].mean()
        )
        hits.append((logits.argmax(axis=1) == labels).mean())
        state, metrics = session.train_steps(state, indices[None], 0)
        first = 0 if i < 6 else 6  # the second epoch begins anew
        assert float(metrics.loss) == pytest.approx(np.mean(losses[first:]), rel=1e-4)
        assert float(metrics.accuracy) == pytest.approx(np.mean(hits[first:]), abs=1e-6)


def test_many_batches_are_evaluated_on_eight_cpu_devices():
    """All sent off at once, they waited for each other until XLA aborted the process."""
    script = """
import numpy as np
from lgnn_jax.training.config import Config, Data, Model
from lgnn_jax.training.data import Dataset
from lgnn_jax.training.session import Session

images, labels = np.zeros((10_000, 32, 32, 3), np.uint8), np.zeros(10_000, np.int32)
dataset = Dataset("zeros", images[:128], labels[:128], images, labels, tuple("abcde"))
session = Session(Config(model=Model(width=1 / 16), data=Data("zeros")), dataset)
state = session.place(session.initial_state)
session.evaluate(state)
print(session.evaluate(state).accuracy)
"""
    flags = (
        "--xla_force_host_platform_device_count=8 "
        "--xla_cpu_collective_call_terminate_timeout_seconds=30"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        check=True,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert float(done.stdout) in (0.0, 1.0)  # all images are alike


def test_every_test_image_counts_exactly_once(tiny_config, tiny_dataset):
    """21 images in batches of 16 over 1, 4 and 8 devices, against a plain evaluation."""
    results = []
    for count in (1, 4, 8):
        session = Session(tiny_config, tiny_dataset, devices=jax.devices()[:count])
        results.append(session.evaluate(session.place(session.initial_state)))
    state = session.initial_state
    mean, deviation = data.statistics(tiny_dataset.train_images)
    logits = session.plan.network.module.apply(
        {"params": state.params, "batch_stats": state.batch_stats},
        data.standardize(jnp.asarray(tiny_dataset.test_images), mean, deviation),
    )
    labels = tiny_dataset.test_labels
    log_probabilities = jax.nn.log_softmax(np.asarray(logits))
    expected = Metrics(
        -log_probabilities[np.arange(21), labels].mean(), (logits.argmax(-1) == labels).mean()
    )
    for result in results:
        np.testing.assert_allclose(result, expected, rtol=1e-5)


def test_randomness_is_a_function_of_seed_and_step(tiny_config, tiny_dataset):
    def session(seed):
        config = dataclasses.replace(tiny_config, seed=seed)
        return Session(config, tiny_dataset, devices=jax.devices()[:1])

    def loss(session, **changes):
        state = session.place(session.initial_state.replace(**changes))
        rows = np.arange(16, dtype=np.int32)[None, None]
        return float(session.train_steps(state, rows, 0)[1].loss)

    first, second = session(1), session(2)
    assert loss(first) == loss(first)
    assert loss(first) != loss(first, step=jnp.asarray(6))  # other crops of the same images
    same_weights = {"params": first.initial_state.params}
    assert loss(first) != loss(second, **same_weights)
    assert first.init_sha256 != second.init_sha256
    assert (first.epoch_order(0) != second.epoch_order(0)).any()


@pytest.mark.parametrize(
    "name", ["vgg11_cifar100", "vgg19_cifar100", "wrn16_8_cifar100", "wrn28_10_cifar100"]
)
def test_one_real_step_of_the_papers_networks(name):
    from lgnn_jax.cli.configs import load_config

    config = dataclasses.replace(load_config(name), batch_size=4)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (4, 32, 32, 3), np.uint8)
    labels = np.arange(4, dtype=np.int32)
    dataset = data.Dataset("random", images, labels, images, labels, tuple(map(str, range(100))))
    session = Session(config, dataset, devices=jax.devices()[:1])
    state, metrics = session.train_steps(
        session.place(session.initial_state), session.epoch_order(0)[:1], 0
    )
    assert 3 < float(metrics.loss) < 7  # near log(100) = 4.6: nothing is learned yet
    moved = jax.tree.map(
        lambda a, b: bool(np.any(a != b)), state.params, session.initial_state.params
    )
    assert all(jax.tree.leaves(moved["head"]))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(jax.device_get(state)))
