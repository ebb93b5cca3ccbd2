"""Prediction tables from run folders and files that nobody vouches for.

A parquet of two megabytes may stand for gigabytes: rows of a dictionary cost nothing there. So
rows, columns and texts are counted from what the file says of itself before values are made.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from posematch.errors import PosematchError
from posematch.runs.named import TABLE
from posematch.runs.parquet_footer import compressions
from posematch.untrusted import MIB, open_file

# A detector's boxes of COCO's 5,000 validation photos: 104,125 people, 1.8 million rows.
_MOST_VALUES = 40_000_000
_MOST_TEXT = 256 * MIB
_LONGEST_TEXT = 1024
_MOST_BYTES = 512 * MIB
_MOST_FOOTER = MIB  # a row group of a million rows has four kilobytes
# Those that `pandas.DataFrame.to_parquet` writes; snappy makes at most 21 bytes of one.
_CODECS = ("SNAPPY", "UNCOMPRESSED")


def read_columns(
    file: Path, *, needed: Sequence[str], known: Sequence[str], texts: Sequence[str]
) -> pd.DataFrame:
    """Read columns of a parquet file.

    Parameters
    ----------
    file
        Parquet.
    needed
        Columns that have to be there.
    known
        All that are read; others are not.
    texts
        Those of them that hold texts; all others hold numbers.

    Raises
    ------
    PosematchError
        The file is missing, no parquet, larger than any table of ours, or lacks a column; the
        sentence names it.
    """
    with open_file(file, _MOST_BYTES, TABLE) as content:
        content.seek(max(content.seek(0, 2) - 8, 0))
        end = content.read()
        if end[4:] != b"PAR1" or int.from_bytes(end[:4], "little") > _MOST_FOOTER:
            raise PosematchError(f"{file} cannot be read as parquet (no end): write it again.")
        try:
            content.seek(-8 - int.from_bytes(end[:4], "little"), 2)
            packed = dict.fromkeys(compressions(content.read()[:-8]))
            content.seek(0)
            there = pq.ParquetFile(content).schema_arrow.names
            texts = [name for name in texts if name in there]
            # As dictionaries: a text that stands in a million rows is there once.
            parquet = pq.ParquetFile(content, read_dictionary=texts)
            columns = _columns(file, parquet, packed, needed, known, texts)
            table = parquet.read(columns=columns, use_threads=False)
            # Texts that are UTF-8, and none looked up beyond the end of its dictionary.
            table.validate(full=True)
            for name in texts:
                table = _with_texts(table, name, file)
            if any(table[name].null_count for name in texts):
                raise PosematchError(f"{file} has rows without a joint or photo: write it again.")
            frame: pd.DataFrame = table.to_pandas(ignore_metadata=True, self_destruct=True)
            return frame
        except PosematchError:
            raise
        # pyarrow's parser fails in many ways, some of them undocumented.
        except Exception as error:
            raise PosematchError(
                f"{file} cannot be read as parquet ({type(error).__name__}): write it again."
            ) from error


def _columns(
    file: Path,
    parquet: pq.ParquetFile,
    packed: Iterable[tuple[str, str]],
    needed: Sequence[str],
    known: Sequence[str],
    texts: Sequence[str],
) -> list[str]:
    """Known columns of a file that is no larger than any table of ours; ``packed``: by what."""
    schema, metadata = parquet.schema_arrow, parquet.metadata
    there = [name for name in known if name in schema.names]
    if missing := [name for name in needed if name not in there]:
        raise PosematchError(
            f"{file} has no column '{missing[0]}': it must be a prediction table of posematch."
        )
    for name in there:
        if schema.names.count(name) > 1 or pa.types.is_nested(schema.field(name).type):
            raise PosematchError(f"column {name} of {file} is no plain column: write it again.")
        kind = schema.field(name).type
        if (name in texts) != pa.types.is_dictionary(kind):
            expected = "texts" if name in texts else "numbers"
            raise PosematchError(f"column {name} of {file} is {kind}, not {expected}.")
        if name not in texts and not _is_number(kind):
            raise PosematchError(f"column {name} of {file} is {kind}, not numbers.")
    if metadata.num_rows * max(len(there), 1) > _MOST_VALUES:
        raise PosematchError(
            f"{file} has {metadata.num_rows} rows, more than any prediction table of a data set; is"
            " it the right file?"
        )
    for name, codec in packed:
        if name in there and codec not in _CODECS:
            raise PosematchError(
                f"column {name} of {file} is compressed by {codec}; write it again with snappy, as"
                " posematch does."
            )
    return there


def _is_number(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)
    )


def _with_texts(table: pa.Table, name: str, file: Path) -> pa.Table:
    """A column of dictionaries as the texts they stand for, if they are of bearable length."""
    total = 0
    chunks: list[Any] = table[name].chunks
    for chunk in chunks:
        lengths = np.asarray(pc.binary_length(chunk.dictionary).fill_null(0))
        counts = np.bincount(np.asarray(chunk.indices.fill_null(0)), minlength=len(lengths))
        total += int(counts @ lengths) if len(lengths) else 0
        if len(lengths) and lengths.max() > _LONGEST_TEXT:
            raise PosematchError(f"column {name} of {file} has texts of {lengths.max()} bytes.")
    if total > _MOST_TEXT:
        raise PosematchError(f"column {name} of {file} has {total // MIB} MiB of texts.")
    place = table.schema.get_field_index(name)
    return table.set_column(place, name, table[name].cast(pa.string()))
