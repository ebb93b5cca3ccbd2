"""What a case is, and the good instances that every case is made from."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import scipy.io

TINY = (
    "data.spec.train_photos=12",
    "data.spec.valid_photos=6",
    "data.input_size=[64,64]",
    "data.batch_size=4",
    "data.workers=0",
    "trainer.accelerator=cpu",
    "trainer.max_epochs=1",
    "measure=none",
    "decoders=none",
)
LAST = "checkpoints/last.ckpt"
TABLE = "predictions/epoch=000.parquet"
MAPS = "heatmaps/epoch=000.npz"
VALID = "annotations/person_keypoints_val2017.json"


@dataclass(frozen=True)
class Good:
    """What nothing is wrong with, made once by real trainings on drawn people.

    Attributes
    ----------
    root
        Folder of the rest.
    data
        ``data.root`` of the trainings.
    mpii, coco
        The same photos in MPII's and COCO's layout.
    runs
        Finished run folders: ``mpii`` and ``other`` (two losses, same people), ``coco``.
    """

    root: Path
    data: Path
    mpii: Path
    coco: Path
    runs: dict[str, Path]

    @classmethod
    def made(cls, root: Path, command: Callable[[str, list[str], Path], dict[str, Any]]) -> Good:
        data = root / "data"
        for name, overrides in (
            ("mpii", ["loss=dot_mse"]),
            ("other", ["loss=gaussian_mse"]),
            ("coco", ["loss=dot_mse", "data.skeleton=coco"]),
        ):
            folder = root / name
            # The run root is relative, as a user's: the run's folder moves with the good instance.
            arguments = [*TINY, f"data.root={data}", "run_root=runs", *overrides]
            answer = command("train", arguments, folder)
            assert answer["code"] == 0, answer["stderr"]
            (run,) = (folder / "out" / "runs").glob("*/")
            run.rename(root / f"run_{name}")
        good = cls.at(root)
        good._write_predictions()
        return good

    @classmethod
    def at(cls, root: Path) -> Good:
        """One that was made before."""
        (drawn,) = (root / "data").glob("*/")
        runs = {path.name.removeprefix("run_"): path for path in root.glob("run_*")}
        return cls(root, root / "data", drawn / "mpii", drawn / "coco", runs)

    @property
    def predictions(self) -> Path:
        """Folder with p.mat, p.h5, p.json, p.parquet and coco.parquet."""
        return self.root / "predictions"

    def _write_predictions(self) -> None:
        self.predictions.mkdir()
        table = pd.read_parquet(self.runs["mpii"] / TABLE)
        joints = table[["x", "y"]].to_numpy().reshape(-1, 16, 2) + 1
        scipy.io.savemat(self.predictions / "p.mat", {"preds": joints})
        with h5py.File(self.predictions / "p.h5", "w") as file:
            file["preds"] = joints
        shutil.copy(self.runs["mpii"] / TABLE, self.predictions / "p.parquet")
        table = pd.read_parquet(self.runs["coco"] / TABLE)
        results = []
        for _, rows in table.groupby("person_id", sort=False):
            keypoints = rows[["x", "y", "score"]].to_numpy(np.float64)
            results.append(
                {
                    "image_id": int(rows["image_id"].iloc[0]),
                    "category_id": 1,
                    "keypoints": keypoints.ravel().tolist(),
                    "score": float(keypoints[:, 2].mean()),
                }
            )
        (self.predictions / "p.json").write_text(json.dumps(results), "utf-8")
        boxes = [
            {"image_id": one["image_id"], "category_id": 1, "bbox": one["bbox"], "score": 0.9}
            for one in json.loads((self.coco / VALID).read_text("utf-8"))["annotations"]
        ]
        (self.predictions / "boxes.json").write_text(json.dumps(boxes), "utf-8")


@dataclass(frozen=True)
class Command:
    """A script, its arguments, and what these name besides the case's own ``in``."""

    script: str
    arguments: list[str]
    named: tuple[Path, ...] = ()
    writes_inputs: bool = False


@dataclass(frozen=True)
class Case:
    """One input.

    Attributes
    ----------
    name
        Unique.
    kind
        run, checkpoint, config, predictions, image, annotation, or hostile.
    make
        Writes the files and returns the command.
    says
        The sentence must hold one of these: the file's name or the key.
    ends
        ``refused`` (exit code 1 or 2 and a sentence), ``works`` (0), or ``either``.
    """

    name: str
    kind: str
    make: Callable[[Bench], Command] = field(repr=False)
    says: tuple[str, ...] = ()
    ends: str = "refused"


