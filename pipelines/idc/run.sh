#!/bin/sh
# Both directions, the same network with random weights beside it, and CMU-1-Small-Region with the first bundle.
# Needs PATHOPATCH_REAL_DATA, and pathopatch with its extra `pretrained` on the PATH.
set -eu
cd "$(dirname "$0")"
for study in study reversed; do
    work=../../work/$([ $study = study ] && echo idc || echo idc-reversed)
    pathopatch run $study.toml "$@"
    pathopatch train "$work" --config $study.toml --method erm-balanced --pretrained none --name random "$@"
    pathopatch evaluate "$work" "$@"
    pathopatch report "$work"
done
pathopatch predict ../../data_manifests/cmu.csv --model ../../work/idc/runs/erm-balanced-t0.25-s0/model -o ../../work/cmu "$@"
python separation.py ../../work/idc ../../work/idc-reversed
