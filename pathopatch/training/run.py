"""Train one run of a work folder: read patches and groups, write configuration, history, checkpoint and model.

``runs/<run>/`` holds ``config.json``, ``history.csv``, ``checkpoint.safetensors``, ``model/`` (the bundle) and
``log.json`` (times, which differ between equal runs). ``run.json`` with the stamp is written last: a run without it is
not finished.
"""

from __future__ import annotations

import time
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from pathopatch.core import artefacts, files
from pathopatch.core.artefacts import Job, Stamp, fingerprint, made
from pathopatch.core.config import (
    EXACT,
    LINEAR_HEAD,
    NO_EFFECT,
    IntensityConfig,
    TissueConfig,
    TrainConfig,
    head_settings,
    known_limits,
)
from pathopatch.core.errors import InputUnsupportedError
from pathopatch.core.files import read_json, write_csv, write_json
from pathopatch.core.mask_bits import MaskKind
from pathopatch.core.work_folder import INNER_FOLDS, WorkFolder
from pathopatch.features.cohort import is_feature_cohort
from pathopatch.groups.assign import JoinedBins, join_small_bins
from pathopatch.groups.attribute import label_names
from pathopatch.groups.audit import verdict_text
from pathopatch.models.bundle import save_bundle
from pathopatch.models.networks import InteriorCrops
from pathopatch.models.spec import BundleSpec, class_names
from pathopatch.patches.store import PatchStore
from pathopatch.training.checkpoint import NONFINITE, CheckpointFolder
from pathopatch.training.data_summary import appearance_range, bundle_marks, summarize_data
from pathopatch.training.dataset import PatchSet, load_features, load_patches
from pathopatch.training.distributed import ProcessGroup, process_group
from pathopatch.training.feature_cache import FeatureCache
from pathopatch.training.fit import fit_arrays
from pathopatch.training.frozen import head_choice
from pathopatch.training.group_checks import drawn_by, groups_of, method_of, own_parameters, require_groups
from pathopatch.training.intervene import intervenes
from pathopatch.training.invariance import EDITS
from pathopatch.training.loop import StepCallback
from pathopatch.training.optimise import training_dtype
from pathopatch.training.result import TrainingResult

RUN, MODEL = "run.json", "model"


def fit(work: Path, config: TrainConfig, *, progress: StepCallback | None = None, force: bool = False) -> Path:
    """Train one run on the stored patches of a work folder and return its folder ``runs/<run_name>``.

    A killed run goes on from its last checkpoint; a finished one of the same stamp is left as it is, and one of other
    settings or inputs is a StaleArtefactError, or redone with `force`. Under ``torchrun`` all processes train one run
    together, and the first one writes. Further errors are those of `load_patches` and `fit_arrays`.
    """
    config = cohort_settings(work, config)
    folder = WorkFolder(work).run(config.run_name)
    groups = groups_of(work, config)
    with process_group(config.device) as processes:
        if processes.world > 1:  # the batches depend on it, so it belongs to the stamp
            config = config.model_copy(update={"cell_unit": config.cell_unit or processes.world})
        stamp = run_stamp(work, groups, config, stage="train", settings=settings_of(config))
        with made(folder / RUN, stamp=stamp, force=force) as job:
            processes.barrier()  # all have looked before the first changes anything
            if job.is_current:
                return folder
            require_groups(groups, config)
            if processes.is_first:
                begin_run(folder)
            train, val = load_sets(work, groups, config)
            start = time.perf_counter()
            checkpoints = CheckpointFolder(folder, stamp)
            reader: dict[str, Any] = {}
            if config.frozen:
                device, threads = config.device, config.threads
                cache = FeatureCache(
                    work, groups, input_px=config.input_px, device=device, threads=threads, progress=progress
                )
                # Patients of train and val change places in inner folds, and these draw and select by two attributes.
                divides = WorkFolder(work).tiled.root != work and not config.groups_from
                reader = {"read_features": cache, "inner_folds": config.inner_folds if divides else 0}
            result = fit_arrays(train, val, config, checkpoints=checkpoints, progress=progress, **reader)
            if processes.is_first:
                seconds = time.perf_counter() - start
                write_run(work, folder, result, config, job, train=train, seconds=seconds)
            processes.barrier()
    return folder


