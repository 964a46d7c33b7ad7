"""Networks of Flax nnx."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from lgnn_jax.maps.parameters import path_name
from lgnn_jax.models.network import Output, Stream, alone, in_order, kernels
from lgnn_jax.models.outputs import Outputs, callers


@dataclass(frozen=True)
class NnxNetwork:
    """A `flax.nnx` module as a `Network`.

    The module is called with images `(batch, height, width, channels)` and returns logits; before,
    its `train()` or `eval()` is called, which dropout and batch normalisation listen to.

    Attributes:
      make: of `nnx.Rngs`, returns the module. A function or class that stays the same object: what
        is compiled is kept by it. With `lambda rngs: nnx.clone(module)` of a trained module `init`
        returns what was trained.
      activations: of a module and images, returns activations by layer. If None, they are the
        outputs of the modules that have one kernel, when they were last called; but for those that
        are called within `nnx.jit`, `nnx.remat` or a loop, which are left out.
      synced: whether the module averages its batch statistics over the devices.
      neuron_axis: of its kernels.

    Example:
      >>> network = NnxNetwork(lambda rngs: nnx.Conv(3, 16, (3, 3), rngs=rngs))
      >>> params, state = network.init(jax.random.key(0), (8, 8, 3))
      >>> sorted(params), network.layers((8, 8, 3))
      (['bias', 'kernel'], {'kernel': 'kernel'})
    """

    make: Callable[[nnx.Rngs], nnx.Module]
    activations: Callable[[nnx.Module, jax.Array], dict[str, jax.Array]] | None = None
    synced: bool = False
    neuron_axis: int = -1

    def init(self, key: jax.Array, image_shape: tuple[int, ...]) -> tuple[Any, Any]:
        """See `Network`; raises ValueError for variables that no trainer can keep."""
        del image_shape  # a module knows its own
        module = self.make(nnx.Rngs(key))
        others = nnx.state(module, nnx.Not(nnx.Any(nnx.Param, nnx.BatchStat, nnx.RngState)))
        if leaves := jax.tree_util.tree_leaves_with_path(others):
            raise ValueError(
                f"{type(module).__name__} has {path_name(leaves[0][0])}, which is neither a "
                "nnx.Param nor a nnx.BatchStat: a network may have these alone."
            )
        return self._split(module)

    def apply(
        self,
        params: Any,
        state: Any,
        x: jax.Array,
        *,
        train: bool = False,
        rng: jax.Array | None = None,
        activations: bool = False,
    ) -> Output:
        """See `Network`."""
        # Made anew: what of it is replaced here, a compiled program never computes.
        module = self.make(nnx.Rngs(0))
        for kind, values in ((nnx.Param, params), (nnx.BatchStat, state)):
            found = nnx.state(module, kind)
            nnx.replace_by_pure_dict(found, nnx.restore_int_paths(values))
            nnx.update(module, found)
        _reseed(module, jax.random.key(0) if rng is None else rng)
        if train:
            module.train()
        else:
            module.eval()
        outputs = Outputs()
        if activations and self.activations is None:
            _listen(module, callers(kernels(params)), outputs)
        logits = module(x)
        named = outputs.found
        if activations and self.activations is not None:
            named = self.activations(module, x)
        state = self._split(module)[1] if train else state
        return Output(logits.astype(jnp.float32), state, named)

    def layers(self, image_shape: tuple[int, ...]) -> dict[str, str]:
        """See `Network`; in the order in which the module's attributes were set."""
        del image_shape
        order = []

        def make():
            module = self.make(nnx.Rngs(0))
            order.extend(_attributes(module))  # a module that passed a trace has lost it
            return self._split(module)[0]

        return in_order(kernels(jax.eval_shape(make)), order)

    def streams(self, image_shape: tuple[int, ...]) -> list[Stream]:
        """See `Network`; every layer is taken to have an order of its own."""
        return alone(self.layers(image_shape))

    def _split(self, module: nnx.Module) -> tuple[Any, Any]:
        """Parameters and batch statistics as nested dicts, with names throughout."""
        return tuple(
            _named(nnx.to_pure_dict(nnx.state(module, kind))) for kind in (nnx.Param, nnx.BatchStat)
        )


def _named(tree: Any) -> Any:
    """A nested dict with the numbers among its keys as text."""
    if not isinstance(tree, dict):
        return tree
    return {str(key): _named(value) for key, value in tree.items()}


def _attributes(module: Any, path: str = "") -> list[str]:
    """The paths of a module's parts, in the order in which they were set."""
    if isinstance(module, nnx.Module):
        items = [(k, v) for k, v in vars(module).items() if not k.startswith("_")]
        if isinstance(module, nnx.List):
            items = list(enumerate(module))
    else:
        items = []
    found = [path] if path else []
    for name, part in items:
        found += _attributes(part, f"{path}/{name}" if path else str(name))
    return found


def _listen(module: nnx.Module, layers: dict[str, str], outputs: Outputs) -> None:
    """Has the parts of a module note what they return; `layers` by the paths of these parts."""
    for path, part in nnx.iter_modules(module):
        layer = layers.get("/".join(map(str, path)))
        if layer is not None:
            object.__setattr__(part, "__class__", _noting(type(part)))
            part.lgnn_note = functools.partial(outputs.note, layer)


@functools.cache
def _noting(kind: type[nnx.Module]) -> type[nnx.Module]:
    """The same kind of module, but that its `lgnn_note` is told of what is returned."""

    def call(self, *args, **kwargs):
        output = kind.__call__(self, *args, **kwargs)
        return self.lgnn_note(output) if isinstance(output, jax.Array) else output

    return type(kind)(kind.__name__, (kind,), {"__call__": call})


def _reseed(module: nnx.Module, rng: jax.Array) -> None:
    """Gives each stream of random numbers of a module a key of its own, to begin with."""
    streams = nnx.state(module, nnx.RngState)
    leaves, structure = jax.tree.flatten(streams)
    fresh = [
        jax.random.split(jax.random.fold_in(rng, i), leaf.shape)
        if leaf.shape and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        else jax.random.fold_in(rng, i)
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        else jnp.zeros(leaf.shape, leaf.dtype)
        for i, leaf in enumerate(leaves)
    ]
    nnx.update(module, jax.tree.unflatten(structure, fresh))
