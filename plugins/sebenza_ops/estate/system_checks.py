"""What the systems beside the hosts must offer: storage, database, monitoring, ledger, build. Pure rules."""

from __future__ import annotations

import re

from sebenza_ops.environments.models import Build, Color, Environment, Role
from sebenza_ops.estate import fixes
from sebenza_ops.estate.application_checks import MINIMUM_NODE_MAJOR
from sebenza_ops.estate.findings import Findings
from sebenza_ops.estate.gathered import DatabaseReading, HostReading, LedgerReading, MetricsReading, StorageReading

# What libpq's clients and superusers need beside the application.
RESERVED_DATABASE_CONNECTIONS = 10
# The latency of a bake is judged over four scrapes (deployment.observe); older samples are no data.
SCRAPES_BEFORE_STALE = 4
MINIMUM_SAMPLE_AGE_SECONDS = 5.0

# Airflow's connection types that fit, and how to make one. What is in capitals is filled in by people.
CONNECTION_OPTIONS: dict[str, tuple[tuple[str, ...], str]] = {
    "ssh": (("ssh",), """--conn-login sebenza --conn-extra '{"key_file": "/PATH/TO/KEY"}'"""),
    "ssh as root": (("ssh",), """--conn-login root --conn-extra '{"key_file": "/PATH/TO/KEY"}'"""),
    "archives": (("generic",), "--conn-password AGE-SECRET-KEY"),
    "database": (("postgres",), "--conn-host HOST --conn-login LOGIN --conn-password PASSWORD --conn-schema DATABASE"),
    "database hosts": (("ssh",), """--conn-login postgres --conn-extra '{"key_file": "/PATH/TO/KEY"}'"""),
    "backup repository": (("aws",), "--conn-login KEY --conn-password SECRET"),
    "backup passphrase": (("generic",), "--conn-password PASSPHRASE"),
    "cache": (("redis",), "--conn-host HOST --conn-password PASSWORD"),
    "object store": (
        ("aws",),
        "--conn-login KEY --conn-password SECRET "
        """--conn-extra '{"endpoint_url": "https://HOST", "region_name": "REGION"}'""",
    ),
    "dns key": (("generic",), "--conn-host HOST --conn-port 53 --conn-login KEY-NAME --conn-password SECRET"),
    "route53": (("aws",), "--conn-login KEY --conn-password SECRET"),
    "prometheus": (("http",), "--conn-host http://HOST:9090"),
    "alertmanager": (("http",), "--conn-host http://HOST:9093"),
    "alerts webhook": (("http",), "--conn-schema https --conn-host HOST"),
    "slack": (("slackwebhook",), "--conn-password WEBHOOK-TOKEN"),
    "pagerduty": (("pagerduty_events",), "--conn-password ROUTING-KEY"),
    "email": (("smtp",), "--conn-host HOST --conn-port 587 --conn-login LOGIN --conn-password PASSWORD"),
    "webhook": (("http",), "--conn-schema https --conn-host HOST"),
}


def connections_of(environment: Environment, build: Build | None) -> dict[str, str]:
    """Every Airflow connection that the environment names, and what it is for (a key of CONNECTION_OPTIONS)."""
    wanted: dict[str, str] = {
        environment.ssh_conn_id: "ssh",
        environment.database.conn_id: "database",
        environment.cache.conn_id: "cache",
        environment.object_store.conn_id: "object store",
    }
    optional = {
        environment.monitoring.prometheus_conn_id: "prometheus",
        environment.monitoring.alertmanager_conn_id: "alertmanager",
        environment.alerts_webhook_conn_id: "alerts webhook",
    }
    backup = environment.policies.backup
    if backup is not None:
        optional[environment.database.ssh_conn_id] = "database hosts"
        optional |= {backup.repository_conn_id: "backup repository", backup.cipher_conn_id: "backup passphrase"}
    for site in environment.sites:
        if site.database is not None:
            wanted[site.database.conn_id] = "database"
            optional[site.database.ssh_conn_id] = "database hosts"
        if site.cache is not None:
            wanted[site.cache.conn_id] = "cache"
        if site.object_store is not None:
            wanted[site.object_store.conn_id] = "object store"
        optional |= {site.ssh_conn_id: "ssh", site.repository_conn_id: "backup repository"}
    if environment.dns is not None:
        wanted[environment.dns.conn_id] = "route53" if environment.dns.backend == "route53" else "dns key"
    wanted |= {conn_id: kind for conn_id, kind in optional.items() if conn_id is not None}
    archives = environment.policies.application_backup
    if archives is not None:
        wanted |= {archives.ssh_conn_id: "ssh as root", archives.cipher_conn_id: "archives"}
    channels = environment.policies.channels
    wanted |= {
        channel.conn_id: str(channel.type) for channel in (*channels.critical, *channels.warning, *channels.info)
    }
    if build is not None:
        wanted |= {build.ssh_conn_id: "ssh", build.object_store.conn_id: "object store"}
    return wanted


