"""Losses, gradients and weights that are not finite."""

import dataclasses
import signal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import runs

from lgnn_jax.models.build import build_network
from lgnn_jax.models.linen import LinenNetwork
from lgnn_jax.training import checkpoint
from lgnn_jax.training.errors import RunError
from lgnn_jax.training.session import Session
from lgnn_jax.training.steps import init_state, make_train_step


@pytest.mark.parametrize("rule", ["stop", "skip"])
@pytest.mark.parametrize("what", ["gradient", "loss"])
def test_a_step_that_is_not_finite_says_so_and_if_skipped_only_counts(
    tiny_config, tiny_dataset, what, rule
):
    """The pure step, on images that make the first layer's products overflow, or labels beyond."""
    config = dataclasses.replace(tiny_config, on_nan=rule)
    network = build_network("vgg11", num_classes=5, width=1 / 16)
    tx = optax.chain(optax.trace(0.9), optax.scale_by_schedule(lambda count: -0.1))
    state = init_state(network, tx, (32, 32, 3), 0)
    deviation = np.full(3, 0.0 if what == "gradient" else 60.0, np.float32)
    names = jax.tree_util.tree_leaves_with_path(state.params)
    if what == "loss":  # infinite for one class, and its gradients finite
        bias = state.params["head"]["bias"].at[0].set(-jnp.inf)
        params = state.params | {"head": state.params["head"] | {"bias": bias}}
        state = state.replace(params=params)
    step = jax.jit(
        make_train_step(
            network,
            tx,
            config,
            image_shape=(32, 32, 3),
            steps_per_epoch=6,
            mean=np.full(3, 100.0, np.float32),
            deviation=deviation,
        )
    )
    images = tiny_dataset.train_images.reshape(100, -1)
    after, metrics = step(state, images, tiny_dataset.train_labels, 0, np.arange(16))
    assert (metrics.bad == len(names)) == (what == "loss")
    assert metrics.bad >= 0
    assert after.step == 1
    assert after.opt_state[1].count == 1
    assert after.skipped == (rule == "skip")
    if rule == "stop":
        return
    assert metrics.loss == 0
    runs.assert_same(after.params, state.params)
    runs.assert_same(after.batch_stats, state.batch_stats)
    runs.assert_same(after.opt_state[0], state.opt_state[0])
    assert not after.sums.any()


@pytest.mark.usefixtures("one_device")
@pytest.mark.parametrize("rule", ["stop", "skip"])
def test_gradients_that_are_not_finite(tiny_config, tiny_dataset, tmp_path, monkeypatch, rule):
    """From step 4 on one weight is infinite, and back in its place at step 5."""
    config = dataclasses.replace(tiny_config, epochs=1, on_nan=rule)
    step, calls, kept = Session.train_steps, [], []

    def train_steps(self, state, *rows):
        calls.append(1)
        if len(calls) == 4:
            kept.append(jax.device_get(state.params["conv3_1"]["kernel"]))
        if len(calls) in (4, 5):
            value = np.full_like(kept[0], np.inf) if len(calls) == 4 else kept[0]
            params = jax.device_get(state.params)
            params["conv3_1"]["kernel"] = value
            state = self.place(jax.device_get(state).replace(params=params))
        return step(self, state, *rows)

    monkeypatch.setattr(Session, "train_steps", train_steps)
    if rule == "stop":
        with pytest.raises(
            RunError, match=r"gradient of \S+ is not finite at step 4, epoch 1, learning rate 0\.1"
        ):
            runs.train(config, tiny_dataset, tmp_path / "run")
        assert not checkpoint.Checkpoints(tmp_path / "run").steps()
        return
    summary, state = runs.train(config, tiny_dataset, tmp_path / "run")
    assert summary["skipped_steps"] == 1
    assert state.step == 6
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state))


def _mislabel(dataset, config, step):
    """The data set with one label of a class that there is not: the loss of one image is NaN."""
    order = Session(config, dataset, jax.devices()[:1]).epoch_order(0)
    labels = dataset.train_labels.copy()
    dataset = dataclasses.replace(dataset, train_labels=labels)
    labels[order[step - 1].ravel()[5]] = 77  # after its own check
    return dataset


@pytest.mark.usefixtures("devices")
def test_one_bad_image_on_one_device_skips_the_step_on_all(tiny_config, tiny_dataset, tmp_path):
    config = dataclasses.replace(tiny_config, on_nan="skip")
    summary, state = runs.train(config, _mislabel(tiny_dataset, config, 3), tmp_path / "run")
    assert summary["skipped_steps"] == 2  # one in each epoch
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state))


@pytest.mark.usefixtures("devices")
@pytest.mark.parametrize(("step", "log_every"), [(3, 3), (5, 50), (6, 50)])
def test_steps_are_looked_at_before_anything_of_them_is_kept(
    tiny_config, tiny_dataset, tmp_path, step, log_every
):
    config = dataclasses.replace(tiny_config, log_every=log_every)
    dataset = _mislabel(tiny_dataset, config, step)
    with pytest.raises(RunError, match=rf"is not finite at step {step}, epoch 1"):
        runs.train(config, dataset, tmp_path / "run")
    assert not checkpoint.Checkpoints(tmp_path / "run").steps()
    assert not (tmp_path / "run" / "metrics.jsonl").read_text()


