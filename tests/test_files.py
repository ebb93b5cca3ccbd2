"""Locks and drafts: one holder at a time, the dead ones' are taken over, nothing stays behind."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

from posematch.files import drafting, locked, put, sweep_drafts, sweep_partials

HOLD = """
import sys, time
from pathlib import Path
from posematch.files import drafting, locked
with locked(Path(sys.argv[1]) / "lock"), drafting(Path(sys.argv[1]) / "place") as draft:
    (draft / "half").touch()
    print(draft, flush=True)
    sys.stdin.read()
"""


def holder(folder: Path) -> tuple[subprocess.Popen[str], Path]:
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], text=True,
                               stdin=subprocess.PIPE, stdout=subprocess.PIPE)  # fmt: skip
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


class StillHeldError(Exception):
    """Another process holds the lock."""


def wait() -> None:
    raise StillHeldError


def is_free(lock: Path) -> bool:
    try:
        with locked(lock, wait):
            return True
    except StillHeldError:
        return False


def test_lock_is_for_one_and_gone_afterwards(tmp_path):
    process, _ = holder(tmp_path)
    assert not is_free(tmp_path / "lock")
    process.communicate("")
    assert list(tmp_path.iterdir()) == []
    assert is_free(tmp_path / "lock")
    assert list(tmp_path.iterdir()) == []


def test_lock_and_draft_of_a_killed_holder_are_taken_over(tmp_path):
    process, draft = holder(tmp_path)
    sweep_drafts(tmp_path)
    sweep_partials(tmp_path)
    assert (draft / "half").exists()  # its writer lives
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert (draft / "half").exists()
    with drafting(tmp_path / "other"):
        assert not draft.exists()
    assert is_free(tmp_path / "lock")
    assert list(tmp_path.iterdir()) == []


def test_lock_that_was_removed_while_one_waited_is_asked_for_again(tmp_path):
    lock = tmp_path / "lock"
    with locked(lock):
        lock.unlink()
        assert is_free(lock)  # the new one; the old holder's keeps nobody out
        with locked(lock):
            assert not is_free(lock)


def test_draft_is_put_in_its_place_whole_or_not_at_all(tmp_path):
    place = tmp_path / "deep" / "place"
    with drafting(place) as draft:
        (draft / "file").write_text("content")
        assert not place.exists()
        put(draft, place)
    assert (place / "file").read_text() == "content"
    assert list(place.parent.iterdir()) == [place]


def test_what_only_looks_like_a_draft_stays(tmp_path):
    for name in (".notes.draft", "x.0123abcd.draft", ".x.0123abcd.draft.d"):
        (tmp_path / name).mkdir()
    (tmp_path / ".download.iso.partial").touch()
    before = sorted(tmp_path.iterdir())
    with drafting(tmp_path / "place"):
        pass
    assert sorted(tmp_path.iterdir()) == before
