"""Checks of the CIFAR copies: as stock tensorflow-datasets reads them, and after every fault."""

import contextlib
import gzip
import http.server
import io
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tarfile
import tempfile
import threading
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import tensorflow_datasets as tfds
from cifar_copies import checksum, left_behind, pack

from lgnn_jax.training.data import cifar

VERSION = "3.0.2"
FOLDERS = {"cifar10": "cifar-10-batches-bin", "cifar100": "cifar-100-binary"}
CLASSES = {"cifar10": {"label": 10}, "cifar100": {"coarse_label": 20, "label": 100}}
NAME_FILES = {
    "cifar10": {"label": "batches.meta.txt"},
    "cifar100": {"coarse_label": "coarse_label_names.txt", "label": "fine_label_names.txt"},
}
SPLITS = {
    "cifar10": {
        "train": [f"data_batch_{batch}.bin" for batch in range(1, 6)],
        "test": ["test_batch.bin"],
    },
    "cifar100": {"train": ["train.bin"], "test": ["test.bin"]},
}

Examples = dict[str, list[dict]]  # by split


@pytest.fixture(autouse=True)
def _scratch(tmp_path_factory, monkeypatch):
    # tfds leaves an empty directory there for each builder of a dataset that is not prepared.
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path_factory.mktemp("scratch")))


def make_dataset(name: str) -> tuple[dict[str, bytes], Examples]:
    """Returns the files of an archive, and the examples that they hold."""
    rng = np.random.default_rng(len(name))
    files = {
        file: "".join(f"{key}_{i}\n" for i in range(CLASSES[name][key])).encode() + b"\n"
        for key, file in NAME_FILES[name].items()
    }
    examples: Examples = {}
    for split, paths in SPLITS[name].items():
        examples[split] = []
        for path in paths:
            content = b""
            for _ in range(int(rng.integers(5, 9))):
                labels = {key: int(rng.integers(n)) for key, n in CLASSES[name].items()}
                image = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
                index = len(examples[split])
                examples[split].append({"id": f"{split}_{index:05d}", "image": image, **labels})
                content += bytes(labels.values())
                content += b"".join(image[:, :, channel].tobytes() for channel in range(3))
            files[path] = content
    return files, examples


@contextlib.contextmanager
def serve(
    content: bytes,
    *,
    status: int = 200,
    sent: int | None = None,
    declared: bool = True,
    on_get: Callable[[], None] = lambda: None,
) -> Iterator[str]:
    """Serves the content, or its first `sent` bytes, with or without declaring its length."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.send_response(status)
            if declared:
                self.send_header("Content-Length", str(len(content)))
            self.end_headers()

        def do_GET(self):
            on_get()
            self.do_HEAD()
            self.wfile.write(content[:sent])

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/archive.tar.gz"
        finally:
            server.shutdown()
            thread.join()


def prepare(name: str, data_dir: pathlib.Path, archive: bytes) -> None:
    with serve(archive) as url:
        cifar.prepare(name, data_dir, url=url, checksum=checksum(archive))


def assert_holds(examples: Examples, name: str, data_dir: pathlib.Path) -> None:
    builder = tfds.builder(name, data_dir=data_dir)
    for split, expected in examples.items():
        source = {str(e["id"], "utf-8"): e for e in builder.as_data_source(split)}
        assert source.keys() == {example["id"] for example in expected}
        for example in expected:
            actual = source[example["id"]]
            np.testing.assert_array_equal(actual["image"], example["image"])
            assert {k: int(actual[k]) for k in CLASSES[name]} == {
                k: example[k] for k in CLASSES[name]
            }


READER = """
import importlib.machinery, json, sys

class WithoutTensorFlow(importlib.machinery.PathFinder):
    @classmethod
    def find_spec(cls, name, *args):
        return None if name == "tensorflow" else super().find_spec(name, *args)

sys.meta_path[sys.meta_path.index(importlib.machinery.PathFinder)] = WithoutTensorFlow
import tensorflow_datasets as tfds

