#!/usr/bin/env bash
# Runs tests in three goes: those that need no lab, in SEBENZA_TEST_PROCESSES processes (two, unless it says otherwise; 0:
# in this one), each file in one of them; then those that share the lab, Airflow and the browser, one after the other; then
# those with Celery's workers, for which two cores are not enough beside the lab's own Airflow. The long ones only with
# SEBENZA_TEST_ALL=yes. Arguments are pytest's.
set -uo pipefail
cd "$(dirname "$0")/.."
NOTHING_COLLECTED=5
SHARED="lab or airflow or browser"
LEFT_OUT="celery or long"
[ "${SEBENZA_TEST_ALL:-}" != yes ] || LEFT_OUT=celery
status=0 collected=no

# go ARGUMENT...: a go without a test is no failure as long as another one has some.
go() {
  .venv/bin/python -m pytest "$@"
  local ended=$?
  [ "$ended" -ne "$NOTHING_COLLECTED" ] || return 0
  collected=yes
  [ "$status" -ne 0 ] || status=$ended
}

go --numprocesses "${SEBENZA_TEST_PROCESSES:-2}" --dist loadfile -m "not ($SHARED) and not ($LEFT_OUT)" "$@"
go -m "($SHARED) and not ($LEFT_OUT)" "$@"
# Of all tests only their own directory is collected, which is much sooner done.
[ "$*" != tests ] || set -- tests/installation
go -m celery "$@"
[ "$collected" = yes ] || exit "$NOTHING_COLLECTED"
exit "$status"
