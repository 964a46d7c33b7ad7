"""The list that the kit works down: checks, timings, and rows of the paper's tables.

    python benchmarks/gpu/tasks.py PROCESS STORE OUT DEADLINE NAME ... [--tiny]

The kit starts it, once for each kind of process; see kit.py. A task is a line of OUT/results.jsonl
when it begins, and another one with its result when it ends. A task that is done is not done again,
one that failed is tried again, and a training run that was cut off is resumed.
"""

import argparse
import dataclasses
import itertools
import json
import os
import runpy
import signal
import sys
import time
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[2]
RESULTS = "results.jsonl"
SEEDS = range(5)
VARIANTS = ("baseline", "constant", "decreasing")
FORMS = ("auto", "matmul", "banded", "separable", "conv")
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
    run: Callable[["Kit"], dict[str, Any]]


class Kit:
    """What tasks share: the data set and where things lie."""

    def __init__(self, store: Path, tiny: bool):
        self.store, self.tiny = store, tiny

    @cached_property
    def dataset(self) -> Any:
        """CIFAR-100 from its pieces; at the tiny size handwritten digits."""
        if self.tiny:
            from lgnn_jax import data

            return data.load("digits", train_images=256)
        import pieces

        return pieces.unpack(self.store)

    def config(self, case: str, **changes: Any) -> Any:
        """The run that `name[@width],batch[,dtype]` stands for, on the data set."""
        from timing import parse_case

        from lgnn_jax.config import Data

        if self.tiny:
            name, _, rest = case.partition(",")
            case = f"{name}@{1 / 16},{','.join(['64', *rest.split(',')[1:]])}"
        config = parse_case(case)
        kept = Data(self.dataset.name, pad=config.data.pad, flip=not self.tiny)
        return dataclasses.replace(config, data=kept, **changes)


def tasks() -> list[Task]:
    """The list, what gains most first."""
    bfloat16, float32 = "vgg11,128,bfloat16", "vgg11,128"
    return [
        Task("machine", "jax", 5, machine),
        Task("smoke/forms", "jax", 30, smoke_forms),
        Task("smoke/steps", "jax", 40, smoke_steps),
        Task("smoke/resume", "jax", 30, smoke_resume),
        Task("filter", "jax", 15, filter_alone),
        *_timed(bfloat16, forms=FORMS),
        *(_pytorch(bfloat16, mode) for mode in MODES),
        Task(f"profile/{bfloat16}", "jax", 25, lambda kit: profile(kit, bfloat16)),
        *(_row("vgg11_cifar100", v, s, 45) for s in SEEDS for v in VARIANTS),
        *(
            Task(
                f"together/{name}/{bfloat16}",
                "alone",
                60,
                lambda kit, shared=shared: together(kit, bfloat16, 2, shared=shared),
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
                lambda kit: timings(kit, bfloat16, ("auto",)),
            )
            for name in FLAGS
        ),
        *_timed("wrn16_8,128,bfloat16", forms=("auto",)),
        *(_pytorch("wrn16_8,128,bfloat16", mode) for mode in MODES),
        *(_row("wrn16_8_cifar100", v, 0, 400) for v in VARIANTS),
        *(_row("vgg19_cifar100", v, 0, 200) for v in VARIANTS),
    ]


def _timed(case: str, *, forms: tuple[str, ...]) -> Iterator[Task]:
    yield Task(f"time/{case}", "jax", 30 * len(forms), lambda kit: timings(kit, case, forms))


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
        lambda kit: table_row(kit, name, variant, seed),
    )


def machine(kit: Kit) -> dict[str, Any]:
    """What it runs on; fails where JAX finds no GPU."""
    import jax
    from timing import environment

    device = jax.devices()[0]
    if device.platform == "cpu" and not kit.tiny:
        raise TaskError("JAX finds no GPU: install jax[cuda12] or jax[cuda13], or pass --tiny.")
    found = environment("jax", "jaxlib", "flax", "optax", "torch")
    return {
        "device": device.device_kind,
        "compute_capability": str(getattr(device, "compute_capability", "")),
        "images": len(kit.dataset.train_images),
        **{name: value for name, value in found.items() if name != "load before"},
    }


