"""A run as data: frozen dataclasses, checked when built, that round-trip through JSON."""

import contextlib
import dataclasses
import functools
import json
import math
import re
from dataclasses import dataclass, field
from typing import Any, Literal

import pydantic

from lgnn_jax.maps import table, windows
from lgnn_jax.maps.words import did_you_mean
from lgnn_jax.methods import filtering
from lgnn_jax.methods.method import NAMED, Filter, Method, Pull, Settles
from lgnn_jax.training import own
from lgnn_jax.training.named_maps import SHAPES

_FORBID_UNKNOWN = pydantic.ConfigDict(extra="forbid")

Variant = Literal["baseline", "constant", "decreasing", "self_organizing"] | str


@dataclass(frozen=True)
class Model:
    """The network."""

    name: str = "vgg11"
    """vgg11, vgg13, vgg16, vgg19; a Wide ResNet, wrn16_8 for depth 16 and width 8; or a Python file
    that defines network(num_classes)."""
    width: float = 1.0
    """Factor on the number of channels; 0.25 for small machines."""
    dropout: float = 0.3
    """Rate inside the blocks of a Wide ResNet, in [0, 1), taken to the nearest 1/256."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Compute type; parameters are float32."""

    __pydantic_config__ = _FORBID_UNKNOWN

    def __post_init__(self):
        """Checks the ranges that types do not express; here and in the classes below."""
        _require(0 < self.width <= 64, "model.width", "positive and at most 64", self.width)
        _require(0 <= self.dropout < 1, "model.dropout", "in [0, 1)", self.dropout)


@dataclass(frozen=True)
class Data:
    """The images."""

    name: str = "cifar100"
    """digits (ships with the package) or a tensorflow-datasets name: cifar10, svhn_cropped, ..."""
    train_images: int | None = None
    """Train on that many images, the same ones in every run; all by default."""
    pad: int = 4
    """Pixels of reflected padding before a random crop to the image size; 0 for no crop."""
    flip: bool = True
    """Whether to mirror half of the training images, left to right."""

    __pydantic_config__ = _FORBID_UNKNOWN

    def __post_init__(self):
        """See `Model`."""
        _require(bool(self.name), "data.name", "a data set's name", self.name)
        if self.train_images is not None:
            _at_least_one("data.train_images", self.train_images)
        _require(self.pad >= 0, "data.pad", "at least 0", self.pad)


@dataclass(frozen=True)
class Optimizer:
    """SGD with momentum (not Nesterov) and weight decay on all parameters."""

    learning_rate: float = 0.1
    """Learning rate of the first epoch."""
    decay_epochs: tuple[int, ...] = (60, 120, 160)
    """Epochs at whose start the learning rate is multiplied by decay_factor."""
    decay_factor: float = 0.2
    """Factor on the learning rate, at each of decay_epochs."""
    momentum: float = 0.9
    """Share of the last update that is kept, in [0, 1)."""
    weight_decay: float = 5e-4
    """Share of the weights that is added to their gradient, after the filter (an L2 penalty)."""

    __pydantic_config__ = _FORBID_UNKNOWN

    def __post_init__(self):
        """See `Model`."""
        _positive("optimizer.learning_rate", self.learning_rate)
        _positive("optimizer.decay_factor", self.decay_factor)
        epochs = list(self.decay_epochs)
        increasing = epochs == sorted(set(epochs)) and all(1 <= e <= 10**6 for e in epochs)
        right = "increasing, at least 1 and at most 1,000,000"
        _require(increasing, "optimizer.decay_epochs", right, epochs)
        _require(0 <= self.momentum < 1, "optimizer.momentum", "in [0, 1)", self.momentum)
        finite = 0 <= self.weight_decay < math.inf
        _require(finite, "optimizer.weight_decay", "finite, at least 0", self.weight_decay)


