"""Collect all predictions of a work folder in ``index/``, for DuckDB, Polars and whatever else reads Parquet.

``index/slides.parquet`` has a row a slide, as ``cohort.csv``; ``index/patches/bucket=NNNN/patches.parquet`` have a row
a patch. A slide's bucket follows from its id, so that one more slide rewrites one file, and every bucket is sorted by
slide, so that a query for one slide reads little. What is current is left as it is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pathopatch.core.artefacts import Stamp, fingerprint, read_stamp, require_schema, stamped_metadata, write_table
from pathopatch.core.errors import InputMissingError
from pathopatch.core.files import atomic_path, inside, remove
from pathopatch.core.progress import Progress
from pathopatch.core.status import FINISHED
from pathopatch.core.work_folder import WorkFolder
from pathopatch.stages.batch.summaries import CohortTables

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

FOLDER = "index"
ROWS_A_BUCKET = 2_000_000
"""About so many patches a file: some ten megabytes each, a second to rewrite."""
_KEYS = ("slide_id", "patient_id")
_GROUP = 200_000  # rows that a reader passes over in one step


def write_index(out: Path, *, force: bool = False, progress: Progress | None = None) -> Path:
    """Gather the prediction tables of all slides that are done, and write the tables of the cohort; return ``index``.

    Tables of slides that failed since are left out. `force` also writes anew what is current.

    Raises
    ------
    InputMissingError
        No slide was predicted there, or the table of one that is done is gone.
    InputCorruptError, StaleArtefactError
        A table cannot be read, or is of another schema.
    DiskFullError
        No space was left; what was there before is untouched.
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
    count = _buckets(int(done["predicted"].sum()))
    of_bucket: dict[int, list[str]] = {}
    for slide_id in sorted(stamps):
        of_bucket.setdefault(_bucket(slide_id, count), []).append(slide_id)
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
    _remove_others(out, of_bucket)
    stamp = Stamp(stage="index", settings={"buckets": count}, inputs={"slides": _content(slides)})
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


def _buckets(rows: int) -> int:
    """Return how many buckets so many rows go into: a power of two, so that it seldom changes."""
    return 1 << max(0, (rows // ROWS_A_BUCKET)).bit_length()


def _bucket(slide_id: str, count: int) -> int:
    return int.from_bytes(hashlib.sha256(slide_id.encode()).digest()[:8], "big") % count


def _path(out: Path, bucket: int) -> Path:
    return inside(out, FOLDER, "patches", f"bucket={bucket:04d}", "patches.parquet")


def _schema(out: Path, slide_ids: Sequence[str]) -> pa.Schema:
    """Return the columns of all tables together: an ensemble's tables have more of them than a single model's."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schemas = {pq.read_schema(WorkFolder(out).predictions(name)).remove_metadata() for name in slide_ids}
    of_slide = pa.schema([(name, pa.large_string()) for name in _KEYS])
    return pa.unify_schemas([of_slide, *sorted(schemas, key=str)], promote_options="permissive")


def _tables(out: Path, patients: Mapping[str, str], schema: pa.Schema) -> Iterator[pa.Table]:
    """Yield each slide's rows with the columns of `schema`, missing where its table has none."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    for slide_id, patient_id in patients.items():
        table = pq.read_table(WorkFolder(out).predictions(slide_id)).replace_schema_metadata()
        ids = {"slide_id": slide_id, "patient_id": patient_id}
        columns = [
            table[name].cast(kind)
            if name in table.column_names
            else pa.repeat(pa.scalar(ids[name], kind), len(table))
            if name in ids
            else pa.nulls(len(table), kind)
            for name, kind in zip(schema.names, schema.types, strict=True)
        ]
        yield pa.table(columns, schema=schema)


def _write(path: Path, out: Path, patients: Mapping[str, str], schema: pa.Schema, stamp: Stamp) -> None:
    import pyarrow.parquet as pq

    marked = schema.with_metadata(stamped_metadata(stamp))
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary, pq.ParquetWriter(temporary, marked, compression="zstd") as writer:
        for table in _gathered(_tables(out, patients, schema)):
            writer.write_table(table.replace_schema_metadata(marked.metadata), row_group_size=_GROUP)


def _gathered(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """Yield tables of at least a row group, so that many small slides are not as many groups."""
    import pyarrow as pa

    group: list[pa.Table] = []
    for table in tables:
        group.append(table)
        if sum(map(len, group)) >= _GROUP:
            yield pa.concat_tables(group)
            group = []
    if group:
        yield pa.concat_tables(group)


def _remove_others(out: Path, kept: Mapping[int, object]) -> None:
    """Remove the buckets of an earlier number, and of slides that are gone."""
    wanted = {_path(out, bucket).parent.name for bucket in kept}
    for folder in sorted((out / FOLDER / "patches").glob("bucket=*")):
        if folder.name not in wanted:
            remove(folder)


def _content(table: pd.DataFrame) -> str:
    return hashlib.sha256(table.to_csv(index=False).encode()).hexdigest()