def cohort_settings(work: Path, config: TrainConfig) -> TrainConfig:
    """Return the settings of a run in a work folder: those of a head where its patches are features.

    InputUnsupportedError for a head in a work folder of patches, and for settings that features do not allow.
    """
    if is_feature_cohort(work):
        if config.frozen:
            raise InputUnsupportedError(
                "the work folder holds features, not patches that a backbone could see",
                place="[train] frozen",
                remedy="leave it out: a linear head on these features is solved as exactly",
            )
        return head_settings(config)
    if config.frozen:
        # Patches are never enlarged here: the network brings them to its own size.
        groups = artefacts.read_table(WorkFolder(work).groups)
        store = PatchStore(WorkFolder(work).tiled.store(str(groups["slide_id"].iloc[0])))
        side = min(config.input_px, int(store.attributes["patch_px"]))
        config = config.model_copy(update={"input_px": side, **EXACT})
    if config.architecture == LINEAR_HEAD:
        raise InputUnsupportedError(
            f"{config.architecture!r} takes features of an encoder, and the work folder holds patches",
            place="[train] architecture",
            remedy="leave it out, or make a work folder of features: pathopatch audit --features DIR --labels CSV",
        )
    return config


def settings_of(config: TrainConfig) -> dict[str, Any]:
    """Return the settings that decide the weights, as plain values."""
    settings: dict[str, Any] = config.model_dump(mode="json", exclude=NO_EFFECT)
    # Runs of version 0.2 knew neither, and are current where both are unset; what is chosen has another default since.
    unset = () if config.choose else ("invariance", "pooling")
    return {name: value for name, value in settings.items() if value is not None or name not in unset}


def run_stamp(work: Path, groups: pd.DataFrame, config: TrainConfig, *, stage: str, settings: Any) -> Stamp:
    """Return the stamp of a run (``train`` or ``tune``), with `settings` as its configuration."""
    # Of the groups only what the run reads: a further threshold, or a change in the test split, makes no run stale.
    parts = []
    for split in ("train", "val"):
        column = drawn_by(config, groups, split).column
        rows = groups[(groups["split"] == split) & (groups["label"] >= 0) & (groups[column] >= 0)]
        parts.append(rows[["patch_id", "split", "label", column]])
    used = pd.concat(parts).sort_index()  # as the table has them
    content = fingerprint({column: used[column].dropna().tolist() for column in used.columns})
    tables = {
        slide: artefacts.fingerprint_file(WorkFolder(work).tiled.patches(slide))
        for slide in sorted(set(groups.loc[used.index, "slide_id"]))
    }
    return Stamp(stage=stage, settings=settings, inputs={"groups": content, "patches": fingerprint(tables)})


def load_sets(work: Path, groups: pd.DataFrame, config: TrainConfig) -> tuple[PatchSet, PatchSet | None]:
    """Return the training patches and ``val``, by the attribute that the run draws and selects by."""
    column = {split: drawn_by(config, groups, split).column for split in ("train", "val")}
    rows = {split: groups[groups[name] >= 0] for split, name in column.items()}
    if config.architecture == LINEAR_HEAD:
        train, val = (load_features(work, rows[split], splits=(split,)) for split in rows)
    else:
        masks: tuple[MaskKind, ...] = (
            () if config.mask == "none" and not (config.choose or config.invariance) else ("tissue",)
        )
        masks = ("tissue", "tumor") if intervenes(method_of(config), config) else masks
        load = partial(load_patches, work, input_px=config.input_px, masks=masks)
        held_gib = 0.0 if config.frozen else config.cache_gib  # their features are computed once, slide by slide
        train = load(rows["train"], splits=("train",), cache_gib=0.75 * held_gib)
        val = load(rows["val"], splits=("val",), cache_gib=0.25 * held_gib)
    of_patch = groups.set_index("patch_id")
    train, val = (
        patches.with_attribute(of_patch.loc[patches.patch_id, column[split]].to_numpy(np.int64))
        for split, patches in (("train", train), ("val", val))
    )
    if bins := bins_of_run(groups, config):
        train = train.with_attribute(bins.join(train.attribute))
        val = val.with_attribute(bins.join(val.attribute))
    return train, val if len(val) else None


def bins_of_run(groups: pd.DataFrame, config: TrainConfig) -> JoinedBins | None:
    """Return the bins that a run draws by, small ones joined; None for a run that draws by a threshold."""
    if not config.bins:
        return None
    # A bin must be large enough in every set that draws or selects by it.
    selects = [] if config.select == "last" else [("val",)]
    return join_small_bins(groups, config.bins, splits=[("train",), *selects], least=config.least_per_bin)


def begin_run(folder: Path) -> None:
    """Make a run's folder, and remove the marks of completion and of failure that an earlier run left there."""
    with files.disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for name in (RUN, NONFINITE, INNER_FOLDS):
            (folder / name).unlink(missing_ok=True)


