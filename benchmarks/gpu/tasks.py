"""The list that the kit works down: checks, timings, and rows of the paper's tables.

    python benchmarks/gpu/tasks.py PROCESS STORE OUT DEADLINE NAME ... [--tiny]

The kit starts it, once for each kind of process; see kit.py. A task is a line of OUT/results.jsonl
when it begins, and another one with its result when it ends. A task that is done is not done again,
one that failed is tried again, and a training run that was cut off is resumed.
"""

import argparse
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import checks
import measures
from common import FORMS, Kit, TaskError

RESULTS = "results.jsonl"
SEEDS = range(5)
VARIANTS = ("baseline", "constant", "decreasing")
MODES = ("eager", "graph", "compiled")
# Switches of the compiler that may help; each in a process of its own, since XLA reads them once.
FLAGS = {
    "any-order": "--xla_gpu_exclude_nondeterministic_ops=false",
    "graph-of-loops": "--xla_gpu_enable_command_buffer=FUSION,CUBLAS,CUBLASLT,CUDNN,WHILE",
    "no-graphs": "--xla_gpu_enable_command_buffer=",
    "latency-hiding": "--xla_gpu_enable_latency_hiding_scheduler=true",
    "no-triton": "--xla_gpu_enable_triton_gemm=false",
}


class Task(NamedTuple):
    """An entry of the list."""

    name: str
    process: str  # "jax", "pytorch", "jax:" and a name of FLAGS, or "alone": it starts its own
    seconds: float  # on an H200; with less time left it is not begun
    run: Callable[[Kit], dict[str, Any]]


def tasks() -> list[Task]:
    """The list, what gains most first."""
    bfloat16, float32 = "vgg11,128,bfloat16", "vgg11,128"
    return [
        Task("machine", "jax", 5, checks.machine),
        Task("smoke/forms", "jax", 30, checks.smoke_forms),
        Task("smoke/steps", "jax", 40, checks.smoke_steps),
        Task("smoke/resume", "jax", 30, checks.smoke_resume),
        Task("filter", "jax", 15, checks.filter_alone),
        *_timed(bfloat16, forms=FORMS),
        *(_pytorch(bfloat16, mode) for mode in MODES),
        Task(f"profile/{bfloat16}", "jax", 25, lambda kit: measures.profile(kit, bfloat16)),
        *(_row("vgg11_cifar100", v, s, 45) for s in SEEDS for v in VARIANTS),
        *(
            Task(
                f"together/{name}/{bfloat16}",
                "alone",
                60,
                lambda kit, shared=shared: measures.together(kit, bfloat16, 2, shared=shared),
            )
            for name, shared in (("in-turn", False), ("at-once", True))
        ),
        *_timed(float32, forms=("auto", "matmul")),
        *(_pytorch(float32, mode) for mode in MODES),
        *(
            Task(
                f"flags/{name}/{bfloat16}",
                f"jax:{name}",
                45,
                lambda kit: measures.timings(kit, bfloat16, ("auto",)),
            )
            for name in FLAGS
        ),
        *_timed("wrn16_8,128,bfloat16", forms=("auto",)),
        *(_pytorch("wrn16_8,128,bfloat16", mode) for mode in MODES),
        *(_row("wrn16_8_cifar100", v, 0, 400) for v in VARIANTS),
        *(_row("vgg19_cifar100", v, 0, 200) for v in VARIANTS),
    ]


def _timed(case: str, *, forms: tuple[str, ...]) -> Iterator[Task]:
    yield Task(
        f"time/{case}", "jax", 30 * len(forms), lambda kit: measures.timings(kit, case, forms)
    )


def _pytorch(case: str, mode: str) -> Task:
    def run(kit):
        import torch_steps

        return torch_steps.timings(kit, case, mode)

    return Task(f"pytorch/{mode}/{case}", "pytorch", 90 if mode == "compiled" else 25, run)


def _row(name: str, variant: str, seed: int, seconds: float) -> Task:
    return Task(
        f"table/{name}/{variant}/seed_{seed}",
        "jax",
        seconds,
        lambda kit: measures.table_row(kit, name, variant, seed),
    )


def entries(out: Path) -> list[dict[str, Any]]:
    """Reads the lines of the results; torn ones are left out."""
    path, found = out / RESULTS, []
    for line in path.read_text(errors="replace").splitlines() if path.exists() else []:
        try:
            entry = json.loads(line)
            found.append({"task": str(entry["task"]), "status": str(entry["status"]), **entry})
        except (ValueError, KeyError, TypeError):
            continue
    return found


def done(out: Path) -> dict[str, dict[str, Any]]:
    """Reads what there is, by task: its last line."""
    return {entry["task"]: entry for entry in entries(out)}


def write(out: Path, entry: dict[str, Any]) -> None:
    """Adds a line to the results; it is on disk when this returns."""
    path = out / RESULTS
    torn = path.exists() and path.read_bytes()[-1:] not in (b"\n", b"")
    with path.open("a") as file:
        file.write("\n" * torn + json.dumps(entry) + "\n")
        file.flush()
        os.fsync(file.fileno())


def pending(out: Path) -> list[Task]:
    """The tasks that are not done."""
    found = done(out)
    return [task for task in tasks() if found.get(task.name, {}).get("status") != "done"]


def main() -> int:
    """Works down the tasks of one kind of process."""
    parser = argparse.ArgumentParser()
    parser.add_argument("process")
    parser.add_argument("store", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("deadline", type=float, help="seconds since the epoch")
    parser.add_argument("names", nargs="*", help="of the tasks to do")
    parser.add_argument("--tiny", action="store_true")
    arguments = parser.parse_args()
    # As an exception, so that what a task has started is ended; a run holds it back meanwhile.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    kit = Kit(arguments.store, arguments.tiny)
    if arguments.process.startswith("jax"):
        from lgnn_jax.training import compilation

        compilation.prepare()
    for task in pending(arguments.out):
        if task.process != arguments.process or task.name not in arguments.names:
            continue
        if not arguments.tiny and time.time() + task.seconds > arguments.deadline:
            continue
        print(f"{task.name} ...", flush=True)
        started, entry = time.time(), {"task": task.name, "status": "done"}
        write(arguments.out, {"task": task.name, "status": "begun", "time": started})
        try:
            entry["result"] = task.run(kit)
        except Exception as error:  # of whatever class: the next task is worth a try
            entry |= {"status": "failed", "why": _one_line(error)}
        entry["seconds"] = round(time.time() - started, 1)
        write(arguments.out, entry)
        print(f"{task.name}: {entry.get('why', 'done')} ({entry['seconds']} s)", flush=True)
        if entry["status"] == "failed" and task.name == "machine":
            return 0  # nothing else can be done here
    return 0


def _one_line(error):
    text = " ".join(str(error).split())
    if "RESOURCE_EXHAUSTED" in text or "out of memory" in text:
        return f"the GPU's memory is too small: {text:.200}"
    return f"{'' if isinstance(error, TaskError) else type(error).__name__ + ': '}{text:.300}"


if __name__ == "__main__":
    try:
        sys.exit(main())
    except BaseException as error:
        from lgnn_jax.training.signals import Stopped

        if not isinstance(error, Stopped):
            raise
        sys.exit(128 + error.number)