def check_connections(
    findings: Findings, environment: Environment, build: Build | None, types: dict[str, str | None]
) -> None:
    """Every connection must be there, with the type that its hook takes. Nothing is sent through any of them."""
    for conn_id, kind in connections_of(environment, build).items():
        accepted, options = CONNECTION_OPTIONS[kind]
        found = types.get(conn_id)
        check = f"connection {conn_id}"
        fix = fixes.add_connection(conn_id, accepted[0], options)
        if found is None:
            findings.missing(check, "Airflow has no such connection", f"type {accepted[0]}, for {kind}", fix)
        elif found not in accepted:
            replace = f"airflow connections delete {conn_id}\n{fix}"
            findings.missing(check, f"its type is {found}", f"type {accepted[0]}, for {kind}", replace)
        else:
            findings.ok(check, f"{found}, for {kind}")


def check_storage(findings: Findings, environment: Environment, reading: StorageReading) -> None:
    """A round trip as the worker makes it: TLS, write, read, sign, delete."""
    store = environment.object_store
    where = f"bucket {store.bucket} at {reading.endpoint or 'the region of the connection'}"
    edit = f"# in the Airflow connection {store.conn_id}"
    if reading.is_tls:
        findings.ok("TLS", reading.endpoint or "the provider's own endpoint")
    else:
        needed = "https, checked: signed URLs and releases travel over it"
        findings.missing(
            "TLS", reading.endpoint, needed, f'{edit}: "endpoint_url": "https://…", and no "verify": false'
        )
    for step, error in reading.steps.items():
        if not error:
            findings.ok(step, where)
            continue
        policy = (
            f"{edit}: check key, secret and bucket; its policy must allow\n"
            f"s3:PutObject, s3:GetObject, s3:DeleteObject on {store.bucket}/{store.prefix}*\n"
            f"s3:ListBucket on {store.bucket}"
        )
        report = findings.warning if step == "delete" else findings.missing
        report(step, error, f"{step} works in {where}", policy)


def check_transfer(findings: Findings, storage: StorageReading, reading: HostReading) -> None:
    """A host must be able to fetch an object by a signed URL, without credentials of its own."""
    if not storage.sha256 or "check_transfer" not in reading.texts:
        return
    text = reading.part("check_transfer", "transfer")
    first, _, said = text.partition("\n")
    words = first.split()
    needed = f"this host fetches releases from {storage.endpoint} by a signed URL"
    fix = f"# on {findings.host}\ncurl -sS -o /dev/null -w '%{{http_code}}\\n' {storage.endpoint}"
    if len(words) != 3:
        findings.no_data("fetch a release", said or text or "no answer", needed, fix)
    elif words[0] != "0":
        findings.missing("fetch a release", f"curl ends with {words[0]}: {' '.join(said.split())}", needed, fix)
    elif words[1] != "200":
        clock = "# 403: is this host's clock right, does a proxy change the request?"
        findings.missing("fetch a release", f"HTTP {words[1]}", needed, f"{fix}\n{clock}")
    elif words[2] != storage.sha256:
        findings.missing("fetch a release", "what arrived is not what was stored", needed, f"{fix}\n# a proxy between?")
    else:
        findings.ok("fetch a release", f"signed URL of {storage.endpoint}")


def check_database(findings: Findings, environment: Environment, reading: DatabaseReading) -> None:
    """The primary, of the right version, with room for both colors, and a schema that migrations may change."""
    database = environment.database
    if reading.error:
        fix = f"# in the Airflow connection {database.conn_id}; and from a worker:\npsql -h HOST -d {database.name}"
        report = findings.missing if reading.is_reachable else findings.no_data
        needed = f"an answer of {database.name} to the workers, for migrations, backups and checks"
        report("database", f"{reading.where}: {reading.error}", needed, fix)
        return
    if reading.in_recovery:
        needed = "the primary: a replica takes no migration"
        fix = f"# in the Airflow connection {database.conn_id}: host and port of {database.endpoint}"
        findings.missing("primary", f"{reading.where} is a replica", needed, fix)
    else:
        findings.ok("primary", f"{reading.where} is the primary")
    major = reading.version // 10000
    if major != database.major_version:
        fix = f"# in the inventory, when {major} is what you run:\ndatabase:\n  major_version: {major}"
        findings.missing("PostgreSQL version", str(major), f"{database.major_version} (database.major_version)", fix)
    else:
        findings.ok("PostgreSQL version", str(major))
    _check_replicas(findings, environment, reading)
    _check_room(findings, environment, reading)
    _check_schema(findings, environment, reading)


