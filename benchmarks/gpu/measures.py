"""Timings, and training runs of the paper's tables."""

import dataclasses
import json
import os
import runpy
import sys
import time
from pathlib import Path
from typing import Any

from common import Kit, TaskError, quiet

ROOT = Path(__file__).resolve().parents[2]


def timings(kit: Kit, case: str, forms: tuple[str, ...]) -> dict[str, Any]:
    """Milliseconds a step: the baseline and forms of the filter, in turn; medians of 7 rounds."""
    import jax
    import numpy as np
    from timing import alternate

    from lgnn_jax.training.config import Som
    from lgnn_jax.training.session import Session

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
        "import sys; from pathlib import Path; from common import Kit; from measures import "
        "steps_a_second; print(steps_a_second(Kit(Path(sys.argv[1]), sys.argv[2] == 'True'), "
        "sys.argv[3], Path(sys.argv[4]), int(sys.argv[5])))"
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

    from lgnn_jax.training import compilation
    from lgnn_jax.training.session import Session

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

    from lgnn_jax.training.session import Session

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
    from lgnn_jax.experiments.sweep import RESULT, sweep
    from lgnn_jax.training.config import Data, Model

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
    failures = sweep({variant: config}, [seed], kit.dataset, folder, quiet())
    if failures:
        raise TaskError(next(iter(failures.values())))
    result = json.loads((folder / variant / f"seed_{seed}" / RESULT).read_text())
    timing = ("wall_seconds", "compile_seconds", "machine", "date", "devices", "versions")
    return {
        **{name: value for name, value in result.items() if name not in timing},
        "timing": {name: result[name] for name in timing},
    }
