"""A quarter of an hour on a GPU, used well: checks, timings and rows of the paper's tables.

    python benchmarks/gpu/kit.py pack --data-dir DIR [--wheels 3.12]
    python benchmarks/gpu/kit.py receive
    python benchmarks/gpu/kit.py work --seconds 600
    python benchmarks/gpu/kit.py report

`pack` is for the machine at home, the others are for the one with the GPU; README.md beside this
file says more. Needs nothing but Python itself: what else is missing is installed from wheels.
"""

import argparse
import hashlib
import importlib.metadata
import importlib.util
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
KIT = ROOT / "build" / "gpu_kit"  # what `pack` writes, and travels
STORE = Path.home() / ".cache" / "lgnn_jax_gpu"  # what `receive` keeps on the machine with the GPU
OUT = ROOT / "build" / "gpu_results"
# What the package needs and an image with JAX, Flax, Optax and Orbax may lack.
WHEELS = ("annotated-types", "filelock", "pydantic", "pydantic-core", "typing-inspection", "rich")
MODULES = ("pydantic", "filelock", "rich")
GRACE = 20  # seconds that a run gets to write its checkpoint


class KitError(Exception):
    """What cannot be done; one clear line."""


def pack(arguments: argparse.Namespace) -> None:
    """Writes the data set in pieces, and wheels, into a folder that travels."""
    _paths()
    import pieces

    from lgnn_jax.training import data

    try:
        written = pieces.pack(data.load(arguments.data, arguments.data_dir), arguments.kit)
    except (data.DataError, pieces.PieceError) as error:
        raise KitError(str(error)) from None
    if arguments.wheels:
        folder = arguments.kit / "wheels"
        pins = [f"{name}=={importlib.metadata.version(name)}" for name in WHEELS]
        tags = [f"manylinux_2_{minor}_x86_64" for minor in (17, 24, 27, 28, 34)]
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        command += ["--only-binary=:all:", "--python-version", arguments.wheels]
        command += [f"--platform={tag}" for tag in (*tags, "manylinux2014_x86_64")]
        if subprocess.run([*command, "--dest", folder, *pins]).returncode:
            raise KitError(f"wheels for Python {arguments.wheels} cannot be had; pip says why.")
        written += sorted(folder.iterdir())
    for path in written:
        print(f"{path.stat().st_size / 2**20:7.1f} MiB  {path}")


def receive(arguments: argparse.Namespace) -> None:
    """Keeps what has come of the kit, piece by piece, each checked; says what is still missing."""
    manifest_path = arguments.kit / "manifest.json"
    try:
        manifest = json.loads(manifest_path.read_text())
    except (OSError, ValueError) as error:
        raise KitError(f"{manifest_path} cannot be read: {error}.") from None
    arguments.store.mkdir(parents=True, exist_ok=True)
    shutil.copy(manifest_path, arguments.store)
    wheels = arguments.kit / "wheels"
    if wheels.is_dir():
        shutil.copytree(wheels, arguments.store / "wheels", dirs_exist_ok=True)
    missing = []
    for name, expected in manifest["pieces"].items():
        source, kept = arguments.kit / name, arguments.store / name
        if source.exists():
            if (found := _sha256(source)) != expected:
                raise KitError(f"{source} is damaged: its SHA-256 is {found}, not {expected}.")
            shutil.copy(source, kept)
        if not kept.exists() or _sha256(kept) != expected:
            missing.append(name)
    print(f"missing: {', '.join(missing)}" if missing else "the data set is complete")


def work(arguments: argparse.Namespace) -> int:
    """Works down the list until the time is up; returns how many tasks failed.

    Each kind of process does its tasks in a child, so that what one breaks is not another's.
    """
    deadline = time.time() + arguments.seconds
    arguments.store.mkdir(parents=True, exist_ok=True)
    arguments.out.mkdir(parents=True, exist_ok=True)
    environment = _environment(arguments)
    _paths()
    import tasks

    # By then children are asked to stop; what they write meanwhile is in the time, too.
    stop = deadline - min(GRACE, arguments.seconds / 4)
    tried, failed = set(), []
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        while True:
            todo = [task for task in tasks.pending(arguments.out) if task.name not in tried]
            if arguments.only:
                todo = [task for task in todo if task.name.startswith(tuple(arguments.only))]
            if not arguments.tiny:
                todo = [task for task in todo if time.time() + task.seconds <= stop]
            if not todo or time.time() > stop or "machine" in failed:
                break
            # Those that follow in the list and need the same kind of process.
            _, group = next(itertools.groupby(todo, key=lambda task: task.process))
            begun = _child(arguments, list(group), environment, stop)
            tried |= begun
            outcomes = tasks.done(arguments.out)
            failed += [name for name in begun if outcomes.get(name, {}).get("status") == "failed"]
    except KeyboardInterrupt:
        failed.append("interrupted")
    report(arguments)
    left = [task.name for task in tasks.pending(arguments.out)]
    names = ", ".join(left[:5]) + (", ..." if len(left) > 5 else "")
    print(f"\n{len(left)} tasks are left" + (f": {names}" if left else ""))
    return len(failed)


def report(arguments: argparse.Namespace) -> None:
    """Prints what there is as Markdown tables."""
    _paths()
    import show

    print(show.report(arguments.out))


