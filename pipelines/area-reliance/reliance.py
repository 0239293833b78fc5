"""Ask networks whose bias is known whether they lean on the tissue area, and correct them; see README.md."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from itertools import islice, repeat
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import spearmanr

from pathopatch import metrics
from pathopatch.core.config import GroupsConfig, TileConfig, TrainConfig
from pathopatch.core.mask_bits import pack_masks
from pathopatch.debias.interventions import AREAS, N_EDITS, EditedPatch, edits
from pathopatch.demo.slides import CohortSpec, make_cohort
from pathopatch.evaluation.area_reliance import Responses, reliance, responses_of
from pathopatch.models.forward import correct_for_area
from pathopatch.stages.groups import form_groups
from pathopatch.stages.tile import tile_cohort
from pathopatch.training.crops import patches_with_crop
from pathopatch.training.dataset import PatchMasks, PatchSet, load_patches
from pathopatch.training.fit import fit_arrays
from pathopatch.training.result import TrainingResult

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "area-benchmark"))
import benchmark  # noqa: E402
import reliance_heads  # noqa: E402
from area_benchmark import natural  # noqa: E402
from area_benchmark.cells import Cell, joined, load  # noqa: E402
from area_benchmark.settings import BenchmarkConfig  # noqa: E402
from area_benchmark.settings import load as load_benchmark  # noqa: E402
from area_benchmark.tables import fill  # noqa: E402
from linear_heads import whole  # noqa: E402
from reliance_tables import HEADS, tables  # noqa: E402

RESULTS = "results.csv"
MARGINS = "reliance-margins"  # folder in the work folder
SEEDS = {
    "lung": range(20, 26), "colon": range(20, 26), "demo": range(1, 5), "idc": range(3), "ocdc": range(3),
    "lung heads": range(20, 22), "colon heads": range(20, 22), "idc heads": range(3),
}  # fmt: skip
"""Of the cohorts. The rules were fixed on others: lung of seed 4, and the demo's of seed 0."""
HALVES = {"even to odd fields": 0, "odd to even fields": 1}
KINDS = {"demo": ("dark",), "idc": natural.cases("idc"), "ocdc": tuple(HALVES)}
"""Cohorts of a ground and seed; lung and colon are bright and dark."""
MODELS = (
    ("erm", "0 %"), ("erm", "1 %"), ("erm", "5 %"), ("erm", "15 %"), ("erm", "30 %"),
    ("resample", "1 %"), ("auto, masked", "1 %"), ("interior erm", "1 %"),
    ("erm", "ceiling"), ("auto, masked", "ceiling"), ("interior erm", "ceiling"),
)  # fmt: skip
"""Row of the benchmark, and share of conflicting training patches."""
DEMO_SHARES = {"0 %": 0.0, "0.5 %": 0.005, "4 %": 0.04, "20 %": 0.2, "ceiling": 0.5}
DEMO_MODELS = (
    ("erm", "0 %"), ("erm", "0.5 %"), ("erm", "4 %"), ("erm", "20 %"),
    ("resample", "4 %"), ("gerne", "4 %"), ("auto, masked", "4 %"), ("interior erm", "4 %"),
    ("erm", "ceiling"), ("auto, masked", "ceiling"), ("interior erm", "ceiling"),
)  # fmt: skip
NATURAL_ROWS = ("erm", "resample", "gerne", "auto, masked", "interior erm")
SKEWED_SHARE = 0.1
"""Of tumour among the patches where non-tumour prevails."""
ASKED = 600
"""Patches of a demo cohort that are asked about; an imposed cohort has as many for validation."""


@dataclass(frozen=True, eq=False)
class Edited:
    """Patches (N,) of a set, each with its edits (E), in one array."""

    patches: PatchSet  # (N * E,)
    of: PatchSet  # (N,)
    count: int
    is_edited: NDArray[np.bool_]  # (N,): others hold too little tissue, or no ground, and are repeated as they are


