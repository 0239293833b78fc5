"""Ask a model whether its answers follow the tissue area, on slides without labels: the command `audit-model`.

``area-reliance.json`` holds the verdict and every measure, ``area-reliance.csv`` each patch with the model's answers,
and ``area-reliance.html`` shows some of them.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import date
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pathopatch.core.artefacts import (
    Stamp,
    artefact,
    content_fingerprint,
    fingerprint,
    read_table,
)
from pathopatch.core.config import PredictConfig
from pathopatch.core.errors import (
    InputMissingError,
    InputUnsupportedError,
    PathopatchError,
)
from pathopatch.core.files import read_json, write_bytes, write_csv, write_json
from pathopatch.core.mask_bits import masks_and_area, unpack_masks
from pathopatch.core.patients import BLOCK
from pathopatch.core.task import Progress
from pathopatch.core.work_folder import WorkFolder
from pathopatch.debias.interventions import AREAS, LEAST_AREA, edits
from pathopatch.evaluation.area_reliance import (
    LITTLE_TISSUE,
    Margins,
    Responses,
    ask,
    margins_of,
    reliance,
    reliance_report,
)
from pathopatch.evaluation.external_validation import check_patches, validation_name
from pathopatch.groups import slides_of, unit_noun, units_of
from pathopatch.heatmaps.predict import edit_side, slide_source
from pathopatch.models.bundle import bundle_fingerprint, read_spec, record_reliance
from pathopatch.models.forward import Ensemble, resize_area
from pathopatch.models.loading import load_ensemble
from pathopatch.models.spec import AreaReliance, BundleSpec, patch_limits
from pathopatch.patches.intensity import scale
from pathopatch.patches.source import FromSlide, FromStore
from pathopatch.patches.store import PatchStore
from pathopatch.report.area_reliance import Example, reliance_page
from pathopatch.slides.manifest import SlideRow
from pathopatch.stages.batch.slide_table import open_row
from pathopatch.stages.find_slides import find_cohort
from pathopatch.training.dataset import common_source

STAGE = "audit-model"
RESULT, TABLE, PAGE = "area-reliance.json", "area-reliance.csv", "area-reliance.html"
PER_SLIDE = 50
_BLANK, _BLANKS = 0.01, 10  # tissue of a blank patch, and how many of them, and with little tissue, are drawn
_EXAMPLES = 12  # patches on the page
_IDS = ["slide_id", "patient_id", BLOCK]

_Opened = tuple[dict[Any, Any], Callable[[], AbstractContextManager[FromSlide | FromStore]]]
"""What `_IDS` names of a slide, with its unit ("" of a set of several patients), and how to open it."""


@dataclass(frozen=True, eq=False)
class Sample:
    """Patches of a slide, scaled to [0, 1] as the models take them."""

    slide_id: str
    about: pd.DataFrame  # (n rows): patch_id; `_IDS`, of a set the slides that it was cut from; unit, see `units_of`
    pixels: NDArray[np.float32]  # (n, C, P, P)
    tissue: NDArray[np.bool_]  # (n, P, P)
    is_asked: NDArray[np.bool_]  # (n,): it holds enough tissue to set its area; of others only the answer is asked
    scanned: NDArray[np.float64]  # (n,): share of each patch that was scanned
    given: pd.DataFrame  # (m rows): the same, but for patch_id, of each patch that holds tissue, drawn or not
    left_out: Mapping[str, int]  # how many of these were not drawn, by the reason

    @property
    def ground(self) -> NDArray[np.float32] | None:
        """Pixels (C, m) away from tissue, of the wholly scanned patch that has most of them; None without any."""
        # Of one patch: in a set each has a stain of its own, and their pixels together would be a mottled ground.
        clear = (~self.tissue).sum(axis=(1, 2)) * ~(self.scanned < 1)  # of ready patches it may be unknown
        clearest = int(clear.argmax())
        return self.pixels[clearest][:, ~self.tissue[clearest]] if clear[clearest] else None


def audit_model(
    models: Sequence[Path],
    sources: Sequence[SlideRow] | Path,
    out: Path,
    config: PredictConfig,
    *,
    per_slide: int = PER_SLIDE,
    seed: int = 0,
    slide_mpp: float | None = None,
    record: bool = False,
    force: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Ask a model, or the mean of several, about patches of some slides; write the answers and return the result.

    It is that of `reliance` with ``slides`` (number that was asked about), ``given`` (numbers of slides, patients, or
    of what ``unit`` names, and patches with tissue), ``failed`` (slides that could not be read, with the
    reason), ``glass`` and ``little`` (answers to patches without tissue, and with too little to set its area) and
    ``stamp``. A finished result of equal inputs is returned as it is.

    Parameters
    ----------
    models : sequence of Path
        Bundles.
    sources : sequence of SlideRow, or Path
        Slides, or a tiled work folder. A slide without a patient counts as one of its own.
    out : Path
        Folder for the result.
    per_slide : int
        Patches of a slide, at most, spread over the tissue area, and fewer of patients with many more slides than
        others.
    slide_mpp : float, optional
        um per level-0 px of slides whose files state none.
    record : bool
        Write the result into the bundle and its card.

    Raises
    ------
    PathopatchError
        The bundles or the device are refused, or no slide could be read.
    InputUnsupportedError
        Several models to record a result in, or a head on features.
    StaleArtefactError
        There is the result of another model or of other slides, and `force` is off.
    """
    # Settings of a file may be for predict: edits are asked about as they are.
    config = config.model_copy(update={"area_correct": "none", "deidentify": False})
    stamp = Stamp(
        stage=STAGE,
        settings={
            "rules": 2,  # a verdict by other rules is stale
            "per_slide": per_slide,
            "seed": seed,
            "slide_mpp": slide_mpp,
            "predict": config.model_dump(
                mode="json", include={"precision", "stride_px", "max_bad_tiles", "all_patches"}
            ),
        },
        inputs={"model": bundle_fingerprint(models)} | _inputs(sources),
    )
    if record and len(models) > 1:
        raise InputUnsupportedError(
            "the result of several models is recorded in none of them", place="--record", remedy="ask about one"
        )
    with artefact(out / RESULT, stamp=stamp, force=force) as output:
        if not output.is_current:
            asked = _open_model(models, config)
            if isinstance(sources, Path):
                opened = _stored(sources, asked)
            else:
                openers = [partial(_open_slide, row, asked, slide_mpp) for row in sources]
                opened = list(zip(_with_units(_listed(sources)), openers, strict=True))
            result, table, examples = _ask(asked, opened, per_slide=per_slide, seed=seed, progress=progress)
            write_csv(out / TABLE, table)
            is_rgb = asked.spec.channels == ("R", "G", "B")
            page = reliance_page(result, examples, is_rgb=is_rgb, model=validation_name(models[0]))
            write_bytes(out / PAGE, page.encode())
            write_json(out / RESULT, {"stamp": stamp.to_dict(), "date": date.today().isoformat(), **result})
    result = read_json(out / RESULT)
    if record:
        record_reliance(models[0], reliance_of(result, stamp.inputs["model"]))
    return result


