"""Trees of parameters, tables and other things to hand in, good or bad."""

import math
import re

import jax.numpy as jnp
import numpy as np
from hypothesis import settings
from hypothesis import strategies as st

import lgnn_jax as lgnn

MANY = settings(derandomize=True, deadline=None, database=None, max_examples=200)
FEW = settings(MANY, max_examples=25)  # where each example is compiled

METHODS = ("auto", "conv", "separable", "banded", "matmul")
PADDINGS = ("replicate", "wrap", "zero")
FLOATS = (jnp.float32, jnp.float16, jnp.bfloat16)
# Some join to the same path, and some say what a parameter is.
WORDS = st.text("ab/", min_size=1, max_size=3) | st.sampled_from(
    ["conv", "Conv_0", "kernel", "bias", "scale", "embedding", "attention", "Dense_1"]
)


def one_of(*lists):
    return st.one_of([st.sampled_from(values) for values in lists])


def assert_one_line(error: Exception):
    assert len(str(error).splitlines()) == 1


@st.composite
def shapes(draw, axis, counts):
    """Of rank 0 to 5, small but for the axis of the neurons, and now and then the first."""
    rank = draw(st.sampled_from([0, 1, 1, 2, 3, 3, 4, 4, 5]))
    shape = draw(st.lists(st.integers(1, 3), min_size=rank, max_size=rank))
    if rank and draw(st.integers(0, 3)) == 0:
        shape[0] = draw(st.sampled_from(counts))
    if -len(shape) <= axis < len(shape):
        shape[axis] = draw(st.sampled_from(counts))
    return tuple(shape)


@st.composite
def arrays(draw, shape, dtypes=FLOATS):
    """Finite, of one magnitude, which leaves room for sums."""
    dtype = np.dtype(draw(st.sampled_from(dtypes)))
    if np.issubdtype(dtype, np.integer):
        return np.arange(math.prod(shape), dtype=dtype).reshape(shape)
    scale = 10.0 ** draw(st.integers(-4, 4) if dtype == np.float16 else st.integers(-30, 30))
    values = np.random.default_rng(draw(st.integers(0, 99))).uniform(-scale, scale, shape)
    return np.asarray(values, dtype)


def trees(axis, counts):
    leaves = shapes(axis, counts).flatmap(lambda shape: arrays(shape, (*FLOATS, np.int32)))

    def inside(inner):
        lists = st.lists(inner, min_size=1, max_size=3)
        return st.dictionaries(WORDS, inner, min_size=1, max_size=3) | lists | lists.map(tuple)

    return inside(st.recursive(leaves, inside, max_leaves=6))


def leaves_by_path(tree, names=()):
    """In the order of JAX, which sorts the keys of dictionaries."""
    if isinstance(tree, (dict, list, tuple)):
        items = sorted(tree.items()) if isinstance(tree, dict) else enumerate(tree)
        return [leaf for name, inner in items for leaf in leaves_by_path(inner, (*names, name))]
    return [("/".join(map(str, names)), tree)]


def dimensions(count):
    """All maps of rows and columns, however they are said; or None."""
    pairs = [(m, count // m) for m in range(1, count + 1) if count % m == 0]
    grids = [lgnn.grid(*pair) for pair in pairs]
    return st.sampled_from([*pairs, *map(list, pairs), *grids, None])


@st.composite
def layer_maps(draw, count):
    """A map that says on which axis its neurons are, of whatever parameter."""
    groups = draw(st.sampled_from([1, 1, 2]))
    map = draw(st.sampled_from([lgnn.ring(count), lgnn.grid(count, 1), lgnn.hexagonal(1, count)]))
    return lgnn.LayerMap(map, draw(st.sampled_from([-1, 0, 1, (0, 1), (-1, 0), (0, 0), 7])), groups)


WRONG_DIMENSIONS = one_of(
    [(), (4,), (2, 2, 2), (0, 4), (-2, -2), (2.0, 2.0), (True, 4), "22", 4, {2, 3}, "\n"],
    [(10**30, 1), (np.int8(100), np.int8(100)), np.ones((30, 2))],
)
WRONG_PATTERNS = st.sampled_from(
    ["(", "[", "\\", "*", "(?\n)", "a{99999999999999999999}", "(" * 2000 + ")" * 2000]
)
WRONG_KEYS = WRONG_PATTERNS | st.sampled_from([True, 1.5, None, b"a", ("a",)])


@st.composite
def tables(draw, tree, counts, axis, sound):
    """A table of all counts, and of some paths; unless `sound`, of anything."""
    table = {draw(st.sampled_from([int, np.int64]))(c): draw(dimensions(c)) for c in counts}
    leaves = leaves_by_path(tree)
    keys = st.sampled_from([re.escape(path) for path, _ in leaves])
    keys = keys if sound else keys | st.sampled_from(["a", "b", "a$", "^b", "^a/", ""])
    maps = st.sampled_from(counts).flatmap(lambda count: dimensions(count) | layer_maps(count))
    for key in draw(st.lists(keys, max_size=2)):
        table = {key: None if sound else draw(maps), **table}
    if sound:  # a count does not tell what three axes are
        table |= {
            f"^{re.escape(path)}$": draw(dimensions(leaf.shape[axis]))
            for path, leaf in leaves
            if leaf.ndim == 3 and -3 <= axis < 3
        }
    else:
        for _ in range(draw(st.integers(0, 2))):
            key = draw(st.sampled_from(counts) | WRONG_KEYS | st.text(max_size=4))
            table[key] = draw(WRONG_DIMENSIONS | maps)
        if draw(st.booleans()):
            table.pop(counts[0])
        table = draw(st.sampled_from([table] * 8 + [list(table.items()), None]))
    return table


@st.composite
def maps_to_look_up(draw, sound):
    """A tree, a table and an axis."""
    axis = draw(st.sampled_from([-1, -1, 0, 1, -2] + [3, -4, 9, -9] * (not sound)))
    counts = draw(st.lists(st.integers(1, 24), min_size=1, max_size=3))
    tree = draw(trees(axis, counts))
    return tree, draw(tables(tree, counts, axis, sound)), axis
