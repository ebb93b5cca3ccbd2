"""Makes tests/golden anew: small run folders, and what the scripts write about them.

    python tests/golden/make.py

The run folders are kept as they were written by the version that environment.json names, so that
later ones are held to reading them; they are made anew only where a new kind of run is added. The
outputs are made by the same commands that `test_golden.py` gives. What no command
reads is taken away; one run keeps its checkpoint, whole (1.3 MiB), to be scored,
loaded and resumed by later versions.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

GOLDEN = Path(__file__).resolve().parent
REPOSITORY = GOLDEN.parents[1]
RUN = [
    "data.root=data", "run_root=runs", "backbone.name=test_efficientnet", "backbone.head=deconv",
    "backbone.deconv_channels=16", "data.spec.train_photos=40", "data.spec.valid_photos=24",
    "data.input_size=[64,64]", "data.batch_size=8", "data.workers=0", "trainer.accelerator=cpu",
    "trainer.max_epochs=4", "optimizer.lr=0.01",
    "pictures.every_n_epochs=0",
]  # fmt: skip
RUNS = {
    "gaussian_mse-0": ["loss=gaussian_mse"],
    "gaussian_mse-1": ["loss=gaussian_mse", "seed=1"],
    "matching-0": ["loss=matching"],
    "matching-1": ["loss=matching", "seed=1"],
    "coco-gaussian_mse-0": ["loss=gaussian_mse", "data.skeleton=coco"],
    "coco-matching-0": ["loss=matching", "data.skeleton=coco"],
}
WITH_HEATMAPS = ("gaussian_mse-0", "matching-0")
SAME = "draws=200"
MPII = "runs=[runs/gaussian_mse-0,runs/gaussian_mse-1,runs/matching-0,runs/matching-1]"
COCO = "runs=[runs/coco-gaussian_mse-0,runs/coco-matching-0]"
# What each command writes to, below the output folder.
COMMANDS = {
    "ablation": ["ablation_table", MPII, SAME],
    "ablation_all": ["ablation_table", MPII, SAME, "decoding=all"],
    "ablation_coco": ["ablation_table", COCO, SAME],
    "curves": ["loss_curves", MPII, "last=4"],
    "curves_coco": ["loss_curves", COCO, "last=4"],
    "theorem": ["theorem", MPII],
    "compare": ["compare", "a=runs/gaussian_mse-0", "b=runs/matching-0", "people=0", SAME],
    "compare_seeds": [
        "compare", "a=[runs/gaussian_mse-0,runs/gaussian_mse-1]",
        "b=[runs/matching-0,runs/matching-1]", "people=0", SAME,
    ],
    "compare_coco": [
        "compare", "a=runs/coco-gaussian_mse-0", "b=runs/coco-matching-0", "people=0", SAME,
    ],
    "evaluate_run": ["evaluate", "run=runs/matching-0"],
    "evaluate_run_coco": ["evaluate", "run=runs/coco-matching-0"],
    "qualitative": ["qualitative", "a=runs/gaussian_mse-0", "b=runs/matching-0", "joints=2"],
    # {shared}: the published predictions that tests are given, see tests/conftest.py.
    "published_mpii": [
        "evaluate", "predictions={shared}/predictions/bearpaw-hg_s8_b1.mat", "data=mpii",
        "data.root={shared}/mpii_full",
    ],
    "published_coco": [
        "evaluate", "predictions={shared}/predictions/coco_det_predictions.json", "data=coco",
        "data.root={shared}/coco_det", "data.valid_annotations=test_coco.json",
    ],
    "published_compare": [
        "compare", "a={shared}/predictions/bearpaw-hg_s8_b1.mat",
        "b={shared}/predictions/tompson.h5", "data=mpii", "data.root={shared}/mpii_full",
        "people=0", SAME,
    ],
    "report": ["report", MPII, SAME, "last=4", "joints=0"],
}  # fmt: skip


def command(name: str, output: Path, shared: Path) -> list[str]:
    """A command of `COMMANDS`, to be given where ``runs`` lies."""
    script, *overrides = (one.format(shared=shared) for one in COMMANDS[name])
    target = output / "report.html" if script == "report" else output
    return [sys.executable, str(REPOSITORY / "scripts" / f"{script}.py"), *overrides,
            f"output={target}"]  # fmt: skip


def kept(name: str, path: Path) -> bool:
    """Whether an output is held against later ones: figures, nothing of other people's people."""
    if name.startswith("published"):
        return path.name in ("comparison.csv", "figures.json")
    return path.suffix == ".csv" or path.name == "figures.json"


def _shorten(run: Path, name: str) -> None:
    """Take away what no command of `COMMANDS` reads."""
    for path in run.glob("checkpoints/*"):
        if name != "gaussian_mse-0" or path.name != "last.ckpt":
            path.unlink()
    for path in run.glob("heatmaps/*"):
        if name not in WITH_HEATMAPS:
            path.unlink()
    for path in run.glob("predictions/epoch=*.parquet"):
        if path.name != "epoch=003.parquet":
            path.unlink()
    if name.startswith("coco"):
        for folder in run.glob("predictions/decoder=*"):
            shutil.rmtree(folder)
    environment = run / "environment.json"
    text = environment.read_text("utf-8").replace(f"{REPOSITORY}{os.sep}", "")
    environment.write_text(text, "utf-8")


def main() -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MPLBACKEND": "agg"}
    shared = Path(os.environ.get("POSEMATCH_SHARED_DATA", REPOSITORY.parent / "shared" / "data"))
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        if not (GOLDEN / "runs").exists():
            for name, overrides in RUNS.items():
                train = [sys.executable, str(REPOSITORY / "scripts" / "train.py")]
                subprocess.run([*train, *RUN, *overrides], cwd=root, env=environment, check=True)
                (run,) = (root / "runs").iterdir()
                _shorten(run, name)
                shutil.copytree(run, GOLDEN / "runs" / name)
                shutil.rmtree(root / "runs")
        shutil.rmtree(GOLDEN / "outputs", ignore_errors=True)
        for name in COMMANDS:
            subprocess.run(
                command(name, root / name, shared.resolve()),
                cwd=GOLDEN,
                env=environment,
                check=True,
            )
            for path in (root / name).rglob("*"):
                if kept(name, path):
                    target = GOLDEN / "outputs" / name / path.relative_to(root / name)
                    target.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy(path, target)


if __name__ == "__main__":
    main()
