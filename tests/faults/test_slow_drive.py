"""A drive across a network, on which each read takes 5 ms whatever its length: predict waits for few of them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import made_slides as made
import numpy as np
import pandas as pd
import pytest
import tifffile
from made_model import made_spec

from pathopatch.models.bundle import save_bundle
from pathopatch.models.networks import build_network

_SLEEPER = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static void sleep_if_slow(int descriptor) {
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    ssize_t length = readlink(link, path, sizeof path - 1);
    const char *slide = getenv("SLOW_SLIDE"), *log = getenv("READS_LOG");
    if (length < 0 || !slide || !log) return;
    path[length] = 0;
    if (strcmp(path, slide)) return;
    FILE *reads = fopen(log, "a");
    if (reads) { fputc('\n', reads); fclose(reads); }
    struct timespec wait = {0, 5000000};
    nanosleep(&wait, NULL);
}

#define SLOW(result, name, arguments, passed) \
    result name arguments { \
        static result (*real) arguments; \
        if (!real) real = (result (*) arguments) dlsym(RTLD_NEXT, #name); \
        sleep_if_slow(descriptor); \
        return real passed; \
    }
SLOW(ssize_t, read, (int descriptor, void *to, size_t count), (descriptor, to, count))
SLOW(ssize_t, pread, (int descriptor, void *to, size_t count, off_t at), (descriptor, to, count, at))
SLOW(ssize_t, pread64, (int descriptor, void *to, size_t count, off64_t at), (descriptor, to, count, at))
"""
_SIDE, _PATCHES = 4096, 1024
_LAYOUTS = {  # side of tiles and of patches, px, and um/px of the slide; the model takes 0.5 um/px
    "a tile a patch": (128, 128, 0.5),
    "several tiles a patch": (112, 64, 0.25),
    "one uncompressed strip": (None, 128, 0.5),
}


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux" or shutil.which("gcc") is None, reason="no gcc, or not Linux")
@pytest.mark.fault("slow-drive")
@pytest.mark.parametrize("layout", _LAYOUTS)
def test_predict_waits_at_most_a_third_of_its_time(layout: str, tmp_path: Path) -> None:
    tile_px, patch_px, mpp = _LAYOUTS[layout]
    image = made.noise(3, _SIDE, _SIDE, np.uint8) // 20 + 120
    image[:, :256] = 245
    slide, reads, model = tmp_path / "slide.tif", tmp_path / "reads", tmp_path / "model"
    if tile_px is None:
        pixels = np.ascontiguousarray(image.transpose(1, 2, 0))
        tifffile.imwrite(slide, pixels, photometric="rgb", rowsperstrip=_SIDE, metadata=None)
    else:
        made.write_rgb_pyramid(slide, image, mpp=mpp, tile_px=tile_px, compression="jpeg")
    save_bundle(model, build_network("small-groupnorm", 3), made_spec(patch_px, background="bright"))
    (tmp_path / "sleeper.c").write_text(_SLEEPER)
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", "sleeper.so", "sleeper.c", "-ldl"], cwd=tmp_path, check=True)

    command = [sys.executable, "-m", "pathopatch", "predict", slide, "--model", model, "--slide-mpp", mpp, "-o", "out"]
    sleeper = {"LD_PRELOAD": str(tmp_path / "sleeper.so"), "SLOW_SLIDE": str(slide), "READS_LOG": str(reads)}
    start = time.monotonic()
    subprocess.run(list(map(str, command)), cwd=tmp_path, env=os.environ | sleeper, check=True)
    taken_s = time.monotonic() - start

    assert len(pd.read_parquet(tmp_path / "out" / "predictions" / "slide.parquet")) > 0.8 * _PATCHES
    count = reads.stat().st_size
    assert 0 < count < 0.3 * _PATCHES
    assert 0.005 * count <= taken_s / 3  # so a local drive saves a third: 1.5 times at most
