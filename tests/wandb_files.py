"""Reading the file that an offline W&B run leaves, as the server would."""

from __future__ import annotations

import json
import struct
import time
from pathlib import Path

import pytest

_MOST_SECONDS = 60


def leveldb_log(content: bytes):
    """Records of a LevelDB log, W&B's file format: behind a header of 7 bytes blocks of 32 KiB with
    chunks of checksum (4), length (2), kind (1: whole, 2: first, 3: middle, 4: last), data."""
    assert content.startswith(b":W&B")
    place, record = 7, b""
    while place + 7 <= len(content):
        left = 32768 - place % 32768
        if left < 7:
            place += left
            continue
        length, kind = struct.unpack_from("<HB", content, place + 4)
        record += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):
            yield record
            record = b""


def records(file: Path):
    """The file's records, once the last of a closed run is in it.

    W&B's own process writes it, and on a busy machine ends after the training has.
    """
    from wandb.proto.wandb_internal_pb2 import Record

    ends = time.monotonic() + _MOST_SECONDS
    while True:
        found = []
        for data in leveldb_log(file.read_bytes()):
            found.append(Record())
            found[-1].ParseFromString(data)
        closed = any(one.WhichOneof("record_type") == "exit" for one in found)
        if closed or time.monotonic() > ends:
            return found
        time.sleep(0.2)


def read_wandb(folder: Path):
    """History rows, defined metrics, summary keys and run record of the one offline run there."""
    pytest.importorskip("wandb")
    (file,) = folder.glob("wandb/offline-run-*/run-*.wandb")
    rows, metrics, summary, runs, exits = [], {}, {}, [], []
    for record in records(file):
        kind = record.WhichOneof("record_type")
        if kind == "history":
            rows.append({"/".join(i.nested_key) or i.key: json.loads(i.value_json)
                         for i in record.history.item})  # fmt: skip
        elif kind == "metric":
            metrics[record.metric.name or record.metric.glob_name] = record.metric.step_metric
        elif kind == "summary":
            summary |= {"/".join(i.nested_key) or i.key: json.loads(i.value_json)
                        for i in record.summary.update}  # fmt: skip
        elif kind == "run":
            runs.append(record.run)
        elif kind == "exit":
            exits.append(record.exit.exit_code)
    return rows, metrics, summary, runs, exits
