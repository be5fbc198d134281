"""Host scripts, run as an SSH session runs them: one text for `sh -c`, arguments after it."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence

from lab.waiting import scaled
from sebenza_ops.systems.host_scripts import script_text
from sebenza_ops.systems.ssh import script_argv

# Debian's sh, and bash where sh is a link to it.
SHELLS = {"dash": ["dash"], "bash": ["bash", "--posix"]}


def command(shell: str, name: str, arguments: Sequence[object]) -> list[str]:
    """The command line of a script under one of the shells."""
    return [*SHELLS[shell], *script_argv(name, [str(argument) for argument in arguments])[1:]]


def run(
    name: str, *arguments: object, stdin: str | bytes = "", shell: str = "dash", timeout_seconds: float = 30
) -> subprocess.CompletedProcess[str]:
    """Run include/hosts/<name>.sh to its end."""
    return finish(command(shell, name, arguments), stdin, timeout_seconds)


def run_text(
    text: str, *arguments: object, stdin: str | bytes = "", shell: str = "dash"
) -> subprocess.CompletedProcess[str]:
    """Run a text that uses the library's functions."""
    return finish(text_command(text, *arguments, shell=shell), stdin, 30)


def text_command(text: str, *arguments: object, shell: str = "dash") -> list[str]:
    """The command line of a text that uses the library's functions."""
    return [*SHELLS[shell], "-c", library() + text, "test", *(str(argument) for argument in arguments)]


def library() -> str:
    """The functions that every script begins with."""
    return script_text("fence_raise").removesuffix(own_text("fence_raise"))


def own_text(name: str) -> str:
    """A script without the library."""
    from sebenza_ops.systems.host_scripts import include_dir

    return (include_dir() / "hosts" / f"{name}.sh").read_text()


def finish(argv: Sequence[str], stdin: str | bytes, timeout_seconds: float) -> subprocess.CompletedProcess[str]:
    """Run a command and decode what it said."""
    given = stdin.encode() if isinstance(stdin, str) else stdin
    done = subprocess.run(list(argv), input=given, capture_output=True, timeout=scaled(timeout_seconds), check=False)
    return subprocess.CompletedProcess(
        done.args, done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")
    )
