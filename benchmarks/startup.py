"""How long commands take before they do anything.

    python benchmarks/startup.py [--rounds 5] [--csv FILE]

Each in a process of its own, in turn, round after round; seconds by the clock, median and range,
and as a multiple of `python -c pass`. The training is the bare command's: drawn people, HRNet's
small sister, the matching loss; it ends after one step, without the validation.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd
from loader import show

from posematch.app.sentences import one_sentence_errors

REPOSITORY = Path(__file__).resolve().parents[1]
PYTHON = sys.executable
COMMANDS = {
    "python -c pass": ["-c", "pass"],
    "import posematch": ["-c", "import posematch"],
    "import torch": ["-c", "import torch"],
    "posematch --help": ["-m", "posematch", "--help"],
    "a wrong key": ["-m", "posematch", "train", "losss=matching"],
    "posematch evaluate --help": ["-m", "posematch", "evaluate", "--help"],
    "first step of train": [
        "-m", "posematch", "train", "trainer.max_steps=1", "trainer.limit_val_batches=1",
        "measure=none", "decoders=none", "pictures.every_n_epochs=0", "pictures.heatmaps_of=0",
    ],
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--csv", type=Path, help="write the figures there, too")
    options = parser.parse_args()
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    with tempfile.TemporaryDirectory() as folder:
        for round_ in range(options.rounds + 1):
            for name, arguments in COMMANDS.items():
                start = time.perf_counter()
                subprocess.run(
                    [PYTHON, *arguments],
                    cwd=folder,
                    env=os.environ | {"PYTHONPATH": str(REPOSITORY / "src")},
                    capture_output=True,
                )
                if round_:  # the first draws people and fills the disk's cache
                    times[name].append(time.perf_counter() - start)
    bare = statistics.median(times["python -c pass"])
    table = pd.DataFrame(
        {
            "command": name,
            "seconds": statistics.median(all_of_one),
            "least": min(all_of_one),
            "most": max(all_of_one),
            "ratio": statistics.median(all_of_one) / bare,
        }
        for name, all_of_one in times.items()
    )
    show(table, f"{options.rounds} rounds, {os.cpu_count()} cores")
    if options.csv:
        table.to_csv(options.csv, index=False, float_format="%.4g")


if __name__ == "__main__":
    with one_sentence_errors():
        main()