class _OnlyItsKernel(nn.Module):
    """A finite loss, and at 0 the root's infinite gradient."""

    @nn.compact
    def __call__(self, x, train=True):
        self.variable("batch_stats", "mean", jnp.zeros, 5)
        bias = self.param("bias", nn.initializers.zeros, (5,))
        kernel = self.param("kernel", nn.initializers.zeros, (1, 5))
        return (bias[None] + jnp.sqrt(kernel)) * jnp.ones((len(x), 1))


@pytest.mark.parametrize("rule", ["stop", "skip"])
def test_a_kernels_gradient_alone(tiny_config, tiny_dataset, rule):
    """It is seen at once where the step may be skipped; else in the next step's loss."""
    config = dataclasses.replace(tiny_config, on_nan=rule)
    network, tx = LinenNetwork(_OnlyItsKernel()), optax.sgd(0.1)
    state = init_state(network, tx, (32, 32, 3), 0)
    statistics = {"mean": np.zeros(3, np.float32), "deviation": np.ones(3, np.float32)}
    step = jax.jit(
        make_train_step(
            network, tx, config, image_shape=(32, 32, 3), steps_per_epoch=6, **statistics
        )
    )
    images = tiny_dataset.train_images.reshape(100, -1)
    arguments = images, tiny_dataset.train_labels, 0, np.arange(16)
    after, first = step(state, *arguments)
    _, second = step(after, *arguments)
    assert np.isfinite(first.loss)
    if rule == "skip":
        assert (first.bad, second.bad) == (1, 1)  # of bias and kernel
        runs.assert_same(after.params, state.params)
    else:
        assert (first.bad, second.bad) == (-1, 0)
        assert not np.isfinite(after.params["kernel"]).all()


@pytest.mark.usefixtures("one_device")
@pytest.mark.parametrize("signalled", [False, True])
@pytest.mark.parametrize("part", ["params", "batch_stats", "opt_state"])
def test_nothing_that_is_not_finite_is_kept(
    tiny_config, tiny_dataset, tmp_path, monkeypatch, signal_at, part, signalled
):
    """Whatever the loss says of it: one number of the state is infinite after the last step."""
    step = Session.train_steps

    def train_steps(self, state, *rows):
        state, metrics = step(self, state, *rows)
        if int(state.step) == (2 if signalled else 6):
            host = jax.device_get(state)
            leaves, tree = jax.tree.flatten(getattr(host, part))
            leaves = [np.array(leaf) for leaf in leaves]
            wide = [leaf for leaf in leaves if leaf.dtype == np.float32]
            wide[0].flat[0] = np.inf
            state = self.place(host.replace(**{part: tree.unflatten(leaves)}))
        return state, metrics

    monkeypatch.setattr(Session, "train_steps", train_steps)
    if signalled:
        signal_at(signal.SIGTERM, 2)
    with pytest.raises(RunError, match=r"is (not finite|nan) at step [26], epoch 1"):
        runs.train(dataclasses.replace(tiny_config, epochs=1), tiny_dataset, tmp_path / "run")
    assert not checkpoint.Checkpoints(tmp_path / "run").steps()


@pytest.mark.usefixtures("one_device")
def test_a_sum_of_losses_that_overflows(tiny_config, tiny_dataset):
    session = Session(tiny_config, tiny_dataset, jax.devices()[:1])
    sums = np.array([np.inf, 0, 16], np.float32)
    state = session.initial_state.replace(step=np.int32(1), sums=sums)
    _, metrics = session.train_steps(session.place(state), session.epoch_order(0)[1:2], 0)
    assert metrics.bad == len(session.parameter_names)


@pytest.mark.usefixtures("one_device")
def test_a_test_loss_that_is_not_finite(tiny_config, tiny_dataset, tmp_path):
    labels = tiny_dataset.test_labels.copy()
    dataset = dataclasses.replace(tiny_dataset, test_labels=labels)
    labels[-1] = 77  # after its own check
    with pytest.raises(RunError, match=r"the test loss is nan at step 6, epoch 1"):
        runs.train(tiny_config, dataset, tmp_path / "run")
    assert not checkpoint.Checkpoints(tmp_path / "run").steps()


@pytest.mark.usefixtures("one_device")
def test_weights_that_overflow_are_not_kept(tiny_config, tiny_dataset, tmp_path, signal_at):
    """The gradients of the one step are finite, what the rate makes of them is not."""
    settings = dataclasses.replace(
        tiny_config.optimizer, learning_rate=3e38, weight_decay=1e3, decay_epochs=()
    )
    config = dataclasses.replace(tiny_config, optimizer=settings)
    signal_at(signal.SIGTERM, 1)
    with pytest.raises(
        RunError, match=r"\S+ is not finite at step 1, epoch 1, learning rate 3e\+38"
    ):
        runs.train(config, tiny_dataset, tmp_path / "run")
    assert not checkpoint.Checkpoints(tmp_path / "run").steps()
