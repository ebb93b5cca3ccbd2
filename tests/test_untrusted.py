"""Files that claim, wait or point elsewhere: a sentence, little memory, nothing followed."""

from __future__ import annotations

import contextlib
import io
import os
import struct
import zipfile
import zlib
from pathlib import Path

import cv2
import h5py
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from posematch.console import printable, say
from posematch.data.crops import read_photo
from posematch.data.matlab import read_variables
from posematch.data.pictures import picture_size
from posematch.data.predictions import read_mpii_predictions
from posematch.errors import PosematchError
from posematch.runs.parquet_footer import compressions
from posematch.runs.predictions import PredictionTable
from posematch.untrusted import depth_of, open_file, own_file, read_arrays, read_bytes, read_yaml


def refused(words, read, *arguments):
    with pytest.raises(PosematchError, match=words) as caught:
        read(*arguments)
    assert "\n" not in str(caught.value)


def test_pipes_folders_and_links_are_no_files(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    refused("no ordinary file", open_file, tmp_path / "pipe")
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(3):
        refused("is a folder", read_bytes, tmp_path)
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    run = tmp_path / "run"
    run.mkdir()
    (tmp_path / "secret").write_text("x")
    (run / "a").symlink_to(tmp_path / "secret")
    (run / "b").symlink_to(run / "c")
    (run / "loop").symlink_to(run / "loop")
    (run / "c").write_text("x")
    refused("leads out of", own_file, run, run / "a")
    refused("leads out of", own_file, run, run / "loop")
    assert own_file(run, run / "b") == run / "b"
    (tmp_path / "by_link").symlink_to(run)
    own_file(tmp_path / "by_link", tmp_path / "by_link" / "c")


def test_aliases_of_yaml(tmp_path):
    file = tmp_path / "x.yaml"
    rows = ["a0: &a0 [x, x]", *(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, 60))]
    file.write_text("\n".join(rows))
    refused("line 2, has an alias", read_yaml, file)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: [" + 5000 * "1:" + "1]", "a whole number that is larger than any"),
        (f"1{400 * '0'}: b", "a whole number that is larger than any"),
        ("a: '" + 99 * "${" + "b" + 99 * "}" + "'", "nested more than 50 levels deep"),
    ],
)
def test_values_of_yaml_that_break_their_readers(tmp_path, text, words):
    file = tmp_path / "x.yaml"
    file.write_text(text)
    refused(words, read_yaml, file)
    file.write_text("a: ['${b}', 12345678901234567890, '[[[']")
    assert read_yaml(file) == {"a": ["${b}", 12345678901234567890, "[[["]}


def test_depth_of_a_text():
    assert [depth_of(one) for one in ("", "a", "[{}(a)]", "]]]", "[[[", "${a.${b}}")] == [
        *(0, 0, 2, 0, 3, 2),
    ]


def png_header(width, height):
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + b"IHDR" + header
    return b"\x89PNG\r\n\x1a\n" + chunk + struct.pack(">I", zlib.crc32(b"IHDR" + header))


PICTURES = {
    ".jpg": {},
    ".png": {},
    ".bmp": {},
    ".tiff": {},
    ".webp": {},
}


@pytest.mark.parametrize("suffix", PICTURES)
@pytest.mark.parametrize("channels", [1, 3])
def test_pictures_are_read_as_opencv_reads_them(tmp_path, suffix, channels):
    pixels = np.random.default_rng(0).integers(0, 256, (48, 64, channels), np.uint8)
    file = tmp_path / f"x{suffix}"
    assert cv2.imwrite(str(file), pixels)
    assert picture_size(file.read_bytes()) == (64, 48)
    np.testing.assert_array_equal(read_photo(file), cv2.imread(str(file), cv2.IMREAD_COLOR))


def test_sixteen_bits_cmyk_and_exif_are_read_as_before(tmp_path):
    from PIL import Image

    deep = np.random.default_rng(0).integers(0, 2**16, (20, 30, 3), np.uint16)
    cv2.imwrite(str(tmp_path / "deep.png"), deep)
    picture = Image.fromarray(deep.astype(np.uint8))
    picture.convert("CMYK").save(tmp_path / "cmyk.jpg")
    exif = Image.Exif()
    exif[0x0112] = 6  # lying on its side
    picture.save(tmp_path / "exif.jpg", exif=exif)
    how = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    for name in ("deep.png", "cmyk.jpg", "exif.jpg"):
        photo = read_photo(tmp_path / name)
        assert photo.shape == (20, 30, 3)
        np.testing.assert_array_equal(photo, cv2.imread(str(tmp_path / name), how))


