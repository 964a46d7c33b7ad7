"""The training step as the compiler for TPU v5e sees it: memory traffic, memory, all-reduces.

    pip install -e '.[tpu-compile]'
    python benchmarks/tpu.py [--cases vgg11,128 wrn28_10,128,bfloat16] [--chips 1 4]
        [--methods auto separable] [--output tpu.json]

The compiler runs on any x86-64 Linux machine; no TPU is needed, and nothing is run or timed. Each
program takes it a few minutes. Figures are for one chip, at 10^9 bytes a GB.
"""

import dataclasses
import importlib.util
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

# They are read when jax is imported, and when it loads the compiler.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-4")
os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")  # no chip is used, so none is to be locked

import jax
import tyro
from growth import cifar, count_ops, lower_step
from jax.experimental import topologies
from timing import environment, parse_case, report

from lgnn_jax.methods.filtering import Form
from lgnn_jax.training.config import Config, Som

METHODS = ("auto", "matmul", "conv", "separable", "banded")
COLUMNS = [
    "network, batch",
    "chips",
    "filter",
    "GB accessed",
    "/ baseline",
    "peak GB",
    "fits 16 GB",
    "all-reduces",
]


@dataclass(frozen=True)
class Arguments:
    """The training step as the compiler for TPU v5e sees it."""

    cases: tuple[str, ...] = (
        "vgg11,128",
        "vgg11,128,bfloat16",
        "wrn28_10,128",
        "wrn28_10,128,bfloat16",
    )
    """Networks, batch sizes over all chips, and compute types: name[@width],batch[,dtype]."""
    chips: tuple[Literal[1, 2, 4], ...] = (1, 4)
    """Numbers of chips to compile for."""
    methods: tuple[Form, ...] | None = None
    """Forms of the filter beside the baseline; if None, all for the first case, then auto."""
    output: Path | None = None
    """Where to write all figures as JSON."""


def main(arguments: Arguments) -> None:
    """Compiles, prints and writes."""
    devices = _devices()
    header, rows, results = environment("jax", "libtpu", "flax", "optax"), [], []
    configs = {case: parse_case(case) for case in arguments.cases}
    for i, (case, plain) in enumerate(configs.items()):
        methods = arguments.methods
        if methods is None:
            methods = METHODS if i == 0 else ("auto",)
        for chips in arguments.chips:
            baseline = None
            for method in ("baseline", *methods):
                if method == "baseline":
                    config = dataclasses.replace(plain, variant="baseline")
                else:
                    config = dataclasses.replace(plain, som=Som(method=method))
                figures = compile_step(config, devices[:chips])
                baseline = baseline or figures
                rows.append([case, str(chips), method, *_cells(figures, baseline)])
                results.append({"case": case, "chips": chips, "method": method, **figures})
                print(" | ".join(rows[-1]), flush=True)
    report(
        "Training step compiled for TPU v5e: the compiler's figures for one chip, not timings",
        header,
        COLUMNS,
        rows,
        results,
        arguments.output,
    )


def compile_step(config: Config, devices: list[jax.Device]) -> dict[str, float | bool]:
    """Compiles the whole step of a run on CIFAR-100 from shapes alone.

    Returns:
      Whether it "fits"; if so "bytes_accessed", "peak_bytes" and "all_reduces", otherwise
      "peak_bytes" if the compiler says what it would need.
    """
    lowered = lower_step(config, cifar(32), devices)
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        needed = re.search(r"Used ([\d.]+)G of", str(error))  # in GiB
        return {"fits": False} | ({"peak_bytes": float(needed[1]) * 2**30} if needed else {})
    return {
        "fits": True,
        "bytes_accessed": compiled.cost_analysis()["bytes accessed"],
        "peak_bytes": _peak(compiled.memory_analysis()),
        "all_reduces": count_ops(compiled.as_text(), ["all-reduce"])["all-reduce"],
    }


def _devices():
    """Returns four v5e chips that programs can be compiled for."""
    if importlib.util.find_spec("libtpu") is None:
        raise SystemExit("The TPU compiler is missing: pip install -e '.[tpu-compile]'")
    return list(topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x2").devices)


def _peak(memory):
    peak = getattr(memory, "peak_memory_in_bytes", 0)
    return peak or (
        memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        + memory.temp_size_in_bytes
        - memory.alias_size_in_bytes
    )


def _cells(figures, baseline):
    peak = f"{figures['peak_bytes'] / 1e9:.2f}" if "peak_bytes" in figures else ""
    if not figures["fits"]:
        return ["", "", peak, "does not fit", ""]
    accessed, ratio = figures["bytes_accessed"], ""
    if baseline["fits"]:
        ratio = f"{accessed / baseline['bytes_accessed']:.3f}"
    return [f"{accessed / 1e9:.3f}", ratio, peak, "yes", str(figures["all_reduces"])]


if __name__ == "__main__":
    main(tyro.cli(Arguments))