def smoke_forms(kit: Kit) -> dict[str, Any]:
    """The relative error of each form of the filter, against float64 in numpy."""
    import jax.numpy as jnp
    import numpy as np

    from lgnn_jax.filtering import low_pass
    from lgnn_jax.som import gaussian_taps

    dims = (4, 2) if kit.tiny else (32, 16)
    count = dims[0] * dims[1]
    gradient = np.random.default_rng(0).normal(size=(3, 3, count, count))
    errors = {}
    for dtype, bound in (("float32", 1e-5), ("bfloat16", 6e-3)):
        given = jnp.asarray(gradient, dtype)
        expected = _low_pass(np.asarray(given, np.float64), dims, np.exp([-2.0, 0.0, -2.0]))
        for method in FORMS:
            actual = low_pass(given, dims, gaussian_taps(0.5), method=method)
            error = np.linalg.norm(np.asarray(actual, np.float64) - expected)
            errors[f"{method}, {dtype}"] = error = error / np.linalg.norm(expected)
            if not error < bound:
                raise TaskError(f"{method} in {dtype} is off by {error:.1e}, more than {bound}.")
    return {"errors": {name: f"{error:.0e}" for name, error in errors.items()}}


def filter_alone(kit: Kit) -> dict[str, Any]:
    """Milliseconds and relative error of the filter on a float32 gradient, by how it multiplies."""
    import jax
    import jax.numpy as jnp
    import numpy as np
    from jax.lax import DotAlgorithmPreset, Precision
    from timing import alternate

    from lgnn_jax import filtering
    from lgnn_jax.som import gaussian_taps

    dims, layers = ((4, 2), 1) if kit.tiny else ((32, 16), 5)  # as many as a VGG-11 has
    count = dims[0] * dims[1]
    gradients = np.random.default_rng(0).normal(size=(layers, 3, 3, count, count))
    gradients = jnp.asarray(gradients, jnp.float32)
    expected = _low_pass(np.asarray(gradients, np.float64), dims, np.exp([-2.0, 0.0, -2.0]))
    precisions = {"default": Precision.DEFAULT, "highest": Precision.HIGHEST}
    if jax.devices()[0].platform == "gpu":
        presets = DotAlgorithmPreset.TF32_TF32_F32_X3, DotAlgorithmPreset.BF16_BF16_F32_X3
        precisions |= {preset.name: preset for preset in presets}
    calls, errors = {}, {}
    for name, precision in precisions.items():

        @jax.jit
        def filtered(x, precision=precision):
            taps = gaussian_taps(0.5)
            return filtering._matmul(x, dims, taps, "replicate", x.ndim - 1, precision=precision)

        actual = np.asarray(filtered(gradients), np.float64)
        errors[name] = f"{np.linalg.norm(actual - expected) / np.linalg.norm(expected):.0e}"
        calls[name] = lambda f=filtered: jax.block_until_ready([f(gradients) for _ in range(10)])
    seconds = alternate(calls, 2 if kit.tiny else 15)
    milliseconds = {name: round(100 * float(np.median(x)), 4) for name, x in seconds.items()}
    return {"errors": errors, "timing": {"ms": milliseconds}}


def _low_pass(x, dims, window):
    """Equation 3 in numpy: edges repeated, rows then columns."""
    import numpy as np

    window = window / window.sum()
    maps = x.reshape(*x.shape[:-1], *dims)
    for axis in (-2, -1):
        side = maps.shape[axis]
        places = np.clip(np.arange(side)[:, None] + [-1, 0, 1], 0, side - 1)
        maps = np.moveaxis(np.moveaxis(maps, axis, -1)[..., places] @ window, -1, axis)
    return maps.reshape(x.shape)


