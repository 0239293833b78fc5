"""Make a cohort of synthetic multimodal slides of known truth, with or without the tissue-area shortcut.

A slide is a grid of square fields of one patch each. A field is blank, or holds one tissue island: small or large, all
tumour or all non-tumour. With the shortcut, nearly all tumour islands of the training slides are large and nearly all
others small. Validation and test are balanced over label and size, so they show which models learned the size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import NormalDist
from typing import Any, Literal

import cv2
import numpy as np
import pandas as pd
import tifffile
from numpy.typing import NDArray

from pathopatch.core.artefacts import Stamp, made
from pathopatch.core.errors import InputUnsupportedError
from pathopatch.core.files import atomic_path, write_bytes, write_csv
from pathopatch.core.patients import SPLITS
from pathopatch.core.task import Progress
from pathopatch.demo.texture import Floats, SlideStyle, TextureSpec, draw_field, island, smooth_noise

CHANNELS = ("CARS", "TPEF", "SHG")
MASK_SCALE = 4
"""Slide pixels per pixel of a tumour mask, each way."""

Size = Literal["small", "between", "large", "blank"]


@dataclass(frozen=True, kw_only=True)
class CohortSpec:
    """Numbers that define a cohort; triples of int are for train, val, test."""

    slides: tuple[int, int, int] = (28, 8, 12)  # 3,548, 1,014 and 1,520 patches; 250 and 370 in a balanced group
    patients: tuple[int, int, int] = (14, 6, 8)  # some have two slides, as in real cohorts
    fields: int = 12  # a side: 144 fields a slide
    field_px: int = 96  # one patch; 96 um show some ten nuclei even in a small island
    mpp: float = 1.0  # a nucleus is 5 to 11 px
    blank_share: float = 0.12  # of the fields: glass, as on every slide
    small: tuple[float, float] = (0.12, 0.22)  # tissue share of a field; clear of both thresholds, 0.25 and 0.5
    between: tuple[float, float] = (0.32, 0.44)  # large at 0.25, small at 0.5
    large: tuple[float, float] = (0.68, 0.93)
    between_share: float = 0.02  # of each class: the thresholds differ, and neither lies off the gap
    minority_share: float = 0.04  # of each class in train, with the shortcut; with those between, 4 to 6 %
    grade_mean: float = 0.86  # of tumour; of non-tumour it is the opposite
    # The classes overlap. A small island shows few nuclei and is harder to classify anyway, so large ones overlap more:
    # no classifier of the texture exceeds 97.5 % on them.
    grade_sd_small: float = 0.34
    grade_sd_large: float = 0.44
    gain: tuple[float, float, float] = (400.0, 300.0, 240.0)  # mean counts inside tissue: CARS, TPEF, SHG
    gain_spread: float = 0.25  # log-normal sd over slides: laser power, detector voltage
    nucleus_scale_spread: float = 0.04  # log-normal sd over patients
    fibre_scale_spread: float = 0.25  # log-normal sd over slides: some stroma is fibrous, some is not
    dark_counts: float = 100.0  # detector offset
    read_noise: float = 2.5  # sd, counts
    shot_noise: float = 0.8  # variance per count of signal
    vignetting: float = 0.25  # light lost in the corner of a scan tile
    seam_spread: float = 0.02  # sd of the gain from scan tile to scan tile
    mosaic_px: int = 256  # side of a scan tile; no multiple of the patch, or vignetting would show its place
    optics_um: float = 0.7  # Gaussian sigma of the focus
    texture: TextureSpec = field(default_factory=TextureSpec)

    def __post_init__(self) -> None:
        if any(not 1 <= patients <= slides for patients, slides in zip(self.patients, self.slides, strict=True)):
            raise InputUnsupportedError(
                f"{self.patients} patients for {self.slides} slides",
                place="CohortSpec",
                remedy="give each split at least one patient, and each patient at least one slide",
            )
        if self.field_px % MASK_SCALE:
            raise InputUnsupportedError(
                f"field_px = {self.field_px}",
                place="CohortSpec",
                remedy=f"use a multiple of {MASK_SCALE}, so that no mask pixel spans two fields",
            )


@dataclass(frozen=True)
class Field:
    """Content of one field."""

    label: int  # 1 for tumour
    size: Size
    share: float  # of tissue, in [0, 1]
    grade: float  # how tumour-like its texture is: about 1 for tumour, -1 for non-tumour, with overlap


def make_cohort(
    out: Path | str,
    *,
    seed: int,
    shortcut: bool = True,
    spec: CohortSpec | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Write a cohort of slides, their tumour masks and the truth of every patch; return its ``manifest.csv``.

    Equal arguments give equal bytes. A finished cohort of the same arguments is kept, one of others only with `force`
    replaced. `out` gets ``manifest.csv``, ``truth.csv``, ``cohort.json``, ``slides/`` (one TIFF a channel) and
    ``masks/``. Without the shortcut the training slides are balanced as validation and test are.
    """
    out, spec = Path(out), spec or CohortSpec()
    stamp = Stamp(stage="demo", settings={"seed": seed, "shortcut": shortcut, "spec": asdict(spec)})
    manifest, facts = out / "manifest.csv", out / "cohort.json"
    with made(facts, stamp=stamp, force=force, is_whole=manifest.is_file) as job:
        if job.is_current:
            return manifest
        facts.unlink(missing_ok=True)
        rows: list[dict[str, Any]] = []
        truth: list[dict[str, Any]] = []
        if progress:
            progress("make slides", 0, sum(spec.slides))
        for slide_id, patient_id, split, fields, style, rng in _plan_cohort(seed, shortcut, spec):
            pixels, tumor = draw_slide(fields, style, rng=rng, spec=spec)
            rows.append(_write_slide(out, slide_id, pixels, tumor, spec) | {"patient_id": patient_id, "split": split})
            truth += _truth_rows(slide_id, split, fields, spec)
            if progress:
                progress("make slides", len(rows), sum(spec.slides), slide_id)
        names = ("slide_id", "patient_id", "split", *(f"path:{c}" for c in CHANNELS), "mpp", "tumor_mask", "background")
        write_csv(out / "truth.csv", pd.DataFrame(truth))
        write_csv(manifest, pd.DataFrame(rows)[list(names)])
        job.write_json(facts, {"seed": seed, "shortcut": shortcut, "spec": asdict(spec)})
    return manifest


