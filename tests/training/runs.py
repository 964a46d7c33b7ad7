"""A run of `tiny_dataset`, what it left behind, and whether two left the same."""

import json

import jax
import numpy as np
import optax

from lgnn_jax.models.build import build_network
from lgnn_jax.training import run as run_lib
from lgnn_jax.training.checkpoint import Checkpoints
from lgnn_jax.training.log import Log
from lgnn_jax.training.optimizer import build_optimizer
from lgnn_jax.training.steps import init_state

FIELDS = ("step", "epoch", "split", "loss", "accuracy", "learning_rate", "sigma")


def train(config, dataset, run_dir, resume=False):
    """Returns the summary and the state of a run once it is done."""
    with Log() as log:
        summary, _, state = run_lib.run(config, dataset, run_dir, log, resume=resume)
    return summary, jax.device_get(state)


def records(run_dir):
    """Of each line of its metrics, what is the same whenever it is made."""
    lines = (run_dir / "metrics.jsonl").read_text().splitlines()
    return [[json.loads(line)[field] for field in FIELDS] for line in lines]


def newest(config, run_dir):
    """The newest checkpoint of a run of `tiny_config`'s network."""
    network = build_network("vgg11", num_classes=5, width=1 / 16)
    params = init_state(network, optax.identity(), (32, 32, 3), 0).params
    tx = build_optimizer(config, params, 6)
    return Checkpoints(run_dir).restore(init_state(network, tx, (32, 32, 3), 0))


def assert_same(state, other):
    """Bit for bit."""

    def check(a, b):
        a, b = np.asarray(a), np.asarray(b)
        assert (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes())

    jax.tree.map(check, state, other)
