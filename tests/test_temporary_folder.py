"""A process's own folder for temporary files."""

from __future__ import annotations

import tempfile
from multiprocessing import connection
from pathlib import Path

import pytest

from posematch import processes
from posematch.errors import PosematchError
from posematch.processes import temporary_folder


@pytest.fixture
def named(tmp_path, monkeypatch):
    """TMPDIR, of so many bytes."""

    def make(length):
        folder = tmp_path / ("x" * (length - len(str(tmp_path)) - 1))
        folder.mkdir()
        monkeypatch.setattr(tempfile, "tempdir", str(folder))
        return folder

    return make


@pytest.mark.parametrize("length", [150, 200])
def test_sockets_have_room(named, length):
    """As of a loader's worker that hands over a tensor; the kernel takes names of 107 bytes."""
    root = named(length)
    with temporary_folder() as folder:
        assert folder.parent == root
        with connection.Listener(family="AF_UNIX") as listener:
            place = Path(listener.address).parent
            assert len(listener.address) <= 107
    assert not list(root.iterdir())
    assert not place.exists()


def test_no_short_place(named, monkeypatch):
    named(150)
    monkeypatch.setattr(processes, "_SHORT_ROOTS", ())
    with pytest.raises(PosematchError, match="set TMPDIR to one of at most"), temporary_folder():
        pass
    assert not list(Path(tempfile.gettempdir()).iterdir())
