"""From predictions of people to figures by every convention, and the files they are kept in."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pandas as pd
from rich.table import Table

from posematch.data.people import OKSTruth, PCKhTruth, People
from posematch.errors import PosematchError
from posematch.evaluation.breakdown import RULES, By, breakdown
from posematch.evaluation.diagnosis import MEANINGS, diagnosis
from posematch.files import write_text
from posematch.metrics.coco_results import write_results
from posematch.metrics.conventions import (
    Conventions,
    coco_conventions,
    joined,
    pckh_conventions,
)
from posematch.metrics.tables import markdown_row, plain_table
from posematch.runs.predictions import PredictionTable
from posematch.runs.truth import write_truth


@dataclass(frozen=True, eq=False)
class Part:
    """One thing that was scored.

    Attributes
    ----------
    conventions
        Its figures.
    name
        What tells its files from those of other parts; empty where there is but one.
    table
        Its prediction table, if it has one.
    results
        Its poses as COCO's server takes them, if COCO's.
    people
        Who was scored, if they were read.
    """

    conventions: Conventions
    name: str = ""
    table: PredictionTable | None = None
    results: list[dict[str, Any]] | None = None
    people: People | None = None

    @property
    def oks_truth(self) -> OKSTruth | None:
        """COCO's truth of its people, if it is known."""
        if self.people is not None:
            return self.people.truth if isinstance(self.people.truth, OKSTruth) else None
        if self.table is None or self.table.truth_file is None:
            return None
        return self.table.stored_truth.oks


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Figures under every convention, and what they were made from.

    Attributes
    ----------
    title
        What was scored on which data.
    parts
        The annotated boxes and a detector's, say.
    notes
        How the predictions were made, a sentence each.
    """

    title: str
    parts: tuple[Part, ...]
    notes: tuple[str, ...] = ()

    @property
    def conventions(self) -> Conventions:
        """All parts in one; their notes are about the figures alone."""
        return joined([part.conventions for part in self.parts])

    @property
    def has_joints(self) -> bool:
        """Whether there are figures joint by joint."""
        return len(self.conventions.joints()) > 0

    def __repr__(self) -> str:
        return f"<Evaluation of {self.title}: .tables(), .breakdowns(), .diagnosis(), .write()>"

    def breakdowns(self) -> dict[str, pd.DataFrame]:
        """Figures by joint, by size of the person, by occlusion and by crowding, where known.

        Of the first part: a detector's boxes are nobody's until they are matched.
        """
        return self._breakdowns

    @cached_property
    def _breakdowns(self) -> dict[str, pd.DataFrame]:
        part = self.parts[0]
        if part.table is None or not part.table.labelled.any():
            return {}
        found = {}
        for by in get_args(By):
            # Tables of earlier versions lack columns, data of one's own OKS sigmas.
            with contextlib.suppress(PosematchError):
                frame = breakdown(part.table, by)
                if len(frame) > 1:
                    found[by] = frame.reset_index()
        return found

    def diagnosis(self) -> dict[str, pd.DataFrame]:
        """Tables of `posematch.evaluation.diagnosis`, of the first part, as `breakdowns`."""
        return self._diagnosis

    @cached_property
    def _diagnosis(self) -> dict[str, pd.DataFrame]:
        part = self.parts[0]
        return {} if part.table is None else diagnosis(part.table, part.oks_truth, part.results)

    def tables(self) -> list[Table]:
        """For the terminal: by convention, joint by joint, and by what else is known of people."""
        conventions = self.conventions
        tables = [conventions.table(self.title)]
        if self.has_joints:
            bare = replace(conventions, notes=())  # they are below the first one
            tables.append(bare.joints_table(f"{self.title}, joint by joint"))
        tables += [
            plain_table([str(one) for one in frame.columns], _cells(frame), f"by {by}", RULES[by])
            for by, frame in self.breakdowns().items()
            if not (by == "joint" and self.has_joints)
        ]
        tables += [
            plain_table([str(one) for one in frame.columns], _cells(frame), name, MEANINGS[name])
            for name, frame in self.diagnosis().items()
        ]
        for table in tables:
            for column in table.columns:
                column.overflow = "fold"  # a detector's file has to be read whole
        return tables

    def write(self, folder: Path) -> list[Path]:
        """Write all of it into a folder, each file in one piece.

        Parameters
        ----------
        folder
            Made if it is not there. Gets ``table.md``, ``figures.json``; where there are any
            ``predictions.parquet`` (posematch's prediction table), ``results.json`` (as COCO's
            server takes them) and ``truth.json`` (the COCO annotations they were scored against);
            the names of parts come before these.

        Returns
        -------
        The files.
        """
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise PosematchError(
                f"output={folder} cannot be made ({error.strerror}); name another folder."
            ) from error
        conventions = with_notes(self.conventions, self.notes)
        text = f"# {self.title}\n\n{conventions.markdown()}"
        if self.has_joints:
            text += f"\n{replace(conventions, notes=()).joints_markdown()}"
        text = text.rstrip("\n") + "\n"
        for by, frame in self.breakdowns().items():
            text += f"\n{_markdown(f'By {by}', frame)}"
        for name, frame in self.diagnosis().items():
            text += f"\n{_markdown(name.capitalize(), frame)}\n{MEANINGS[name]}.\n"
        files = [folder / "table.md", folder / "figures.json"]
        write_text(files[0], text)
        breakdowns = {by: frame.to_dict("records") for by, frame in self.breakdowns().items()}
        told = {name: frame.to_dict("records") for name, frame in self.diagnosis().items()}
        figures = json.loads(conventions.json())
        figures |= {"title": self.title, "breakdowns": breakdowns, "diagnosis": told}
        write_text(files[1], json.dumps(figures, indent=1, allow_nan=False) + "\n")
        for part in self.parts:
            prefix = f"{part.name}_" if part.name else ""
            if part.table is not None:
                files.append(folder / f"{prefix}predictions.parquet")
                part.table.write(files[-1])
            if part.results:
                files.append(folder / f"{prefix}results.json")
                write_results(files[-1], part.results)
            if part.people is not None and isinstance(part.people.truth, OKSTruth):
                files.append(folder / f"{prefix}truth.json")
                write_truth(files[-1], part.people)
        return files


def score(
    people: People,
    table: PredictionTable,
    *,
    label: str = "",
    name: str = "",
    notes: Sequence[str] = (),
) -> Part:
    """Score predictions of a split.

    Parameters
    ----------
    people
        The split; its truth decides whether PCKh or OKS AP is measured.
    table
        Predictions of all its people.
    label
        What the rows of a table are called.
    name
        See `Part`.
    notes
        To be told with the figures.

    Raises
    ------
    PosematchError
        A prediction is not finite, or there is nothing to score.
    """
    results = None
    match people.truth:
        case PCKhTruth():
            if not np.array_equal(table.person_ids, np.arange(len(people.truth.joints_img))):
                raise ValueError("PCKh needs a prediction for every row of the truth")
            conventions = pckh_conventions(table.joints_img, people.truth, label)
        case OKSTruth():
            conventions = coco_conventions(table.poses, people.truth, label)
            results = table.coco_results()
        case _:
            raise ValueError(f"{people.name}/{people.split} has no truth to be scored against")
    return Part(with_notes(conventions, notes), name, table, results, people)


def with_notes(conventions: Conventions, notes: Iterable[str]) -> Conventions:
    """The same figures with more to say about them."""
    return replace(conventions, notes=(*conventions.notes, *notes))


def _cells(frame: pd.DataFrame) -> list[list[str]]:
    return [
        [f"{one:.3f}" if isinstance(one, float) else str(one) for one in row]
        for row in frame.itertuples(index=False)
    ]


def _markdown(heading: str, frame: pd.DataFrame) -> str:
    lines = [list(map(str, frame.columns)), ["---"] * len(frame.columns), *_cells(frame)]
    return f"{heading}:\n\n" + "".join(f"{markdown_row(line)}\n" for line in lines)