def main() -> None:
    """Run the cohorts that have no rows yet, and print the tables."""
    options = _arguments()
    config = load_benchmark(benchmark.HERE / "benchmark.toml")
    searched = benchmark.winning_settings(config, benchmark.HERE)
    path, deadline = options.out / RESULTS, time.monotonic() + 60 * options.minutes
    table = benchmark._rows(path)
    done = set(table["cohort"]) if len(table) else set()
    cohorts = [
        (ground, polarity, seed)
        for seeds in zip(*(_padded(SEEDS[ground]) for ground in SEEDS), strict=True)  # a seed of each ground in turn
        for ground, seed in zip(SEEDS, seeds, strict=True)
        if seed is not None
        for polarity in KINDS.get(plain(ground)) or config.grounds[plain(ground)].polarities
    ]
    tasks: list[tuple[Callable[..., dict[str, Any]], tuple[Any, ...]]] = [
        (run_cohort, (cohort, config, searched, options.work)) for cohort in cohorts if named(*cohort) not in done
    ]
    print(f"{len(cohorts)} cohorts, {len(tasks)} missing", flush=True)
    for made in benchmark._pooled(tasks, options.jobs, deadline):
        benchmark._add(path, made["rows"])
        print(made["rows"][0]["cohort"], flush=True)
    text = tables(benchmark._rows(path))
    print(text)
    if options.readme:
        fill(options.out / "README.md", text)


def plain(ground: str) -> str:
    """Return the ground on whose patches the models of a ground are trained."""
    return ground.removesuffix(HEADS)


def named(ground: str, polarity: str, seed: int) -> str:
    """Return the name of a cohort."""
    return f"{ground} {polarity} {seed}"


def _padded(seeds: Sequence[int]) -> list[int | None]:
    longest = max(map(len, SEEDS.values()))
    return [*seeds, *[None] * (longest - len(seeds))]


def run_cohort(
    cohort: tuple[str, Any, int], config: BenchmarkConfig, searched: Mapping[str, dict[str, Any]], work: Path
) -> dict[str, Any]:
    """Train every model of a cohort, ask and correct it, and return ``rows``.

    The edits are made once for all models. Labels of the patches that are asked about are not used.
    """
    torch.set_num_threads(1)
    ground, _, seed = cohort
    if ground.endswith(HEADS):
        return {"rows": _heads(cohort, config, work)}
    if ground == "demo":
        made = dict(_demo(seed, config, work))
    elif ground in ("idc", "ocdc"):
        made = dict(_natural(cohort, config, work))
    else:
        made = dict(_imposed(cohort, config, searched, work))
    first = next(iter(made.values()))
    asked = edited(first.asked, N_EDITS, seed=seed, only=True)
    test = edited(first.test, 1 + len(AREAS), seed=seed + 1)
    rows = []
    for (row, case), model in made.items():
        start = time.process_time()
        fitted = fit_arrays(model.train, model.val, model.settings)
        trained = time.process_time() - start
        about = {"cohort": named(*cohort), "ground": ground, "row": row, "case": case, "seconds": trained}
        z = margins(fitted, asked), margins(fitted, test)
        keep(work / MARGINS, about, asked=(asked.of, z[0]), test=(test.of, z[1]))
        rows.append(about | measures(*z, asked, test, seed=seed))
    return {"rows": rows}


def _heads(cohort: tuple[str, Any, int], config: BenchmarkConfig, work: Path) -> list[dict[str, Any]]:
    """Fit, ask and correct heads on features; the edits are encoded once for all of them."""
    ground, kind, seed = plain(cohort[0]), *cohort[1:]
    network = reliance_heads.encoder()
    if ground == "idc":
        fold, asked_set, test_set = _halves(ground, kind, seed, work)
        made = reliance_heads.breast(fold.train, network, seed=seed)
    else:
        folder = benchmark.make(work, config, Cell(ground, "1 %", kind, seed, "erm"))
        input_px = config.settings("interior erm", seed=seed).input_px
        made, asked_set, test_set = reliance_heads.imposed(folder, config, network, input_px=input_px, seed=seed)
    asked = edited(asked_set, N_EDITS, seed=seed, only=True)
    test = edited(test_set, 1 + len(AREAS), seed=seed + 1)
    x_asked, x_test = (whole(network, part.patches) for part in (asked, test))
    about = {"cohort": named(*cohort), "ground": cohort[0]}
    rows = []
    for (row, case), head in made.items():
        mine = {**about, "row": row, "case": case}
        z = by_edit(head.margins(x_asked), asked), by_edit(head.margins(x_test), test)
        keep(work / MARGINS, mine, asked=(asked.of, z[0]), test=(test.of, z[1]))
        rows.append(mine | measures(*z, asked, test, seed=seed))
    return rows


