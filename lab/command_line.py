"""The commands of `python -m lab`."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Sequence

from lab import estate, fault_commands, faults, inventory, paths, remote, secondary_site, supervision
from lab.addresses import ALL_HOST_NAMES, DNS_PORT, HTTPS_PORT, MAILBOX_HTTP_PORT, PROMETHEUS_PORT, address, endpoint
from lab.application_hosts import live_color, version_answer
from lab.hosts import ENVIRONMENTS, SECONDARY_SITE, check_host, check_service, has_secondary_site, present_hosts
from lab.waiting import LabError


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; its exit code. What the lab refuses to do is one line on standard error."""
    arguments = _parser().parse_args(argv)
    try:
        return int(arguments.run(arguments) or 0)
    except KeyError as error:
        print(f"lab: {error.args[0]}", file=sys.stderr)
    except LabError as error:
        print(f"lab: {error}", file=sys.stderr)
    except PermissionError as error:
        print(f"lab: {error}: the lab's commands need root: use sudo -E", file=sys.stderr)
    except BrokenPipeError:
        # The reader of our output has seen enough (`| head`); Python would complain once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        print("lab: interrupted; `python -m lab up` completes it, `python -m lab down` stops it", file=sys.stderr)
        return 130
    return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m lab",
        description="The whole estate on this machine, with real servers: load balancers, application hosts, "
        "databases, cache, storage, monitoring. Nothing listens beyond loopback.",
        epilog=f"Hosts: {', '.join(ALL_HOST_NAMES)}. State: {paths.LAB_DIR} (SEBENZA_LAB_DIR moves it); "
        "addresses: SEBENZA_LAB_NET moves them. More: docs/lab.md.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    up = commands.add_parser("up", help="bring the estate up, or complete it; returns when every part is healthy")
    up.add_argument(
        "--secondary-site",
        action="store_true",
        help="with production's disaster recovery site and DNS, now and whenever it comes up (until down --forget)",
    )
    up.set_defaults(run=_up)

    down = commands.add_parser("down", help="stop everything; no process is left")
    down.add_argument("--forget", action="store_true", help="remove the state too (not what was built or downloaded)")
    down.add_argument(
        "--secondary-site", action="store_true", help="stop the secondary site and DNS only, and be without from now on"
    )
    down.set_defaults(run=_down)

    status = commands.add_parser("status", help="every host and service, live colors, active faults")
    status.set_defaults(run=_status)

    reset = commands.add_parser("reset", help="put v1.0.0 into blue again, and green out of service")
    reset.add_argument("environment", nargs="*", help=f"default: all of {', '.join(ENVIRONMENTS)}")
    reset.set_defaults(run=_reset)

    logs = commands.add_parser("logs", help="the last lines of a host's logs")
    logs.add_argument("host", metavar="HOST")
    logs.add_argument("service", metavar="SERVICE", nargs="?")
    logs.add_argument("-n", "--lines", type=int, default=20, help="lines of each file (default: 20)")
    logs.add_argument("-f", "--follow", action="store_true", help="go on as lines are written")
    logs.set_defaults(run=_logs)

    shell = commands.add_parser("shell", help="log in to a host over SSH, or run a command there")
    shell.add_argument("host", metavar="HOST")
    shell.add_argument("command", metavar="CMD", nargs=argparse.REMAINDER)
    shell.set_defaults(run=_shell)

    gates = commands.add_parser("gates", help="let production demand gates and an approval, as shipped")
    gates.add_argument("state", choices=["on", "off"])
    gates.set_defaults(run=_gates)

    attests = commands.add_parser("attest", help="sign and upload what a pipeline would attest of a version")
    attests.add_argument("version", metavar="VERSION", help="a tag of the sample application, for example v1.1.0")
    attests.add_argument("--author", default="naledi", help="who made the change (default: %(default)s)")
    attests.add_argument("--reviewers", default="sipho", help="who approved it, with commas (default: %(default)s)")
    attests.add_argument("--requested-by", help="who started the pipeline")
    attests.add_argument("--expires-in", type=float, default=12 * 3600, metavar="SECONDS", help="default: 12 hours")
    attests.add_argument("--fail", action="append", default=[], metavar="GATE", help="a gate that did not pass")
    attests.set_defaults(run=_attest)

    variables = commands.add_parser(
        "ci-variables", help="the secrets that a pipeline gets, as shell variables for include/ci/deploy.py"
    )
    variables.set_defaults(run=_ci_variables)

    fault_commands.add_commands(commands)
    return parser


