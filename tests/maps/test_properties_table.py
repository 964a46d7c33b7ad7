"""Any tree and any table end in the maps that the docstrings promise, or in one line."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import MANY, assert_one_line, leaves_by_path, maps_to_look_up, trees
from table_rules import expected_maps, ignore_the_keys_warnings, is_wrong_way_round, kind

import lgnn_jax as lgnn


@ignore_the_keys_warnings
@MANY
@given(st.booleans().flatmap(maps_to_look_up))
def test_layer_maps_are_those_of_the_docstring(case):
    tree, table, axis = case
    expected = expected_maps(tree, table, axis)
    if expected is None:
        with pytest.raises(ValueError, match=r".") as error:
            lgnn.layer_maps(tree, table, neuron_axis=axis)
        assert_one_line(error.value)
    else:
        maps = lgnn.layer_maps(tree, table, neuron_axis=axis)
        assert list(maps.items()) == list(expected.items())


@pytest.mark.filterwarnings("ignore:.*a prime number:UserWarning", "ignore:left out:UserWarning")
@MANY
@given(st.data())
def test_a_table_has_the_squarest_map_of_each_kernel_and_nothing_else(data):
    axis = data.draw(st.sampled_from([-1, 0, 1]))
    tree = data.draw(trees(axis, list(range(1, 25))))
    leaves = leaves_by_path(tree)
    arrays = [(path, leaf) for path, leaf in leaves if leaf.dtype != np.int32]
    kernels = [leaf for path, leaf in arrays if kind(path, leaf) == "convolution"]
    if any(is_wrong_way_round(kernel.shape, axis) for kernel in kernels):
        with pytest.raises(ValueError, match=r".") as error:
            lgnn.som_table(tree, neuron_axis=axis)
        assert_one_line(error.value)
        return
    table = lgnn.som_table(tree, neuron_axis=axis)
    assert list(table) == sorted({kernel.shape[axis] for kernel in kernels})
    for count, dims in table.items():
        pairs = [(m, n) for m in range(1, 25) for n in range(1, m + 1) if m * n == count]
        assert dims == min(pairs, key=lambda pair: pair[0] - pair[1]) == lgnn.som_dimensions(count)
    # In another order, and no two with one path.
    numbered = {f"{len(leaves) - i}/{path}": leaf for i, (path, leaf) in enumerate(leaves)}
    assert lgnn.som_table(numbered, neuron_axis=axis) == table
    sure = {path: leaf for path, leaf in numbered.items() if kind(path, leaf) != "unclear"}
    maps = lgnn.layer_maps(sure, table, neuron_axis=axis)
    assert maps == expected_maps(sure, table, axis)
    assert len(maps) == len(kernels)


@given(st.integers(max_value=0))
@MANY
def test_no_map_of_no_neurons(count):
    with pytest.raises(ValueError, match=f"at least 1, got {count}"):
        lgnn.som_dimensions(count)