name, data_dir, version = sys.argv[1:]
by_name = tfds.builder(name, data_dir=data_dir)
by_path = tfds.builder_from_directory(f"{data_dir}/{name}/{version}")
read = {}
for builder in (by_name, by_path):
    features = builder.info.features
    read[type(builder).__name__] = {
        "version": str(builder.version),
        "features": repr(features),
        "names": {key: features[key].names for key in features if key.endswith("label")},
        "splits": {
            split: list(builder.as_data_source(split)) for split in builder.info.splits
        },
    }
assert not {"lgnn_jax", "tensorflow"} & {module.split(".")[0] for module in sys.modules}
print(json.dumps(read, default=lambda x: x.decode() if isinstance(x, bytes) else x.tolist()))
"""


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_stock_tfds_reads_the_copy_in_a_fresh_process(name, tmp_path):
    files, examples = make_dataset(name)
    prepare(name, tmp_path, pack(files, FOLDERS[name]))
    command = [sys.executable, "-c", READER, name, tmp_path, VERSION]
    process = subprocess.run(command, capture_output=True, cwd=tmp_path, text=True)
    assert process.returncode == 0, process.stderr
    read = json.loads(process.stdout)
    assert read.keys() == {name.capitalize(), "ReadOnlyBuilder"}
    stock = tfds.builder(name, data_dir=tmp_path / "empty")
    for copy in read.values():
        assert copy["version"] == str(stock.version) == VERSION
        assert copy["features"] == repr(stock.info.features)
        assert copy["names"] == {
            key: [f"{key}_{i}" for i in range(n)] for key, n in CLASSES[name].items()
        }
        assert copy["splits"].keys() == examples.keys()
        for split, expected in examples.items():
            actual = sorted(copy["splits"][split], key=lambda example: example["id"])
            assert actual == [{**e, "image": e["image"].tolist()} for e in expected]


def test_only_the_copy_is_left(tmp_path):
    files, _ = make_dataset("cifar100")
    prepare("cifar100", tmp_path, pack(files, FOLDERS["cifar100"]))
    copy = f"cifar100/{VERSION}"
    assert {path for path in left_behind(tmp_path) if not path.startswith(copy + "/")} == {
        "cifar100",
        copy,
    }
    record = json.loads((tmp_path / copy / "dataset_info.json").read_text())
    assert record["fileFormat"] == "array_record"
    assert record["moduleName"] == "tensorflow_datasets.image_classification.cifar"


def test_existing_copy_is_kept(tmp_path, monkeypatch):
    files, examples = make_dataset("cifar100")
    prepare("cifar100", tmp_path, pack(files, FOLDERS["cifar100"]))
    monkeypatch.setattr(cifar, "_write", pytest.fail)  # it may be on a read-only disk
    cifar.prepare("cifar100", tmp_path, url="http://127.0.0.1:1/nothing-here.tar.gz")
    assert_holds(examples, "cifar100", tmp_path)


def test_data_dir_defaults_to_that_of_tfds(tmp_path, monkeypatch):
    monkeypatch.setattr(tfds.core.constants, "DATA_DIR", str(tmp_path))
    files, examples = make_dataset("cifar100")
    prepare("cifar100", None, pack(files, FOLDERS["cifar100"]))
    assert_holds(examples, "cifar100", tmp_path)


def test_archive_put_in_place_by_hand_needs_no_server(tmp_path):
    files, examples = make_dataset("cifar100")
    archive = pack(files, FOLDERS["cifar100"])
    manual = tmp_path / "downloads" / "manual" / "cifar-100-binary.tar.gz"
    manual.parent.mkdir(parents=True)
    manual.write_bytes(archive)
    url = "http://127.0.0.1:1/nothing-here.tar.gz"
    cifar.prepare("cifar100", tmp_path, url=url, checksum=checksum(archive))
    assert_holds(examples, "cifar100", tmp_path)
    assert manual.exists()


def test_another_process_may_finish_first(tmp_path):
    files, examples = make_dataset("cifar100")
    archive = pack(files, FOLDERS["cifar100"])
    prepare("cifar100", tmp_path / "theirs", archive)

    def finish_first():
        shutil.copytree(tmp_path / "theirs", tmp_path / "ours", dirs_exist_ok=True)

    with serve(archive, on_get=finish_first) as url:
        cifar.prepare("cifar100", tmp_path / "ours", url=url, checksum=checksum(archive))
    assert_holds(examples, "cifar100", tmp_path / "ours")
    assert left_behind(tmp_path / "ours") == left_behind(tmp_path / "theirs")


# Faults. Each leaves nothing behind, and the next call succeeds.


@contextlib.contextmanager
def fails(data_dir: pathlib.Path, *parts: str, name: str = "cifar100") -> Iterator[None]:
    with pytest.raises(cifar.DatasetError) as caught:
        yield
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert part in message
    assert left_behind(data_dir) == []
    files, examples = make_dataset(name)
    prepare(name, data_dir, pack(files, FOLDERS[name]))
    assert_holds(examples, name, data_dir)


def test_unknown_name(tmp_path):
    with pytest.raises(ValueError, match=r'"cifar10" or "cifar100", got .mnist.'):
        cifar.prepare("mnist", tmp_path)
    assert left_behind(tmp_path) == []


def test_wrong_checksum(tmp_path):
    archive = pack(make_dataset("cifar100")[0], FOLDERS["cifar100"])
    size, sha256 = len(archive), "0" * 64
    with serve(archive) as url, fails(tmp_path, url, str(size), sha256):
        cifar.prepare("cifar100", tmp_path, url=url, checksum=(size, sha256))


def test_mirror_must_match_the_official_checksum(tmp_path):
    archive = pack(make_dataset("cifar100")[0], FOLDERS["cifar100"])
    with serve(archive) as url, fails(tmp_path, url, "168513733", f"{len(archive)} bytes"):
        cifar.prepare("cifar100", tmp_path, url=url)


@pytest.mark.parametrize("declared", [True, False])
def test_cut_off_download(declared, tmp_path):
    archive = pack(make_dataset("cifar100")[0], FOLDERS["cifar100"])
    with serve(archive, sent=20_000, declared=declared) as url, fails(tmp_path, url, "20000"):
        cifar.prepare("cifar100", tmp_path, url=url, checksum=checksum(archive))


def test_no_server(tmp_path):
    with serve(b"") as url:
        pass
    with fails(tmp_path, url, "cannot be downloaded", "refused", "downloads/manual"):
        cifar.prepare("cifar100", tmp_path, url=url)


def test_not_found(tmp_path):
    with serve(b"", status=404) as url, fails(tmp_path, url, "404"):
        cifar.prepare("cifar100", tmp_path, url=url)


def test_url_that_is_none(tmp_path):
    with fails(tmp_path, "somewhere/archive.tar.gz"):
        cifar.prepare("cifar100", tmp_path, url="somewhere/archive.tar.gz")


def test_data_dir_that_is_a_file(tmp_path):
    data_dir = tmp_path / "data"
    data_dir.write_bytes(b"")
    archive = pack(make_dataset("cifar100")[0], FOLDERS["cifar100"])
    with pytest.raises(cifar.DatasetError, match="pass a data_dir that is writable") as caught:
        prepare("cifar100", data_dir, archive)
    assert f"cannot be written to {data_dir} (" in str(caught.value)
    assert left_behind(tmp_path) == ["data"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
@pytest.mark.parametrize("mode", [0o500, 0o000])
def test_data_dir_that_is_not_writable(mode, tmp_path):
    archive = pack(make_dataset("cifar100")[0], FOLDERS["cifar100"])
    tmp_path.chmod(mode)
    try:
        with pytest.raises(cifar.DatasetError, match="pass a data_dir that is writable"):
            prepare("cifar100", tmp_path, archive)
    finally:
        tmp_path.chmod(0o700)
    assert left_behind(tmp_path) == []


def test_archive_that_is_no_tar(tmp_path):
    page = b"<html>Moved</html>" * 100
    with serve(page) as url, fails(tmp_path, url, "whole tar.gz archive"):
        cifar.prepare("cifar100", tmp_path, url=url, checksum=checksum(page))


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.99])
def test_archive_that_is_cut_off(share, tmp_path):
    archive = pack(make_dataset("cifar100")[0], FOLDERS["cifar100"])
    archive = archive[: int(share * len(archive))]
    with serve(archive) as url, fails(tmp_path, url, "whole tar.gz archive"):
        cifar.prepare("cifar100", tmp_path, url=url, checksum=checksum(archive))


def _tar(size: bytes, **pax_headers: str) -> bytes:
    """An archive of two members, where the header of the second says `size`."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        tar.addfile(tarfile.TarInfo("first"))
        member = tarfile.TarInfo("file")
        member.pax_headers = pax_headers
        tar.addfile(member)
    content = bytearray(buffer.getvalue())
    header = content.index(b"file")
    content[header + 124 : header + 136] = size
    content[header + 148 : header + 156] = b" " * 8
    checksum = sum(content[header : header + 512])
    content[header + 148 : header + 156] = b"%06o\0 " % checksum
    return gzip.compress(bytes(content))


