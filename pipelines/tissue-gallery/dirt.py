"""Put dirt on slides whose tissue is known: ink, bubbles, dust, blur, pale stain, uneven light, uneven black levels.

Bright slides are real tissue pasted on glass, and a real slide with pathopatch's own outline of it as truth. Dark
slides are real fluorescence and SHG, with that outline, and real two-photon tissue on a made background. The same seed
gives the same pixels. Usage: PATHOPATCH_REAL_DATA=FOLDER python dirt.py --sheet FOLDER
"""

from __future__ import annotations

import argparse
import os
import tempfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import tifffile
from numpy.typing import NDArray
from skimage import data
from transforms import tint, uneven

from pathopatch import open_slide
from pathopatch.core.config import TileConfig
from pathopatch.patches.analysis import analyse_slide
from pathopatch.patches.tissue_model import TissueModel

Array = NDArray[Any]
Mask = NDArray[np.bool_]  # (H, W)

INKS = {  # optical density of red, green and blue (natural logarithm) of a stroke of density 1
    "blue": (2.1, 1.4, 0.5),
    "green": (2.4, 0.8, 1.4),
    "black": (2.3, 2.3, 2.2),
    "red": (0.3, 2.4, 2.0),
    "violet": (1.0, 1.8, 0.5),
}
DENSITIES = {"translucent": (0.25, 0.5), "opaque": (1.5, 2.2)}
WIDTHS_UM = {"fine": (250, 450), "broad": (700, 1300)}
_VISIBLE = 0.03  # density of the faintest rim that counts as dirt
_STRAY_LIGHT = 6.0  # of 255, which no dirt absorbs
_CAMERA_NOISE = 1.5  # standard deviation, of 255
_MADE_GLASS = (240.0, 238.0, 242.0)
_AS_PALE_AS_GLASS = 0.06  # absorption in pasted tissue: a lumen, a vacuole or pale stroma, so its truth is unknown


@dataclass(frozen=True, kw_only=True, eq=False)
class Base:
    """A clean slide and its true tissue."""

    name: str
    pixels: Array  # (C, H, W): uint8 RGB, or uint16 of dark channels
    tissue: Mask
    ignored: Mask  # the truth is unknown
    level: Array  # (C,): of the background
    mpp: float
    is_dark: bool = False


class Dirt(NamedTuple):
    """The pixels (C, H, W) of a dirty slide, where the dirt lies, and where it makes the truth unknown."""

    pixels: Array
    area: Mask | None = None
    ignored: Mask | None = None


def generator(seed: int, name: str) -> np.random.Generator:
    """Return the random numbers of one thing: whatever is made before it does not change them."""
    return np.random.default_rng([seed, zlib.crc32(name.encode())])


def smooth_noise(rng: np.random.Generator, shape: tuple[int, ...], scale_px: float) -> Array:
    """Return Gaussian noise (H, W) of unit variance that varies over so many pixels."""
    coarse = rng.normal(size=[int(n / scale_px) + 4 for n in shape]).astype(np.float32)
    size = [round(n * scale_px) for n in coarse.shape[::-1]]
    noise = cv2.resize(coarse, size, interpolation=cv2.INTER_CUBIC)[: shape[0], : shape[1]]
    return np.asarray(noise / noise.std())


def blur(plane: Array, sigma_px: float) -> Array:
    """Return a plane (H, W) blurred by a Gaussian."""
    return cv2.GaussianBlur(plane.astype(np.float32), (0, 0), max(sigma_px, 0.3))


def edges(mask: Mask, reach_px: int) -> Mask:
    """Return the pixels within a distance of a mask's edge."""
    side = np.ones((2 * reach_px + 1,) * 2, np.uint8)
    return np.asarray(cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_GRADIENT, side) != 0)


# ---- clean slides


def find_in_file(path: Path, mpp: float) -> tuple[TissueModel, Array]:
    """Return the tissue of a slide, by the default settings, and its overview."""
    with open_slide(path, mpp=mpp) as slide:
        analysis = analyse_slide(slide, TileConfig())
    return analysis.tissue, analysis.overview


