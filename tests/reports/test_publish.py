"""A run as a folder to pass on: the same model, by path, name and address; and strangers'."""

from __future__ import annotations

import functools
import hashlib
import http.server
import json
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import posematch
from posematch.app.verbs.publish import run
from posematch.data.preparing import fetching
from posematch.errors import PosematchError
from posematch.published import CONFIG, MODELS, WEIGHTS, packaged_models

REPOSITORY = Path(__file__).resolve().parents[2]
RUN = REPOSITORY / "tests/golden/runs/gaussian_mse-0"
PHOTO = REPOSITORY / "docs/images/synthetic.jpg"
BOXES = [[10, 20, 90, 100], [200, 20, 90, 100]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The published run, in float32."""
    place = tmp_path_factory.mktemp("published") / "model"
    run([f"run={RUN}", f"output={place}", "name=Small", "licence=mit"])
    return place


@pytest.fixture
def copied(folder, tmp_path):
    return Path(shutil.copytree(folder, tmp_path / "copied"))


def test_the_folder_is_the_runs_model(folder):
    wanted, found = (posematch.load(one).predict(PHOTO, BOXES) for one in (RUN, folder))
    np.testing.assert_array_equal(found.joints_img, wanted.joints_img)
    np.testing.assert_array_equal(found.scores, wanted.scores)
    weights = load_file(folder / WEIGHTS)
    of_run = posematch.load(RUN).network.state_dict()
    assert set(weights) == set(of_run)
    assert all(torch.equal(weights[name], of_run[name]) for name in of_run)


def test_halves_are_half_as_large_and_nearly_the_same(folder, tmp_path):
    run([f"run={RUN}", f"output={tmp_path / 'half'}", "half=true"])
    sizes = [(one / WEIGHTS).stat().st_size for one in (tmp_path / "half", folder)]
    assert sizes[0] < 0.6 * sizes[1]
    crops = torch.randint(0, 256, (4, 3, 64, 64), generator=torch.Generator().manual_seed(0))
    half, whole = (
        posematch.load(one).estimate(crops.byte()).maps for one in (tmp_path / "half", folder)
    )
    # float16 keeps 11 bits of a weight; some twenty layers add up their roundings.
    assert (half - whole).abs().max() < 20 * 2**-11 * whole.abs().max()


def test_the_card_says_what_it_is_and_no_path(folder):
    card, config = (folder / "README.md").read_text(), json.loads((folder / CONFIG).read_text())
    for part in ("# Small", "license: mit", "gaussian_mse", "PCKh@0.5", "37 people on 24 photos"):
        assert part in card
    assert str(REPOSITORY) not in card + json.dumps(config)
    assert config["epochs"] == 4
    assert "| epochs | 4 |" in card
    value, low, high = config["figures"]["PCKh@0.5"]
    stored = json.loads((RUN / "result.json").read_text())["figures"]["last"]["PCKh@0.5"]
    assert low < value < high
    assert value == pytest.approx(stored)


def test_evaluate_takes_it(folder, tmp_path):
    """Figures of the folder's model, scored on data drawn here, are those of the run's."""
    data = ["data=synthetic", f"data.root={tmp_path}", "data.spec.valid_photos=6",
            "data.spec.train_photos=2", "data.workers=0"]  # fmt: skip
    found, wanted = (
        posematch.evaluate(one, overrides=[*data, "data.input_size=[64,64]"])
        for one in (folder, RUN / "checkpoints" / "last.ckpt")
    )
    assert found is not None
    assert wanted is not None
    assert found.parts[0].table.joints_img.tolist() == wanted.parts[0].table.joints_img.tolist()


def test_an_output_with_something_in_it_is_left(folder, tmp_path, capsys):
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(SystemExit):
        run([f"run={RUN}", f"output={tmp_path}"])
    assert "is not empty" in capsys.readouterr().err
    assert [one.name for one in tmp_path.iterdir()] == ["thesis.tex"]


def test_weights_of_another_file_are_refused(copied):
    weights = load_file(copied / WEIGHTS)
    weights[next(iter(weights))] += 1
    save_file(weights, copied / WEIGHTS)
    with pytest.raises(PosematchError, match="vouches for"):
        posematch.load(copied)


def _changed(copied: Path, change) -> None:
    config = json.loads((copied / CONFIG).read_text())
    change(config)
    (copied / CONFIG).write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (lambda it: it["model"]["backbone"].update(_target_="os.system"), "os.system"),
        (lambda it: it["model"]["decoder"].update(_target_="builtins.eval"), "builtins.eval"),
        (lambda it: it["model"].update(input_size=[10**6, 64]), "input_size"),
        (lambda it: it["model"].pop("skeleton"), "skeleton"),
        (lambda it: it["model"].update(schema_version=99), "later version"),
        (lambda it: it["model"]["decoder"].update(radius_px=10**9), "radius_px"),
        (lambda it: it.pop("weights"), "is damaged"),
        (lambda it: it.update(format="something"), "no model of posematch"),
    ],
)
def test_a_strangers_config(copied, change, part):
    _changed(copied, change)
    with pytest.raises(PosematchError) as error:
        posematch.load(copied)
    assert part in str(error.value)


@pytest.mark.parametrize(
    "content",
    [b"", b"\xff" * 8, b"\xff\xff\xff\x00\x00\x00\x00\x00{", b"\x02\0\0\0\0\0\0\0{}", b"x" * 100],
)
def test_a_damaged_safetensors_file(copied, content):
    (copied / WEIGHTS).write_bytes(content)
    with pytest.raises(PosematchError):
        posematch.load(copied)


def test_a_safetensors_file_that_claims_more_than_it_has(copied):
    header = json.dumps({"x": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}})
    content = len(header).to_bytes(8, "little") + header.encode()
    (copied / "other.safetensors").write_bytes(content)
    with pytest.raises(PosematchError, match="cannot be read as safetensors"):
        posematch.load(copied / "other.safetensors")


@pytest.fixture
def server(copied):
    """The folder on a local server, and what was asked of it."""
    asked: list[str] = []

    class Server(http.server.ThreadingHTTPServer):
        def handle_error(self, *_: object) -> None:
            """Who asks may hang up early."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            asked.append(self.path)

    handler = functools.partial(Handler, directory=copied)
    with Server(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}", asked
        running.shutdown()


def test_an_address_with_its_checksum(server, copied, tmp_path, monkeypatch):
    address, asked = server
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(fetching.Patience, "__init__", _impatient)
    sha256 = hashlib.sha256((copied / CONFIG).read_bytes()).hexdigest()
    with pytest.raises(PosematchError, match="needs the sha256"):
        posematch.load(address)
    with pytest.raises(PosematchError, match="64 digits"):
        posematch.load(f"{address}#sha256=abc")
    with pytest.raises(PosematchError, match="as demanded"):
        posematch.load(f"{address}#sha256={'0' * 64}")
    model = posematch.load(f"{address}/#sha256={sha256}")
    assert model.skeleton.name == "mpii"
    before = len(asked)
    posematch.load(f"{address}#sha256={sha256.upper()}")
    assert len(asked) == before  # from the cache
    (file,) = (tmp_path / "cache").rglob(WEIGHTS)
    file.write_bytes(b"damaged")
    posematch.load(f"{address}#sha256={sha256}")
    assert len(asked) == before + 1  # fetched again


def test_an_address_whose_weights_are_others(server, copied, tmp_path, monkeypatch):
    address, _ = server
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    sha256 = hashlib.sha256((copied / CONFIG).read_bytes()).hexdigest()
    (copied / WEIGHTS).write_bytes(b"evil")
    with pytest.raises(PosematchError, match="as demanded"):
        posematch.load(f"{address}#sha256={sha256}")
    assert not list((tmp_path / "cache").rglob(WEIGHTS))
    with pytest.raises(PosematchError, match="404"):
        posematch.load(f"{address}/elsewhere#sha256={sha256}")


def _impatient(self, silence_seconds=5.0, retries=0, wait_seconds=0.01):
    for name, value in (("silence_seconds", silence_seconds), ("retries", retries),
                        ("wait_seconds", wait_seconds)):  # fmt: skip
        object.__setattr__(self, name, value)


def test_the_models_that_come_along():
    assert packaged_models() == ["drawn_people"]
    for name in packaged_models():
        assert (MODELS / name / WEIGHTS).stat().st_size < 3e6
        model = posematch.load(name)
        assert len(model.predict(PHOTO, BOXES)) == 2


def test_an_address_that_answers_with_too_much(server, copied, tmp_path, monkeypatch):
    address, _ = server
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (copied / CONFIG).write_bytes(b" " * (5 * 2**20))
    with pytest.raises(PosematchError, match="more than the 4 MiB"):
        posematch.load(f"{address}#sha256={'0' * 64}")
    assert not list((tmp_path / "cache").rglob("*.part"))


def test_a_misspelt_name_and_a_folder_in_the_way(tmp_path, monkeypatch):
    with pytest.raises(PosematchError, match="the nearest is drawn_people"):
        posematch.load("drawn_peple")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "drawn_people" / "drawn").mkdir(parents=True)  # an output
    assert posematch.load("drawn_people").skeleton.name == "mpii"


def test_figures_of_other_weights_are_not_told(tmp_path, capsys):
    own = Path(shutil.copytree(RUN, tmp_path / "run"))
    result = json.loads((own / "result.json").read_text())
    (own / "result.json").write_text(json.dumps(result | {"step": result["step"] + 1}))
    with pytest.raises(SystemExit):
        run([f"run={own}", f"output={tmp_path / 'out'}"])
    assert "its figures are of other weights" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
