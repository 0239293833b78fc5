"""What a training run reads and leaves: patches and groups in; configuration, history, checkpoint and model out.

``runs/<run>/`` holds ``config.json``, ``history.csv``, ``checkpoint.safetensors``, ``model/`` (the bundle),
``log.json`` (times, which differ between runs), ``learnt_from_val.csv`` where a method learnt from some validation
patches too, on request ``tensorboard/`` (event files, which hold times too) and,
written last, ``run.json`` with the stamp: a run without it is not finished.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from pathopatch.core import artefacts, files
from pathopatch.core.artefacts import Stamp, fingerprint, json_stamp
from pathopatch.core.config import IntensityConfig, TissueConfig, TrainConfig
from pathopatch.core.errors import InputMissingError
from pathopatch.core.files import inside, read_json, tiled_in, write_bytes, write_json
from pathopatch.groups.attribute import label_names
from pathopatch.groups.bins import Bins, used_bins
from pathopatch.models.bundle import save_bundle
from pathopatch.models.spec import BundleSpec, class_names
from pathopatch.training.appearance import seen_range
from pathopatch.training.data_summary import data_of
from pathopatch.training.dataset import PatchSet, column_of, load_patches
from pathopatch.training.distributed import joined
from pathopatch.training.fit import NONFINITE, Fitted, Keep, Progress, fit_arrays
from pathopatch.training.leakage import seen
from pathopatch.training.phase_data import own_parameters
from pathopatch.training.required_groups import require_groups
from pathopatch.training.source import Source

RUN, MODEL, LEARNT = "run.json", "model", "learnt_from_val.csv"
_NO_EFFECT = {"device", "threads", "cache_gib", "name", "compile", "checkpoint_every", "prefetch", "tensorboard"}
"""Settings without effect on what is learnt, up to rounding."""


def fit(work: Path, config: TrainConfig, *, progress: Progress | None = None, force: bool = False) -> Path:
    """Train one run on the stored patches of a work folder and return its folder.

    A run that was killed goes on from its last checkpoint; a finished one of the same stamp is left as it is. Under
    ``torchrun`` all processes train one run together, and the first one writes.

    Parameters
    ----------
    work : Path
        Work folder with ``groups.parquet``, ``slides/`` and ``patches/``.
    config : TrainConfig
        All settings.
    progress : callable, optional
        See `fit_arrays`.
    force : bool
        Redo a run of other settings or inputs.

    Returns
    -------
    Path
        ``runs/<run_name>``.

    Raises
    ------
    StaleArtefactError
        A finished run of other settings or inputs stands there and `force` is off.
    InputMissingError
        Groups or patches are missing.
    GroupEmptyError
        A group that the method needs has no patch.
    PathopatchError
        As `fit_arrays`.
    """
    folder = inside(work, "runs", config.run_name)
    groups = artefacts.read_table(work / "groups.parquet")
    with joined(config.device) as ranks:
        if ranks.world > 1:  # what is drawn depends on it, so it belongs to the stamp
            config = config.model_copy(update={"cell_unit": config.cell_unit or ranks.world})
        stamp = run_stamp(work, groups, config, stage="train", settings=settings_of(config))
        is_done = artefacts.is_current(stamp, json_stamp(folder / RUN), place=folder, force=force)
        ranks.barrier()  # all have looked before the first changes anything
        if is_done:
            return folder
        require_groups(groups, config)
        if ranks.is_first:
            begin(folder)
        train, val = load_sets(work, groups, config)
        start = time.perf_counter()
        keep = Keep(folder, fingerprint(stamp.to_dict()))
        fitted = fit_arrays(train, val, config, keep=keep, progress=progress)
        if ranks.is_first:
            write_run(work, folder, fitted, config, stamp, train=train, seconds=time.perf_counter() - start)
        ranks.barrier()
    return folder


def settings_of(config: TrainConfig) -> dict[str, Any]:
    """Return the settings that decide what is learnt, as plain values."""
    return config.model_dump(mode="json", exclude=_NO_EFFECT)


def run_stamp(work: Path, groups: pd.DataFrame, config: TrainConfig, *, stage: str, settings: Any) -> Stamp:
    """Return the stamp of a run: of the groups only what it reads, so that a further threshold makes no run stale.

    Parameters
    ----------
    work : Path
        Work folder.
    groups : DataFrame
        The groups table.
    config : TrainConfig
        Names the splits and the threshold.
    stage : str
        ``train`` or ``tune``.
    settings : Any
        What to fingerprint as the configuration.
    """
    names = [column_of(groups, threshold=config.threshold, bins=config.bins)]
    names += [] if config.select_at is None else [column_of(groups, threshold=config.select_at)]
    names += ["tissue_fraction"] if config.attribute == "rank" else []
    is_used = groups["split"].isin([*config.train_splits, "val"]) & (groups["label"] >= 0) & (groups[names[0]] >= 0)
    used = groups[is_used]
    read = used[["patch_id", "split", "label", *dict.fromkeys(names)]]
    content = fingerprint({column: read[column].tolist() for column in read.columns})
    tables = {
        slide: artefacts.fingerprint_file(inside(tiled_in(work), "patches", f"{slide}.parquet"))
        for slide in sorted(set(used["slide_id"]))
    }
    return Stamp(stage=stage, config=fingerprint(settings), inputs={"groups": content, "patches": fingerprint(tables)})


def load_sets(work: Path, groups: pd.DataFrame, config: TrainConfig) -> tuple[PatchSet, PatchSet | None]:
    """Return the training patches and those of the split ``val``; no patch of the test split is touched.

    The attribute is what the run draws by, small bins joined; in validation, what it is selected by.
    """

    def load(splits: tuple[str, ...], share: float, threshold: float, bins: tuple[float, ...]) -> PatchSet:
        return load_patches(
            work,
            groups,
            input_px=config.input_px,
            splits=splits,
            threshold=threshold,
            bins=bins,
            cache_gib=config.cache_gib * share,
        )

    train = load(config.train_splits, 0.75, config.threshold, config.bins)
    selected = (config.threshold, config.bins) if config.select_at is None else (config.select_at, ())
    val = load(("val",), 0.25, *selected)
    if bins := bins_of_run(groups, config):
        train = train.with_attribute(bins.joined(train.attribute))
        val = val.with_attribute(bins.joined(val.attribute)) if config.select_at is None else val
    return train, val if len(val) else None


def bins_of_run(groups: pd.DataFrame, config: TrainConfig) -> Bins | None:
    """Return the bins that a run draws by, small ones joined; None for a run that draws by a threshold or by rank."""
    if not config.bins:
        return None
    selects = [] if config.select == "last" or config.select_at is not None else [("val",)]
    return used_bins(groups, config.bins, splits=[config.train_splits, *selects], least=config.least_per_bin)


def unlearnt(folder: Path, predictions: pd.DataFrame) -> pd.DataFrame:
    """Return predictions without those on validation patches that the run learnt from: they are no validation of it.

    Parameters
    ----------
    folder : Path
        Of the run.
    predictions : DataFrame
        Columns patch_id and split.

    Raises
    ------
    InputMissingError
        Nothing is left.
    """
    settings, held_out = folder / "config.json", folder / LEARNT
    raw = read_json(settings) if settings.is_file() else {}
    if "val" in raw.get("train_splits", ()):
        is_learnt = predictions["split"] == "val"
    elif held_out.is_file():
        names = pd.read_csv(held_out, dtype=str, keep_default_na=False)["patch_id"]
        is_learnt = (predictions["split"] == "val") & predictions["patch_id"].isin(names)
    else:
        return predictions
    if is_learnt.all():
        raise InputMissingError(
            "no labelled patch that the run did not learn from", place=str(folder), remedy="judge it on other splits"
        )
    return predictions[~is_learnt].reset_index(drop=True)


def begin(folder: Path) -> None:
    """Make a run's folder, and take the marks of completion and of failure off what is redone there."""
    with files.disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for name in (RUN, NONFINITE, LEARNT):
            (folder / name).unlink(missing_ok=True)


