"""Eight virtual CPU devices in every test run, no promotion of ranks, and data of all tests."""

import atexit
import gc
import os
import shutil
import tempfile

from flags import FAST

FLAGS = f"--xla_force_host_platform_device_count=8 {FAST}"
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {FLAGS}"
os.environ["JAX_PLATFORMS"] = "cpu"
# Many tests compile the same steps; workers and the processes that they start inherit the folder.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp()
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.2"
    atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)

import commands
import jax
import numpy as np
import pytest

from lgnn_jax.training.config import Config, Data, Model, Optimizer
from lgnn_jax.training.data import Dataset

# Tracing makes objects by the million: to look through them for garbage each 700 took a tenth of
# the time of tests/training/test_session.py.
gc.set_threshold(100_000, 20, 50)

collect_ignore_glob = [
    "conftest.py",
    "*/conftest.py",
]  # no doctests: another of this name is imported

jax.config.update("jax_numpy_rank_promotion", "raise")


def pytest_collection_modifyitems(items):
    """The longest tests first: at the end one worker would wait for the other."""
    longest = ("test_kills.py", "test_processes.py")
    items.sort(key=lambda item: item.path.name not in longest)


@pytest.fixture
def strict_dtypes():
    """No promotion of dtypes; not for whole runs, for neither Flax nor optax does without."""
    with jax.numpy_dtype_promotion("strict"):
        yield


@pytest.fixture
def tiny_config() -> Config:
    """A VGG-11 of 4 to 32 channels and batches of 16; two epochs of six steps on `tiny_dataset`."""
    return Config(
        name="tiny",
        epochs=2,
        batch_size=16,
        checkpoint_every=1,
        model=Model("vgg11", width=1 / 16),
        data=Data("random"),
        optimizer=Optimizer(decay_epochs=(1,)),
    )


@pytest.fixture
def tiny_dataset() -> Dataset:
    """Random images, brighter from class to class: 100 to train on and 21 to test."""
    rng = np.random.default_rng(0)

    def split(count):
        labels = np.arange(count, dtype=np.int32) % 5
        images = rng.integers(0, 100, (count, 32, 32, 3)) + 30 * labels[:, None, None, None]
        return images.astype(np.uint8), labels

    return Dataset("random", *split(100), *split(21), tuple("abcde"))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty working directory with tiny.py in it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    (tmp_path / "tiny.py").write_text(commands.TINY)
    return tmp_path