def test_pictures_that_claim_too_much(tmp_path):
    file = tmp_path / "x.png"
    file.write_bytes(png_header(40_000, 40_000))
    refused(r"40000 x 40000 pixels, more than the 100 million", read_photo, file)
    # A JPEG whose frame says so, behind a comment and filling.
    frame = b"\xff\xc0" + struct.pack(">HBHH", 17, 8, 65_000, 65_000) + bytes(12)
    file.write_bytes(b"\xff\xd8\xff\xfe\x00\x06abcd\xff\xff" + frame[1:])
    refused("65000 x 65000 pixels", read_photo, file)
    for content in (b"", b"\xff\xd8\xff", b"\xff\xd8\xff\xda", png_header(3, 3), b"GIF89a", b"BM"):
        file.write_bytes(content)
        refused("is not a readable image", read_photo, file)


def test_a_chunk_that_claims_gigabytes_is_not_believed(tmp_path):
    """OpenCV would take the memory first, and then see that the file has a kilobyte."""
    content = bytes(cv2.imencode(".png", np.zeros((8, 8, 3), np.uint8))[1])
    place = content.index(b"IDAT")
    (tmp_path / "a.png").write_bytes(content[: place - 4] + b"\x7f\xff\xff\xf0" + content[place:])
    refused("is not a readable image", read_photo, tmp_path / "a.png")
    assert picture_size((tmp_path / "a.png").read_bytes()) is None
    assert picture_size(content) == (8, 8)


def test_arrays_that_claim_too_much(tmp_path):
    file = tmp_path / "x.npz"

    def write(header: str, content: bytes = b""):
        text = header.encode().ljust(117) + b"\n"
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            member = b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + content
            archive.writestr("a.npy", member)

    for kind, shape in (("|u1", (2**40,)), ("|O", (1,)), ("<f8", (-1,)), ("<U9999999", (99,))):
        write(f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}}}")
        refused("not read of such a file|cannot be read as npz", read_arrays, file, ["a"])
    write("{'descr': '|u1', 'fortran_order': False, 'shape': (9,)}", b"12")
    refused("cannot be read as npz", read_arrays, file, ["a"])
    refused("cannot be read as npz", read_arrays, file, ["b"])
    values = np.asfortranarray(np.arange(6.0).reshape(2, 3))
    np.savez_compressed(file, a=values, b=np.array(["x", "yz"]))
    found = read_arrays(file, ["a", "b"])
    np.testing.assert_array_equal(found[0], values)
    assert found[1].tolist() == ["x", "yz"]


def test_a_packed_mat_file_that_grows(tmp_path):
    file = tmp_path / "x.mat"
    packed = zlib.compress(bytes(200 * 2**20), 9)
    tag = (15).to_bytes(4, "little") + len(packed).to_bytes(4, "little")
    file.write_bytes(b"MATLAB 5.0".ljust(124) + b"\x00\x01IM" + tag + packed)
    refused("unpacks to more than 128 MiB", read_variables, file, ("preds",))
    file.write_bytes(bytes(10**6))
    refused("cannot be read as a MATLAB file", read_variables, file, ("preds",))


def test_hdf5_in_pieces_larger_than_itself(tmp_path):
    file = tmp_path / "x.h5"
    with h5py.File(file, "w") as content:
        content.create_dataset(
            "preds", (5, 16, 2), "f8", maxshape=(None, 16, 2), chunks=(2**21, 16, 2),
            compression="gzip",
        )  # fmt: skip
    refused("stored in pieces", read_mpii_predictions, file, 5)


def parquet(file, rows=10, compression="snappy", **columns):
    table = {name: np.zeros(rows) for name in ("x", "y", "score", "true_x", "true_y", "visible")}
    table |= {name: np.zeros(rows, np.int64) for name in ("person_id", "image_id")}
    joint = pa.DictionaryArray.from_arrays(np.zeros(rows, np.int32), ["head"])
    pq.write_table(pa.table(table | {"joint": joint} | columns), file, compression=compression)


