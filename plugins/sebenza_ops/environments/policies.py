"""Policies: what the procedures may do in an environment, how often, and by which numbers they judge.

Every default that is the operations manual's names its section. A default that is ours says so.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from sebenza_ops.environments.archive_policy import ApplicationBackupPolicy
from sebenza_ops.environments.backup_policy import BackupPolicy, Weekday
from sebenza_ops.environments.database_policies import DatabaseSwitchPolicy
from sebenza_ops.environments.disaster_policy import DisasterRecoveryPolicy
from sebenza_ops.environments.fields import AbsolutePath, ConnectionId, Days, Model, Name, Ratio, Seconds, UtcTime
from sebenza_ops.environments.refresh_policy import RefreshPolicy


class Objectives(Model):
    """What the environment promises, always compared with what was measured."""

    rto_seconds: Annotated[
        Seconds, Field(description="Recovery time objective. Manual, Disaster Recovery: 4 hours.")
    ] = 4 * 3600
    rpo_seconds: Annotated[
        Seconds, Field(description="Recovery point objective. Manual, Disaster Recovery: 1 hour.")
    ] = 3600
    mttr_seconds: Annotated[
        Seconds, Field(description="Mean time to recovery. Manual, Disaster Recovery: 2 hours.")
    ] = 2 * 3600
    availability_ratio: Annotated[
        Ratio, Field(description="Share of good time. Manual, Operational Objectives: 99.9 %.")
    ] = 0.999
    p95_seconds: Annotated[
        float, Field(gt=0, description="95th percentile of response time. Manual, Key Metrics: below 2 s.")
    ] = 2.0
    error_ratio: Annotated[
        Ratio, Field(description="Failed requests to all requests. Manual, Key Metrics: below 0.1 %.")
    ] = 0.001
    concurrent_users: Annotated[
        int, Field(gt=0, description="Users to support at once. Manual, Operational Objectives: 10,000.")
    ] = 10_000


class Thresholds(Model):
    """Above these, monitoring warns."""

    cpu_ratio: Annotated[Ratio, Field(description="CPU utilization. Manual, Key Metrics: 80 %.")] = 0.80
    memory_ratio: Annotated[Ratio, Field(description="Memory usage. Manual, Key Metrics: 85 %.")] = 0.85
    disk_ratio: Annotated[Ratio, Field(description="Disk usage. Manual, Key Metrics: 90 %.")] = 0.90
    disk_warning_ratio: Annotated[
        Ratio, Field(description="Disk usage reported by daily maintenance. Manual, Daily Tasks: 80 %.")
    ] = 0.80
    database_connections: Annotated[
        int, Field(gt=0, description="Active database connections. Manual, DatabaseConnectionsHigh: 80.")
    ] = 80
    log_file_bytes: Annotated[
        int, Field(gt=0, description="Size of one log file, in bytes. Manual, Daily Tasks: 100 MB.")
    ] = 100 * 1024 * 1024


class CertificatePolicy(Model):
    """The certificate of the load balancers."""

    kind: Annotated[
        Literal["production", "staging", "self_signed"],
        Field(description="Manual, Environment Overview, SSL: production, staging or self-signed certificates."),
    ]
    minimum_tls: Annotated[
        Literal["1.2", "1.3"], Field(description="Oldest TLS version. Manual, Load Balancer: TLS 1.2/1.3.")
    ] = "1.2"


class MaintenanceWindow(Model):
    """A regular maintenance window, in UTC."""

    name: Annotated[Name, Field(description="Name of the window.")]
    recurrence: Annotated[
        Literal["weekly", "first_of_month"],
        Field(description="weekly: every such weekday; first_of_month: the month's first such weekday."),
    ]
    weekday: Annotated[Weekday, Field(description="Day of the week, in UTC.")]
    start: Annotated[UtcTime, Field(description='Start of the window, UTC, for example "02:00".')]
    end: Annotated[UtcTime, Field(description='End of the window on the same day, UTC, for example "04:00".')]


class MaintenanceWindows(Model):
    """When maintenance is allowed, and who hears of it how early."""

    scheduled: Annotated[tuple[MaintenanceWindow, ...], Field(description="The regular windows.")] = ()
    emergency_notice_seconds: Annotated[
        Seconds, Field(description="Notice before emergency maintenance. Manual, Scheduled Maintenance: 2 hours.")
    ] = 2 * 3600
    notify_before_seconds: Annotated[
        tuple[Seconds, ...],
        Field(description="Notices before a window. Manual, scheduleNotifications: 7 days, 1 day, 2 hours."),
    ] = (7 * 86400, 86400, 2 * 3600)


class ApprovalPolicy(Model):
    """Which human decision a change needs. An environment without this policy needs none."""

    approvers: Annotated[
        tuple[str, ...],
        Field(min_length=1, description="Airflow roles whose members may approve. Ours."),
    ] = ("Approver", "Admin")
    exclude_requester: Annotated[
        bool, Field(description="The person who asked for the change may not approve it. Ours.")
    ] = True
    exclude_author: Annotated[bool, Field(description="The author of the release may not approve it. Ours.")] = True
    timeout_seconds: Annotated[
        Seconds, Field(description="Without an answer for so long, the change is refused. Ours: 4 hours.")
    ] = 4 * 3600


GateName = Literal[
    "review_approved",
    "tests_passed",
    "security_scan",
    "performance_benchmark",
    "migrations_tested",
    "configuration_verified",
    "rollback_plan",
    "stakeholders_notified",
]


class SmokeTest(Model):
    """One step of a user's journey, tried after a deployment: a request, and what its answer must be."""

    name: Annotated[str, Field(min_length=1, max_length=100, description="What a user does here, in words.")]
    method: Annotated[Literal["GET", "POST"], Field(description="HTTP method.")] = "GET"
    path: Annotated[str, Field(pattern=r"^/[^\s]*$", description="Path and query, on the environment's URL.")]
    body: Annotated[
        dict[str, str | int | float | bool] | None, Field(description="JSON object to send, with POST.")
    ] = None
    status: Annotated[int, Field(ge=100, le=599, description="The status that must come back.")] = 200
    contains: Annotated[
        tuple[str, ...], Field(description="Texts that the answer must contain, for example the name of a field.")
    ] = ()
    maximum_seconds: Annotated[
        float, Field(gt=0, le=60, description="The answer must come within this time. Manual, Key Metrics: 2 s.")
    ] = 2.0


