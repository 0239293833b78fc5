"""Thousands of small slides, some of them bad, through a run that is killed again and again: what is left in the end?

``python pipelines/soak/soak.py --slides 2000 --kills 10`` prints what it found, and ends with 1 if anything is wrong. A
shorter one is a test. Nothing in it waits for a certain moment: the kills come at random, seeded, times.
"""

from __future__ import annotations

import argparse
import csv
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[2] / "tests" / "helpers"))  # for `import made_slides`

import made_slides as made
import numpy as np
import pandas as pd
from made_model import write_model
from made_omezarr import write_omezarr
from spoilt_status import CONTENTS

from pathopatch.core.artefacts import read_table
from pathopatch.core.config import PredictConfig
from pathopatch.core.status import status_table
from pathopatch.heatmaps.pyramids import read_ome_tiff
from pathopatch.heatmaps.slide_prediction import predict_slide
from pathopatch.models.loading import load_model
from pathopatch.slides import open_slide

_ENV = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
_START_S = 4.0  # what a run takes before its first slide; the kills come later


def _image(number: int) -> np.ndarray:
    """A disc of tissue at a place of its own, and noise of its own: no two slides are alike."""
    generator = np.random.default_rng(number)
    middle = (int(generator.integers(30, 66)), int(generator.integers(30, 50)))
    image = made.disc_image(96, 80, middle, 24, tissue=(180, 90, 150), glass=(245, 245, 245))
    return image - generator.integers(0, 30, image.shape).astype(np.uint8)


def _good(path: Path, number: int) -> None:
    made.write_aperio(path, _image(number), levels=1)