def plan_split(split: str, *, rng: np.random.Generator, shortcut: bool, spec: CohortSpec) -> list[list[Field]]:
    """Return the fields of each slide of one split in any order, with the groups spread evenly over the slides."""
    n_slides = spec.slides[SPLITS.index(split)]
    total = n_slides * spec.fields**2
    per_class = (total - round(spec.blank_share * total)) // 2
    between = round(spec.between_share * per_class)
    is_skewed = shortcut and split == "train"
    minority = round(spec.minority_share * per_class) if is_skewed else (per_class - between) // 2
    majority = per_class - between - minority
    fields: list[Field] = []
    for label, small, large in ((0, majority, minority), (1, minority, majority)):
        for size, count in (("small", small), ("between", between), ("large", large)):
            low, high = getattr(spec, size)
            fields += _group(label, size, count, low=low, high=high, rng=rng, spec=spec)  # type: ignore[arg-type]
    fields += [Field(0, "blank", 0.0, 0.0)] * (total - len(fields))
    # Every n-th field: each slide gets its part of each group.
    return [fields[start::n_slides] for start in range(n_slides)]


def _group(
    label: int, size: Size, count: int, *, low: float, high: float, rng: np.random.Generator, spec: CohortSpec
) -> list[Field]:
    """Return fields of one label and size with random shares and grades."""
    # Evenly spaced quantiles in random order, not random draws: no group is harder than planned by chance.
    quantiles = (np.arange(count) + 0.5) / max(count, 1)
    shares = low + (high - low) * rng.permutation(quantiles)
    sd = spec.grade_sd_small if size == "small" else spec.grade_sd_large
    grades = NormalDist(spec.grade_mean * (2 * label - 1), sd)
    grade = rng.permutation([grades.inv_cdf(q) for q in quantiles])
    return [Field(label, size, float(s), float(g)) for s, g in zip(shares, grade, strict=True)]


def _arrange(fields: Sequence[Field], *, side: int, rng: np.random.Generator) -> list[Field]:
    """Return the ``side**2`` fields in row-major order: mostly tissue in the middle, glass at the rim."""
    axis = (np.arange(side) + 0.5) / side - 0.5
    radius = np.hypot(axis[None, :], axis[:, None])
    depth = smooth_noise((side, side), side / 3, rng) - 5 * radius + 0.7 * rng.standard_normal((side, side))
    rank = np.array([item.share for item in fields]) + 0.15 * rng.standard_normal(len(fields))
    order = np.empty(len(fields), dtype=np.int64)
    order[np.argsort(depth.ravel())] = np.argsort(rank)
    return [fields[int(index)] for index in order]