def find_tissue(pixels: Array, mpp: float) -> TissueModel:
    """Return the tissue of pixels, written and opened as a slide."""
    with tempfile.TemporaryDirectory() as folder:
        return find_in_file(write_slide(Path(folder) / "slide.tif", pixels, mpp), mpp)[0]


def write_slide(path: Path, pixels: Array, mpp: float) -> Path:
    """Write a tiled RGB TIFF with the grain of JPEG, or dark channels as OME-TIFF without loss."""
    if pixels.dtype != np.uint8:
        path = path.with_suffix(".ome.tif")
        tifffile.imwrite(path, pixels, photometric="minisblack", metadata={"axes": "CYX"})
        return path
    tifffile.imwrite(
        path, np.ascontiguousarray(pixels.transpose(1, 2, 0)), photometric="rgb", tile=(256, 256), compression="jpeg",
        compressionargs={"level": 90}, resolution=(1e4 / mpp, 1e4 / mpp), resolutionunit="CENTIMETER", metadata=None,
    )  # fmt: skip
    return path


def bases(real: Path, seed: int = 0) -> Iterator[Base]:
    """Yield the clean slides: brightfield at 1, 2 and 4 um/px, then dark ones."""
    cmu = find_in_file(real / "wsi/CMU-1-Small-Region.svs", 0.499)[1]
    glass = cmu[:, 1500:2900, :460].transpose(1, 2, 0)  # beside the section, with some specks
    yield outlined("CMU-1", shrunk(cmu.transpose(1, 2, 0), 0.5).transpose(2, 0, 1), 0.998)

    found, idc = find_in_file(real / "wsi/idc_14306.tif", 4.0)
    part, level = np.s_[350:1650, 150:1450], np.array(found.levels)
    yield paste("IDC", idc[:, *part].transpose(1, 2, 0), found.mask[part] != 0, level, seed, glass, 4.0)

    fields = real / "tumor_masks"
    camelyon, oral = (read(sorted((fields / name).glob("images/*.jpg")), 0.25) for name in ("camelyon", "ocdc"))
    colon = read(sorted((real / "colon/colon_aca").glob("*.jpeg"))[::10], 0.45)
    brown = [shrunk(data.immunohistochemistry(), 0.125)]  # type: ignore[no-untyped-call]
    yield collage("Camelyon", camelyon, (227, 223, 222), seed, glass, 4.0, most=12)
    yield collage("colon", colon, (253, 252, 254), seed, None, 4.0, most=16)
    yield collage("IHC", brown, (236, 236, 234), seed, glass, 4.0, most=1)
    yield collage("oral", oral, (245, 245, 245), seed, None, 2.0, most=5)
    yield from dark_bases(real, seed)


def dark_bases(real: Path, seed: int) -> Iterator[Base]:
    """Yield slides with a dark background, with the values of 12 bits."""
    planes = []
    for stain in ("dapi", "tritc"):
        with open_slide(real / f"wsi/pair-{stain}.ndpi") as slide:
            rgb, scale, _ = slide.read_overview(1216)
            planes.append(rgb[rgb.mean(axis=(1, 2)).argmax()].astype(np.uint16) * 16)
    yield outlined("DAPI, TRITC", np.stack(planes), slide.mpp * scale, is_dark=True)
    shg = tifffile.imread(real / "multimodal/curvealign-2B_D9_ROI2-shg.tif")
    yield outlined("SHG", shg.astype(np.uint16)[None] * 16, 0.5, is_dark=True)

    rng, shape = generator(seed, "TPEF, SHG"), (900, 900)
    stack = tifffile.imread(real / "multimodal/test-pyfibre-pl-shg-Stack.tif")[:2, 1].astype(np.float32)
    # The field is enlarged four times and mirrored; its lumina are ignored.
    field = np.stack([cv2.resize(plane, None, fx=4, fy=4, interpolation=cv2.INTER_CUBIC).clip(0) for plane in stack])
    specimen = np.pad(field, ((0, 0), (0, 100), (0, 100)), mode="symmetric")
    tissue = outline(rng, shape, 0.35)
    brightest = blur(specimen.max(axis=0), 2)
    yield Base(
        name="TPEF, SHG", pixels=rng.poisson(100 + 20 * specimen * blur(tissue, 1.0)).astype(np.uint16), tissue=tissue,
        ignored=tissue & (brightest < 0.3 * np.median(brightest)), level=np.full(2, 100.0), mpp=0.5, is_dark=True,
    )  # fmt: skip