def test_tables_of_millions_of_rows(tmp_path):
    file = tmp_path / "x.parquet"
    parquet(file, 10**7)
    assert file.stat().st_size < 2**20
    refused("10000000 rows, more than", PredictionTable.read, file)
    parquet(file, compression="zstd")
    refused("compressed by ZSTD", PredictionTable.read, file)
    parquet(file, image=pa.array(["x" * 2000] * 10))
    refused("texts of 2000 bytes", PredictionTable.read, file)
    rows = 10**6
    long = pa.DictionaryArray.from_arrays(np.zeros(rows, np.int32), ["x" * 1000])
    parquet(file, rows, image=long)
    refused("MiB of texts", PredictionTable.read, file)
    parquet(file, x=pa.array([[1.0]] * 10))
    refused("no plain column", PredictionTable.read, file)


@pytest.mark.parametrize("codec", ["none", "snappy", "gzip", "zstd", "lz4"])
def test_a_footer_says_what_pyarrow_says(tmp_path, codec):
    file = tmp_path / "x.parquet"
    pq.write_table(
        pa.table({"a": [1, 2], "b": [["x"], []]}), file, row_group_size=1, compression=codec
    )
    footer, length = file.read_bytes()[:-8], int.from_bytes(file.read_bytes()[-8:-4], "little")
    metadata = pq.read_metadata(file)
    assert list(compressions(footer[-length:])) == [
        (one.path_in_schema, one.compression.replace("LZ4", "LZ4_RAW"))
        for one in (metadata.row_group(g).column(c) for g in range(2) for c in range(2))
    ]


def test_a_damaged_footer_ends_in_a_sentence(tmp_path):
    """pyarrow's accessor of a column's record would end the process instead."""
    file = tmp_path / "x.parquet"
    parquet(file)
    content = file.read_bytes()
    begin = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    for place in range(begin, len(content) - 8, 7):
        changed = bytearray(content)
        changed[place] ^= 1 << place % 8
        with contextlib.suppress(ValueError, LookupError):
            assert all(isinstance(one, str) for one in dict(compressions(changed[begin:-8])))
        file.write_bytes(changed)
        with contextlib.suppress(PosematchError):
            PredictionTable.read(file)
    file.write_bytes(content[: begin // 2] + content[-8:])
    refused("cannot be read as parquet", PredictionTable.read, file)
    file.write_bytes((2**19).to_bytes(4, "little") + b"PAR1")  # a footer longer than the file
    refused("cannot be read as parquet", PredictionTable.read, file)


def test_texts_that_are_none(tmp_path):
    """pyarrow reads them without a look, and fails where one is asked for."""
    file = tmp_path / "x.parquet"
    parquet(file, image=pa.array(["photo"] * 10))
    content = file.read_bytes()
    assert b"photo" in content
    file.write_bytes(content.replace(b"photo", b"ph\xffto"))
    refused("cannot be read as parquet", PredictionTable.read, file)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"person_id": np.nan}, "person_id .* not whole numbers"),
        ({"image_id": 0.5}, "image_id .* not whole numbers"),
        ({"visible": 7.0}, "besides 0 and 1"),
        ({"true_x": np.nan}, "labelled joint without its truth"),
        ({"head_size_img": -1.0}, "labelled joint without its truth"),
        ({"joint": None}, "joint"),
        ({"joint": 3}, "not texts"),
        ({"head_size_img": [1.0, 2.0]}, "differs between the joints of one person"),
    ],
)
def test_tables_with_odd_values(tmp_path, change, words):
    table = pd.DataFrame(
        {"person_id": 1, "image_id": 1, "joint": ["a", "b"], "x": 0.0, "y": 0.0, "score": 1.0,
         "true_x": 0.0, "true_y": 0.0, "visible": 1.0}
    )  # fmt: skip
    table.to_parquet(tmp_path / "x.parquet")
    assert PredictionTable.read(tmp_path / "x.parquet").labelled.shape == (1, 2)
    table.assign(**change).to_parquet(tmp_path / "x.parquet")
    refused(words, PredictionTable.read, tmp_path / "x.parquet")


def test_what_a_terminal_gets(capsys):
    say("a [bold]path[/bold] \x1b]0;title\x07 and \u202eturned")
    printed = capsys.readouterr().out
    assert "[bold]path[/bold]" in printed
    assert printable(printed) == printed
    assert io.StringIO(printed).read().count("\\x1b") == 1
