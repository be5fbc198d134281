"""Object storage: a real S3 server over TLS, with a certificate of the test's own authority."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.waiting import scaled
from sebenza_ops.environments.models import ObjectStore
from sebenza_ops.systems.errors import OutsideSystemError
from sebenza_ops.systems.object_store import ObjectStorage
from tests.systems.certificates import Authority
from tests.systems.processes import free_port
from tests.systems.s3 import SECRET, S3Server, s3_server

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with s3_server(tmp_path_factory.mktemp("s3")) as found:
        yield found


def storage(
    monkeypatch: pytest.MonkeyPatch, connection: str, *, bucket: str = "sebenza", prefix: str = ""
) -> ObjectStorage:
    monkeypatch.setenv("AIRFLOW_CONN_TEST_STORE", connection)
    return ObjectStorage(ObjectStore(conn_id="test_store", bucket=bucket, prefix=prefix))


@pytest.fixture
def store(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> ObjectStorage:
    return storage(monkeypatch, s3.connection())


def test_what_was_stored_is_read_back(store: ObjectStorage) -> None:
    content = bytes(range(256)) * 100
    store.put_bytes("releases/a/artifact.tar.gz", content)
    assert store.get_bytes("releases/a/artifact.tar.gz") == content
    assert store.size_bytes("releases/a/artifact.tar.gz") == len(content)
    store.put_bytes("releases/a/artifact.tar.gz", b"new")
    assert store.get_bytes("releases/a/artifact.tar.gz") == b"new", "an object of that key is replaced"


def test_a_missing_object_is_none_and_not_an_error(store: ObjectStorage) -> None:
    assert store.get_bytes("none") is None
    assert store.get_json("none") is None
    assert store.size_bytes("none") is None


def test_json(store: ObjectStorage) -> None:
    store.put_bytes("a.json", b'{"a": [1, "\xc3\xa9"]}', "application/json")
    assert store.get_json("a.json") == {"a": [1, "é"]}


@pytest.mark.parametrize("content", [b"", b"{", b"<html>", b"\xff"])
def test_an_object_that_is_no_json_is_named(store: ObjectStorage, content: bytes) -> None:
    store.put_bytes("bad.json", content)
    with pytest.raises(OutsideSystemError, match=r"object storage: bad\.json is no JSON"):
        store.get_json("bad.json")


def test_a_prefix_is_before_every_key(s3: S3Server, monkeypatch: pytest.MonkeyPatch, store: ObjectStorage) -> None:
    prefixed = storage(monkeypatch, s3.connection(), prefix="team/ops/")
    prefixed.put_bytes("key", b"x")
    assert store.get_bytes("team/ops/key") == b"x"
    assert prefixed.full_key("key") == "team/ops/key"
    assert store.full_key("key") == "key"


def curl(source: str, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    """Use a transfer source as a host does: the URL on the first line, certificates after it."""
    url, _, certificates = source.partition("\n")
    trusted = ["--cacert", "/dev/stdin"] if certificates else []
    argv = ["curl", "-sS", "--fail", *trusted, *arguments, url]
    return subprocess.run(argv, input=certificates.encode(), capture_output=True, check=False, timeout=scaled(20))


def test_a_host_reads_and_writes_one_object_without_credentials(
    store: ObjectStorage, tmp_path: Path, s3: S3Server
) -> None:
    store.put_bytes("releases/b", b"artifact")
    source = store.transfer_source("releases/b")
    assert SECRET not in source
    assert source.partition("\n")[2] == s3.authority.ca_file.read_text(), "a host could not check the server"
    assert curl(source).stdout == b"artifact"
    (tmp_path / "new").write_bytes(b"uploaded")
    done = curl(store.transfer_source("releases/c", "put_object"), "-T", str(tmp_path / "new"))
    assert done.returncode == 0, done.stderr
    assert store.get_bytes("releases/c") == b"uploaded"


def test_a_signed_url_is_for_its_object_alone(store: ObjectStorage) -> None:
    store.put_bytes("releases/one", b"1")
    store.put_bytes("releases/two", b"2")
    other = store.transfer_source("releases/one").replace("releases/one", "releases/two", 1)
    assert curl(other).returncode != 0, "a URL for one object opened another"


def test_a_server_that_is_down_is_an_outside_error(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = storage(monkeypatch, s3.connection(port=free_port()))
    for call in (lambda: gone.get_bytes("a"), lambda: gone.size_bytes("a"), lambda: gone.put_bytes("a", b"")):
        with pytest.raises(OutsideSystemError, match="check the connection test_store"):
            call()


def test_a_server_that_nobody_vouches_for_is_refused(
    s3: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    stranger = storage(monkeypatch, s3.connection(ca_file=Authority(tmp_path).ca_file))
    with pytest.raises(OutsideSystemError, match="CERTIFICATE_VERIFY_FAILED"):
        stranger.get_bytes("a")


def test_a_wrong_secret_is_not_a_missing_object(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = storage(monkeypatch, s3.connection(secret="other"))
    for call in (lambda: wrong.get_bytes("none"), lambda: wrong.size_bytes("none")):
        with pytest.raises(OutsideSystemError, match=r"(reading|looking for) none"):
            call()


def test_a_missing_bucket_is_not_a_missing_object(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = storage(monkeypatch, s3.connection(), bucket="other")
    with pytest.raises(OutsideSystemError, match="in bucket other failed"):
        elsewhere.get_bytes("a")


def test_keys_are_listed_below_the_prefix_and_deleted(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = storage(monkeypatch, s3.connection(), prefix="listing/")
    for key in ("backups/a/1", "backups/a/2", "backups/b/1", "other"):
        mine.put_bytes(key, b"x")
    listed = mine.keys("backups/a/")
    assert sorted(listed) == ["backups/a/1", "backups/a/2"]
    assert all(moment.tzinfo is not None for moment in listed.values())
    mine.delete("backups/a/1")
    mine.delete("backups/a/1")
    assert sorted(mine.keys("backups/")) == ["backups/a/2", "backups/b/1"]
    assert mine.keys("nothing/") == {}
