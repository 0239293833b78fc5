#!/usr/bin/env bash
# Draw what is taken for tissue on every real slide: one contact sheet a cohort, OUT/COHORT/tissue/index.html.
# Usage: PATHOPATCH_REAL_DATA=FOLDER run.sh OUT
set -euo pipefail
manifests=$(cd "$(dirname "$0")/../../data_manifests" && pwd)
settings=$(mktemp --suffix .toml)
trap 'rm -f "$settings"' EXIT
printf '[tile]\nstore = "none"\n' > "$settings"
for cohort in cmu idc ndpi-pair multimodal-fields pyfibre-stack camelyon-fields ocdc-fields; do
    pathopatch tile "$manifests/$cohort.csv" -o "$1/$cohort" --config "$settings" --quiet
    pathopatch tissue "$1/$cohort"
done
