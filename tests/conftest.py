"""Fixtures for real files, which are not in the repository; and no test leaves files behind."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

# Before torch is imported, and for the scripts that tests start: networks this small gain nothing
# from a second thread and lose tenfold where another process wants the core.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Of onnxruntime, which would leave a file in TMPDIR, too; tests import it by themselves.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import numpy as np
import pytest
import scratch
from numpy.typing import NDArray

REPOSITORY = Path(__file__).resolve().parents[1]
_MATLAB_FILES: dict[tuple[bytes, tuple[str, ...]], object] = {}


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail if something is left in TMPDIR, and name it; in each process of pytest-xdist, too."""
    if left := scratch.close():
        print(f"\nleft in TMPDIR by tests: {', '.join(left)}", file=sys.stderr)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_make_parametrize_id(config: pytest.Config, val: object, argname: str) -> str | None:
    """No content of a file in a test's name: it may hold a time, and processes must agree on it."""
    return argname if isinstance(val, bytes) else None


@pytest.fixture(scope="module")
def processes_once() -> Iterator[None]:
    """A MATLAB file with the same bytes is read, and git asked, once: each takes processes."""
    from posematch.data import matlab
    from posematch.runs import folder

    read = matlab.read_with_shapes

    def read_once(mat_file, names):
        if not mat_file.is_file():
            return read(mat_file, names)
        key = mat_file.read_bytes(), names
        if key not in _MATLAB_FILES:
            _MATLAB_FILES[key] = read(mat_file, names)
        return _MATLAB_FILES[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(matlab, "read_with_shapes", read_once)
        patch.setattr(folder, "_git_state", functools.cache(folder._git_state))
        yield


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real data, see its README.md; the test is skipped where there is none."""
    folder = Path(
        os.environ.get("POSEMATCH_SHARED_DATA", REPOSITORY.parent / "shared" / "data")
    ).resolve()
    if not folder.is_dir():
        pytest.skip(f"no real data in {folder}: set POSEMATCH_SHARED_DATA")
    return folder


@pytest.fixture(scope="session")
def hrnet_fixtures(shared_data: Path) -> Mapping[str, NDArray[np.generic]]:
    """What HRNet's original code answers; computed by running it on MPII's files."""
    file = shared_data.parent / "reference" / "fixtures_hrnet.npz"
    if not file.is_file():
        pytest.skip(f"no {file}")
    with np.load(file, allow_pickle=False) as arrays:
        return dict(arrays)
