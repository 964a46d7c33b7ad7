"""Files of PyTorch's, good and bad.

Those in `torch_files/` were written by PyTorch 2.13:

    row = torch.arange(24.0)
    tensors = OrderedDict()
    for name in "bfloat16 float16 float32 float64 int8 int16 int32 int64 uint8 bool".split():
        tensors[name] = (torch.arange(6) % 3).to(getattr(torch, name))
    tensors["whole"] = row
    tensors["transposed"] = row.reshape(4, 6).T
    tensors["part"] = row.reshape(2, 3, 4)[1:, ::2, 3]
    tensors["expanded"] = row[5:7, None].expand(2, 3)
    tensors["scalar"] = torch.tensor(3.5)
    tensors["empty"] = torch.zeros(0, 3)
    torch.save(tensors, "old.pth", _use_new_zipfile_serialization=False)
    torch.save(tensors, "zip.pth")
    norm = torch.nn.BatchNorm1d(3)
    checkpoint = {"epoch": 7, "state_dict": norm.state_dict(), "optimizer": {"lr": [0.1, None]}}
    torch.save(checkpoint, "checkpoint.pth", pickle_protocol=4)
    torch.save(dict(norm.named_parameters()), "parameters.pth")
    torch.save(norm, "module.pth")
"""

import io
import pickle
import zipfile
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from lgnn_jax.models.torch_file import read_state_dict

FILES = Path(__file__).parent / "torch_files"
DTYPES = (
    "bfloat16", "float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "bool"
)  # fmt: skip


def expected():
    row = np.arange(24, dtype=np.float32)
    return {name: (np.arange(6) % 3).astype(jnp.dtype(name)) for name in DTYPES} | {
        "whole": row,
        "transposed": row.reshape(4, 6).T,
        "part": np.array([[15, 23]], np.float32),
        "expanded": np.array([[5, 5, 5], [6, 6, 6]], np.float32),
        "scalar": np.array(3.5, np.float32),
        "empty": np.zeros((0, 3), np.float32),
    }


@pytest.mark.parametrize("name", ["old.pth", "zip.pth"])
def test_both_formats(name):
    found = read_state_dict(FILES / name)
    assert list(found) == list(expected())
    for key, array in expected().items():
        np.testing.assert_array_equal(found[key], array, strict=True, err_msg=key)
    found["whole"][:] = 0  # a copy, which the others do not share
    np.testing.assert_array_equal(found["transposed"], expected()["transposed"])


def test_checkpoints_and_parameters():
    found = read_state_dict(str(FILES / "checkpoint.pth"))
    assert {name: array.tolist() for name, array in found.items()} == {
        "weight": [1, 1, 1],
        "bias": [0, 0, 0],
        "running_mean": [0, 0, 0],
        "running_var": [1, 1, 1],
        "num_batches_tracked": 0,
    }
    assert set(read_state_dict(FILES / "parameters.pth")) == {"weight", "bias"}


def value(x):
    """The instructions of a pickle that make a plain value."""
    return pickle.dumps(x, 2)[2:-1]


def tensor(*, offset=0, shape=(4,), strides=(1,), count=4, kind=b"Float", view=None):
    storage = value("storage") + b"ctorch\n%bStorage\n" % kind + value("0") + value("cpu")
    storage = b"(" + storage + value(count) + value(view) + b"tQ"
    arguments = storage + value(offset) + value(shape) + value(strides) + b"\x89N"
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + arguments + b"tR"


def old(content, *, little=True, count=4, keys=("0",), magic=0x1950A86A20F9469CFC6C):
    """A file of the older format; `content` makes its value, 0 to 3 are its numbers."""
    head = [magic, 1001, {"little_endian": little}]
    numbers = np.arange(4, dtype="<f4").tobytes()
    return (
        b"".join(pickle.dumps(part, 2) for part in head)
        + b"\x80\x02%b." % content
        + pickle.dumps(list(keys), 2)
        + count.to_bytes(8, "little")
        + numbers
    )


