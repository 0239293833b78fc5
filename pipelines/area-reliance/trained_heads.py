"""Ask heads whose area reliance is known, with and without `[train] invariance`, as `audit-model` does; see README.md.

A head's own truth is measured: the same test crops, small and large, and the share of them that is called tumour.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from pathopatch.core.config import TrainConfig
from pathopatch.debias.interventions import edits
from pathopatch.evaluation.area_reliance import reliance, responses_of
from pathopatch.training.dataset import PatchSet
from pathopatch.training.fit import fit_arrays
from pathopatch.training.frozen import Backbone

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "area-benchmark"))
import benchmark  # noqa: E402
from area_benchmark.cells import Cell, load  # noqa: E402
from area_benchmark.frozen import FeatureStore, margins  # noqa: E402
from area_benchmark.settings import load as load_benchmark  # noqa: E402

RHO = (0.0, 1.0, 10.0, 100.0, 1000.0)
HEADS = (
    ("erm", "0 %"), ("erm", "1 %"), ("erm", "5 %"), ("resample", "1 %"), ("resample", "5 %"), ("erm", "ceiling"),
)  # fmt: skip
"""Method, and share of conflicting training patches."""
BIASED, UNBIASED = 15, 5
"""Points by which the calls of the same tissue differ between its two areas: more than, at most."""
ASKED = 200
"""Patches of validation that are asked about, as many of each group."""


def main() -> None:
    """Ask the heads of some cohorts, and add their rows to a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cohorts", nargs="+", help="as lung-bright-9")
    parser.add_argument("--work", type=Path, default=HERE.parents[1] / "work" / "area-benchmark")
    parser.add_argument("--out", type=Path, default=HERE / "trained_heads.csv")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for cohort in options.cohorts:
        rows = pd.DataFrame(run_cohort(cohort, options.work))
        known = [pd.read_csv(options.out)] if options.out.is_file() else []
        pd.concat([*known, rows]).to_csv(options.out, index=False, float_format="%.4g")
        print(cohort, flush=True)


def run_cohort(cohort: str, work: Path) -> list[dict[str, Any]]:
    """Return a row for each head of a cohort."""
    ground, polarity, seed = cohort.split("-")
    config = load_benchmark(benchmark.HERE / "benchmark.toml")
    folder = benchmark.make(work, config, Cell(ground, "1 %", polarity, int(seed), ""))  # type: ignore[arg-type]
    read, asked, rows = FeatureStore(folder / "frozen-features"), None, []
    for method, case in HEADS:
        sets = load(folder, case, config, input_px=config.train.input_px)  # type: ignore[arg-type]
        for rho in RHO:
            own: dict[str, Any] = {
                "method": method,
                "invariance": rho,
                "seed": int(seed),
                "threads": 1,
                "device": "cpu",
            }
            settings = TrainConfig(frozen=True, threshold=0.5, input_px=config.train.input_px, mask="normalise", **own)
            fitted = fit_arrays(sets["train"], sets["val"], settings, read_features=read)
            network: Any = fitted.network
            if asked is None:
                backbone = Backbone(network, settings.architecture, {}, "normalise", None, fitted.mean, fitted.std)
                asked = _edited(sets["val"], backbone, folder / "asked-by-edits.npz", seed=int(seed))
            features, val = asked
            weight, bias = (values.detach().double().numpy() for values in network.classifier.parameters())
            z = features @ (weight[1] - weight[0]) + bias[1] - bias[0]
            z = (z - fitted.decision_threshold) / fitted.temperature
            answers = responses_of(z, np.arange(len(z)), val.tissue_fraction, val.patient.astype(np.str_))
            test = margins(fitted, settings, sets["test"], read) - fitted.decision_threshold
            about = {"cohort": cohort, "method": method, "case": case, "rho": rho}
            about["through_area"] = through_area(test, sets["test"].label)
            for name, subset in (
                ("balanced", np.arange(len(z))),
                ("follows", np.flatnonzero(val.label == val.attribute)),
            ):
                taken = {key: getattr(answers, key)[subset] for key in ("rows", "natural", "again", "area", "patient")}
                taken |= {"areas": answers.areas[:, subset]}
                taken |= {"placebos": {key: value[subset] for key, value in answers.placebos.items()}}
                for labels in (True, False):
                    result = reliance(
                        replace(answers, **taken, label=val.label[subset] if labels else None),
                        resamples=200,
                        is_trained_on_edits=rho > 0,
                    )
                    rows.append(about | {"patches": name, "labels": labels} | _measures(result))
    return rows


def _edited(val: PatchSet, backbone: Backbone, path: Path, *, seed: int) -> tuple[NDArray[np.float64], PatchSet]:
    """Return features (N, E, D) of the edits of patches of validation, kept at `path`, and these patches."""
    group = 2 * val.label + val.attribute
    chosen = np.sort(np.concatenate([np.flatnonzero(group == number)[: ASKED // 4] for number in range(4)]))
    patches = val.rows(chosen)
    if path.is_file():
        return np.load(path)["features"].astype(np.float64), patches
    assert patches.tissue is not None
    pixels, tissue, found = patches.read(slice(None)), patches.tissue.read(slice(None)), []
    for number in range(len(patches)):
        made = list(edits(pixels[number], tissue[number], seed=(seed, number)))
        found.append(backbone.of_edited(made, threads=1))
    np.savez(path, features=np.stack(found))
    return np.stack(found).astype(np.float64), patches


def through_area(z: NDArray[np.float64], label: NDArray[np.int64]) -> float:
    """Return by how many points more of the same test crops are called tumour large than small, mean of the classes."""
    called, label = z.reshape(-1, 2) > 0, label[::2]
    moved = [called[label == own].mean(axis=0) for own in (0, 1)]
    return float(100 * np.mean([large - small for small, large in moved]))


def _measures(result: dict[str, Any]) -> dict[str, Any]:
    measures: dict[str, Any] = {key: result[key].get("value") for key in ("eta", "adj")}
    measures |= {f"again_{key}": result["again"][key] for key in ("eta", "adj")}
    return (
        measures
        | {key: result[key] for key in ("within", "within_class", "verdict")}
        | {"reasons": "; ".join(result["reasons"])}
    )


if __name__ == "__main__":
    main()
