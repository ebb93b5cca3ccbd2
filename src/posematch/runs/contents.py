"""The small files of a run folder, each checked to be what posematch writes there."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from posematch.errors import PosematchError
from posematch.runs.folder import RunFolder
from posematch.untrusted import own_file, read_json, read_text, read_yaml

# One line of ordinary characters: names stand in tables, addresses and files' names.
_Name = Annotated[str, Field(pattern=r"^[\w.+-]{1,200}$")]
_Line = Annotated[str, Field(pattern=r"^[^\x00-\x1f\x7f-\x9f]{1,1000}$")]
_Number = Annotated[float, Field(allow_inf_nan=False)]
_Count = Annotated[int, Field(ge=0, lt=2**63)]
_Side = Annotated[int, Field(ge=1, le=2**13)]
_MOST_COLUMNS = 10_000  # of metrics.csv; pandas needs a minute for a million


class _Part(BaseModel):
    """Some keys of a mapping that may have others."""

    model_config = ConfigDict(extra="allow", strict=True)


class _Loss(_Part):
    name: _Name


class _Data(_Part):
    name: _Name
    input_size: Annotated[list[_Side], Field(min_length=2, max_length=2)]
    convention: _Name = "hrnet"


class _Backbone(_Part):
    name: _Line = "own"


class _Optimizer(_Part):
    lr: _Number


class _Config(_Part):
    loss: _Loss
    seed: _Count
    data: _Data
    backbone: _Backbone
    optimizer: _Optimizer
    decoder: dict[str, Any]
    decoders: dict[str, dict[str, Any]] = {}


class _Figures(_Part):
    last: dict[_Line, _Number]


class _Result(_Part):
    epoch: _Count
    metric: Annotated[str, Field(pattern=r"^[\w@.()]{1,100}$")]
    figures: _Figures
    protocol: _Line


class _Environment(_Part):
    schema_version: _Count


def read_contents(
    folder: RunFolder,
) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any], pd.DataFrame]:
    """config.yaml, environment.json, result.json and metrics.csv.

    Raises
    ------
    PosematchError
        One is missing, damaged, or has something else where posematch's own has what is read.
    """
    config = _checked(_Config, read_yaml(_own(folder, folder.config)), folder.config)
    environment = _checked(
        _Environment, read_json(_own(folder, folder.environment)), folder.environment
    )
    result = _checked(_Result, read_json(_own(folder, folder.result)), folder.result)
    if result["metric"] not in result["figures"]["last"]:
        raise _unreadable(folder.result, f"figures.last has no {result['metric']}")
    metrics = read_epochs(_own(folder, folder.metrics))
    return config, environment, result, metrics


def read_epochs(file: Path) -> pd.DataFrame:
    """A csv of numbers with a row per epoch, which becomes the index.

    Raises
    ------
    PosematchError
        The file is missing, or no such table.
    """
    text = read_text(file)
    if max(line.count(",") for line in text.splitlines() or [""]) > _MOST_COLUMNS:
        raise _unreadable(file, f"it has more than {_MOST_COLUMNS} columns")
    try:
        table = pd.read_csv(io.StringIO(text), index_col="epoch")
    # pandas' parser fails in its own ways, and of a NUL byte, a quote without an end.
    except Exception as error:
        first = str(error).strip().partition("\n")[0].rstrip(".")
        raise _unreadable(file, f"no table with a column epoch: {first}") from error
    epochs = table.index
    if not (epochs.dtype.kind in "iu" and epochs.is_unique and len(epochs) and (epochs >= 0).all()):
        raise _unreadable(file, "its epochs are no whole numbers, each once")
    for column in table:
        if table[column].dtype.kind not in "fiub":
            raise _unreadable(file, f"its column {column} has values that are no numbers")
        if np.isinf(table[column].to_numpy(np.float64)).any():
            raise _unreadable(file, f"its column {column} has infinite values")
    return table.sort_index()


def _own(folder: RunFolder, file: Path) -> Path:
    return own_file(folder.path, file)


def _checked(kind: type[_Part], content: Any, file: Path) -> dict[str, Any]:
    if not isinstance(content, Mapping):
        raise _unreadable(file, f"it is a {type(content).__name__}, not a mapping")
    try:
        kind.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise _unreadable(file, f"{where}: {first['msg'][:200]}") from None
    return dict(content)


def _unreadable(file: Path, why: str) -> PosematchError:
    return PosematchError(
        f"{file.parent} is not a readable run folder: {file.name} is damaged ({why})."
    )
