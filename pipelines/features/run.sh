#!/bin/sh
# Encode two breast carcinoma slides and 2,458 lung patches, audit the features, and train heads by every method.
# Needs PATHOPATCH_REAL_DATA, and pathopatch with its extras `train`, `features` and `pretrained` on the PATH.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
work=$here/../../work
pathopatch tile "$here/../../data_manifests/idc.csv" -o "$work/features-idc" --patch-px 50 --mpp 4.0
for pooling in mean tissue-mean; do
    pathopatch encode "$work/features-idc" --encoder efficientnet-lite0 --pooling $pooling -o "$work/features-idc-$pooling"
    pathopatch audit --features "$work/features-idc-$pooling"/features/* --labels "$work/features-idc-$pooling/labels.csv" \
        --threshold 0.75 -o "$work/features-idc-$pooling/audit"
done
pathopatch tile --patches "$PATHOPATCH_REAL_DATA/lung/patches.csv" -o "$work/features-lung"
pathopatch encode "$work/features-lung" --encoder efficientnet-lite0
pathopatch audit --features "$work/features-lung"/features/* --labels "$work/features-lung/labels.csv" \
    --threshold 0.65 -o "$work/features-lung/audit"
python "$here/study.py" "$work" "$@"
