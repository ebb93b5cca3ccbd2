"""A data set's folder is whole or not there, whatever the server, the archive and the disk do."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import json
import shutil
import stat
import subprocess
import sys
import tarfile
import time
import zipfile
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path

import archive_server as server
import cv2
import numpy as np
import pytest
import scipy.io
from archive_server import serving

from posematch.app.main import main
from posematch.data.mpii import read_mpii
from posematch.data.preparing import lspet
from posematch.data.preparing.mpii_release import read_release
from posematch.data.preparing.prepare import RECORD
from posematch.errors import PosematchError

ARCHIVE = "annotations_trainval2017.zip"
TRAIN, VALID = (f"annotations/person_keypoints_{one}2017.json" for one in ("train", "val"))
NOISE = np.random.default_rng(0).bytes(40_000)  # so that cuts fall inside


def zipped(*members: tuple[str | zipfile.ZipInfo, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return file.getvalue()


def tarred(*members: tuple[tarfile.TarInfo | str, bytes], packed: bool = True) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz" if packed else "w") as archive:
        for name, content in members:
            info = tarfile.TarInfo(name) if isinstance(name, str) else name
            info.size = info.size or len(content)
            archive.addfile(info, io.BytesIO(content))
    return file.getvalue()


GOOD = zipped((TRAIN, b"{}"), (VALID, b"[]"), ("annotations/captions.json", NOISE))


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def prepared(monkeypatch, capsys, tmp_path):
    """The command, for COCO's annotations below tmp_path/coco: its exit code and what it said."""

    def call(*arguments: str, what: str = "coco", parts: str | None = "[annotations]"):
        given = [f"what={what}", f"root={tmp_path / what}", "wait_seconds=0.01", "retries=2"]
        given += [f"parts={parts}"] if parts else []
        keys = {one.partition("=")[0] for one in arguments}
        given = [one for one in given if one.partition("=")[0] not in keys]
        monkeypatch.setattr(sys, "argv", ["posematch", "prepare_data", *given, *arguments])
        capsys.readouterr()
        try:
            main()
            code = 0
        except SystemExit as error:
            code = error.code
        said = capsys.readouterr()
        return code, said.out, said.err

    return call


def tree(folder: Path) -> set[str]:
    if not folder.exists():
        return set()
    return {str(one.relative_to(folder)) for one in folder.rglob("*") if one.is_file()}


def refused(answer, part: str, root: Path, left: frozenset[str] = frozenset()) -> None:
    """Exit code 1, one sentence, and nothing in the root but what is told."""
    code, _, told = answer
    assert code == 1
    assert part in told
    assert told.count("\n") == 1
    assert tree(root) == left


# --- servers ---


def test_a_good_server(prepared, tmp_path):
    with serving(GOOD, server.whole) as (address, _):
        code, said, told = prepared(f"source={address}")
    assert (code, told) == (0, "")
    assert tree(tmp_path / "coco") == {TRAIN, VALID, RECORD}
    assert (tmp_path / "coco" / TRAIN).read_bytes() == b"{}"
    noted = json.loads((tmp_path / "coco" / RECORD).read_text())["archives"]["annotations"]
    digest = hashlib.sha256(GOOD).hexdigest()
    assert (noted["sha256"], noted["bytes"], noted["files"]) == (digest, len(GOOD), 2)
    assert noted["source"] == f"{address}/{ARCHIVE}"
    assert digest in said
    assert "train2017.zip" in said  # which is missing
    # Nothing is asked for again.
    assert prepared("source=http://127.0.0.1:9")[0] == 0


@pytest.mark.parametrize("first", [server.stalled, server.cut(0.5)])
def test_what_breaks_off_goes_on_where_it_was(prepared, tmp_path, first):
    with serving(GOOD, first, server.resumed) as (address, served):
        code, _, told = prepared(f"source={address}", "silence_seconds=0.3")
    assert (code, told) == (0, "")
    assert tree(tmp_path / "coco") == {TRAIN, VALID, RECORD}
    begin, then = served.asked
    assert begin is None
    assert then == ("bytes=1000-" if first is server.stalled else f"bytes={len(GOOD) // 2}-")


