"""What can go wrong with a command: what it says then, and its exit status."""

import contextlib
import os
import sys
import traceback
from typing import NoReturn

from lgnn_jax.training.signals import Stopped


class UsageError(Exception):
    """A command that cannot be carried out; one clear line."""


class ParseError(UsageError):
    """A command with invalid flags or values."""


def end(error: BaseException, argv: list[str]) -> NoReturn:
    """Ends the process with a line that says why and what to do, and with an exit status.

    Args:
      error: what stopped the command. It is raised again if there is no line for it.
      argv: the command.
    """
    name = (argv or [""])[0]
    if isinstance(error, Stopped):
        how = "the same command" if name == "sweep" else "--resume"
        print(f"lgnn: stopped by {error}; {how} goes on from the last step", file=sys.stderr)
        sys.exit(128 + error.number)
    if isinstance(error, KeyboardInterrupt):
        how = {"train": "--resume", "sweep": "the same command"}.get(name)
        more = f"; {how} goes on from the newest checkpoint" if how else ""
        print(f"lgnn: interrupted{more}", file=sys.stderr)
        _exit(130)
    if _has_its_line(error):
        print(f"lgnn: {error}", file=sys.stderr)
        _exit(2 if isinstance(error, ParseError) else 1)
    if type(error).__name__ == "JaxRuntimeError" and "RESOURCE_EXHAUSTED" in str(error):
        cause = str(error).splitlines()[0]
        advice = ""
        if name == "train":
            advice = (
                " A smaller --batch-size or --model.dtype bfloat16 needs less; it is another run, "
                "with another --run-dir."
            )
        print(f"lgnn: the device's memory is too small: {cause}{advice}", file=sys.stderr)
        _exit(1)
    if not _is_one_of_several():
        raise error
    traceback.print_exception(error)
    _exit(1)


def _has_its_line(error: BaseException) -> bool:
    if isinstance(error, UsageError):
        return True
    # Slow to import; where one of them was raised, that is done.
    from lgnn_jax.training.data import DataError
    from lgnn_jax.training.errors import RunError

    return isinstance(error, (DataError, RunError))


def _exit(status: int) -> NoReturn:
    """Ends the process; if it is one of several, at once.

    An orderly exit waits minutes for the others, which wait for this one.
    """
    if _is_one_of_several():
        with contextlib.suppress(OSError):
            sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


def _is_one_of_several() -> bool:
    return "jax" in sys.modules and sys.modules["jax"].distributed.is_initialized()
