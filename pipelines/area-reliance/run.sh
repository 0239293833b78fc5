#!/bin/sh
# Cohorts that have no rows yet. Needs PATHOPATCH_REAL_DATA, and pathopatch installed for this python.
set -eu
exec "${PYTHON:-python}" "$(dirname "$0")/reliance.py" --readme "$@"
