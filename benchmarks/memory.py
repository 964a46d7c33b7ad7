"""The peak memory of a process; a file of its own, that imports neither JAX nor PyTorch."""

from pathlib import Path


def peak_bytes() -> int:
    """Returns the peak memory of this process alone, on Linux.

    `ru_maxrss` would not do: a new process inherits its parent's.
    """
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
