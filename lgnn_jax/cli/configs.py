"""Configs by name, or from a Python file; and their list."""

import ast
import runpy
from pathlib import Path

from rich.console import Console

from lgnn_jax.cli.commands import Configs
from lgnn_jax.cli.errors import UsageError
from lgnn_jax.cli.show import make_table
from lgnn_jax.maps.words import did_you_mean
from lgnn_jax.training.config import Config, from_json, to_json


def load_config(name_or_file: str) -> Config:
    """Loads a config by its name, or from a Python file that defines `config`.

    Raises:
      UsageError: if there is no such config, or the file defines none.
    """
    known = _config_files()
    path = known.get(name_or_file, Path(name_or_file))
    if not path.is_file():
        raise UsageError(
            f"no config {name_or_file!r}{did_you_mean(name_or_file, list(known))} "
            f"Known are {', '.join(known)}; or name a Python file."
        )
    try:
        config = runpy.run_path(str(path)).get("config")
    except Exception as error:
        raise UsageError(f"{path}: {type(error).__name__}: {error}") from error
    if not isinstance(config, Config):
        raise UsageError(f"{path} must define `config`, a Config, got {config!r}.")
    try:  # through JSON: what is kept beside a run, and where types are checked
        return from_json(to_json(config))
    except (TypeError, ValueError) as error:
        raise UsageError(f"{path}: {error}") from error


def run(command: Configs) -> None:
    """Lists the configs that are known by name."""
    del command
    table = make_table(("name", "left"), ("what it is", "left"))
    for name, path in _config_files().items():
        doc = ast.get_docstring(ast.parse(path.read_text())) or ""
        table.add_row(name, doc.partition("\n")[0])
    Console().print(table)


def _config_files() -> dict[str, Path]:
    """Configs by name: those of the installed package, or of the checkout that it runs from."""
    package = Path(__file__).parents[1]
    folder = next(f for f in (package / "configs", package.parent / "configs") if f.is_dir())
    return {path.stem: path for path in sorted(folder.glob("*.py"))}
