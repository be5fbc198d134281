"""What every host must have: access, programs, directories, services, a right clock and space. Pure rules.

Each rule takes what was gathered (`gathered`) and adds findings; none of them asks anything.
"""

from __future__ import annotations

from pathlib import PurePosixPath

from sebenza_ops.environments.models import Environment, Host, Role, Service
from sebenza_ops.estate import fixes
from sebenza_ops.estate.findings import Findings
from sebenza_ops.estate.gathered import HostReading, ServiceReading

SKEW_WARNING_SECONDS = 1.0
# Leases live for two minutes, signed URLs for fifteen: five seconds are far from both, and NTP keeps far below them.
SKEW_MISSING_SECONDS = 5.0
RELEASES_THAT_MUST_FIT = 3
# A first release is not there to be measured; the sample application takes about 40 MB unpacked.
ASSUMED_RELEASE_KIB = 200 * 1024

MOVES = ("start", "stop", "restart", "reload")

_EVERY_CHANGE = ("flock", "mktemp")
PROGRAMS: dict[Role, tuple[str, ...]] = {
    Role.APPLICATION: (*_EVERY_CHANGE, "curl", "tar", "gzip", "sha256sum", "awk", "df", "ps"),
    Role.LOAD_BALANCER: (*_EVERY_CHANGE, "socat", "curl", "awk", "base64"),
    Role.DATABASE_ENDPOINT: (*_EVERY_CHANGE, "socat", "awk"),
    Role.BUILD: ("flock", "setsid", "git", "curl", "tar", "gzip"),
}
_ARCHIVES = ("flock", "find", "xargs", "sort", "tar", "sha256sum", "zstd", "age", "curl")
SERVICES: dict[Role, tuple[Service, ...]] = {
    Role.LOAD_BALANCER: (Service.HAPROXY,),
    Role.APPLICATION: (Service.NGINX, Service.PM2),
    Role.DATABASE: (Service.POSTGRESQL,),
    Role.CACHE: (Service.REDIS,),
    Role.OBJECT_STORE: (Service.OBJECT_COPY,),
}


def programs_of(host: Host, environment: Environment | None = None) -> tuple[str, ...]:
    """The programs that the scripts in include/hosts call on a host of its roles, by its environment's policies."""
    wanted = dict.fromkeys(name for role in host.roles for name in PROGRAMS.get(role, ()))
    if environment is not None and environment.policies.application_backup is not None:
        wanted |= dict.fromkeys(_ARCHIVES)
    return tuple(wanted)


def directories_of(environment: Environment, host: Host) -> dict[str, bool]:
    """Directories that the procedures write on a host, and whether they must be there already."""
    application = environment.application
    found: dict[str, bool] = {}
    if Role.APPLICATION in host.roles:
        found |= {
            host.path(path): False for path in (application.releases_dir, application.colors_dir, application.log_dir)
        }
    if Role.LOAD_BALANCER in host.roles:
        found[host.path(str(PurePosixPath(environment.load_balancing.map_file).parent))] = True
    if Role.DATABASE_ENDPOINT in host.roles:
        proxy = environment.database.proxy
        found |= {host.path(str(PurePosixPath(path).parent)): True for path in (proxy.pause_map, proxy.state_file)}
        found[host.path(application.state_dir)] = False
    if {Role.APPLICATION, Role.LOAD_BALANCER} & set(host.roles):
        found |= {host.path(path): False for path in (application.state_dir, application.marker_dir)}
    return found


def services_of(host: Host) -> tuple[Service, ...]:
    """The services that run on a host of its roles."""
    return tuple(dict.fromkeys(service for role in host.roles for service in SERVICES.get(role, ())))


def check_host(environment: Environment, host: Host, reading: HostReading, login: str) -> Findings:
    """Everything that a host of any role must have."""
    findings = Findings(host.name)
    if not check_access(findings, environment.name, host, reading, login):
        return findings
    check_login(findings, environment, host, reading)
    check_programs(findings, host, reading, environment)
    check_directories(findings, host, reading, directories_of(environment, host))
    check_fence(findings, environment, host, reading)
    for service in reading.services:
        check_service(findings, environment, host, service)
    check_clock(findings, host, reading)
    check_disk(findings, environment, host, reading)
    return findings


