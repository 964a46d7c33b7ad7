"""The `lgnn` command, in this process or in one of its own."""

import os
import subprocess
import sys

import pytest
from flags import FAST

from lgnn_jax import cli

TINY = """
from lgnn_jax.training.config import Config, Data, Model, Optimizer

config = Config(
    name="tiny",
    epochs=1,
    batch_size=16,
    model=Model("vgg11", width=1 / 16),
    data=Data("digits", train_images=160, flip=False),
    optimizer=Optimizer(learning_rate=0.01, decay_epochs=()),
)
"""


def lgnn(*argv, devices, **options):
    """Starts a command in a process of its own, that has so many devices."""
    flags = f"--xla_force_host_platform_device_count={devices} {FAST}"
    return subprocess.Popen(
        [sys.executable, "-c", "from lgnn_jax.cli import main; main()", *argv],
        env=os.environ | {"XLA_FLAGS": flags},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        **options,
    )


def fails(capsys, *argv):
    """Runs a command that must fail; returns the one line that it says on standard error."""
    with pytest.raises(SystemExit) as exit_:
        cli.main([*argv])
    assert exit_.value.code not in (0, None)
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    assert captured.err.startswith("lgnn: ")
    return captured.err.strip()
