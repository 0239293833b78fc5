"""Ask about the tissue area whatever can answer about an image: a pack of edited patches, and answers from a file.

The folder ``send`` of a pack goes to whoever answers: images of random names in random order, one slide with all of
them, an empty table, and words on what to do. ``key.parquet`` and ``pack.json`` stay with the asker.
"""

from __future__ import annotations

import math
import os
import secrets
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import tifffile
from numpy.typing import NDArray

from pathopatch.core.artefacts import Stamp, fingerprint, fingerprint_file, made, read_table, write_table
from pathopatch.core.config import MIN_SCANNED, TileConfig
from pathopatch.core.errors import InputMissingError, InputUnsupportedError
from pathopatch.core.files import atomic_path, read_json, write_bytes, write_csv, write_json
from pathopatch.core.task import Progress
from pathopatch.debias.interventions import AREAS, N_EDITS, SEEDS
from pathopatch.evaluation.answers import LEAST_AGREEMENT, NO_ANSWER, Answers, Kind, read_answers, self_agreement
from pathopatch.evaluation.area_reliance import reliance, responses_of
from pathopatch.metrics.area_response import Floats, Rule
from pathopatch.patches.source import FromSlide
from pathopatch.report.area_reliance import Example
from pathopatch.slides import Slide
from pathopatch.slides.manifest import SlideRow
from pathopatch.stages.area_samples import (
    BLANK,
    PatchKind,
    Sample,
    find_sources,
    opened_slides,
    opened_work,
    source_fingerprints,
    survey,
)
from pathopatch.stages.audit_model import EXAMPLES, RESULT, answer_table, ask_sample, calls, publish

STAGE = "pack"
SEND, IMAGES, KEY, ABOUT = "send", "images", "key.parquet", "pack.json"
TEMPLATE, WORDS = "answers.csv", "README.txt"
FULL = 2000
"""Images of a pack from which on each patch is asked about as a model is: with fewer there are fewer edits of each."""
LEAST, IMAGES_ASKED = 100, 600
"""Images of a pack at least, and by default: 600 hold about as many patches as a verdict needs."""
_ORIGINAL = 0
_FIRST, _AGAIN, _PLACEBOS = 1, 1 + SEEDS * len(AREAS), 1 + (SEEDS + 1) * len(AREAS)  # places in `edits`
_ENDS = (0, 2, 4)  # areas that a short pack sets: the least, the middle, the largest
EACH = (_ORIGINAL, *(_FIRST + place for place in _ENDS))
OF_FOURTH = (*(_AGAIN + place for place in _ENDS), *range(_PLACEBOS, N_EDITS))  # of every fourth patch besides
_SAME = range(_PLACEBOS + 1, N_EDITS)  # edits that leave the tissue as it is: ground anew, and flipped
_BLANKS = 10  # images without tissue, and with too little to set
_MARK_DIGITS = 6  # of a pack, in the names of its images
_TWICE = 10  # every so many originals stand there twice
_GROUND = 512  # pixels that stand for an image's ground
_MOST_TISSUE = 0.7  # what little ground other images have may be the fringe of their tissue
_MOSAICS = ("mosaic.ome.tif", "mosaic.svs")
_LEVELS = 3  # each a quarter of the side of the one before
_TILE_PX = 256
_MTIME = 946684800  # of all that is sent: zip takes no time before 1980
_OUT_OF_ORDER = (
    "{pairs} images that stood there twice, flipped or on other ground got answers hardly more alike than by chance "
    "({measure} {value:.2f}, 95 % interval {low:.2f} to {high:.2f}): are the rows in order?"
)
MOST_AT_ENDS = 0.5
"""Share of the answers at 0 or 1 up to which no reliance may be shown: of simulated steep programs, all that rounding
would have acquitted had 0.66 or more (``pipelines/area-reliance``).
"""
_AT_ENDS = "{:.0f} of 100 answers are written as 0 or 1, which hides how far they move: send logits, or more digits"
_IDS = ("patch_id", "slide_id", "patient_id", "unit")


