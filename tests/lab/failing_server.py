"""A TLS server that fails in every way that the load generator must tell apart."""

from __future__ import annotations

import asyncio
import datetime as dt
import ipaddress
import socket
import ssl
import struct
import threading
from collections import Counter
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from lab.waiting import scaled

HOSTNAME = "app.sebenza.com"


def write_certificate(directory: Path, *names: str) -> tuple[Path, Path]:
    """A self-signed certificate for the names; returns (certificate, certificate and key)."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0])])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name) for name in names]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    certificate_file, both_file = directory / f"{names[0]}.crt", directory / f"{names[0]}.pem"
    pem = certificate.public_bytes(serialization.Encoding.PEM)
    certificate_file.write_bytes(pem)
    both_file.write_bytes(
        pem
        + key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return certificate_file, both_file


class FailingServer:
    """Answers by path: /ok, /late, /error, /teapot, /slow, /truncated, /cut-chunk, /reset, /garbage, /partial-head.

    With `requests_per_connection` a connection that had so many answers is closed when its next
    request arrives, without an answer, as a server does that gave up an idle connection.
    """

    def __init__(self, directory: Path) -> None:
        self.ca_file, both = write_certificate(directory, HOSTNAME)
        self.received: Counter[str] = Counter()  # "METHOD path", every request that arrived
        self.answered = 0  # with a whole answer that keeps the connection
        self.unanswered = 0  # requests whose connection was closed by requests_per_connection
        self.connections = 0
        self.requests_per_connection: int | None = None
        self.color = "blue"
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(both)
        self._loop = asyncio.new_event_loop()
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.address = ("127.0.0.1", 0)

    def __enter__(self) -> FailingServer:
        self._thread.start()
        assert self._started.wait(scaled(5))
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(scaled(5))

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(
            asyncio.start_server(self._connection, "127.0.0.1", 0, ssl=self._context)
        )
        host, port = server.sockets[0].getsockname()[:2]
        self.address = (str(ipaddress.ip_address(host)), port)
        self._started.set()
        self._loop.run_forever()
        server.close()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._loop.run_until_complete(asyncio.sleep(0))
        self._loop.close()

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        answered = 0
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                method, path, _ = head.split(b"\r\n", 1)[0].decode().split(" ")
                for line in head.decode().split("\r\n"):
                    if line.lower().startswith("content-length:"):
                        await reader.readexactly(int(line.split(":")[1]))
                self.received[f"{method} {path}"] += 1
                if self.requests_per_connection is not None and answered >= self.requests_per_connection:
                    self.unanswered += 1
                    return
                if not await self._answer(path, writer):
                    return
                answered += 1
        except (asyncio.IncompleteReadError, ConnectionError, ssl.SSLError):
            pass
        finally:
            writer.close()

    async def _answer(self, path: str, writer: asyncio.StreamWriter) -> bool:
        """Answer one request; whether the connection goes on."""
        head = f"X-Color: {self.color}\r\nX-Release: v1\r\nX-Request-Id: r-1\r\n".encode()
        if path == "/reset":
            transport_socket = writer.get_extra_info("socket")
            transport_socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()
            return False
        if path == "/slow":
            await asyncio.sleep(30)  # longer than any test waits
        if path == "/late":
            await asyncio.sleep(0.3)  # so that some are always open
        raw = {
            "/truncated": b"HTTP/1.1 200 OK\r\n" + head + b"Content-Length: 100\r\n\r\nonly this",
            "/cut-chunk": b"HTTP/1.1 200 OK\r\n" + head + b"Transfer-Encoding: chunked\r\n\r\n64\r\nonly this",
            "/garbage": b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
            "/partial-head": b"HTTP/1.1 200 OK\r\nX-Col",
        }.get(path)
        if raw is not None:
            writer.write(raw)
            await writer.drain()
            return False
        status = {"/error": b"500 Internal Server Error", "/teapot": b"418 I'm a teapot"}.get(path, b"200 OK")
        writer.write(b"HTTP/1.1 " + status + b"\r\n" + head + b"Content-Length: 2\r\n\r\nok")
        await writer.drain()
        self.answered += 1
        return True
