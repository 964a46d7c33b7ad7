"""Flags of XLA with which tests compile: the networks are tiny, and compilation takes most time."""

from importlib.metadata import version

FAST = "--xla_backend_optimization_level=0"  # optimised code takes twice as long, and saves nothing
if tuple(map(int, version("jaxlib").split(".")[:2])) < (0, 11):
    # A step of a VGG-11 compiles in 2.5 s instead of 5.4. Version 0.12 does not know the flag, and
    # XLA ends a process that names one it does not know.
    FAST += " --xla_cpu_use_fusion_emitters=false"
