"""Every parser of files from strangers: how it is called, and how its inputs are changed."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import random
import shutil
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path

import cv2
import h5py
import numpy as np
import pandas as pd
import scipy.io
import torch
import yaml

from inputs import mutations
from inputs.case import LAST, MAPS, TABLE, VALID, Good
from inputs.harness import REPOSITORY
from inputs.worker import imported


class Parser(ABC):
    """One parser.

    Parameters
    ----------
    good
        What the inputs are made from.
    folder
        Of its own; the changed input is written below it.
    """

    def __init__(self, good: Good, folder: Path) -> None:
        self.good = good
        self.folder = folder
        folder.mkdir(parents=True)
        self.prepare()

    @abstractmethod
    def prepare(self) -> None:
        """What need not be done for each input."""

    @abstractmethod
    def change(self, rng: random.Random) -> str:
        """Write a changed input; what was changed, in a word."""

    @abstractmethod
    def parse(self) -> object:
        """Read it, as a script does; may raise PosematchError alone."""

    def _write(self, path: Path, content: bytes | str) -> None:
        path.unlink(missing_ok=True)
        text = content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass")
        path.write_bytes(text)


class Checkpoint(Parser):
    def prepare(self) -> None:
        from posematch.networks.heatmap_network import HeatmapNetwork

        self.file = self.folder / "weights.ckpt"
        content = torch.load(self.good.runs["mpii"] / LAST, map_location="cpu", weights_only=True)[
            "state_dict"
        ]
        self.network = HeatmapNetwork("hrnet_w18_small", 16, pretrained=False)
        # The whole file has 16 MB, nearly all of it numbers; a few tensors are a checkpoint, too.
        self.some = dict(list(content.items())[:6])
        packed = io.BytesIO()
        torch.save({"state_dict": self.some, "epoch": 1, "callbacks": {"a": [1, "b"]}}, packed)
        self.small = packed.getvalue()
        self.whole = (self.good.runs["mpii"] / LAST).read_bytes()
        legacy = io.BytesIO()
        torch.save({"state_dict": self.some}, legacy, _use_new_zipfile_serialization=False)
        self.legacy = legacy.getvalue()

    def change(self, rng: random.Random) -> str:
        choice = rng.randrange(10)
        if choice < 4:
            self._write(self.file, mutations.zip_of(self.small, rng))
            return "an entry of a small one"
        if choice < 6:
            content = mutations.bytes_of(self.small, [self.legacy], rng)
            self._write(self.file, content)
            return "bytes of a small one"
        if choice < 8:
            self._write(self.file, mutations.bytes_of(self.legacy, [self.small], rng))
            return "bytes of an old one"
        if choice < 9:
            self._write(self.file, mutations.bytes_of(self.whole, [], rng))
            return "bytes of a whole one"
        tree = {
            "state_dict": {k: v.tolist() if v.numel() < 50 else v for k, v in self.some.items()}
        }
        changed = mutations.tree_of(tree, rng)
        try:
            torch.save(changed, self.file)
        except (RecursionError, UnicodeError):
            self._write(self.file, b"")
        return "the tree"

    def parse(self) -> object:
        from posematch.model_record import read_record
        from posematch.networks.checkpoints import load_weights, maps_in, read_checkpoint

        content = read_checkpoint(self.file)
        read_record(content, self.file)
        maps_in(self.file, content)
        return load_weights(self.network, self.file, content=content)


class RunFolder(Parser):
    """config.yaml, environment.json, result.json and metrics.csv."""

    def prepare(self) -> None:
        self.run = self.folder / "run"
        shutil.copytree(self.good.runs["mpii"], self.run, ignore=shutil.ignore_patterns("*.ckpt"))
        names = ("config.yaml", "environment.json", "result.json", "metrics.csv")
        self.files = {name: (self.run / name).read_bytes() for name in names}
        self.trees = {
            "config.yaml": yaml.safe_load(self.files["config.yaml"]),
            "environment.json": json.loads(self.files["environment.json"]),
            "result.json": json.loads(self.files["result.json"]),
        }
        (self.run / "checkpoints").mkdir(exist_ok=True)
        (self.run / LAST).write_bytes(b"none")

    def change(self, rng: random.Random) -> str:
        for name, content in self.files.items():
            self._write(self.run / name, content)
        name = rng.choice(list(self.files))
        if name == "metrics.csv" and rng.random() < 0.5:
            rows = list(csv.reader(self.files[name].decode().splitlines()))
            rows = mutations.tree_of(rows, rng)
            rows = rows if isinstance(rows, list) else [rows]
            lines = [",".join(map(str, row)) if isinstance(row, list) else str(row) for row in rows]
            self._write(self.run / name, "\n".join(lines))
            return f"cells of {name}"
        if name in self.trees and rng.random() < 0.6:
            tree = mutations.tree_of(self.trees[name], rng)
            text = (
                yaml.safe_dump(tree, sort_keys=False) if name == "config.yaml" else json.dumps(tree)
            )
            self._write(self.run / name, text)
            return f"the tree of {name}"
        others = list(self.files.values())
        self._write(self.run / name, mutations.bytes_of(self.files[name], others, rng))
        return f"bytes of {name}"

    def parse(self) -> object:
        from posematch.runs.finished import read_run
        from posematch.runs.folder import config_differences
        from posematch.runs.stored_config import run_config

        run_config(self.run / LAST)
        run = read_run(self.run)
        config_differences(run.config, self.trees["config.yaml"])
        return run.loss, run.seed, run.data, run.metric, run.figures, run.epochs


class Parquet(Parser):
    def prepare(self) -> None:
        self.file = self.folder / "p.parquet"
        self.table = pd.read_parquet(self.good.runs["mpii"] / TABLE)
        plain = io.BytesIO()
        self.table.to_parquet(plain, compression=None)
        self.seeds = [(self.good.runs["mpii"] / TABLE).read_bytes(), plain.getvalue()]

    def change(self, rng: random.Random) -> str:
        if rng.random() < 0.6:
            self._write(self.file, mutations.bytes_of(rng.choice(self.seeds), self.seeds, rng))
            return "bytes"
        self.file.unlink(missing_ok=True)
        try:
            self._changed_columns(rng).to_parquet(self.file)
        # No such column in parquet, or in pandas.
        except (ValueError, TypeError, ArithmeticError, NotImplementedError):
            self._write(self.file, b"PAR1")
        return "columns"

    def _changed_columns(self, rng: random.Random) -> pd.DataFrame:
        table = self.table
        for _ in range(rng.choice((1, 1, 2))):
            column = rng.choice(list(table.columns))
            match rng.randrange(4):
                case 0:
                    table = table.drop(columns=column)
                case 1:
                    value = rng.choice(mutations.VALUES)
                    table = table.assign(**{column: [value] * len(table)})
                case 2:
                    rows = rng.sample(range(len(table)), rng.randrange(1, max(2, len(table))))
                    table = table.iloc[rows]
                case _:
                    other = rng.choice(list(table.columns))
                    table = table.assign(**{column: table[other]})
        return table

    def parse(self) -> object:
        from posematch.evaluation.files import evaluate_predictions

        return evaluate_predictions(self.file, "mpii", self.good.mpii).tables()


class Npz(Parser):
    def prepare(self) -> None:
        self.run = self.folder / "run"
        (self.run / "heatmaps").mkdir(parents=True)
        self.file = self.run / MAPS
        self.seed = (self.good.runs["mpii"] / MAPS).read_bytes()
        with np.load(io.BytesIO(self.seed)) as stored:
            self.arrays = dict(stored)

    def change(self, rng: random.Random) -> str:
        choice = rng.random()
        if choice < 0.4:
            self._write(self.file, mutations.bytes_of(self.seed, [], rng))
            return "bytes"
        if choice < 0.7:
            self._write(self.file, mutations.zip_of(self.seed, rng))
            return "an entry"
        arrays = dict(self.arrays)
        name = rng.choice(list(arrays))
        arrays[name] = mutations.array_of(arrays[name], rng)
        if rng.random() < 0.1:
            del arrays[name]
        self.file.unlink(missing_ok=True)
        np.savez(self.file, **arrays)
        return "arrays"

    def parse(self) -> object:
        from posematch.runs.folder import RunFolder as Folder
        from posematch.runs.heatmaps import read_heatmaps

        return read_heatmaps(Folder(self.run)).maps()


class Mat(Parser):
    """Predictions and MPII's truth."""

    def prepare(self) -> None:
        self.files = {
            "p.mat": self.good.predictions / "p.mat",
            "gt_valid.mat": self.good.mpii / "annot" / "gt_valid.mat",
        }
        self.seeds = {}
        for name, file in self.files.items():
            fields = {k: v for k, v in scipy.io.loadmat(file).items() if k[0] != "_"}
            packed = io.BytesIO()
            scipy.io.savemat(packed, fields, do_compression=True)
            self.seeds[name] = [file.read_bytes(), packed.getvalue(), fields]

    def change(self, rng: random.Random) -> str:
        self.name = rng.choice(list(self.files))
        plain, packed, fields = self.seeds[self.name]
        file = self.folder / self.name
        if rng.random() < 0.7:
            self._write(file, mutations.bytes_of(rng.choice((plain, plain, packed)), [packed], rng))
            return f"bytes of {self.name}"
        changed = dict(fields)
        name = rng.choice(list(changed))
        changed[name] = mutations.array_of(np.asarray(changed[name]), rng)
        file.unlink(missing_ok=True)
        try:
            scipy.io.savemat(file, changed)
        except (TypeError, ValueError):  # no such array in MATLAB
            self._write(file, plain[:200])
        return f"fields of {self.name}"

    def parse(self) -> object:
        from posematch.data.mpii_truth import read_pckh_truth
        from posematch.data.predictions import read_mpii_predictions

        if self.name == "p.mat":
            return read_mpii_predictions(self.folder / self.name, 8)
        return read_pckh_truth(self.folder / self.name)


