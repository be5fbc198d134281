"""An object store's side of a download: a small HTTPS server with a certificate of the test's own authority."""

from __future__ import annotations

import hashlib
import io
import json
import ssl
import tarfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from lab.waiting import scaled
from tests.systems.certificates import Authority
from tests.systems.processes import LOOPBACK

RELEASE_ID = "v1.0.0-0a1b2c3d4e5f"


def artifact(*, with_manifest: bool = True, text: str = "one") -> bytes:
    """A release's archive."""
    packed = io.BytesIO()
    files = {"dist/server.js": text.encode()}
    if with_manifest:
        files["release.json"] = json.dumps({"release_id": RELEASE_ID}).encode()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return packed.getvalue()


def sha256(content: bytes) -> str:
    """The SHA-256 of a content, in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


class ArtifactServer:
    """Answers by path: `files`; /truncated breaks off in the middle; /slow stops half way until `go_on` is set."""

    def __init__(self, authority: Authority) -> None:
        self.authority = authority
        self.files: dict[str, bytes] = {}
        self.uploaded: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.go_on = threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                path = self.path.partition("?")[0]
                outer.requests.append(self.path)
                content = outer.files.get(path)
                if content is None:
                    self.send_error(404)
                    return
                self.send_response(200)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                half = len(content) // 2
                self.wfile.write(content[:half])
                if path.startswith("/truncated"):
                    return
                if path.startswith("/slow"):
                    self.wfile.flush()
                    outer.go_on.wait(scaled(30))
                self.wfile.write(content[half:])

            def do_PUT(self) -> None:
                outer.requests.append(self.path)
                content = self.rfile.read(int(self.headers["Content-Length"]))
                refused = self.path.startswith("/refused")
                if not refused:
                    outer.uploaded[self.path.partition("?")[0]] = content
                self.send_response(403 if refused else 200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *arguments: object) -> None:
                pass

        files = authority.server_files("storage", "storage.test")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(files.certificate, files.key)
        self._web = ThreadingHTTPServer((LOOPBACK, 0), Handler)
        self._web.daemon_threads = True
        self._web.handle_error = lambda *_: None  # type: ignore[method-assign]
        self._web.socket = context.wrap_socket(self._web.socket, server_side=True)
        self._thread = threading.Thread(target=self._web.serve_forever, kwargs={"poll_interval": 0.05})

    def start(self) -> None:
        """Serve, in a thread."""
        self._thread.start()

    def stop(self) -> None:
        """Stop serving."""
        self.go_on.set()
        self._web.shutdown()
        self._web.server_close()
        self._thread.join()

    def url(self, path: str) -> str:
        """A signed URL, as long as real ones are."""
        return f"https://{LOOPBACK}:{self._web.server_address[1]}{path}?X-Amz-Signature=TOPSECRET&a=%22b%22"

    def source(self, path: str) -> str:
        """What a script gets on its standard input: URL, then certificates."""
        return f"{self.url(path)}\n{self.authority.ca_file.read_text()}"


@contextmanager
def artifact_server(directory: Path) -> Iterator[ArtifactServer]:
    """A server that runs while the block does."""
    web = ArtifactServer(Authority(directory))
    web.start()
    try:
        yield web
    finally:
        web.stop()