def draw_slide(
    fields: Sequence[Field], style: SlideStyle, *, rng: np.random.Generator, spec: CohortSpec
) -> tuple[NDArray[np.uint16], NDArray[np.uint8]]:
    """Return the pixels (3, H, W) of a slide in counts, and its tumour mask of 0 and 255, (H, W) / MASK_SCALE.

    `fields` are in row-major order of the grid.
    """
    step, side = spec.field_px, spec.fields * spec.field_px
    signal = np.zeros((len(CHANNELS), side, side), dtype=np.float32)
    tumor = np.zeros((side, side), dtype=np.uint8)
    for index, item in enumerate(fields):
        if item.size == "blank":
            continue
        y, x = index // spec.fields * step, index % spec.fields * step
        tissue = island(step, item.share, rng)
        signal[:, y : y + step, x : x + step] = draw_field(
            tissue, item.grade, style=style, spec=spec.texture, mpp=spec.mpp, rng=rng
        )
        tumor[y : y + step, x : x + step] = item.label * tissue
    pixels = np.stack([_scan(plane, rng=rng, spec=spec) for plane in signal])
    # A mask pixel that holds any tumour is set.
    blocks = tumor.reshape(side // MASK_SCALE, MASK_SCALE, side // MASK_SCALE, MASK_SCALE)
    return pixels, (255 * blocks.max(axis=(1, 3))).astype(np.uint8)


def _scan(signal: Floats, *, rng: np.random.Generator, spec: CohortSpec) -> NDArray[np.uint16]:
    """Return detector counts: with the blur of the focus, vignetting and seams of the mosaic, shot and read noise."""
    side = signal.shape[0]
    blurred = cv2.GaussianBlur(signal, (0, 0), spec.optics_um / spec.mpp)
    axis = np.linspace(-1, 1, spec.mosaic_px, dtype=np.float32)
    lamp = 1 - spec.vignetting * (axis[None, :] ** 2 + axis[:, None] ** 2) / 2
    tiles = -(-side // spec.mosaic_px)
    gains = rng.normal(1, spec.seam_spread, (tiles, tiles)).astype(np.float32)
    lit = blurred * np.kron(gains, lamp)[:side, :side]
    noise = rng.standard_normal(lit.shape, dtype=np.float32)
    noise *= np.sqrt(np.float32(spec.shot_noise) * lit + np.float32(spec.read_noise**2))
    counts: Floats = np.rint(lit + noise + np.float32(spec.dark_counts))
    return np.asarray(counts.clip(0, 65535), dtype=np.uint16)


def _plan_cohort(
    seed: int, shortcut: bool, spec: CohortSpec
) -> Iterator[tuple[str, str, str, list[Field], SlideStyle, np.random.Generator]]:
    """Yield slide_id, patient_id, split, fields, style and random generator of each slide."""
    for number, split in enumerate(SPLITS):
        plan = plan_split(split, rng=np.random.default_rng([seed, number]), shortcut=shortcut, spec=spec)
        for index, fields in enumerate(plan):
            patient = index % spec.patients[number]
            # Own generators: how a slide is drawn does not depend on the slides before it.
            patient_rng = np.random.default_rng([seed, number, 1, patient])
            rng = np.random.default_rng([seed, number, 2, index])
            style = SlideStyle(
                gain=tuple(np.array(spec.gain) * np.exp(rng.normal(0, spec.gain_spread, 3))),
                nucleus_scale=float(np.exp(patient_rng.normal(0, spec.nucleus_scale_spread))),
                fibre_scale=float(np.exp(rng.normal(0, spec.fibre_scale_spread))),
            )
            slide_id, patient_id = f"{split}-{index + 1:02d}", f"patient-{split}-{patient + 1:02d}"
            yield slide_id, patient_id, split, _arrange(fields, side=spec.fields, rng=rng), style, rng


def _write_slide(
    out: Path, slide_id: str, pixels: NDArray[np.uint16], tumor: NDArray[np.uint8], spec: CohortSpec
) -> dict[str, Any]:
    """Write a TIFF for each channel and the mask; return their cells of the manifest."""
    row: dict[str, Any] = {"slide_id": slide_id, "mpp": f"{spec.mpp:g}", "background": "dark"}
    for name, plane in zip(CHANNELS, pixels, strict=True):
        row[f"path:{name}"] = f"slides/{slide_id}_{name}.tif"
        with atomic_path(out / row[f"path:{name}"]) as temporary:
            tifffile.imwrite(
                temporary,
                plane,
                tile=(256, 256),
                compression="zlib",
                # The pixels are mostly noise: higher levels cost time and save nothing.
                compressionargs={"level": 1},
                predictor=True,
                photometric="minisblack",
                resolution=(1e4 / spec.mpp, 1e4 / spec.mpp),
                resolutionunit="CENTIMETER",
                software="pathopatch",
                metadata=None,
            )
    row["tumor_mask"] = f"masks/{slide_id}.png"
    write_bytes(out / row["tumor_mask"], cv2.imencode(".png", tumor)[1].tobytes())
    return row


def _truth_rows(slide_id: str, split: str, fields: Sequence[Field], spec: CohortSpec) -> list[dict[str, Any]]:
    """Return a row for each field; x and y are its top-left corner, level-0 px."""
    return [
        {
            "slide_id": slide_id,
            "split": split,
            "x": index % spec.fields * spec.field_px,
            "y": index // spec.fields * spec.field_px,
            "label": item.label,
            "size": item.size,
            "tissue_share": f"{item.share:.6f}",
            "grade": f"{item.grade:.6f}",
        }
        for index, item in enumerate(fields)
    ]
