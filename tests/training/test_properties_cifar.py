"""Any archive ends in a copy that stock tensorflow-datasets reads, or in one line."""

import gzip
import pathlib
import re
import tempfile

import pytest
import tensorflow_datasets as tfds
from cifar_copies import checksum, left_behind, pack
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import MANY, assert_one_line

from lgnn_jax.training.data import cifar

FOLDER = "cifar-100-binary"
RECORD = 3074
NAMES = {"coarse_label": ("coarse_label_names.txt", 20), "label": ("fine_label_names.txt", 100)}
FILES = {
    file: "".join(f"class {i}\n" for i in range(count)).encode() for file, count in NAMES.values()
} | {
    "train.bin": b"".join(bytes([i, i, *range(256)] + 256 * [0] * 11) for i in range(3)),
    "test.bin": bytes([19, 99]) + bytes(3072),
}
MEMBERS = sorted(FILES)


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    # tfds leaves an empty directory there for each builder of a dataset that is not prepared.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(tmp_path_factory.mktemp("scratch")))
        yield


def prepare(archive):
    """Returns names and labels as stock tfds reads them, or the one line that refuses them."""
    with tempfile.TemporaryDirectory() as folder:
        data_dir = pathlib.Path(folder, "above", "data")
        manual = data_dir / "downloads" / "manual" / f"{FOLDER}.tar.gz"
        manual.parent.mkdir(parents=True)
        manual.write_bytes(archive)
        before = left_behind(pathlib.Path(folder))
        result = None
        try:
            cifar.prepare("cifar100", data_dir, checksum=checksum(archive))
        except cifar.DatasetError as error:
            assert_one_line(error)
            result = str(error)
        else:
            builder = tfds.builder("cifar100", data_dir=data_dir)
            result = {key: builder.info.features[key].names for key in NAMES} | {
                split: [
                    (int(e["coarse_label"]), int(e["label"])) for e in builder.as_data_source(split)
                ]
                for split in ("train", "test")
            }
        copy = "above/data/cifar100"
        after = left_behind(pathlib.Path(folder))
        assert [path for path in after if not path.startswith(copy)] == before
        assert any(path.startswith(copy) for path in after) == isinstance(result, dict)
        return result


@st.composite
def contents(draw, file):
    """A file of the archive, often with a mistake; None for one that is missing."""
    content = FILES[file]
    kind = draw(st.sampled_from(["as it is", "edit", "edit", "cut", "bytes", "missing"]))
    if kind == "as it is":
        return content
    if kind == "cut":
        return content[: draw(st.integers(0, len(content) // RECORD)) * RECORD]
    if kind == "bytes":
        return draw(st.binary(max_size=9))
    if kind == "missing":
        return None
    if file.endswith(".txt"):
        lines = content.splitlines(keepends=True)
        word = st.sampled_from([b"class 1 \n", b" \n", b"\r\n\r\n", b"\xff\n", b""])
        lines[draw(st.integers(0, len(lines) - 1))] = draw(word)
        return b"".join(lines)
    start = draw(st.integers(0, len(content) // RECORD - 1)) * RECORD + draw(st.integers(0, 2))
    new = draw(
        st.sampled_from([b"\x00", b"\x13", b"\x14", b"\x63", b"\x64", b"\xff", b"", b"\0\0"])
    )
    return content[:start] + new + content[start + 1 :]


def expected_copy(files):
    """What the official description of the format makes of these; None where it is not kept."""
    expected = {}
    for key, (file, count) in NAMES.items():
        names = re.split(r"[\r\n]+", files.get(file, b"").decode("utf-8", "replace"))
        expected[key] = names = [name.strip() for name in names if name.strip()]
        if len(names) != count or len(set(names)) != count:
            return None
    for split in ("train", "test"):
        content = files.get(f"{split}.bin", b"")
        expected[split] = list(zip(content[::RECORD], content[1::RECORD], strict=False))
        if not content or len(content) % RECORD:
            return None
        if any(coarse >= 20 or fine >= 100 for coarse, fine in expected[split]):
            return None
    return expected


@pytest.mark.usefixtures("scratch")
@settings(MANY, max_examples=100)
@given(
    st.lists(st.sampled_from(MEMBERS), max_size=2, unique=True).flatmap(
        lambda changed: st.fixed_dictionaries({file: contents(file) for file in changed})
    ),
    st.permutations(MEMBERS),
    st.lists(
        st.sampled_from(
            ["../" * depth + "outside" for depth in range(1, 7)]
            + ["train.bin/", "x" * 300, "../cifar-100-binary/../train.bin", "é\n"]
        ),
        max_size=3,
    ),
)
def test_archive_of_any_contents_is_read_or_refused(changed, order, others):
    files = {file: {**FILES, **changed}[file] for file in order}
    files = {file: content for file, content in files.items() if content is not None}
    result = prepare(pack({**dict.fromkeys(others, b"\x77"), **files}, FOLDER))
    expected = expected_copy(files)
    assert result == expected if expected else re.search("must have .*", result)


@pytest.mark.usefixtures("scratch")
@settings(MANY, max_examples=100)
@given(st.data())
def test_archive_of_any_bytes_is_read_or_refused(data):
    tar = gzip.decompress(pack(FILES, FOLDER))
    archive = gzip.compress(tar, mtime=0)
    kind = data.draw(st.sampled_from(["cut", "cut tar", "edit", "edit tar", "header", "any"]))
    if kind == "any":
        archive = data.draw(
            st.binary(max_size=99).flatmap(
                lambda noise: st.sampled_from([noise, b"\x1f\x8b" + noise, gzip.compress(noise)])
            )
        )
    elif kind.startswith("cut"):
        content = tar if "tar" in kind else archive
        content = content[: data.draw(st.integers(0, 20) | st.integers(0, len(content)))]
        archive = gzip.compress(content) if "tar" in kind else content
    else:
        content = bytearray(archive if kind == "edit" else tar)
        for _ in range(data.draw(st.integers(1, 3))):
            # Most of what tarfile reads lies in the first 512 bytes.
            place = data.draw(st.integers(0, 511) | st.integers(0, len(content) - 1))
            content[place] = data.draw(st.sampled_from([0, 0x37, 0x80, 0xFF]) | st.integers(0, 255))
        if kind == "header":  # with the sum that tarfile checks
            content[148:156] = b" " * 8
            content[148:156] = b"%06o\0 " % sum(content[:512])
        archive = bytes(content) if kind == "edit" else gzip.compress(bytes(content))
    result = prepare(archive)
    if isinstance(result, str):
        assert "must be a whole tar.gz archive" in result or "must have" in result
    elif kind.startswith("cut"):
        assert result == expected_copy(FILES)
    else:
        assert [len(set(result[key])) for key in NAMES] == [20, 100]
        assert all(c < 20 and f < 100 for c, f in result["train"] + result["test"])
