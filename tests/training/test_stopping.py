"""A run that a signal asks to stop."""

import dataclasses
import os
import signal
import subprocess
import sys

import pytest
import runs

from lgnn_jax.training import checkpoint
from lgnn_jax.training.config import Model
from lgnn_jax.training.session import Session
from lgnn_jax.training.signals import Stopped, held_back


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
    _, straight = runs.train(wide, tiny_dataset, tmp_path / "straight")
    for i, at in enumerate((4, 5, 3)):  # steps 4, 9 (after the change at 6), and 12
        disarm = signal_at(signal.SIGTERM, at)
        with pytest.raises(Stopped, match="SIGTERM") as stopped:
            runs.train(wide, tiny_dataset, tmp_path / "cut", resume=i > 0)
        disarm()
        assert stopped.value.number == signal.SIGTERM
        assert checkpoint.Checkpoints(tmp_path / "cut").steps()[-1] == (4, 9, 12)[i]
    _, resumed = runs.train(wide, tiny_dataset, tmp_path / "cut", resume=True)
    runs.assert_same(resumed, straight)
    assert runs.records(tmp_path / "cut") == runs.records(tmp_path / "straight")


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
        runs.train(tiny_config, tiny_dataset, run_dir)
    step = 6 if owner is Session else 12
    assert checkpoint.Checkpoints(run_dir).steps()[-1] == step
    assert runs.records(run_dir)[-1][:3] == [step, step // 6 - 1, "test"]
    summary, _ = runs.train(tiny_config, tiny_dataset, run_dir, resume=True)
    assert summary["test_accuracy"] == runs.records(run_dir)[-1][4]


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
            runs.train(tiny_config, tiny_dataset, tmp_path / "run")
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
