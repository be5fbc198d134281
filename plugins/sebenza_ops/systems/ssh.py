"""Commands on hosts over SSH. The one place where a remote command line is quoted.

Connections come from the SSH provider's hook; the host's address, port and key come from the inventory, and a host
whose key is another one is refused. A command is a list of arguments, or a script of include/hosts with arguments:
nothing that came from a parameter is ever read as shell.
"""

from __future__ import annotations

import shlex
import shutil
import socket
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any, TypeVar

from sebenza_ops.environments.models import Host
from sebenza_ops.systems.errors import FencedOffError, HostUnreachableError, OutsideSystemError, RemoteCommandError
from sebenza_ops.systems.host_scripts import script_text

if TYPE_CHECKING:
    import paramiko

CONNECT_TIMEOUT_SECONDS = 8
KEEPALIVE_SECONDS = 5
# Exit statuses of include/hosts/lib.sh and of coreutils' timeout(1).
EXIT_FENCED_OFF = 77
EXIT_BUSY = 75
EXIT_TIMED_OUT = 124
EXIT_KILLED = 137

Result = TypeVar("Result")

_kept_sessions: ContextVar[dict[tuple[str, str], HostSession] | None] = ContextVar("kept_sessions", default=None)


@dataclass(frozen=True)
class CommandResult:
    """What a remote command gave: its exit status and its output as text."""

    exit_status: int
    stdout: str
    stderr: str


@dataclass(frozen=True)
class Fence:
    """What every changing command carries: the lease's environment, its fencing token, and who holds it."""

    environment: str
    token: int
    holder: str

    def arguments(self, state_dir: str) -> list[str]:
        """The first arguments of every fenced script of include/hosts."""
        return [state_dir, self.environment, str(self.token), self.holder]


def remote_command(argv: Sequence[str], timeout_seconds: float) -> str:
    """One quoted command line for `argv`, which the remote host itself ends after `timeout_seconds`."""
    bounded = ["timeout", "-k", "5", f"{timeout_seconds:g}", *argv]
    return shlex.join(bounded)


def script_argv(name: str, arguments: Sequence[str]) -> list[str]:
    """The argument list that runs include/hosts/<name>.sh: the text travels along, nothing is installed on the host."""
    return ["sh", "-c", script_text(name), name, *arguments]


def known_hosts_line(host: Host) -> str:
    """The host's line of a known_hosts file (sshd(8), SSH_KNOWN_HOSTS FILE FORMAT)."""
    where = host.address if host.ssh.port == 22 else f"[{host.address}]:{host.ssh.port}"
    return f"{where} {host.ssh.host_key}\n"


