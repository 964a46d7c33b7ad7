"""What a run says: a bar on a terminal or in a notebook, lines elsewhere; and metrics.jsonl."""

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from lgnn_jax.training import notebook
from lgnn_jax.training.files import replace_text, sync


class Log:
    """Shows progress and keeps metrics; a context manager.

    Attributes:
      records: every line of metrics.jsonl so far, those before a resume included.
    """

    def __init__(self, console: Console | None = None, *, tensorboard: bool = False):
        """Writes to `console`, by default standard output; and event files, if asked to."""
        self.console = console or Console()
        self._tensorboard, self._events = tensorboard, None
        self.records: list[dict[str, Any]] = []
        self._file = None
        self._bar = None
        self._task = None
        in_notebook = self.console.is_jupyter and not self.console.quiet
        self._notebook = notebook.Display() if in_notebook else None
        self._started = time.perf_counter()
        self._total_steps = self._steps_per_epoch = 1

    def __enter__(self) -> "Log":
        """Returns itself."""
        return self

    def __exit__(self, *exception: Any) -> None:
        """Ends the bar and closes metrics.jsonl."""
        if self._bar is not None:
            self._bar.stop()
        if self._notebook is not None:
            self._notebook.close()
        with contextlib.suppress(OSError):
            if self._events is not None:
                self._events.close()
        if self._file is not None:
            with contextlib.suppress(OSError):  # of a line whose writing has failed already
                self._file.close()

    def start(
        self, path: Path, *, write: bool, total_steps: int, steps_per_epoch: int, step: int = 0
    ) -> None:
        """Opens metrics.jsonl and the bar.

        Args:
          path: of metrics.jsonl.
          write: whether this process keeps it.
          total_steps: of the whole run.
          steps_per_epoch: of an epoch.
          step: to go on from; lines of later steps, and a torn last line, are dropped.

        Raises:
          ValueError: if metrics.jsonl is damaged elsewhere than in its last line.
        """
        self._total_steps, self._steps_per_epoch = total_steps, steps_per_epoch
        self.records = [r for r in _read(path) if r["step"] <= step]
        if write:
            replace_text(path, "".join(json.dumps(record) + "\n" for record in self.records))
            self._file = path.open("a")
            self._path = path
        if write and self._tensorboard:
            from lgnn_jax.training.tensorboard import Events  # an extra

            self._events = Events(path.parent, step)
        before = self.records[-1]["seconds"] if self.records else 0.0
        self._started = time.perf_counter() - before
        if self.console.is_terminal:
            self._bar = Progress(
                TextColumn("epoch {task.fields[epoch]}"),
                BarColumn(bar_width=None),
                TextColumn("step {task.completed}/{task.total}  {task.fields[status]}"),
                TimeRemainingColumn(compact=True, elapsed_when_finished=True),
                console=self.console,
            )
            epoch = f"{step // steps_per_epoch + 1}/{total_steps // steps_per_epoch}"
            self._task = self._bar.add_task(
                "", total=total_steps, completed=step, epoch=epoch, status="..."
            )
            self._bar.start()

    def seconds(self) -> float:
        """Returns the time of training and testing, without pauses before a resume."""
        return time.perf_counter() - self._started

    def progress(self, step: int, metrics: Any) -> None:
        """Moves the bar to a step; `metrics` has the loss and accuracy of the epoch so far."""
        if self._bar is None and self._notebook is None:
            return
        number = (step - 1) // self._steps_per_epoch + 1
        epoch = f"{number}/{self._total_steps // self._steps_per_epoch}"
        trained = [r for r in self.records if r["split"] == "train"]
        speed = f"  {trained[-1]['images_per_second']:,.0f} images/s" if trained else ""
        status = f"loss {metrics.loss:.3f}  accuracy {metrics.accuracy:.1%}{speed}"
        if self._bar is not None:
            self._bar.update(self._task, completed=step, epoch=epoch, status=status)
        else:
            place = f"epoch {epoch}  step {step}/{self._total_steps}"
            self._notebook.move(step, self._total_steps, f"{place}  {status}")

    def record(self, **values: Any) -> None:
        """Writes a line of metrics.jsonl, with the run's seconds; shows each test, by epoch."""
        values["seconds"] = round(self.seconds(), 3)
        self.records.append(values)
        if self._file is not None:
            self._file.write(json.dumps(values, allow_nan=False) + "\n")
            self._file.flush()
        if self._events is not None:
            self._events.scalars(values)
        if values["split"] == "test":
            trained = [r for r in self.records if r["split"] == "train"]
            self._say_epoch(trained[-1] if trained else None, values)

    def filters(self, step: int, map: Any, kernel: Callable[[], Any]) -> None:
        """Shows the first layer's map where pictures are kept; `kernel` is called only there."""
        if self._events is not None:
            self._events.filters(kernel(), map, step)

    def _say_epoch(self, trained: dict[str, Any] | None, tested: dict[str, Any]) -> None:
        step, epochs = tested["step"], self._total_steps // self._steps_per_epoch
        left = (self._total_steps - step) * tested["seconds"] / step
        self.say(
            f"epoch {tested['epoch'] + 1:>{len(str(epochs))}}/{epochs}"
            + (
                f"  loss {trained['loss']:.4f}  accuracy {trained['accuracy']:.2%}"
                if trained
                else ""
            )
            + f"  test {tested['accuracy']:.2%}"
            + (f"  {trained['images_per_second']:,.0f} images/s" if trained else "")
            + (f"  {duration(left)} left" if left else "")
        )

    def sync(self) -> None:
        """Waits until all lines of metrics.jsonl are on disk, so that no checkpoint is ahead."""
        if self._file is not None:
            sync(self._path)

    @contextlib.contextmanager
    def doing(self, what: str) -> Iterator[None]:
        """Shows, where something can move, what is being done that has no steps to count."""
        if not self.console.is_jupyter:
            with self.console.status(what):
                yield
            return
        if self._notebook is not None:
            self._notebook.wait(what)
        yield
        if self._notebook is not None:
            self._notebook.wait("")

    def say(self, text: str) -> None:
        """Prints a line, above the bar if there is one."""
        if self._notebook is not None:
            self._notebook.say(text)
            return
        self.console.print(text, highlight=False, soft_wrap=True)


# What is read of a line of metrics.jsonl.
_READ = {"step": int, "split": str, "accuracy": (int, float), "seconds": (int, float)}


def _read(path: Path) -> list[dict[str, Any]]:
    """Reads metrics.jsonl; the end of its last line may be missing."""
    records = []
    lines = path.read_text(errors="replace").splitlines() if path.exists() else []
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
        except ValueError:
            record = None
        if isinstance(record, dict) and all(
            isinstance(record.get(name), kind) for name, kind in _READ.items()
        ):
            records.append(record)
        elif number < len(lines):
            raise ValueError(f"{path}, line {number}, is damaged: {line[:60]!r}.")
    return records


def duration(seconds: float) -> str:
    """Returns a time as "minutes:seconds" or "hours:minutes:seconds"."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