@dataclass(frozen=True, eq=False)
class Model:
    """What a model is trained, selected and judged on."""

    train: PatchSet
    val: PatchSet | None
    test: PatchSet
    asked: PatchSet  # about these, without their labels
    settings: TrainConfig


def _imposed(
    cohort: tuple[str, Any, int], config: BenchmarkConfig, searched: Mapping[str, dict[str, Any]], work: Path
) -> Iterator[tuple[tuple[str, str], Model]]:
    ground, polarity, seed = cohort
    folder = benchmark.make(work, config, Cell(ground, "1 %", polarity, seed, "erm"))
    for row, case in MODELS:
        settings = config.settings(row, seed=seed, **searched[row])
        sets = load(folder, case, config, input_px=settings.input_px)  # type: ignore[arg-type]  # one of its cases
        yield (row, case), Model(sets["train"], sets["val"], sets["test"], sets["val"], settings)


def _demo(seed: int, config: BenchmarkConfig, work: Path) -> Iterator[tuple[tuple[str, str], Model]]:
    """Yield models of the demo's cohorts of a seed: all have the same validation and test slides."""
    base = natural.SETTINGS["demo"]
    sets = {case: _demo_sets(seed, share, work) for case, share in DEMO_SHARES.items()}
    _, val, test = sets["4 %"]
    # Six patients of validation are too few: half of the test patients join them, and accuracy is that of the others.
    is_asked = np.isin(test.patient, np.unique(test.patient)[::2])
    both = joined(val, test.rows(is_asked))
    asked, test = both.rows(np.sort(np.random.default_rng(seed).permutation(len(both))[:ASKED])), test.rows(~is_asked)
    for row, case in DEMO_MODELS:
        yield (row, case), Model(sets[case][0], val, test, asked, config.variant_of(row, base, seed=seed))


def _natural(
    cohort: tuple[str, Any, int], config: BenchmarkConfig, work: Path
) -> Iterator[tuple[tuple[str, str], Model]]:
    """Yield models of a breast carcinoma slide, or of half of the oral carcinoma fields."""
    fold, asked, test = _halves(*cohort, work)
    for row in NATURAL_ROWS:
        settings = config.variant_of(row, fold.config, seed=cohort[2])
        yield (row, "as it is"), Model(fold.train, fold.val, test, asked, settings)


def _halves(ground: str, case: str, seed: int, work: Path) -> tuple[natural.Fold, PatchSet, PatchSet]:
    """Return a fold of natural tissue: half of its test patches is asked about, the other is judged.

    Each patch counts as a patient: there are one or five.
    """
    if ground == "idc":
        fold = next(natural.folds(ground, case, seed, work))
    else:
        folds, first = list(natural.folds(ground, *natural.cases(ground), seed, work)), HALVES[case]
        train, test = (reduce(joined, [fold.test for fold in folds[start::2]]) for start in (first, 1 - first))
        fold = replace(folds[0], train=train, test=test)
    halves = np.array_split(np.random.default_rng(seed).permutation(len(fold.test)), 2)
    asked, test = (fold.test.rows(np.sort(half)) for half in halves)
    return fold, replace(asked, patient=np.arange(len(asked))), test


def _demo_sets(seed: int, share: float, work: Path) -> list[PatchSet]:
    """Return train, val and test of a demo cohort with a share of each class that conflicts."""
    spec, folder = CohortSpec(minority_share=share, between_share=min(0.02, share)), work / f"demo-{seed}-{share:g}"
    tile_cohort(make_cohort(folder / "cohort", seed=seed, spec=spec), folder, TileConfig(patch_px=spec.field_px))
    groups = form_groups(folder, GroupsConfig(thresholds=(0.25,)))
    by: dict[str, Any] = {"input_px": natural.SETTINGS["demo"].input_px, "threshold": 0.25}
    return [
        load_patches(folder, groups[groups["split"] == name], splits=(name,), masks=("tissue", "tumor"), **by)
        for name in natural.SPLITS
    ]