def zipped(content, *, entries=None, compression=zipfile.ZIP_STORED):
    """A file of the newer format."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        archive.writestr("x/data.pkl", b"\x80\x02%b." % content)
        archive.writestr("x/data/0", np.arange(4, dtype="<f4").tobytes())
        for name, text in (entries or {}).items():
            archive.writestr(name, text)
    return file.getvalue()


def named(content):
    return b"}" + value("a") + content + b"s"


@pytest.fixture
def refusal(tmp_path):
    """What is said of a file, after its path."""

    def of(data):
        path = tmp_path / "weights.pth"
        path.write_bytes(data)
        with pytest.raises(ValueError, match=r"\A\S*/weights\.pth .*\.\Z") as caught:
            read_state_dict(path)
        assert "\n" not in str(caught.value)
        return str(caught.value).removeprefix(f"{path} ")

    return of


@pytest.mark.parametrize("wrap", [old, zipped])
def test_files_made_by_hand_are_read(tmp_path, wrap):
    path = tmp_path / "weights.pth"
    path.write_bytes(wrap(named(tensor(offset=1, shape=(2, 2), strides=(1, 1)))))
    assert read_state_dict(path)["a"].tolist() == [[1, 2], [2, 3]]


class Hostile:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


@pytest.mark.parametrize("wrap", [old, zipped])
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_nothing_is_run(refusal, tmp_path, wrap, protocol):
    written = tmp_path / "written"
    text = pickle.dumps({"a": Hostile(str(written))}, protocol)
    said = refusal(wrap(text[:-1]))
    assert "io.open" in said or "has the pickle instruction" in said
    assert not written.exists()
    pickle.loads(text)["a"].close()  # as Python would
    assert written.exists()


@pytest.mark.parametrize("wrap", [old, zipped])
@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"cbuiltins\neval\n(X\x01\x00\x00\x001tR", "asks for 'builtins.eval', which is refused"),
        (b"\x8c\x02os\x8c\x06system\x93", "asks for 'os.system', which is refused"),
        (b"ctorch\nload\n", "asks for 'torch.load'"),
        (b"cnumpy\nFloatStorage\n", "asks for 'numpy.FloatStorage'"),
        (b"(S'true'\nios\nsystem\n", "has the pickle instruction STRING"),
        (b"(ios\nsystem\n", "has the pickle instruction INST"),
        (b"(ccollections\nOrderedDict\no", "has the pickle instruction OBJ"),
        (b"ccollections\nOrderedDict\n)\x81", "has the pickle instruction NEWOBJ"),
        (b"\x82\x01", "has the pickle instruction EXT1"),
        (b"X\x09\x00\x00\x00os.system)R", "a call of what is no function"),
        (b"ctorch\nFloatStorage\n)R", "is damaged"),
        (b"ccollections\nOrderedDict\nK\x01\x85R", "is damaged"),
    ],
)
def test_functions_and_instructions_that_are_refused(refusal, wrap, content, said):
    assert said in refusal(wrap(content))
    assert said in refusal(wrap(named(content)))


@pytest.mark.parametrize("wrap", [old, zipped])
@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"shape": (5,)}, "a tensor ends at 5 in storage 0 of 4 numbers"),
        ({"offset": 1}, "a tensor ends at 5"),
        ({"offset": -1}, "a tensor ends at 3"),
        ({"offset": 2**62}, "a tensor ends at"),
        ({"shape": (2,), "strides": (2**62,)}, "a tensor ends at"),
        ({"shape": (2, 2), "strides": (-1, 2)}, "a tensor ends at"),
        ({"shape": (-1,)}, "a tensor ends at"),
        ({"shape": (2, 2)}, "is damaged"),
        ({"shape": "four"}, "is damaged"),
        ({"shape": (10**15,), "strides": (0,)}, "is damaged"),
        ({"count": 5}, "storage 0 has"),
        ({"kind": b"Double"}, "storage 0 has 16 bytes, not 32"),
        ({"kind": b"ComplexFloat"}, "asks for 'torch.ComplexFloatStorage', which is refused"),
        ({"view": ("1", 0, 4)}, "a reference to what is no storage"),
    ],
)
def test_tensors_that_cannot_be(refusal, wrap, options, said):
    assert said in refusal(wrap(named(tensor(**options))))


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "is damaged or not a PyTorch file"),
        (b"<!DOCTYPE html>\n<html></html>", "is damaged or not a PyTorch file"),
        (b"version https://git-lfs.github.com/spec/v1\n", "is damaged or not a PyTorch file"),
        (pickle.dumps({"a": 1}), "is a pickle, but not a file of torch.save."),
        (b"PK\x03\x04", "is damaged or not a PyTorch file (File is not a zip file)."),
        (old(named(tensor()), magic=1), "is a pickle, but not a file of torch.save."),
        (old(named(tensor()), little=False), "was written on a big-endian machine"),
        (zipped(named(tensor()), entries={"x/byteorder": "big"}), "was written on a big-endian"),
        (zipped(b"}", entries={"y/data.pkl": ""}), "without a data.pkl"),
        (
            zipped(named(tensor()), compression=zipfile.ZIP_DEFLATED),
            "has a compressed 'data.pkl', which torch.save does not write.",
        ),
        (old(named(tensor()), count=3), "storage 0 has 3 numbers, not 4"),
        (old(named(tensor()), keys=()), "is damaged"),
        (old(named(tensor()), keys=("1",)), "is damaged"),
        (old(named(tensor()))[:-1], "storage 0 has 15 bytes, not 16"),
        (old(tensor()), "holds a Tensor, not a dict of tensors."),
        (old(value([1])), "holds a list, not a dict of tensors."),
        (old(value({"epoch": 1})), "holds 'epoch' (int), where a tensor with a name is expected"),
        (old(value({"state_dict": {"a": "b"}})), "holds 'a' (str), where a tensor"),
        (old(b"}" + value(("a", 1)) + tensor() + b"s"), "has a tuple as a key"),
        (old(b"0"), "has the pickle instruction POP"),
        (old(b"\x85"), "an instruction without operands"),
        (old(b"h\x07"), "is damaged"),
        ((FILES / "module.pth").read_bytes(), "asks for 'torch.nn.modules.batchnorm.BatchNorm1d'"),
    ],
)
def test_files_that_are_refused(refusal, data, said):
    assert said in refusal(data)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.pth"):
        read_state_dict(tmp_path / "none.pth")


@pytest.mark.parametrize("name", ["old.pth", "zip.pth"])
def test_damage_anywhere_is_said_or_does_no_harm(tmp_path, name):
    """Files cut short, and files of which one byte is another."""
    whole = (FILES / name).read_bytes()
    path = tmp_path / "weights.pth"
    rng = np.random.default_rng(0)
    damaged = [whole[:end] for end in range(0, len(whole), 29)]
    for place in range(0, len(whole), 3):
        other = bytes([whole[place] ^ int(rng.integers(1, 256))])
        damaged.append(whole[:place] + other + whole[place + 1 :])
    said = []
    for data in damaged:
        path.write_bytes(data)
        try:
            found = read_state_dict(path)
        except ValueError as error:
            said.append(str(error))
            continue
        assert all(isinstance(array, np.ndarray) for array in found.values())
        assert len(data) == len(whole)
    assert len(said) > len(damaged) / 4
    assert all(text.startswith(f"{path} ") and "\n" not in text for text in said)