def outlined(name: str, pixels: Array, mpp: float, *, is_dark: bool = False) -> Base:
    """Return a real slide with pathopatch's own outline of the clean image as truth."""
    found = find_tissue(pixels, mpp)
    # Single pixels of a dim channel are tissue by chance.
    ignored = (cv2.medianBlur(found.mask, 7) != found.mask) & is_dark
    level, tissue = np.array(found.levels), found.mask != 0
    return Base(name=name, pixels=pixels, tissue=tissue, ignored=ignored, level=level, mpp=mpp, is_dark=is_dark)


def collage(
    name: str, images: Sequence[Array], level: Sequence[float], seed: int, glass: Array | None, mpp: float, *, most: int
) -> Base:
    """Return irregular pieces of a patchwork of square images (h, w, 3): of those with the least glass, so many."""
    rng, shape, side = generator(seed, name), (1000, 1100), images[0].shape[0]
    pale = np.array(level) * (1 - _AS_PALE_AS_GLASS)
    fullest = sorted(images, key=lambda image: float((image > pale).all(axis=2).mean()))[:most]
    patchwork = np.zeros((shape[0] + side, shape[1] + side, 3), np.uint8)
    for top in range(0, shape[0], side):
        for left in range(0, shape[1], side):
            turned = np.rot90(fullest[rng.integers(len(fullest))], int(rng.integers(4)))
            patchwork[top : top + side, left : left + side] = turned[:, :: rng.choice((-1, 1))]
    tissue = outline(rng, shape, 0.42)
    return paste(name, patchwork[: shape[0], : shape[1]], tissue, np.array(level), seed, glass, mpp)


def paste(name: str, rgb: Array, tissue: Mask, level: Array, seed: int, glass: Array | None, mpp: float) -> Base:
    """Return tissue, (H, W, 3) with glass of a level, cut out with soft edges, on real glass, mirrored, or made one."""
    if glass is not None:
        sides = [(0, max(0, n - have)) for n, have in zip(tissue.shape, glass.shape, strict=False)]
        ground = np.pad(glass, (*sides, (0, 0)), mode="symmetric")[: tissue.shape[0], : tissue.shape[1]]
    else:
        rng = generator(seed, f"glass of {name}")
        noise = 0.8 * smooth_noise(rng, tissue.shape, 200)[..., None] + rng.normal(0, 2, (*tissue.shape, 3))
        ground = np.array(_MADE_GLASS) + noise
    own_level = np.median(ground, axis=(0, 1))
    specimen, alpha = rgb * (own_level / level), blur(tissue, 0.8)[..., None]
    absorption = 1 - (cv2.blur(specimen, (3, 3)) / own_level).min(axis=2)
    mixed = np.clip(np.rint(alpha * specimen + (1 - alpha) * ground), 0, 255).astype(np.uint8)
    return Base(
        name=name, pixels=np.ascontiguousarray(mixed.transpose(2, 0, 1)), tissue=tissue,
        ignored=tissue & (absorption < _AS_PALE_AS_GLASS), level=own_level, mpp=mpp,
    )  # fmt: skip


