"""What a run promises where something goes wrong: each fault is caused, not imagined."""

import contextlib
import dataclasses
import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import filelock
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lgnn_jax.models import build_model
from lgnn_jax.training import checkpoint
from lgnn_jax.training import run as run_lib
from lgnn_jax.training.config import Model
from lgnn_jax.training.log import Log
from lgnn_jax.training.optimizer import build_optimizer
from lgnn_jax.training.session import RunError, Session
from lgnn_jax.training.signals import Stopped, held_back
from lgnn_jax.training.steps import init_state, make_train_step

FIELDS = ("step", "epoch", "split", "loss", "accuracy", "learning_rate", "sigma")


def _run(config, dataset, run_dir, resume=False):
    with Log() as log:
        summary, _, state = run_lib.run(config, dataset, run_dir, log, resume=resume)
    return summary, jax.device_get(state)


def _records(run_dir):
    lines = (run_dir / "metrics.jsonl").read_text().splitlines()
    return [[json.loads(line)[field] for field in FIELDS] for line in lines]


def _assert_same(state, other):
    """Bit for bit."""

    def check(a, b):
        a, b = np.asarray(a), np.asarray(b)
        assert (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes())

    jax.tree.map(check, state, other)


@pytest.fixture(params=[1, 8])
def devices(request, monkeypatch):
    devices = jax.devices()[: request.param]
    monkeypatch.setattr(jax, "devices", lambda: devices)


@pytest.fixture
def one_device(monkeypatch):
    devices = jax.devices()[:1]
    monkeypatch.setattr(jax, "devices", lambda: devices)


@pytest.fixture
def signal_at(monkeypatch):
    """Sends this process a signal while a training step is being made."""

    def arm(number, at):
        calls, step = [], Session.train_steps

        def train_steps(self, *arguments):
            calls.append(1)
            if len(calls) == at:
                os.kill(os.getpid(), number)
            return step(self, *arguments)

        monkeypatch.setattr(Session, "train_steps", train_steps)
        return lambda: monkeypatch.setattr(Session, "train_steps", step)

    return arm


@pytest.fixture
def wide(tiny_config):
    """Six steps an epoch; the rate falls at step 6 and 12, sigma at each epoch; with dropout."""
    return dataclasses.replace(
        tiny_config,
        epochs=3,
        variant="decreasing",
        model=Model("wrn10_1", width=0.5, dropout=0.3),
        optimizer=dataclasses.replace(tiny_config.optimizer, decay_epochs=(1, 2)),
    )


@pytest.mark.usefixtures("devices")
def test_a_run_cut_anywhere_ends_with_the_same_bits(wide, tiny_dataset, tmp_path, signal_at):
    """In mid-epoch, across a change of rate and sigma, and at an epoch's end."""
    _, straight = _run(wide, tiny_dataset, tmp_path / "straight")
    for i, at in enumerate((4, 5, 3)):  # steps 4, 9 (after the change at 6), and 12
        disarm = signal_at(signal.SIGTERM, at)
        with pytest.raises(Stopped, match="SIGTERM") as stopped:
            _run(wide, tiny_dataset, tmp_path / "cut", resume=i > 0)
        disarm()
        assert stopped.value.number == signal.SIGTERM
        assert checkpoint.Checkpoints(tmp_path / "cut").steps()[-1] == (4, 9, 12)[i]
    _, resumed = _run(wide, tiny_dataset, tmp_path / "cut", resume=True)
    _assert_same(resumed, straight)
    assert _records(tmp_path / "cut") == _records(tmp_path / "straight")


