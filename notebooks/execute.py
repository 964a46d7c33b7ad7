"""Runs notebooks from a clean kernel in an empty folder, and keeps what came out.

    python notebooks/execute.py            all of them, in place
    python notebooks/execute.py quickstart --folder DIR --out DIR
    python notebooks/execute.py ELSEWHERE.ipynb

What is kept says nothing of the machine: paths in outputs are an error, and of the metadata only
the kernel's name and language are left. Data sets are looked for in `$TFDS_DATA_DIR`.
"""

import argparse
import os
import re
import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient

HERE = Path(__file__).resolve().parent
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
# A path from the root of a file system, of two parts or more, but not the end of an address.
_PATH = re.compile(r"(?<![\w.:/])/(?:[\w.-]+/)+[\w.-]+")


def execute(path: Path, folder: Path) -> nbformat.NotebookNode:
    """Returns a notebook with new outputs, of a kernel that was started in `folder`.

    Raises:
      nbclient.exceptions.CellExecutionError: if a cell raises an error.
    """
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        cell.metadata.clear()
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    client = NotebookClient(
        notebook,
        timeout=3600,
        kernel_name="python3",
        record_timing=False,
        coalesce_streams=True,
    )
    # The library of this checkout, whatever is installed; and no colours in tracebacks.
    places = [str(HERE.parent), os.environ.get("PYTHONPATH", "")]
    client.execute(
        cwd=str(folder),
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, places)), "NO_COLOR": "1"},
    )
    tidy(notebook)
    nbformat.validate(notebook)
    return notebook


def tidy(notebook: nbformat.NotebookNode) -> None:
    """Takes away what says nothing: metadata, a picture's second form, a terminal's codes."""
    notebook.metadata = nbformat.from_dict(METADATA)
    for cell in notebook.cells:
        cell.metadata.clear()
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if "image/png" in data:
                data.pop("image/jpeg", None)
            if "text/plain" in data:
                data["text/plain"] = re.sub(r"\x1b\[[0-9;]*m", "", data["text/plain"])


def texts(notebook: nbformat.NotebookNode) -> list[str]:
    """Returns all texts in a notebook's outputs."""
    found = []
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            found.append(output.get("text", ""))
            found.extend(t for kind, t in output.get("data", {}).items() if "text" in kind)
    return found


def paths(notebook: nbformat.NotebookNode) -> list[str]:
    """Returns absolute paths in a notebook's outputs: of the machine that it ran on."""
    return sorted({match for text in texts(notebook) for match in _PATH.findall(text)})


def main() -> None:
    """Executes the notebooks that are named, or all."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", help="such as quickstart, or a path; all if none")
    parser.add_argument("--folder", type=Path, help="to run in; an empty one if not given")
    parser.add_argument("--out", type=Path, help="where the results go; in place if not given")
    arguments = parser.parse_args()
    known = sorted(path.stem for path in HERE.glob("*.ipynb"))
    for name in arguments.names or known:
        path = HERE / f"{name}.ipynb" if name in known else Path(name)
        if path.suffix != ".ipynb":
            sys.exit(f"there is no notebook {name!r}, only {', '.join(known)}.")
        with tempfile.TemporaryDirectory() as empty:
            done = execute(path, arguments.folder or Path(empty))
        if found := paths(done):
            sys.exit(f"{path}: outputs hold paths of this machine: {', '.join(found)}")
        nbformat.write(done, (arguments.out or path.parent) / path.name)


if __name__ == "__main__":
    main()
