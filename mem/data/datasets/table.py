"""Reader for CSV and Parquet tables with one row per image."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mem.config import Table
from mem.data.datasets.index_files import Rows, normalise_paths, read_bytes, read_text
from mem.data.datasets.problems import Problems
from mem.errors import UserError

_PARQUET = (".parquet", ".pq")
_COLUMN_SETTINGS = "dataset.path_column, label_column and split_column"


def read_table(settings: Table) -> dict[str, Rows]:
    """Return the rows of each split. Rows are numbered from 1; the header is not counted.

    Raises:
        UserError: The file is missing or not a table, a column is missing, or cells are empty or invalid.
    """
    path = settings.index_files()["table"]
    columns = [settings.path_column, settings.label_column]
    if settings.split_column is not None:
        columns.append(settings.split_column)
    paths, labels, *splits = _read_columns(path, columns)
    if not paths:
        raise UserError(f"{path}: the table has a header but no rows. Expected one row per image.")
    problems = Problems(str(path))
    for column, cells in zip(columns, (paths, labels, *splits), strict=True):
        if blank := [i for i, cell in enumerate(cells, 1) if not cell]:
            problems.add_many(f"rows without a {column}", (f"row {i}" for i in blank), len(blank))
    problems.raise_if_any()
    paths = normalise_paths(paths, range(1, len(paths) + 1), problems, "row")
    problems.raise_if_any()
    if not splits:
        return {"train": Rows(str(path), paths, labels, range(1, len(paths) + 1), "row")}
    return _rows_by_split(settings, str(path), paths, labels, splits[0])


def read_column(settings: Table, column: str) -> dict[str, str]:
    """Return the value of a column for each image path.

    Raises:
        UserError: The file is missing or not a table, or it does not have the column.
    """
    path = settings.index_files()["table"]
    paths, values = _read_columns(path, [settings.path_column, column], "dataset.holdout.group_by.column")
    return dict(zip(normalise_paths(paths, range(1, len(paths) + 1), Problems(str(path)), "row"), values, strict=True))


def _read_columns(path: Path, columns: Sequence[str], setting: str = _COLUMN_SETTINGS) -> list[list[str]]:
    """Return columns as text. The message about a column that does not exist names `setting`."""
    read = _read_parquet if path.suffix.lower() in _PARQUET else _read_csv
    return read(path, columns, setting)


def _rows_by_split(
    settings: Table, origin: str, paths: list[str], labels: list[str], splits: Sequence[str]
) -> dict[str, Rows]:
    problems = Problems(origin)
    values = settings.split_values
    split_of_value = {values.train: "train", values.val: "val", values.test: "test"}
    expected = ", ".join(split_of_value)
    rows: dict[str, Rows] = {}
    positions: dict[str, list[int]] = {split: [] for split in split_of_value.values()}
    for i, value in enumerate(splits):
        if value in split_of_value:
            positions[split_of_value[value]].append(i)
        else:
            kind = f"rows with an unknown {settings.split_column}"
            problems.add(kind, f"row {i + 1}: {value}", f"Expected {expected}. Set dataset.split_values to change them")
    problems.raise_if_any()
    for split, chosen in positions.items():
        if chosen:
            rows[split] = Rows(
                origin, [paths[i] for i in chosen], [labels[i] for i in chosen], [i + 1 for i in chosen], "row"
            )
    if "train" not in rows:
        raise UserError(
            f"{origin}: no row has `{values.train}` in the column {settings.split_column}. Add training images."
        )
    if "test" in rows and settings.test is not None:
        raise UserError(f"{origin}: the table has rows for a test split. Remove dataset.test.")
    if "test" not in rows and settings.test is None:
        raise UserError(f"{origin}: the table has no rows for a test split. Set dataset.test to set one aside.")
    return rows


def _require_columns(path: Path, columns: Sequence[str], present: Sequence[str], setting: str) -> None:
    if wrong := [name for name in columns if present.count(name) != 1]:
        duplicate = [name for name in wrong if name in present]
        problem = f"duplicate column {', '.join(duplicate)}" if duplicate else f"no column {', '.join(wrong)}"
        raise UserError(f"{path}: {problem}. The columns are {', '.join(present)}. Set {setting} to existing columns.")


def _read_csv(path: Path, columns: Sequence[str], setting: str) -> list[list[str]]:
    """Return the given columns as text."""
    table = csv.reader(
        io.StringIO(read_text(path), newline=""), delimiter="\t" if path.suffix.lower() == ".tsv" else ","
    )
    cells: list[list[str]] = [[] for _ in columns]
    problems = Problems(str(path))
    try:
        header = [name.strip() for name in next(table, [])]
        if not header:
            raise UserError(f"{path}: the table is empty. Expected a header and one row per image.")
        _require_columns(path, columns, header, setting)
        positions = [header.index(name) for name in columns]
        number = 0
        for row in table:
            if not row:
                continue
            number += 1
            if len(row) != len(header):
                kind = "rows with a different number of cells than the header"
                problems.add(kind, f"row {number} has {len(row)}", f"Expected {len(header)}")
                continue
            for column, position in zip(cells, positions, strict=True):
                column.append(row[position].strip())
    except csv.Error as error:
        raise UserError(f"{path}: not a valid CSV table: line {table.line_num}: {error}") from None
    problems.raise_if_any()
    return cells


def _read_parquet(path: Path, columns: Sequence[str], setting: str) -> list[list[str]]:
    """Return the given columns as text. Integers are converted to text, and dictionary-encoded columns are decoded."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    content = read_bytes(path)
    try:
        file = pq.ParquetFile(pa.BufferReader(content))
        _require_columns(path, columns, file.schema_arrow.names, setting)
        for name in columns:
            _require_plain_values(path, name, file.schema_arrow.field(name).type)
        table = file.read(columns=list(columns))
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path}: not a valid Parquet file: {error}. It may be truncated.") from None
    return [[_text(cell) for cell in table.column(name).to_pylist()] for name in columns]


def _require_plain_values(path: Path, name: str, kind: Any) -> None:
    """Check that a Parquet column has one text or number per row.

    Raises:
        UserError: The column has values that consist of several values.
    """
    import pyarrow as pa

    content = kind.value_type if pa.types.is_dictionary(kind) else kind
    if not pa.types.is_nested(content):
        return
    fields = f" with the fields {', '.join(field.name for field in content)}" if pa.types.is_struct(content) else ""
    raise UserError(
        f"{path}: the column {name} has values of type {str(content).partition('<')[0]}{fields}. Expected text or "
        "numbers. Write the path or the label into a column of its own. If the images themselves are stored in the "
        "table, write them to files."
    )


def _text(cell: Any) -> str:
    if cell is None or (isinstance(cell, float) and math.isnan(cell)):
        return ""
    if isinstance(cell, bytes):
        return cell.decode("utf-8", "surrogateescape")
    if isinstance(cell, float) and cell.is_integer():
        return str(int(cell))
    return str(cell).strip()
