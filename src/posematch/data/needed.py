"""Files without which a data set is not read, looked for before what trains on it is imported."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from posematch.data import coco, mpii
from posematch.errors import PosematchError


def check_data(data: Mapping[str, Any], training: bool) -> None:
    """Refuse a data set of posematch's whose annotations are not there.

    Photos are looked for when the annotations are read, which say which.

    Parameters
    ----------
    data
        The data module's part of a configuration, plain values of the right types.
    training
        Whether the training people are read, too.

    Raises
    ------
    PosematchError
        As the data set's reader would tell it.
    """
    # With a holdout the validation people are training people, too.
    splits = ["train"] if data.get("holdout") else ["valid", *["train"] * training]
    if "root" not in data:
        return
    root = Path(data["root"]).expanduser()
    match data.get("_target_"):
        case "posematch.data.datamodule.MPIIDataModule":
            mpii.check_files(root, splits)
        case "posematch.data.datamodule.MPIIAndLSPETDataModule":
            mpii.check_files(root, splits)
            if "lspet_root" in data:
                # Which joints are common is told by it, also where nobody is trained.
                people = Path(data["lspet_root"]).expanduser() / "train.json"
                if not people.exists():
                    raise PosematchError(
                        f"{people} does not exist: LSP-Extended's people are looked for there; set"
                        " data.lspet_root to its folder, which posematch prepare_data what=lspet"
                        " root=FOLDER makes."
                    )
        case "posematch.data.datamodule.COCODataModule":
            if data.get("own_skeleton"):
                splits = ["valid", *splits]
            for split in splits:
                annotations = data.get(f"{split}_annotations")
                detections = data.get("detections") if split == "valid" else None
                if annotations is not None:
                    coco.check_files(root / annotations, root / detections if detections else None)