def smoke_steps(kit: Kit) -> dict[str, Any]:
    """200 steps in float32 against those of a CPU, in reference.json.

    The bound at each step is what a change of the initial weights by 1e-7 does there, on a CPU: an
    error of rounding grows as it does.
    """
    import numpy as np

    path = Path(__file__).with_name("reference.json")
    expected = json.loads(path.read_text())["tiny" if kit.tiny else "vgg11,128"]
    losses = np.array(reference_losses(kit, len(expected["losses"])))
    difference = np.abs(losses - expected["losses"])
    bound = 1e-5 + 10 * np.maximum.accumulate(expected["spread"])
    worst = int((difference / bound).argmax())
    if not (difference < bound).all():
        raise TaskError(
            f"at step {worst + 1} the loss is {losses[worst]}, on a CPU "
            f"{expected['losses'][worst]}: more than {bound[worst]:.1e} apart."
        )
    return {"steps": len(losses), "within_bound": True}


def reference_losses(kit: Kit, steps: int, *, change: float = 0.0) -> list[float]:
    """Means of the loss over the epoch so far, after each step; in float32, at a small rate."""
    import jax
    import numpy as np

    from lgnn_jax.config import Optimizer
    from lgnn_jax.session import Session

    rate = Optimizer(learning_rate=1e-3, decay_epochs=())
    session = Session(kit.config("vgg11,128", optimizer=rate), kit.dataset, jax.devices()[:1])
    rng = np.random.default_rng(0)
    start = jax.device_get(session.initial_state)
    params = jax.tree.map(
        lambda p: p * (1 + change * rng.normal(size=p.shape)).astype(p.dtype), start.params
    )
    state, losses = session.place(start.replace(params=params)), []
    with jax.default_matmul_precision("float32"):
        for epoch in itertools.count():
            rows = session.epoch_order(epoch)
            for i, j in session.calls(0):
                state, metrics = session.train_steps(state, rows[i:j], epoch)
                losses += np.atleast_1d(jax.device_get(metrics.loss)).tolist()
                if len(losses) >= steps:
                    return losses[:steps]


def smoke_resume(kit: Kit) -> dict[str, Any]:
    """A run that is stopped in its second epoch and resumed ends with the same bits.

    In between all programs are dropped, and found on disk. Whether they give the same bits when
    compiled anew is told, and no more: XLA chooses among a GPU's kernels by timing them.
    """
    import shutil

    import jax
    from jax.experimental.compilation_cache import compilation_cache

    from lgnn_jax import session as session_lib
    from lgnn_jax.log import Log
    from lgnn_jax.run import run
    from lgnn_jax.session import Session, tree_sha256
    from lgnn_jax.signals import Stopped

    config = kit.config("vgg11,128,bfloat16", epochs=2, variant="decreasing")
    folder = kit.store / "smoke"
    shutil.rmtree(folder, ignore_errors=True)

    def train(name, resume=False):
        session_lib._programs.cache_clear()
        jax.clear_caches()
        with Log(_quiet()) as log:
            state = run(config, kit.dataset, folder / name, log, resume=resume)[2]
        return tree_sha256(jax.device_get((state.params, state.batch_stats, state.opt_state)))

    whole, steps, made = train("whole"), Session.train_steps, []

    def train_steps(self, state, rows, epoch):
        made.append(epoch)
        if made.count(1) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return steps(self, state, rows, epoch)

    Session.train_steps = train_steps
    try:
        train("cut")
    except Stopped:
        pass
    else:
        raise TaskError("the run was not stopped.")
    finally:
        Session.train_steps = steps
    if (resumed := train("cut", resume=True)) != whole:
        raise TaskError(f"the resumed run ended with {resumed[:12]}, the whole one {whole[:12]}.")
    programs = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", None)
    compilation_cache.reset_cache()
    anew = train("anew")
    jax.config.update("jax_compilation_cache_dir", programs)
    compilation_cache.reset_cache()
    return {"same_bits": True, "same_bits_compiled_anew": anew == whole}