def check_access(findings: Findings, file: str, host: Host, reading: HostReading, login: str) -> bool:
    """Whether the host can be logged in to, and is the one that the inventory describes."""
    where = f"{host.address}:{host.ssh.port}"
    if reading.error is None:
        findings.ok("access", f"{login}@{where}, host key as in the inventory")
        for complaint in reading.complaints:
            findings.no_data("access", complaint, "an answer from every script")
        return True
    found = str(reading.error).removeprefix(f"{host.name}: ")
    if reading.presented_key:
        fix = fixes.on_host(
            host,
            "# compare on its console, not over the network:",
            "ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub",
            f"# only if that is the key shown as found: in the file {file}.yaml of the inventory, host {host.name}",
            "    ssh:",
            f"      host_key: {reading.presented_key}",
        )
        findings.missing("host key", f"it presents {reading.presented_key}", host.ssh.host_key, fix)
        return False
    if "uthentication" in found:
        fix = fixes.on_host(
            host,
            f"# the public half of the key in the SSH connection (ssh-keygen -y -f KEYFILE) goes to {login}:",
            f"sudo install -d -m 700 -o {login} -g {login} ~{login}/.ssh",
            f"echo 'PUBLIC-KEY' | sudo tee -a ~{login}/.ssh/authorized_keys",
        )
        findings.missing("access", found, f"login as {login} with the key of the SSH connection", fix)
        return False
    fix = fixes.on_host(host, "sudo systemctl status ssh", f"sudo ss -ltn 'sport = :{host.ssh.port}'")
    findings.missing("access", found, f"SSH at {where} from the Airflow workers", fix)
    return False


def check_login(findings: Findings, environment: Environment, host: Host, reading: HostReading) -> None:
    """On application hosts the login must be the user that owns releases and processes."""
    login = reading.part("check_host", "identity").partition(" ")[0]
    wanted = environment.application.user
    if Role.APPLICATION not in host.roles or not login:
        return
    if login == wanted:
        findings.ok("login", f"{login}, the owner of releases and processes")
        return
    findings.missing(
        "login",
        f"the SSH connection logs in as {login}",
        f"application.user ({wanted}): two owners of one PM2 fight for the same ports",
        f"# in the Airflow connection {environment.ssh_conn_id}: login {wanted}; or in the inventory:\n"
        f"application:\n  user: {login}",
    )


def check_programs(
    findings: Findings, host: Host, reading: HostReading, environment: Environment | None = None
) -> None:
    """What the scripts call must be there, for the environment's policies too; sync must take a file."""
    lines = (line.split("\t") for line in reading.part("check_host", "programs").splitlines())
    found = {words[0]: words[1] for words in lines if len(words) == 2}
    wanted = programs_of(host, environment)
    if not wanted:
        return
    absent = [name for name in wanted if found.get(name, "!missing") == "!missing"]
    if absent:
        needed = f"{', '.join(absent)} on the PATH of a login without terminal"
        findings.missing("programs", f"not there: {', '.join(absent)}", needed, fixes.install_programs(host, absent))
    else:
        findings.ok("programs", ", ".join((*wanted, "timeout")))
    if reading.part("check_host", "sync") == "no":
        findings.missing(
            "sync",
            "sync does not take a file",
            "coreutils 8.24 or newer: files are on disk before they are renamed",
            fixes.install_programs(host, ["sync"]),
        )
    temporary = reading.part("check_host", "temporary").split()
    if temporary[1:] == ["no"]:
        findings.missing(
            "temporary files",
            f"{temporary[0]} can't be written",
            "a writable directory for temporary files",
            fixes.on_host(host, fixes.command("sudo", "chmod", "1777", temporary[0])),
        )