def reliance_of(result: dict[str, Any], model: str) -> AreaReliance:
    """Return a result of `audit_model` as it is kept in a bundle; `model` is its `bundle_fingerprint`."""
    curve, correction = result.get("curve", []), result.get("correction", {})
    found = {} if result["verdict"] == "not known" else result  # what was measured is then no finding
    names = ("verdict", "direction", "slides", "unit", "patients", "patches", "date", "backgrounds", "mpp")
    return AreaReliance(
        **{name: result[name] for name in names},
        eta=found.get("eta", {}).get("value"),
        adj=found.get("adj", {}).get("value"),
        model=model,
        areas=tuple(point["area"] for point in curve),
        response=tuple(point["margin"]["value"] for point in curve),
        shift={name: own["shift"] for name, own in correction.items()},
        turned={name: own["turned"] for name, own in correction.items()},
    )


def _inputs(sources: Sequence[SlideRow] | Path) -> dict[str, str]:
    """Return fingerprints of the slides and patients, by id; those of files that are missing are left out."""
    if isinstance(sources, Path):
        stores = {
            str(name): FromStore(sources, str(name)) for name in read_table(WorkFolder(sources).slides)["slide_id"]
        }
        return {f"slide {name}": fingerprint(store.stamp.inputs) for name, store in stores.items()}
    found = {}
    for row in sources:
        texts = row.source.values() if isinstance(row.source, dict) else [row.source]
        paths = [Path(text.partition("#")[0]) for text in texts] + ([row.tissue_mask] if row.tissue_mask else [])
        with suppress(PathopatchError):
            found[f"slide {row.slide_id}"] = fingerprint(
                [row.patient_id, content_fingerprint(paths), *([row.block] if row.block else [])]
            )
    return found