def edited(patches: PatchSet, count: int, *, seed: int, only: bool = False) -> Edited:
    """Return the first `count` edits of every patch, as `audit-model` makes them.

    Patches with too little tissue, or without ground, are repeated as they are; with `only` they are left out.
    """
    assert patches.tissue is not None
    pixels, masks, kept, is_edited = [], [], [], []
    for number in range(len(patches)):
        one = slice(number, number + 1)
        own, tissue = patches.read(one)[0], patches.tissue.read(one)[0]
        can_be = bool(tissue.mean() >= AREAS[0] and not tissue.all())
        if only and not can_be:
            continue
        is_edited.append(can_be)
        made = edits(own, tissue, seed=(seed, number)) if can_be else repeat(EditedPatch(own, tissue))
        for edit in islice(made, count):
            pixels.append(edit.pixels.astype(np.float16))
            masks.append(pack_masks(edit.tissue[None])[0])
        kept.append(number)
    of = patches.rows(np.array(kept, np.int64))
    bits = PatchMasks(np.stack(masks), patches.tissue.input_px)
    many = replace(of.rows(np.repeat(np.arange(len(of)), count)), x=np.stack(pixels), tissue=bits)
    return Edited(many, of, count, np.array(is_edited))


def margins(fitted: TrainingResult, made: Edited) -> NDArray[np.float64]:
    """Return calibrated margins (N, E), above 0 for tumour; NaN without a crop."""
    z = (fitted.margins(made.patches) - fitted.decision_threshold) / fitted.temperature
    if fitted.crops is not None:
        z[~patches_with_crop(made.patches, fitted.crops.crop_px)] = np.nan
    return by_edit(z, made)


def by_edit(z: NDArray[np.float64], made: Edited) -> NDArray[np.float64]:
    """Return margins (N * E,) as (N, E); NaN for edits of patches that cannot be edited."""
    z = z.reshape(len(made.of), made.count)
    z[~made.is_edited, 1:] = np.nan
    return z


def keep(path: Path, about: Mapping[str, Any], **parts: tuple[PatchSet, NDArray[np.float64]]) -> None:
    """Write the margins (N, E) of a model by set, with area, label, attribute and patient, for rules to come."""
    path.mkdir(parents=True, exist_ok=True)
    name = " ".join(str(about[key]) for key in ("cohort", "row", "case")).replace(" ", "_")
    columns: dict[str, NDArray[Any]] = {}
    for part, (patches, z) in parts.items():
        columns |= {f"{part}_z": z.astype(np.float32), f"{part}_area": patches.tissue_fraction.astype(np.float32)}
        columns |= {f"{part}_{key}": getattr(patches, key).astype(np.int8) for key in ("label", "attribute")}
        columns[f"{part}_patient"] = patches.patient.astype(np.str_)
    np.savez_compressed(path / f"{name}.npz", **columns)


