"""Encryption with age (https://age-encryption.org, authenticated: X25519 and ChaCha20-Poly1305), as a program.

Whoever makes a backup needs the recipient only, which is public. The identity opens it: it comes from an Airflow
connection and reaches the program on a descriptor, never as an argument, a variable or a file.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import IO, BinaryIO

from sebenza_ops.systems.errors import OutsideSystemError

_MISSING = "age is not installed on this worker: apt-get install age"
_TIMEOUT_SECONDS = 60.0


def escrow_key(environment: str) -> str:
    """Where an environment's sealed credentials lie in its secondary site's object storage."""
    return f"escrow/{environment}.yaml.age"


class SealError(OutsideSystemError):
    """Something could not be encrypted or decrypted: the identity is another one, or it was changed."""


class Identity:
    """The key that opens archives.

    Args:
        secret: age's own form, "AGE-SECRET-KEY-1…".
    """

    def __init__(self, secret: str) -> None:
        self._secret = secret.strip()
        self.recipient = self._recipient()

    @classmethod
    def from_connection(cls, conn_id: str) -> Identity:
        """The identity in an Airflow connection's password. Raises SealError when it is none."""
        from airflow.sdk import BaseHook

        password = BaseHook.get_connection(conn_id).password or ""
        try:
            return cls(password)
        except SealError as error:
            raise SealError(
                f"the password of connection {conn_id} is no age identity (make one with age-keygen): {error}"
            ) from error

    def __repr__(self) -> str:
        return f"Identity({self.recipient})"

    def seal(self, content: bytes) -> bytes:
        """Encrypt a content."""
        return _run(["age", "--encrypt", "--recipient", self.recipient], content)

    def open(self, sealed: bytes) -> bytes:
        """Decrypt a content. Raises SealError."""
        with self._descriptor() as descriptor:
            argv = ["age", "--decrypt", "--identity", f"/dev/fd/{descriptor}"]
            return _run(argv, sealed, pass_fds=(descriptor,))

    @contextmanager
    def opened(self, sealed: BinaryIO) -> Iterator[IO[bytes]]:
        """The decrypted content of a file, as it is read. Raises SealError at the end when not all of it is good."""
        with self._descriptor() as descriptor:
            argv = ["age", "--decrypt", "--identity", f"/dev/fd/{descriptor}"]
            with _output(argv, sealed, "decrypted", (descriptor,)) as content:
                yield content

    def _recipient(self) -> str:
        if not self._secret.startswith("AGE-SECRET-KEY-1"):
            raise SealError("expected AGE-SECRET-KEY-1… (not shown)")
        return _run(["age-keygen", "-y"], f"{self._secret}\n".encode()).decode().strip()

    @contextmanager
    def _descriptor(self) -> Iterator[int]:
        """A pipe that gives the identity once."""
        reading, writing = os.pipe()
        try:
            # 74 bytes: a pipe takes them at once.
            os.write(writing, f"{self._secret}\n".encode())
            os.close(writing)
            yield reading
        finally:
            os.close(reading)


def seal_for(recipient: str, content: bytes) -> bytes:
    """Encrypt a content for somebody whose identity is elsewhere. Raises SealError."""
    return _run(["age", "--encrypt", "--recipient", recipient], content)


@contextmanager
def decompressed(packed: IO[bytes]) -> Iterator[IO[bytes]]:
    """What zstd makes of a stream, as it is read. Raises SealError at the end when not all of it is good."""
    with _output(["zstd", "--quiet", "--decompress", "--stdout"], packed, "decompressed") as content:
        yield content


@contextmanager
def _output(argv: list[str], source: IO[bytes], done: str, pass_fds: tuple[int, ...] = ()) -> Iterator[IO[bytes]]:
    """What a program makes of a stream. That it failed is the reason of whatever its reader fails with."""
    with _started(argv, source, pass_fds) as process:
        assert process.stdout is not None
        failure: OutsideSystemError | None = None
        try:
            yield process.stdout
        except OutsideSystemError as error:
            failure = error
        process.stdout.read()
        said = process.stderr.read() if process.stderr else b""
        if process.wait(timeout=_TIMEOUT_SECONDS) != 0:
            raise SealError(f"it could not be {done}: {_said(said)}") from failure
        if failure is not None:
            raise failure


@contextmanager
def _started(argv: list[str], source: IO[bytes], pass_fds: tuple[int, ...]) -> Iterator[subprocess.Popen[bytes]]:
    """A program that reads a stream; ended with the block."""
    try:
        process = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, pass_fds=pass_fds
        )
    except FileNotFoundError as error:
        raise SealError(f"{argv[0]} is not installed on this worker: apt-get install {argv[0]}") from error
    feeder = threading.Thread(target=_feed, args=(source, process.stdin), daemon=True)
    feeder.start()
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        feeder.join(timeout=_TIMEOUT_SECONDS)
        for stream in (process.stdout, process.stderr):
            if stream is not None:
                stream.close()


def _feed(source: IO[bytes], target: IO[bytes] | None) -> None:
    assert target is not None
    # A program that has ended early says itself why.
    with suppress(BrokenPipeError, ValueError):
        shutil.copyfileobj(source, target)
    with suppress(BrokenPipeError):
        target.close()


def _run(argv: list[str], content: bytes, pass_fds: tuple[int, ...] = ()) -> bytes:
    try:
        done = subprocess.run(
            argv, input=content, capture_output=True, timeout=_TIMEOUT_SECONDS, check=False, pass_fds=pass_fds
        )
    except FileNotFoundError as error:
        raise SealError(_MISSING) from error
    if done.returncode != 0:
        raise SealError(f"{argv[0]} failed: {_said(done.stderr)}")
    return done.stdout


def _said(error: bytes) -> str:
    # age's own words for the person at the terminal, one line each; they never hold a key.
    lines = [line for line in error.decode(errors="replace").splitlines() if "report unexpected" not in line]
    return " ".join(lines)[:300] or "it said nothing"
