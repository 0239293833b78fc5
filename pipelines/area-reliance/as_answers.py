"""Judge the kept margins of networks again as answers to packs: probabilities, fewer edits of each patch, yes/no."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pathopatch.debias.interventions import N_EDITS
from pathopatch.evaluation.area_reliance import MARGINS, YES_NO, Responses, reliance, responses_of
from pathopatch.stages.pack import EACH, OF_FOURTH, short_rule

UNBIASED, BIASED = "ceiling", ("0 %", "0.5 %", "1 %", "4 %", "5 %")
_SHORT = 108  # patches of a pack of 600 images


def main() -> None:
    """Print how often each kind of answer errs, over all networks whose margins were kept."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("margins", type=Path, help="folder reliance-margins, which reliance.py wrote")
    rows = [row for path in sorted(parser.parse_args().margins.glob("*.npz")) for row in _judged(path)]
    table = pd.DataFrame(rows)
    counts = table.groupby(["kind", "known", "verdict"]).size().unstack(fill_value=0)
    print(f"{table['network'].nunique()} networks of {table['cohort'].nunique()} cohorts\n\n{counts.to_string()}")
    same = table[table["kind"] != "as a model"].merge(table[table["kind"] == "as a model"], on="network")
    same = same.assign(differ=same["verdict_x"] != same["verdict_y"], eta=(same["eta_x"] - same["eta_y"]).abs())
    print(same.groupby("kind_x")[["differ", "eta"]].agg(["sum", "max", "size"]).to_string())


def _judged(path: Path) -> Iterator[dict[str, str | float]]:
    with np.load(path) as kept:
        z, area, patient = kept["asked_z"].astype(np.float64), kept["asked_area"], kept["asked_patient"]
    cohort, row, case = _names(path)
    known = "unbiased" if case == UNBIASED else "biased" if row == "erm" and case in BIASED else "between"
    order = np.random.default_rng(0).permutation(len(z))
    of_answers = {
        "": (z, MARGINS),
        ", probability of three decimals": (_rounded(z), MARGINS),
        ", yes/no": (np.where(np.isnan(z), np.nan, np.where(z > 0, 1.0, -1.0)), YES_NO),
    }
    for kind, rows, is_short in (("as a model", order, False), ("600 images", order[:_SHORT], True)):
        for answers, (given, rule) in of_answers.items():
            asked = _responses(given[rows], area[rows], patient[rows], is_short=is_short)
            result = reliance(asked, rule=short_rule(rule) if is_short else rule)
            about = {"network": path.stem, "cohort": cohort, "kind": kind + answers, "known": known}
            yield about | {"verdict": result["verdict"], "eta": result["eta"]["value"]}


def _rounded(z: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return margins whose probabilities are those of `z`, rounded to three decimals, as a pack's answers are read."""
    p = np.clip(np.round(1 / (1 + np.exp(-z)), 3), 0.0005, 0.9995)
    return np.asarray(np.log(p) - np.log1p(-p))


def _responses(
    z: NDArray[np.float64], area: NDArray[np.float32], patient: NDArray[np.str_], *, is_short: bool
) -> Responses:
    """Return the answers; of a short pack only those to the edits that it has."""
    if is_short:
        asked = np.zeros((len(z), N_EDITS), np.bool_)
        asked[:, EACH] = True
        asked[::4, OF_FOURTH] = True
        z = np.where(asked, z, np.nan)
    found = responses_of(z, np.arange(len(z)), area.astype(np.float64), patient.astype(np.str_))
    if not is_short:
        return found
    return replace(found, areas=found.areas[:1], asked_again=np.arange(len(z)) % 4 == 0)


def _names(path: Path) -> tuple[str, str, str]:
    """Return cohort, row and case of a file's name: ``lung_bright_20_auto,_masked_1_%``."""
    text = path.stem.replace("_", " ")
    for case in (*BIASED, "15 %", "20 %", "30 %", UNBIASED, "as it is"):
        if text.endswith(f" {case}"):
            text = text.removesuffix(f" {case}")
            for row in ("auto, masked", "interior erm", "resample", "subsample", "gerne", "auto", "erm"):
                if text.endswith(f" {row}"):
                    return text.removesuffix(f" {row}"), row, case
    raise ValueError(f"no margins of a network: {path.name}")


if __name__ == "__main__":
    main()
