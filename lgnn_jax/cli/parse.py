"""From the words of a command line to a command; what is wrong with them, in one line."""

import argparse
import contextlib
import functools
import io
import operator
import os
import re
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import tyro
from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

from lgnn_jax.cli.commands import COMMANDS, HOW_TO_READ, Shared, Sweep, Train
from lgnn_jax.cli.configs import load_config
from lgnn_jax.cli.errors import ParseError, UsageError
from lgnn_jax.maps.words import did_you_mean
from lgnn_jax.training.config import Config, Som

_REGISTRY = ConstructorRegistry()


def parse(argv: list[str]) -> Any:
    """Returns the command that the arguments are, a dataclass of `lgnn_jax.cli.commands`.

    The config that is named supplies the defaults of all its fields.

    Raises:
      UsageError: if they are none.
    """
    name, rest = (argv or [""])[0], argv[1:]
    if name in COMMANDS:
        options = {"args": rest, "prog": f"lgnn {name}"}
        if name == "train":
            return _cli(Train, default=Train(run=_defaults(argv)), **options)
        if name == "sweep":
            return _cli(Sweep, default=Sweep(run=Shared(**vars(_defaults(argv)))), **options)
        try:
            return _cli(COMMANDS[name], **options)
        except SystemExit:  # after --help; tyro would put all of it on one line
            if name == "map":
                print(HOW_TO_READ)
            raise
    if name and not name.startswith("-"):
        close = did_you_mean(name, list(COMMANDS))
        raise ParseError(f"no command {name!r}{close} Known are {', '.join(COMMANDS)}.")
    # By hand above, since tyro's messages name a command's fields by its own inner ones.
    named = [Annotated[command, tyro.conf.subcommand(name)] for name, command in COMMANDS.items()]
    return _cli(
        tyro.conf.OmitSubcommandPrefixes[functools.reduce(operator.or_, named)],
        args=argv,
        prog="lgnn",
        description="Neural networks whose neurons organise themselves on a map.",
    )


def _defaults(argv: list[str]) -> Config:
    """The config that is named; where none is and a run goes on, the one that it was begun with."""
    early = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    early.add_argument("--config", nargs="?")
    early.add_argument("--run-dir", "--run_dir", nargs="?", type=Path)
    early.add_argument("--name", nargs="?", default="quickstart")
    early.add_argument("--resume", action="store_true")
    early.add_argument("--variant", nargs="?", default="")
    early.add_argument("--seed", nargs="?", default="")
    known, _ = early.parse_known_args(argv)
    if argv[0] == "sweep" and (known.variant, known.seed) != ("", ""):
        raise UsageError("a sweep takes --variants and --seeds instead of --variant and --seed.")
    goes_on = argv[0] == "train" and known.resume and not _asks_for_help(argv)
    if goes_on and known.config is None:
        from lgnn_jax.training.run_dir import load_config as load_saved

        return load_saved(known.run_dir or Path("runs") / str(known.name))
    return load_config("quickstart" if known.config is None else known.config)


def _asks_for_help(argv: list[str]) -> bool:
    return not {"-h", "--help"}.isdisjoint(argv)


def _cli(command: Any, *, args: list[str], prog: str, **options: Any) -> Any:
    """Calls `tyro.cli`; what it says in a box of many lines becomes a ParseError of one."""
    options |= {"args": args, "prog": prog, "registry": _REGISTRY}
    if _asks_for_help(args):
        return tyro.cli(command, **options)
    columns, said = os.environ.get("COLUMNS"), io.StringIO()
    os.environ["COLUMNS"] = "1000000"  # so that nothing is broken in two
    try:
        with contextlib.redirect_stderr(said):
            return tyro.cli(command, **options)
    except ValueError as error:  # from a config's own checks; tyro reports those of a section
        raise UsageError(str(error)) from error
    except SystemExit as exit_:
        if not exit_.code:
            raise
        # Below a title and, where a terminal has ASCII only, a rule; below the next rule is help.
        lines = [line.strip("│ ") for line in said.getvalue().splitlines()[1:-1]]
        text, *more = re.split(r"\n[─-]+\n", "\n".join(lines).lstrip("-\n"), maxsplit=1)
        text = re.sub(r"^Error parsing run[.\w]*: ", "", " ".join(text.split())).rstrip(".")
        text = re.sub(r"^(Missing from lgnn \w+: \S+) .*", r"\1", text)  # what it is, is in --help
        close = re.search(r"Perhaps you meant:\n(--[\w.-]+)", "".join(more))
        meant = f"; did you mean {close[1]}?" if close else "."
        raise ParseError(f"{text}{meant} See {prog} --help.") from None
    finally:
        del os.environ["COLUMNS"]
        if columns is not None:
            os.environ["COLUMNS"] = columns


@_REGISTRY.primitive_rule
def _table_rule(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec | None:
    """How som.table is given: tyro would take the last of several values of one key."""
    if info.type != get_type_hints(Som)["table"]:
        return None
    return PrimitiveConstructorSpec(
        nargs="*",
        metavar="KEY ROWS COLUMNS ...",
        instance_from_str=_table,
        is_instance=lambda value: isinstance(value, dict),
        str_from_instance=lambda table: [
            str(word) for key, dims in table.items() for word in (key, *(dims or (None,)))
        ],
    )


def _table(words: list[str]) -> dict[str, tuple[int, int] | None]:
    table, left = {}, list(words)
    while left:
        key, *dims = left[: 2 if left[1:2] == ["None"] else 3]
        if dims != ["None"] and not re.fullmatch(r"\d{1,9} \d{1,9}", " ".join(dims)):
            raise ValueError(
                "it takes keys, each with rows and columns or with None, as in 64 8 8 stem None; "
                f"got {' '.join(left):.80}"
            )
        if key in table:
            raise ValueError(f"it has {key!r} twice: leave one out")
        table[key] = None if dims == ["None"] else (int(dims[0]), int(dims[1]))
        del left[: 1 + len(dims)]
    return table
