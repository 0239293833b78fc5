"""Frozen rows: heads solved exactly on a pretrained backbone, whose features of each patch are computed once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from area_benchmark import natural
from area_benchmark.cells import answers, judged, load, natural_row
from area_benchmark.natural import Fold
from area_benchmark.settings import BenchmarkConfig, FrozenConfig
from pathopatch.core.artefacts import fingerprint
from pathopatch.core.config import TrainConfig
from pathopatch.core.errors import GroupEmptyError
from pathopatch.debias.interventions import N_EDITS, edits
from pathopatch.evaluation.area_reliance import reliance, responses_of
from pathopatch.evaluation.slide_scores import score_slides
from pathopatch.models.networks import InteriorCrops
from pathopatch.training.dataset import PatchSet
from pathopatch.training.fit import TrainingResult, fit_arrays
from pathopatch.training.frozen import Backbone, FeatureReader, Features, Head
from pathopatch.training.invariance import Edits, draw_pool, with_ground

NOT_ASKED = ("interior erm", "masked groupdro", "masked gerne")
"""Rows whose heads are not asked whether they rely on the area."""
PER_UNIT, LEAST_ASKED, MOST_ASKED = 16, 60, 300
"""Patches of a fold that are asked about: of a patient or block, and in all."""
_ENDS = {"": "value", "_low": "low", "_high": "high"}


@dataclass(frozen=True)
class Case:
    """What all frozen rows of a task are fitted on; natural tissue has no polarity."""

    ground: str
    case: str
    polarity: str
    seed: int

    def key(self, row: str, config: BenchmarkConfig) -> str:
        """Return a key that changes with any setting of the row, and with no new setting of the package."""
        assert config.frozen is not None
        imposed = config.grounds.get(self.ground)
        cohort = None if imposed is None else imposed.cohort.model_dump(mode="json")
        about = self.ground, self.case, self.polarity, self.seed
        return fingerprint(["frozen", *about, row, config.frozen.rows[row], cohort])


def cases_of(config: BenchmarkConfig) -> dict[Case, tuple[str, ...]]:
    """Return the rows of each case, without those that need a group that is empty there."""
    about = config.frozen or FrozenConfig()
    return {
        Case(part.ground, case, polarity, seed): tuple(
            row for row in about.rows if row not in part.without.get(case, ())
        )
        for part in about.grounds
        for case in part.cases
        for seed in part.seeds
        for polarity in (config.grounds[part.ground].polarities if part.ground in config.grounds else ("",))
    }


class FeatureStore:
    """Read the features of patches, each computed once for a backbone and kept in a folder by its patch_id."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._known: dict[str, dict[str, Features]] = {}

    def __call__(self, patches: PatchSet, backbone: Backbone) -> Features:
        """Return the features (N, D) of patches."""
        everything = np.arange(len(patches))
        return self._kept(
            patches, everything, backbone, {}, lambda new: backbone.features(patches.rows(new), threads=1)
        )

    def of_versions(self, patches: PatchSet, index: NDArray[np.int64], backbone: Backbone, edits: Edits) -> Features:
        """Return the features (n, V, D) of versions of patches."""
        if not len(index):
            return np.empty((0, len(edits), backbone.network.classifier.in_features), np.float32)
        make = partial(backbone.of_versions, patches, edits=edits, threads=1)
        return self._kept(patches, index, backbone, {"edits": edits}, make)

    def of_asked(self, patches: PatchSet, index: NDArray[np.int64], backbone: Backbone) -> Features:
        """Return the features (n, `N_EDITS`, D) of patches and their edits, as `audit-model` makes them."""

        def make(new: NDArray[np.int64]) -> Features:
            found = []
            for row, (pixels, tissue, ground) in zip(new, with_ground(patches, new), strict=True):
                if tissue.all() and ground is None:  # it cannot be asked about
                    found.append(np.full((N_EDITS, backbone.network.classifier.in_features), np.nan, np.float32))
                    continue
                seed = (crc32(str(patches.patch_id[row]).encode()),)
                found.append(backbone.of_edited(list(edits(pixels, tissue, seed=seed, ground=ground)), threads=1))
            return np.stack(found)

        return self._kept(patches, index, backbone, {"edits": "asked"}, make)

    def _kept(
        self,
        patches: PatchSet,
        index: NDArray[np.int64],
        backbone: Backbone,
        about: dict[str, Any],
        make: Callable[[NDArray[np.int64]], Features],
    ) -> Features:
        side = patches.read(slice(0, 1)).shape[2]
        key = fingerprint(backbone.facts() | {"input_px": side} | about)
        path = self._folder / f"{key}.npz"
        if key not in self._known:
            stored = np.load(path, allow_pickle=False) if path.is_file() else {"patch_id": [], "features": []}
            self._known[key] = dict(zip(map(str, stored["patch_id"]), stored["features"], strict=True))
        known, names = self._known[key], patches.patch_id[index].tolist()
        new = index[[name not in known for name in names]]
        if len(new):
            known.update(zip(patches.patch_id[new].tolist(), make(new), strict=True))
            self._folder.mkdir(parents=True, exist_ok=True)
            part = path.with_suffix(".part.npz")  # a run that is stopped leaves no half of a file
            np.savez(part, patch_id=np.array(list(known)), features=np.stack(list(known.values())))
            part.replace(path)
        return np.stack([known[name] for name in names])