def check_directories(findings: Findings, host: Host, reading: HostReading, wanted: dict[str, bool]) -> None:
    """The directories that procedures write (and whether they must be there) must be writable, or be makeable."""
    login = reading.part("check_host", "identity").partition(" ")[0]
    lines = (line.split("\t") for line in reading.part("check_host", "directories").splitlines())
    found = {words[0]: words[1:] for words in lines if len(words) == 4}
    for path, must_exist in wanted.items():
        check = f"write {path.removeprefix(host.root_dir) if host.root_dir != '/' else path}"
        needed = f"{login} may write {path}"
        if path not in found:
            findings.no_data(check, "the host did not say", needed)
            continue
        at, may_write, owner = found[path]
        if at == path and may_write == "yes":
            findings.ok(check, f"{owner}")
        elif at != path and may_write == "yes" and not must_exist:
            findings.ok(check, f"not there yet; the first deployment makes it in {at}")
        else:
            state = f"is {owner}" if at == path else f"is not there (in {at}, {owner})"
            findings.missing(check, f"{path} {state}", needed, fixes.make_directory(host, path, login))


def check_fence(findings: Findings, environment: Environment, host: Host, reading: HostReading) -> None:
    """The fencing token that the host has seen must be readable, or absent on a host that was never changed."""
    if "fence" not in reading.texts.get("check_host", {}) or not directories_of(environment, host):
        return
    text = reading.part("check_host", "fence")
    words = text.split()
    path = host.path(f"{environment.application.state_dir}/fence-{environment.name}")
    if text == "!none":
        findings.ok("fence", "none yet; the first change writes it")
    elif words and words[0].isdigit():
        holder = f" of {words[1]}" if len(words) > 1 else ""
        since = f", {words[2]}" if len(words) > 2 else ""
        findings.ok("fence", f"token {words[0]}{holder}{since}")
    else:
        findings.missing(
            "fence",
            f"{path} holds {text[:60]!r}",
            "a number first: without it every change refuses this host",
            fixes.on_host(host, f"ls -l {path}  # find out who changed it, then", fixes.command("rm", path)),
        )


def check_service(findings: Findings, environment: Environment, host: Host, reading: ServiceReading) -> None:
    """A service must run, start with its host, and be movable by the login."""
    check = f"service {reading.service}"
    service = Service(reading.service)
    start = fixes.on_host(host, fixes.service_command(environment, "start", service, host))
    if reading.state not in {"active", "RUNNING"}:
        needed = f"{reading.unit} runs (service_manager.units names it otherwise)"
        verdict = findings.no_data if not reading.state or "unknown" in reading.state else findings.missing
        verdict(check, f"{reading.unit}: {reading.state or 'no answer from the service manager'}", needed, start)
        return
    if reading.at_boot in {"disabled", "masked"}:
        enable = fixes.on_host(host, fixes.command("sudo", "systemctl", "enable", reading.unit))
        findings.warning(check, f"{reading.unit} runs, but is {reading.at_boot}", "it starts with its host", enable)
        return
    if reading.may_move is False:
        login = environment.application.user
        # Each action by itself: with a wildcard sudo would let any arguments through.
        allowed = ", ".join(f"/usr/bin/systemctl {action} {reading.unit}" for action in MOVES)
        rule = f"{login} ALL=(root) NOPASSWD: {allowed}"
        findings.warning(
            check,
            f"{reading.unit} runs; {login} may not move it",
            "maintenance and recovery start, stop and reload it",
            fixes.on_host(host, f"echo '{rule}' | sudo tee /etc/sudoers.d/sebenza-{reading.service}", "sudo visudo -c"),
        )
        return
    findings.ok(check, f"{reading.unit} is {reading.state}")


def check_clock(findings: Findings, host: Host, reading: HostReading) -> None:
    """The host's clock against the worker's. What the measurement can't tell is not held against the host."""
    if reading.clock is None:
        findings.no_data("clock", "it did not say", "its clock, within 1 s of the worker's")
        return
    skew, unsure = reading.clock.skew_seconds, reading.clock.uncertainty_seconds
    sure = max(abs(skew) - unsure, 0.0)
    found = f"{skew:+.2f} s against the worker (± {unsure:.2f} s)"
    needed = f"within {SKEW_WARNING_SECONDS:g} s: leases, signed URLs and evidence compare clocks"
    fix = fixes.on_host(host, "sudo timedatectl set-ntp true", "timedatectl timesync-status || chronyc tracking")
    if sure > SKEW_MISSING_SECONDS:
        findings.missing("clock", found, needed, fix)
    elif sure > SKEW_WARNING_SECONDS:
        findings.warning("clock", found, needed, fix)
    else:
        findings.ok("clock", found)


