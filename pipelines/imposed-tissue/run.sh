#!/bin/sh
# The whole study, or what of it is missing. Needs PATHOPATCH_REAL_DATA, and pathopatch installed for this python.
set -eu
exec "${PYTHON:-python}" "$(dirname "$0")/study.py" --readme "$@"