def test_a_server_that_cannot_resume(prepared, tmp_path):
    with serving(GOOD, server.cut(0.5), server.cut(0.9), server.whole) as (address, served):
        assert prepared(f"source={address}")[0] == 0
    assert len(served.asked) == 3
    assert (tmp_path / "coco" / TRAIN).read_bytes() == b"{}"
    shutil.rmtree(tmp_path / "coco")
    with serving(GOOD, server.cut(0.5)) as (address, served):
        code, _, told = prepared(f"source={address}")
    assert code == 1
    assert "the connection" in told
    assert "the same command goes on" in told
    assert tree(tmp_path / "coco") == {f"{ARCHIVE}.part", f"{ARCHIVE}.told"}
    assert len(served.asked) == 3


def test_the_next_call_goes_on(prepared, tmp_path):
    with serving(GOOD, server.cut(0.5), server.code(503)) as (address, served):
        assert prepared(f"source={address}")[0] == 1
        served.answers[:] = [server.resumed]
        served.asked.clear()
        assert prepared(f"source={address}")[0] == 0
        assert served.asked == [f"bytes={len(GOOD) // 2}-"]
    assert tree(tmp_path / "coco") == {TRAIN, VALID, RECORD}


@contextlib.contextmanager
def running(root: Path, address: str, before: str = "") -> Iterator[subprocess.Popen[str]]:
    """The command in a process of its own, after ``before``; killed at the end."""
    code = f"""
import sys, os
from posematch.data.preparing import prepare
{before}
from posematch.app.main import run
run("prepare_data", sys.argv[1:])
"""
    given = ("what=coco", f"root={root}", f"source={address}", "parts=[annotations]")
    process = subprocess.Popen(
        [sys.executable, "-c", code, *given], text=True, stdout=-1, stderr=-1
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def test_killed_in_the_middle_of_a_download(prepared, tmp_path):
    root = tmp_path / "coco"
    part = root / f"{ARCHIVE}.part"
    with serving(GOOD, server.stalled) as (address, served):
        with running(root, address) as process:
            ends = time.monotonic() + 60
            while not (part.exists() and part.stat().st_size):
                assert time.monotonic() < ends
                time.sleep(0.02)
            # One at a time; the killed one's lock is free.
            code, _, told = prepared(f"source={address}")
            assert code == 1
            assert "Another prepare_data works in" in told
            process.kill()
            process.wait()
        served.answers[:] = [server.resumed]
        assert prepared(f"source={address}")[0] == 0
        assert served.asked == [None, "bytes=1000-"]
    assert tree(root) == {TRAIN, VALID, RECORD}


def test_killed_before_what_was_unpacked_is_in_its_place(prepared, tmp_path):
    root = tmp_path / "coco"
    with serving(GOOD, server.whole) as (address, served):
        with running(root, address, "prepare._put = lambda *_: os._exit(9)") as process:
            assert process.wait(60) == 9
        drafts = {one for one in tree(root) if one.startswith(".annotations.")}
        assert len(drafts) > 2
        assert tree(root) - drafts - {".prepare.lock"} == {ARCHIVE, RECORD}
        assert prepared(f"source={address}")[0] == 0
        assert len(served.asked) == 1
    assert tree(root) == {TRAIN, VALID, RECORD}


def test_a_page_instead_of_the_rest_takes_nothing_away(prepared, tmp_path):
    with serving(GOOD, server.cut(0.5), server.page) as (address, served):
        code, _, told = prepared(f"source={address}")
        assert code == 1
        assert "answers with 'text/html'" in told
        assert (tmp_path / "coco" / f"{ARCHIVE}.part").stat().st_size == len(GOOD) // 2
        served.answers[:] = [server.resumed]
        assert prepared(f"source={address}")[0] == 0


def test_an_address_is_kept_without_its_secrets(prepared, tmp_path):
    with serving(GOOD, server.whole) as (address, _):
        secret = address.replace("//", "//me:word@")
        assert prepared(f"source='{secret}/a.zip?signature=1'")[0] == 0
    text = (tmp_path / "coco" / RECORD).read_text()
    assert f'"{address}/a.zip"' in text


def test_a_part_of_another_file_is_not_gone_on_with(prepared, tmp_path):
    with serving(GOOD, server.cut(0.5)) as (address, _):
        assert prepared(f"source={address}")[0] == 1
    with serving(GOOD, server.resumed) as (address, served):
        assert prepared(f"source={address}")[0] == 0
        assert served.asked == [None]


def test_servers_that_send_nothing(prepared, tmp_path):
    root = tmp_path / "coco"
    short = (f"silence_seconds={0.2}", "retries=1")
    with serving(GOOD, server.dripping) as (address, _):
        code, _, told = prepared(f"source={address}", *short)
    assert code == 1
    assert "bytes came in" in told
    assert not root.exists()  # too little came to tell what it is
    with serving(GOOD, server.stalled, lambda *_: _[1].closing.wait(60)) as (address, _):
        code, _, told = prepared(f"source={address}", *short)
    assert code == 1
    assert "fallen silent" in told


@pytest.mark.parametrize(
    ("answers", "part"),
    [
        ([server.told(+1000)], "the connection"),
        ([server.told(-1000)], "is no archive that is read, or damaged"),
        ([server.code(404)], "the server answers 404"),
        ([server.code(503)], "the server answers 503"),
        ([server.circle], "redirects lead in a circle"),
        ([server.page], "is no archive: it answers with 'text/html'"),
    ],
    ids=["longer", "shorter", "404", "503", "circle", "page"],
)
def test_servers_that_mislead(prepared, tmp_path, answers, part):
    with serving(GOOD, *answers) as (address, served):
        answer = prepared(f"source={address}")
    root = tmp_path / "coco"
    if part == "the connection":  # its beginning may be of use
        left = frozenset({f"{ARCHIVE}.part", f"{ARCHIVE}.told"})
    else:
        # What the bad archive was stays known, where it was downloaded whole.
        left = frozenset({RECORD} if "damaged" in part else ())
    refused(answer, part, root, left)
    assert len(served.asked) <= 31  # requests follows 30 redirects


def test_a_server_that_is_busy_for_a_while(prepared, tmp_path):
    with serving(GOOD, server.code(503), server.code(503), server.whole) as (address, _):
        assert prepared(f"source={address}")[0] == 0
    assert tree(tmp_path / "coco") == {TRAIN, VALID, RECORD}


def test_checksums(prepared, tmp_path):
    digest = hashlib.sha256(GOOD).hexdigest()
    with serving(GOOD, server.whole) as (address, _):
        answer = prepared(f"source={address}", f"sha256={'0' * 64}")
        refused(answer, f"has the sha256 {digest}, not 000", tmp_path / "coco")
        assert prepared(f"source={address}", f"sha256={digest.upper()}")[0] == 0
    assert "64 hexadecimal digits" in prepared("sha256=abc")[2]


def test_no_network(prepared, tmp_path):
    with serving(GOOD) as (address, _):
        pass
    refused(prepared(f"source={address}"), "check the network", tmp_path / "coco")


def test_a_full_disk(prepared, tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**9, 10**9, 1000))
    with serving(GOOD, server.whole) as (address, _):
        refused(prepared(f"source={address}"), "MiB free; free some space", tmp_path / "coco")
    # Room for the archive, and none for what is in it: the archive stays.
    room = iter([10**9])
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**9, 0, next(room, 1000)))
    with serving(GOOD, server.whole) as (address, served):
        left = frozenset({ARCHIVE, RECORD})
        refused(prepared(f"source={address}"), "Unpacking", tmp_path / "coco", left)
        monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**9, 0, 10**9))
        assert prepared(f"source={address}")[0] == 0
        assert len(served.asked) == 1
    assert tree(tmp_path / "coco") == {TRAIN, VALID, RECORD}  # it was ours to remove


