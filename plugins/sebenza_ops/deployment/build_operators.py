"""Building a release as an operator."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowFailException

from sebenza_ops.change_operators import RETRIES
from sebenza_ops.changes import ChangeRun, find_environment
from sebenza_ops.procedures import refuse_unknown_conf

if TYPE_CHECKING:
    from airflow.sdk import Context

    from sebenza_ops.deployment.release import Release


class _BuildOperator(BaseOperator):
    """Makes sure that a git ref's release exists: builds it once on the build host, or finds what was built before.

    Deferred while the build runs. The build goes on when this task is killed, and is found again.

    Args:
        version: A tag, branch or commit.
        environment: The environment whose run this belongs to; None for a build alone.
    """

    safe_to_retry = True
    template_fields = ("version",)
    ui_color = "#f3ead2"

    def __init__(self, *, version: str, environment: str | None = None, **kwargs: Any) -> None:
        kwargs.setdefault("retries", RETRIES)
        kwargs.setdefault("retry_delay", timedelta(seconds=2))
        super().__init__(**kwargs)
        self.version = version
        self.environment = environment

    def _ensure(self, context: Context, event: Mapping[str, Any] | None = None) -> Release:
        """The release, after the build's end when it was waited for.

        Fails without a retry for an unknown ref and for a build that failed.
        """
        if event is not None and event["missing"]:
            raise AirflowFailException(f"the build did not end in time: {'; '.join(event['missing'])}")
        from sebenza_ops.changes import holder_of
        from sebenza_ops.deployment.builds import BuildFailedError, BuildRunning, ReleaseBuilder
        from sebenza_ops.ledger import Ledger
        from sebenza_ops.systems.build_host import UnknownRefError

        if self.environment is None:
            refuse_unknown_conf(context)
        builder = ReleaseBuilder(Ledger.from_connection(), holder_of(context))
        try:
            release = builder.ensure(self.version)
        except (UnknownRefError, BuildFailedError, ValueError) as error:
            raise AirflowFailException(str(error)) from error
        except BuildRunning as running:
            self._wait(context, running)
            raise AssertionError("deferring does not return") from running
        return release

    def _wait(self, context: Context, running: Any) -> None:
        if self.environment is not None:
            run = ChangeRun(running.ledger, find_environment(self.environment), running.holder)
            run.begin_attempt("deployment", 120)
            run.extend_for_wait(running.timeout_seconds)
        self.defer(
            trigger=running.trigger(),
            method_name="execute_complete",
            timeout=timedelta(seconds=running.timeout_seconds + 60),
        )


class BuildReleaseOperator(_BuildOperator):
    """The build as a step of a deployment."""

    def execute(self, context: Context) -> dict[str, Any]:
        """Returns the release's manifest."""
        return self._ensure(context).model_dump(mode="json")

    def execute_complete(self, context: Context, event: dict[str, Any]) -> dict[str, Any]:
        """Go on after the build has ended."""
        return self._ensure(context, event).model_dump(mode="json")


class BuildAloneOperator(_BuildOperator):
    """The build as a procedure of its own."""

    def execute(self, context: Context) -> str:
        """Returns which release there is, in words."""
        return self._conclude(context, None)

    def execute_complete(self, context: Context, event: dict[str, Any]) -> str:
        """Go on after the build has ended."""
        return self._conclude(context, event)

    def _conclude(self, context: Context, event: dict[str, Any] | None) -> str:
        release = self._ensure(context, event)
        context["ti"].xcom_push(key="release", value=release.model_dump(mode="json"))
        return f"{release.release_id} is in release storage (commit {release.sha}, SHA-256 {release.sha256})"