def measures(
    z: NDArray[np.float64], z_test: NDArray[np.float64], asked: Edited, test: Edited, *, seed: int
) -> dict[str, Any]:
    """Return what a model is, what it answers on three sets of patches without labels, and what a correction does.

    Margins (N, E) are of the patches that are asked about, and of those of test.
    """
    of = asked.of
    answers = responses_of(z, np.arange(len(of)), of.tissue_fraction, of.patient.astype(np.str_))
    found = {**judged(z_test[:, 0], test.of), "test_patches": len(z_test), "not_edited": int((~test.is_edited).sum())}
    for name, rows in subsets(of, seed=seed).items():
        result = reliance(_taken(answers, rows), seed=seed)
        natural_z, area = z[rows, 0], of.tissue_fraction[rows]
        has = np.isfinite(natural_z)
        probability = 0.5 * (1 + np.tanh(natural_z[has] / 2))
        found |= {
            f"{name}_verdict": result["verdict"],
            f"{name}_direction": result["direction"],
            f"{name}_reasons": "; ".join(result["reasons"]),
            f"{name}_patches": result["patches"],
            f"{name}_positive": result.get("positive", np.nan),
            **{f"{name}_{placebo}": own["turned"] for placebo, own in result.get("placebos", {}).items()},
            **{f"{name}_again_{key}": value for key, value in result.get("again", {}).items()},
            f"{name}_within": result.get("within"),
            **{f"{name}_{key}": result.get(key, {}).get("value", np.nan) for key in ("eta", "adj")},
            **{f"{name}_{key}_{end}": result.get(key, {}).get(end, np.nan) for key in ("eta", "adj") for end in ENDS},
            f"{name}_slope": abs(np.polyfit(area[has], probability, 1)[0]) if has.any() else np.nan,
            f"{name}_rank": abs(spearmanr(area[has], probability).statistic) if has.any() else np.nan,
        }
        for kind in result.get("correction", {}):
            repaired = corrected(z_test, test.of.tissue_fraction, result, kind)
            found |= {f"{name}_{kind}_{key}": value for key, value in judged(repaired, test.of).items()}
    return found


ENDS = ("low", "high")


def corrected(
    z: NDArray[np.float64], area: NDArray[np.float64], result: Mapping[str, Any], kind: str
) -> NDArray[np.float64]:
    """Return margins (N,) corrected as `predict --area-correct` does; z (N, 1 + T) are as they are, and by area."""
    areas = [point["area"] for point in result["curve"]]
    set_margin = z[:, 1:][:, np.isin(AREAS, areas)] if kind == "average" else None
    response = [point["margin"]["value"] for point in result["curve"]]
    made = correct_for_area(z[:, 0], area, set_margin, areas=areas, response=response)
    return np.asarray(made + result["correction"][kind]["shift"])


def judged(z: NDArray[np.float64], patches: PatchSet) -> dict[str, float]:
    """Return WGA, GBA, AUROC and accuracy where the shortcut holds, in percent; no answer is wrong."""
    y, a, has = patches.label, patches.attribute, np.isfinite(z)
    positive = np.where(has, z > 0, y == 0).astype(np.int64)
    groups, holds = metrics.group_accuracies(positive, y, a).accuracy, y == a
    return {
        "wga": 100 * float(np.nanmin(groups)),
        "gba": 100 * float(np.nanmean(groups)),
        "auroc": 100 * metrics.auroc(z[has], y[has]) if has.any() else np.nan,
        "biased": 100 * float((positive == y)[holds].mean()),
    }


def subsets(patches: PatchSet, *, seed: int) -> dict[str, NDArray[np.int64]]:
    """Return rows by name: balanced patches; area follows the class; and besides, nine of ten are non-tumour."""
    rng = np.random.default_rng((seed, 5))
    follows = np.flatnonzero(patches.label == patches.attribute)
    negative, positive = (follows[patches.label[follows] == label] for label in (0, 1))
    few = rng.permutation(positive)[: round(len(negative) * SKEWED_SHARE / (1 - SKEWED_SHARE))]
    return {"balanced": np.arange(len(patches)), "follows": follows, "skewed": np.sort(np.concatenate([negative, few]))}


def _taken(answers: Responses, rows: NDArray[np.int64]) -> Responses:
    """Return the answers about some patches."""
    return replace(
        answers,
        rows=answers.rows[rows],
        natural=answers.natural[rows],
        areas=answers.areas[:, rows],
        again=answers.again[rows],
        placebos={name: z[rows] for name, z in answers.placebos.items()},
        area=answers.area[rows],
        patient=answers.patient[rows],
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=HERE.parents[1] / "work" / "area-benchmark")
    parser.add_argument("--out", type=Path, default=HERE, help="folder of results.csv")
    parser.add_argument("--jobs", type=int, default=2, help="cohorts side by side, a thread each")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no cohort after this")
    parser.add_argument("--readme", action="store_true", help="write the tables into README.md")
    return parser.parse_args()


if __name__ == "__main__":
    main()
