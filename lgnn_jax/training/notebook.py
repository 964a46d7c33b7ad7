"""What a long command says in a notebook: one output that is rewritten, however long it takes.

Rich's own live displays need ipywidgets there, and leave nothing in a notebook that is saved. This
needs only IPython, which every notebook's kernel has, and the last that it showed is kept.
"""

import time

_FIRST, _NEWEST = 3, 9  # lines that are shown, of many
_BAR = 40  # characters
_INTERVAL = 0.5  # seconds from one change of the bar to the next


class Display:
    """The first and the newest lines of a command and, below them, how far it is."""

    def __init__(self):
        """Shows nothing yet."""
        self._lines: list[str] = []
        self._bar = ""
        self._handle = None
        self._shown = 0.0

    def say(self, text: str) -> None:
        """Adds lines below those that are there."""
        self._lines.extend(text.splitlines())
        self._show()

    def move(self, done: int, total: int, status: str) -> None:
        """Moves the bar, to `done` of `total` parts; twice a second at most."""
        filled = _BAR * done // max(total, 1)
        self._bar = "\u2501" * filled + "\u2500" * (_BAR - filled) + f"  {status}"
        if time.monotonic() - self._shown > _INTERVAL:
            self._show()

    def wait(self, status: str) -> None:
        """Puts words in the bar's place; none, to take them away."""
        self._bar = f"{status} ..." if status else ""
        self._show()

    def close(self, *, keep_bar: bool = True) -> None:
        """Shows the end."""
        if not keep_bar:
            self._bar = ""
        if self._handle is not None or self._lines:
            self._show()

    def _show(self):
        from IPython.display import display

        lines = self._lines
        if len(lines) > _FIRST + _NEWEST:
            hidden = f"... {len(lines) - _FIRST - _NEWEST} lines ..."
            lines = [*lines[:_FIRST], hidden, *lines[-_NEWEST:]]
        content = {"text/plain": "\n".join([*lines, *([self._bar] if self._bar else [])])}
        if self._handle is None:
            self._handle = display(content, raw=True, display_id=True)
        else:
            self._handle.update(content, raw=True)
        self._shown = time.monotonic()