def write_run(
    work: Path,
    folder: Path,
    fitted: Fitted,
    config: TrainConfig,
    stamp: Stamp,
    *,
    train: PatchSet,
    seconds: float,
) -> None:
    """Write everything about a finished run, its stamp last.

    Parameters
    ----------
    work, folder : Path
        Work folder, and the run's own.
    fitted : Fitted
        The result.
    config : TrainConfig
        With which it was reached.
    stamp : Stamp
        Of the run.
    train : PatchSet
        What it was trained on.
    seconds : float
        Time taken; goes into ``log.json`` alone.
    """
    if train.source is None:
        raise InputMissingError("patches without a slide store", place=str(work), remedy="run pathopatch tile first")
    spec = bundle_spec(work, fitted, config, stamp, train, train.source)
    save_bundle(folder / MODEL, fitted.network, spec)
    write_json(folder / "config.json", config.model_dump(mode="json"))
    history = pd.DataFrame(list(fitted.history)).to_csv(index=False, lineterminator="\n")
    write_bytes(folder / "history.csv", history.encode())
    if fitted.learnt_from_val:
        learnt = pd.DataFrame({"patch_id": fitted.learnt_from_val}).to_csv(index=False, lineterminator="\n")
        write_bytes(folder / LEARNT, learnt.encode())
    log = {"seconds": round(seconds, 3), "threads": config.threads or torch.get_num_threads(), "device": config.device}
    write_json(folder / "log.json", log)
    picked = {
        "step": fitted.step,
        "decision_threshold": fitted.decision_threshold,
        "temperature": fitted.temperature,
        "validation": fitted.validation,
    }
    picked |= _bins_used(work, config)
    write_json(folder / RUN, {**picked, "stamp": stamp.to_dict()})