@pytest.mark.usefixtures("one_device")
@pytest.mark.parametrize("during", ["the test of an epoch", "the last checkpoint"])
def test_a_signal_at_an_epochs_end_is_not_lost(
    tiny_config, tiny_dataset, tmp_path, monkeypatch, during
):
    owner, name = {
        "the test of an epoch": (Session, "evaluate"),
        "the last checkpoint": (checkpoint.Checkpoints, "save"),
    }[during]
    method, calls = getattr(owner, name), []

    def signalling(self, *arguments):
        calls.append(1)
        if len(calls) == (1 if owner is Session else 2):
            os.kill(os.getpid(), signal.SIGTERM)
        return method(self, *arguments)

    monkeypatch.setattr(owner, name, signalling)
    run_dir = tmp_path / "run"
    with pytest.raises(Stopped, match="SIGTERM"):
        _run(tiny_config, tiny_dataset, run_dir)
    step = 6 if owner is Session else 12
    assert checkpoint.Checkpoints(run_dir).steps()[-1] == step
    assert _records(run_dir)[-1][:3] == [step, step // 6 - 1, "test"]
    summary, _ = _run(tiny_config, tiny_dataset, run_dir, resume=True)
    assert summary["test_accuracy"] == _records(run_dir)[-1][4]


@pytest.mark.usefixtures("one_device")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_answered_by_a_checkpoint(
    tiny_config, tiny_dataset, tmp_path, signal_at, number
):
    def mine(number, frame):
        raise AssertionError("not while a run holds signals back")

    earlier = signal.signal(number, mine)
    try:
        signal_at(number, 2)
        with pytest.raises(Stopped) as stopped:
            _run(tiny_config, tiny_dataset, tmp_path / "run")
        assert stopped.value.number == number
        assert signal.getsignal(number) is mine
    finally:
        signal.signal(number, earlier)
    assert checkpoint.Checkpoints(tmp_path / "run").steps() == [2]


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_second_signal_ends_the_process_at_once(number, second):
    script = (
        "import os, signal, sys\n"
        "from lgnn_jax.training.signals import held_back\n"
        "with held_back() as signalled:\n"
        f"    os.kill(os.getpid(), {int(number)})\n"
        "    print(signalled(), flush=True)\n"
        f"    os.kill(os.getpid(), {int(second)})\n"
        "    print('still here')\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout == f"{int(number)}\n"
    assert done.returncode == -second


def test_what_nohup_ignores_stays_ignored():
    earlier = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with held_back():
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, earlier)


def test_signals_are_left_alone_in_other_threads():
    from threading import Thread

    found = []

    def hold():
        with held_back() as signalled:
            found.append(signalled())

    thread = Thread(target=hold)
    thread.start()
    thread.join()
    assert found == [None]


# Checkpoints.


@pytest.fixture
def saved(tmp_path):
    """Checkpoints of steps 3 and 6, and what they hold."""
    states = {step: _state(step) for step in (3, 6)}
    checkpoints = checkpoint.Checkpoints(tmp_path)
    for step, state in states.items():
        checkpoints.save(step, state)
    return tmp_path, states


def _state(step):
    rng = np.random.default_rng(step)
    return {
        "step": np.int32(step),
        "params": {"kernel": rng.normal(size=(3, 3, 4)).astype(np.float32)},
        "moments": [jnp.asarray(rng.normal(size=5), jnp.bfloat16)],
    }


def _files(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGE = {
    "a flipped byte": _flip,
    "a truncated file": lambda path: os.truncate(path, path.stat().st_size // 2),
    "an empty file": lambda path: os.truncate(path, 0),
    "a missing file": lambda path: path.unlink(),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_to_any_file_is_noticed_and_the_one_before_is_taken(saved, damage):
    folder, states = saved
    newest = folder / "checkpoints/6"
    whole = folder / "whole"
    shutil.copytree(newest, whole)
    for path in _files(newest):
        DAMAGE[damage](path)
        said = []
        found = checkpoint.Checkpoints(folder, say=said.append).restore(_state(0))
        (line,) = said
        assert line.startswith("checkpoint 6 is passed over: ")
        assert str(path.name) in line
        _assert_same(found, states[3])
        shutil.rmtree(newest)
        shutil.copytree(whole, newest)
    _assert_same(checkpoint.Checkpoints(folder).restore(_state(0)), states[6])


def test_damaged_checkpoints_do_not_push_out_good_ones(saved):
    """A run that went on from step 3 saves 5: the damaged 6 is put aside and 3 is kept."""
    folder, states = saved
    _flip(_files(folder / "checkpoints/6/state")[0])
    checkpoints = checkpoint.Checkpoints(folder, say=lambda line: None)
    _assert_same(checkpoints.restore(_state(0)), states[3])
    checkpoints.save(5, _state(5))
    assert checkpoints.steps() == [3, 5]
    assert (folder / "checkpoints/6.damaged/manifest.json").exists()
    _assert_same(checkpoints.restore(_state(0)), _state(5))


@pytest.mark.parametrize(
    ("text", "message"),
    [("[" * 200_000, "RecursionError"), ("{}", "KeyError"), ("[]", "TypeError")],
)
def test_a_hostile_manifest_is_passed_over(saved, text, message):
    folder, states = saved
    (folder / "checkpoints/6/manifest.json").write_text(text)
    said = []
    _assert_same(checkpoint.Checkpoints(folder, say=said.append).restore(_state(0)), states[3])
    assert message in said[0]


def test_a_file_that_cannot_be_read_is_passed_over(saved, monkeypatch):
    folder, states = saved
    digest = checkpoint._digest

    def failing(path):
        if "checkpoints/6/" in str(path):
            raise OSError(errno.EIO, "Input/output error", str(path))
        return digest(path)

    monkeypatch.setattr(checkpoint, "_digest", failing)
    said = []
    _assert_same(checkpoint.Checkpoints(folder, say=said.append).restore(_state(0)), states[3])
    assert re.search(r"6/state/\S+ cannot be read: Input/output error\.", said[0])


def test_a_disk_that_is_full_only_when_it_is_waited_for(saved, monkeypatch):
    folder, states = saved

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(checkpoint.CheckpointError, match="No space left on device"):
        checkpoint.Checkpoints(folder).save(9, _state(9))
    assert checkpoint.Checkpoints(folder).steps() == [3, 6]
    _assert_same(checkpoint.Checkpoints(folder).restore(_state(0)), states[6])


def test_no_old_checkpoint_goes_before_the_new_one_counts(saved, monkeypatch):
    folder, _ = saved

    def failing(self, target):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(checkpoint.CheckpointError, match="step 9"):
        checkpoint.Checkpoints(folder).save(9, _state(9))
    assert checkpoint.Checkpoints(folder).steps() == [3, 6]


def test_no_whole_checkpoint_is_an_error_and_none_is_not(saved, tmp_path):
    folder, _ = saved
    for step in (3, 6):
        _flip(_files(folder / f"checkpoints/{step}/state")[0])
    with pytest.raises(checkpoint.CheckpointError, match="holds no checkpoint that is whole"):
        checkpoint.Checkpoints(folder, say=lambda line: None).restore(_state(0))
    assert checkpoint.Checkpoints(tmp_path / "nothing").restore(_state(0)) is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"params": {"kernel": np.zeros((3, 3, 5), np.float32)}},
            r"params/kernel is float32 \(3, 3, 4\), this run's is float32 \(3, 3, 5\)",
        ),
        (
            {"params": {"kernel": np.zeros((3, 3, 4), np.float16)}},
            r"params/kernel is float32 .* float16",
        ),
        ({"params": {"bias": np.zeros(4, np.float32)}}, "has no params/bias, float32"),
        ({"moments": []}, "has a moments/0, which this run has not"),
    ],
)  # fmt: skip
def test_arrays_of_another_run_are_named(saved, change, message):
    folder, _ = saved
    with pytest.raises(checkpoint.CheckpointError, match=message):
        checkpoint.Checkpoints(folder).restore(_state(0) | change)


