"""The pieces' files as tables: this benchmark's section of results/gpu/tables.md."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from gpu_pieces.records import training_figures
from gpu_pieces.shared import Row

BEGIN, END = "<!-- benchmarks/gpu.py: begin -->", "<!-- benchmarks/gpu.py: end -->"


def report(out: Path, into: Path, pieces: Iterable[str]) -> None:
    """Rewrite this benchmark's section of ``into`` from the files in ``out``."""
    lines = [BEGIN, "## GPU: `python benchmarks/gpu.py`", ""]
    for piece in pieces:
        file = out / f"{piece}.json"
        if file.exists():
            lines += _piece_report(piece, json.loads(file.read_text(encoding="utf-8")))
    if len(lines) == 3:
        raise SystemExit(f"{out} holds no measurement; run the command without --report first.")
    section = "\n".join([*lines, END])
    text = into.read_text(encoding="utf-8") if into.exists() else ""
    if BEGIN in text and END in text:
        before, rest = text.split(BEGIN, 1)
        text = before + section + rest.split(END, 1)[1]
    else:
        text = f"{text.rstrip()}\n\n{section}\n".lstrip()
    into.write_text(text, encoding="utf-8")


def _piece_report(piece: str, content: dict[str, Any]) -> list[str]:
    where, rows = content["environment"], content["rows"]
    counts = {
        status: sum(row["status"] == status for row in rows.values())
        for status in ("measured", "failed", "skipped")
    }
    dates = sorted(row["date"][:10] for row in rows.values())
    versions = ", ".join(f"{name} {one}" for name, one in where["versions"].items() if one)
    cuda = f", CUDA {where['cuda']}" if where["cuda"] else ""
    lines = [
        f"### {piece}" + (" (tiny sizes)" if where["small"] else ""),
        "",
        f"{where['device']}, torch {where['torch']}{cuda}, Python {where['python']}, {versions};"
        f" source {where['source']};"
        f" {' to '.join(dict.fromkeys((dates[0], dates[-1]))) if dates else 'nothing yet'};"
        f" {counts['measured']} measured, {counts['failed']} failed, {counts['skipped']} skipped"
        + ("." if content["finished"] else "; not finished."),
        "",
    ]
    tables: list[dict[str, dict[str, str]]] = []
    columns: dict[str, None] = {}
    for name, row in rows.items():
        cells = _flat(row)
        # What has no figure in common with the rows before goes into a table of its own.
        if not tables or not (columns.keys() & cells.keys()) - {"status"}:
            tables.append({})
            columns = {}
        tables[-1][name] = cells
        columns |= dict.fromkeys(cells)
    for table in tables:
        shown = list(dict.fromkeys(key for cells in table.values() for key in cells))
        lines.append("| " + " | ".join(["case", *shown]) + " |")
        lines.append("|---|" + "---|" * len(shown))
        for name, cells in table.items():
            lines.append("| " + " | ".join([name, *(cells.get(key, "") for key in shown)]) + " |")
        lines.append("")
    return lines


def _flat(row: Row) -> dict[str, str]:
    """What the table shows of a row."""
    cells: dict[str, str] = {}
    for key, value in {**row, **training_figures(row)}.items():
        if key in ("seconds", "date", "limit", "passed", "problems"):
            continue
        if isinstance(value, dict) and "median" in value:
            cells[key] = f"{value['median']:.4g} ({value['low']:.4g} to {value['high']:.4g})"
        elif isinstance(value, int | float) and not isinstance(value, bool):
            cells[key] = f"{value:.4g}"
        elif key in ("status", "reason", "error"):
            cells[key] = str(value).replace("|", "/").replace("\n", " ")
    return cells
