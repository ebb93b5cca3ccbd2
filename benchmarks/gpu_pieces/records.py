"""Measuring: a piece's file, to which each case adds its row, and where that was."""

from __future__ import annotations

import hashlib
import json
import platform
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from gpu_pieces.shared import REPOSITORY, Bench, Case, NotApplicableError, OutOfTimeError, Row


@dataclass
class Record:
    """One piece's file: where it was measured, and a row per case."""

    path: Path
    environment: dict[str, Any]
    rows: dict[str, Row] = field(default_factory=dict)
    finished: bool = False

    @classmethod
    def open(cls, path: Path, environment: dict[str, Any], afresh: bool) -> Record:
        """Read what earlier calls measured, unless it was on another machine or of other code."""
        if afresh or not path.exists():
            return cls(path, environment)
        content = json.loads(path.read_text(encoding="utf-8"))
        for key in ("device", "torch", "source", "small"):
            old, new = content["environment"].get(key), environment[key]
            if old != new:
                raise SystemExit(
                    f"{path} was measured with {key} {old}, this is {new}: add --redo, or name"
                    " another --out."
                )
        return cls(path, content["environment"], content["rows"], content["finished"])

    def write(self) -> None:
        content = {
            "finished": self.finished,
            "environment": self.environment,
            "rows": self.rows,
        }
        self.path.parent.mkdir(parents=True, exist_ok=True)
        partial = self.path.with_suffix(".partial")
        partial.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        partial.replace(self.path)


def run_piece(name: str, cases: Sequence[Case], record: Record, bench: Bench) -> None:
    """Measure the cases that the record lacks, until the budget ends."""
    for case in cases:
        if case.name in record.rows:
            continue
        if bench.seconds_left <= 0:
            break
        start = time.monotonic()
        try:
            row = {"status": "measured", **case.measure()}
            if row.get("passed") is False:
                row["status"] = "failed"
        except OutOfTimeError:
            break
        except NotApplicableError as reason:
            row = {"status": "skipped", "reason": str(reason)}
        except Exception as error:  # whatever it is, the other cases can still be measured
            traceback.print_exc()
            row = {"status": "failed", "error": f"{type(error).__name__}: {error}"}
        if bench.device.type == "cuda":
            torch.cuda.empty_cache()  # no case pays for the memory of an earlier one
        row["seconds"] = round(time.monotonic() - start, 3)
        row["date"] = datetime.now(UTC).isoformat(timespec="seconds")
        record.rows[case.name] = row
        record.write()
        print(f"{name}: {case.name}: {_shown(row)}", flush=True)
    record.finished = all(case.name in record.rows for case in cases)
    record.write()


def _shown(row: Row) -> str:
    """A row in one line."""
    if "reason" in row or "error" in row:
        return f"{row['status']}: {row.get('reason') or row.get('error')}"
    parts = [row["status"]]
    for key, value in {**row, **training_figures(row)}.items():
        if isinstance(value, dict) and "median" in value:
            parts.append(f"{key} {value['median']:.4g}")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            parts.append(f"{key} {value:.4g}")
    return "  ".join(parts)


def training_figures(row: Row) -> dict[str, float]:
    """A training's metrics, those of single joints and groups left out."""
    last = row.get("figures", {}).get("last", {})
    return {name: value for name, value in last.items() if "/" not in name}


def environment(device: torch.device, small: bool) -> dict[str, Any]:
    """Where and with what something was measured, without a name of the machine."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    return {
        "device": name,
        "cuda": torch.version.cuda if device.type == "cuda" else None,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "threads": torch.get_num_threads(),
        "versions": {one: _version(one) for one in ("timm", "lightning", "numpy", "pot", "triton")},
        "source": _source_hash(),
        "small": small,
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _source_hash() -> str:
    """Names the code that ran, also where no git repository came along."""
    digest = hashlib.sha256()
    package = REPOSITORY / "src" / "posematch"
    for file in sorted(package.rglob("*.py")):
        digest.update(file.relative_to(package).as_posix().encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()[:12]