def write_run(
    work: Path,
    folder: Path,
    result: TrainingResult,
    config: TrainConfig,
    job: Job,
    *,
    train: PatchSet,
    seconds: float,
) -> None:
    """Write everything about a finished run, its stamp last; `seconds` go into ``log.json`` alone."""
    groups = groups_of(work, config)
    bins = bins_of_run(groups, config)
    used = result.settings or config
    spec = _bundle_spec(work, groups, bins, result, used, job.stamp, train)
    # A bundle holds the network of the crops; the rule by which they are cut is in its spec.
    network = result.network.network if isinstance(result.network, InteriorCrops) else result.network
    save_bundle(folder / MODEL, network, spec, compare=result.compare)
    write_json(folder / "config.json", config.model_dump(mode="json"))
    write_csv(folder / "history.csv", pd.DataFrame(list(result.history)))
    if result.inner_fold_logit is not None:
        write_csv(folder / INNER_FOLDS, pd.DataFrame(result.inner_fold_logit.items(), columns=["patch_id", "logit"]))
    # What differs between equal runs has a file of its own: all others are equal to the byte.
    device = ProcessGroup.current().device(config.device)
    log = {"seconds": round(seconds, 3), "threads": config.threads or torch.get_num_threads(), "device": str(device)}
    if not config.is_solved:  # a head is solved in float64
        log["precision"] = str(training_dtype(config.precision, device)).removeprefix("torch.")
    write_json(folder / "log.json", log)
    picked = {
        "step": result.step,
        "decision_threshold": result.decision_threshold,
        "temperature": result.temperature,
        "validation": result.validation,
    }
    if config.frozen:
        picked["chosen"] = head_choice(used) | ({"largest_s": result.largest_s} if result.largest_s else {})
    if bins is not None:
        counts = dict(zip(("train", "val"), bins.counts.tolist(), strict=False))
        picked["bins"] = {"cuts": list(bins.cuts), "kept": list(bins.kept), "counts": counts}
    if result.crops is not None:
        without = dict(zip(("train", "val"), result.without_crop, strict=True))
        picked["crops"] = asdict(result.crops) | {"without": without}
    job.write_json(folder / RUN, picked)


def _bundle_spec(
    work: Path,
    groups: pd.DataFrame,
    bins: JoinedBins | None,
    result: TrainingResult,
    config: TrainConfig,
    stamp: Stamp,
    train: PatchSet,
) -> BundleSpec:
    """Return the description of the trained model."""
    source = train.source
    assert source is not None  # only patches without a slide have none, and a run without patches is refused
    path = WorkFolder(work).audit
    audit = read_json(path) if path.is_file() else {}  # its verdict is for whoever uses the model elsewhere
    labels = label_names(groups) if result.n_classes == 2 else class_names(result.n_classes)
    return BundleSpec(
        package_version=stamp.package_version,
        architecture=config.architecture,
        timm_args=config.timm_args,
        backbone=result.backbone,
        channels=source.channels,
        dtype=source.dtype,
        background=source.background,
        encoder=None if source.encoder is None else dict(source.encoder),
        patch_px=source.patch_px,
        stride_px=source.stride_px,
        mpp=source.mpp,
        input_px=config.input_px,
        mask=config.mask,
        crop_px=None if result.crops is None else result.crops.crop_px,
        intensity=IntensityConfig.model_validate(source.intensity),
        tissue=TissueConfig.model_validate(source.tissue),
        align=source.align,
        mean=result.mean,
        std=result.std,
        **known_limits(audit),
        class_names=labels,
        decision_threshold=result.decision_threshold,
        decision_chosen_for=result.decision_chosen_for,
        temperature=result.temperature,
        method=config.method,
        parameters=_parameters(config),
        group_metrics=result.validation,
        data=summarize_data(groups, config, bins=bins, class_names=labels)
        | ({"audit": verdict_text(audit)} if "verdict" in audit else {}),
        training=dict(stamp.inputs) | {"config": stamp.config} | bundle_marks(work, groups),
        seen=None if source.encoder is not None else appearance_range(work, groups, train),
    )


def _parameters(config: TrainConfig) -> dict[str, Any]:
    """Return the settings that a bundle states, by name."""
    names = ["weight_decay", "threshold", "seed"]
    if not config.is_solved:  # a head is solved without steps
        names += ["optimizer", "learning_rate", "steps", "batch_per_class"]
    names += ["invariance"] * bool(config.invariance)
    parameters = {name: getattr(config, name) for name in names} | own_parameters(config)
    if config.invariance:  # audit-model acquits such a model by labels alone
        parameters["invariance_edits"] = {"area_and_kept": EDITS, "seed": "crc32 of the patch's name"}
    if not config.frozen and str(config.pretrained) != "none":  # of a frozen network the backbone says it
        is_file = str(config.pretrained) != "efficientnet-lite0"
        parameters["pretrained"] = Path(config.pretrained).name + " (licence not known)" * is_file
    if config.bins:
        parameters |= config.model_dump(mode="json", include={"bins", "least_per_bin"})
    if config.groups_from:
        parameters |= config.model_dump(mode="json", include={"groups_from", "hard_share"})
    if intervenes(method_of(config), config):
        composing = config.composing.model_dump(mode="json", exclude_none=True)
        parameters |= {f"composing_{name}": value for name, value in composing.items()}
    return parameters
