"""Checks of a GPU: that it computes what a CPU does, and the same each time."""

import itertools
import json
import os
import signal
from pathlib import Path
from typing import Any

from common import FORMS, Kit, TaskError, quiet


def machine(kit: Kit) -> dict[str, Any]:
    """What it runs on; fails where JAX finds no GPU."""
    import jax
    from timing import environment

    device = jax.devices()[0]
    if device.platform == "cpu" and not kit.tiny:
        raise TaskError("JAX finds no GPU: install jax[cuda12] or jax[cuda13], or pass --tiny.")
    found = environment("jax", "jaxlib", "flax", "optax", "torch")
    return {
        "device": device.device_kind,
        "compute_capability": str(getattr(device, "compute_capability", "")),
        "images": len(kit.dataset.train_images),
        **{name: value for name, value in found.items() if name != "load before"},
    }


def smoke_forms(kit: Kit) -> dict[str, Any]:
    """The relative error of each form of the filter, against float64 in numpy."""
    import jax.numpy as jnp
    import numpy as np

    from lgnn_jax.maps.windows import gaussian_taps
    from lgnn_jax.methods.filtering import low_pass

    dims = (4, 2) if kit.tiny else (32, 16)
    count = dims[0] * dims[1]
    gradient = np.random.default_rng(0).normal(size=(3, 3, count, count))
    errors = {}
    for dtype, bound in (("float32", 1e-5), ("bfloat16", 6e-3)):
        given = jnp.asarray(gradient, dtype)
        expected = _float64_low_pass(np.asarray(given, np.float64), dims, np.exp([-2.0, 0.0, -2.0]))
        for method in FORMS:
            actual = low_pass(given, dims, gaussian_taps(0.5), method=method)
            error = np.linalg.norm(np.asarray(actual, np.float64) - expected)
            errors[f"{method}, {dtype}"] = error = error / np.linalg.norm(expected)
            if not error < bound:
                raise TaskError(f"{method} in {dtype} is off by {error:.1e}, more than {bound}.")
    return {"errors": {name: f"{error:.0e}" for name, error in errors.items()}}


def smoke_steps(kit: Kit) -> dict[str, Any]:
    """200 steps in float32 against those of a CPU, in reference.json.

    The bound at each step is what a change of the initial weights by 1e-7 does there, on a CPU: an
    error of rounding grows as it does.
    """
    import numpy as np

    path = Path(__file__).with_name("reference.json")
    expected = json.loads(path.read_text())["tiny" if kit.tiny else "vgg11,128"]
    losses = np.array(reference_losses(kit, len(expected["losses"])))
    difference = np.abs(losses - expected["losses"])
    bound = 1e-5 + 10 * np.maximum.accumulate(expected["spread"])
    worst = int((difference / bound).argmax())
    if not (difference < bound).all():
        raise TaskError(
            f"at step {worst + 1} the loss is {losses[worst]}, on a CPU "
            f"{expected['losses'][worst]}: more than {bound[worst]:.1e} apart."
        )
    return {"steps": len(losses), "within_bound": True}


def reference_losses(kit: Kit, steps: int, *, change: float = 0.0) -> list[float]:
    """Means of the loss over the epoch so far, after each step; in float32, at a small rate."""
    import jax
    import numpy as np

    from lgnn_jax.training.config import Optimizer
    from lgnn_jax.training.session import Session

    rate = Optimizer(learning_rate=1e-3, decay_epochs=())
    session = Session(kit.config("vgg11,128", optimizer=rate), kit.dataset, jax.devices()[:1])
    rng = np.random.default_rng(0)
    start = jax.device_get(session.initial_state)
    params = jax.tree.map(
        lambda p: p * (1 + change * rng.normal(size=p.shape)).astype(p.dtype), start.params
    )
    state, losses = session.place(start.replace(params=params)), []
    with jax.default_matmul_precision("float32"):
        for epoch in itertools.count():
            rows = session.epoch_order(epoch)
            for i, j in session.calls(0):
                state, metrics = session.train_steps(state, rows[i:j], epoch)
                losses += np.atleast_1d(jax.device_get(metrics.loss)).tolist()
                if len(losses) >= steps:
                    return losses[:steps]


