"""Fixtures for real files, which are not in the repository; and no test leaves files behind."""

from __future__ import annotations

import gc
import os
import shutil
import sys
import tempfile
import time
import weakref
from collections.abc import Mapping
from pathlib import Path

# A folder of its own for temporary files, before anything is imported that makes some, and for the
# scripts that tests start; what is left in it at the end fails the session.
os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", tempfile.gettempdir())  # pytest's own stay there
_SCRATCH = Path(tempfile.mkdtemp(prefix="posematch-tests-"))
os.environ["TMPDIR"] = tempfile.tempdir = str(_SCRATCH)

# Before torch is imported, and for the scripts that tests start: networks this small gain nothing
# from a second thread and lose tenfold where another process wants the core.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
from numpy.typing import NDArray

_MOST_SECONDS = 30  # processes that a test has started clean up at their end


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail if something is left in TMPDIR, and name it; in each process of pytest-xdist, too."""
    if "wandb" in sys.modules:
        sys.modules["wandb"].teardown()  # its service, which would end with this process
    ends = time.monotonic() + _MOST_SECONDS
    while (left := _left_behind()) and time.monotonic() < ends:
        time.sleep(0.5)
    if left:
        print(f"\nleft in TMPDIR by tests: {', '.join(left)}", file=sys.stderr)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
    shutil.rmtree(_SCRATCH, ignore_errors=True)


def _left_behind() -> list[str]:
    """What this process does not remove itself when it ends."""
    gc.collect()
    # A TemporaryDirectory that is still referred to: of libraries that keep one as long as they are
    # imported.
    finalizers = [one.peek() for one in gc.get_objects() if type(one) is weakref.finalize]
    own = {str(one[2][0]) for one in finalizers if one is not None and one[2]}
    own.add(os.environ.get("TORCHINDUCTOR_CACHE_DIR", ""))  # compiled code, for the whole session
    return sorted(str(one) for one in _SCRATCH.iterdir() if str(one) not in own)


REPOSITORY = Path(__file__).resolve().parents[1]


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
    """What HRNet's original code answers, see FIXTURES.md next to the file."""
    file = shared_data.parent / "reference" / "fixtures_hrnet.npz"
    if not file.is_file():
        pytest.skip(f"no {file}")
    with np.load(file, allow_pickle=False) as arrays:
        return dict(arrays)