def outline(rng: np.random.Generator, shape: tuple[int, ...], share: float) -> Mask:
    """Return a mask of irregular pieces that fill so much of an image and keep off its border."""
    rough = sum(weight * smooth_noise(rng, shape, scale) for weight, scale in ((1, 280), (0.2, 60), (0.06, 9)))
    y, x = np.ogrid[-1 : 1 : shape[0] * 1j, -1 : 1 : shape[1] * 1j]
    rough = rough - 4 * np.maximum(abs(x), abs(y)) ** 8
    return np.asarray(rough > np.quantile(rough, 1 - share))


def read(paths: Sequence[Path], scale: float) -> list[Array]:
    """Return images (h, w, 3), made smaller."""
    return [shrunk(np.asarray(cv2.imread(str(path), cv2.IMREAD_COLOR_RGB)), scale) for path in paths]


def shrunk(image: Array, scale: float) -> Array:
    """Return area means of an image (h, w, 3)."""
    return cv2.resize(np.ascontiguousarray(image), None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)


# ---- dirt on bright slides


def behind(pixels: Array, density: Array) -> Array:
    """Return pixels (C, H, W) seen through an optical density, (C, H, W) or (H, W): Beer and Lambert's law."""
    stray = np.minimum(pixels, _STRAY_LIGHT).astype(np.float32)
    return stray + (pixels - stray) * np.exp(-density.astype(np.float32))


def ink(rng: np.random.Generator, base: Base, *, colour: str, density: str, width: str, over: str) -> Dirt:
    """Draw a long and a short stroke and a dot of a felt pen, over glass or over tissue."""
    width_px = rng.uniform(*WIDTHS_UM[width]) / base.mpp
    amount: Array = np.zeros(base.tissue.shape, np.float32)
    for length_um in (3500, 1500, 1):
        drawn = rng.uniform(*DENSITIES[density]) * stroke(rng, base, length_um / base.mpp, width_px, over)
        # Felt takes up part of the ink that it crosses.
        amount = np.maximum(amount, drawn) + 0.4 * np.minimum(amount, drawn)
    absorbed = np.array(INKS[colour]) * (1 + 0.08 * rng.normal(size=3))
    pixels, area = behind(base.pixels, np.multiply.outer(absorbed, amount)), amount > _VISIBLE
    return Dirt(pixels, area, area & base.tissue & (density == "opaque"))


def stroke(rng: np.random.Generator, base: Base, length_px: float, width_px: float, over: str) -> Array:
    """Return the density (H, W), about 1, of the best-placed of many strokes: frayed, soft, uneven, darker rim."""
    shape, thumb = base.tissue.shape, 8
    tissue = cv2.resize(base.tissue.astype(np.float32), None, fx=1 / thumb, fy=1 / thumb, interpolation=cv2.INTER_AREA)
    best, best_score = np.zeros((0, 2)), -np.inf
    for _ in range(60):
        turns = np.cumsum(rng.normal(0, 1.5) / 40 + rng.normal(0, 0.08, 40)) + rng.uniform(0, 2 * np.pi)
        steps = np.stack([np.cos(turns), np.sin(turns)], axis=1) * min(length_px, 0.8 * min(shape)) / 40
        path = np.cumsum(steps, axis=0) + rng.uniform(0, shape[::-1])
        at = line(tissue.shape, path / thumb, 1.0, width_px / thumb) > 0
        share = float(tissue[at].mean()) if at.any() else 0.5
        inside = np.count_nonzero(at) / ((length_px + width_px) * width_px / thumb**2)
        score = (share if over == "tissue" else -2 * share) + min(inside, 0.8)
        if score > best_score:
            best, best_score = path, score
    frayed = 0.12 * np.clip(smooth_noise(rng, shape, width_px / 8), -3, 3)
    soft = blur(blur(line(shape, best, 1.0, width_px), width_px / 16) + frayed > 0.5, rng.uniform(6, 20) / base.mpp)
    rim = 1 - blur(soft, width_px / 6)  # ink dries at the rim of a stroke
    patchy = np.exp(0.12 * smooth_noise(rng, shape, width_px / 2) + 0.05 * smooth_noise(rng, shape, 4))
    return soft * (0.85 + 0.8 * rim) * patchy


