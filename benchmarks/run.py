"""A training run as a process: time outside of its steps, of checkpoints, and peak memory.

    python benchmarks/run.py [--config vgg11_cifar100] [--data cifar10] [--output run.json]

Each trains for some steps and evaluates the test images, in a process of its own. Ours is the loop
of `lgnn train`, its steps made to wait for their results: what it does between them is then all
that can be outside. In a real run most of it happens while a step computes.
PyTorch (optional) gets the images as uint8 arrays and makes its batches from them.
"""

import dataclasses
import importlib.util
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro
from memory import peak_bytes
from timing import environment, report

from lgnn_jax.cli.configs import load_config
from lgnn_jax.cli.errors import UsageError
from lgnn_jax.training import data

_SAVES = 9


@dataclass(frozen=True)
class Arguments:
    """Time outside of the steps, and peak memory."""

    config: str = "vgg11_cifar100"
    """Name of a run in configs/."""
    data: str = "cifar10"
    """Data set."""
    data_dir: Path | None = None
    """Where prepared copies lie, as for `lgnn train`."""
    steps: int = 30
    """Steps of each process."""
    pytorch: bool = True
    """Whether to compare with PyTorch."""
    output: Path | None = None
    """Where to write the figures as JSON."""
    inner: bool = False
    """Only train, and print what was measured: the process whose memory counts."""


def main(arguments: Arguments) -> None:
    """Measures, prints and writes."""
    if arguments.steps < 2:
        raise SystemExit(f"--steps must be at least 2, got {arguments.steps}.")
    if arguments.inner:
        print(json.dumps(_train(arguments)))
        return
    load_config(arguments.config)  # a wrong name is told here and not in a process below
    data.describe(arguments.data, arguments.data_dir)
    if arguments.pytorch and importlib.util.find_spec("torch") is None:
        raise SystemExit("PyTorch is missing: pip install -e '.[benchmark]', or --no-pytorch.")
    header = environment("jax", "flax", "torch")
    ours = json.loads(_last_line([*sys.argv, "--inner"]))
    outside, whole = np.array(ours["outside"]), np.array(ours["whole"])
    row = [arguments.config, f"{100 * outside.sum() / whole.sum():.2f} %"]
    epoch = ours["steps_per_epoch"] * np.median(whole)
    row += [f"{1e3 * np.median(outside):.2f} ms", f"{100 * np.median(ours['saves']) / epoch:.2f} %"]
    row += [f"{ours['peak_bytes'] / 1e9:.2f} GB"]
    results = {"ours": ours}
    if arguments.pytorch:
        peak = results["pytorch_peak_bytes"] = _pytorch_peak_bytes(arguments)
        row.append(f"{ours['peak_bytes'] / peak:.2f}")
    report(
        f"Training on {arguments.data}, {arguments.steps} steps",
        header,
        ["config", "outside of the steps", "of each, median", "checkpoint / epoch", "peak memory"]
        + ["ours / PyTorch's"] * arguments.pytorch,
        [row],
        results,
        arguments.output,
    )


def _last_line(command):
    done = subprocess.run([sys.executable, *command], check=True, stdout=subprocess.PIPE, text=True)
    return done.stdout.splitlines()[-1]


def _pytorch_peak_bytes(arguments):
    config = load_config(arguments.config)
    model, o = config.model, config.optimizer
    dataset = data.load(arguments.data, arguments.data_dir)
    with tempfile.TemporaryDirectory() as folder:
        np.save(Path(folder) / "images.npy", dataset.train_images)
        np.save(Path(folder) / "labels.npy", dataset.train_labels)
        options = {
            "folder": folder,
            "steps": arguments.steps,
            "batch_size": config.batch_size,
            "network": {
                "name": model.name,
                "width": model.width,
                "dropout": model.dropout,
                "classes": len(dataset.class_names),
            },
            "optimizer": {
                "learning_rate": o.learning_rate,
                "momentum": o.momentum,
                "weight_decay": o.weight_decay,
            },
        }
        script = Path(__file__).with_name("pytorch.py")
        return int(_last_line([str(script), json.dumps(options)]))


def _train(arguments):
    """Trains and returns seconds by step, and the peak memory of this process."""
    import jax

    from lgnn_jax.training import loop
    from lgnn_jax.training.checkpoint import Checkpoints
    from lgnn_jax.training.log import Log
    from lgnn_jax.training.session import Session

    config = load_config(arguments.config)
    images = dataclasses.replace(config.data, name=arguments.data)
    config = dataclasses.replace(config, data=images, variant="constant")
    dataset = data.load(arguments.data, arguments.data_dir, train_images=images.train_images)
    session = Session(config, dataset, jax.devices()[:1], steps_per_call=1)
    steps_per_epoch = session.plan.steps_per_epoch
    session.plan = session.plan._replace(steps_per_epoch=arguments.steps)
    session.compile()
    times = []

    def train_steps(*arguments, steps=session.train_steps):
        started = time.perf_counter()
        result = jax.block_until_ready(steps(*arguments))
        times.append((started, time.perf_counter()))
        return result

    session.train_steps = train_steps
    state = session.place(session.initial_state)
    with tempfile.TemporaryDirectory() as folder, Log() as log:
        log.start(
            Path(folder) / "metrics.jsonl",
            write=True,
            total_steps=arguments.steps,
            steps_per_epoch=arguments.steps,
            step=0,
        )

        def record(step, epoch, split, metrics, rate):
            values = {"loss": float(metrics.loss), "accuracy": float(metrics.accuracy)}
            log.record(step=step, epoch=epoch, split=split, images_per_second=rate, **values)

        recorder = loop._Recorder(session, log)
        state, _ = loop._epoch(session, state, 0, recorder, lambda: None)
    session.evaluate(state)
    saves = []
    with tempfile.TemporaryDirectory() as folder:
        checkpoints = Checkpoints(Path(folder))
        for step in range(_SAVES):
            started = time.perf_counter()
            checkpoints.save(step, state)
            saves.append(time.perf_counter() - started)
    starts, ends = np.array(times).T
    return {
        "outside": (starts[1:] - ends[:-1]).tolist(),
        "whole": np.diff(starts).tolist(),
        "saves": saves,
        "steps_per_epoch": steps_per_epoch,
        "peak_bytes": peak_bytes(),
    }


if __name__ == "__main__":
    try:
        main(tyro.cli(Arguments))
    except (UsageError, data.DataError) as error:
        raise SystemExit(str(error)) from None
