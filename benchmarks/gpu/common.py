"""What the kit's tasks share. Nothing here is imported that the kit would first have to install."""

import dataclasses
from functools import cached_property
from pathlib import Path
from typing import Any

FORMS = ("auto", "matmul", "banded", "separable", "conv")  # of the filter


class Kit:
    """What tasks share: the data set and where things lie."""

    def __init__(self, store: Path, tiny: bool):
        self.store, self.tiny = store, tiny

    @cached_property
    def dataset(self) -> Any:
        """CIFAR-100 from its pieces; at the tiny size handwritten digits."""
        if self.tiny:
            from lgnn_jax.training import data

            return data.load("digits", train_images=256)
        import pieces

        return pieces.unpack(self.store)

    def config(self, case: str, **changes: Any) -> Any:
        """The run that `name[@width],batch[,dtype]` stands for, on the data set."""
        from timing import parse_case

        from lgnn_jax.training.config import Data

        if self.tiny:
            name, _, rest = case.partition(",")
            case = f"{name}@{1 / 16},{','.join(['64', *rest.split(',')[1:]])}"
        config = parse_case(case)
        kept = Data(self.dataset.name, pad=config.data.pad, flip=not self.tiny)
        return dataclasses.replace(config, data=kept, **changes)


class TaskError(Exception):
    """A task that cannot be done, or whose outcome is not what it must be; one clear line."""


def quiet() -> Any:
    """A console that says nothing."""
    from rich.console import Console

    return Console(quiet=True)