class Bench:
    """A case's folders: ``in`` (its files), ``out``, ``tmp``, ``home``, and ``victim``.

    Parameters
    ----------
    folder
        New.
    good
        See there; what is taken from it are links to the same bytes, so nothing is written to in
        place.
    """

    expected_names = frozenset(("in", "out", "tmp", "home", "victim", "stdout", "stderr", "events"))

    def __init__(self, folder: Path, good: Good) -> None:
        self.good = good
        self.inputs, self.out, self.tmp, self.home, self.victim = (
            folder / name for name in ("in", "out", "tmp", "home", "victim")
        )
        self.canary = folder / "executed"
        self.inputs.mkdir(parents=True)

    # --- files

    def copy(self, source: Path, name: str | None = None) -> Path:
        """A file or folder of the good instance below ``in``, to be changed with `replace`."""
        target = self.inputs / (name or source.name)
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, copy_function=os.link)
        else:
            os.link(source, target)
        return target

    def replace(self, path: Path, content: bytes | str) -> Path:
        """Write a file anew, never through a link."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    def edit_json(self, path: Path, change: Callable[[Any], Any]) -> Path:
        """Change what a json holds; ``change`` returns something else to put there, or None."""
        content = json.loads(path.read_text("utf-8"))
        changed = change(content)
        return self.replace(path, json.dumps(content if changed is None else changed))

    def run(self, name: str = "mpii") -> Path:
        return self.copy(self.good.runs[name], f"run_{name}")

    def new_victim(self) -> Path:
        """A folder that belongs to somebody else: photos, annotations, a thesis."""
        shutil.copytree(self.good.mpii, self.victim / "mpii")
        (self.victim / "thesis").mkdir()
        (self.victim / "thesis" / "chapter.tex").write_text("years of work", "utf-8")
        shutil.copy(self.good.predictions / "p.h5", self.victim / "p.h5")
        shutil.copy(self.good.runs["mpii"] / "config.yaml", self.victim / "config.yaml")
        return self.victim

    # --- commands

    def evaluate_run(self, run: Path) -> Command:
        return Command("evaluate", [f"run={run}"])

    def evaluate_checkpoint(self, checkpoint: Path, *more: str) -> Command:
        """Of a run folder, on the drawn people."""
        arguments = [f"checkpoint={checkpoint}", f"data.root={self.good.data}", *more]
        return Command("evaluate", [*arguments, "data.workers=0", CPU], (self.good.data,))

    def evaluate_weights(self, checkpoint: Path, root: Path | None = None) -> Command:
        """Of a file by itself, on MPII."""
        root = root or self.good.mpii
        network = [f"checkpoint={checkpoint}", "backbone=small", "data=mpii", f"data.root={root}"]
        size = ["data.input_size=[64,64]", "data.workers=0", "data.batch_size=4", CPU]
        return Command("evaluate", [*network, *size, "flip_test=false"], (root,))

    def evaluate_coco(self, checkpoint: Path, root: Path, *more: str) -> Command:
        network = [f"checkpoint={checkpoint}", "backbone=small", "data=coco", f"data.root={root}"]
        size = ["data.input_size=[64,64]", "data.workers=0", "data.batch_size=4", CPU]
        return Command("evaluate", [*network, *size, "flip_test=false", *more], (root,))

    def evaluate_predictions(self, file: Path, root: Path | None = None) -> Command:
        data = "coco" if file.suffix == ".json" else "mpii"
        root = root or getattr(self.good, data)
        arguments = [f"predictions={file}", f"data={data}", f"data.root={root}"]
        return Command("evaluate", arguments, (root,))

    def train(self, *overrides: str) -> Command:
        arguments = [*TINY, f"data.root={self.good.data}", "loss=dot_mse", "run_root=runs"]
        return Command("train", [*arguments, *overrides], (self.good.data,))

    def resume(self, run: Path) -> Command:
        """A finished run: read and checked like any, and nothing is left to train."""
        (run / "result.json").unlink(missing_ok=True)
        command = self.train(f"resume={run}")
        return Command(command.script, command.arguments, command.named, writes_inputs=True)

    def compare(self, a: Path, b: Path, *more: str) -> Command:
        return Command("compare", [f"a={a}", f"b={b}", "draws=100", "output=c", *more])

    def qualitative(self, a: Path, b: Path, *more: str, photos: Path | None = None) -> Command:
        arguments = [f"a={a}", f"b={b}", "output=q", "joints=1", *more]
        if photos is None:
            return Command("qualitative", arguments)
        return Command("qualitative", [*arguments, f"data_root={photos}"], (photos,))

    def report(self, runs: Path, *more: str) -> Command:
        return Command("report", [f"runs={runs}", "output=r.html", "draws=100", *more])

    def export(self, checkpoint: Path) -> Command:
        arguments = [f"checkpoint={checkpoint}", "layout=posematch", "output=x.pth"]
        return Command("export_weights", [*arguments, "backbone=small"])


CPU = "trainer.accelerator=cpu"
