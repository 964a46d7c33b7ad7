"""A network, a method or a shape of maps in a file of one's own that is not in order."""

import dataclasses

import equinox as eqx
import jax
import numpy as np
import pytest
import runs

from lgnn_jax.methods.method import Method
from lgnn_jax.models.equinox import EquinoxNetwork
from lgnn_jax.training import own, trained
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
        ("variant", "", r"own\.py defines no function method"),
        ("variant", "method = 3", r"own\.py defines no function method"),
        ("variant", "import nothing_like_it", "ModuleNotFoundError: No module named"),
        ("variant", "def method(): pass", r"own\.py, method: TypeError: method\(\) takes 0"),
        ("variant", "import sys\nsys.exit(3)", r"own\.py: SystemExit: 3"),
        (
            "variant",
            "def method(table): raise ValueError('too\\nfar')",
            r"own\.py, method: too far",
        ),
        (
            "model",
            "import flax.linen as nn\nfrom lgnn_jax.models.linen import LinenNetwork\n"
            "def network(classes): return LinenNetwork(nn.Dense(classes))",
            r"logits of shape \(1, 32, 32, 5\) for one image: it must be \(1, 5\)",
        ),
        ("variant", "def method(table): return 3", "must return an optax transformation, got int"),
        ("model", "", r"own\.py defines no function network"),
        (
            "model",
            "import flax.linen as nn\ndef network(classes): return nn.Dense(classes)",
            r"network must return a Network, such as LinenNetwork\(module\), got Dense",
        ),
        ("map", "def map(neurons): return 3", r"own\.py: map must return a Map, got int"),
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


def test_tables_of_a_sweep_need_no_file(tiny_config):
    """Nor does whatever else asks for a config's method: it is run when it is built."""
    method = dataclasses.replace(tiny_config, variant="elsewhere.py").method
    assert method.filter is None
    assert method != Method()
    with pytest.raises(ValueError, match=r"there is no file 'elsewhere\.py' in"):
        method.transformations({}, steps_per_epoch=1, epochs=1)


def test_a_file_may_import_another_beside_it(tiny_config, tiny_dataset, tmp_path, written):
    (tmp_path / "beside_it.py").write_text(FILTER)
    config = dataclasses.replace(tiny_config, variant=written("from beside_it import method"))
    Session(config, tiny_dataset)


def _with(config, field, file):
    if field == "variant":
        found = dataclasses.replace(config, variant=file)
    elif field == "model":
        found = dataclasses.replace(config, model=Model(file))
    else:
        found = dataclasses.replace(config, som=Som(map=file))
    assert from_json(to_json(found)) == found
    return found


FILTER = """
import lgnn_jax

def method(table):
    return lgnn_jax.transform(table, sigma=0.8)
"""


@pytest.mark.parametrize("steps", [1, 2])
def test_a_method_keeps_its_own_sigma_however_many_steps_a_call_makes(
    tiny_config, tiny_dataset, written, steps
):
    """The library hands the filter of its own variants a sigma; this one must not get it."""
    kernels = []
    for variant in ("baseline", written(FILTER)):
        config = dataclasses.replace(tiny_config, variant=variant)
        session = Session(config, tiny_dataset, jax.devices()[:1], steps_per_call=steps)
        state = session.place(session.initial_state)
        rows = session.epoch_order(0)
        for i in range(0, 2, steps):
            state, _ = session.train_steps(state, rows[i : i + steps], 0)
        kernels.append(np.asarray(state.params["conv5_2"]["kernel"]))
    assert np.abs(kernels[0] - kernels[1]).max() > 1e-3


class _Equinox(eqx.Module):
    conv: eqx.nn.Conv2d

    def __init__(self, key):
        self.conv = eqx.nn.Conv2d(3, 8, 3, 2, key=key)

    def __call__(self, image):
        return self.conv(image).mean((1, 2))[:5]


def test_a_method_needs_to_know_nothing_of_the_networks_axes(tiny_config, tiny_dataset, written):
    """Equinox counts neurons first; the table that a method gets says so."""
    config = dataclasses.replace(tiny_config, variant=written(FILTER))
    session = Session(config, tiny_dataset, jax.devices()[:1], network=EquinoxNetwork(_Equinox))
    state = session.place(session.initial_state)
    session.train_steps(state, session.epoch_order(0)[:1], 0)


@pytest.mark.usefixtures("one_device")
def test_a_file_that_was_changed_is_not_run(tiny_config, tiny_dataset, tmp_path, written):
    file = written(FILTER)
    config = dataclasses.replace(tiny_config, variant=file, epochs=1)
    runs.train(config, tiny_dataset, tmp_path / "run")
    assert trained.read(tmp_path / "run", tiny_dataset).step == 6
    written(FILTER + f"open({str(tmp_path / 'seen')!r}, 'w')")
    message = r"own\.py is not the file that the run in .* began with"
    with pytest.raises(RunError, match=message):
        trained.read(tmp_path / "run", tiny_dataset)
    with pytest.raises(RunError, match=message):
        runs.train(
            dataclasses.replace(config, epochs=2), tiny_dataset, tmp_path / "run", resume=True
        )
    assert not (tmp_path / "seen").exists()