class DeploymentPolicy(Model):
    """What must be true before a release may change the environment, whatever the strategy.

    An environment without this policy is changed at once: no gate, no other environment first.
    """

    gates: Annotated[
        tuple[GateName, ...],
        Field(description="Checks that must pass. Manual, Pre-deployment Checklist: all eight in production."),
    ] = ()
    first_in: Annotated[
        Name | None, Field(description="The environment that gets the release first, with smoke tests there.")
    ] = None
    backup: Annotated[bool, Field(description="A verified backup of the database comes before the change.")] = False
    smoke_tests: Annotated[
        tuple[SmokeTest, ...], Field(description="Tried after a deployment here, in this order.")
    ] = ()
    smoke_conn_id: Annotated[
        ConnectionId | None,
        Field(description="Airflow connection whose password is the bearer token of the smoke tests' user."),
    ] = None
    attestation_conn_id: Annotated[
        ConnectionId, Field(description="Airflow connection whose password signs what CI attests.")
    ] = "sebenza_attestation"
    audit_level: Annotated[
        Literal["low", "moderate", "high", "critical"],
        Field(description="The security scan fails from this severity on. Ours: high."),
    ] = "high"
    notice_timeout_seconds: Annotated[
        Seconds, Field(description="The notice to stakeholders must be delivered within this time. Ours: 1 minute.")
    ] = 60


