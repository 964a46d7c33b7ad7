"""Runs of several processes, each with devices of its own."""

import json
import shutil
import signal
import socket
import time

import commands
import jax
import numpy as np
import pytest

from lgnn_jax.training import data
from lgnn_jax.training.checkpoint import Checkpoints
from lgnn_jax.training.run_dir import load_config
from lgnn_jax.training.session import Session


def _start(*argv, own=((), ())):
    """Starts a run of two processes with two devices each; `own` are arguments of each alone."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    place = ("--coordinator", f"127.0.0.1:{port}", "--processes", "2")
    return [
        commands.lgnn("train", *argv, *place, "--process", str(i), *own[i], devices=2)
        for i in range(2)
    ]


def _end(processes):
    """Waits for both; returns what they said and their exit status."""
    outputs = [process.communicate(timeout=300)[0] for process in processes]
    return outputs, [process.returncode for process in processes]


def _metrics(run_dir):
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def _state(run_dir):
    """The newest checkpoint."""
    config = load_config(run_dir)
    images = data.load(config.data.name, None, train_images=config.data.train_images)
    session = Session(config, images, jax.devices()[:1])
    return jax.device_get(Checkpoints(run_dir).restore(session.initial_state))


def _when_tested(processes, run_dir, times):
    """Waits until so many more epochs have been tested than when it is called."""
    metrics, limit = run_dir / "metrics.jsonl", time.monotonic() + 200
    before = _tests(metrics)
    while _tests(metrics) < before + times:
        assert all(process.poll() is None for process in processes), _end(processes)
        assert time.monotonic() < limit
        time.sleep(0.05)


def _tests(metrics):
    return metrics.read_text().count('"test"') if metrics.exists() else 0


def test_two_processes_equal_one(folder):
    outputs, status = _end(_start("--config", "tiny.py", "--run-dir", "two"))
    assert status == [0, 0], outputs
    assert "test accuracy" in outputs[0]
    assert "test accuracy" not in outputs[1]  # one process speaks
    single = commands.lgnn("train", "--config", "tiny.py", "--run-dir", "one", devices=4)
    output = single.communicate(timeout=300)[0]
    assert single.returncode == 0, output
    one, two = _metrics(folder / "one"), _metrics(folder / "two")
    assert len(one) == len(two) == 2
    for a, b in zip(one, two, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-5)
        assert a["accuracy"] == b["accuracy"]
    again = commands.lgnn("evaluate", "two", devices=1)
    output = again.communicate(timeout=300)[0]
    assert f"accuracy {two[-1]['accuracy']:.2%}" in output


def test_one_of_two_processes_is_killed_and_both_are_started_again(folder):
    """Once the second one, once the first, which writes; then one is asked to stop."""
    argv = ("--config", "tiny.py", "--epochs", "10", "--checkpoint-every", "1")
    argv += ("--log-every", "1", "--variant", "decreasing")
    outputs, status = _end(_start(*argv, "--run-dir", "straight"))
    assert status == [0, 0], outputs
    resume = ()
    for killed in (1, 0):
        processes = _start(*argv, "--run-dir", "killed", *resume)
        _when_tested(processes, folder / "killed", 2)
        processes[killed].kill()
        outputs, status = _end(processes)
        assert status[killed] == -signal.SIGKILL
        assert status[1 - killed] != 0, outputs  # it does not wait for ever
        resume = ("--resume",)
    processes = _start(*argv, "--run-dir", "killed", *resume)
    _when_tested(processes, folder / "killed", 2)
    processes[1].send_signal(signal.SIGTERM)
    outputs, status = _end(processes)
    assert status == [143, 143], outputs
    stopped = Checkpoints(folder / "killed").steps()[-1]
    assert stopped < 100
    outputs, status = _end(_start(*argv, "--run-dir", "killed", *resume))
    assert status == [0, 0], outputs
    jax.tree.map(
        np.testing.assert_array_equal, _state(folder / "killed"), _state(folder / "straight")
    )
    fields = ("step", "split", "loss", "accuracy", "learning_rate", "sigma")
    straight, resumed = (
        [[record[field] for field in fields] for record in _metrics(folder / name)]
        for name in ("straight", "killed")
    )
    assert resumed == straight


def test_processes_that_see_different_checkpoints_do_not_train(folder):
    outputs, status = _end(_start("--config", "tiny.py", "--run-dir", "one"))
    assert status == [0, 0], outputs
    shutil.copytree("one", "other")
    shutil.rmtree("other/checkpoints")
    (folder / "other/summary.json").unlink()
    before = (folder / "one/metrics.jsonl").read_text()
    argv = ("--config", "tiny.py", "--epochs", "2", "--resume")
    own = (("--run-dir", "one"), ("--run-dir", "other"))
    outputs, status = _end(_start(*argv, own=own))
    assert status == [1, 1], outputs
    assert "all must see the same run directory" in "".join(outputs)
    assert (folder / "one/metrics.jsonl").read_text() == before