@dataclass(eq=False)
class _Packer:
    """Writes images as they come, and remembers what they are."""

    folder: Path
    names: Iterator[str]
    is_full: bool
    kind: PatchKind | None = None  # of the patches of the first slide
    px: int = 0
    made: list[dict[str, Any]] = field(default_factory=list)
    grounds: list[NDArray[Any]] = field(default_factory=list)  # (C, n) of each image, as stored
    patches: int = 0

    def require(self, sample: Sample) -> None:
        """Raise InputUnsupportedError unless the patches are of the kind of those before."""
        mine = (sample.kind.channels, sample.kind.is_rgb, sample.pixels.shape[-1])
        if self.kind is None:
            self.kind, self.px = sample.kind, sample.pixels.shape[-1]
        elif mine != (self.kind.channels, self.kind.is_rgb, self.px):
            raise InputUnsupportedError(
                f"patches of {mine[-1]} px of {', '.join(mine[0])}; those of the first slide are of {self.px} px of "
                f"{', '.join(self.kind.channels)}",
                place=sample.slide_id,
                remedy="ask about slides of the same channels, cut alike",
            )

    def add(
        self, pixels: NDArray[np.float32], tissue: NDArray[np.bool_], spare: NDArray[Any] | None, **about: Any
    ) -> None:
        """Write an image (C, P, P) in [0, 1]; `spare` is ground (C, n) of its slide."""
        assert self.kind is not None
        stored = as_stored(pixels, is_rgb=self.kind.is_rgb)
        path = self.folder / (next(self.names) + (".png" if self.kind.is_rgb else ".tif"))
        if self.kind.is_rgb:  # not compressed, so that the size of a file tells nothing
            picture = np.ascontiguousarray(stored[::-1].transpose(1, 2, 0))
            path.write_bytes(cv2.imencode(".png", picture, [cv2.IMWRITE_PNG_COMPRESSION, 0])[1].tobytes())
        else:
            tifffile.imwrite(path, stored, photometric="minisblack", metadata=None, software=False)
        # The slide's own, since specks count as no tissue; ready patches have each a ground of its own.
        clear: NDArray[Any] | None = spare
        if clear is None or (self.kind.is_ready and tissue.mean() < _MOST_TISSUE):
            clear = pixels[:, ~tissue]
        drawn = np.random.default_rng(len(self.made)).integers(clear.shape[1], size=_GROUND)
        self.grounds.append(as_stored(clear[:, drawn], is_rgb=self.kind.is_rgb))
        self.made.append({"image": path.name, **about})


def as_stored(pixels: NDArray[np.floating], *, is_rgb: bool) -> NDArray[Any]:
    """Return pixels in [0, 1] as images hold them: RGB as uint8, other channels as uint16."""
    most, kind = (255, np.uint8) if is_rgb else (65535, np.uint16)
    return np.asarray(np.rint(np.clip(pixels, 0, 1) * most), kind)


def plan_text(images: int, px: int) -> str:
    """Return how many patches are asked about, and how much disk that takes."""
    each = images * px**2 * 3 / 1e6
    how = "as often as a model" if images >= FULL else "at three areas, every fourth by a second edit too"
    return (
        f"about {patches_of(images)} patches are asked about {how}, in up to {images} images of {px} px: "
        f"{each:.0f} MB, and mosaics of up to {8 * each:.0f} MB"
    )


def patches_of(images: int) -> int:
    """Return about how many patches fill so many images."""
    edited = N_EDITS if images >= FULL else len(EACH) + len(OF_FOURTH) / 4
    return int((images - 2 * _BLANKS) / (edited + 1 / _TWICE))