@dataclass(frozen=True)
class Som:
    """The map and its filter."""

    sigma: float = 0.5
    """Width of the Gaussian neighbourhood, in map units; 0 for no filter."""
    kernel_size: int | None = 3
    """Side of the window, in map units; odd. None for the whole map, as always on maps that are no
    grids."""
    padding: filtering.Padding = "replicate"
    """What lies beyond the map's edge; wrap makes it a torus."""
    method: filtering.Form = "auto"
    """How the filter is computed; auto is the fastest known for the platform."""
    floor: float = 0.0
    """Share of the gradient that passes unfiltered, in [0, 1]."""
    map: str = "grid"
    """Shape of the maps: grid (nearly square), hexagonal, line, ring, sphere, or a Python file that
    defines map(neurons)."""
    layers: Literal["main", "resblocks", "all"] = "all"
    """Of a Wide ResNet: main branch of the blocks; blocks with shortcuts; all convolutions."""
    table: dict[str, tuple[int, int] | None] = field(default_factory=dict)
    """Maps other than the usual: a channel count, or a regular expression on a parameter's path,
    then rows and columns, or None for no filter, as in 64 16 4 stem None."""

    __pydantic_config__ = _FORBID_UNKNOWN

    def __post_init__(self):
        """See `Model`."""
        with _naming("som.sigma"):
            windows.check_sigma(self.sigma)
        if self.kernel_size is not None:
            with _naming("som.kernel_size"):
                windows.check_size(self.kernel_size)
        _require(0 <= self.floor <= 1, "som.floor", "in [0, 1]", self.floor)
        _one_of("som.map", self.map, SHAPES)
        with _naming("som.table"):
            table.check_table(self.table)
        for key in self.table:
            _require(isinstance(key, str), "a key of som.table", "a str, such as '64'", key)


@dataclass(frozen=True)
class Settling(Settles):
    """How neurons find their places while the network trains, by a variant that lets them."""

    filter: bool = False
    """whether gradients are filtered, too, by the window of som: the weights of neighbours come to
    be more alike, and accuracy may suffer."""

    __pydantic_config__ = _FORBID_UNKNOWN

    def __post_init__(self):
        """See `Model`."""
        with _of("settling"):
            super().__post_init__()


@dataclass(frozen=True)
class Pulling(Pull):
    """How neighbours are drawn together, by a variant that does so."""

    __pydantic_config__ = _FORBID_UNKNOWN

    def __post_init__(self):
        """See `Model`."""
        with _of("pull"):
            super().__post_init__()


@dataclass(frozen=True)
class Config:
    """A whole run."""

    name: str = "run"
    """Name of the run directory; letters, digits, '.', '_' and '-'."""
    variant: Variant = "constant"
    """baseline: no filter; constant: sigma stays; decreasing: sigma falls with every epoch, towards
    0 (equation 4 of the paper); self_organizing: neurons settle on their maps while they train, and
    what neighbours do is drawn together, see settling and pull; or a Python file that defines
    method(table), which returns an optax transformation."""
    seed: int = 0
    """Seed of the initial weights, the order of the images, augmentation and dropout."""
    epochs: int = 200
    """Passes over the training images."""
    batch_size: int = 128
    """Images a step, over all devices."""
    checkpoint_every: int = 10
    """Epochs from one checkpoint to the next; the last epoch always has one."""
    log_every: int = 50
    """Steps from one line of metrics.jsonl to the next."""
    on_nan: Literal["stop", "skip"] = "stop"
    """What to do where a loss or gradient is not finite: end the run before any of it is kept, or
    leave the step out."""
    model: Model = field(default_factory=Model)
    data: Data = field(default_factory=Data)
    optimizer: Optimizer = field(default_factory=Optimizer)
    som: Som = field(default_factory=Som)
    settling: Settling = field(default_factory=Settling)
    pull: Pulling = field(default_factory=Pulling)

    __pydantic_config__ = _FORBID_UNKNOWN

    def __post_init__(self):
        """See `Model`."""
        _one_of("variant", self.variant, tuple(NAMED))
        valid = re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", self.name) is not None
        _require(valid, "name", "letters, digits, '.', '_' and '-'", self.name)
        _require(0 <= self.seed < 2**31, "seed", "in [0, 2**31)", self.seed)
        for name in ("epochs", "batch_size", "checkpoint_every", "log_every"):
            _at_least_one(name, getattr(self, name))
        if self.som.layers != "all" and not self.model.name.startswith("wrn"):
            raise ValueError(
                f"som.layers must be 'all' for {self.model.name}, got {self.som.layers!r}: only a "
                "Wide ResNet has residual blocks."
            )

    @property
    def method(self) -> Method:
        """What makes the map: the variant, with the window of `som` where it filters.

        A variant that is a file is run when its transformation is built, no sooner.
        """
        if own.is_file(self.variant):
            return Method(own=functools.partial(_own_method, self.variant))
        found = NAMED[self.variant]
        if found.settles is not None:
            found = dataclasses.replace(found, settles=self.settling)
        if found.pull is not None:
            found = dataclasses.replace(found, pull=self.pull if self.pull.weight else None)
        if found.filter is None and not (found.settles is not None and self.settling.filter):
            return found
        window = dataclasses.replace(
            found.filter or Filter(),
            sigma=self.som.sigma,
            kernel_size=self.som.kernel_size,
            padding=self.som.padding,
            form=self.som.method,
            floor=self.som.floor,
        )
        return dataclasses.replace(found, filter=window)

    @property
    def own_files(self) -> list[str]:
        """The Python files that it names: of the method, the network and the shape of maps."""
        return [x for x in (self.variant, self.model.name, self.som.map) if own.is_file(x)]

    @property
    def is_annealed(self) -> bool:
        """Whether the width of the neighbourhood changes, so that a step depends on the epochs."""
        found = NAMED.get(self.variant, Method()).filter
        return (found is not None and found.schedule != "constant") or (
            self.method.settles is not None and self.settling.until < 1
        )

    def without_sigma(self) -> "Config":
        """Returns the same run but for the width of its filter and that width's schedule.

        Of a run whose neurons settle nothing is left out: its filter has one width.
        """
        if self.method.filter is None or self.method.settles is not None:
            return self
        som = dataclasses.replace(self.som, sigma=0.0)
        return dataclasses.replace(self, variant="constant", som=som)


