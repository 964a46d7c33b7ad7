"""What the layers of a network return, noted while it computes.

A layer may be called within `jax.vmap`: of images or of tokens. The value there is that of one
image or token. So a value goes through an operation that changes nothing, and that `jax.vmap` turns
into the same operation on the values of all: outside of every vmap the whole of it is noted.
"""

from collections import Counter
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jax.extend import core
from jax.interpreters import ad, batching, mlir

# The name before jax 0.10.
_trace_state = getattr(core, "get_opaque_trace_state", None) or jax.core.get_opaque_trace_state


class Outputs:
    """The outputs of layers, as they are where this was made.

    A layer that is called within `jax.jit`, `jax.checkpoint` or a loop of its own is left out: its
    values do not exist outside.

    Attributes:
      found: by layer, what it returned when it was last called; axes of vmaps come first.

    Example:
      >>> outputs = Outputs()
      >>> doubled = jax.vmap(lambda x: outputs.note("double", 2 * x))(jnp.arange(3.0))
      >>> outputs.found["double"].tolist()
      [0.0, 2.0, 4.0]
    """

    def __init__(self):
        """Remembers the place."""
        self.found: dict[str, jax.Array] = {}
        self._place = _trace_state()

    def note(self, layer: str, output: jax.Array) -> jax.Array:
        """Notes the output of a layer, and returns it."""
        if _trace_state() == self._place:
            self.found[layer] = output
        else:
            _noted.bind(output, layer=layer, outputs=self)
        return output


def callers(layers: Mapping[str, str]) -> dict[str, str]:
    """Returns the layer of each module whose output is that of a layer, by the module's path.

    They are the modules that have one kernel. Of one that has several, a recurrent cell's, the
    output is of all of them together.

    Args:
      layers: the path of each layer's kernel.

    Example:
      >>> callers({"conv": "conv/kernel", "gru/w_hh": "gru/w_hh", "gru/w_ih": "gru/w_ih"})
      {'conv': 'conv'}
    """
    owners = {layer: path.rpartition("/")[0] for layer, path in layers.items()}
    kernels = Counter(owners.values())
    return {owner: layer for layer, owner in owners.items() if kernels[owner] == 1}


def _note_all(args, axes, *, layer, outputs):
    (values,), (axis,) = args, axes
    values = jnp.moveaxis(values, axis, 0)
    return outputs.note(layer, values), 0


_noted = core.Primitive("noted")
_noted.def_impl(lambda output, **_: output)
_noted.def_abstract_eval(lambda output, **_: output)
batching.primitive_batchers[_noted] = _note_all
ad.deflinear2(_noted, lambda gradient, _, **__: [gradient])
mlir.register_lowering(_noted, lambda _, output, **__: [output])
