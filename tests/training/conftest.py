"""Devices, signals and processes of runs."""

import os

import jax
import launching
import pytest

from lgnn_jax.training.session import Session


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
def launch(tmp_path, tiny_dataset):
    """Starts a run as a process of its own, see `launching.launcher`."""
    return launching.launcher(tmp_path, tiny_dataset)