def to_json(config: Config) -> str:
    """Returns `config` as an indented JSON object; `from_json` reads it back."""
    return json.dumps(dataclasses.asdict(config), indent=2, allow_nan=False) + "\n"


def from_json(text: str) -> Config:
    """Builds a `Config` from `to_json`'s text.

    Args:
      text: a JSON object; fields that are missing take their default.

    Raises:
      ValueError: in one line that names the field, its value and what would be right: for text that
        is not JSON, unknown fields, wrong types and values out of range.

    Example:
      >>> from_json('{"epochs": 3, "model": {"width": 0.5}}').model.width
      0.5
    """
    try:
        return pydantic.TypeAdapter(Config).validate_json(text, strict=True)
    except pydantic.ValidationError as error:
        raise ValueError("; ".join(map(_describe, error.errors()))) from None


def difference(old: Config, new: Config) -> list[tuple[str, Any, Any]]:
    """Lists the fields in which two configs differ, as `(dotted name, old value, new value)`."""

    def flatten(config):
        for f in dataclasses.fields(config):
            value = getattr(config, f.name)
            if dataclasses.is_dataclass(value):
                yield from ((f"{f.name}.{name}", leaf) for name, leaf in flatten(value))
            else:
                yield f.name, value

    pairs = zip(flatten(old), flatten(new), strict=True)
    return [(name, before, after) for (name, before), (_, after) in pairs if before != after]


def _describe(error: dict[str, Any]) -> str:
    """Puts one of pydantic's errors into one sentence."""
    name = ".".join(str(part) for part in error["loc"])
    if error["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        section = Config()
        for part in error["loc"][:-1]:
            section = getattr(section, str(part), section)
        known = [f.name for f in dataclasses.fields(section)]
        return f"unknown field {name!r}" + did_you_mean(str(error["loc"][-1]), known)
    if error["type"] == "value_error":
        return str(error["ctx"]["error"])
    if error["type"] == "json_invalid":
        return f"not JSON: {error['ctx']['error']}"
    name = " ".join(name.split()) or "config"  # a key of som.table may be of several lines
    what = error["msg"].removeprefix("Input should be ").replace("a valid integer", "an integer")
    must = "" if what == error["msg"] else " must be"
    what = what.replace("a valid ", "a ").replace("a array", "an array")
    return f"{name}{must or ':'} {what}, got {error['input']!r:.80}."


def _own_method(file: str, table: Any) -> Any:
    """The transformation of a user's file."""
    found = own.call(file, "method", table)
    if not hasattr(found, "update"):
        raise ValueError(
            f"{file}: method must return an optax transformation, got {type(found).__name__}."
        )
    return found


@contextlib.contextmanager
def _naming(name: str):
    """Puts the field's name before the message of a ValueError raised inside."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


@contextlib.contextmanager
def _of(section: str):
    """Puts the section before the field that a ValueError raised inside begins with."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{section}.{error}") from None


def _require(valid: bool, name: str, right: str, value: Any) -> None:
    if not valid:
        raise ValueError(f"{name} must be {right}, got {value!r}.")


def _one_of(name: str, value: str, known: tuple[str, ...]) -> None:
    """Raises ValueError unless a value is known or names a Python file."""
    *first, last = map(repr, known)
    right = f"{', '.join(first)} or {last}, or a Python file"
    _require(value in known or own.is_file(value), name, right, value)


def _positive(name: str, value: float) -> None:
    _require(0 < value < math.inf, name, "positive and finite", value)


def _at_least_one(name: str, value: int) -> None:
    # Steps are counted in 32 bits.
    _require(1 <= value <= 10**6, name, "at least 1 and at most 1,000,000", value)
