"""
# Build a release

Turns a tag, branch or commit of the application into an immutable artifact in object storage, with its manifest:
version, commit, SHA-256, Node.js version, schema revision, and whether its migrations only expand the schema.

## When to run

Before a deployment, to have the artifact ready: from CI after the tests, or by hand. A deployment builds what is
missing by itself. Building the same commit again gives the same artifact and builds nothing.

## What it changes

The build host's work directory and object storage. No environment is touched.

## How it undoes itself

The manifest is written last: a build that stops half way leaves no release. Run it again; a build that still runs on
the build host is found and waited for.

## What can't run beside it

Nothing: builds of different commits run side by side, and two of the same commit are one.
"""

from airflow.sdk import dag

from sebenza_ops.deployment.build_operators import BuildAloneOperator
from sebenza_ops.deployment.params import version_param
from sebenza_ops.procedures import procedure_defaults


@dag(
    dag_id="build_release",
    dag_display_name="Build a release",
    doc_md=__doc__,
    **procedure_defaults(None, "deployment", params={"version": version_param()}),
)
def build_release() -> None:
    BuildAloneOperator(task_id="build_release", version="{{ params.version }}")


build_release()