def timings(kit: Kit, case: str, forms: tuple[str, ...]) -> dict[str, Any]:
    """Milliseconds a step: the baseline and forms of the filter, in turn; medians of 7 rounds."""
    import jax
    import numpy as np
    from timing import alternate

    from lgnn_jax.config import Som
    from lgnn_jax.session import Session

    calls = {}
    for form in ("baseline", *forms):
        variant = "baseline" if form == "baseline" else "constant"
        som = Som() if form == "baseline" else Som(method=form)
        config = kit.config(case, variant=variant, som=som)
        session = Session(config, kit.dataset, jax.devices()[:1])
        calls[form], steps = _call(session, 1 if kit.tiny else 5)
    seconds = alternate(calls, 2 if kit.tiny else 7)
    milliseconds = {name: 1e3 * values / steps for name, values in seconds.items()}
    return {
        "timing": {
            "ms": {name: round(float(np.median(x)), 4) for name, x in milliseconds.items()},
            "rounds": {name: np.round(x, 4).tolist() for name, x in milliseconds.items()},
        }
    }


def _call(session, count):
    """A function that makes the first call of an epoch `count` times; and its steps."""
    import jax

    (i, j), state = session.calls(0)[0], session.place(session.initial_state)
    rows = session.epoch_order(0)[i:j]

    def call():
        nonlocal state
        for _ in range(count):
            state, metrics = session.train_steps(state, rows, 0)
        jax.block_until_ready(metrics)

    return call, count * (j - i)


def together(kit: Kit, case: str, count: int, *, shared: bool) -> dict[str, Any]:
    """Steps a second of several runs on one GPU, each a process, added up; of one alone too.

    With `shared` they run under NVIDIA's multi-process service, which lets kernels of several
    processes run at once; without it the GPU takes turns.
    """
    import contextlib
    import shutil
    import subprocess
    import tempfile

    if shared and shutil.which("nvidia-cuda-mps-control") is None:
        raise TaskError("there is no nvidia-cuda-mps-control here.")
    script = (
        "import sys, tasks; from pathlib import Path; print(tasks.steps_a_second(tasks.Kit("
        "Path(sys.argv[1]), sys.argv[2] == 'True'), sys.argv[3], Path(sys.argv[4]), "
        "int(sys.argv[5])))"
    )

    def rates(processes, environment):
        with tempfile.TemporaryDirectory() as meeting:
            arguments = [str(kit.store), str(kit.tiny), case, meeting, str(processes)]
            running = [
                subprocess.Popen(
                    [sys.executable, "-c", script, *arguments],
                    env=environment,
                    stdout=subprocess.PIPE,
                    text=True,
                )
                for _ in range(processes)
            ]
            try:
                said = [process.communicate()[0] for process in running]
            finally:
                for process in running:
                    process.kill()
        if any(process.returncode for process in running):
            raise TaskError(f"one of {processes} processes ended with an error.")
        return [float(text.splitlines()[-1]) for text in said]

    with contextlib.ExitStack() as stack:
        environment = dict(os.environ)
        if shared:
            folder = stack.enter_context(tempfile.TemporaryDirectory())
            environment |= {"CUDA_MPS_PIPE_DIRECTORY": folder, "CUDA_MPS_LOG_DIRECTORY": folder}
            control = ["nvidia-cuda-mps-control"]
            subprocess.run([*control, "-d"], env=environment, check=True)
            stop = {"input": "quit\n", "text": True, "env": environment}
            stack.callback(subprocess.run, control, **stop)
        alone = rates(1, environment)
        found = rates(count, environment)
    added = sum(found)
    return {
        "timing": {
            "alone": round(alone[0], 1),
            "together": [round(rate, 1) for rate in found],
            "added_up": round(added, 1),
            "ms": {"alone": round(1e3 / alone[0], 4), f"{count} together": round(1e3 / added, 4)},
        }
    }