def _gates(arguments: argparse.Namespace) -> None:
    inventory.set_gates(arguments.state == "on")
    print(f"production has its gates {arguments.state}; Airflow shows it within half a minute")


def _attest(arguments: argparse.Namespace) -> None:
    # Here: the commands that need no release should not load what reads one.
    from lab.attest import attest

    sha = attest(
        arguments.version,
        author=arguments.author,
        reviewers=[name for name in arguments.reviewers.split(",") if name],
        requested_by=arguments.requested_by,
        expires_in_seconds=arguments.expires_in,
        failed=arguments.fail,
    )
    print(f"attested {arguments.version}, commit {sha}")


def _ci_variables(_: argparse.Namespace) -> None:
    from lab.pipeline import ci_variables

    for name, value in ci_variables().items():
        print(f"export {name}={shlex.quote(value)}")


def _up(arguments: argparse.Namespace) -> None:
    progress = estate.Progress()
    if arguments.secondary_site:
        secondary_site.turn_on()
    estate.up(progress)
    progress("up: every part is healthy")
    for environment in ENVIRONMENTS.values():
        urls = ", ".join(f"https://{endpoint(host, HTTPS_PORT)}" for host in environment.load_balancers)
        print(f"  {environment.name:<12} {urls}  (Host: {environment.hostname})")
    if has_secondary_site():
        urls = ", ".join(f"https://{endpoint(host, HTTPS_PORT)}" for host in SECONDARY_SITE.load_balancers)
        print(
            f"  secondary    {urls}  (waits; dns: {endpoint('dns1', DNS_PORT)}, resolver {endpoint('dns2', DNS_PORT)})"
        )
    print(f"  prometheus   http://{endpoint('monitoring', PROMETHEUS_PORT)}")
    print(f"  mailbox      http://{endpoint('mailbox', MAILBOX_HTTP_PORT)}/messages")


def _down(arguments: argparse.Namespace) -> None:
    progress = estate.Progress()
    if arguments.secondary_site:
        estate.down_secondary_site(progress)
        return
    estate.down(progress, forget=arguments.forget)
    progress("down: no process of the lab is left")


def _status(_: argparse.Namespace) -> int:
    all_running = True
    print(f"state: {paths.LAB_DIR}\n")
    for host in present_hosts():
        shown = []
        for state in supervision.states(host):
            all_running &= state.running
            shown.append(state.name if state.running else f"{state.name}:{state.state}")
        print(f"{host:<12} {address(host):<14} {' '.join(shown)}")
    print()
    for environment in ENVIRONMENTS.values():
        colors = {host: live_color(host) or "none" for host in environment.load_balancers}
        print(f"{environment.name:<12} live: {', '.join(f'{host}={color}' for host, color in colors.items())}")
        for host in environment.application_hosts:
            print(f"{'':<12} {host}: {_releases(host)}")
    active = faults.active()
    print("\nfaults:" + ("" if active else " none"))
    for fault in active:
        print(f"  {fault}")
    return 0 if all_running else 3


def _releases(host: str) -> str:
    found = []
    for color in ("blue", "green"):
        answer = version_answer(host, color)
        found.append(f"{color}={answer['release_id'] if answer else 'not running'}")
    return " ".join(found)


def _reset(arguments: argparse.Namespace) -> None:
    estate.reset(arguments.environment or list(ENVIRONMENTS), estate.Progress())


def _logs(arguments: argparse.Namespace) -> None:
    host = check_host(arguments.host)
    if arguments.service:
        check_service(host, arguments.service)
    directory = paths.host_files(host) / "var/log"
    if not directory.exists():
        raise LabError(f"{host} has no logs yet: the lab has not been up")
    found = sorted(file for file in directory.rglob("*") if file.is_file() and file.stat().st_size)
    if arguments.service:
        names = {arguments.service, {"pm2": "sebenza"}.get(arguments.service, arguments.service)}
        found = [file for file in found if names & {file.stem, file.parent.name}]
    if not found:
        raise LabError(f"{host} has written no such log yet; its logs are in {directory}")
    command = ["tail", "-n", str(arguments.lines), *(["-F"] if arguments.follow else [])]
    sys.stdout.flush()
    os.execvp("tail", [*command, *map(str, found)])


def _shell(arguments: argparse.Namespace) -> None:
    host = check_host(arguments.host)
    if not supervision.is_up(host):
        raise LabError(f"{host} is down: python -m lab up")
    terminal = not arguments.command and sys.stdin.isatty()
    command = remote.ssh_command(host, arguments.command, terminal=terminal)
    os.execvp(command[0], command)
