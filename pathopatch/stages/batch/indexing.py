"""Collect all predictions of a work folder in ``index/``, for DuckDB, Polars and whatever else reads Parquet.

``index/slides.parquet`` has a row a slide, as ``cohort.csv``; ``index/patches/bucket=NNNN/patches.parquet`` have a row
a patch. A slide's bucket follows from its id, so that one more slide rewrites one file, and every bucket is sorted by
slide, so that a query for one slide reads little. What is current is left as it is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pathopatch.core.artefacts import Stamp, fingerprint, read_stamp, require_schema, stamped_metadata, write_table
from pathopatch.core.errors import InputMissingError
from pathopatch.core.files import atomic_path, inside, remove
from pathopatch.core.status import FINISHED
from pathopatch.core.task import Progress
from pathopatch.core.work_folder import WorkFolder
from pathopatch.stages.batch.summaries import CohortTables

if TYPE_CHECKING:
    import pyarrow as pa

FOLDER = "index"
ROWS_A_BUCKET = 500_000
"""About so many patches a file, which are held in memory at once: a few hundred megabytes."""
_KEYS = ("slide_id", "patient_id")
_GROUP = 200_000  # rows that a reader passes over in one step


def write_index(out: Path, *, force: bool = False, progress: Progress | None = None) -> Path:
    """Gather the prediction tables of all slides that are done, and write the tables of the cohort; return ``index``.

    Tables of slides that failed since are left out. `force` also writes anew what is current.
    """
    tables = CohortTables(out)
    slides = tables.slides()
    done = slides[slides["state"].isin(FINISHED)]
    if done.empty:
        raise InputMissingError(
            "no predicted slide here", place=str(out), remedy="name the folder that pathopatch predict wrote to"
        )
    tables.write()
    stamps = {str(name): _stamp(out, str(name)) for name in done["slide_id"]}
    patients = dict(zip(done["slide_id"].astype(str), done["patient_id"].astype(str), strict=True))
    # A power of two, so that it seldom changes.
    count = 1 << (int(done["predicted"].sum()) // ROWS_A_BUCKET).bit_length()
    of_bucket: dict[int, list[str]] = {}
    for slide_id in sorted(stamps):
        bucket = int.from_bytes(hashlib.sha256(slide_id.encode()).digest()[:8], "big") % count
        of_bucket.setdefault(bucket, []).append(slide_id)
    schema = None
    for number, (bucket, slide_ids) in enumerate(sorted(of_bucket.items()), 1):
        inputs = {
            name: fingerprint([stamps[name].to_dict() | {"package_version": ""}, patients[name]]) for name in slide_ids
        }
        stamp = Stamp(stage="index", settings={"buckets": count}, inputs={"tables": fingerprint(inputs)})
        path = _path(out, bucket)
        if force or read_stamp(path) != stamp:
            schema = schema or _schema(out, sorted(stamps))
            _write(path, out, {name: patients[name] for name in slide_ids}, schema, stamp)
        if progress:
            progress("index", number, len(of_bucket), f"{len(slide_ids)} slides")
    wanted = {_path(out, bucket).parent.name for bucket in of_bucket}
    for folder in sorted((out / FOLDER / "patches").glob("bucket=*")):
        if folder.name not in wanted:  # of an earlier number, or of slides that are gone
            remove(folder)
    stamp = Stamp(
        stage="index", settings={"buckets": count}, inputs={"slides": fingerprint(slides.to_csv(index=False))}
    )
    if force or read_stamp(out / FOLDER / "slides.parquet") != stamp:
        write_table(inside(out, FOLDER, "slides.parquet"), slides, stamp)
    return out / FOLDER


def _stamp(out: Path, slide_id: str) -> Stamp:
    path = WorkFolder(out).predictions(slide_id)
    stamp = read_stamp(path)
    if stamp is None:
        raise InputMissingError(
            "the table of a slide that is done is gone or unreadable", place=str(path), remedy="predict the slide again"
        )
    require_schema(stamp, place=path)
    return stamp


def _path(out: Path, bucket: int) -> Path:
    return inside(out, FOLDER, "patches", f"bucket={bucket:04d}", "patches.parquet")


def _schema(out: Path, slide_ids: Sequence[str]) -> pa.Schema:
    """Return the columns of all tables together: an ensemble's tables have more of them than a single model's."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schemas = {pq.read_schema(WorkFolder(out).predictions(name)).remove_metadata() for name in slide_ids}
    of_slide = pa.schema([(name, pa.large_string()) for name in _KEYS])
    return pa.unify_schemas([of_slide, *sorted(schemas, key=str)], promote_options="permissive")


def _write(path: Path, out: Path, patients: Mapping[str, str], schema: pa.Schema, stamp: Stamp) -> None:
    """Write the rows of some slides with the columns of `schema`, missing where their tables have none."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    tables = [schema.empty_table()]
    for slide_id, patient_id in patients.items():
        table = pq.read_table(WorkFolder(out).predictions(slide_id)).replace_schema_metadata()
        for name, value in zip(_KEYS, (slide_id, patient_id), strict=True):
            if name not in table.column_names:
                table = table.append_column(name, pa.repeat(pa.scalar(value, pa.large_string()), len(table)))
        tables.append(table)
    joined = pa.concat_tables(tables, promote_options="permissive")
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        marked = joined.replace_schema_metadata(stamped_metadata(stamp))
        pq.write_table(marked, temporary, compression="zstd", row_group_size=_GROUP)