class HostSession:
    """An open SSH connection to one host of the inventory.

    Args:
        host: The host.
        ssh_conn_id: Airflow connection with the login user and its key.

    Creating a session resolves the Airflow connection; `connect` opens it. A session is used by one thread at a time.
    """

    def __init__(self, host: Host, ssh_conn_id: str) -> None:
        from airflow.providers.ssh.hooks.ssh import SSHHook

        self.host = host
        self._hook = SSHHook(
            ssh_conn_id=ssh_conn_id,
            remote_host=host.address,
            port=host.ssh.port,
            conn_timeout=CONNECT_TIMEOUT_SECONDS,
            banner_timeout=CONNECT_TIMEOUT_SECONDS,
            auth_timeout=CONNECT_TIMEOUT_SECONDS,
            keepalive_interval=KEEPALIVE_SECONDS,
        )
        # The hook's own retries wait three to five seconds; procedures decide for themselves whether to try again.
        self._hook.conn_retry_attempts = 1
        self._hook.host_key = _host_key(host)
        # Whatever the connection's extras say: the inventory's key is the one that counts.
        self._hook.no_host_key_check = False
        self._hook.allow_host_key_change = False
        self._client: paramiko.SSHClient | None = None

    def connect(self) -> HostSession:
        """Open the connection. Raises HostUnreachableError with the reason."""
        import paramiko

        try:
            self._client = self._hook.get_conn()
        except paramiko.BadHostKeyException as error:
            raise HostUnreachableError(
                f"its host key is not the one of the inventory ({error}): find out why before you change the inventory",
                host=self.host.name,
            ) from error
        except (OSError, EOFError, paramiko.SSHException) as error:
            raise HostUnreachableError(
                f"no SSH connection to {self.host.address}:{self.host.ssh.port} ({_reason(error)})", host=self.host.name
            ) from error
        return self

    def close(self) -> None:
        """Close the connection; a second call does nothing."""
        if self._client is not None:
            self._client.close()
            self._client = None
            self._hook.client = None

    @property
    def is_open(self) -> bool:
        """Whether the connection is there, as far as this side knows."""
        transport = self._client.get_transport() if self._client is not None else None
        return transport is not None and transport.is_active()

    def run(
        self, argv: Sequence[str], *, stdin: str | IO[bytes] = "", timeout_seconds: float = 30.0, check: bool = True
    ) -> CommandResult:
        """Run a command and wait for its end.

        Args:
            argv: The command as an argument list.
            stdin: Text for its standard input, or what a file gives. The place for secrets: arguments are visible in
                process lists.
            timeout_seconds: After this the host ends the command; five seconds later this side gives up.
            check: Raise when the exit status is not 0.

        Raises:
            FencedOffError: The host has seen a higher fencing token.
            RemoteCommandError: The command failed (with `check`), or took too long.
            HostUnreachableError: The connection broke: the command's outcome is unknown.
        """
        if not self.is_open:
            self.close()
            self.connect()
        result = self._execute(remote_command(argv, timeout_seconds), stdin, timeout_seconds)
        if result.exit_status == EXIT_FENCED_OFF:
            raise FencedOffError(
                f"{result.stderr.strip()}: a later change holds this environment, this run must stop",
                host=self.host.name,
                exit_status=result.exit_status,
                stderr=result.stderr,
            )
        if check and result.exit_status != 0:
            raise RemoteCommandError(
                _failure(argv, result, timeout_seconds),
                host=self.host.name,
                exit_status=result.exit_status,
                stderr=result.stderr,
            )
        return result

    def run_script(
        self,
        name: str,
        arguments: Sequence[str],
        *,
        stdin: str | IO[bytes] = "",
        timeout_seconds: float = 30.0,
        check: bool = True,
    ) -> CommandResult:
        """Run include/hosts/<name>.sh; see `run`."""
        return self.run(script_argv(name, arguments), stdin=stdin, timeout_seconds=timeout_seconds, check=check)

    def _execute(self, command: str, stdin: str | IO[bytes], timeout_seconds: float) -> CommandResult:
        import paramiko

        assert self._client is not None
        try:
            sent, received, errors = self._client.exec_command(command, timeout=timeout_seconds + 5)
            if isinstance(stdin, str):
                sent.write(stdin)
            else:
                shutil.copyfileobj(stdin, sent)
            sent.channel.shutdown_write()
            # Both at once: they share one window, and a full one would stop the command.
            with ThreadPoolExecutor(max_workers=1) as pool:
                read_errors = pool.submit(errors.read)
                stdout = received.read().decode(errors="replace")
                stderr = read_errors.result().decode(errors="replace")
            status = received.channel.recv_exit_status()
        except (OSError, EOFError, paramiko.SSHException) as error:
            self.close()
            raise HostUnreachableError(
                f"the connection broke while a command ran, its outcome is unknown ({_reason(error)})",
                host=self.host.name,
            ) from error
        if status == -1:
            self.close()
            raise HostUnreachableError(
                "the connection ended before the command's exit status came, its outcome is unknown",
                host=self.host.name,
            )
        return CommandResult(exit_status=status, stdout=stdout, stderr=stderr)


@contextmanager
def open_session(host: Host, ssh_conn_id: str) -> Iterator[HostSession]:
    """A connected session, closed at the end unless it is kept. Raises HostUnreachableError."""
    session = take_session(host, ssh_conn_id)
    try:
        yield session if session.is_open else session.connect()
    finally:
        give_back(session, ssh_conn_id)