class SlackChannel(Model):
    """A Slack channel."""

    type: Literal["slack"]
    target: Annotated[str, Field(pattern=r"^#[a-z0-9_-]{1,80}$", description="Channel, with its #.")]
    conn_id: Annotated[ConnectionId, Field(description="Airflow connection of the Slack webhook.")] = "sebenza_slack"
    template: Annotated[str | None, Field(description="Name of a template; none: the default.")] = None


class PagerDutyChannel(Model):
    """A PagerDuty service."""

    type: Literal["pagerduty"]
    target: Annotated[str, Field(min_length=1, description="Service that is paged, for example incidents.")]
    conn_id: Annotated[ConnectionId, Field(description="Airflow connection with the routing key.")] = (
        "sebenza_pagerduty"
    )
    template: Annotated[str | None, Field(description="Name of a template; none: the default.")] = None


class EmailChannel(Model):
    """An email address."""

    type: Literal["email"]
    target: Annotated[str, Field(pattern=r"^[^@\s]+@[^@\s]+$", description="Address.")]
    conn_id: Annotated[ConnectionId, Field(description="Airflow connection of the mail server.")] = "sebenza_smtp"
    template: Annotated[str | None, Field(description="Name of a template; none: the default.")] = None


class WebhookChannel(Model):
    """A URL that gets a JSON document. Its address may be secret, so it lives in the connection."""

    type: Literal["webhook"]
    target: Annotated[str, Field(min_length=1, description="What the receiver is called, for people.")]
    conn_id: Annotated[ConnectionId, Field(description="Airflow connection with the URL.")]
    template: Annotated[str | None, Field(description="Name of a template; none: the default.")] = None


Channel = Annotated[
    SlackChannel | PagerDutyChannel | EmailChannel | WebhookChannel,
    Field(discriminator="type"),
]


class Channels(Model):
    """Who is told, by severity. Manual, Alert Routing."""

    critical: Annotated[tuple[Channel, ...], Field(description="Wakes somebody up.")] = ()
    warning: Annotated[tuple[Channel, ...], Field(description="Needs somebody during the day.")] = ()
    info: Annotated[tuple[Channel, ...], Field(description="Good to know.")] = ()


class Retention(Model):
    """How long things are kept."""

    backups_days: Annotated[
        Days, Field(description="Backups in object storage. Manual, Database Cluster: 30 days.")
    ] = 30
    local_backups_days: Annotated[Days, Field(description="Backups on the host. Manual, Database Backups: 7 days.")] = 7
    logs_days: Annotated[Days, Field(description="Rotated logs. Manual, Log Management: rotate 30, daily.")] = 30
    releases: Annotated[
        int,
        Field(ge=2, description="Installed releases on each application host. Ours: 5, as Kamal and Capistrano."),
    ] = 5
    tmp_days: Annotated[Days, Field(description="Files in /tmp. Manual, Daily Tasks: 3 days.")] = 3
    var_tmp_days: Annotated[Days, Field(description="Files in /var/tmp. Manual, Daily Tasks: 7 days.")] = 7


class ScalingPolicy(Model):
    """Automatic scaling of application hosts between the live ones and the spares."""

    minimum_hosts: Annotated[int, Field(ge=1, description="Manual, Application Servers: 2 (minimum).")] = 2
    maximum_hosts: Annotated[int, Field(ge=1, description="Manual, Application Servers: auto-scaling to 6.")] = 6
    cpu_up_ratio: Annotated[Ratio, Field(description="Add a host above. Manual, Scaling Strategies: 70 %.")] = 0.70
    cpu_down_ratio: Annotated[Ratio, Field(description="Remove a host below. Manual, Scaling Strategies: 30 %.")] = 0.30
    memory_up_ratio: Annotated[Ratio, Field(description="Add a host above. Manual, Scaling Strategies: 80 %.")] = 0.80
    up_cooldown_seconds: Annotated[
        Seconds, Field(description="Pause after adding. Manual, Scaling Strategies: 5 minutes.")
    ] = 300
    down_cooldown_seconds: Annotated[
        Seconds, Field(description="Pause after removing. Manual, Scaling Strategies: 10 minutes.")
    ] = 600


