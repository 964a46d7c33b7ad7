"""A run of `tiny_dataset` as a process of its own, with a fault in it."""

import os
import subprocess
import sys

import numpy as np
from flags import FAST

from lgnn_jax.training.config import to_json

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
from lgnn_jax.training.session import Session
from lgnn_jax.training.errors import RunError

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


def launcher(folder, dataset):
    """Returns a function that starts a run, or goes on with what is there.

    Its `fault` is code that the process runs before its ninth step, `before` what stands before its
    command.
    """
    names = ("train_images", "train_labels", "test_images", "test_labels")
    np.savez(folder / "data.npz", **{name: getattr(dataset, name) for name in names})
    environment = os.environ | {"XLA_FLAGS": FAST}

    def start(config, run_dir, fault="", before=()):
        (folder / "config.json").write_text(to_json(config))
        return subprocess.Popen(
            [*before, sys.executable, "-c", SCRIPT, str(folder), str(run_dir), fault],
            env=environment,
            stdout=subprocess.PIPE,
            # Threads of orbax may add what they think of a full disk, in the middle of a line.
            stderr=subprocess.DEVNULL if fault else subprocess.STDOUT,
            text=True,
        )

    return start