def take_session(host: Host, ssh_conn_id: str) -> HostSession:
    """A session for the caller alone, until `give_back`: the host's kept one, already logged in, or a new one."""
    kept = _kept_sessions.get() or {}
    return kept.pop((host.name, ssh_conn_id), None) or HostSession(host, ssh_conn_id)


def give_back(session: HostSession, ssh_conn_id: str) -> None:
    """End the use of a session that was taken: it is kept for the next one within `kept_sessions`, closed otherwise."""
    kept, key = _kept_sessions.get(), (session.host.name, ssh_conn_id)
    if kept is None or key in kept or not session.is_open:
        session.close()
    else:
        kept[key] = session


@contextmanager
def kept_sessions() -> Iterator[None]:
    """Within this, what the same thread does on a host shares one login; closed at the end.

    For rounds that follow one another at once: a connection that broke in between costs its host's next command.
    Within another one, the outer's logins are shared.
    """
    if _kept_sessions.get() is not None:
        yield
        return
    kept: dict[tuple[str, str], HostSession] = {}
    token = _kept_sessions.set(kept)
    try:
        yield
    finally:
        _kept_sessions.reset(token)
        for session in kept.values():
            session.close()


def on_hosts(
    hosts: Iterable[Host], ssh_conn_id: str, action: Callable[[HostSession], Result]
) -> dict[str, Result | OutsideSystemError]:
    """Run `action` on all hosts at once.

    Returns: the result, or the error, by the host's name. Only errors of the hosts are returned; a defect is raised.
    """
    kept = _kept_sessions.get()
    # Connections are resolved here: task processes share one channel to their supervisor.
    sessions = [(kept or {}).get((host.name, ssh_conn_id)) or HostSession(host, ssh_conn_id) for host in hosts]
    if kept is not None:
        kept.update({(session.host.name, ssh_conn_id): session for session in sessions})

    def work(session: HostSession) -> Result | OutsideSystemError:
        try:
            return action(session if session.is_open else session.connect())
        except OutsideSystemError as error:
            session.close()
            return error
        finally:
            if kept is None:
                session.close()

    if not sessions:
        return {}
    with ThreadPoolExecutor(max_workers=min(len(sessions), 16)) as pool:
        results = list(pool.map(work, sessions))
    return {session.host.name: result for session, result in zip(sessions, results, strict=True)}


def raise_first_error(results: dict[str, Any]) -> None:
    """Raise what went wrong in `on_hosts`' result, if anything: a fence first, then all errors as one."""
    errors = [error for error in results.values() if isinstance(error, OutsideSystemError)]
    for error in errors:
        if isinstance(error, FencedOffError):
            raise error
    if len(errors) == 1:
        raise errors[0]
    if errors:
        raise OutsideSystemError("; ".join(str(error) for error in errors))


def _host_key(host: Host) -> Any:
    from base64 import b64decode

    import paramiko

    kind, _, rest = host.ssh.host_key.partition(" ")
    return paramiko.PKey.from_type_string(kind, b64decode(rest.split()[0]))


def _reason(error: BaseException) -> str:
    if isinstance(error, (socket.timeout, TimeoutError)):
        return "timed out"
    return str(error) or type(error).__name__


def _failure(argv: Sequence[str], result: CommandResult, timeout_seconds: float) -> str:
    name = argv[3] if argv[:2] == ["sh", "-c"] and len(argv) > 3 else argv[0]
    if result.exit_status == EXIT_TIMED_OUT:
        return f"{name} was ended after {timeout_seconds:g} s"
    if result.exit_status == EXIT_KILLED:
        return f"{name} was killed: it went on after its {timeout_seconds:g} s, or the host ran out of memory"
    said = result.stderr.strip() or result.stdout.strip() or "it said nothing"
    return f"{name} failed with exit status {result.exit_status}: {said[-1000:]}"