def smoke_resume(kit: Kit) -> dict[str, Any]:
    """A run that is stopped in its second epoch and resumed ends with the same bits.

    In between all programs are dropped, and found on disk. Whether they give the same bits when
    compiled anew is told, and no more: XLA chooses among a GPU's kernels by timing them.
    """
    import shutil

    import jax
    from jax.experimental.compilation_cache import compilation_cache

    from lgnn_jax.training import session as session_lib
    from lgnn_jax.training.log import Log
    from lgnn_jax.training.run import run
    from lgnn_jax.training.session import Session, tree_sha256
    from lgnn_jax.training.signals import Stopped

    config = kit.config("vgg11,128,bfloat16", epochs=2, variant="decreasing")
    folder = kit.store / "smoke"
    shutil.rmtree(folder, ignore_errors=True)

    def train(name, resume=False):
        session_lib._programs.cache_clear()
        jax.clear_caches()
        with Log(quiet()) as log:
            state = run(config, kit.dataset, folder / name, log, resume=resume)[2]
        return tree_sha256(jax.device_get((state.params, state.batch_stats, state.opt_state)))

    whole, steps, made = train("whole"), Session.train_steps, []

    def train_steps(self, state, rows, epoch):
        made.append(epoch)
        if made.count(1) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return steps(self, state, rows, epoch)

    Session.train_steps = train_steps
    try:
        train("cut")
    except Stopped:
        pass
    else:
        raise TaskError("the run was not stopped.")
    finally:
        Session.train_steps = steps
    if (resumed := train("cut", resume=True)) != whole:
        raise TaskError(f"the resumed run ended with {resumed[:12]}, the whole one {whole[:12]}.")
    programs = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", None)
    compilation_cache.reset_cache()
    anew = train("anew")
    jax.config.update("jax_compilation_cache_dir", programs)
    compilation_cache.reset_cache()
    return {"same_bits": True, "same_bits_compiled_anew": anew == whole}


def filter_alone(kit: Kit) -> dict[str, Any]:
    """Milliseconds and relative error of the filter on a float32 gradient, by how it multiplies."""
    import jax
    import jax.numpy as jnp
    import numpy as np
    from jax.lax import DotAlgorithmPreset, Precision
    from timing import alternate

    from lgnn_jax.maps.windows import gaussian_taps
    from lgnn_jax.methods import filtering

    dims, layers = ((4, 2), 1) if kit.tiny else ((32, 16), 5)  # as many as a VGG-11 has
    count = dims[0] * dims[1]
    gradients = np.random.default_rng(0).normal(size=(layers, 3, 3, count, count))
    gradients = jnp.asarray(gradients, jnp.float32)
    expected = _float64_low_pass(np.asarray(gradients, np.float64), dims, np.exp([-2.0, 0.0, -2.0]))
    precisions = {"default": Precision.DEFAULT, "highest": Precision.HIGHEST}
    if jax.devices()[0].platform == "gpu":
        presets = DotAlgorithmPreset.TF32_TF32_F32_X3, DotAlgorithmPreset.BF16_BF16_F32_X3
        precisions |= {preset.name: preset for preset in presets}
    calls, errors = {}, {}
    for name, precision in precisions.items():

        @jax.jit
        def filtered(x, precision=precision):
            taps = gaussian_taps(0.5)
            return filtering._matmul(x, dims, taps, "replicate", x.ndim - 1, precision=precision)

        actual = np.asarray(filtered(gradients), np.float64)
        errors[name] = f"{np.linalg.norm(actual - expected) / np.linalg.norm(expected):.0e}"
        calls[name] = lambda f=filtered: jax.block_until_ready([f(gradients) for _ in range(10)])
    seconds = alternate(calls, 2 if kit.tiny else 15)
    milliseconds = {name: round(100 * float(np.median(x)), 4) for name, x in seconds.items()}
    return {"errors": errors, "timing": {"ms": milliseconds}}


def _float64_low_pass(x, dims, window):
    """Equation 3 in numpy: edges repeated, rows then columns."""
    import numpy as np

    window = window / window.sum()
    maps = x.reshape(*x.shape[:-1], *dims)
    for axis in (-2, -1):
        side = maps.shape[axis]
        places = np.clip(np.arange(side)[:, None] + [-1, 0, 1], 0, side - 1)
        maps = np.moveaxis(np.moveaxis(maps, axis, -1)[..., places] @ window, -1, axis)
    return maps.reshape(x.shape)