def steps_a_second(kit: Kit, case: str, meeting: Path, processes: int) -> float:
    """Trains for some seconds once all processes are ready, which they tell by a file each."""
    import jax

    from lgnn_jax import compilation
    from lgnn_jax.session import Session

    compilation.prepare()
    session = Session(kit.config(case), kit.dataset, jax.devices()[:1])
    call, steps = _call(session, 1)
    call()
    (meeting / str(os.getpid())).touch()
    patience = time.time() + 120
    while len(list(meeting.iterdir())) < processes:
        if time.time() > patience:
            raise TaskError("another process did not come.")
        time.sleep(0.01)
    started, made = time.perf_counter(), 0
    while (seconds := time.perf_counter() - started) < (1 if kit.tiny else 8):
        call()
        made += steps
    return made / seconds


def profile(kit: Kit, case: str) -> dict[str, Any]:
    """The kernels of a filtered step by the time they take, from one call under the profiler."""
    import collections
    import shutil

    import jax

    from lgnn_jax.session import Session

    session = Session(kit.config(case), kit.dataset, jax.devices()[:1])
    call, steps = _call(session, 1)
    call()
    folder = kit.store / "profile"
    shutil.rmtree(folder, ignore_errors=True)
    with jax.profiler.trace(folder):
        call()
    (path,) = folder.rglob("*.xplane.pb")
    data = jax.profiler.ProfileData.from_file(str(path))
    planes = [plane for plane in data.planes if plane.name.startswith("/device:")]
    if not planes:
        return {"timing": {"kernels": {}}}  # a CPU's operations are no device's
    spent, times, spans = collections.Counter(), collections.Counter(), []
    for line in planes[0].lines:
        if not line.name.startswith("Stream"):
            continue
        for event in line.events:
            spent[event.name] += event.duration_ns
            times[event.name] += 1
            spans.append((event.start_ns, event.start_ns + event.duration_ns))
    busy, end = 0.0, 0.0
    for start, stop in sorted(spans):
        busy += max(0.0, stop - max(start, end))
        end = max(end, stop)
    whole = max(stop for _, stop in spans) - min(start for start, _ in spans)
    return {
        "timing": {
            "us_a_step": round(whole / steps / 1e3, 1),
            "busy_us_a_step": round(busy / steps / 1e3, 1),
            "kernels_a_step": round(sum(times.values()) / steps, 1),
            "kernels": {
                name[:100]: [round(ns / steps / 1e3, 2), round(times[name] / steps, 2)]
                for name, ns in spent.most_common(60)
            },
        }
    }


def table_row(kit: Kit, name: str, variant: str, seed: int) -> dict[str, Any]:
    """Trains a run of the paper's tables in bfloat16; one that was cut off goes on."""
    from lgnn_jax.config import Data, Model
    from lgnn_jax.sweep import RESULT, sweep

    config = runpy.run_path(str(ROOT / "configs" / f"{name}.py"))["config"]
    model = dataclasses.replace(config.model, dtype="bfloat16")
    # A checkpoint of a wide network takes as long as two epochs.
    config = dataclasses.replace(config, variant=variant, model=model, checkpoint_every=50)
    if kit.tiny:
        model = Model(model.name, width=1 / 16, dtype="bfloat16")
        images = Data(kit.dataset.name, flip=False)
        schedule = dataclasses.replace(config.optimizer, learning_rate=0.01, decay_epochs=(1,))
        config = dataclasses.replace(
            config, epochs=2, batch_size=64, model=model, data=images, optimizer=schedule
        )
    folder = kit.store / "runs" / name
    failures = sweep({variant: config}, [seed], kit.dataset, folder, _quiet())
    if failures:
        raise TaskError(next(iter(failures.values())))
    result = json.loads((folder / variant / f"seed_{seed}" / RESULT).read_text())
    timing = ("wall_seconds", "compile_seconds", "machine", "date", "devices", "versions")
    return {
        **{name: value for name, value in result.items() if name not in timing},
        "timing": {name: result[name] for name in timing},
    }


class TaskError(Exception):
    """A task that cannot be done, or whose outcome is not what it must be; one clear line."""


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
        from lgnn_jax import compilation

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


def _quiet():
    from rich.console import Console

    return Console(quiet=True)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except BaseException as error:
        from lgnn_jax.signals import Stopped

        if not isinstance(error, Stopped):
            raise
        sys.exit(128 + error.number)
