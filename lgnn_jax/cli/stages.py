"""How far a command is, in stages."""

from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import Progress

from lgnn_jax.cli.show import say
from lgnn_jax.training import notebook


class Stages:
    """Shows how far a long command is: a bar where it can move, a line for each stage elsewhere."""

    def __init__(self, console: Console):
        """Shows it on `console`, or in the notebook that it is in."""
        self._console, self._stage = console, None
        self._notebook = notebook.Display() if console.is_jupyter else None
        self._bar = Progress(console=console, transient=True, disable=not console.is_terminal)
        self._task = self._bar.add_task("")

    def __enter__(self) -> "Stages":
        """Returns itself."""
        self._bar.start()
        return self

    def __exit__(self, *exception: Any) -> None:
        """Ends the bar."""
        self._bar.stop()
        if self._notebook is not None:
            self._notebook.close(keep_bar=False)

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Notes that `done` of `total` parts of a stage are done."""
        if self._notebook is not None:
            self._notebook.move(done, total, stage)
            return
        if stage != self._stage and not self._console.is_terminal:
            say(self._console, stage)
        self._stage = stage
        self._bar.update(self._task, description=escape(stage), completed=done, total=total)