class H5(Parser):
    def prepare(self) -> None:
        self.file = self.folder / "p.h5"
        joints = scipy.io.loadmat(self.good.predictions / "p.mat")["preds"]
        self.joints = joints
        chunked = self.folder / "chunked.h5"
        with h5py.File(chunked, "w") as content:
            content.create_dataset("preds", data=joints, chunks=True, compression="gzip")
        self.seeds = [(self.good.predictions / "p.h5").read_bytes(), chunked.read_bytes()]

    def change(self, rng: random.Random) -> str:
        if rng.random() < 0.8:
            self._write(self.file, mutations.bytes_of(rng.choice(self.seeds), self.seeds, rng))
            return "bytes"
        self.file.unlink(missing_ok=True)
        with h5py.File(self.file, "w") as content:
            try:
                content["preds"] = mutations.array_of(self.joints, rng)
            except TypeError:  # no such type in HDF5
                content["other"] = 1
        return "the data set"

    def parse(self) -> object:
        from posematch.data.predictions import read_mpii_predictions

        return read_mpii_predictions(self.file, 8)


class _Json(Parser):
    """A json file that is changed as bytes or as a tree."""

    source: Path
    file: Path

    def change(self, rng: random.Random) -> str:
        seed = self.source.read_bytes()
        if rng.random() < 0.4:
            self._write(self.file, mutations.bytes_of(seed, [], rng))
            return "bytes"
        self._write(self.file, json.dumps(mutations.tree_of(json.loads(seed), rng)))
        return "the tree"


