"""Objects of a store: read, written, listed; retries and messages when that fails."""

from __future__ import annotations

import http.server
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import obstore
import pytest

from crnn_search.errors import InputError, StorageError
from crnn_search.storage import object_store, store_uri
from crnn_search.storage.location import join
from crnn_search.storage.object_store import ChangedError, Found, ObjectStore


def test_an_object_that_was_written_is_read(s3: str) -> None:
    store = ObjectStore(join(s3, "objects"), pytest.fail)
    store.write("a/b", bytes(range(256)))
    assert store.read("a/b") == bytes(range(256))
    assert store.read("a/c") is None
    store.write("a/b", b"again")
    assert store.read("a/b") == b"again"
    store.remove("a/b")
    store.remove("a/b")
    assert store.read("a/b") is None


def test_names_are_listed_recursively_and_sorted(s3: str) -> None:
    store = ObjectStore(join(s3, "names"), pytest.fail)
    assert store.names() == []
    for name in ("b/c/d", "a", "b/a"):
        store.write(name, b"")
    assert store.names() == ["a", "b/a", "b/c/d"]
    assert store.names("b") == ["b/a", "b/c/d"]


def test_folders_are_listed(s3: str) -> None:
    store = ObjectStore(join(s3, "folders"), pytest.fail)
    assert store.folders() == []
    for name in ("b/space.yaml", "a/deep/x", "space.yaml"):
        store.write(name, b"")
    assert store.folders() == ["a", "b"]


def test_names_may_have_spaces(s3: str) -> None:
    store = ObjectStore(join(s3, "my runs"), pytest.fail)
    store.write("a b/c", b"content")
    assert store.read("a b/c") == b"content"
    assert ObjectStore(s3).names() == ["my runs/a b/c"]


def test_a_conditional_write_expects_a_version(s3: str) -> None:
    store = ObjectStore(join(s3, "versions"), pytest.fail)
    first = store.replace("a", b"1", None)
    with pytest.raises(ChangedError, match="versions/a"):
        store.replace("a", b"2", None)
    found = store.read_version("a")
    assert found == (b"1", first)
    second = store.replace("a", b"2", first)
    with pytest.raises(ChangedError, match="versions/a"):
        store.replace("a", b"3", first)
    assert store.read_version("a") == (b"2", second)
    assert store.find()["a"] == Found(second, 1)
    with pytest.raises(ChangedError, match="versions/none"):
        store.replace("none", b"3", first)


def test_several_objects_are_removed(s3: str) -> None:
    store = ObjectStore(join(s3, "removed"), pytest.fail)
    for name in ("a", "b/c", "d"):
        store.write(name, b"")
    store.remove("a", "b/c", "missing")
    assert store.names() == ["d"]
    store.remove()


def test_fetch_copies_an_object_to_a_file(s3: str, tmp_path: Path) -> None:
    store = ObjectStore(join(s3, "fetched"), pytest.fail)
    store.write("a", b"content")
    store.fetch("a", tmp_path / "deep" / "a")
    store.fetch("missing", tmp_path / "missing")
    assert (tmp_path / "deep" / "a").read_bytes() == b"content"
    assert not (tmp_path / "missing").exists()


def test_parts_of_an_object_are_read(s3: str) -> None:
    store = ObjectStore(join(s3, "parts"), pytest.fail)
    store.write("a", b"0123456789")
    assert [store.read_part("a", start, 4) for start in (0, 4, 8)] == [b"0123", b"4567", b"89"]
    with pytest.raises(StorageError, match="cannot read s3://bucket/runs/parts/none"):
        store.read_part("none", 0, 4)


def test_an_object_is_looked_up_without_its_content(s3: str) -> None:
    store = ObjectStore(join(s3, "looked"), pytest.fail)
    store.write("deep/a", b"123")
    assert store.look_up("deep/a") == store.find()["deep/a"]
    assert store.look_up("deep") is None
    assert store.look_up("none") is None


