"""`lgnn table`: the tables of a sweep."""

import json
from pathlib import Path

from rich.console import Console

from lgnn_jax.cli.commands import Table
from lgnn_jax.cli.show import make_table, say
from lgnn_jax.training.errors import RunError
from lgnn_jax.training.files import replace_text

_COMMANDS = "commands.json"  # those that made a sweep's folder


def run(command: Table) -> None:
    """Prints the tables of a sweep, and writes them anew.

    Raises:
      RunError: in one line.
    """
    show(Console(), command.out, [])


def show(console: Console, out: Path, commands: list[str]) -> None:
    """Prints the tables of the runs that are finished, and writes them to files beside the runs.

    Those files name the commands that made the runs: these, after those of earlier sweeps.

    Raises:
      RunError: if there are none, they cannot be compared, or the files cannot be written.
    """
    # Slow to import, and not needed before a sweep is done.
    from lgnn_jax.experiments import report, results
    from lgnn_jax.experiments.claims import claims

    settings = results.collect(out)
    tables, found = results.tables(settings), claims(settings)
    for table in tables:
        printed = make_table(*((t, "right" if i else "left") for i, t in enumerate(table.columns)))
        for row in table.rows:
            printed.add_row(*row)
        say(console, f"\n{table.title}")
        console.print(printed)
    for claim in found:
        say(console, f"\n{claim.text}?")
        for finding in claim.findings:
            console.print(f"  {finding}", highlight=False, markup=False)
    path = out / _COMMANDS
    try:
        earlier = json.loads(path.read_text()) if path.exists() else []
        commands = list(dict.fromkeys([*map(str, earlier), *commands]))
        replace_text(path, json.dumps(commands, indent=1) + "\n")
        report.write(out, settings, tables, found, commands)
    except (ValueError, TypeError) as error:
        raise RunError(f"{path} is damaged: {error}; remove it.") from None
    except OSError as error:
        raise RunError(f"cannot write to {error.filename or out}: {error.strerror}.") from error
    say(console, f"\nwritten to {out}/results.md, .csv and .json")
