"""The recipe for PyTorch as it stands on its page, with a stand-in for it and with itself."""

import contextlib
import re
import sys
import types
from pathlib import Path

import numpy as np
import pytest

PAGE = (Path(__file__).parents[1] / "docs" / "any_network.md").read_text()
(RECIPE,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


class Tensor:
    """As little of a tensor as the recipe needs."""

    def __init__(self, values):
        self.values = np.asarray(values, np.float32)
        self.ndim = self.values.ndim

    def __len__(self):
        return len(self.values)

    def float(self):
        return self

    def mean(self, axes):
        return Tensor(self.values.mean(tuple(axes)))

    def cpu(self):
        return self

    def numpy(self):
        return self.values


class Module:
    """As little of a module: parts by name, hooks, and a function that computes."""

    def __init__(self, forward, *, weight=None, **parts):
        self.forward, self.parts, self.hooks = forward, parts, {}
        if weight is not None:
            self.weight = Tensor(np.zeros(weight))

    def named_modules(self, prefix=""):
        yield prefix, self
        for name, part in self.parts.items():
            yield from part.named_modules(f"{prefix}.{name}" if prefix else name)

    def register_forward_hook(self, hook):
        key = object()
        self.hooks[key] = hook
        return types.SimpleNamespace(remove=lambda: self.hooks.pop(key))

    def __call__(self, *inputs):
        output = self.forward(*inputs)
        for hook in self.hooks.values():
            assert hook(self, inputs, output) is None  # which would replace the output
        return output


def _stand_in():
    """A convolution with its norm, a layer on tokens that is called twice, and a head."""
    conv = Module(lambda x: Tensor(np.repeat(x.values, 2, axis=1) + 1), weight=(6, 3, 1, 1))
    norm = Module(lambda x: x, weight=(6,))
    tokens = Module(lambda x: Tensor(2 * x.values), weight=(6, 6))
    head = Module(lambda x: Tensor(x.values[:, :5]), weight=(5, 6))
    block = Module(None, conv=conv, norm=norm, tokens=tokens)

    def forward(x):
        x = norm(conv(x))
        flat = Tensor(x.values.reshape(*x.values.shape[:2], -1).transpose(0, 2, 1))
        return head(Tensor(tokens(tokens(flat)).values.mean(1)))

    return Module(forward, block=block, head=head)


@pytest.fixture
def recipe(monkeypatch):
    """The function of the page, run with a stand-in for PyTorch."""
    torch = types.ModuleType("torch")
    torch.no_grad = contextlib.nullcontext
    monkeypatch.setitem(sys.modules, "torch", torch)
    namespace = {}
    exec(RECIPE, namespace)
    return namespace["activations"]


IMAGES = np.random.default_rng(0).normal(size=(7, 3, 4, 5)).astype(np.float32)


def test_of_a_stand_in(recipe):
    model = _stand_in()
    batches = (Tensor(IMAGES[start : start + 3]) for start in range(0, 7, 3))
    found = recipe(model, batches, "conv|norm|tokens|head")
    means = np.repeat(IMAGES.mean((2, 3)), 2, axis=1) + 1
    assert list(found) == ["block.conv", "block.tokens", "head"]
    np.testing.assert_allclose(found["block.conv"], means, atol=1e-6)
    np.testing.assert_allclose(found["block.tokens"], 4 * means, atol=1e-5)
    np.testing.assert_allclose(found["head"], 4 * means[:, :5], atol=1e-5)
    assert not any(module.hooks for _, module in model.named_modules())
    assert list(recipe(model, [Tensor(IMAGES)], "^head$")) == ["head"]


def test_tokens_before_images_are_refused(recipe):
    """As in a PyTorch transformer without batch_first: the mean would be over images."""
    head = Module(lambda x: Tensor(x.values.transpose(1, 0, 2)), weight=(6, 6))
    model = Module(lambda x: head(x), head=head)
    with pytest.raises(ValueError, match=r"^head does not have the images on its first axis"):
        recipe(model, [Tensor(np.zeros((7, 4, 6)))], "head")


def test_hooks_are_taken_away_whatever_happens(recipe):
    model = _stand_in()
    with pytest.raises(AttributeError):
        recipe(model, ["no tensor"], "conv")
    assert not any(module.hooks for _, module in model.named_modules())
    with pytest.raises(ValueError, match="no convolution or linear layer matches 'norm'"):
        recipe(model, [Tensor(IMAGES)], "norm")


def test_of_pytorch():
    torch = pytest.importorskip("torch")
    namespace = {}
    exec(RECIPE, namespace)
    torch.manual_seed(0)
    conv, linear, head = torch.nn.Conv2d(3, 6, 3), torch.nn.Linear(6, 8), torch.nn.Linear(8, 5)

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm, self.linear, self.head = (
                conv,
                torch.nn.BatchNorm2d(6),
                linear,
                head,
            )

        def forward(self, x):
            tokens = self.norm(self.conv(x)).flatten(2).transpose(1, 2)
            return self.head(torch.relu(self.linear(tokens)).mean(1))

    model = Model().eval()
    images = torch.from_numpy(IMAGES)
    found = namespace["activations"](model, images.split(3), "conv|norm|linear|head")
    assert list(found) == ["conv", "linear", "head"]
    with torch.no_grad():
        convolved = conv(images)
        tokens = linear(model.norm(convolved).flatten(2).transpose(1, 2))
        expected = {"conv": convolved.mean((2, 3)), "linear": tokens.mean(1), "head": model(images)}
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values.numpy(), atol=1e-6)
    assert not any(module._forward_hooks for module in model.modules())
