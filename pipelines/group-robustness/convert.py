"""Write the list of ready patches of Waterbirds, CelebA or bFFHQ, as published, for `pathopatch tile --patches`.

    python convert.py waterbirds /data/waterbird_complete95_forest2water2 -o waterbirds.csv

Nothing is copied or resampled: the list names the images where they are.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd

from pathopatch.core.errors import InputMissingError, InputUnsupportedError, PathopatchError

SPLITS = {"0": "train", "1": "val", "2": "test"}
COLUMNS = ("path", "label", "label_name", "attribute", "patient_id", "split", "tissue_fraction")


def waterbirds(folder: Path) -> pd.DataFrame:
    """Return landbird or waterbird on land or water, from ``metadata.csv``."""
    table = _read(folder / "metadata.csv", ("img_id", "img_filename", "y", "split", "place"))
    return pd.DataFrame(
        {
            "path": [folder / name for name in table["img_filename"]],
            "label": table["y"],
            "label_name": _named(table, "y", {"0": "landbird", "1": "waterbird"}),
            "attribute": _named(table, "place", {"0": "land", "1": "water"}),
            "patient_id": "bird" + table["img_id"],
            "split": _named(table, "split", SPLITS),
        }
    )


def celeba(folder: Path) -> pd.DataFrame:
    """Return blond or not, of women or men, from ``list_attr_celeba.csv`` and ``list_eval_partition.csv``.

    With ``identity_CelebA.txt`` (image and person, without a header) beside them intervals are by person; without it
    each image counts as a person of its own.
    """
    traits = _read(folder / "list_attr_celeba.csv", ("image_id", "Blond_Hair", "Male"))
    partition = _read(folder / "list_eval_partition.csv", ("image_id", "partition"))
    table = traits.merge(partition, on="image_id", how="left", validate="one_to_one")
    if table["partition"].isna().any():
        first = table.loc[table["partition"].isna(), "image_id"].iloc[0]
        raise InputUnsupportedError(
            f"{int(table['partition'].isna().sum())} images have no partition, the first is {first}",
            place=str(folder / "list_eval_partition.csv"),
            remedy="take both lists from one release",
        )
    images = folder / "img_align_celeba"
    nested = images / "img_align_celeba"  # as some archives unpack
    images = nested if nested.is_dir() else images
    return pd.DataFrame(
        {
            "path": [images / name for name in table["image_id"]],
            "label": _named(table, "Blond_Hair", {"1": "1", "-1": "0"}),
            "label_name": _named(table, "Blond_Hair", {"1": "blond", "-1": "not blond"}),
            "attribute": _named(table, "Male", {"1": "man", "-1": "woman"}),
            "patient_id": _persons(folder, table["image_id"]),
            "split": _named(table, "partition", SPLITS),
        }
    )


def bffhq(folder: Path) -> pd.DataFrame:
    """Return young or old, of women or men, from file names ``<number>_<age>_<gender>.png``.

    Images below ``align`` and ``conflict`` are for training, below ``valid`` and ``test`` for those splits.
    """
    rows = []
    for path in sorted(folder.rglob("*.png")):
        parts = {part.casefold() for part in path.relative_to(folder).parts[:-1]}
        split = next((name for key, name in _BFFHQ.items() if key in parts), None)
        code = path.stem.split("_")[-2:]
        if split is None or len(code) < 2 or not set(code) <= {"0", "1"} or path.stem.count("_") < 2:
            raise InputUnsupportedError(
                "neither split nor age and gender can be read from the path",
                place=str(path),
                remedy="give the folder that holds align, conflict, valid and test, with <number>_<age>_<gender>.png",
            )
        age, gender = code
        rows.append((path, age, ("young", "old")[int(age)], ("woman", "man")[int(gender)], path.stem, split))
    if not rows:
        raise InputMissingError("no PNG image", place=str(folder), remedy="give the unpacked folder")
    return pd.DataFrame(rows, columns=["path", "label", "label_name", "attribute", "patient_id", "split"])


_BFFHQ = {"test": "test", "valid": "val", "align": "train", "conflict": "train"}
LAYOUTS: dict[str, Callable[[Path], pd.DataFrame]] = {"waterbirds": waterbirds, "celeba": celeba, "bffhq": bffhq}


def convert(layout: str, folder: Path, out: Path) -> pd.DataFrame:
    """Write the list of a data set and return it.

    Parameters
    ----------
    layout : str
        One of `LAYOUTS`.
    folder : Path
        The data set as it is published.
    out : Path
        CSV file to write. Paths in it are relative to it where the images lie below its folder, else absolute.

    Raises
    ------
    InputMissingError
        A file of the layout is not there.
    InputUnsupportedError
        It has other columns or values than are published.
    """
    if not folder.is_dir():
        raise InputMissingError("no such folder", place=str(folder), remedy="give the unpacked data set")
    table = LAYOUTS[layout](folder.resolve()).assign(tissue_fraction=1)  # no tissue is measured on natural images
    base = out.resolve().parent
    table["path"] = [path.relative_to(base) if path.is_relative_to(base) else path for path in table["path"]]
    table[list(COLUMNS)].to_csv(out, index=False, lineterminator="\n")
    return table


def _read(path: Path, columns: tuple[str, ...]) -> pd.DataFrame:
    """Return a published table as text."""
    if not path.is_file():
        raise InputMissingError(f"no {path.name}", place=str(path.parent), remedy="give the unpacked data set")
    table = pd.read_csv(path, dtype=str, keep_default_na=False, skipinitialspace=True)
    missing = [name for name in columns if name not in table]
    if missing:
        raise InputUnsupportedError(
            f"no column {', '.join(missing)}; there are {', '.join(map(str, table))}",
            place=str(path),
            remedy="take the file as it is published",
        )
    return table


def _named(table: pd.DataFrame, column: str, names: dict[str, str]) -> pd.Series:
    """Return the names of a column's codes; refuse any other code, with its row."""
    is_listed = table[column].isin(list(names))
    if not is_listed.all():
        row = int((~is_listed).to_numpy().argmax())
        raise InputUnsupportedError(
            f"{column} is {table[column].iloc[row]!r}, not one of {', '.join(names)}",
            place=f"row {row + 2}",
            remedy="take the file as it is published",
        )
    return table[column].map(names)


def _persons(folder: Path, images: pd.Series) -> pd.Series:
    """Return the person of each image, or the image's own name if there is no file of persons."""
    path = folder / "identity_CelebA.txt"
    if not path.is_file():
        return images.str.rsplit(".", n=1).str[0]
    identities = pd.read_csv(path, sep=r"\s+", header=None, names=["image_id", "person"], dtype=str)
    person = images.map(dict(zip(identities["image_id"], identities["person"], strict=True)))
    if person.isna().any():
        raise InputUnsupportedError(
            f"no person for {images[person.isna()].iloc[0]}", place=str(path), remedy="take both from one release"
        )
    return "person" + person


def main(arguments: list[str] | None = None) -> int:
    """Convert a data set from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("layout", choices=sorted(LAYOUTS))
    parser.add_argument("folder", type=Path, help="the unpacked data set")
    parser.add_argument("-o", "--out", type=Path, required=True, help="CSV file to write")
    given = parser.parse_args(arguments)
    try:
        table = convert(given.layout, given.folder, given.out)
    except PathopatchError as error:
        print(error, file=sys.stderr)
        return 1
    counts = table.groupby(["split", "label_name", "attribute"]).size()
    print("\n".join(f"{split:<6} {label}, {attribute}: {n}" for (split, label, attribute), n in counts.items()))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
