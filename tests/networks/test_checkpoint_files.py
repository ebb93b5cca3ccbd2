"""Checkpoints that lie, claim or are damaged: a sentence each, before they cost memory."""

from __future__ import annotations

import os
import pickle
import resource
import subprocess
import sys
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
import torch

from posematch.errors import PosematchError
from posematch.networks.checkpoint_files import read_checkpoint

CONTENT = {
    "state_dict": OrderedDict(a=torch.arange(6.0).view(2, 3), b=torch.tensor(3)),
    "epoch": 3,
    "callbacks": {"x": {"best": None, "values": (1, [2.5, "text"]), "flag": True}},
    "sigmas": np.array([0.5, 0.25]),
    "count": np.float64(0.5),
}


@pytest.mark.parametrize("archive", [True, False])
def test_the_whole_content_comes_back(tmp_path, archive):
    path = tmp_path / "x.ckpt"
    torch.save(CONTENT, path, _use_new_zipfile_serialization=archive)
    found = read_checkpoint(path)
    assert found.keys() == CONTENT.keys()
    assert all(torch.equal(found["state_dict"][k], v) for k, v in CONTENT["state_dict"].items())
    assert found["callbacks"] == CONTENT["callbacks"]
    assert found["count"] == 0.5
    np.testing.assert_array_equal(found["sigmas"], CONTENT["sigmas"])


def refused(path, words):
    with pytest.raises(PosematchError, match=words) as caught:
        read_checkpoint(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def rewritten(path, change=lambda name, content: content, compression=zipfile.ZIP_STORED):
    """The archive with its records changed."""
    with zipfile.ZipFile(path) as archive:
        records = {one.filename: archive.read(one) for one in archive.infolist()}
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in records.items():
            archive.writestr(name, change(name, content))


def test_a_flipped_bit_is_found_and_named(tmp_path):
    path = tmp_path / "x.ckpt"
    torch.save({"a": torch.zeros(1000)}, path)
    whole = bytearray(path.read_bytes())
    whole[whole.index(bytes(2000)) + 100] = 1
    path.write_bytes(whole)
    assert torch.load(path, weights_only=True)["a"].any()  # PyTorch says nothing
    refused(path, "the checksum of its record x/data/0 is wrong")


def test_a_cut_file_at_every_place(tmp_path):
    path = tmp_path / "x.ckpt"
    for archive in (True, False):
        torch.save(CONTENT, path, _use_new_zipfile_serialization=archive)
        whole = path.read_bytes()
        for length in range(0, len(whole), 37):
            path.write_bytes(whole[:length])
            refused(path, "damaged|cannot be read|no checkpoint")


def test_compressed_records_are_refused(tmp_path):
    path = tmp_path / "x.ckpt"
    torch.save({"a": torch.zeros(10**6)}, path)
    rewritten(path, compression=zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 20_000
    refused(path, "compressed records")


def test_records_over_each_other_are_refused(tmp_path):
    """Two names for one place, as nested bombs are made."""
    path = tmp_path / "x.ckpt"
    torch.save({"a": torch.zeros(100), "b": torch.ones(100)}, path)
    whole = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        first, second = (archive.getinfo(f"x/data/{one}").header_offset for one in (0, 1))
    # In the directory, not in the records themselves.
    start = whole.index(b"PK\x01\x02")
    directory = whole[start:].replace(second.to_bytes(4, "little"), first.to_bytes(4, "little"))
    path.write_bytes(whole[:start] + directory)
    refused(path, "lie over each other")


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (torch.zeros(1).expand(10**10), "more values than it holds"),
        (torch.zeros(3).as_strided((3, 3), (1, 0)), "more values than it holds"),
        (torch.eye(3).to_sparse(), "sparse"),
        (torch.eye(3).to_sparse_csr(), "sparse"),
        (torch.empty(10, device="meta"), "without values"),
        (torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8), "quantised"),
        (np.array([1 + 2j]), "array of complex128"),
    ],
)
def test_tensors_that_are_not_plain_memory(tmp_path, value, words):
    torch.save({"a": {"b": [value]}}, tmp_path / "x.ckpt")
    refused(tmp_path / "x.ckpt", f"{words}|objects besides|cannot be read")


def test_nested_without_end_and_shared_parts(tmp_path):
    deep: list = []
    for _ in range(200):
        deep = [deep]
    torch.save(deep, tmp_path / "x.ckpt")
    refused(tmp_path / "x.ckpt", "nested more than 50 levels")
    shared: list = []
    for _ in range(40):  # 2^40 values to whoever walks all of them
        shared = [shared, shared]
    torch.save(shared, tmp_path / "x.ckpt")
    read_checkpoint(tmp_path / "x.ckpt")


def test_claims_of_the_pickle_are_checked_against_the_records(tmp_path):
    path = tmp_path / "x.ckpt"
    torch.save({"a": torch.ones(10)}, path)
    rewritten(path, lambda name, one: one.replace(b"K\n", b"J\x00\x00\x00\x10"))
    refused(path, "cannot be read")


class Claims:
    """Pickled as a call of numpy's that claims memory."""

    def __reduce__(self):
        return np._core.multiarray._reconstruct, (np.ndarray, (10**12,), b"b")


def test_arrays_that_claim_memory(tmp_path):
    torch.save({"a": Claims()}, tmp_path / "x.ckpt")
    refused(tmp_path / "x.ckpt", "cannot be read|objects besides")


@pytest.mark.parametrize("archive", [True, False])
def test_a_pickle_without_end_costs_little(tmp_path, archive):
    """A file of opcodes that make an object each, a hundred bytes for one."""
    path = tmp_path / "x.ckpt"
    bomb = b"\x80\x02(" + b"]" * (40 * 2**20) + b"."
    if archive:
        torch.save({"a": torch.ones(1)}, path)
        rewritten(path, lambda name, one: bomb if name.endswith("data.pkl") else one)
    else:
        path.write_bytes(pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2)
                         + pickle.dumps({"little_endian": True}, 2) + bomb)  # fmt: skip
    code = (
        "import sys; from pathlib import Path\n"
        "from posematch.errors import PosematchError\n"
        "from posematch.networks.checkpoint_files import read_checkpoint\n"
        "try: read_checkpoint(Path(sys.argv[1]))\n"
        "except PosematchError as error: print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, timeout=120,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_DATA, (3 * 2**30, 3 * 2**30)),
    )  # fmt: skip
    assert "more than 4 MiB besides its tensors" in done.stdout, done.stderr


def test_what_is_no_ordinary_file(tmp_path):
    os.mkfifo(tmp_path / "x.ckpt")
    refused(tmp_path / "x.ckpt", "no ordinary file")
