"""Imports run one way, as CONTRIBUTING's picture has it."""

import ast
import re
from graphlib import TopologicalSorter
from itertools import pairwise
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "lgnn_jax"
MODULES = sorted(PACKAGE.rglob("*.py"))


def name_of(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


NAMES = {name_of(path): path for path in MODULES}


def imports(path):
    """The modules of this package that a file imports anywhere, within functions too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.startswith("lgnn_jax")}
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("lgnn_jax"):
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                found.add(whole if whole in NAMES else node.module)
    return found


def room_of(name):
    return [*name.split("."), ""][1]


def picture():
    """Which rooms each room may import from: the arrows of CONTRIBUTING, and what follows."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    rooms = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    allowed = {room: set() for room in rooms}
    for chain in re.findall(r"`([\w]+(?: <- [\w]+)+)`", text):
        names = chain.split(" <- ")
        for left, right in pairwise(names):
            allowed[right].add(left)
    for room in TopologicalSorter(allowed).static_order():  # raises where arrows form a circle
        allowed[room] |= {further for left in allowed[room] for further in allowed[left]}
    return allowed


def test_the_picture_has_every_room():
    allowed = picture()
    assert set(allowed) == {"maps", "methods", "analysis", "models", "training", "experiments",
                            "atlas", "cli"}  # fmt: skip
    assert allowed["maps"] == set()
    assert allowed["cli"] == set(allowed) - {"cli"}
    assert "training" not in allowed["methods"] | allowed["analysis"] | allowed["models"]


@pytest.mark.parametrize("name", [name for name in NAMES if room_of(name)])
def test_no_import_points_upward(name):
    room, allowed = room_of(name), picture()
    for other in imports(NAMES[name]):
        there = room_of(other)
        assert there in allowed[room] | {room, ""}, f"{name} imports {other}"


def test_no_modules_import_each_other():
    """Nor in a circle; what a package's own __init__ gathers aside."""
    graph = {name: imports(path) - {name} for name, path in NAMES.items()}
    gathering = {name_of(path) for path in MODULES if path.name == "__init__.py"}
    graph = {name: found - gathering for name, found in graph.items() if name not in gathering}
    list(TopologicalSorter(graph).static_order())


def test_the_public_face_needs_no_more_than_jax_optax_and_numpy():
    """And whatever else stands in for the networks and the trainer stays out of it."""
    seen, left = set(), ["lgnn_jax"]
    while left:
        name = left.pop()
        if name not in seen:
            seen.add(name)
            left += imports(NAMES[name])
    assert {room_of(name) for name in seen} <= {"", "maps", "methods", "models"}
    for name in seen:
        for node in ast.walk(ast.parse(NAMES[name].read_text())):
            modules = []
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                modules = [node.module]
            for module in modules:
                top = module.split(".")[0]
                assert top in {"jax", "optax", "numpy", "lgnn_jax"} or top in STANDARD, module


STANDARD = {"abc", "collections", "dataclasses", "difflib", "functools", "itertools", "math",
            "operator", "re", "textwrap", "typing", "warnings"}  # fmt: skip
MAPS_ALONE = {"grid", "hexagonal", "shapes", "sphere"}


@pytest.mark.parametrize("module", sorted(MAPS_ALONE))
def test_shapes_of_maps_need_numpy_alone(module):
    tree = ast.parse((PACKAGE / "maps" / f"{module}.py").read_text())
    for node in ast.walk(tree):
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        names += [node.module] if isinstance(node, ast.ImportFrom) else []
        for name in names:
            assert name.split(".")[0] in STANDARD | {"numpy"} or name.startswith("lgnn_jax.maps.")
