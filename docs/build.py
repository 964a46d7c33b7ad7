"""Writes the API reference, HTML pages made from the docstrings: python docs/build.py [FOLDER]."""

import inspect
import re
import sys
from pathlib import Path
from typing import Any

import jax
import optax
import pdoc

import lgnn_jax
from lgnn_jax.models.vgg import VGG
from lgnn_jax.models.wide_resnet import Block, WideResNet

ROOT = Path(__file__).parents[1]
# What is of use outside of the lgnn command, and what its docstrings refer to. A package brings its
# submodules, but for one with an __all__.
MODULES = (
    "lgnn_jax",
    "lgnn_jax.maps",
    "lgnn_jax.methods",
    "lgnn_jax.analysis",
    "lgnn_jax.models",
    "!lgnn_jax.models.(layers|winograd)$",  # what our own networks are made of
    "lgnn_jax.training.data",
    "lgnn_jax.training.config",
    "lgnn_jax.training.named_maps",
    "lgnn_jax.training.optimizer",
    "lgnn_jax.training.steps",
    "lgnn_jax.training.session",
    "lgnn_jax.training.run",
    "lgnn_jax.training.run_dir",
    "lgnn_jax.training.trained",
    "lgnn_jax.training.checkpoint",
    "lgnn_jax.training.log",
    "lgnn_jax.training.own",
    "lgnn_jax.experiments.sweep",
    "lgnn_jax.experiments.results",
    "lgnn_jax.atlas.measure",
    "lgnn_jax.atlas.measured",
    "lgnn_jax.atlas.draw",
    "lgnn_jax.atlas.bundle",
    "lgnn_jax.atlas.analyze",
    "lgnn_jax.atlas.plots",
    "lgnn_jax.atlas.class_sets",
    "lgnn_jax.atlas.class_pictures",
    "lgnn_jax.atlas.features",
    "lgnn_jax.atlas.settled",
    "lgnn_jax.atlas.settled_files",
    "lgnn_jax.atlas.folder",
)
FLAX_FIELDS = [
    f"{network.__name__}.{field}"
    for network in (VGG, WideResNet, Block)
    for field in ("parent", "name", "scope")
]


def build(out: Path) -> None:
    """Writes the pages to the folder `out`; index.html leads to the others."""
    # The one way by which signatures and variables alike come to their types' names.
    inspect.formatannotation = pdoc.doc.formatannotation = short_name
    pdoc.render.env.globals["flax_fields"] = FLAX_FIELDS
    pdoc.render.configure(
        docformat="google",
        footer_text=f"lgnn_jax {lgnn_jax.__version__}",
        show_source=False,
        template_directory=ROOT / "docs" / "templates",
    )
    pdoc.pdoc(*MODULES, output_directory=out)


def short_name(annotation: Any, *args: Any, _long=inspect.formatannotation, **kwargs: Any) -> str:
    """Returns the name of a type as its users know it, where Python spells out where it is defined.

    `jax.typing.ArrayLike`, say, is a union of eight types, and `optax.Schedule` names it twice.
    """
    text = _long(annotation, *args, **kwargs).replace("typing.", "")
    for name, alias in (
        ("optax.Schedule", optax.Schedule),
        ("jax.typing.ArrayLike", jax.typing.ArrayLike),
        ("jax.typing.DTypeLike", jax.typing.DTypeLike),
    ):
        members = _long(alias).replace("typing.", "")
        text = text.replace(members, name)
        if members.startswith("Union["):  # as a part of a larger union
            text = text.replace(members.removeprefix("Union[").removesuffix("]"), name)
    text = re.sub(r"\b(jax\.)?jaxlib\._jax\.", "jax.", text)
    return text.replace("optax._src.base.", "optax.").replace("flax.linen.module.", "flax.linen.")


if __name__ == "__main__":
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "site"
    build(folder)
    print(folder / "index.html")