def check_disk(findings: Findings, environment: Environment, host: Host, reading: HostReading) -> None:
    """Space for releases, and the inventory's threshold on every file system that procedures write."""
    lines = [line.split("\t") for line in reading.part("check_host", "disk").splitlines()]
    systems: dict[str, tuple[int, int]] = {}
    for words in lines:
        sizes = words[1].split() if len(words) == 2 else []
        if len(sizes) == 4 and all(size.isdigit() for size in sizes[:3]):
            systems[sizes[3]] = (int(sizes[1]), int(sizes[2]))
    if not systems:
        findings.no_data("disk", "it did not say", "free space of its file systems")
    threshold = environment.policies.thresholds.disk_warning_ratio
    for mount, (used, free) in systems.items():
        # As df counts: what is reserved for root is neither used nor free.
        ratio = used / (used + free) if used + free else 1.0
        found = f"{mount}: {ratio:.0%} used, {free / 1024**2:.1f} GiB free"
        if ratio > threshold:
            fix = fixes.on_host(host, f"sudo du -xh --max-depth=2 {mount} | sort -h | tail -n 20")
            findings.warning("disk", found, f"at most {threshold:.0%} used (policies.thresholds)", fix)
        else:
            findings.ok("disk", found)
    if Role.APPLICATION in host.roles:
        _check_space_for_releases(findings, environment, host, reading, lines)


def _check_space_for_releases(
    findings: Findings, environment: Environment, host: Host, reading: HostReading, lines: list[list[str]]
) -> None:
    path = host.path(environment.application.releases_dir)
    # The file system of the nearest directory above that is there.
    above = [words for words in lines if len(words) == 2 and path.startswith(words[0])]
    if not above:
        return
    free = int(max(above, key=lambda words: len(words[0]))[1].split()[2])
    sizes = [line.split()[0] for line in reading.part("check_application", "releases").splitlines() if line.strip()]
    largest = max((int(size) for size in sizes if size.isdigit()), default=0)
    need = RELEASES_THAT_MUST_FIT * (largest or ASSUMED_RELEASE_KIB)
    measured = f"the largest has {largest / 1024:.0f} MiB" if largest else "none is installed yet, 200 MiB assumed"
    found = f"{free / 1024:,.0f} MiB free, {measured}"
    if free < need:
        releases = fixes.command("ls", "-lt", path)
        findings.missing(
            "space for releases",
            found,
            f"{need / 1024:,.0f} MiB: room for {RELEASES_THAT_MUST_FIT} more releases",
            fixes.on_host(host, f"{releases}  # remove releases that no color runs, or grow the file system"),
        )
    else:
        findings.ok("space for releases", found)


def check_clocks_agree(findings: Findings, readings: list[HostReading]) -> None:
    """The hosts' clocks against each other."""
    clocks = {reading.host: reading.clock for reading in readings if reading.clock is not None}
    if len(clocks) < 2:
        return
    first = min(clocks, key=lambda name: clocks[name].skew_seconds)
    last = max(clocks, key=lambda name: clocks[name].skew_seconds)
    apart = clocks[last].skew_seconds - clocks[first].skew_seconds
    sure = max(apart - clocks[first].uncertainty_seconds - clocks[last].uncertainty_seconds, 0.0)
    found = f"at most {apart:.2f} s apart ({first} and {last})"
    needed = f"at most {SKEW_WARNING_SECONDS:g} s apart"
    fix = f"# on {first} and {last}, as an administrator\nsudo timedatectl set-ntp true"
    if sure > SKEW_MISSING_SECONDS:
        findings.missing("clocks", found, needed, fix)
    elif sure > SKEW_WARNING_SECONDS:
        findings.warning("clocks", found, needed, fix)
    else:
        findings.ok("clocks", found)
