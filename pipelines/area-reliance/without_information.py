"""Count the verdicts on answers to packs that carry no information, and on a program's own in several forms.

Usage: without_information.py PACK ... [--tables 40], of packs that `audit-model --pack` wrote; see README.md. Programs
are simulated: evidence of each patch, a slope over the area, and noise of each image. No image is looked at.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pathopatch.core.artefacts import read_table
from pathopatch.core.errors import InputUnsupportedError
from pathopatch.core.files import read_json
from pathopatch.debias.interventions import AREAS, N_EDITS, PLACEBOS
from pathopatch.evaluation.answers import read_answers
from pathopatch.stages import pack as packs

TUMOUR = (0.05, 0.1, 0.15, 0.2, 0.3)
SLOPES = {"sound": 0.2, "between": 2.8, "biased": 4.0, "steep": 1.0}  # in sd of the evidence; "between": eta 0.49
GAINS = {"steep": 4.0}  # times the margins of others: most probabilities round to 0 or 1
FORMS = ("logit", "probability", "two decimals", "8 bits", "yes-no")
PROGRAMS = 5  # of each kind and share, at most
NOISE = 0.25  # of each image, as networks have: about a tenth of balanced answers turns by flipping


def main() -> None:
    """Print how often each kind of answers got each verdict, by share of tumour."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("packs", type=Path, nargs="+")
    parser.add_argument("--tables", type=int, default=40)
    given = parser.parse_args()
    for pack in given.packs:
        rows = pd.DataFrame(judged(pack, tables=given.tables))
        print(pack.name, len(read_table(pack / packs.KEY)), "images")
        print(rows.groupby(["kind", "tumour", "verdict"]).size().unstack(fill_value=0).to_string(), flush=True)


def judged(pack: Path, *, tables: int, tumour: tuple[float, ...] = TUMOUR) -> Iterator[dict[str, Any]]:
    """Yield kind, share of tumour and verdict of each table of answers."""
    key = read_table(pack / packs.KEY)
    for share in tumour:
        for seed in range(tables):
            rng = np.random.default_rng(seed)
            for kind, texts in uninformative(key, share, rng):
                yield {"kind": kind, "tumour": share, "seed": seed, "verdict": verdict(pack, key, texts)}
            for name, slope in SLOPES.items() if seed < PROGRAMS else ():
                z = GAINS.get(name, 1.0) * margins(key, share, slope, rng)
                for form in FORMS:
                    about = {"kind": f"{name}, {form}", "tumour": share, "seed": seed}
                    yield about | {"verdict": verdict(pack, key, written(z, form))}


def margins(key: pd.DataFrame, tumour: float, slope: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """Return the margins of a program to the images of a pack; an image that stands there twice gets one answer."""
    set_ = np.concatenate([[np.nan], np.tile(AREAS, (N_EDITS - 1 - len(PLACEBOS)) // len(AREAS)), [np.nan] * 3])
    area = np.where(key["edit"] < 0, np.nan, set_[key["edit"]])
    area = np.where(np.isnan(area), key["area"], area)
    evidence, noise = rng.normal(size=len(key) + 1), NOISE * rng.normal(size=(len(key) + 1, N_EDITS + 1))
    z = evidence[key["patch"]] + noise[key["patch"], key["edit"]] + slope * (area - 0.5)
    return np.asarray(3 * (z - np.quantile(z[key["edit"] == 0], 1 - tumour)))


def uninformative(key: pd.DataFrame, tumour: float, rng: np.random.Generator) -> Iterator[tuple[str, list[str]]]:
    """Yield answers that have nothing to do with their images, and a biased program's out of their order."""
    yield "random words", np.where(rng.random(len(key)) < tumour, "yes", "no").tolist()
    yield "random scores", written(rng.normal(size=len(key)) - np.quantile(rng.normal(size=9999), 1 - tumour), "logit")
    z = margins(key, tumour, SLOPES["between"], rng)
    for form in ("two decimals", "yes-no"):
        yield f"moved by a row, {form}", written(np.roll(z, 1), form)
        yield f"sorted, {form}", written(np.sort(z), form)
        yield f"permuted, {form}", written(rng.permutation(z), form)


def written(z: NDArray[np.float64], form: str) -> list[str]:
    """Return margins (N,) as a program writes its answers."""
    p = 1 / (1 + np.exp(-z))
    return {
        "logit": lambda: [f"{value:.5f}" for value in z],
        "probability": lambda: [repr(float(value)) for value in p],
        "two decimals": lambda: [f"{value:.2f}" for value in p],
        "8 bits": lambda: [repr(float(value)) for value in np.rint(255 * p) / 255],
        "yes-no": lambda: np.where(z > 0, "yes", "no").tolist(),
    }[form]()


def verdict(pack: Path, key: pd.DataFrame, texts: list[str]) -> str:
    """Return the verdict on answers to a pack."""
    about = read_json(pack / packs.ABOUT)
    is_logit = all(text not in ("yes", "no") for text in texts) and min(map(float, texts)) < 0
    with tempfile.TemporaryDirectory() as folder:
        answers = Path(folder) / "answers.csv"
        pd.DataFrame({"image": key["image"], "score": texts}).to_csv(answers, index=False)
        corners, options = key[["x", "y"]].to_numpy(np.int64), {"kind": "logit"} if is_logit else {}
        try:
            read = read_answers(answers, key["image"].tolist(), corners, about["px"], **options)
        except InputUnsupportedError:  # one answer to everything
            return "refused"
        return str(packs._judged(key, about, read, Path(folder))[0]["verdict"])


if __name__ == "__main__":
    main()