@pytest.mark.parametrize(
    "archive",
    [
        pytest.param(gzip.compress(b"")[:3], id="cut off in the header of gzip"),
        pytest.param(_tar(b"%011o\0" % 0, **{"GNU.sparse.size": "x"}), id="no number"),
        pytest.param(_tar(b"\x80" + b"\0" * 4 + b"\x7f" * 7), id="a size beyond the end"),
        pytest.param(_tar(b"\xff" * 10 + b"\xfe\0"), id="a negative size"),
    ],
)
def test_archive_that_tarfile_does_not_expect(archive, tmp_path):
    """It raises errors of other classes then, or reads without end."""
    with serve(archive) as url, fails(tmp_path, url, "whole tar.gz archive"):
        cifar.prepare("cifar100", tmp_path, url=url, checksum=checksum(archive))


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_missing_member(name, tmp_path):
    files, _ = make_dataset(name)
    for path in files:
        archive = pack({k: v for k, v in files.items() if k != path}, FOLDERS[name])
        with pytest.raises(cifar.DatasetError, match=f"must have the file {FOLDERS[name]}/{path}"):
            prepare(name, tmp_path, archive)
        assert left_behind(tmp_path) == []


def _replace(files: dict[str, bytes], path: str, old: slice, new: bytes) -> dict[str, bytes]:
    content = bytearray(files[path])
    content[old] = new
    return {**files, path: bytes(content)}