def _bins_used(work: Path, config: TrainConfig) -> dict[str, Any]:
    """Return under ``bins`` which cuts a run kept, and the patches by label and bin that said so; nothing without."""
    bins = bins_of_run(artefacts.read_table(work / "groups.parquet"), config)
    if bins is None:
        return {}
    splits = ("train", "val")[: len(bins.counts)]
    counts = dict(zip(splits, bins.counts.tolist(), strict=True))
    return {"bins": {"cuts": list(bins.cuts), "kept": list(bins.kept), "counts": counts}}


def bundle_spec(
    work: Path, fitted: Fitted, config: TrainConfig, stamp: Stamp, train: PatchSet, source: Source
) -> BundleSpec:
    """Return what the model bundle says of a run."""
    names = ("optimizer", "learning_rate", "weight_decay", "steps", "batch_per_class", "threshold", "seed")
    groups = artefacts.read_table(work / "groups.parquet")
    labels = label_names(groups) if fitted.n_classes == 2 else class_names(fitted.n_classes)
    return BundleSpec(
        package_version=stamp.package_version,
        architecture=config.architecture,
        channels=source.channels,
        dtype=source.dtype,
        background=source.background,
        patch_px=source.patch_px,
        stride_px=source.stride_px,
        mpp=source.mpp,
        input_px=config.input_px,
        intensity=IntensityConfig.model_validate(source.intensity),
        tissue=TissueConfig.model_validate(source.tissue),
        align=source.align,
        mean=fitted.mean,
        std=fitted.std,
        min_tissue=_min_tissue(work),
        class_names=labels,
        decision_threshold=fitted.decision_threshold,
        decision_chosen_for=fitted.decision_chosen_for,
        temperature=fitted.temperature,
        method=config.method,
        parameters={name: getattr(config, name) for name in names} | own_parameters(config) | _drawn_by(config),
        group_metrics=fitted.validation,
        data=data_of(
            groups,
            config,
            bins=bins_of_run(groups, config),
            class_names=labels,
            learnt_from_val=len(fitted.learnt_from_val),
        ),
        training=dict(stamp.inputs) | {"config": stamp.config} | seen(work, groups, config.train_splits),
        seen=seen_range(work, groups, train),
    )


def _drawn_by(config: TrainConfig) -> dict[str, Any]:
    """Return what a run draws and is selected by, as far as that is not its threshold."""
    names = ("attribute", "bins", "least_per_bin", "select_at") if config.bins else ("attribute", "select_at")
    is_plain = config.attribute == "groups" and not config.bins and config.select_at is None
    return {} if is_plain else config.model_dump(mode="json", include=set(names))


def _min_tissue(work: Path) -> float:
    """Return the tissue share below which `groups` took patches for blank glass, or its default."""
    path = work / "groups" / "audit.json"
    default = float(BundleSpec.model_fields["min_tissue"].default)
    return float(read_json(path).get("min_tissue", default)) if path.is_file() else default