class Results(_Json):
    def prepare(self) -> None:
        self.source = self.good.predictions / "p.json"
        self.file = self.folder / "p.json"

    def parse(self) -> object:
        from posematch.evaluation.files import evaluate_predictions

        return evaluate_predictions(self.file, "coco", self.good.coco)


class Coco(_Json):
    """Annotations, read for training and for scoring."""

    def prepare(self) -> None:
        self.source = self.good.coco / VALID
        self.file = self.folder / "person_keypoints_val2017.json"

    def parse(self) -> object:
        from posematch.data.coco import read_coco
        from posematch.errors import PosematchError
        from posematch.runs.truth import read_truth

        with contextlib.suppress(PosematchError):
            read_truth(self.file)
        return read_coco(self.file, self.good.coco / "val2017", "valid", (64, 64))


class Mpii(_Json):
    def prepare(self) -> None:
        self.source = self.good.mpii / "annot/valid.json"
        shutil.copytree(self.good.mpii, self.folder / "mpii")
        self.file = self.folder / "mpii/annot/valid.json"

    def parse(self) -> object:
        from posematch.data.mpii import read_mpii

        return read_mpii(self.folder / "mpii", "valid", (64, 64))


class Image(Parser):
    def prepare(self) -> None:
        self.file = self.folder / "photo.jpg"
        photo = next(iter(sorted((self.good.mpii / "images").iterdir())))
        picture = np.asarray(cv2.imread(str(photo)))[:64, :64]
        self.seeds = [photo.read_bytes()]
        for suffix in (".png", ".bmp", ".tiff", ".webp", ".ppm"):
            self.seeds.append(bytes(cv2.imencode(suffix, picture)[1]))

    def change(self, rng: random.Random) -> str:
        self._write(self.file, mutations.bytes_of(rng.choice(self.seeds), self.seeds, rng))
        return "bytes"

    def parse(self) -> object:
        from posematch.data.crops import read_photo

        return read_photo(self.file)


class Overrides(Parser):
    """The command line, up to the composed configuration."""

    _LINES = (
        "data.input_size=[64,64]", "loss=matching", "optimizer.lr=1e-3", "+a={b:1,c:[2,x]}",
        "callbacks=[ema,none]", "~decoder", "loss.name='a b'", "data.root=${oc.env:HOME}",
        "seed=1", "experiment=cpu", "trainer.max_epochs=null", "-m", "--config-dir=x", "data=mpii",
        "decoder=dark", "++x.y=1", "hydra.run.dir=.", "backbone.name=\"x\"",
    )  # fmt: skip

    def prepare(self) -> None:
        self.main: Callable[[], None] = imported(REPOSITORY)["train"]
        self.arguments: list[str] = []

    def change(self, rng: random.Random) -> str:
        lines = rng.sample(self._LINES, rng.choice((1, 2, 3)))
        place = rng.randrange(len(lines))
        others = [one.encode() for one in self._LINES]
        changed = mutations.bytes_of(lines[place].encode(), others, rng)
        lines[place] = changed.replace(b"\0", b"")[:2000].decode("utf-8", "surrogateescape")
        self.arguments = lines
        return repr(lines)[:300]

    def parse(self) -> object:
        from hydra.core.global_hydra import GlobalHydra

        GlobalHydra.instance().clear()
        sys.argv = ["train.py", *self.arguments, "--cfg", "job"]
        return self.main()


PARSERS: dict[str, type[Parser]] = {
    "checkpoint": Checkpoint,
    "run": RunFolder,
    "parquet": Parquet,
    "npz": Npz,
    "mat": Mat,
    "h5": H5,
    "results": Results,
    "coco": Coco,
    "mpii": Mpii,
    "image": Image,
    "overrides": Overrides,
}