@pytest.mark.parametrize(
    ("name", "path", "old", "new", "complaint"),
    [
        ("cifar10", "data_batch_3.bin", slice(0, 1), b"", "multiple of 3073 bytes"),
        ("cifar100", "train.bin", slice(0, 1), b"", "multiple of 3074 bytes"),
        ("cifar100", "test.bin", slice(0, 0), b"\0", "multiple of 3074 bytes"),
        ("cifar100", "test.bin", slice(None), b"", "got 0"),
        ("cifar10", "test_batch.bin", slice(0, 1), b"\x0a", "below 10, got 10 in record 0"),
        ("cifar100", "train.bin", slice(3074, 3075), b"\x14", "below 20, got 20 in record 1"),
        ("cifar100", "test.bin", slice(1, 2), b"\xff", "below 100, got 255 in record 0"),
        ("cifar10", "batches.meta.txt", slice(0, 8), b"", "10 different label names, got 9"),
        ("cifar10", "batches.meta.txt", slice(0, 8), b"label_1\n", "9 of them different"),
        ("cifar10", "batches.meta.txt", slice(0, 7), b" ", "10 different label names, got 9"),
        ("cifar10", "batches.meta.txt", slice(0, 7), b"label_1 ", "9 of them different"),
        ("cifar100", "fine_label_names.txt", slice(0, 0), b"\xff\n", "100 different label names"),
    ],
)
def test_malformed_member(name, path, old, new, complaint, tmp_path):
    files, _ = make_dataset(name)
    archive = pack(_replace(files, path, old, new), FOLDERS[name])
    with fails(tmp_path, f"{FOLDERS[name]}/{path}", complaint, name=name):
        prepare(name, tmp_path, archive)


def test_members_elsewhere_are_not_written(tmp_path):
    files, examples = make_dataset("cifar100")
    outside = tmp_path / "outside"
    archive = pack({**files, "../../../../outside": b"", f"..{outside}": b""}, FOLDERS["cifar100"])
    prepare("cifar100", tmp_path / "data", archive)
    assert_holds(examples, "cifar100", tmp_path / "data")
    assert os.listdir(tmp_path) == ["data"]