class BlueGreenPolicy(Model):
    """How a blue-green deployment moves traffic, and by which numbers it is undone."""

    bake_seconds: Annotated[Seconds, Field(description="Watch the new color for so long. Ours: 5 minutes.")] = 300
    judge_interval_seconds: Annotated[
        float, Field(gt=0, le=10, description="Time between two judgements during the bake. Ours: 1 s.")
    ] = 1.0
    error_ratio_threshold: Annotated[
        Ratio, Field(description="Undo above. Manual, Automatic Rollback Triggers: 5 %.")
    ] = 0.05
    response_time_threshold_seconds: Annotated[
        float, Field(gt=0, description="Undo above (p95). Manual, Automatic Rollback Triggers: 5 s.")
    ] = 5.0
    minimum_requests: Annotated[
        int,
        Field(
            gt=0,
            description="With fewer requests in a time, only errors that can't be chance count. Ours: 50, as Kayenta.",
        ),
    ] = 50
    traffic: Annotated[
        Literal["required", "synthetic"],
        Field(
            description="required: without real traffic the bake holds; "
            "synthetic: the procedure sends its own requests. Ours."
        ),
    ] = "required"
    hold_timeout_seconds: Annotated[
        Seconds, Field(description="Without data for so long, switch back and fail. Ours: 5 minutes.")
    ] = 300
    notify_hold_after_seconds: Annotated[
        int, Field(gt=0, le=60, description="Tell people that there is no data after so long. Ours; 60 s at most.")
    ] = 30
    proof_requests: Annotated[
        int,
        Field(
            gt=0,
            description="Requests per load balancer, fresh and again keep-alive, that must all meet "
            "the new color. Ours: 20.",
        ),
    ] = 20
    warm_up_requests: Annotated[
        int, Field(ge=0, description="Requests per host to the idle color before the switch. Ours: 20.")
    ] = 20
    health_timeout_seconds: Annotated[
        Seconds, Field(description="The idle color must be healthy within this time. Ours: 60 s.")
    ] = 60
    drain_timeout_seconds: Annotated[
        Seconds, Field(description="Wait for the old color's last sessions. Ours: 30 s, as Kamal.")
    ] = 30
    keep_warm_seconds: Annotated[
        int,
        Field(ge=0, description="The old color runs on without traffic for so long, for rollback. Ours: 30 minutes."),
    ] = 1800
    lease_ttl_seconds: Annotated[
        Seconds, Field(description="A lease that is not renewed for so long expires. Ours: 2 minutes.")
    ] = 120


class RollingPolicy(Model):
    """How a standard deployment replaces the live color's release host by host.

    Watched and judged by the numbers of the blue-green policy, which it needs.
    """

    batch_size: Annotated[
        int, Field(ge=1, description="So many hosts are changed at once. Ours: 1, one host at a time.")
    ] = 1
    minimum_in_rotation: Annotated[
        int,
        Field(
            ge=1,
            description="So many hosts stay in rotation on every load balancer, whatever happens. Ours: 1. "
            "With more hosts, all but one or two.",
        ),
    ] = 1
    watch_seconds: Annotated[
        Seconds, Field(description="Watch each batch for so long before the next one is changed. Ours: 30 s.")
    ] = 30


