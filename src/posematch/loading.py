"""Models from files: run folders, checkpoints and published models of anybody."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from posematch.app.objects import make, plain
from posematch.errors import PosematchError
from posematch.files import below
from posematch.losses import HeatmapLoss
from posematch.model import PoseModel
from posematch.model_record import ModelRecord, read_record
from posematch.networks.checkpoints import load_weights, read_checkpoint
from posematch.runs.folder import RunFolder
from posematch.runs.stored_config import checkpoint_file, run_config
from posematch.runs.truth import read_truth
from posematch.skeletons import Skeleton
from posematch.untrusted import own_file


def load(path: str | Path, trust: str | Sequence[str] = ()) -> PoseModel:
    """The model of a training, from its run folder or a checkpoint alone.

    Parameters
    ----------
    path
        A run folder (its last checkpoint is read) or a checkpoint file.
    trust
        Packages besides posematch whose classes the checkpoint may name: those of your own network
        or decoder. Nothing else that a file names is imported, and nothing in it is unpickled.

    Returns
    -------
    In eval mode, on the CPU; ``.to("cuda")`` moves it. With ``callbacks=ema`` its weights are the
    averaged ones, which validation scored.

    Raises
    ------
    PosematchError
        There is no such file, it is damaged or names what is not trusted, or it holds weights
        alone, which do not say what network they are of.

    Examples
    --------
    A run folder of this repository, at its top level; crops come from anywhere:

    >>> import posematch.loading
    >>> model = posematch.loading.load("tests/golden/runs/gaussian_mse-0")
    >>> model.skeleton.name, model.input_size, model.normalisation.mean
    ('mpii', (64, 64), (0.485, 0.456, 0.406))
    >>> found = model.estimate(torch.zeros(1, 3, 64, 64, dtype=torch.uint8))
    >>> found.joints_crop.shape
    torch.Size([1, 16, 2])
    """
    trusted = [trust] if isinstance(trust, str) else list(trust)
    file = checkpoint_file(str(path))
    content = read_checkpoint(file)
    record = read_record(content, file, trusted) or record_of_run(file, content, trusted)
    if record is None:
        raise PosematchError(
            f"{file} holds weights alone: it does not say what network, joints, crops and decoder"
            " they are of. Put it back into checkpoints/ of its run folder, beside config.yaml;"
            " or score it with scripts/evaluate.py checkpoint=FILE backbone=NAME."
        )
    model = PoseModel.of(record)
    load_weights(model.network, file, new_head=False, content=content)
    return model.eval()


def record_of_run(
    checkpoint: Path, content: Any, trust: Sequence[str] = (), root: str | None = None
) -> ModelRecord | None:
    """The record of a checkpoint that carries none, from the config.yaml of the run it lies in.

    Parameters
    ----------
    checkpoint, content
        The file, and what it holds.
    trust
        As of `load`.
    root
        Folder of its data set, for joints that only an annotation file names; the run's own
        truth.json is read before it.

    Returns
    -------
    None for a file that lies in no run folder.

    Raises
    ------
    PosematchError
        As `run_config`; or the joints are in an annotation file that nobody has named.
    """
    run = run_config(checkpoint, trust)
    if run is None:
        return None
    loss = make(run.loss, "loss")
    assert isinstance(loss, HeatmapLoss)
    if isinstance(content, dict) and type(content.get("epoch")) is int:
        loss.start_epoch(content["epoch"])
    folder = RunFolder(checkpoint.absolute().parent.parent)
    parts: Any = {key: plain(run[key]) for key in ("backbone", "decoder", "data")}
    return ModelRecord.of(
        backbone=parts["backbone"],
        decoder=parts["decoder"],
        meaning=loss.meaning,
        skeleton=_skeleton_of_run(parts["data"], folder, root),
        input_size=tuple(parts["data"]["input_size"]),
        convention=parts["data"].get("convention", "hrnet"),
        flip_test=run.get("flip_test", True),
        channels_last=run.get("channels_last", True),
    )


def _skeleton_of_run(data: dict[str, Any], folder: RunFolder, root: str | None) -> Skeleton:
    if data.get("own_skeleton"):
        if folder.truth.is_file():
            # Not from the annotations: on a run folder's word no other file is opened.
            return read_truth(own_file(folder.path, folder.truth)).oks.skeleton
        if root is None:
            raise PosematchError(
                f"{folder.config}: the joints are those of an annotation file (data.own_skeleton),"
                f" which {folder.truth} should hold; restore it."
            )
        below(Path(root), str(data.get("valid_annotations")), f"{folder.config}: data")
    # About reading photos, which nobody does here.
    unread = {"root": root or ".", "workers": 0, "cache": False, "train_people": None}
    skeleton = make({k: v for k, v in (data | unread).items() if k != "sigma"}, "data").skeleton
    assert isinstance(skeleton, Skeleton)
    return skeleton
