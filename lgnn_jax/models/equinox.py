"""Networks of Equinox, which is an extra."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import equinox as eqx
import flax
import jax
import jax.numpy as jnp

from lgnn_jax.maps.parameters import path_name
from lgnn_jax.models.network import Output, Stream, alone, in_order, kernels
from lgnn_jax.models.outputs import Outputs, callers

_BATCH = "batch"


@dataclass(frozen=True)
class EquinoxNetwork:
    """An Equinox module as a `Network`.

    The module is called with one image `(channels, height, width)` at a time, under `jax.vmap` with
    the axis "batch", and returns its logits: `module(image)`, `module(image, state)` if there is a
    state, as of `eqx.nn.BatchNorm`, then with the new one, and with `key=...` where `keys` says so.
    It is put into inference mode outside of training.

    Attributes:
      make: of a key, returns the module, or the module and its state, as `eqx.nn.make_with_state`
        does. A function that stays the same object: what is compiled is kept by it. With
        `lambda key: module` (or `(module, state)`) of a trained module `init` returns what was
        trained.
      keys: whether the module takes `key=...`, for dropout.
      activations: of a module and one image `(channels, height, width)`, returns activations by
        layer, `(..., neurons)`. If None, they are the outputs of the modules that have one kernel,
        when they were last called, under `jax.vmap` too; but for those that are called within
        `jax.jit`, `jax.checkpoint` or a loop, which are left out. Of a kernel of three axes or
        more, the channels are taken to come first.
      synced: whether the module averages its state over the devices.
      neuron_axis: of its kernels; Equinox counts neurons first.
    """

    make: Callable[[jax.Array], Any]
    keys: bool = False
    activations: Callable[[Any, jax.Array], dict[str, jax.Array]] | None = None
    synced: bool = False
    neuron_axis: int = 0

    def init(self, key: jax.Array, image_shape: tuple[int, ...]) -> tuple[Any, Any]:
        """See `Network`."""
        del image_shape  # a module knows its own
        module, state = self._made(key)
        return _nested(eqx.filter(module, eqx.is_inexact_array)), _numbered(state)

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
        module, empty = self._made(jax.random.key(0))
        inexact, rest = eqx.partition(module, eqx.is_inexact_array)
        module = eqx.combine(_like(inexact, params), rest)
        module = eqx.nn.inference_mode(module, value=not train)
        outputs = Outputs()
        called = module
        if activations and self.activations is None:
            called = _listening(module, kernels(params), outputs, self.neuron_axis)
        images = x.transpose(0, 3, 1, 2)
        options = {}
        if self.keys:
            base = jax.random.key(0) if rng is None else rng
            options["key"] = jax.random.split(base, len(x))
        if empty is None:
            logits = _over_batch(lambda image, **kw: called(image, **kw), images, options)
        else:
            held = _like_numbered(empty, state)
            logits, held = _over_batch(
                lambda image, **kw: called(image, held, **kw), images, options, out_axes=(0, None)
            )
            state = _numbered(held) if train else state
        named = outputs.found
        if activations and self.activations is not None:
            named = jax.vmap(lambda image: self.activations(module, image))(images)
        return Output(logits.astype(jnp.float32), state, named)

    def layers(self, image_shape: tuple[int, ...]) -> dict[str, str]:
        """See `Network`; in the order of the module's fields."""
        del image_shape
        module, _ = eqx.filter_eval_shape(self._made, jax.random.key(0))
        leaves = jax.tree_util.tree_leaves_with_path(module)
        paths = [path_name(path) for path, leaf in leaves if hasattr(leaf, "shape")]
        found = kernels(_nested(eqx.filter(module, _is_inexact)))
        order = [part for path in paths for part in (path.rpartition("/")[0], path)]
        return in_order(found, order)

    def streams(self, image_shape: tuple[int, ...]) -> list[Stream]:
        """See `Network`; every layer is taken to have an order of its own."""
        return alone(self.layers(image_shape))

    def _made(self, key: jax.Array) -> tuple[Any, Any]:
        made = self.make(key)
        return made if isinstance(made, tuple) else (made, None)


class _Noting(eqx.Module):
    """A layer that has what it returns noted; all else of it is as it was."""

    layer: Any
    note: Callable[[jax.Array], jax.Array] = eqx.field(static=True)
    channels_first: bool = eqx.field(static=True)

    def __call__(self, *args, **kwargs):
        output = self.layer(*args, **kwargs)
        if isinstance(output, jax.Array):
            self.note(jnp.moveaxis(output, 0, -1) if self.channels_first else output)
        return output

    def __getattr__(self, name):
        return getattr(self.layer, name)

    @property
    def __class__(self):  # as isinstance sees it
        return type(self.layer)


def _listening(module: Any, layers: dict[str, str], outputs: Outputs, neuron_axis: int) -> Any:
    """The same module, but that its layers note what they return; `layers` as of `kernels`."""
    names = {layers[layer]: layer for layer in callers(layers).values()}
    for keys, kernel in jax.tree_util.tree_leaves_with_path(module):
        layer = names.get(path_name(keys))
        if layer is not None:
            channels_first = kernel.ndim > 2 and neuron_axis % kernel.ndim == 0
            part = partial(_at, keys=keys[:-1])
            note = partial(outputs.note, layer)
            module = eqx.tree_at(part, module, _Noting(part(module), note, channels_first))
    return module


def _at(module: Any, keys: tuple[Any, ...]) -> Any:
    """A part of a module by its key path."""
    for key in keys:
        if isinstance(key, jax.tree_util.GetAttrKey):
            module = getattr(module, key.name)
        else:
            module = module[key.idx if isinstance(key, jax.tree_util.SequenceKey) else key.key]
    return module


def _is_inexact(leaf: Any) -> bool:
    """Of arrays that are shapes alone, too."""
    return hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jnp.inexact)


def _over_batch(call, images, options, out_axes=0):
    return jax.vmap(
        lambda image, options: call(image, **options), out_axes=out_axes, axis_name=_BATCH
    )(images, options)


def _nested(tree: Any) -> Any:
    """A module's arrays as a nested dict, by the names of its fields."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return flax.traverse_util.unflatten_dict({path_name(p): leaf for p, leaf in leaves}, sep="/")


def _like(tree: Any, nested: Any) -> Any:
    """The way back from `_nested`, to a module of the structure of `tree`."""
    flat = flax.traverse_util.flatten_dict(nested, sep="/")
    return jax.tree_util.tree_map_with_path(lambda path, leaf: flat[path_name(path)], tree)


def _numbered(state: Any) -> dict[str, jax.Array]:
    """A state's arrays by their place in it, as they have no names."""
    leaves = [] if state is None else jax.tree.leaves(state)
    return {f"{i:03}": leaf for i, leaf in enumerate(leaves)}


def _like_numbered(state: Any, numbered: dict[str, jax.Array]) -> Any:
    return jax.tree.unflatten(jax.tree.structure(state), [numbered[k] for k in sorted(numbered)])