def _check_replicas(findings: Findings, environment: Environment, reading: DatabaseReading) -> None:
    wanted = environment.database.replicas
    if reading.in_recovery or not (wanted or reading.replicas):
        return
    found = f"{reading.replicas} streaming"
    if reading.replicas < wanted:
        fix = "-- on the primary, and see the replica's log\nSELECT application_name, state FROM pg_stat_replication;"
        findings.missing("replicas", found, f"{wanted} (database.replicas)", fix)
    else:
        findings.ok("replicas", found)


def _check_room(findings: Findings, environment: Environment, reading: DatabaseReading) -> None:
    application = environment.application
    hosts = len(environment.hosts_with_role(Role.APPLICATION))
    pool = application.settings.database.pool_size
    need = hosts * len(application.colors) * application.processes_per_host * pool
    found = f"max_connections {reading.max_connections}; both colors may open {need}"
    if reading.max_connections < need + RESERVED_DATABASE_CONNECTIONS:
        needed = (
            f"{need + RESERVED_DATABASE_CONNECTIONS}: {hosts} hosts × 2 colors × "
            f"{application.processes_per_host} processes × a pool of {pool}, "
            f"and {RESERVED_DATABASE_CONNECTIONS} for people and procedures"
        )
        fix = (
            f"-- on the primary; takes a restart\n"
            f"ALTER SYSTEM SET max_connections = {need + RESERVED_DATABASE_CONNECTIONS};\n"
            f"-- or a smaller application.settings.database.pool_size in the inventory"
        )
        findings.warning("database connections", found, needed, fix)
    else:
        findings.ok("database connections", found)


def _check_schema(findings: Findings, environment: Environment, reading: DatabaseReading) -> None:
    database = environment.database
    if reading.may_create:
        findings.ok("migrations", "the login may change the schema")
    else:
        # PostgreSQL 15 no longer lets everybody create in public (release notes of 15, E.1.2).
        grant = "GRANT CREATE ON SCHEMA public TO LOGIN;"
        fix = f"-- as the owner of {database.name}, LOGIN being that of {database.conn_id}\n{grant}"
        findings.missing("migrations", "the login may not create in schema public", "it runs the migrations", fix)
    if reading.schema_revision is None:
        needed = "schema_migrations, which the first release's migrations make"
        findings.warning("schema", f"{database.name} has no table schema_migrations", needed, _DEPLOY_FIRST)
    elif reading.unfinished_migrations:
        needed = "every migration finished"
        fix = "SELECT * FROM schema_migrations WHERE finished_at IS NULL;"
        findings.missing(
            "schema", f"{reading.unfinished_migrations} migration(s) began and did not finish", needed, fix
        )
    else:
        findings.ok("schema", f"revision {reading.schema_revision}")


_DEPLOY_FIRST = "# nothing to do when the environment is new; else look whether the database is the right one"