def make_pack(
    sources: Sequence[SlideRow] | Path | str,
    out: Path | str,
    config: TileConfig | None = None,
    *,
    images: int = IMAGES_ASKED,
    seed: int | None = None,
    slide_mpp: float | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Write a pack, and return what ``pack.json`` holds.

    Parameters
    ----------
    sources : Path, str, or sequence of SlideRow
        A tiled work folder, whose patches are taken; or slides, their folder or a manifest, cut by `config`.
    out : Path
        The pack. Its folder ``send`` goes to whoever answers.
    images : int
        About so many images. From `FULL` on each patch is asked about as `audit_model` asks.
    seed : int, optional
        Draws patches, edits and names; by default nobody can guess it.
    slide_mpp : float, optional
        um per level-0 px of slides whose files state none.

    Raises
    ------
    PathopatchError
        No slide could be read; or there is another pack, and `force` is off.
    InputUnsupportedError
        Fewer than 100 images, or slides of different channels or patches.

    Examples
    --------
    >>> from pathopatch.demo import EXAMPLE_MANIFEST
    >>> cut = pathopatch.TileConfig(patch_px=32)
    >>> about = pathopatch.make_pack(EXAMPLE_MANIFEST, Path("pack"), cut, images=100)
    >>> about["images"] == len(pd.read_csv("pack/send/answers.csv"))
    True
    """
    if images < LEAST:
        raise InputUnsupportedError(f"{images} images", place="--images", remedy=f"ask about {LEAST} at least")
    out, config = Path(out), config or TileConfig()
    if isinstance(sources, Path | str):
        sources = find_sources([str(sources)], out=out, progress=progress)
    settings: dict[str, Any] = {"images": images, "slide_mpp": slide_mpp, "seed": seed}
    if not isinstance(sources, Path):
        settings["tile"] = config.model_dump(mode="json", exclude={"labels", "store"})
    stamp = Stamp(stage=STAGE, settings=settings, inputs=source_fingerprints(sources, slide_mpp=slide_mpp))
    with made(out / ABOUT, stamp=stamp, force=force) as job:
        if not job.is_current:
            with atomic_path(out / SEND) as folder:
                (folder / IMAGES).mkdir(parents=True)
                drawn = secrets.randbits(32) if seed is None else seed
                mark = fingerprint([stamp.to_dict(), drawn])[:_MARK_DIGITS]
                options: dict[str, Any] = {"mark": mark, "slide_mpp": slide_mpp, "progress": progress}
                about, key = _pack(sources, folder, config, images, drawn, **options)
            write_table(out / KEY, key, stamp)
            write_json(out / ABOUT, {**about, "seed": drawn, "stamp": stamp.to_dict()})
    return read_json(out / ABOUT)


def _pack(
    sources: Sequence[SlideRow] | Path,
    folder: Path,
    config: TileConfig,
    images: int,
    seed: int,
    *,
    mark: str,
    slide_mpp: float | None,
    progress: Progress | None,
) -> tuple[dict[str, Any], pd.DataFrame]:
    def cut(slide: Slide, row: SlideRow) -> FromSlide:
        return FromSlide(slide, row.slide_id, config, tissue_mask=row.tissue_mask)

    opened = opened_work(sources) if isinstance(sources, Path) else opened_slides(sources, cut, slide_mpp=slide_mpp)
    # As many names as anybody can ask for; who does not know the seed cannot tell their order. The pack's own mark is
    # in each, so that no answer to another pack has a name of this one.
    order = np.random.default_rng((seed, 2)).permutation(16**5)
    n_patches, known = patches_of(images), set[bytes]()

    def visit(sample: Sample, seed: int) -> None:
        packer.require(sample)
        _pack_sample(packer, sample, seed, known)

    with tempfile.TemporaryDirectory(dir=folder) as made:
        packer = _Packer(Path(made), (f"{mark}-{value:05x}" for value in order), is_full=images >= FULL)
        facts = survey(
            opened,
            visit,
            per_slide=max(1, math.ceil(n_patches / len(opened))),
            seed=seed,
            progress=progress,
            side_of=lambda px: px,
            min_scanned=MIN_SCANNED,
            blanks=math.ceil(_BLANKS / len(opened)),
        )
        # Written anew by name: some file systems, and tar on them, list files as they were written, slide by slide.
        for path in sorted(packer.folder.iterdir()):
            os.utime(shutil.copyfile(path, folder / IMAGES / path.name), (_MTIME, _MTIME))
    assert packer.kind is not None
    place = np.argsort([entry["image"] for entry in packer.made])
    columns = math.ceil(math.sqrt(len(place)))
    row, column = np.divmod(np.arange(len(place)), columns)
    key = pd.DataFrame(packer.made).iloc[place].reset_index(drop=True)
    key = key.assign(x=packer.px * (1 + 2 * column), y=packer.px * (1 + 2 * row))
    write_csv(folder / TEMPLATE, pd.DataFrame({"image": key["image"], "score": ""}))
    _write_mosaics(folder, key, [packer.grounds[k] for k in place], packer.kind, px=packer.px)
    about = {
        **facts,
        "not_drawn": dict(facts["not_drawn"]),
        "images": len(key),
        "patches": packer.patches,
        "px": packer.px,
        "patch_mpp": packer.kind.mpp,
        "channels": list(packer.kind.channels),
        "is_rgb": packer.kind.is_rgb,
    }
    write_bytes(folder / WORDS, _words(about).encode())
    for path in folder.iterdir():
        os.utime(path, (_MTIME, _MTIME))
    return about, key


def _pack_sample(packer: _Packer, sample: Sample, seed: int, known: set[bytes]) -> None:
    """Write the edits of a slide's patches, some originals twice, and patches with hardly any tissue."""
    made: list[tuple[NDArray[np.float32], NDArray[np.bool_]]] = []

    def keep(pixels: NDArray[np.float32], tissue: NDArray[np.bool_]) -> Floats:
        made.append((pixels, tissue))
        return np.zeros(len(pixels))

    answers, table = ask_sample(keep, sample, seed=seed, known=known)
    for (pixels, tissue), area, row in zip(made, answers.area, table.itertuples(index=False), strict=True):
        number, packer.patches = packer.patches, packer.patches + 1
        wanted: Sequence[int] = range(N_EDITS)
        if not packer.is_full:
            wanted = (*EACH, *(OF_FOURTH if number % 4 == 0 else ()))
        about = {name: getattr(row, name) for name in _IDS} | {"patch": number, "area": float(area)}
        for edit in (*wanted, *([_ORIGINAL] if number % _TWICE == 0 else [])):
            packer.add(pixels[edit], tissue[edit], sample.ground, **about, edit=edit)
    others = ~sample.is_asked
    for pixels, tissue, row in zip(
        sample.pixels[others], sample.tissue[others], sample.about[others].itertuples(index=False), strict=True
    ):
        about = {name: getattr(row, name) for name in _IDS} | {"patch": -1, "area": float(tissue.mean())}
        packer.add(pixels, tissue, sample.ground, **about, edit=-1)


def _write_mosaics(
    folder: Path, key: pd.DataFrame, grounds: Sequence[NDArray[Any]], kind: PatchKind, *, px: int
) -> None:
    """Write the images as one pyramidal slide, each amid as much of its own ground as half its side."""
    width, height = (int(key[axis].max()) + 2 * px for axis in "xy")
    n_channels, rng = len(kind.channels), np.random.default_rng(0)
    dtype = grounds[0].dtype
    with tempfile.TemporaryFile(dir=folder) as file:  # on disk: it may be larger than memory
        canvas = np.memmap(file, dtype, "w+", shape=(height, width, n_channels))
        for (name, x, y), ground in zip(key[["image", "x", "y"]].itertuples(index=False), grounds, strict=True):
            # The outermost cells reach to the edges.
            left, top = (0 if start == px else start - px // 2 for start in (x, y))
            right, bottom = (
                end if start + 2 * px >= end else start + px + px // 2 for start, end in ((x, width), (y, height))
            )
            if name == key["image"].iloc[-1]:
                right = width
            cell = canvas[top:bottom, left:right]
            cell[:] = ground.T[rng.integers(ground.shape[1], size=cell.shape[:2])]
            canvas[y : y + px, x : x + px] = _read(folder / IMAGES / name)
        levels: list[NDArray[Any]] = [canvas]
        while len(levels) < _LEVELS and min(levels[-1].shape[:2]) >= 4 * _TILE_PX:
            small = cv2.resize(levels[-1], None, fx=0.25, fy=0.25, interpolation=cv2.INTER_AREA)
            levels.append(small.reshape(*small.shape[:2], n_channels))
        for name in _MOSAICS if kind.is_rgb else _MOSAICS[:1]:
            _write_pyramid(folder / name, levels, kind)


def _write_pyramid(path: Path, levels: Sequence[NDArray[Any]], kind: PatchKind) -> None:
    """Write levels (H, W, C): as an OME-TIFF; or RGB as programs for Aperio's slides take it."""
    is_ome, (height, width) = path.name.endswith(".ome.tif"), levels[0].shape[:2]
    metadata: dict[str, Any] = {"axes": "YXS"} if kind.is_rgb else {"axes": "CYX", "Channel": {"Name": kind.channels}}
    scale = ""
    if kind.mpp is not None:
        metadata |= {f"PhysicalSize{axis}": kind.mpp for axis in "XY"}
        metadata |= {f"PhysicalSize{axis}Unit": "µm" for axis in "XY"}
        scale = f"|AppMag = {round(10 / kind.mpp)}|MPP = {kind.mpp:g}"
    size = f"{width}x{height} [0,0 {width}x{height}] ({_TILE_PX}x{_TILE_PX})"
    settings: dict[str, Any] = {"tile": (_TILE_PX, _TILE_PX), "compression": "zlib", "software": False}
    settings["photometric"] = "rgb" if kind.is_rgb else "minisblack"
    with tifffile.TiffWriter(path, bigtiff=True, ome=is_ome) as writer:
        for number, level in enumerate(levels):
            own: dict[str, Any] = {"subfiletype": 1} if number else {}
            if not is_ome:
                own |= {"description": f"Aperio Image Library\r\n{size}{scale}", "metadata": None}
            elif not number:
                own |= {"subifds": len(levels) - 1, "metadata": metadata}
            writer.write(level if kind.is_rgb else np.moveaxis(level, -1, 0), **own, **settings)


def _read(path: Path) -> NDArray[Any]:
    """Return an image (H, W, C)."""
    if path.suffix == ".png":
        picture = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        if picture is None:
            raise InputMissingError(f"no image {path.name}", place=str(path), remedy="make the pack again with --force")
        return picture[..., ::-1]
    pixels = tifffile.imread(path)
    return np.moveaxis(pixels.reshape(-1, *pixels.shape[-2:]), 0, -1)


def _words(about: dict[str, Any]) -> str:
    """Return what to do with a pack, for whoever answers; it names no model and no result."""
    scale = "of unknown scale" if about["patch_mpp"] is None else f"of {about['patch_mpp']:g} um per px"
    if about["is_rgb"]:
        kind = "PNG, RGB"
    else:
        kind = f"TIFF, 16 bit, channels {', '.join(about['channels'])}; 0 and 65535 are the ends of each slide's window"
    mosaics = " and ".join(_MOSAICS if about["is_rgb"] else _MOSAICS[:1])
    return f"""{about["images"]} images of {about["px"]} px, {scale} ({kind}), stand in the folder {IMAGES}.
Their names and their order are random, and some were edited. Please answer for each image by itself:
is there tumour in it?

Write the answers into {TEMPLATE}, one line an image, in the column score: a probability from 0 to 1, a logit,
or yes / no. Answer every image; write "{NO_ANSWER}" where the program gives no answer.
Feed the images as patches of a slide of that scale: as they are, with nothing cropped and no tissue search before.

A program that takes slides only can be given {mosaics}: all images on one slide, on a grid of {about["px"]} px.
Then send its patches back, as CSV (minx, miny, width, height, and the answer) or GeoJSON, in px of that slide.

Please do not sort, compare or look for pairs: every answer should be the one that is given in daily work.
"""


def judge_answers(
    pack: Path | str,
    answers: Path | str,
    out: Path | str,
    *,
    kind: Kind | None = None,
    column: str | None = None,
    yes: str | None = None,
    decision: float | None = None,
    force: bool = False,
) -> dict[str, Any]:
    """Judge the answers to a pack; write them, the verdict and its page as `audit_model` does, and return the result.

    Beside what `audit_model` returns it has ``answers``: their kind, how many images have one, how often one image that
    was shown twice got the same (of answers by place, too, how much of an image they lay over).

    Parameters are those of `read_answers`. Raises as that; InputMissingError without a pack; StaleArtefactError where
    there is another result and `force` is off.

    Examples
    --------
    >>> from pathopatch.demo import EXAMPLE_MANIFEST
    >>> cut = pathopatch.TileConfig(patch_px=32)
    >>> about = pathopatch.make_pack(EXAMPLE_MANIFEST, Path("answered"), cut, images=100)
    >>> table = pd.read_csv("answered/send/answers.csv")
    >>> table.assign(score=np.arange(len(table)) / len(table)).to_csv("answers.csv", index=False)
    >>> pathopatch.judge_answers(Path("answered"), Path("answers.csv"), Path("asked"))["verdict"]  # of one patient
    'not known'
    """
    pack, answers, out = map(Path, (pack, answers, out))
    if decision is not None and not math.isfinite(decision):
        raise InputUnsupportedError(f"the decision value {decision}", place="--decision", remedy="give a number")
    if not (pack / KEY).is_file() or not (pack / ABOUT).is_file():
        raise InputMissingError(
            f"no {KEY} and {ABOUT}",
            place=str(pack),
            remedy="name the folder that --pack made, not the one that was sent",
        )
    about, key = read_json(pack / ABOUT), read_table(pack / KEY)
    settings = {"rules": 4, "kind": kind, "column": column, "yes": yes, "decision": decision}
    inputs = {"key": fingerprint_file(pack / KEY), "answers": fingerprint_file(answers)}
    stamp = Stamp(stage=STAGE, settings=settings, inputs=inputs)
    with made(out / RESULT, stamp=stamp, force=force) as job:
        if not job.is_current:
            corners = key[["x", "y"]].to_numpy(np.int64)
            options: dict[str, Any] = {"kind": kind, "column": column, "yes": yes, "decision": decision}
            read = read_answers(answers, key["image"].tolist(), corners, about["px"], **options)
            result, table, examples = _judged(key, about, read, pack / SEND / IMAGES)
            publish(out, stamp, result, table, examples, is_rgb=about["is_rgb"], model=answers.stem)
    return read_json(out / RESULT)


def _judged(
    key: pd.DataFrame, about: dict[str, Any], read: Answers, images: Path
) -> tuple[dict[str, Any], pd.DataFrame, list[Example]]:
    key = key.assign(margin=read.margins)
    edited, others = key[key["patch"] >= 0], key[key["patch"] < 0]
    again = edited[edited.duplicated(["patch", "edit"])]
    first = edited.drop_duplicates(["patch", "edit"])
    patches = first[first["edit"] == _ORIGINAL].sort_values("patch", ignore_index=True)
    z = np.full((len(patches), N_EDITS), np.nan)
    z[first["patch"], first["edit"]] = first["margin"]
    units = patches["unit"].to_numpy(np.str_)
    not_drawn = Counter(about["not_drawn"])
    responses = responses_of(z, np.arange(len(z)), patches["area"].to_numpy(), units, left_out=not_drawn)
    is_full = len(first) == z.size
    if not is_full:
        asked_again = np.isin(patches["patch"], first.loc[first["edit"] == _AGAIN, "patch"])
        responses = replace(responses, areas=responses.areas[:1], asked_again=asked_again)
    result = reliance(
        responses, seed=about["seed"], unit=about["unit"], rule=read.rule if is_full else short_rule(read.rule)
    )
    if result["verdict"] == "not shown" and read.at_ends > MOST_AT_ENDS:
        result |= {"verdict": "not known", "reasons": [_AT_ENDS.format(100 * read.at_ends)]}
    if read.reason:
        result |= {"verdict": "not known", "direction": 0, "reasons": [read.reason, *result["reasons"]]}
    result.pop("correction", None)  # of a model that is at hand
    twice = again["margin"].to_numpy() > 0, z[again["patch"], again["edit"]] > 0
    same = pd.concat([again, first[first["edit"].isin(_SAME)]])
    pairs = same["margin"].to_numpy(np.float64), z[same["patch"], _ORIGINAL], same["patch"].to_numpy(np.int64)
    agreed = self_agreement(*pairs, is_words=read.kind == "yes-no")
    # Random answers, and rows out of order, follow no area.
    if result["verdict"] != "relies" and not agreed["low"] > LEAST_AGREEMENT:
        result |= {"verdict": "not known", "reasons": [_OUT_OF_ORDER.format(**agreed), *result["reasons"]]}
    blank = others["area"] < BLANK
    result |= {name: about[name] for name in ("given", "backgrounds", "mpp", "failed")} | {
        "slides": patches["slide_id"].nunique(),
        "glass": calls(others.loc[blank, "margin"].to_numpy()),
        "little": calls(others.loc[~blank, "margin"].to_numpy()),
        "answers": {
            "kind": read.kind,
            "images": len(key),
            "answered": int(np.isfinite(read.margins).sum()),
            "twice": len(again),
            "alike": int((twice[0] == twice[1]).sum()),
            "overlap": read.overlap,
            "agreement": agreed,
        },
    }
    table = answer_table(responses, patches[["patch_id", "slide_id", "patient_id", "unit"]])
    return result, table, _examples(first, patches, z, images)


def short_rule(rule: Rule) -> Rule:
    """Return the rule at the areas of a short pack: they lie farther apart, so a response explains more variance."""
    wider = float(np.var([AREAS[place] for place in _ENDS]) / np.var(AREAS))
    return replace(rule, least_eta=rule.least_eta * wider, most_eta=rule.most_eta * wider)


def _examples(first: pd.DataFrame, patches: pd.DataFrame, z: Floats, images: Path) -> list[Example]:
    """Return some patches with each area that was asked, as they were sent, and the answers."""
    found = []
    order = np.argsort(patches["area"].to_numpy(), kind="stable")
    middles = np.unique(((np.arange(EXAMPLES) + 0.5) / EXAMPLES * len(order)).astype(int))
    names = first.set_index(["patch", "edit"])["image"]
    for place in order[middles] if len(order) else ():
        edits = [edit for edit in range(_FIRST + len(AREAS)) if (place, edit) in names.index]
        files = [images / names[(place, edit)] for edit in edits]
        if not all(file.is_file() for file in files):
            continue  # they were sent, and not kept
        pixels = [np.moveaxis(_read(file), -1, 0) for file in files]
        most = float(np.iinfo(pixels[0].dtype).max)
        areas = [patches["area"].iloc[place], *(AREAS[edit - _FIRST] for edit in edits[1:])]
        scaled = [np.asarray(each / most, np.float32) for each in pixels]
        found.append(Example(patches["slide_id"].iloc[place], scaled, areas, z[place, edits].tolist()))
    return found