def line(shape: tuple[int, ...], path: Array, value: float, width_px: float) -> Array:
    """Return an image (H, W) of a line through points (N, 2)."""
    canvas = np.zeros(shape, np.float32)
    return cv2.polylines(canvas, [path.astype(np.int32)], False, value, max(1, round(width_px)))


def bubbles(rng: np.random.Generator, base: Base, *, most_um: float) -> Dirt:
    """Put air bubbles under the cover slip: a dark rim with a bright line, and a slightly moved, changed inside."""
    (height, width), pixels = base.tissue.shape, np.asarray(base.pixels, np.float32)
    area, ignored = np.zeros_like(base.tissue), np.zeros_like(base.tissue)
    y, x = np.mgrid[:height, :width].astype(np.float32)
    for _ in range(5):
        radius = rng.uniform(0.3, 1) * min(most_um / base.mpp, 0.2 * min(height, width))
        middle_x, middle_y, phase = rng.uniform(0, width), rng.uniform(0, height), rng.uniform(0, 6)
        angle = np.arctan2(y - middle_y, x - middle_x)
        far = np.hypot(y - middle_y, x - middle_x) / (1 + 0.05 * np.sin(2 * angle + phase) + 0.02 * np.sin(5 * angle))
        rim_px, is_inside = max(1.5, rng.uniform(8, 20) / base.mpp), far < radius
        source = x + 0.03 * (middle_x - x), y + 0.03 * (middle_y - y)
        moved = np.stack([cv2.remap(plane, *source, cv2.INTER_LINEAR) for plane in pixels])
        pixels = np.where(is_inside, rng.uniform(0.94, 1.02) * moved, pixels)
        rim = rng.uniform(0.7, 1.6) * np.exp(-(((far - radius) / rim_px) ** 2))
        glint = rng.uniform(0.02, 0.1) * np.exp(-((2 * (far - radius) / rim_px + 4) ** 2))
        pixels = behind(pixels, rim - glint)
        area |= rim > _VISIBLE
        ignored |= base.tissue & (abs(far - radius) < 3 * rim_px) | is_inside & edges(base.tissue, 1 + int(radius / 30))
    return Dirt(pixels, area, ignored)


def dust(rng: np.random.Generator, base: Base, *, shape: str) -> Dirt:
    """Put brownish specks, or grey fibres, on a slide; a third of them out of focus."""
    size = base.tissue.shape
    sharp, blurred = np.zeros(size, np.float32), np.zeros(size, np.float32)
    count, lengths_um, widths_um = (60, (5, 60), (8, 70)) if shape == "specks" else (12, (300, 1500), (8, 25))
    for number in range(count):
        turns = np.cumsum(rng.normal(0, 0.2, 60)) + rng.uniform(0, 2 * np.pi)
        steps = np.stack([np.cos(turns), np.sin(turns)], axis=1) * rng.uniform(*lengths_um) / base.mpp / 60
        path, width_px = rng.uniform(0, size[::-1]) + np.cumsum(steps, axis=0), rng.uniform(*widths_um) / base.mpp
        layer = blurred if number % 3 == 0 else sharp
        np.maximum(layer, line(size, path, rng.uniform(0.4, 1.5), width_px), out=layer)
    density = blur(sharp, 0.6) + blur(blurred, 12 / base.mpp)
    area, colour = density > _VISIBLE, (0.9, 1.0, 1.2) if shape == "specks" else (1.0, 0.95, 0.9)
    return Dirt(behind(base.pixels, np.multiply.outer(colour, density)), area, area & base.tissue)