@dataclass(frozen=True, eq=False)
class Asked:
    """A model that is asked, and how patches are cut and edited for it."""

    ensemble: Ensemble
    config: PredictConfig

    @property
    def spec(self) -> BundleSpec:
        """What the members share."""
        return self.ensemble.spec


def _open_model(models: Sequence[Path], config: PredictConfig) -> Asked:
    if any(read_spec(path).encoder is not None for path in models):
        raise InputUnsupportedError(
            "a head on features cannot be asked about patches: the encoder of its features is not part of it",
            place=str(models[0]),
            remedy="train with [train] frozen = true, and ask that model",
        )
    options = {name: getattr(config, name) for name in ("device", "precision", "runtime", "threads")}
    return Asked(load_ensemble(models, **options), config)


def _ask(
    asked: Asked,
    opened: Sequence[_Opened],
    *,
    per_slide: int,
    seed: int,
    progress: Progress | None,
) -> tuple[dict[str, Any], pd.DataFrame, list[Example]]:
    """Ask about each slide and judge all answers together; a slide that cannot be read fails alone."""
    margins, parts, tables, failed, known = margins_of(asked.ensemble), [], [], {}, set[bytes]()
    given, others, is_blank, left_out = list[pd.DataFrame](), [], [], Counter[str]()
    examples: list[Example] = []
    n_slides = Counter(about["unit"] for about, _ in opened)
    most_of_unit = 2 * per_slide * float(np.median(list(n_slides.values())))  # one patient must not outweigh all
    grounds, scales = set[str](), list[float]()  # of the slides that could be asked about
    for number, (about, opener) in enumerate(opened):
        count = min(per_slide, math.ceil(most_of_unit / n_slides[about["unit"]]))
        try:
            with opener() as source:
                sample = draw(source, asked, about, count=count, seed=seed + number)
            part, table = _asked(margins, sample, seed=seed + number, known=known)
            other = sample.tissue[~sample.is_asked]
            others.append(margins(sample.pixels[~sample.is_asked], other))
            is_blank.append(other.mean(axis=(1, 2)) < _BLANK)
        except PathopatchError as error:
            failed[about["slide_id"]] = str(error)
            continue
        finally:
            if progress is not None:
                progress("slides", number + 1, len(opened))
        given.append(sample.given)
        left_out.update(sample.left_out)
        parts.append(part)
        tables.append(table)
        grounds.update(filter(None, [_background(source)]))
        scales.extend([] if source.mpp is None else [source.mpp])
        if len(examples) < _EXAMPLES:
            examples += _examples(sample, part, seed=seed + number, count=math.ceil(_EXAMPLES / len(opened)))
    if not parts:
        raise InputMissingError(
            f"no slide could be asked about: {next(iter(failed.values()), 'there is none')}",
            remedy="give slides that the model can predict",
        )
    natural, blank = np.concatenate(others), np.concatenate(is_blank)
    table, with_tissue = (pd.concat(each, ignore_index=True) for each in (tables, given))
    result = reliance(_joined(parts, left_out), seed=seed, unit=unit_noun(with_tissue)) | {
        "slides": int(table["slide_id"].nunique()),
        "given": {
            "patches": len(with_tissue),
            "patients": with_tissue["unit"].nunique(),
            "slides": with_tissue["slide_id"].nunique() + len(failed),
        },
        "backgrounds": sorted(grounds),
        "mpp": [min(scales), max(scales)] if scales else None,
        "failed": failed,
        "glass": _calls(natural[blank]),
        "little": _calls(natural[~blank]),
    }
    return result, table, examples[:_EXAMPLES]


def _calls(natural: NDArray[np.float64]) -> dict[str, Any]:
    """Return how many patches have an answer, a margin (n,), and which share of them is called tumour."""
    natural = natural[np.isfinite(natural)]  # of glass a model of crops says nothing
    return {"patches": len(natural), "positive": float((natural > 0).mean()) if len(natural) else None}


def _examples(sample: Sample, answers: Responses, *, seed: int, count: int) -> list[Example]:
    """Return some of a slide's patches with each area, and the model's answers."""
    pixels, tissue, found = sample.pixels[sample.is_asked], sample.tissue[sample.is_asked], []
    by_area = np.argsort(answers.area, kind="stable")
    middles = (np.arange(count) + 0.5) / count * len(by_area)  # of as many parts of equal size
    for place in by_area[np.unique(middles.astype(int))] if len(by_area) else ():
        row = int(answers.rows[place])
        made = islice(edits(pixels[row], tissue[row], seed=(seed, row), ground=sample.ground), 1 + len(AREAS))
        found.append(
            Example(
                name=sample.slide_id,
                pixels=[edit.pixels for edit in made],
                area=float(answers.area[place]),
                margins=[float(answers.natural[place]), *answers.areas[0, place].tolist()],
            )
        )
    return found


