r"""Every check that needs a GPU, in one command that goes on where it stopped.

    python benchmarks/gpu.py [--device cuda|cpu] [--small] [--pieces a,b] [--out FOLDER]
        [--budget-s 520] [--redo] [--report] [--prepare] [--mpii-root FOLDER]
        [--cache-folder FOLDER] [--seeds 0,1,2] [--overrides "key=value ..."] [--runs FOLDER]
        [--wheels FOLDER]

Pieces, in order of value:

``graphs``
    A training step of HRNet-W48 at 384 x 288, batch 32, and of HRNet-W32 at 256 x 256, batch 64:
    in plain NCHW float32; ours without and with the network captured as CUDA graphs; the ratios;
    and what the matching loss takes of the captured step, with its kernels.
``device_cache``
    A batch of 64 crops at 256 x 256 made on the device, from the crop cache in its memory; its
    draws on one core; the same crops by the loader.
``train``
    Three epochs of HRNet-W32 at 256 x 256, batch 64, by `posematch.training.run.train`, in images a
    second over those of the bare step on a batch that lies on the device.
``correctness``
    Losses, transport solvers, decoders, flip test and network on the device against the CPU in
    float64: in float32, with TF32 allowed everywhere, and under bf16 autocast.
``pot``
    POT's batched solver against the semi-dual, on the device and on the CPU.
``losses``
    Milliseconds of each loss, forward and backward, and their ratio to the Gaussian MSE's.
``step``
    A training step of HRNet-W48 at 256 x 192 in bf16: losses, memory layout, activation
    checkpointing, torch.compile; images a second and peak memory.
``fused``
    The Triton kernel of the semi-dual: against the CPU in float64; its time against the torch
    version's and POT's, all to a marginal error of 1e-6; bytes a second over the card's copy
    bandwidth; and the loss's share of a training step of HRNet-W48 at 384 x 288 in bf16. It is the
    default as long as ``ratio_torch`` is 2 or more everywhere.
``training``
    Trainings on MPII (``--mpii-root``, from its crop cache) by `posematch.training.run.train`, for
    each seed and loss, with ``experiment=cpu`` and ``--overrides``.

``map``
    ``experiment=loss_map``: all candidates at three rates, as many trainings side by side as the
    card and the cores hold, on EfficientNet-Lite0 at 256 x 256 for 40 epochs; from ImageNet weights
    with ``--overrides "backbone.weights=FILE"``. It stops in time and goes on with the same
    ``--runs``; ``posematch loss_map runs=FOLDER`` is its table. It holds people out, so it needs
    photos: where they can't be carried, `carried_photos.py` makes what is needed of them.
    (Lite0, 192 x 192, 20 epochs, 1,244 people: some 350 trainings an hour of an H100.)

Each piece is a file of gpu_pieces/ that lists its cases, and a file ``<out>/<piece>.json``,
rewritten after every case; a case that is in it is not measured again (``--redo`` starts the
chosen pieces anew). No case starts after ``--budget-s`` seconds, and a training stops then with a
checkpoint below ``--runs``: the same command goes on. A case that fails is recorded with its error
and the next one goes on; the exit code is then 1. ``--small`` takes tiny sizes, for tests.
``--report`` measures nothing and rewrites this benchmark's section of results/gpu/tables.md from
the files in ``--out``.

Bare machines
-------------
``correctness``, ``losses``, ``step`` and ``fused`` need torch and timm alone, ``graphs`` lightning,
too, ``pot`` needs POT (``fused`` leaves POT's column out without), and
``device_cache``, ``train``, ``training`` and ``map`` (hydra-joblib-launcher and joblib, too)
everything that posematch imports. On a machine
with torch, lightning, timm, opencv-python-headless, scipy, h5py, pandas, pyarrow, rich,
torchmetrics, requests and tqdm of its own these are missing:

    hydra-core omegaconf antlr4-python3-runtime==4.9.3 pycocotools POT
    pydantic pydantic-core annotated-types typing-inspection
    (albumentations and what it needs, for augmentation/appearance alone)

Made into wheels where there is a package index,

    pip wheel --no-deps -w wheels hydra-core omegaconf antlr4-python3-runtime==4.9.3 \
        pydantic annotated-types typing-inspection
    pip download --no-deps --only-binary=:all: --python-version 3.12 --implementation cp \
        --platform manylinux_2_28_x86_64 --platform manylinux_2_17_x86_64 \
        --platform manylinux2014_x86_64 -d wheels POT pycocotools \
        pydantic-core==VERSION   # the one that pydantic's metadata names

``--wheels wheels`` installs them into a folder of its own with

    pip install --no-index --no-deps --find-links wheels --target FOLDER wheels/*.whl

and puts it on the path of this process. posematch itself is taken from ../src. MPII travels as its
annotations and crop cache (`posematch.data.cache`), without photos: ``--prepare`` writes the cache
where the photos are; ``annot/`` and the cache folder are what to carry. With ``--overrides
"data.input_size=[256,256] data.cache_format=webp data.cache_resolution=0.6"`` that of the MPII
subset is 34 MB. ``device_cache`` and ``train`` read that of 256 x 256 crops; without MPII they take
drawn people, and draw them first.
"""

