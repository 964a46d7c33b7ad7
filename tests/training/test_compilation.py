import os
import subprocess
import sys

import jax
import pytest
from flags import FAST

from lgnn_jax.training import compilation

FLAG = "--xla_gpu_exclude_nondeterministic_ops"
SCRIPT = """
import jax
from jax import monitoring

found = []
monitoring.register_event_listener(lambda event, **_: found.append(event))
from lgnn_jax.cli import main

main()
print("hits", found.count("/jax/compilation_cache/cache_hits"))
"""


@pytest.fixture
def unset(monkeypatch, tmp_path):
    """As in a shell that has set nothing; the home is empty."""
    for name in ("JAX_COMPILATION_CACHE_DIR", "XLA_FLAGS", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    names = (
        "jax_compilation_cache_dir",
        "jax_compilation_cache_max_size",
        "jax_persistent_cache_min_compile_time_secs",
    )
    before = {name: getattr(jax.config, name) for name in names}
    jax.config.update("jax_compilation_cache_dir", None)
    yield tmp_path
    for name, value in before.items():
        jax.config.update(name, value)


def test_programs_are_kept_in_the_users_cache(unset, monkeypatch):
    compilation.prepare()
    folder = jax.config.jax_compilation_cache_dir
    assert folder.startswith(str(unset / ".cache" / "lgnn_jax"))
    assert os.path.isdir(folder)
    assert 0 < jax.config.jax_compilation_cache_max_size < 10**10
    jax.config.update("jax_compilation_cache_dir", None)
    monkeypatch.setenv("XDG_CACHE_HOME", str(unset / "other"))
    compilation.prepare()
    assert jax.config.jax_compilation_cache_dir.startswith(str(unset / "other" / "lgnn_jax"))


def test_what_the_user_has_set_stays(unset, monkeypatch):
    jax.config.update("jax_compilation_cache_dir", str(unset / "mine"))
    monkeypatch.setenv("XLA_FLAGS", f"{FLAG}=false --xla_cpu_enable_fast_math=false")
    compilation.prepare()
    assert jax.config.jax_compilation_cache_dir == str(unset / "mine")
    assert os.environ["XLA_FLAGS"] == f"{FLAG}=false --xla_cpu_enable_fast_math=false"
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_enable_fast_math=false")
    compilation.prepare()
    assert os.environ["XLA_FLAGS"] == f"--xla_cpu_enable_fast_math=false {FLAG}=true"
    jax.config.update("jax_compilation_cache_dir", None)
    jax.config.update("jax_enable_compilation_cache", False)
    compilation.prepare()
    jax.config.update("jax_enable_compilation_cache", True)
    assert jax.config.jax_compilation_cache_dir is None


def test_a_cache_that_cannot_be_written(unset):
    (unset / ".cache").write_text("")  # a file where the folder would be
    with pytest.warns(UserWarning, match=r"not kept: \S+ cannot be written to \(.*_CACHE_DIR"):
        compilation.prepare()
    assert jax.config.jax_compilation_cache_dir is None


def test_where_there_is_no_home(unset, monkeypatch):
    def home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(compilation.Path, "home", home)
    with pytest.warns(UserWarning, match="not kept: there is no home directory; JAX_COMP"):
        compilation.prepare()
    assert jax.config.jax_compilation_cache_dir is None


def test_the_users_own_size_of_the_cache_stays(unset):
    jax.config.update("jax_compilation_cache_max_size", 1000)
    compilation.prepare()
    assert jax.config.jax_compilation_cache_max_size == 1000


@pytest.mark.parametrize("differs", ["name", "feature"])
def test_another_processors_programs_are_kept_apart(monkeypatch, differs):
    def folder(model, flags):
        text = f"processor: 0\nmodel name\t: {model}\nbogomips: 1\nflags\t\t: {flags}\n"
        monkeypatch.setattr(compilation.Path, "exists", lambda path: True)
        monkeypatch.setattr(compilation.Path, "read_text", lambda path, errors: text)
        return compilation._default_folder()

    own = folder("one", "avx2 avx512f")
    assert folder("one", "avx2 avx512f") == own
    assert folder(*{"name": ("other", "avx2 avx512f"), "feature": ("one", "avx2")}[differs]) != own


def test_the_next_process_compiles_no_network_for_another_seed(folder):
    """`lgnn train` twice, as a user calls it: nothing is set."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("JAX_")}
    env |= {"HOME": str(folder), "JAX_PLATFORMS": "cpu"}
    env["XLA_FLAGS"] = FAST

    def kept():
        return sorted(path.name for path in folder.glob(".cache/lgnn_jax/*/*-cache"))

    def train(seed):
        command = [sys.executable, "-c", SCRIPT, "train", "--config", "tiny.py"]
        command += ["--seed", str(seed), "--run-dir", f"run_{seed}"]
        done = subprocess.run(command, env=env, check=True, capture_output=True, text=True)
        return int(done.stdout.splitlines()[-1].removeprefix("hits "))

    assert train(0) == 0
    first = kept()
    assert first
    assert train(1) == len(first)
    assert kept() == first