def find_sources(
    sources: Sequence[str],
    *,
    out: Path,
    distinct_patients: Collection[tuple[str, str]] = (),
    progress: Progress | None = None,
) -> Sequence[SlideRow] | Path:
    """Return what a command line names: a tiled work folder, or slides as `find_cohort`."""
    if len(sources) == 1 and WorkFolder(Path(sources[0])).slides.is_file():
        return Path(sources[0])
    return find_cohort(sources, out=out, distinct_patients=distinct_patients, progress=progress).rows


def result_text(result: dict[str, Any]) -> str:
    """Return a result of `audit_model` as text for a terminal."""
    return reliance_report(result)


def draw(source: FromSlide | FromStore, asked: Asked, about: Mapping[str, str], *, count: int, seed: int) -> Sample:
    """Return patches of a slide spread over the tissue area, and some that are blank or hold little tissue.

    `about` has what `_IDS` names, and the unit. At most `count` are spread, and of a set as many for each slide that
    its patches were cut from.
    """
    rng, min_scanned = np.random.default_rng((seed, 1)), patch_limits(asked.spec, asked.config)["min_scanned"]
    if isinstance(source, FromStore):
        table = source.table(min_scanned=min_scanned)
        fractions, stored = table["tissue_fraction"].to_numpy(np.float64), source.store.rows(table["patch_id"].tolist())
        listed = table[[name for name in _IDS if name in table]].reset_index(drop=True)
        # The blocks of several slides were joined by their patients; those of a set are joined here.
        listed = listed.assign(slide_id=slides_of(table).to_numpy(), unit=about["unit"] or units_of(table).to_numpy())
        count *= max(1, listed["slide_id"].nunique())
        drawn = rows = _spread(fractions, listed["unit"].to_numpy(np.str_), count, rng)
        chosen, scanned = stored[rows], table["scanned_fraction"].to_numpy(np.float64)[rows]
        pixels, tissue = source.store.read(chosen), source.store.masks(chosen, "tissue")
    else:
        fractions = source.overview_fractions()
        listed = pd.DataFrame(about, index=range(len(fractions)))
        drawn = _spread(fractions, listed["unit"].to_numpy(np.str_), count, rng)
        batches = list(source.batches(rows=drawn, min_scanned=min_scanned))
        chosen = rows = np.concatenate([np.empty(0, np.int64), *(drawn[batch.rows] for batch in batches)])
        scanned = np.concatenate([np.empty(0), *(batch.scanned_fraction for batch in batches)])
        if batches:
            pixels = np.concatenate([batch.patches for batch in batches])
            tissue = np.concatenate([unpack_masks(batch.tissue_mask, pixels.shape[-1]) for batch in batches])
    if not len(rows):
        raise InputUnsupportedError(
            "no patch was scanned so far that the model would predict it",
            place=source.slide_id,
            remedy="leave the slide out",
        )
    side = edit_side(asked.ensemble, pixels.shape[-1])
    scaled = np.stack([scale(patch, source.windows) for patch in pixels])
    masks, area = masks_and_area(tissue, side)
    holds, given = fractions >= LEAST_AREA, listed[fractions >= _BLANK]
    is_asked = holds[rows] & (area >= LEAST_AREA)
    names = [f"{source.slide_id}@{x},{y}" for x, y in source.origins[chosen].tolist()]
    return Sample(
        slide_id=source.slide_id,
        about=listed.iloc[rows].assign(patch_id=names),
        pixels=resize_area(scaled, side),
        tissue=masks,
        is_asked=is_asked,
        scanned=scanned,
        given=given,
        left_out={
            LITTLE_TISSUE: int(len(given) - holds.sum() + holds[rows].sum() - is_asked.sum()),
            "hardly scanned": int(holds[drawn].sum() - holds[rows].sum()),
            "not drawn": int(holds.sum() - holds[drawn].sum()),
        },
    )


