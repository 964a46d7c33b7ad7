"""One training step: what the filter adds to it, and how it compares with PyTorch's.

    python benchmarks/step.py [--cases vgg11,128 wrn16_8,32] [--repeats 15] [--output step.json]

Ours is the whole step of a training run: gather, augment, standardise, both passes, filter, update.
PyTorch's (eager, channels_last, all cores; optional) is timed twice: the network and its update
alone, given a standardised batch; and with all that ours does, the filter as in the paper. Before,
each must reach our losses from the same weights in two steps, to 1e-4, without dropout and
augmentation.
"""

import dataclasses
import importlib.util
from dataclasses import dataclass
from pathlib import Path

import flax
import jax
import numpy as np
import tyro
from timing import alternate, environment, parse_case, ratio, report

from lgnn_jax.maps.windows import gaussian_kernel
from lgnn_jax.methods.method import NAMED
from lgnn_jax.training import data
from lgnn_jax.training.config import Data
from lgnn_jax.training.session import Session

CHECKED_STEPS = 2  # the second loss tells whether the first update was the same
# With a tenth of the usual rate: one step at 0.1 amplifies rounding. The second loss of VGG-19 was
# 4.1959 here, 4.1977 in PyTorch, and 4.1964 in float64; at 0.01 all three agree to 4e-5.
CHECKED_RATE = 0.01


@dataclass(frozen=True)
class Arguments:
    """One training step, with and without the filter, and in PyTorch."""

    cases: tuple[str, ...] = ("vgg11,128", "vgg11@0.25,128", "vgg19,128", "wrn16_8,32")
    """Networks and batch sizes: name[@width],batch[,dtype]."""
    repeats: int = 15
    """Rounds, each of every step in turn."""
    pytorch: bool = True
    """Whether to compare with PyTorch."""
    output: Path | None = None
    """Where to write all timings as JSON."""


def main(arguments: Arguments) -> None:
    """Measures, prints and writes."""
    if arguments.pytorch and importlib.util.find_spec("torch") is None:
        raise SystemExit("PyTorch is missing: pip install -e '.[benchmark]', or --no-pytorch.")
    header = environment("jax", "flax", "optax", "torch")
    rows, results = [], {}
    for case, config in {case: parse_case(case) for case in arguments.cases}.items():
        dataset = _noise(config.batch_size)
        calls = {
            variant: _ours(dataclasses.replace(config, variant=variant), dataset)
            for variant in NAMED
        }
        seconds = alternate(calls, arguments.repeats)
        row = [case, f"{np.median(seconds['baseline']) * 1e3:.0f} ms"]
        row += [ratio(seconds[v], seconds["baseline"]) for v in NAMED if v != "baseline"]
        results[case] = {call: values.tolist() for call, values in seconds.items()}
        if arguments.pytorch:
            calls = {"ours": calls["constant"], **_pytorch(config, dataset)}
            seconds = alternate(calls, arguments.repeats)
            row += [ratio(seconds[name], seconds["ours"]) for name in calls if name != "ours"]
            results[case] |= {call: values.tolist() for call, values in seconds.items()}
        rows.append(row)
        print(" | ".join(row), flush=True)
    report(
        f"Training step: median of {arguments.repeats} ratios (10th to 90th percentile)",
        header,
        ["network, batch", "baseline"]
        + [f"{v} / baseline" for v in NAMED if v != "baseline"]
        + ["PyTorch's network alone / constant", "PyTorch, the same / constant"]
        * arguments.pytorch,
        rows,
        results,
        arguments.output,
    )


def _noise(count):
    """Returns random images with the sizes of CIFAR-100's."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
    labels = rng.integers(0, 100, count).astype(np.int32)
    return data.Dataset(
        "noise", images, labels, images, labels, tuple(str(label) for label in range(100))
    )


def _ours(config, dataset):
    # An epoch is one step here. Of a real one, of hundreds, settling is in one step alone, which
    # takes as long as `benchmarks/settling.py` says.
    seldom = dataclasses.replace(config.settling, every=10_000)
    session = Session(dataclasses.replace(config, settling=seldom), dataset, jax.devices()[:1])
    rows = session.epoch_order(0)[:1]
    state = session.place(session.initial_state)

    def step():
        nonlocal state
        state, metrics = session.train_steps(state, rows, 0)
        return jax.block_until_ready((state, metrics))[1]

    return step


def _pytorch(config, dataset):
    """PyTorch's steps, without and with all else that ours does, once their losses are checked."""
    import pytorch
    import torch

    checked = dataclasses.replace(
        config,
        model=dataclasses.replace(config.model, dropout=0.0),
        data=Data(pad=0, flip=False),
        optimizer=dataclasses.replace(config.optimizer, learning_rate=CHECKED_RATE),
    )
    session = Session(checked, dataset, jax.devices()[:1])
    params = flax.traverse_util.flatten_dict(session.initial_state.params, sep="/")
    mean, deviation = map(torch.from_numpy, data.statistics(dataset.train_images))
    indices = torch.from_numpy(session.epoch_order(0).ravel()).long()
    maps = {path: m.map.sides for path, m in session.plan.maps.items() if m is not None}
    window = torch.from_numpy(np.array(gaussian_kernel(config.som.sigma, config.som.kernel_size)))

    def batches(config):
        return pytorch.make_batches(
            torch.from_numpy(dataset.train_images),
            torch.from_numpy(dataset.train_labels).long(),
            mean=mean,
            deviation=deviation,
            pad=config.data.pad,
            flip=config.data.flip,
        )

    def step(config):
        model, o = config.model, config.optimizer
        network = pytorch.build(
            model.name,
            width=model.width,
            dropout=model.dropout,
            classes=len(dataset.class_names),
            channels_in=dataset.info.image_shape[-1],
        )
        pytorch.load(network, params)
        return pytorch.make_step(
            network,
            learning_rate=o.learning_rate,
            momentum=o.momentum,
            weight_decay=o.weight_decay,
            maps={} if config.variant == "baseline" else maps,
            window=window,
        )

    x, y = batches(checked)(indices)
    for variant in ("baseline", "constant"):
        plain = dataclasses.replace(checked, variant=variant)
        their_step, our_step = step(plain), _ours(plain, dataset)
        theirs = [float(their_step(x, y)) for _ in range(CHECKED_STEPS)]
        ours = [float(our_step().loss) for _ in range(CHECKED_STEPS)]
        np.testing.assert_allclose(theirs, ours, rtol=1e-4)

    network_alone = step(dataclasses.replace(config, variant="baseline"))
    whole, batch = step(dataclasses.replace(config, variant="constant")), batches(config)
    return {
        "pytorch": lambda: network_alone(x, y),
        "pytorch_same": lambda: whole(*batch(indices)),
    }


if __name__ == "__main__":
    main(tyro.cli(Arguments))
