"""A run of several processes."""

import re

import jax

from lgnn_jax.cli.commands import Processes
from lgnn_jax.cli.errors import UsageError


def join(command: Processes) -> None:
    """Connects to the other processes of a run, if there are any.

    Raises:
      UsageError: if what is said of them does not do, or they are not found.
    """
    place = command.processes, command.process
    if command.coordinator is None:
        if place != (None, None):
            raise UsageError("--processes and --process need --coordinator HOST:PORT.")
        return
    address = None if command.coordinator == "auto" else command.coordinator
    if address is not None:
        if not re.fullmatch(r".+:\d+", address):
            raise UsageError(f"--coordinator must be HOST:PORT or auto, got {address!r}.")
        if None in place or not 0 <= place[1] < place[0]:
            raise UsageError(
                "--coordinator HOST:PORT needs --processes N and --process I, 0 <= I < N, got "
                f"{place[0]} and {place[1]}."
            )
    try:
        jax.distributed.initialize(address, *place)
    except (RuntimeError, ValueError) as error:
        cause = str(error).splitlines()[0]
        raise UsageError(f"--coordinator {command.coordinator}: {cause}") from error