def reference(arguments: argparse.Namespace) -> None:
    """Writes reference.json, for the check of 200 steps, on a CPU."""
    os.environ["JAX_PLATFORMS"] = "cpu"
    _paths()
    import checks
    import common

    found = {}
    for name, tiny, steps in (("tiny", True, 20), ("vgg11,128", False, 200)):
        kit = common.Kit(arguments.store, tiny)
        losses = checks.reference_losses(kit, steps)
        changed = checks.reference_losses(kit, steps, change=1e-7)
        spread = [abs(a - b) for a, b in zip(losses, changed, strict=True)]
        found[name] = {"losses": losses, "spread": spread}
    (HERE / "reference.json").write_text(json.dumps(found) + "\n")


def _child(arguments, todo, environment, stop):
    """Does tasks in a process of their own, until it is to stop; returns those that were begun.

    A task whose process ends in the middle, or that takes far too long, has failed.
    """
    import tasks

    process, seconds = todo[0].process, {task.name: task.seconds for task in todo}
    if flags := tasks.FLAGS.get(process.partition(":")[2]):
        flags = f"{environment.get('XLA_FLAGS', '')} {flags}".strip()
        environment = environment | {"XLA_FLAGS": flags}
    command = [sys.executable, str(HERE / "tasks.py"), process, str(arguments.store)]
    command += [str(arguments.out), str(stop), *seconds] + ["--tiny"] * arguments.tiny
    before = len(tasks.entries(arguments.out))
    child = subprocess.Popen(command, env=environment)
    why = None
    try:
        while child.poll() is None and why is None:
            time.sleep(0.2)
            if time.time() > stop:
                why = "time is up"
            elif (last := tasks.entries(arguments.out)[before:]) and last[-1]["status"] == "begun":
                task = last[-1]["task"]
                if time.time() - last[-1]["time"] > 60 + 5 * seconds[task]:
                    why = "it took too long"
    except KeyboardInterrupt:  # the child has the signal, too: a second one would end it at once
        _wait(child)
        raise
    finally:
        if child.poll() is None:
            child.terminate()
            _wait(child)
    if why == "time is up":
        print(why, flush=True)
    mine = tasks.entries(arguments.out)[before:]
    begun = {entry["task"] for entry in mine}
    if why == "time is up":
        return begun
    # If none is under way, the process ended on its way to the next, or after the last.
    under_way = [entry["task"] for entry in mine[-1:] if entry["status"] == "begun"]
    under_way += [name for name in seconds if name not in begun]
    if not child.returncode or not under_way:
        return set(seconds)  # those that it passed over, for want of time, too
    why = why or f"its process ended with status {child.returncode}"
    tasks.write(arguments.out, {"task": under_way[0], "status": "failed", "why": why})
    print(f"{under_way[0]}: {why}", flush=True)
    return begun | {under_way[0]}


def _wait(child):
    try:
        child.wait(timeout=GRACE)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def _environment(arguments):
    """Of the children: where modules are found, memory taken as needed, and a cache that stays."""
    environment = dict(os.environ)
    missing = [name for name in MODULES if importlib.util.find_spec(name) is None]
    site, wheels = arguments.store / "site", arguments.store / "wheels"
    if missing and not site.exists():
        if not wheels.is_dir():
            raise KitError(
                f"there is no {missing[0]}, and no wheels in {wheels}: pack with --wheels "
                f"{sys.version_info.major}.{sys.version_info.minor}, and receive them."
            )
        begun = site.with_name("site.begun")
        shutil.rmtree(begun, ignore_errors=True)
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps"]
        command += ["--target", str(begun), *map(str, wheels.glob("*.whl"))]
        if subprocess.run(command).returncode:
            raise KitError(f"the wheels in {wheels} cannot be installed; pip says why.")
        begun.rename(site)
    places = [ROOT, HERE.parent, HERE, *([site] if site.exists() else [])]
    places += [environment["PYTHONPATH"]] if environment.get("PYTHONPATH") else []
    environment["PYTHONPATH"] = os.pathsep.join(map(str, places))
    environment["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
    environment.setdefault("JAX_COMPILATION_CACHE_DIR", str(arguments.store / "programs"))
    return environment


def _paths():
    sys.path[:0] = map(str, (ROOT, HERE.parent, HERE))


def _sha256(path):
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def main() -> None:
    """Parses the command and does it."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    commands = parser.add_subparsers(required=True)

    def command(function, *options):
        sub = commands.add_parser(function.__name__, help=function.__doc__.partition("\n")[0])
        sub.set_defaults(function=function)
        places = {"kit": (KIT, "what travels"), "store": (STORE, "what is kept where the GPU is")}
        places["out"] = (OUT, "results")
        for option in options:
            default, text = places[option]
            sub.add_argument(
                f"--{option}", type=Path, default=default, help=f"{text} (default: {default})"
            )
        return sub

    sub = command(pack, "kit")
    sub.add_argument("--data", default="cifar100", help="data set (default: cifar100)")
    sub.add_argument("--data-dir", type=Path, help="where a prepared copy lies")
    sub.add_argument("--wheels", metavar="X.Y", help="Python version to bring wheels for")
    command(receive, "kit", "store")
    sub = command(work, "store", "out")
    sub.add_argument("--seconds", type=float, default=600, help="time for all (default: 600)")
    sub.add_argument("--only", nargs="+", metavar="NAME", help="tasks that begin so, as in time/")
    sub.add_argument("--tiny", action="store_true", help="on any machine, at the smallest size")
    command(report, "out")
    command(reference, "store")
    arguments = parser.parse_args()
    try:
        sys.exit(1 if arguments.function(arguments) else 0)
    except KitError as error:
        raise SystemExit(f"kit: {error}") from None
    except OSError as error:
        raise SystemExit(f"kit: {error.filename or ''}: {error.strerror or error}") from None


if __name__ == "__main__":
    main()
