#!/bin/sh
# What of the benchmark is missing. Needs PATHOPATCH_REAL_DATA, and pathopatch installed for this python.
set -eu
exec "${PYTHON:-python}" "$(dirname "$0")/benchmark.py" --readme "$@"