def _spread(
    fractions: NDArray[np.float64], units: NDArray[np.str_], count: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Return rows of at most `count` patches, and of some with less tissue than can be set.

    Their tissue fractions (N,) are spread evenly, and at each tenth of them the units (N,) take turns.
    """
    rows = rng.permutation(len(fractions))
    tenths = np.floor(10 * fractions).clip(0, 9)
    turn = pd.Series(tenths[rows]).groupby([units[rows], tenths[rows]]).cumcount().to_numpy()
    in_turn = rows[np.argsort(turn, kind="stable")]
    turn = pd.Series(tenths[in_turn]).groupby(tenths[in_turn]).cumcount().to_numpy()
    order = in_turn[np.lexsort((tenths[in_turn], turn))]  # one of each tenth, then the second of each …
    drawn = order[fractions[order] >= LEAST_AREA][:count]
    is_blank = fractions[rows] < _BLANK
    blank, little = rows[is_blank], rows[~is_blank & (fractions[rows] < LEAST_AREA)]
    return np.sort(np.concatenate([drawn, blank[:_BLANKS], little[:_BLANKS]])).astype(np.int64)


def _asked(margins: Margins, sample: Sample, *, seed: int, known: set[bytes]) -> tuple[Responses, pd.DataFrame]:
    """Return the answers on a slide's patches that hold tissue, and as a table; copies of `known` ones are left out."""
    held, ground = sample.is_asked, sample.ground
    about = sample.about[held]
    units = about["unit"].to_numpy(np.str_)
    answers = ask(margins, sample.pixels[held], sample.tissue[held], units, seed=seed, ground=ground, known=known)
    columns: dict[str, Any] = {
        "tissue_fraction": answers.area,
        "margin": answers.natural,
        **{f"margin@{area:g}": z for area, z in zip(AREAS, answers.areas.mean(axis=0).T, strict=True)},
        **{f"margin {name}": z for name, z in answers.placebos.items()},
    }
    return answers, about.iloc[answers.rows][["patch_id", "slide_id", "patient_id", "unit"]].assign(**columns)


def _joined(parts: Sequence[Responses], not_drawn: Counter[str]) -> Responses:
    """Return the answers on several slides as those on one."""
    return Responses(
        rows=np.concatenate([part.rows for part in parts]),
        natural=np.concatenate([part.natural for part in parts]),
        areas=np.concatenate([part.areas for part in parts], axis=1),
        again=np.concatenate([part.again for part in parts]),
        placebos={name: np.concatenate([part.placebos[name] for part in parts]) for name in parts[0].placebos},
        area=np.concatenate([part.area for part in parts]),
        patient=np.concatenate([part.patient for part in parts]),
        left_out=sum((Counter(part.left_out) for part in parts), not_drawn),
    )


def _background(source: FromSlide | FromStore) -> str:
    """Return a slide's background; "" of ready patches, for which none is stated."""
    return source.slide.background if isinstance(source, FromSlide) else str(source.store.attributes["background"])


def _stored(work: Path, asked: Asked) -> list[_Opened]:
    """Return the tiled slides of a work folder; refuse patches of another kind."""
    slides = read_table(WorkFolder(work).slides)
    source = common_source([PatchStore(WorkFolder(work).store(str(name))) for name in slides["slide_id"]])
    if source is not None:
        check_patches(asked.spec, source, place=str(work))
    return [(about, partial(_open_store, work, about["slide_id"])) for about in _with_units(slides)]


def _listed(sources: Sequence[SlideRow]) -> pd.DataFrame:
    """Return slide_id, patient_id and, where blocks are given, block of some slides."""
    table = pd.DataFrame([(row.slide_id, row.patient_id, row.block) for row in sources], columns=_IDS)
    return table if (table[BLOCK] != "").all() else table.drop(columns=BLOCK)


def _with_units(slides: pd.DataFrame) -> list[dict[Any, Any]]:
    """Return what `_IDS` names of each slide, and its unit; that is "" of a set of several patients."""
    listed = slides[[name for name in _IDS if name in slides]].astype(str)
    return listed.assign(unit=units_of(slides).where(listed["patient_id"] != "", "")).to_dict("records")


@contextmanager
def _open_store(work: Path, slide_id: str) -> Iterator[FromStore]:
    yield FromStore(work, slide_id)


@contextmanager
def _open_slide(row: SlideRow, asked: Asked, slide_mpp: float | None) -> Iterator[FromSlide]:
    with open_row(replace(row, channel_order=asked.spec.channels), fallback_mpp=slide_mpp) as slide:
        yield slide_source(slide, asked.spec, row.slide_id, asked.config, tissue_mask=row.tissue_mask)