def check_metrics(
    findings: Findings, environment: Environment, reading: MetricsReading | None, live: Color | None
) -> None:
    """Prometheus must have fresh series of the live color, with the labels by which a bake is judged."""
    if reading is None:
        findings.ok("Prometheus", "not in the inventory: deployments are judged by the load balancers alone")
        return
    if reading.error:
        fix = f"# in the Airflow connection {environment.monitoring.prometheus_conn_id}: host http://HOST:9090"
        findings.missing("Prometheus", reading.error, "an answer to the workers", fix)
        return
    findings.ok("Prometheus", "answers")
    name = f'http_request_duration_seconds_count{{environment="{environment.name}"}}'
    needed = f"{name} with labels color and release"
    fix = fixes.scrape_config(environment)
    colors = [live.value] if live is not None else sorted(reading.series)
    if not colors:
        findings.missing("series", "no series of the application", needed, fix)
    for color in colors:
        releases, age = reading.series.get(color), reading.age_seconds.get(color)
        limit = max(SCRAPES_BEFORE_STALE * environment.monitoring.scrape_interval_seconds, MINIMUM_SAMPLE_AGE_SECONDS)
        if not releases:
            findings.missing(f"series ({color})", "none", needed, fix)
        elif "" in releases:
            findings.missing(f"series ({color})", "without the label release", needed, fix)
        elif age is None or age > limit:
            found = f"the newest sample is {age:.0f} s old" if age is not None else "no fresh sample"
            needed = f"a sample in the last {limit:g} s (four scrapes)"
            findings.missing(f"series ({color})", found, needed, 'up{job="sebenza-app"} == 0  # asked of Prometheus')
        else:
            findings.ok(f"series ({color})", f"release {', '.join(releases)}, {age:.1f} s old")
    if reading.load_balancer_series:
        findings.ok("series of load balancers", f"{reading.load_balancer_series} backends")
    else:
        needed = f'haproxy_backend_http_responses_total{{environment="{environment.name}"}}, for alerts and reports'
        targets = ", ".join(
            f'"{host.address}:{environment.load_balancing.stats_port}"'
            for host in environment.hosts_with_role(Role.LOAD_BALANCER)
        )
        job = (
            "# in prometheus.yml, below scrape_configs:\n  - job_name: haproxy\n    static_configs:\n"
            f"      - targets: [{targets}]\n        labels: {{environment: {environment.name}}}"
        )
        findings.warning("series of load balancers", "none", needed, job)


def check_alertmanager(findings: Findings, environment: Environment, error: str | None) -> None:
    """Alertmanager must answer where the inventory names one. `error` is None when it was not asked, "" when well."""
    conn_id = environment.monitoring.alertmanager_conn_id
    if conn_id is None or error is None:
        return
    if error:
        fix = f"# in the Airflow connection {conn_id}: host http://HOST:9093"
        findings.missing("Alertmanager", error, "an answer to the workers: maintenance silences alerts there", fix)
    else:
        findings.ok("Alertmanager", "ready")


def check_ledger(findings: Findings, environment: Environment, reading: LedgerReading) -> None:
    """The ledger holds the leases: without it only emergency procedures run."""
    if reading.error:
        fix = "# after correcting the Airflow connection ops_ledger:\npython -m sebenza_ops.ledger migrate"
        findings.missing("ledger", reading.error, "the ledger answers, with this version's tables", fix)
        return
    findings.ok("ledger", "answers")
    if reading.change:
        repeat = f"airflow dags trigger check_environment.{environment.name}"
        needed = "no change in progress: ports and processes may be in motion; repeat the check afterwards"
        findings.warning("change in progress", reading.change, needed, repeat)


def check_build(findings: Findings, build: Build, reading: HostReading, node_majors: set[int]) -> None:
    """The build host: repository, Node.js and npm; native modules must fit the application hosts' Node.js."""
    repository = build.host.path(build.repository_path)
    text = reading.part("check_build", "repository")
    words = text.split()
    if words[:1] == ["tags"]:
        tags = int(words[1]) if words[1:] and words[1].isdigit() else 0
        if tags:
            findings.ok("repository", f"{repository}, {tags} tags v*")
        else:
            push = f"git push {repository} --tags"
            findings.warning("repository", f"{repository} has no tag v*", "releases are tags, v1.2.3", push)
    else:
        mirror = f"git clone --bare URL {repository}"
        found = text.removeprefix("!error ") or "no answer"
        findings.missing(
            "repository", found, f"a bare git repository at {repository}", fixes.on_host(build.host, mirror)
        )
    node = reading.part("check_build", "node")
    found_major = re.match(r"v(\d+)\.", node)
    major = int(found_major[1]) if found_major else 0
    install = fixes.on_host(
        build.host, "sudo apt-get install -y nodejs npm", "# elsewhere? node_bin_dir of the build file"
    )
    needed = f"Node.js {MINIMUM_NODE_MAJOR} or newer in {build.node_bin_dir}"
    if major < MINIMUM_NODE_MAJOR:
        findings.missing("Node.js", node or "no answer", needed, install)
    elif node_majors and node_majors != {major}:
        hosts = ", ".join(f"v{each}" for each in sorted(node_majors))
        needed = "the same major version: native modules are built for it"
        findings.warning("Node.js", f"{node}, application hosts have {hosts}", needed, install)
    else:
        findings.ok("Node.js", node)
    npm = reading.part("check_build", "npm")
    if re.match(r"\d+\.", npm):
        findings.ok("npm", npm)
    else:
        findings.missing("npm", npm[:120] or "no answer", "npm beside node", install)
