#!/usr/bin/env bash
# The base image, from a registry or made here, then the test itself. Runs below scripts/engine.sh.
set -euo pipefail
cd "$(dirname "$0")/.."

export PYTHONPATH=$PWD/plugins:$PWD
if [ -z "${DEBIAN_IMAGE:-}" ] && ! timeout 120 docker pull --quiet debian:bookworm-slim >/dev/null 2>&1; then
  export DEBIAN_IMAGE=sebenza-base/debian:bookworm
  scripts/base-images.sh
fi
exec .venv/bin/python -m lab.compose "$@"