@dataclass(frozen=True, eq=False)
class _Asked:
    """What a fold's head answers to the edits of test patches."""

    z: NDArray[np.float64]  # (n, `N_EDITS`)
    area: NDArray[np.float64]
    patient: NDArray[np.str_]
    label: NDArray[np.int64]
    is_trained_on_edits: bool


def run_frozen(
    case: Case, rows: Sequence[str], config: BenchmarkConfig, folder: Path | None, work: Path
) -> dict[str, Any]:
    """Fit some rows on every fold of a case, judge all its test patches together, and return ``rows`` of plain values.

    `folder` is that of a cohort with an imposed area, else None. A row that needs all groups is left out where an
    inner fold lacks one.
    """
    torch.set_num_threads(1)
    # The demo has another cohort for each seed, whose patches have the same names.
    natural_folder = work / (f"demo-{case.seed}" if case.ground == "demo" else case.ground)
    read = FeatureStore((folder or natural_folder) / "frozen-features")
    parts: dict[str, list[pd.DataFrame]] = {row: [] for row in rows}
    chosen: dict[str, list[str]] = {row: [] for row in rows}
    asked: dict[str, list[_Asked]] = {row: [] for row in rows}
    groups, cut, min_tissue = None, config.thresholds[0], natural.MIN_TISSUE
    for number, fold in enumerate(_folds(case, config, folder, work)):
        groups, cut, min_tissue = fold.groups, fold.config.threshold, fold.min_tissue
        for row in list(parts):
            try:
                fitted = _fitted(fold, _settings(row, fold, config, seed=case.seed), read)
            except GroupEmptyError as error:
                print(f"{case.ground} {case.case}: {row} is left out: {error}", flush=True)
                del parts[row]
                continue
            own = fitted.settings
            assert own is not None
            part = answers(margins(fitted, own, fold.test, read), fold.test, fitted)
            parts[row].append(part.assign(patch_id=fold.test.patch_id, fold=number))
            chosen[row].append(f"{own.mask} {own.method} {own.weight_decay:g}")
            if row not in NOT_ASKED:
                asked[row].append(_ask(fitted, own, fold.test, read))
    made = []
    for row, tables in parts.items():
        table, about = pd.concat(tables), (case.ground, case.case, case.seed, row)
        made.append(
            natural_row(case.key(row, config), about, cut, judged(table, (cut,), min_tissue=min_tissue))
            | {"polarity": case.polarity, **_of_images(table, groups), "chosen": "; ".join(chosen[row])}
            | _reliance(asked[row])
        )
    return {"rows": made}


