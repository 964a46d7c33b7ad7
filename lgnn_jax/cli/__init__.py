"""The `lgnn` command."""

import importlib
import shlex
import sys
import warnings

from lgnn_jax.cli import commands, errors, parse
from lgnn_jax.training import compilation


def main(argv: list[str] | None = None) -> None:
    """Runs `lgnn` with the given arguments, by default those of the command line."""
    warnings.formatwarning = lambda message, *_, **__: f"lgnn: {message}\n"
    argv = sys.argv[1:] if argv is None else argv
    try:
        command = parse.parse(argv)
        if not isinstance(command, (commands.Table, commands.Configs)):  # they compute nothing
            compilation.prepare()
        # What carries out a command has a file of its name; some are slow to import.
        (name,) = (name for name, kind in commands.COMMANDS.items() if kind is type(command))
        action = importlib.import_module(f"lgnn_jax.cli.{name}")
        if isinstance(command, commands.Sweep):
            action.run(command, shlex.join(["lgnn", *argv]))
        else:
            action.run(command)
    except (Exception, KeyboardInterrupt, errors.Stopped) as error:
        errors.end(error, argv)