from __future__ import annotations

import argparse
import atexit
import functools
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))
sys.path.append(str(Path(__file__).resolve().parent))  # gpu_pieces, also where this is imported

from gpu_pieces import PIECES
from gpu_pieces.records import Record, environment, run_piece
from gpu_pieces.shared import REPOSITORY, Bench, Case, Row
from gpu_pieces.tables import report
from gpu_pieces.training import prepare

RESULTS = Path(__file__).resolve().parent / "results" / "gpu"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the pieces that are left; the exit code is 1 where a case failed."""
    start = time.monotonic()
    options = _parse(arguments)
    if options.report is not None:
        report(options.out, options.report, PIECES)
        return 0
    if options.wheels is not None:
        install_wheels(options.wheels)
    bench = Bench(
        device=_device(options.device),
        small=options.small,
        deadline=start + options.budget_s,
        mpii_root=options.mpii_root,
        cache_folder=options.cache_folder,
        runs=options.runs,
        seeds=tuple(int(one) for one in options.seeds.split(",")),
        overrides=tuple(shlex.split(options.overrides)),
    )
    if options.prepare:
        prepare(bench)
        return 0
    where = environment(bench.device, bench.small)
    records = {
        name: Record.open(options.out / f"{name}.json", where, options.redo)
        for name in options.pieces
    }
    for name, record in records.items():
        try:
            cases = PIECES[name](bench)
        except Exception as error:  # a piece that cannot even be listed must not stop the next
            message = f"{type(error).__name__}: {error}"
            cases = [Case("setting up", functools.partial(_fail, message))]
        run_piece(name, cases, record, bench)
    left = [name for name, record in records.items() if not record.finished]
    failed = [
        f"{name}: {case}"
        for name, record in records.items()
        for case, row in record.rows.items()
        if row["status"] == "failed"
    ]
    print(f"{len(failed)} failed{': ' if failed else ''}{'; '.join(failed)}")
    if left:
        print(f"not finished: {', '.join(left)}; the same command goes on")
    return 1 if failed else 0


def _fail(message: str) -> Row:
    raise RuntimeError(message)


def _device(name: str) -> torch.device:
    if name == "cuda" and not torch.cuda.is_available():
        raise SystemExit("--device cuda: torch sees no GPU here; --device cpu measures the CPU.")
    return torch.device(name)


def install_wheels(folder: Path) -> None:
    """Install wheels without an index into a folder of this process, first on its path."""
    wheels = sorted(folder.glob("*.whl"))
    if not wheels:
        raise SystemExit(f"--wheels {folder} holds no wheel.")
    target = tempfile.mkdtemp(prefix="gpu-benchmark-")
    atexit.register(shutil.rmtree, target, ignore_errors=True)
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps",
         "--find-links", str(folder), "--target", target, *map(str, wheels)],
        check=True,
    )  # fmt: skip
    sys.path.insert(0, target)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    add = parser.add_argument
    default = "cuda" if torch.cuda.is_available() else "cpu"
    add("--device", choices=("cuda", "cpu"), default=default)
    add("--small", action="store_true", help="tiny sizes, for tests")
    add("--pieces", default=",".join(PIECES), help=f"some of {','.join(PIECES)}")
    add("--out", type=Path, default=RESULTS, help="folder of the files")
    add("--budget-s", type=float, default=520.0, help="start nothing after so many seconds")
    add("--redo", action="store_true", help="measure the chosen pieces anew")
    add(
        "--report",
        type=Path,
        nargs="?",
        const=RESULTS / "tables.md",
        help="write tables, measure nothing",
    )
    add("--prepare", action="store_true", help="write the crop cache of the trainings, no more")
    add("--mpii-root", type=Path, default=Path("data/mpii"), help="folder with annot/")
    add("--cache-folder", type=Path, help="crop cache; default: below --mpii-root")
    add("--runs", type=Path, default=REPOSITORY / "runs" / "gpu", help="run folders of trainings")
    add("--seeds", default="0,1,2", help="of the trainings")
    add("--overrides", default="", help="further overrides of the trainings, in one string")
    add("--wheels", type=Path, help="folder of wheels to install for this process")
    options = parser.parse_args(arguments)
    options.pieces = options.pieces.split(",")
    unknown = set(options.pieces) - set(PIECES)
    if unknown:
        parser.error(f"--pieces {','.join(sorted(unknown))}: choose from {','.join(PIECES)}")
    try:
        _ = [int(seed) for seed in options.seeds.split(",")]
    except ValueError:
        parser.error(f"--seeds {options.seeds}: whole numbers between commas, such as 0,1,2")
    return options


if __name__ == "__main__":
    sys.exit(main())
