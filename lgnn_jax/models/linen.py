"""Networks of Flax linen."""

import inspect
from dataclasses import dataclass
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from lgnn_jax.models.network import Output, Stream, alone, in_order, kernels
from lgnn_jax.models.outputs import callers

# What a module may call its argument for training, and what it is then.
_TRAINING = {
    "train": True, "training": True, "is_training": True, "deterministic": False, "inference": False
}  # fmt: skip


@dataclass(frozen=True)
class LinenNetwork:
    """A `flax.linen` module as a `Network`.

    The module is called with images `(batch, height, width, channels)` and returns logits. Of the
    arguments `train`, `training`, `is_training`, `deterministic` and `inference` it is given those
    that it has; `activations=True` where it takes that, and then returns logits and activations by
    layer. Where it does not, activations are the outputs of the modules that have one kernel, when
    they were last called.

    Attributes:
      module: a module with parameters and, if any, batch statistics; no other variables.
      synced: whether the module averages its batch statistics over the devices.
      neuron_axis: of its kernels.
      rectified: of a module that takes `activations=True`, whether to give activations after the
        nonlinearity instead of before.

    Example:
      >>> network = LinenNetwork(nn.Sequential((nn.Conv(16, (3, 3)), lambda x: x.mean((1, 2)))))
      >>> params, state = network.init(jax.random.key(0), (8, 8, 3))
      >>> network.apply(params, state, jnp.zeros((2, 8, 8, 3))).logits.shape, state
      ((2, 16), {})
    """

    module: nn.Module
    synced: bool = False
    neuron_axis: int = -1
    rectified: bool = False

    def __post_init__(self):
        """Raises ValueError for a module that cannot be hashed, as programs are kept by it."""
        try:
            hash(self.module)
        except TypeError as error:
            raise ValueError(
                f"{type(self.module).__name__} must be hashable: tuples instead of lists in its "
                f"fields ({error})."
            ) from None

    def init(self, key: jax.Array, image_shape: tuple[int, ...]) -> tuple[Any, Any]:
        """See `Network`; raises ValueError for variables that are neither."""
        variables = dict(self.module.init(key, jnp.zeros((1, *image_shape)), **self._mode(False)))
        params, state = variables.pop("params", {}), variables.pop("batch_stats", {})
        variables.pop("intermediates", None)
        if variables:
            raise ValueError(
                f"{type(self.module).__name__} has the variables {', '.join(variables)}: a network "
                "may have params and batch_stats."
            )
        return params, state

    def apply(
        self,
        params: Any,
        state: Any,
        x: jax.Array,
        *,
        train: bool = False,
        rng: jax.Array | None = None,
        activations: bool | Literal["means"] = False,
    ) -> Output:
        """See `Network`."""
        variables = {"params": params, "batch_stats": state} if state else {"params": params}
        options = self._mode(train)
        if rng is not None:
            options["rngs"] = {"dropout": rng}
        mutable = ["batch_stats"] if train and state else []
        own = activations and "activations" in self._arguments()
        means = own and activations == "means" and self._has_means()
        if own:
            options["activations"] = True
            if means:
                options["means"] = True
        elif activations:
            options["capture_intermediates"] = True
            mutable.append("intermediates")
        if mutable:
            found, updated = self.module.apply(variables, x, mutable=mutable, **options)
        else:
            found, updated = self.module.apply(variables, x, **options), {}
        logits, named = found if own else (found, {})
        if own and not means:
            part = "post" if self.rectified else "pre"
            named = {layer: getattr(activation, part) for layer, activation in named.items()}
        elif activations and not own:
            named = _outputs(updated["intermediates"], kernels(params))
        return Output(logits.astype(jnp.float32), updated.get("batch_stats", state), named)

    def layers(self, image_shape: tuple[int, ...]) -> dict[str, str]:
        """See `Network`: those of the streams, or all in the order in which they are called."""
        called = []

        def note(call, args, kwargs, context):
            called.append("/".join(context.module.path))
            return call(*args, **kwargs)

        with nn.intercept_methods(note):
            params, _ = jax.eval_shape(lambda key: self.init(key, image_shape), jax.random.key(0))
        found = kernels(params)
        if not hasattr(self.module, "streams"):
            return in_order(found, called)
        return {layer: found[layer] for stream in self.module.streams() for layer in stream.writers}

    def streams(self, image_shape: tuple[int, ...]) -> list[Stream]:
        """See `Network`; those of the module's own `streams()`, if it has that."""
        if hasattr(self.module, "streams"):
            return self.module.streams()
        return alone(self.layers(image_shape))

    def _has_means(self) -> bool:
        """Whether the module gives means over pixels; they are before the nonlinearity."""
        return "means" in self._arguments() and not self.rectified

    def _arguments(self) -> set[str]:
        return set(inspect.signature(type(self.module).__call__).parameters)

    def _mode(self, train: bool) -> dict[str, bool]:
        """The arguments that tell the module whether it is trained."""
        known = self._arguments()
        return {name: on is train for name, on in _TRAINING.items() if name in known}


def _outputs(intermediates: Any, layers: dict[str, str]) -> dict[str, jax.Array]:
    """What each layer returned when it was last called."""
    found = {}
    for module, layer in callers(layers).items():
        part = intermediates
        for name in module.split("/") if module else ():
            part = part.get(name, {}) if isinstance(part, dict) else {}
        if "__call__" in part and isinstance(part["__call__"][-1], jax.Array):
            found[layer] = part["__call__"][-1]
    return found
