"""A network, a method or a shape of maps in a file of one's own that is not in order."""

import dataclasses

import pytest

from lgnn_jax.training import own
from lgnn_jax.training.config import Model, Som, from_json, to_json
from lgnn_jax.training.errors import RunError
from lgnn_jax.training.session import Session


@pytest.fixture
def written(tmp_path):
    def write(text):
        path = tmp_path / "own.py"
        path.write_text(text)
        own.load.cache_clear()
        return str(path)

    return write


@pytest.mark.parametrize(
    ("field", "text", "message"),
    [
        ("variant", "", "must define a function method, got None"),
        ("variant", "method = 3", "must define a function method, got 3"),
        ("variant", "import nothing_like_it", "ModuleNotFoundError: No module named"),
        ("variant", "def method(table): return 3", "must return an optax transformation, got int"),
        ("model", "", "must define a function network, got None"),
        (
            "model",
            "import flax.linen as nn\ndef network(classes): return nn.Dense(classes)",
            r"network must return a Network, such as LinenNetwork\(module\), got Dense",
        ),
        ("map", "def map(neurons): return 3", r"som_table\[4\] must be .* got 3"),
        (
            "map",
            "import lgnn_jax\ndef map(neurons): return lgnn_jax.ring(neurons + 1)",
            "ring of 5 has 5 places, but 'conv1_1/kernel' .* has 4 neurons",
        ),
    ],
)
def test_files_that_are_not_in_order(tiny_config, tiny_dataset, written, field, text, message):
    file = written(text)
    with pytest.raises(RunError, match=message) as error:
        Session(_with(tiny_config, field, file), tiny_dataset)
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize("field", ["variant", "model", "map"])
def test_a_file_that_is_not_there(tiny_config, tiny_dataset, field):
    with pytest.raises(RunError, match=r"there is no file 'elsewhere\.py'"):
        Session(_with(tiny_config, field, "elsewhere.py"), tiny_dataset)


def _with(config, field, file):
    if field == "variant":
        found = dataclasses.replace(config, variant=file)
    elif field == "model":
        found = dataclasses.replace(config, model=Model(file))
    else:
        found = dataclasses.replace(config, som=Som(map=file))
    assert from_json(to_json(found)) == found
    return found
