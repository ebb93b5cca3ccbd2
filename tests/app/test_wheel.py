"""An installed posematch needs no checkout."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
TINY = (
    *("data.spec.train_photos=6", "data.spec.valid_photos=3", "data.input_size=[64,64]"),
    *("data.batch_size=4", "data.workers=0", "trainer.accelerator=cpu", "trainer.max_epochs=1"),
    *("measure=none", "decoders=none", "pictures.every_n_epochs=0"),
)


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """What the wheel holds, unpacked."""
    if not importlib.util.find_spec("setuptools"):
        pytest.skip("no setuptools to build a wheel with")
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    for name in ("src", "conf"):
        shutil.copytree(REPOSITORY / name, source / name, ignore=shutil.ignore_patterns("*.egg*"))
    for name in ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, source / name)
    pip = [sys.executable, "-m", "pip", "wheel", str(source), "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "-q", "-w", str(folder)], check=True)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def test_it_carries_every_configuration(installed):
    carried = {str(one.relative_to(installed / "posematch/conf"))
               for one in (installed / "posematch" / "conf").rglob("*.yaml")}  # fmt: skip
    assert carried == {
        str(one.relative_to(REPOSITORY / "conf")) for one in (REPOSITORY / "conf").rglob("*.yaml")
    }


@pytest.mark.slow
def test_it_trains_evaluates_and_reports_in_an_empty_folder(installed, tmp_path):
    def posematch(*arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-P", "-m", "posematch", *arguments],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(installed)},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    posematch("train", *TINY)
    (run,) = (tmp_path / "runs").iterdir()
    assert "@0.5, <=" in posematch("evaluate", f"checkpoint={run}", "data.workers=0")
    posematch("report", "runs=runs", "draws=100")
    assert (tmp_path / "report.html").stat().st_size > 10_000