# --- archives ---


def link(name: str, to: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    return info


def special(kind: bytes, name: str = "images/a.jpg", to: str = "/etc/passwd") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, to
    return info


def lying(claimed: int) -> bytes:
    """A zip whose metadata tell another size than what is packed."""
    content = bytearray(zipped((TRAIN, b"0" * 5000)))
    size = (5000).to_bytes(4, "little")
    while (place := content.find(size)) >= 0:
        content[place : place + 4] = claimed.to_bytes(4, "little")
    return bytes(content)


@pytest.mark.parametrize(
    ("archive", "part"),
    [
        (zipped(("../evil.json", b"x"), (TRAIN, b"{}"), (VALID, b"{}")), "outside of its folder"),
        (zipped(("/tmp/evil.json", b"x"), (TRAIN, b"{}")), "outside of its folder"),
        (zipped(("a\\..\\..\\evil", b"x"), (TRAIN, b"{}")), "outside of its folder"),
        (zipped(("C:/evil", b"x"), (TRAIN, b"{}")), "outside of its folder"),
        (zipped((link(TRAIN, "x"), b"/etc/passwd"), (VALID, b"{}")), "is a link"),
        (zipped((TRAIN, b"{}"), (f"x/{TRAIN}", b"{}"), (VALID, b"{}")), "twice"),
        (zipped((TRAIN, b"{}")), "has nothing for annotations/person_keypoints_val2017.json"),
        (zipped((TRAIN, bytes(32 * 2**20)), (VALID, b"{}")), "more than 50 times its own size"),
        (lying(10), "damaged"),
        (lying(10**5), "damaged"),
        (GOOD[: len(GOOD) // 2], "damaged"),
        (tarred(("../evil.json", b"x")), "outside of its folder"),
        (tarred(("/tmp/evil.json", b"x")), "outside of its folder"),
        (tarred((special(tarfile.SYMTYPE), b"")), "is a link"),
        (tarred((special(tarfile.LNKTYPE), b"")), "is a link"),
        (tarred((special(tarfile.FIFOTYPE), b"")), "is a link or no ordinary file"),
        (tarred((TRAIN, bytes(32 * 2**20)), (VALID, b"{}")), "more than 50 times its own size"),
        (tarred((TRAIN, NOISE), (VALID, NOISE))[:20_000], "damaged"),
        (tarred((TRAIN, NOISE), (VALID, NOISE), packed=False)[:30_000], "damaged"),
        (gzip.compress(b"no tar" * 1000, mtime=0), "damaged"),
    ],
)  # fmt: skip
def test_bad_archives(prepared, tmp_path, archive, part):
    file = tmp_path / ARCHIVE
    file.write_bytes(archive)
    root = tmp_path / "coco"
    refused(prepared(f"source={file}"), part, root, frozenset({RECORD}))
    assert file.read_bytes() == archive  # the user's own
    assert {one.name for one in tmp_path.iterdir()} == {"coco", ARCHIVE}


def test_a_tar_whose_header_claims_gigabytes(prepared, tmp_path):
    info = tarfile.TarInfo("x")
    info.type, info.size = tarfile.XHDTYPE, 2**32
    (tmp_path / ARCHIVE).write_bytes(gzip.compress(info.tobuf() + bytes(2**16)))
    answer = prepared(f"source={tmp_path / ARCHIVE}")
    refused(answer, "a header in it claims", tmp_path / "coco", frozenset({RECORD}))


def test_sources(prepared, tmp_path):
    root = tmp_path / "coco"
    (tmp_path / "given").mkdir()
    refused(prepared(f"source={tmp_path}/nowhere"), "does not exist", root)
    refused(prepared(f"source={tmp_path}/given"), "is looked for; put it there", root)
    (tmp_path / "mine.zip").write_bytes(GOOD)
    refused(prepared(f"source={tmp_path}/mine.zip", parts=None), "say which one", root)
    refused(prepared("parts=[x]"), "parts=x must be of annotations", root)
    (tmp_path / "given" / ARCHIVE).write_bytes(GOOD)
    assert prepared(f"source={tmp_path}/given", parts=None)[0] == 1  # photos are not there
    assert tree(root) == {TRAIN, VALID, RECORD}
    shutil.rmtree(root)
    assert prepared(f"source={tmp_path}/given/{ARCHIVE}", parts=None)[0] == 0
    (tmp_path / "coco" / RECORD).write_text('{"what": "mpii"}')
    assert "has been prepared for mpii" in prepared()[2]


def test_a_dry_run_changes_nothing(prepared, tmp_path):
    code, said, _ = prepared("dry_run=true")
    assert (code, tree(tmp_path), (tmp_path / "coco").exists()) == (0, set(), False)
    assert said.count("missing") == 4


def test_photos_that_are_missing_are_counted(prepared, tmp_path):
    root = tmp_path / "coco"
    (root / "val2017").mkdir(parents=True)
    (root / "val2017" / "a.jpg").write_bytes(b"")
    (root / "annotations").mkdir()
    listed = {"images": [{"file_name": "a.jpg"}, {"file_name": "b.jpg"}]}
    (root / VALID).write_text(json.dumps(listed))
    said = prepared("dry_run=true")[1]
    assert "1 of 2 listed photos are missing, the first is b.jpg" in said


# --- MPII's release ---


def struct(**fields) -> np.ndarray:
    """A struct array of one element, as MATLAB has it."""
    array = np.zeros((1, 1), dtype=[(name, object) for name in fields])
    for name, value in fields.items():
        array[name][0, 0] = value
    return array


def together(*structs: np.ndarray) -> np.ndarray:
    """(1, n) of structs with the same fields."""
    return np.concatenate(structs, axis=1)


def point(k: int, x: float, y: float, visible=1) -> np.ndarray:
    return struct(x=x, y=y, id=k, is_visible=visible)


EMPTY = np.zeros((0, 0))


def person(points, x=EMPTY, y=EMPTY, scale=EMPTY) -> np.ndarray:
    where = struct(x=x, y=y) if np.size(x) else EMPTY
    joints = struct(point=together(*points)) if points else EMPTY
    return struct(x1=1.0, annopoints=joints, objpos=where, scale=scale)


def release(folder: Path) -> Path:
    """Five photos: two people, one and one without joints, a test photo, nobody, nobody placed."""
    two = together(
        person([point(9, 30.25, 11), point(0, 20, 90, "0"), point(15, 7, 8, EMPTY)], 25, 50, 1.5),
        person([point(6, 70.5, 60)], 71, 61, 0.25),
    )
    one = together(person([point(2, 5, 6)], 5, 7, 2.0), person([], 9, 9, 1.0))
    test = struct(objpos=struct(x=3.0, y=4.0), scale=1.0)
    unplaced = person([point(3, 1, 1)])
    photos = ["a.jpg", "b.jpg", "c.jpg", "d.jpg", "e.jpg"]
    rectangles = [two, one, test, EMPTY, unplaced]
    annolist = together(
        *(
            struct(image=struct(name=name), annorect=of, frame_sec=1.0, vididx=1.0)
            for name, of in zip(photos, rectangles, strict=True)
        )
    )
    single = np.empty((5, 1), dtype=object)
    single[:, 0] = [np.array([[1.0], [2.0]]), 1.0, EMPTY, EMPTY, 1.0]
    act = together(*(struct(act_name="x", cat_name="y", act_id=1) for _ in photos)).T
    content = struct(
        annolist=annolist,
        img_train=np.array([[1, 1, 0, 1, 1]], dtype=np.uint8),
        version="12",
        single_person=single,
        act=act,
    )
    file = folder / "mpii_human_pose_v1_u12_1.mat"
    scipy.io.savemat(file, {"RELEASE": content}, do_compression=True)
    return file


def test_mpii_s_release_number_by_number(tmp_path):
    people = read_release(release(tmp_path))
    assert people.told() == (
        "3 people in 2 photos, 3 of them alone"
        " (left out: 1 without labelled joints, 1 without place or size)"
    )
    first, second, third = people.rows
    assert set(first) == {"joints_vis", "joints", "image", "scale", "center"}
    assert (first["image"], first["center"], first["scale"]) == ("a.jpg", [25, 50], 1.5)
    assert [k for k, labelled in enumerate(first["joints_vis"]) if labelled] == [0, 9, 15]
    assert first["joints"][9] == [30.25, 11]
    assert first["joints"][0] == [20, 90]  # occluded, and labelled
    assert first["joints"][1] == [-1, -1]
    assert (second["image"], second["scale"], second["joints"][6]) == ("a.jpg", 0.25, [70.5, 60])
    assert (third["image"], third["joints"][2], sum(third["joints_vis"])) == ("b.jpg", [5, 6], 1)
    without = read_release(release(tmp_path), {"a.jpg"})
    assert [row["image"] for row in without.rows] == ["b.jpg"]
    assert without.left_out["in photos of valid.json"] == 2


def mpii_archives(folder: Path) -> None:
    folder.mkdir()
    mat_file = release(folder)
    inside = f"mpii_human_pose_v1_u12_2/{mat_file.name}"
    content = zipped((inside, mat_file.read_bytes()), ("mpii_human_pose_v1_u12_2/README.md", b"x"))
    (folder / "mpii_human_pose_v1_u12_2.zip").write_bytes(content)
    mat_file.unlink()
    photo = cv2.imencode(".jpg", np.zeros((100, 80, 3), dtype=np.uint8))[1].tobytes()
    photos = [(f"images/{name}.jpg", photo) for name in "abcde"]
    (folder / "mpii_human_pose_v1.tar.gz").write_bytes(tarred(*photos))


def test_mpii(prepared, tmp_path):
    mpii_archives(tmp_path / "given")
    root = tmp_path / "mpii"
    arguments = f"source={tmp_path / 'given'}"
    code, said, _ = prepared(arguments, what="mpii", parts=None)
    assert code == 0
    assert "HRNet's data preparation" in said
    photos = {f"images/{name}.jpg" for name in "abcde"}
    mat_file = "annot/mpii_human_pose_v1_u12_1.mat"
    assert tree(root) == {RECORD, "annot/train.json", mat_file, *photos}
    people = read_mpii(root, "train", (64, 64)).people
    # The reader's frame counts from 0.
    assert people[0].joints_img[9].tolist() == [29.25, 10]
    assert [int(one.visible.sum()) for one in people] == [3, 1, 1]
    # Who brings HRNet's split gets a train.json without its photos.
    rows = json.loads((root / "annot" / "train.json").read_text())
    valid = json.dumps(rows[:1])
    (root / "annot" / "valid.json").write_text(valid)
    assert "made anew" in prepared(arguments, what="mpii", parts=None)[1]
    rows = json.loads((root / "annot" / "train.json").read_text())
    assert [row["image"] for row in rows] == ["b.jpg"]
    assert (root / "annot" / "valid.json").read_text() == valid
    # And a train.json of somebody else stays.
    (root / "annot" / "train.json").write_text("[]")
    (root / "annot" / "valid.json").write_text("[]")
    assert prepared(arguments, what="mpii", parts=None)[0] == 0
    assert (root / "annot" / "train.json").read_text() == "[]"


def test_another_mat_file(prepared, tmp_path):
    root = tmp_path / "mpii" / "annot"
    root.mkdir(parents=True)
    scipy.io.savemat(root / "mpii_human_pose_v1_u12_1.mat", {"joints": np.zeros((3, 3))})
    code, _, told = prepared(what="mpii", parts="[annotations]")
    assert code == 1
    assert "cannot be read as a MATLAB file" in told
    assert tree(root) == {"mpii_human_pose_v1_u12_1.mat"}


# --- LSP-Extended ---


def lspet_joints(people: int) -> np.ndarray:
    """(14, 3, N); person n has joints at (10 n + k, k), every other one labelled."""
    joints = np.zeros((14, 3, people))
    joints[:, 0] = np.arange(14)[:, None] + 10 * np.arange(people)
    joints[:, 1] = np.arange(14)[:, None]
    joints[::2, 2] = 1
    joints[1::2, :2] = -77  # of joints that are not labelled there is no saying what is there
    return joints


def test_lspet(prepared, tmp_path):
    joints = lspet_joints(3)
    joints[:, 2, 1] = 0
    scipy.io.savemat(tmp_path / "joints.mat", {"joints": joints})
    sizes = [(60, 40), (50, 40), (64, 32)]
    photos = [
        (
            f"images/im{number:05}.png",
            cv2.imencode(".png", np.zeros((height, width, 3), dtype=np.uint8))[1].tobytes(),
        )
        for number, (width, height) in enumerate(sizes, 1)
    ]
    content = zipped(*photos, ("joints.mat", (tmp_path / "joints.mat").read_bytes()))
    (tmp_path / "lspet_dataset.zip").write_bytes(content)
    source = f"source={tmp_path / 'lspet_dataset.zip'}"
    code, said, _ = prepared(source, what="lspet", parts=None)
    assert code == 0
    assert "train.json: 2 people in as many photos (left out: 1 without labelled joints)" in said
    train = json.loads((tmp_path / "lspet" / "train.json").read_text())
    assert train["images"] == [
        {"id": 1, "file_name": "im00001.png", "width": 60, "height": 40},
        {"id": 3, "file_name": "im00003.png", "width": 64, "height": 32},
    ]
    one = train["annotations"][1]
    assert (one["id"], one["image_id"], one["num_keypoints"]) == (3, 3, 7)
    assert one["bbox"] == [20, 0, 12, 12]
    assert one["area"] == 144
    assert one["keypoints"][:9] == [20, 0, 2, 0, 0, 0, 22, 2, 2]
    assert len(one["keypoints"]) == 42
    assert json.loads((tmp_path / "lspet" / "valid.json").read_text())["annotations"] == []


def test_lspets_layouts_and_names(tmp_path, monkeypatch):
    photo = tmp_path / "im00002.png"
    cv2.imwrite(str(photo), np.zeros((40, 60, 3), dtype=np.uint8))
    file = tmp_path / "joints.mat"
    joints = lspet_joints(5)

    def holds(array: np.ndarray) -> None:
        monkeypatch.setattr(lspet, "read_variables", lambda *_: {"joints": array})

    for array in (joints, joints.transpose(1, 0, 2)):
        holds(array)
        (one,) = lspet.convert(file, [photo])["train"].content["annotations"]
        assert (one["id"], one["bbox"]) == (2, [10, 0, 12, 12])
    # The high-resolution version has gaps in its numbers, and as many people as photos.
    holds(joints[..., 4:])
    (one,) = lspet.convert(file, [photo])["train"].content["annotations"]
    assert (one["id"], one["bbox"]) == (1, [40, 0, 12, 12])
    holds(joints[..., :1])
    photos = [photo, photo.with_name("im00003.png")]
    for wrong, told in ((photos, "do not tell who is who"), ([tmp_path / "a.png"], "no number")):
        with pytest.raises(PosematchError, match=told):
            lspet.convert(file, wrong)
    holds(joints[:, 0])
    with pytest.raises(PosematchError, match="not numbers"):
        lspet.convert(file, [photo])


def test_a_fixed_tenth_of_lspet_is_validated_on():
    chosen = [number for number in range(1, 10_001) if lspet.is_valid(number)]
    assert len(chosen) == 1000
    assert chosen[:20] == list(range(181, 201))