def cover_slip(rng: np.random.Generator, base: Base, *, direction: str, darkness: float) -> Dirt:
    """Draw the edge of a cover slip: a dark and a light line, a shadow, and slightly darker glass beyond."""
    y, x = np.mgrid[: base.tissue.shape[0], : base.tissue.shape[1]].astype(np.float32)
    along, across = (x, y) if direction == "across" else (y, x)
    distance_um = (across - rng.uniform(0.75, 0.88) * across.max() - rng.normal(0, 0.04) * along) * base.mpp
    line_um = max(2.0 * base.mpp, 10)
    dark = darkness * np.exp(-((distance_um / line_um) ** 2))
    light = 0.06 * np.exp(-((2 * distance_um / line_um + 5) ** 2))
    beyond = np.where(distance_um > 0, 0.03 + 0.06 * np.exp(-abs(distance_um) / 250), 0)
    area = dark > _VISIBLE
    return Dirt(behind(base.pixels, dark - light + beyond), area, area & base.tissue)


def out_of_focus(rng: np.random.Generator, base: Base, *, sigma_um: float, part: str) -> Dirt:
    """Blur half of a slide, or spots of it."""
    shape, sigma_px = base.tissue.shape, sigma_um / base.mpp
    slope = np.linspace(-2, 2, shape[1]) * rng.choice((-1, 1)) + np.linspace(-1, 1, shape[0])[:, None]
    rough = slope if part == "half" else smooth_noise(rng, shape, 0.2 * min(shape)) - 0.3
    weight = blur(rough > 0, 3 * sigma_px)
    pixels = np.stack([plane * (1 - weight) + blur(plane, sigma_px) * weight for plane in base.pixels])
    return Dirt(pixels, ignored=(weight > 0.05) & edges(base.tissue, round(2 * sigma_px)))


def stain(rng: np.random.Generator, base: Base, *, factor: float = 1.0, light: str = "even") -> Dirt:
    """Multiply the optical density, evenly or less and less along the slide, and tint or dim the light."""
    fading = np.linspace(1, factor, base.tissue.shape[1])[:: rng.choice((-1, 1))]
    level = base.level[:, None, None]
    pixels = level * np.maximum(base.pixels / level, 1 / 255) ** (fading if light == "fading" else factor)
    if light in ("yellow", "very yellow"):
        pixels = tint(pixels, 48, 0.2 if light == "yellow" else 0.4)
    return Dirt(uneven(pixels, "radial", 0.2) if light == "vignette" else pixels)


def glow(rng: np.random.Generator, base: Base, *, tiles: float = 0.0, bleed: float = 0.0, haze: float = 0.0) -> Dirt:
    """Add black levels by tile, the other channel, and haze to dark channels, as shares of their mean signal."""
    shape = base.tissue.shape
    above = base.pixels - base.level[:, None, None]
    signal = above[:, base.tissue].mean(axis=1)[:, None, None]
    levels = rng.permutation(np.linspace(0, tiles, 12)).reshape(3, 4)
    wide, veil = blur(base.tissue, 0.08 * min(shape)), np.tanh(smooth_noise(rng, shape, 0.6 * min(shape)))
    added = bleed * np.roll(above / signal, 1, axis=0) + haze * (0.7 * wide / wide.max() + 0.15 * (1 + veil))
    added = added + cv2.resize(levels, shape[::-1], interpolation=cv2.INTER_NEAREST)
    noise = 0.03 * np.sqrt(np.maximum(added, 0)) * rng.normal(size=base.pixels.shape)
    return Dirt(base.pixels + signal * (added + noise))