def _blank(path: Path, number: int) -> None:
    made.write_aperio(path, np.full((3, 80 + number % 50, 96 + number // 50), 245, np.uint8), levels=1)


def _cut(path: Path, number: int) -> None:
    _good(path, number)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])


def _spoilt(path: Path, number: int) -> None:
    _good(path, number)
    made.spoil_tile(path, number % 4)


def _without_mpp(path: Path, number: int) -> None:
    made.write_rgb_pyramid(path, _image(number), levels=1, mpp=None)


def _one_channel(path: Path, number: int) -> None:
    made.write_channel(path, _image(number)[0])


def _absent(path: Path, number: int) -> None:
    """An OME-Zarr slide of which one chunk has no file in any channel: that place was not scanned."""
    write_omezarr(path, [_image(number)], labels=("R", "G", "B"), chunk_px=32)
    for channel in "012":
        (path / "0" / "c" / channel / "2" / "2").unlink()


def _changing(path: Path, number: int) -> None:
    """A slide that takes long enough to be changed while it is read, see `being_changed`."""
    image = np.tile(_image(number), (1, 8, 8))
    made.write_rgb_pyramid(path, image, levels=1, tile_px=64, compression=None)


FAULTS: dict[str, tuple[Callable[[Path, int], None], str, str]] = {
    "blank": (_blank, ".svs", "done_empty"),
    "cut": (_cut, ".svs", "INPUT_CORRUPT"),
    "spoilt": (_spoilt, ".svs", "INPUT_CORRUPT"),
    "without mpp": (_without_mpp, ".tif", "MPP_MISSING"),
    "one channel": (_one_channel, ".tif", "CHANNEL_MISMATCH"),
    "absent": (_absent, ".zarr", "done"),
    "changing": (_changing, ".tif", "INPUT_CHANGED"),
}
"""Per fault: the writer of the bad slide, the ending of its file, and the state or code that is due."""


@dataclass
class Soak:
    """Slides to predict, and by slide id the state or error code that is due."""

    folder: Path
    due: dict[str, str] = field(default_factory=dict)
    paths: dict[str, Path] = field(default_factory=dict)

    @property
    def out(self) -> Path:
        return self.folder / "out"

    def command(self, workers: int) -> list[str]:
        return [
            sys.executable, "-m", "pathopatch", "predict", str(self.folder / "cohort.csv"), "--model",
            str(self.folder / "model"), "-o", str(self.out), "--workers", str(workers), "--device", "cpu", "--quiet",
        ]  # fmt: skip


def make(folder: Path, slides: int, *, share: float, seed: int) -> Soak:
    """Write the slides, `share` of them with each fault, their order drawn, and the model."""
    soak = Soak(folder)
    (folder / "slides").mkdir(parents=True)
    write_model(folder / "model")
    slides_per_fault = max(1, round(share * slides))
    kinds = [name for name in FAULTS for _ in range(slides_per_fault)]
    kinds += ["good"] * (slides - len(kinds))
    random.Random(seed).shuffle(kinds)
    for number, kind in enumerate(kinds):
        slide_id = f"s{number:05d}"
        write, ending, due = FAULTS.get(kind, (_good, ".svs", "done"))
        path = folder / "slides" / f"{slide_id}{ending}"
        write(path, number)
        soak.due[slide_id], soak.paths[slide_id] = due, path
    with (folder / "cohort.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(("slide_id", "patient_id", "path"))
        writer.writerows((slide_id, f"p{int(slide_id[1:]) // 3}", path) for slide_id, path in soak.paths.items())
    return soak


@contextmanager
def being_changed(soak: Soak) -> Iterator[None]:
    """Append to each slide that is due to have changed, a hundred times a second as long as this lasts."""
    paths = [soak.paths[slide_id] for slide_id, due in soak.due.items() if due == "INPUT_CHANGED"]
    ended = threading.Event()

    def append() -> None:
        while not ended.wait(0.01):
            for path in paths:
                with path.open("ab") as stream:
                    stream.write(b".")

    thread = threading.Thread(target=append)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def interrupted(soak: Soak, *, kills: int, workers: int, every_s: float, seed: int) -> None:
    """Begin the run and kill it, as often as asked for: in turn the command alone, and all its processes.

    After each kill some of what stands is damaged: an export is emptied, a status spoilt, a slide exchanged.
    """
    generator = random.Random(seed)
    for number in range(kills):
        with _begun(soak, workers) as run:
            time.sleep(_START_S + generator.uniform(0, every_s))
            if number % 2:
                os.killpg(run.pid, signal.SIGKILL)
            else:
                run.kill()
            run.wait()
        damaged(soak, generator)


def damaged(soak: Soak, generator: random.Random) -> None:
    """Empty an output of a finished slide, spoil the status of another, and write other pixels into a third."""
    good = [slide_id for slide_id, due in soak.due.items() if due == "done" and soak.paths[slide_id].suffix == ".svs"]
    if files := sorted(path for path in (soak.out / "heatmaps").glob("*/*") if path.is_file()):
        generator.choice(files).write_bytes(b"")
    if statuses := sorted((soak.out / "status").glob("*.json")):
        generator.choice(CONTENTS)(generator.choice(statuses))
    slide_id = generator.choice(good)
    _good(soak.paths[slide_id], 10**6 + generator.randrange(10**6))


def finished(soak: Soak, *, workers: int) -> int:
    """Run to the end, exchanged slides anew; return the exit code."""
    with _begun(soak, workers, "--force") as run:
        return run.wait()


def _begun(soak: Soak, workers: int, *options: str) -> subprocess.Popen[bytes]:
    with (soak.folder / "output.txt").open("ab") as log:
        return subprocess.Popen(
            [*soak.command(workers), *options], stdout=log, stderr=log, start_new_session=True, env=os.environ | _ENV
        )


def faults_found(soak: Soak) -> list[str]:
    """Return everything that is not as it must be."""
    table = status_table(soak.out, ("state", "code"))
    table = table[table["stage"] == "predict"].set_index("slide_id")
    wrong = [f"{slide_id} has no status" for slide_id in soak.due if slide_id not in table.index]
    for slide_id, row in table.iterrows():
        became = row["code"] if row["state"] == "failed" else row["state"]
        if became != soak.due[str(slide_id)]:
            wrong.append(f"{slide_id} became {became}, not {soak.due[str(slide_id)]}")
    if not (soak.out / "cohort.csv").is_file():
        return [*wrong, "no cohort.csv"]
    cohort = pd.read_csv(soak.out / "cohort.csv").set_index("slide_id")
    if cohort.index.tolist() != sorted(soak.due):
        wrong.append(f"cohort.csv has {len(cohort)} slides, not {len(soak.due)}")
    return wrong + _wrong_values(soak) + _left_over(soak)


def _wrong_values(soak: Soak) -> list[str]:
    """Predict every good slide anew, in this process, and compare table and map; no bad one may have any."""
    model, wrong = load_model(soak.folder / "model", device="cpu"), []
    for slide_id, due in soak.due.items():
        table, map_ = (soak.out / "predictions" / f"{slide_id}.parquet", soak.out / "heatmaps" / slide_id)
        if due not in ("done", "done_empty"):
            wrong += [f"{slide_id} failed and has {path}" for path in (table, map_) if path.exists()]
            continue
        with open_slide(soak.paths[slide_id]) as slide:
            expected = predict_slide(slide, model, config=PredictConfig(device="cpu", threads=1)).table
        predictions = read_table(table)
        if predictions["probability"].to_list() != expected["probability"].to_list():
            wrong.append(f"{slide_id}: other probabilities")
        cells = read_ome_tiff(map_ / "heatmap.ome.tif").levels[0][0]
        map_values = np.sort(cells[np.isfinite(cells)])
        if not np.array_equal(map_values, np.sort(expected["probability"].to_numpy(np.float32))):
            wrong.append(f"{slide_id}: another map")
    return wrong


def _left_over(soak: Soak) -> list[str]:
    """Return temporary files and processes that are left over."""
    # Locks are permanent files: what is left of one by a killed process is nobody's.
    wrong = [f"left over: {path}" for path in soak.out.rglob("*") if ".tmp-" in path.name]
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes().decode(errors="replace")
            files = [str(descriptor.readlink()) for descriptor in (process / "fd").iterdir()]
        except OSError:
            continue
        if int(process.name) != os.getpid() and any(str(soak.out) in text for text in (command, *files)):
            wrong.append(f"process {process.name} is still at it: {command[:200]}")
    return wrong


def main() -> int:
    """Make, kill, finish, look; 1 if anything is wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--slides", type=int, default=2000)
    parser.add_argument("--share", type=float, default=0.01, help="of each fault")
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--every-s", type=float, default=30.0, help="a kill comes at most so long after the start")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="pathopatch-soak-") as folder:
        started = time.monotonic()
        soak = make(Path(folder) / "cohort", options.slides, share=options.share, seed=options.seed)
        made_s = time.monotonic() - started
        with being_changed(soak):
            interrupted(soak, kills=options.kills, workers=options.workers, every_s=options.every_s, seed=options.seed)
            code = finished(soak, workers=options.workers)
        ran_s = time.monotonic() - started - made_s
        wrong = faults_found(soak)
        looked_s = time.monotonic() - started - made_s - ran_s
        counts = ", ".join(f"{count} {due}" for due, count in Counter(soak.due.values()).most_common())
        print(f"{options.slides} slides, seed {options.seed}: due are {counts}")
        print(f"{options.kills} kills, then to the end with exit code {code}")
        print(
            f"made in {made_s:.0f} s, predicted in {ran_s:.0f} s by {options.workers} processes, "
            f"compared in {looked_s:.0f} s"
        )
        if code != 3:
            print((soak.folder / "output.txt").read_text(errors="replace")[-2000:])
        print("nothing is wrong" if not wrong else f"{len(wrong)} things are wrong:")
        for problem in wrong[:50]:
            print(f"  {problem}")
    return int(bool(wrong) or code != 3)


if __name__ == "__main__":
    sys.exit(main())
