"""How programs are compiled: once for all runs on a machine, and to the same bits."""

import hashlib
import os
import platform
import tempfile
import warnings
from pathlib import Path

# Some of a GPU's kernels add in any order, and give other bits each time.
_FLAG = "--xla_gpu_exclude_nondeterministic_ops"
_MOST_BYTES = 2**31


def prepare() -> None:
    """Sets JAX up for runs; to be called before the first computation.

    Compiled programs are kept on disk, at most 2 GiB of them, and found again by later processes:
    in `$JAX_COMPILATION_CACHE_DIR`, or by default in `lgnn_jax` in the user's cache folder
    (`$XDG_CACHE_HOME` or `~/.cache`). `JAX_ENABLE_COMPILATION_CACHE=false` turns that off. GPU
    kernels whose results vary are excluded, unless `XLA_FLAGS` says otherwise. A folder that cannot
    be written to is warned of, and nothing is kept.

    On a GPU a resumed run ends with the same bits for both reasons. XLA chooses among kernels by
    timing them: a program that is compiled anew, on another machine, say, may have others.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    if _FLAG not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} {_FLAG}=true".strip()

    import jax  # it reads XLA_FLAGS once

    if not jax.config.jax_enable_compilation_cache or jax.config.jax_compilation_cache_dir:
        return
    try:
        folder = _default_folder()
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except (OSError, RuntimeError) as error:  # the latter where there is no home
        if isinstance(error, OSError):
            why = f"{error.filename or folder} cannot be written to ({error.strerror})"
        else:
            why = "there is no home directory"
        warnings.warn(
            f"compiled programs are not kept: {why}; JAX_COMPILATION_CACHE_DIR names another "
            "folder",
            stacklevel=2,
        )
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))
    if jax.config.jax_persistent_cache_min_compile_time_secs == 1.0:  # JAX's default
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    if jax.config.jax_compilation_cache_max_size == -1:
        jax.config.update("jax_compilation_cache_max_size", _MOST_BYTES)


def _default_folder() -> Path:
    """The user's cache, by processor: what is compiled for one may not run on another."""
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    features = [platform.machine(), platform.processor()]
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = cpuinfo.read_text(errors="replace").splitlines()
        features += sorted({line for line in lines if line.startswith(("model name", "flags"))})
    digest = hashlib.sha256("\n".join(features).encode()).hexdigest()
    return Path(root) / "lgnn_jax" / f"{platform.machine()}-{digest[:8]}"
