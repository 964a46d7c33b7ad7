"""The training step as the compiler for an H100 sees it: its kernels and their memory traffic.

    pip install -e '.[gpu-compile]'
    python benchmarks/h100.py [--cases vgg11,128,bfloat16 vgg11,128] [--methods auto separable]
        [--output h100.json]

The compiler runs on any x86-64 Linux machine; no GPU is needed, and nothing is run or timed. Each
program takes it some ten seconds. The figures are of one step among the many of a call, each
kernel's operands and results counted once, at 10^6 bytes a MB. On a GPU the compiler also times
variants of convolutions and products and takes the fastest, which here it cannot: it splits some
products in parts that it would not split there.
"""

import collections
import dataclasses
import importlib.util
import os
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# As `lgnn` has it, but for autotuning, which needs the GPU.
os.environ["XLA_FLAGS"] = " ".join(
    [
        "--xla_gpu_autotune_level=0 --xla_gpu_exclude_nondeterministic_ops=true",
        os.environ.get("XLA_FLAGS", ""),
    ]
).strip()

import jax
import tyro
from growth import cifar, lower_step
from hlo import Kernel, kernels
from jax.experimental import topologies
from timing import environment, parse_case, report

from lgnn_jax.methods import filtering
from lgnn_jax.methods.filtering import Form
from lgnn_jax.training.config import Config, Som

METHODS = ("auto", "matmul", "banded", "separable", "conv")
STEPS = 39  # of a call, as in an epoch of CIFAR at batch 128
COLUMNS = ["network, batch", "filter", "MB a step", "/ baseline", "kernels", "more"]

# What XLA asks a device of itself, from NVIDIA's data sheet and CUDA's tables for compute
# capability 9.0.
H100 = """
platform_name: "CUDA"
device_description_str: "NVIDIA H100 80GB HBM3"
dnn_version_info { major: 9 minor: 10 }
gpu_device_info {
  cuda_compute_capability { major: 9 minor: 0 }
  core_count: 132
  fpus_per_core: 128
  clock_rate_ghz: 1.98
  memory_bandwidth: 3352320000000
  device_memory_size: 84978434048
  l2_cache_size: 52428800
  shared_memory_per_block: 49152
  shared_memory_per_block_optin: 232448
  shared_memory_per_core: 233472
  registers_per_block_limit: 65536
  registers_per_core_limit: 65536
  threads_per_block_limit: 1024
  threads_per_core_limit: 2048
  threads_per_warp: 32
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
}
"""


@dataclass(frozen=True)
class Arguments:
    """The training step as the compiler for an H100 sees it."""

    cases: tuple[str, ...] = ("vgg11,128,bfloat16", "vgg11,128", "wrn16_8,128,bfloat16")
    """Networks, batch sizes and compute types: name[@width],batch[,dtype]."""
    methods: tuple[Form, ...] | None = None
    """Forms of the filter beside the baseline; if None, all for the first case, then auto."""
    output: Path | None = None
    """Where to write all figures as JSON."""


def main(arguments: Arguments) -> None:
    """Compiles, prints and writes."""
    device = _device()
    filtering._gpus_have_tf32 = lambda: True  # the H100 has it; there is none here to be asked
    header, rows, results = environment("jax", "jax-cuda12-plugin", "flax", "optax"), [], []
    for i, (case, plain) in enumerate({c: parse_case(c) for c in arguments.cases}.items()):
        methods = arguments.methods or (METHODS if i == 0 else ("auto",))
        baseline = None
        for method in ("baseline", *methods):
            if method == "baseline":
                config = dataclasses.replace(plain, variant="baseline")
            else:
                config = dataclasses.replace(plain, som=Som(method=method))
            found = compile_step(config, device)
            accessed = sum(kernel.bytes for kernel in found)
            baseline = baseline or (accessed, len(found))
            rows.append(
                [
                    case,
                    method,
                    f"{accessed / 1e6:.0f}",
                    f"{accessed / baseline[0]:.3f}",
                    str(len(found)),
                    f"{len(found) - baseline[1]:+d}",
                ]
            )
            print(" | ".join(rows[-1]), flush=True)
            opcodes = collections.Counter(kernel.opcode for kernel in found)
            figures = {"bytes": accessed, "kernels": len(found), "opcodes": dict(opcodes)}
            results.append({"case": case, "method": method, **figures})
    report(
        "Training step compiled for an H100: the compiler's kernels, not timings",
        header,
        COLUMNS,
        rows,
        results,
        arguments.output,
    )


def compile_step(config: Config, device: jax.Device) -> list[Kernel]:
    """Compiles a call of many steps on CIFAR-100, from shapes alone; returns a step's kernels."""
    compiled = lower_step(config, cifar(32), [device], steps=STEPS).compile()
    # A loop inside of a step would make its kernels run a multiple of that.
    return [
        kernel._replace(bytes=kernel.bytes * kernel.times // STEPS)
        for kernel in kernels(compiled.as_text())
        if kernel.times % STEPS == 0
    ]


def _device():
    """Returns an H100 that programs can be compiled for."""
    if importlib.util.find_spec("jax_cuda12_plugin") is None:
        raise SystemExit("The GPU compiler is missing: pip install -e '.[gpu-compile]'")
    described = topologies.get_topology_desc(
        platform="cuda", topology_name="", target_config=H100, topology="1x1x1"
    )
    return described.devices[0]


if __name__ == "__main__":
    main(tyro.cli(Arguments))
