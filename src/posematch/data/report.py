"""What a reader made of a file: who is in it, who was left out and why, what was mended."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

Kind = Literal["left out", "repaired", "suspicious"]


@dataclass
class Note:
    """One reason, how often it was met, and the first time."""

    count: int
    example: str


@dataclass
class ReadingReport:
    """Of one split.

    Attributes
    ----------
    source
        The file's name.
    photos, people, joints
        That are used.
    pairs
        Mirror pairs, as names.
    left_out, repaired, suspicious
        By reason: people who are not used, what was read as it was plainly meant, and what is used
        as it is though it looks wrong.
    """

    source: str
    photos: int = 0
    people: int = 0
    joints: int = 0
    pairs: tuple[tuple[str, str], ...] = ()
    left_out: dict[str, Note] = field(default_factory=dict)
    repaired: dict[str, Note] = field(default_factory=dict)
    suspicious: dict[str, Note] = field(default_factory=dict)

    @property
    def notes(self) -> dict[Kind, dict[str, Note]]:
        """All of them, by kind."""
        return {
            "left out": self.left_out,
            "repaired": self.repaired,
            "suspicious": self.suspicious,
        }

    def note(self, kind: Kind, why: str, example: object) -> None:
        """Count one more case."""
        notes = self.notes[kind]
        if why in notes:
            notes[why].count += 1
        else:
            notes[why] = Note(1, str(example))

    def add(self, other: ReadingReport) -> None:
        """Count another file's photos, people and notes, too."""
        self.photos += other.photos
        self.people += other.people
        for kind, notes in other.notes.items():
            for why, note in notes.items():
                known = self.notes[kind].setdefault(why, Note(0, note.example))
                known.count += note.count

    def sentence(self) -> str:
        """One line.

        >>> report = ReadingReport("a.json", photos=500, people=500, joints=14)
        >>> report.note("left out", "without labelled joints", "annotation 7")
        >>> report.sentence()
        '500 photos, 500 people (left out: 1 without labelled joints), 14 joints, no mirror pairs'
        """
        told = [
            f"{kind}: " + ", ".join(f"{note.count} {why}" for why, note in notes.items())
            for kind, notes in self.notes.items()
            if notes
        ]
        besides = f" ({'; '.join(told)})" if told else ""
        pairs = {0: "no mirror pairs", 1: "1 mirror pair"}.get(
            len(self.pairs), f"{len(self.pairs)} mirror pairs"
        )
        return f"{self.photos} photos, {self.people} people{besides}, {self.joints} joints, {pairs}"

    def plain(self) -> dict[str, Any]:
        """For a json file."""
        notes = {
            kind.replace(" ", "_"): {
                why: {"count": note.count, "example": note.example} for why, note in of.items()
            }
            for kind, of in self.notes.items()
        }
        return {
            "source": self.source,
            "photos": self.photos,
            "people": self.people,
            "joints": self.joints,
            "pairs": [list(pair) for pair in self.pairs],
            **notes,
        }
