"""Nothing that came from a parameter is ever read as shell: checked through real shells."""

from __future__ import annotations

import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.waiting import scaled
from sebenza_ops.systems.host_scripts import script_text
from sebenza_ops.systems.ssh import Fence, known_hosts_line, remote_command, script_argv
from tests.systems.estates import AN_HOST_KEY, loopback_host

# A process argument holds any text without NUL; what can't be UTF-8 can't be sent.
ARGUMENT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=40)
HOSTILE = st.sampled_from(
    ["$(touch x)", "`id`", "'", '"', "\\", "\n", "; exit 9", "--", "-n", "*", "~", "${IFS}", "!!"]
)


def said(command: str) -> bytes:
    """What a login shell makes of the command line that sshd hands to it."""
    return subprocess.run(["sh", "-c", command], capture_output=True, check=True, timeout=scaled(20)).stdout


@settings(max_examples=60, deadline=None)
@given(st.lists(ARGUMENT | HOSTILE, max_size=6))
def test_any_argument_arrives_unchanged(arguments: list[str]) -> None:
    out = said(remote_command(["printf", "%s\\0", "first", *arguments], 10))
    assert out.decode().split("\0")[1:-1] == arguments


@settings(max_examples=40, deadline=None)
@given(st.lists(ARGUMENT | HOSTILE, min_size=1, max_size=4))
def test_any_argument_reaches_a_script_unchanged(arguments: list[str]) -> None:
    # The script repeats its arguments; the library before it is the real one.
    argv = script_argv("fence_read", arguments)
    argv[2] = script_text("fence_read").rpartition("# fence_read.sh")[0] + 'printf \'%s\\0\' "$0" "$@"'
    assert said(remote_command(argv, 10)).decode().split("\0")[:-1] == ["fence_read", *arguments]


def test_the_host_itself_ends_a_command_in_time() -> None:
    done = subprocess.run(["sh", "-c", remote_command(["sleep", "3600"], 0.2)], check=False, timeout=scaled(20))
    assert done.returncode == 124


def test_an_unknown_script_is_an_error_here_and_not_on_the_host() -> None:
    with pytest.raises(FileNotFoundError):
        script_argv("no_such_script", [])


@pytest.mark.parametrize(("port", "where"), [(22, "127.0.0.1"), (2222, "[127.0.0.1]:2222")])
def test_known_hosts_lines_name_the_port_where_it_is_not_22(port: int, where: str) -> None:
    assert known_hosts_line(loopback_host("app1", port, AN_HOST_KEY)) == f"{where} {AN_HOST_KEY}\n"


def test_a_fence_is_the_first_four_arguments() -> None:
    assert Fence("production", 7, "dag/run").arguments("/state") == ["/state", "production", "7", "dag/run"]
