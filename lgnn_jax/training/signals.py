"""Signals that ask a run to stop, held back until it can stop without losing anything."""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator


class Stopped(BaseException):
    """A run that a signal stopped, after it wrote a checkpoint.

    Not an `Exception`, like KeyboardInterrupt: what catches errors is to let it pass.
    """

    def __init__(self, number: int):
        """Takes the number of the signal."""
        super().__init__(signal.Signals(number).name)
        self.number = number


@contextlib.contextmanager
def held_back() -> Iterator[Callable[[], int | None]]:
    """Holds signals back; yields a function that returns the number of the one that came, or None.

    They are SIGINT, SIGTERM and, unless it is ignored as `nohup` has it, SIGHUP, the end of a
    terminal. A second one ends the process at once. Outside of the main thread, where signals do
    not arrive, there is nothing to hold back. Earlier handlers are put back at the end.

    Raises:
      Stopped: at the end, if a signal came and what ran meanwhile did not raise it.
    """
    came = []

    def note(number, frame):
        if came:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        came.append(number)

    def pending():
        return came[0] if came else None

    if threading.current_thread() is not threading.main_thread():
        yield pending
        return
    numbers = [signal.SIGINT, signal.SIGTERM]
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    earlier = {number: signal.signal(number, note) for number in numbers}
    try:
        yield pending
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)
    if came:
        raise Stopped(came[0])