def _folds(case: Case, config: BenchmarkConfig, folder: Path | None, work: Path) -> Iterator[Fold]:
    if folder is None:
        yield from natural.folds(case.ground, case.case, case.seed, work, is_frozen=True)
        return
    own = TrainConfig(frozen=True, threshold=config.thresholds[0], input_px=config.train.input_px)
    sets = load(folder, case.case, config, input_px=own.input_px)  # type: ignore[arg-type]  # one of its cases
    yield Fold(sets["train"], sets["val"], sets["test"], own)


def _settings(row: str, fold: Fold, config: BenchmarkConfig, *, seed: int) -> TrainConfig:
    assert config.frozen is not None
    own = {"seed": seed, "threads": 1, "device": "cpu"} | config.frozen.rows[row]
    return TrainConfig.model_validate(fold.config.model_dump() | own)


def _fitted(fold: Fold, settings: TrainConfig, read: FeatureStore) -> TrainingResult:
    return fit_arrays(fold.train, fold.val, settings, read_features=read, inner_folds=fold.inner_folds)


def _head(fitted: TrainingResult, settings: TrainConfig) -> tuple[Backbone, Head]:
    network: Any = fitted.network.network if isinstance(fitted.network, InteriorCrops) else fitted.network
    own = settings.architecture, settings.timm_args, settings.mask, settings.interior.crop_px
    weight, bias = (values.detach().double().numpy() for values in network.classifier.parameters())
    return Backbone(network, *own, fitted.mean, fitted.std), Head(weight, bias)


def margins(
    fitted: TrainingResult, settings: TrainConfig, patches: PatchSet, read: FeatureReader
) -> NDArray[np.float64]:
    """Return z1 - z0 (N,) of patches by the head of a frozen network, on the features that are read."""
    backbone, head = _head(fitted, settings)
    logits = head.logits(read(patches, backbone))
    return np.asarray(logits[:, 1] - logits[:, 0])


def _ask(fitted: TrainingResult, settings: TrainConfig, test: PatchSet, read: FeatureStore) -> _Asked:
    index = draw_pool(test, max(LEAST_ASKED, min(PER_UNIT * len(np.unique(test.patient)), MOST_ASKED)))
    backbone, head = _head(fitted, settings)
    z = np.empty((0, N_EDITS))
    if len(index):
        logits = head.logits(read.of_asked(test, index, backbone))
        z = (logits[..., 1] - logits[..., 0] - fitted.decision_threshold) / fitted.temperature
    known = np.isfinite(z).any(axis=1)
    index = index[known]
    who = test.patient[index].astype(np.str_), test.label[index]
    return _Asked(z[known], test.tissue_fraction[index], *who, bool(settings.invariance))


def _reliance(asked: Sequence[_Asked]) -> dict[str, Any]:
    """Return verdict, eta and adj of the heads of all folds, each asked about its own test patches."""
    if not asked:
        return {}
    z, area, patient, label = (
        np.concatenate([getattr(part, name) for part in asked]) for name in ("z", "area", "patient", "label")
    )
    found = reliance(
        replace(responses_of(z, np.arange(len(z)), area, patient), label=label),
        is_trained_on_edits=any(part.is_trained_on_edits for part in asked),
    )
    ends = {f"{name}{end}": found.get(name, {}).get(key) for name in ("eta", "adj") for end, key in _ENDS.items()}
    about = {name: found.get(name) for name in ("within", "within_class")}
    return {"verdict": found["verdict"], "asked": found["patches"], **ends, **about} | {
        "reasons": "; ".join(found["reasons"])
    }


def _of_images(table: pd.DataFrame, groups: pd.DataFrame | None) -> dict[str, float]:
    """Return the AUROC of the images' mean logit, of pairs within a fold and of all pairs; NaN where there are none."""
    if groups is None:
        return {"images": np.nan, "images_pooled": np.nan}
    predictions = table.rename(columns={"z": "logit", "tissue": "tissue_fraction"})
    scores = score_slides(predictions, groups, of="slide", decision_threshold=0.0)["auroc"]
    return {
        name: np.nan if scores[end] is None else scores[end]
        for name, end in (("images", "value"), ("images_pooled", "pooled"))
    }
