#!/usr/bin/env bash
# Runs tests in two goes: those that need no lab, in SEBENZA_TEST_PROCESSES processes (0: in this one, as some measure
# time and two cores are few), each file in one of them; then those that share the lab, Airflow and the browser, one after
# the other, with SEBENZA_TEST_ALL=yes the long ones too. Arguments are pytest's. Celery's workers are for `make
# workers-test`: two cores are not enough for them beside the lab's own Airflow.
set -uo pipefail
cd "$(dirname "$0")/.."
NOTHING_COLLECTED=5
SHARED="lab or airflow or browser"
LEFT_OUT="celery or long"
[ "${SEBENZA_TEST_ALL:-}" != yes ] || LEFT_OUT=celery

.venv/bin/python -m pytest --numprocesses "${SEBENZA_TEST_PROCESSES:-0}" --dist loadfile -m "not ($SHARED)" "$@"
alone=$?
.venv/bin/python -m pytest -m "($SHARED) and not ($LEFT_OUT)" "$@"
shared=$?
[ "$alone" -eq "$NOTHING_COLLECTED" ] && [ "$shared" -eq "$NOTHING_COLLECTED" ] && exit "$NOTHING_COLLECTED"
[ "$alone" -eq "$NOTHING_COLLECTED" ] && alone=0
[ "$shared" -eq "$NOTHING_COLLECTED" ] && shared=0
exit $((alone != 0 ? alone : shared))