class MigrationPolicy(Model):
    """How long a migration may wait and work, and how it is tested before."""

    lock_timeout_milliseconds: Annotated[
        int,
        Field(
            ge=100,
            le=60_000,
            description="A migration waits for a lock no longer. All who come after it wait too. Ours: 5 s.",
        ),
    ] = 5000
    statement_timeout_seconds: Annotated[
        int, Field(gt=0, le=86_400, description="One statement of a migration is ended after so long. Ours: 60 s.")
    ] = 60
    lock_attempts: Annotated[
        int, Field(ge=1, le=20, description="A migration that gets no lock is tried so often. Ours: 3.")
    ] = 3
    attempt_pause_seconds: Annotated[
        float, Field(ge=0, le=300, description="Pause between these attempts. Ours: 5 s.")
    ] = 5.0
    timeout_seconds: Annotated[
        Seconds, Field(description="All migrations of one attempt are ended after so long. Ours: 5 minutes.")
    ] = 300
    test_timeout_seconds: Annotated[
        Seconds, Field(description="Each part of a test (clone, migrations) is ended after so long. Ours: 15 minutes.")
    ] = 900
    maximum_blocking_seconds: Annotated[
        float,
        Field(
            gt=0,
            description="A tested expand migration that keeps users from reading or writing for longer fails. Ours: "
            "5 s, the response time above which a release is taken back.",
        ),
    ] = 5.0


class BackupBeforeChangePolicy(Model):
    """The backup that is made before a change that can't be undone otherwise."""

    method: Annotated[
        Literal["auto", "dump"],
        Field(
            description="auto: an incremental set of pgBackRest where policies.backup has it, else a dump; dump: "
            "always a dump, from which a database rollback takes less time. Ours: auto."
        ),
    ] = "auto"
    keep: Annotated[int, Field(ge=1, description="So many of these backups are kept, the newest. Ours: 10.")] = 10
    work_dir: Annotated[
        AbsolutePath, Field(description="Where a database host makes it, below the host's root_dir.")
    ] = "/var/lib/sebenza/dumps"
    timeout_seconds: Annotated[Seconds, Field(description="It is given up after so long. Ours: 1 hour.")] = 3600


class Policies(Model):
    """Everything that differs between environments by decision, not by machine.

    A policy that is absent means that its procedures don't exist for the environment.
    """

    objectives: Annotated[Objectives, Field(description="What is promised.")] = Objectives()
    thresholds: Annotated[Thresholds, Field(description="What is too much.")] = Thresholds()
    backup: Annotated[BackupPolicy | None, Field(description="Automated backups.")] = None
    application_backup: Annotated[
        ApplicationBackupPolicy | None, Field(description="Archives of the application and the hosts' configuration.")
    ] = None
    certificates: Annotated[CertificatePolicy, Field(description="TLS.")]
    maintenance_windows: Annotated[MaintenanceWindows | None, Field(description="Maintenance windows.")] = None
    approvals: Annotated[ApprovalPolicy | None, Field(description="Human decisions.")] = None
    channels: Annotated[Channels, Field(description="Who is told.")] = Channels()
    retention: Annotated[Retention, Field(description="How long things are kept.")] = Retention()
    scaling: Annotated[ScalingPolicy | None, Field(description="Automatic scaling.")] = None
    deployment: Annotated[
        DeploymentPolicy | None, Field(description="What comes before a deployment, whatever its strategy.")
    ] = None
    blue_green: Annotated[BlueGreenPolicy | None, Field(description="Blue-green deployments.")] = None
    rolling: Annotated[
        RollingPolicy | None, Field(description="Standard deployments: rolling, inside the live color.")
    ] = None
    migrations: Annotated[MigrationPolicy, Field(description="Changes of the database's schema.")] = MigrationPolicy()
    backup_before_change: Annotated[BackupBeforeChangePolicy, Field(description="The backup before a change.")] = (
        BackupBeforeChangePolicy()
    )
    refresh: Annotated[
        RefreshPolicy | None, Field(description="The database is made anew from another environment's, anonymized.")
    ] = None
    database_switch: Annotated[
        DatabaseSwitchPolicy | None, Field(description="Switching the database's primary to a replica.")
    ] = None
    disaster_recovery: Annotated[
        DisasterRecoveryPolicy | None, Field(description="Recovering the environment at its secondary site.")
    ] = None