class Failing(http.server.BaseHTTPRequestHandler):
    """Answers with these codes, one after another, then with the content "late"."""

    codes: ClassVar[list[int]] = []

    def do_GET(self) -> None:
        code = self.codes.pop() if self.codes else 200
        content = b"late" if code == 200 else b""
        self.send_response(code)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Last-Modified", "Thu, 01 Oct 2026 00:00:00 GMT")
        self.send_header("ETag", "x")
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def failing(s3: str) -> Iterator[str]:
    """The URI of a store that fails with `Failing.codes` before it answers."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Failing)
    threading.Thread(target=server.serve_forever, args=[0.02]).start()
    address = f"127.0.0.1:{server.server_port}"
    yield f"s3://bucket/runs?endpoint_override={address}&scheme=http"
    server.shutdown()
    server.server_close()
    Failing.codes.clear()


def test_a_failed_request_is_retried(failing: str) -> None:
    Failing.codes[:] = [503, 500]
    assert ObjectStore(failing, pytest.fail).read("a") == b"late"


def test_no_retries_if_there_is_no_time_for_them(failing: str) -> None:
    Failing.codes[:] = [200, 503]
    with pytest.raises(StorageError, match=r"cannot read s3://bucket/runs/a.*: .*503"):
        ObjectStore(failing, pytest.fail, retry_for_s=0).read("a")
    assert Failing.codes == [200]


@pytest.mark.parametrize("code", [401, 403])
def test_missing_rights_are_not_retried(failing: str, code: int) -> None:
    Failing.codes[:] = [200, code]
    with pytest.raises(StorageError, match=r"cannot read s3://bucket/runs/a.*: "):
        ObjectStore(failing, pytest.fail).read("a")
    assert Failing.codes == [200]


def test_a_slow_answer_is_reported(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    messages: list[str] = []
    store = ObjectStore(join(s3, "slow"), messages.append)
    monkeypatch.setattr(object_store, "SLOW_S", 0.05)
    get = obstore.get

    def slow(*arguments: Any) -> Any:
        time.sleep(0.3)
        return get(*arguments)

    monkeypatch.setattr(obstore, "get", slow)
    assert store.read("a") is None
    assert messages == [
        f"storage: no answer from {join(s3, 'slow', 'a')} yet; trials wait, none is lost",
        "storage: reachable again after 0 s",
    ]


READS: list[Callable[[ObjectStore], object]] = [
    lambda store: store.names(),
    lambda store: store.folders(),
    lambda store: store.read("a"),
]


@pytest.mark.parametrize("read", READS, ids=["names", "folders", "read"])
def test_reading_a_missing_bucket_says_so(s3: str, read: Callable[[ObjectStore], object]) -> None:
    store = ObjectStore(s3.replace("bucket", "nobucket"), pytest.fail)
    with pytest.raises(StorageError, match=r"cannot read s3://nobucket/.*: there is no bucket"):
        read(store)


def test_writing_to_a_missing_bucket_says_so(s3: str) -> None:
    store = ObjectStore(s3.replace("bucket", "nobucket"), pytest.fail)
    with pytest.raises(StorageError, match=r"cannot write s3://nobucket/.*: there is no bucket"):
        store.write("a", b"")


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("s3://key:secret@bucket/runs", "may not name its credentials"),
        ("s3:///runs", "a bucket's name, got 's3:///runs'"),
        ("://bucket/runs", "must be a folder or a URI that starts with s3://"),
        (" s3://bucket/runs", "must be a folder or a URI that starts with s3://"),
        ("s3://[bucket/runs", "must be a folder or a URI, got"),
        ("s3://bucket/a#b", "must be one without # and %, got 's3://bucket/a#b'"),
        ("s3://bucket/a%20b", "must be one without # and %, got 's3://bucket/a%20b'"),
        ("s3://bucket/a?b", "takes the options region, .* got 'b'"),
        ("s3://bucket/a?region=", "takes the options region, .* got 'region'"),
        ("nosuch://bucket/runs", "must be a folder or a URI that starts with s3://, gs://, az://"),
        ("file:///runs", "must be a folder or a URI that starts with s3://, gs://, az://"),
        ("gs://bucket/runs?region=1", r"gs:// storage takes the options \(none\), .*got 'region'"),
        ("s3://bucket/runs?acess=1", "takes the options region, endpoint_override, scheme, each"),
    ],
)
def test_a_wrong_uri_is_refused_without_its_secrets(uri: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        ObjectStore(uri)
    assert "secret" not in str(caught.value)


def test_keys_of_the_shared_credentials_file_are_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "credentials"
    file.write_text("[default]\naws_access_key_id = a\n[two]\naws_access_key_id = b\nx = y\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    monkeypatch.delenv("AWS_ACCESS_KEY_ID", raising=False)
    monkeypatch.setenv("AWS_PROFILE", "two")
    assert store_uri._shared_credentials() == {"aws_access_key_id": "b"}
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "c")
    assert store_uri._shared_credentials() == {}


def test_a_credentials_file_that_cannot_be_read_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID", raising=False)
    for content in (b"no section\n", b"[default]\n\xff\n"):
        (tmp_path / "credentials").write_bytes(content)
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
        with pytest.raises(InputError, match=r"cannot read the keys in .*/credentials: "):
            store_uri._shared_credentials()
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "~nobody-here/credentials")
    assert store_uri._shared_credentials() == {}


def test_a_region_that_is_not_known_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError("no network")

    monkeypatch.setattr("http.client.HTTPSConnection.request", refuse)
    assert store_uri._region_of("bucket") == "us-east-1"