def test_what_a_killed_run_left_is_removed(saved):
    folder, _ = saved
    (folder / "checkpoints/.writing-9/state").mkdir(parents=True)
    checkpoints = checkpoint.Checkpoints(folder)
    assert checkpoints.steps() == [3, 6]
    checkpoints.save(9, _state(9))
    assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == ["6", "9"]


def test_a_full_disk_is_told_and_costs_no_earlier_checkpoint(saved):
    """A limit on the size of files, in a process of its own, stands for the disk."""
    folder, states = saved
    script = (
        "import resource, signal, sys\n"
        "from pathlib import Path\n"
        "import numpy as np\n"
        "from lgnn_jax.training.checkpoint import CheckpointError, Checkpoints\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))\n"
        "large = np.random.default_rng(0).normal(size=500_000)\n"
        "try:\n"
        "    Checkpoints(Path(sys.argv[1])).save(9, {'large': large})\n"
        "except CheckpointError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(folder)], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("cannot write the checkpoint of step 9 to ")
    assert done.stdout.count("\n") == 1
    checkpoints = checkpoint.Checkpoints(folder)
    assert checkpoints.steps() == [3, 6]
    assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == ["3", "6"]
    _assert_same(checkpoints.restore(_state(0)), states[6])


def test_sys_exit_after_a_save_leaves_it_whole(tmp_path):
    script = (
        "import sys\n"
        "from pathlib import Path\n"
        "import numpy as np\n"
        "from lgnn_jax.training.checkpoint import Checkpoints\n"
        "Checkpoints(Path(sys.argv[1])).save(4, {'x': np.arange(1000.0)})\n"
        "sys.exit(3)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=False)
    assert done.returncode == 3
    found = checkpoint.Checkpoints(tmp_path).restore({"x": np.zeros(1000)})
    np.testing.assert_array_equal(found["x"], np.arange(1000.0))


# Losses and gradients that are not finite.


@pytest.mark.parametrize("rule", ["stop", "skip"])
@pytest.mark.parametrize("what", ["gradient", "loss"])
def test_a_step_that_is_not_finite_says_so_and_if_skipped_only_counts(
    tiny_config, tiny_dataset, what, rule
):
    """The pure step, on images that make the first layer's products overflow, or labels beyond."""
    config = dataclasses.replace(tiny_config, on_nan=rule)
    model = build_model("vgg11", num_classes=5, width=1 / 16)
    tx = optax.chain(optax.trace(0.9), optax.scale_by_schedule(lambda count: -0.1))
    state = init_state(model, tx, (32, 32, 3), 0)
    deviation = np.full(3, 0.0 if what == "gradient" else 60.0, np.float32)
    names = jax.tree_util.tree_leaves_with_path(state.params)
    if what == "loss":  # infinite for one class, and its gradients finite
        bias = state.params["head"]["bias"].at[0].set(-jnp.inf)
        params = state.params | {"head": state.params["head"] | {"bias": bias}}
        state = state.replace(params=params)
    step = jax.jit(
        make_train_step(
            model,
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
    _assert_same(after.params, state.params)
    _assert_same(after.batch_stats, state.batch_stats)
    _assert_same(after.opt_state[0], state.opt_state[0])
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
            _run(config, tiny_dataset, tmp_path / "run")
        assert not checkpoint.Checkpoints(tmp_path / "run").steps()
        return
    summary, state = _run(config, tiny_dataset, tmp_path / "run")
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
    summary, state = _run(config, _mislabel(tiny_dataset, config, 3), tmp_path / "run")
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
        _run(config, dataset, tmp_path / "run")
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
    model, tx = _OnlyItsKernel(), optax.sgd(0.1)
    state = init_state(model, tx, (32, 32, 3), 0)
    statistics = {"mean": np.zeros(3, np.float32), "deviation": np.ones(3, np.float32)}
    step = jax.jit(
        make_train_step(model, tx, config, image_shape=(32, 32, 3), steps_per_epoch=6, **statistics)
    )
    images = tiny_dataset.train_images.reshape(100, -1)
    arguments = images, tiny_dataset.train_labels, 0, np.arange(16)
    after, first = step(state, *arguments)
    _, second = step(after, *arguments)
    assert np.isfinite(first.loss)
    if rule == "skip":
        assert (first.bad, second.bad) == (1, 1)  # of bias and kernel
        _assert_same(after.params, state.params)
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
        _run(dataclasses.replace(tiny_config, epochs=1), tiny_dataset, tmp_path / "run")
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
        _run(tiny_config, dataset, tmp_path / "run")
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
        _run(config, tiny_dataset, tmp_path / "run")
    assert not checkpoint.Checkpoints(tmp_path / "run").steps()


# Locks.


@pytest.mark.usefixtures("one_device")
def test_a_run_that_another_process_began_meanwhile_is_left_alone(
    tiny_config, tiny_dataset, tmp_path, monkeypatch
):
    locked = run_lib._locked

    @contextlib.contextmanager
    def late(run_dir):
        with locked(run_dir):
            (run_dir / "config.json").write_text("{}")
            yield

    monkeypatch.setattr(run_lib, "_locked", late)
    with pytest.raises(RunError, match="already holds a run"):
        _run(tiny_config, tiny_dataset, tmp_path / "run")
    assert (tmp_path / "run/config.json").read_text() == "{}"


@pytest.mark.usefixtures("one_device")
def test_a_file_system_without_locks_is_trained_on(
    tiny_config, tiny_dataset, tmp_path, monkeypatch
):
    def without(self):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(filelock.FileLock, "acquire", without)
    _run(dataclasses.replace(tiny_config, epochs=1), tiny_dataset, tmp_path / "run")


@pytest.mark.usefixtures("one_device")
def test_two_processes_on_one_run_directory(tiny_config, tiny_dataset, tmp_path):
    """The second one stops; once the first is killed, its lock is gone."""
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    script = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from lgnn_jax.training.run import _locked\n"
        "with _locked(Path(sys.argv[1])):\n"
        "    print('locked', flush=True)\n"
        "    time.sleep(600)\n"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", script, str(run_dir)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert other.stdout.readline() == "locked\n"
        with pytest.raises(RunError, match=rf"is in use: process {other.pid} on \S+ trains in it"):
            _run(tiny_config, tiny_dataset, run_dir)
        assert not (run_dir / "config.json").exists()
    finally:
        other.kill()
        other.communicate()
    config = dataclasses.replace(tiny_config, epochs=1)
    _run(config, tiny_dataset, run_dir)


# Configs.


@pytest.mark.parametrize(
    "text",
    [
        '{"name": "../../etc"}', '{"name": "/tmp/x"}', '{"name": "a/b"}', '{"epochs": 1e400}',
        '{"epochs": 99999999999999999999999}', '{"seed": -1}', '{"model": {"width": NaN}}',
        '{"model": {"__class__": "os.system"}}', '{"som": {"table": {"(": [4, 4]}}}', "[]", "",
        "nul", '{"model": {"width": 1e300}}', '{"optimizer": {"decay_epochs": [1e99]}}',
        '{"epochs": "__import__(1)"}', '{"batch_size": true}',
    ],
)  # fmt: skip
def test_a_hostile_config_is_refused_in_one_line(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(RunError) as error:
        run_lib.load_config(tmp_path)
    assert "\n" not in str(error.value)
    assert re.search(r"config\.json: ", str(error.value))


# Processes that are killed.

SCRIPT = """
import os
import resource
import sys
from pathlib import Path

import numpy as np

from lgnn_jax.training.config import from_json
from lgnn_jax.training.data import Dataset
from lgnn_jax.training.log import Log
from lgnn_jax.training.run import run
from lgnn_jax.training.session import RunError, Session

folder, run_dir = map(Path, sys.argv[1:3])
step, calls = Session.train_steps, []


def train_steps(self, *arguments):
    calls.append(1)
    if len(calls) == 9:
        exec(sys.argv[3])
    return step(self, *arguments)


Session.train_steps = train_steps
arrays = np.load(folder / "data.npz")
names = ("train_images", "train_labels", "test_images", "test_labels")
dataset = Dataset("random", *(arrays[name] for name in names), tuple("abcde"))
config = from_json((folder / "config.json").read_text())
try:
    with Log() as log:
        run(config, dataset, run_dir, log, resume=(run_dir / "config.json").exists())
except RunError as error:
    print(error)
    sys.exit(1)
"""
# Root writes everywhere, unless it gives that up.
UNPRIVILEGED = ["setpriv", "--bounding-set", "-dac_override"] if os.geteuid() == 0 else []


@pytest.fixture
def launch(tmp_path, tiny_dataset):
    """Starts a run as a process of its own, that goes on with what is there.

    `fault` is code that it runs before its ninth step.
    """
    np.savez(
        tmp_path / "data.npz",
        **{
            name: getattr(tiny_dataset, name)
            for name in ("train_images", "train_labels", "test_images", "test_labels")
        },
    )
    environment = os.environ | {"XLA_FLAGS": "--xla_backend_optimization_level=0"}

    def start(config, run_dir, fault="", before=()):
        (tmp_path / "config.json").write_text(run_lib.to_json(config))
        return subprocess.Popen(
            [*before, sys.executable, "-c", SCRIPT, str(tmp_path), str(run_dir), fault],
            env=environment,
            stdout=subprocess.PIPE,
            # Threads of orbax may add what they think of a full disk, in the middle of a line.
            stderr=subprocess.DEVNULL if fault else subprocess.STDOUT,
            text=True,
        )

    return start


def _kill_at_random(process, run_dir, rng):
    """Kills a process up to 1.5 s after its first epoch, in which it makes some more.

    Now and then that is while it writes a checkpoint: one takes a tenth of the time.
    """
    before = max(checkpoint.Checkpoints(run_dir).steps(), default=0)
    metrics, limit = run_dir / "metrics.jsonl", time.monotonic() + 120
    # A run that goes on first cuts its metrics off at its checkpoint, into a new file.
    old = metrics.stat().st_ino if metrics.exists() else None
    while not metrics.exists() or metrics.stat().st_ino == old or _last_step(metrics) <= before:
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < limit
        time.sleep(0.01)
    time.sleep(rng.uniform(0, 1.5))
    process.kill()
    process.communicate()


def _last_step(metrics):
    """The step of the last line that is written whole; 0 if there is none."""
    lines = metrics.read_text().split("\n")[:-1]
    return json.loads(lines[-1])["step"] if lines else 0


@pytest.mark.parametrize(
    "kills", [20, pytest.param(200, marks=pytest.mark.soak)], ids=["20 kills", "200 kills"]
)
def test_a_run_that_is_killed_again_and_again(tiny_config, tmp_path, launch, kills):
    config = dataclasses.replace(tiny_config, epochs=4 * kills, variant="decreasing")
    rng = np.random.default_rng(kills)
    process = launch(config, tmp_path / "straight")
    assert process.wait(1200) == 0, process.communicate()[0]
    process.communicate()
    run_dir = tmp_path / "killed"
    resumed = []
    for _ in range(kills):
        process = launch(config, run_dir)
        _kill_at_random(process, run_dir, rng)
        resumed.append(checkpoint.Checkpoints(run_dir).steps()[-1:])
    assert resumed == sorted(resumed)  # a checkpoint is never lost
    assert len({str(step) for step in resumed}) > kills / 4  # and there were many to lose
    process = launch(config, run_dir)
    output = process.communicate(timeout=1200)[0]
    assert process.returncode == 0, output
    for name in ("straight", "killed"):
        assert [path.name for path in (tmp_path / name / "checkpoints").glob(".*")] == []
    assert _records(run_dir) == _records(tmp_path / "straight")
    step = str(6 * config.epochs)
    manifests = [
        json.loads((tmp_path / name / "checkpoints" / step / "manifest.json").read_text())
        for name in ("straight", "killed")
    ]
    assert manifests[0]["arrays"] == manifests[1]["arrays"]
    states = [_restored(config, tmp_path / name) for name in ("straight", "killed")]
    _assert_same(*states)


FAULTS = {
    "a line of metrics is torn by a full disk": (
        "size = os.path.getsize(run_dir / 'metrics.jsonl')\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (size + 100, -1))",
        "cannot write to {run_dir}: File too large.",
    ),
    "the disk is too full for a checkpoint": (
        "resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, -1))",
        "cannot write the checkpoint of step 12 to {run_dir}/checkpoints/12: ",
    ),
    "checkpoints may not be written": (
        "os.chmod(run_dir / 'checkpoints', 0o555)",
        "cannot write the checkpoint of step 12 to {run_dir}/checkpoints/12: Permission denied.",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_run_that_can_no_longer_write_stops_and_loses_nothing(
    tiny_config, tmp_path, launch, fault
):
    """The error comes in the same epoch; put right, the run ends with the same bits."""
    config = dataclasses.replace(tiny_config, epochs=3, log_every=1)
    process = launch(config, tmp_path / "straight")
    output = process.communicate(timeout=300)[0]
    assert process.returncode == 0, output
    run_dir = tmp_path / "run"
    code, message = FAULTS[fault]
    process = launch(config, run_dir, code, UNPRIVILEGED)
    output = process.communicate(timeout=300)[0]
    assert process.returncode == 1, output
    assert output.splitlines()[-1].startswith(message.format(run_dir=run_dir))
    assert checkpoint.Checkpoints(run_dir).steps() == [6]
    (run_dir / "checkpoints").chmod(0o755)
    process = launch(config, run_dir)
    output = process.communicate(timeout=300)[0]
    assert process.returncode == 0, output
    _assert_same(*(_restored(config, tmp_path / name) for name in ("straight", "run")))
    assert _records(run_dir) == _records(tmp_path / "straight")


def test_a_read_only_run_directory_is_refused(tiny_config, tmp_path, launch):
    run_dir = tmp_path / "run"
    run_dir.mkdir(mode=0o555)
    process = launch(tiny_config, run_dir, "", UNPRIVILEGED)
    output = process.communicate(timeout=300)[0]
    assert process.returncode == 1
    assert output.splitlines()[-1].startswith(f"{run_dir} may not be written to: ")
    assert "Traceback" not in output


def _restored(config, run_dir):
    model = build_model("vgg11", num_classes=5, width=1 / 16)
    params = init_state(model, optax.identity(), (32, 32, 3), 0).params
    tx = build_optimizer(config, params, 6)
    return checkpoint.Checkpoints(run_dir).restore(init_state(model, tx, (32, 32, 3), 0))