def kinds(base: Base) -> Iterator[tuple[str, str, Callable[[np.random.Generator, Base], Dirt]]]:
    """Yield kind, variant and maker of the dirt that a slide gets; the first is none."""
    yield "clean", "", lambda _, base: Dirt(base.pixels)
    if base.is_dark:
        yield from (("uneven black levels", f"{share:.0%}", partial(glow, tiles=share)) for share in (0.05, 0.1, 0.2))
        yield from (("haze", f"{share:.0%}", partial(glow, haze=share)) for share in (0.2, 0.5))
        yield "haze", "20%, black levels 10%", partial(glow, haze=0.2, tiles=0.1)
        if len(base.pixels) > 1:
            yield "bleed-through", "30%", partial(glow, bleed=0.3)
        return
    for colour in INKS if base.mpp >= 4 else ():  # finer fields are narrower than strokes
        for density, over, width in ((d, o, w) for d in DENSITIES for o in ("glass", "tissue") for w in WIDTHS_UM):
            make = partial(ink, colour=colour, density=density, over=over, width=width)
            yield f"{colour} ink", f"{density}, over {over}, {width}", make
    yield from (("air bubbles", f"to {most_um} um", partial(bubbles, most_um=most_um)) for most_um in (200, 700))
    yield from (("dust", shape, partial(dust, shape=shape)) for shape in ("specks", "fibres"))
    yield "cover-slip edge", "faint", partial(cover_slip, direction="across", darkness=0.5)
    yield "cover-slip edge", "strong", partial(cover_slip, direction="down", darkness=1.2)
    for sigma_um, part in ((8, "half"), (20, "half"), (20, "spots")):
        yield "out of focus", f"{part}, {sigma_um} um", partial(out_of_focus, sigma_um=sigma_um, part=part)
    yield from ((f"pale, {factor}", "", partial(stain, factor=factor)) for factor in (0.5, 0.3, 0.2))
    yield "fading", "1 to 0.2", partial(stain, factor=0.2, light="fading")
    yield from (("yellow light", light, partial(stain, light=light)) for light in ("yellow", "very yellow"))
    yield "vignette", "", partial(stain, light="vignette")
    yield "pale, 0.3, and vignette", "", partial(stain, factor=0.3, light="vignette")


def dirty_slides(base: Base, seed: int = 0) -> Iterator[tuple[str, str, Dirt]]:
    """Yield kind, variant and dirt of a slide, clean first; the pixels are whole numbers with the noise of a camera."""
    for kind, variant, make in kinds(base):
        rng = generator(seed, f"{base.name}, {kind}, {variant}")
        dirt = make(rng, base)
        noise = 0.0 if base.is_dark else rng.normal(0, _CAMERA_NOISE, base.pixels.shape)
        pixels = np.clip(np.rint(dirt.pixels + noise), 0, np.iinfo(base.pixels.dtype).max)
        yield kind, variant, dirt._replace(pixels=pixels.astype(base.pixels.dtype))


# ---- contact sheets


def write_sheets(real: Path, folder: Path, seed: int) -> None:
    """Write a PNG per slide and kind: the clean slide with its truth, the dirty one, and pathopatch's outline."""
    folder.mkdir(parents=True, exist_ok=True)
    for base in bases(real, seed):
        rows: dict[str, list[Array]] = {}
        for kind, _, dirt in dirty_slides(base, seed):
            found = find_tissue(dirt.pixels, base.mpp).mask != 0
            ignored = base.ignored if dirt.ignored is None else base.ignored | dirt.ignored
            clean = picture(base.pixels, base.tissue, ignored)
            rows.setdefault(kind, []).append(np.hstack([clean, picture(dirt.pixels), picture(dirt.pixels, found)]))
        for kind, images in rows.items():
            cv2.imwrite(str(folder / f"{base.name} - {kind}.png".replace(", ", "-")), np.vstack(images))


def picture(pixels: Array, mask: Mask | None = None, ignored: Mask | None = None, width: int = 500) -> Array:
    """Return a small BGR picture (h, w, 3), with a mask's outline in green and ignored pixels in yellow."""
    planes = pixels[[n % len(pixels) for n in range(3)]]
    if pixels.dtype != np.uint8:
        planes = np.clip(255 * (planes / np.percentile(planes, 99.5)) ** 0.7, 0, 255).astype(np.uint8)
    bgr = np.ascontiguousarray(planes.transpose(1, 2, 0)[..., ::-1])
    if ignored is not None:
        bgr[ignored] = (0, 220, 220)
    if mask is not None:
        contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(bgr, contours, -1, (0, 200, 0), round(bgr.shape[1] / width))
    return shrunk(bgr, width / bgr.shape[1])


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--sheet", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    write_sheets(Path(os.environ["PATHOPATCH_REAL_DATA"]), options.sheet, options.seed)
