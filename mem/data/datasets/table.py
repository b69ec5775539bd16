"""Tables with a row for each image: CSV and Parquet."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mem.config import Table
from mem.data.datasets.index_files import Rows, normalised_paths, read_bytes, read_text
from mem.data.datasets.problems import Problems
from mem.errors import UserError

_PARQUET = (".parquet", ".pq")


def read_table(settings: Table) -> dict[str, Rows]:
    """The rows of each split; rows are counted from 1, after the header.

    Raises:
        UserError: The file is missing or no table, a column is missing, or cells are empty or unexpected. All are
            counted, the first few named.
    """
    path = settings.index_files()["table"]
    columns = [settings.path_column, settings.label_column]
    if settings.split_column is not None:
        columns.append(settings.split_column)
    read = _parquet if path.suffix.lower() in _PARQUET else _csv
    paths, labels, *splits = read(path, columns)
    if not paths:
        raise UserError(f"{path}: the table is empty: it has a header and no rows")
    faults = Problems(str(path))
    for column, cells in zip(columns, (paths, labels, *splits), strict=True):
        if blank := [i for i, cell in enumerate(cells, 1) if not cell]:
            faults.add_all(f"rows without a {column}", (f"row {i}" for i in blank), len(blank))
    faults.raise_if_any()
    paths = normalised_paths(paths, range(1, len(paths) + 1), faults, "row")
    faults.raise_if_any()
    if not splits:
        return {"train": Rows(str(path), paths, labels, range(1, len(paths) + 1), "row")}
    return _by_split(settings, str(path), paths, labels, splits[0])


def _by_split(
    settings: Table, origin: str, paths: list[str], labels: list[str], splits: Sequence[str]
) -> dict[str, Rows]:
    faults = Problems(origin)
    values = settings.split_values
    of_value = {values.train: "train", values.val: "val", values.test: "test"}
    rows: dict[str, Rows] = {}
    places: dict[str, list[int]] = {split: [] for split in of_value.values()}
    for i, value in enumerate(splits):
        if value in of_value:
            places[of_value[value]].append(i)
        else:
            expected = ", ".join(of_value)
            faults.add(f"rows of an unknown {settings.split_column}", f"row {i + 1}: {value}", f"Known are {expected}")
    faults.raise_if_any()
    for split, chosen in places.items():
        if chosen:
            rows[split] = Rows(
                origin, [paths[i] for i in chosen], [labels[i] for i in chosen], [i + 1 for i in chosen], "row"
            )
    if "train" not in rows:
        raise UserError(f"{origin}: no row has the {settings.split_column} {values.train} (train)")
    if ("test" in rows) == (settings.test is not None):
        there = "has rows of a test split; leave dataset.test out" if settings.test else "has no rows of a test split; "
        raise UserError(f"{origin}: {there}" + ("" if settings.test else "say in dataset.test how to take one out"))
    return rows


def _missing(path: Path, columns: Sequence[str], there: Sequence[str]) -> None:
    if missing := [name for name in columns if there.count(name) != 1]:
        twice = [name for name in missing if name in there]
        what = f"column {', '.join(twice)} stands twice" if twice else f"no column {', '.join(missing)}"
        raise UserError(
            f"{path}: {what}. There are: {', '.join(there)}. See dataset.path_column, label_column, split_column."
        )


def _csv(path: Path, columns: Sequence[str]) -> list[list[str]]:
    """Text of some columns."""
    table = csv.reader(
        io.StringIO(read_text(path), newline=""), delimiter="\t" if path.suffix.lower() == ".tsv" else ","
    )
    cells: list[list[str]] = [[] for _ in columns]
    faults = Problems(str(path))
    try:
        header = [name.strip() for name in next(table, [])]
        if not header:
            raise UserError(f"{path}: the table is empty. Expected a header and a row for each image.")
        _missing(path, columns, header)
        places = [header.index(name) for name in columns]
        number = 0
        for row in table:
            if not row:
                continue
            number += 1
            if len(row) != len(header):
                faults.add(f"rows without {len(header)} cells, as the header has", f"row {number} has {len(row)}")
                continue
            for column, place in zip(cells, places, strict=True):
                column.append(row[place].strip())
    except csv.Error as error:
        raise UserError(f"{path}: no CSV table: line {table.line_num}: {error}") from None
    faults.raise_if_any()
    return cells


def _parquet(path: Path, columns: Sequence[str]) -> list[list[str]]:
    """Text of some columns; whole numbers are written out, dictionaries decoded."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    content = read_bytes(path)
    try:
        file = pq.ParquetFile(pa.BufferReader(content))
        _missing(path, columns, file.schema_arrow.names)
        table = file.read(columns=list(columns))
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path}: no whole Parquet file: {error}") from None
    return [[_text(cell) for cell in table.column(name).to_pylist()] for name in columns]


def _text(cell: Any) -> str:
    if cell is None:
        return ""
    if isinstance(cell, bytes):
        return cell.decode("utf-8", "surrogateescape")
    if isinstance(cell, float) and cell.is_integer():
        return str(int(cell))
    return str(cell).strip()
