"""benchmarks/gpu.py on the CPU in tiny sizes: every piece's way, not its figures."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).resolve().parents[1] / "benchmarks"))

import gpu
from gpu_pieces import fused, records, shared, tables

SCRIPT = Path(gpu.__file__)


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """Folder after the quick pieces, and the command's exit code."""
    out = tmp_path_factory.mktemp("gpu")
    code = gpu.main([*small(out), "--pieces", "correctness,losses"])
    return out, code


def small(out):
    return ["--device", "cpu", "--small", "--out", str(out)]


def small_bench(folder):
    return shared.Bench(torch.device("cpu"), True, float("inf"), folder, None, folder, (0,), ())


def content(out, piece):
    return json.loads((out / f"{piece}.json").read_text())


def rows(out, piece):
    return content(out, piece)["rows"]


def test_correctness_passes_where_device_and_reference_are_the_same_processor(measured):
    out, code = measured
    assert code == 0
    assert content(out, "correctness")["finished"]
    checked = rows(out, "correctness")
    assert checked.pop("nothing waits in the loss")["status"] == "skipped"  # needs a GPU
    assert {row["status"] for row in checked.values()} == {"measured"}
    assert checked["matching relu, bf16"]["gradient_error"] < 1e-5
    assert checked["gaussian_mse, tf32"]["gradient_error"] < 1e-6
    assert checked["decoder Argmax"]["joint_error_px"] == 0


def test_losses_are_timed_against_the_gaussian_mse(measured):
    timed = rows(measured[0], "losses")
    assert len(timed) == 12  # six losses on two kinds of maps
    for row in timed.values():
        assert row["milliseconds"]["low"] <= row["milliseconds"]["median"]
        assert row["ratio"] > 0
        assert row["peak_mib"] is None  # no device memory here


def test_goes_on_where_it_stopped(measured, tmp_path):
    command = [*small(tmp_path), "--pieces", "losses"]
    done = content(measured[0], "losses")
    first, *_, last = done["rows"]
    marked = {**done["rows"][first], "ratio": 42.0}
    done |= {"rows": {first: marked}, "finished": False}
    (tmp_path / "losses.json").write_text(json.dumps(done))
    gpu.main([*command, "--budget-s", "0"])
    assert list(rows(tmp_path, "losses")) == [first]  # no time, nothing new
    gpu.main(command)
    again = content(tmp_path, "losses")
    assert again["finished"]
    assert again["rows"][first]["ratio"] == 42.0
    assert last in again["rows"]
    gpu.main([*command, "--redo"])
    assert rows(tmp_path, "losses")[first]["ratio"] != 42.0


def test_does_not_mix_machines(measured, tmp_path):
    elsewhere = content(measured[0], "losses")
    elsewhere["environment"]["device"] = "NVIDIA H100 80GB HBM3"
    (tmp_path / "losses.json").write_text(json.dumps(elsewhere))
    with pytest.raises(SystemExit, match=r"measured with device NVIDIA H100.*add --redo"):
        gpu.main([*small(tmp_path), "--pieces", "losses"])


def test_a_wrong_answer_and_an_error_are_recorded_and_the_rest_goes_on(tmp_path):
    def broken():
        raise RuntimeError("no kernel image")

    def lacking():
        raise shared.NotApplicableError("POT is not installed")

    def out_of_time():
        raise shared.OutOfTimeError

    cases = [
        shared.Case("wrong", lambda: {"value_error": 1.0, "passed": False}),
        shared.Case("broken", broken),
        shared.Case("lacking", lacking),
        shared.Case("fine", lambda: {"value_error": 0.0, "passed": True}),
    ]
    bench = small_bench(tmp_path)
    record = records.Record(tmp_path / "piece.json", records.environment(bench.device, True))
    records.run_piece("piece", [*cases, shared.Case("late", out_of_time)], record, bench)
    assert not content(tmp_path, "piece")["finished"]
    records.run_piece("piece", cases, record, bench)
    kept = content(tmp_path, "piece")
    assert kept["finished"]
    assert {name: row["status"] for name, row in kept["rows"].items()} == {
        "wrong": "failed", "broken": "failed", "lacking": "skipped", "fine": "measured",
    }  # fmt: skip
    assert kept["rows"]["broken"]["error"] == "RuntimeError: no kernel image"


def test_nan_is_never_a_pass():
    nan = torch.tensor([1.0, float("nan")])
    assert not shared.relative_error(nan, torch.ones(2)) <= 1e9


def test_report_rewrites_its_own_section(measured, tmp_path):
    file = tmp_path / "RESULTS.md"
    file.write_text("# Results\n\nby hand\n")
    for _ in range(2):
        assert gpu.main([*small(measured[0]), "--report", str(file)]) == 0
    text = file.read_text()
    assert text.startswith("# Results\n\nby hand\n")
    once = (tables.BEGIN, tables.END, "### losses (tiny sizes)")
    assert [text.count(one) for one in once] == [1, 1, 1]
    assert f"cpu, torch {torch.__version__}" in text
    table = [line for line in text.splitlines() if line.startswith("| matching relu, 2 x 5")]
    assert len(table) == 2
    with pytest.raises(SystemExit, match="holds no measurement"):
        gpu.main([*small(tmp_path / "nothing"), "--report", str(file)])


def test_installs_wheels_for_its_process(tmp_path):
    wheel = tmp_path / "carried_for_the_test-1.0-py3-none-any.whl"
    info = "carried_for_the_test-1.0.dist-info"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("carried_for_the_test.py", "ANSWER = 42\n")
        archive.writestr(
            f"{info}/METADATA", "Metadata-Version: 2.1\nName: carried-for-the-test\nVersion: 1.0\n"
        )
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    program = (
        f"import sys; sys.path.insert(0, {str(SCRIPT.parent)!r}); import gpu; from pathlib import"
        f" Path; gpu.install_wheels(Path({str(tmp_path)!r})); import carried_for_the_test as c;"
        " print(c.ANSWER)"
    )
    answer = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert answer.stdout.split()[-1] == "42"


def test_kernel_is_left_out_without_a_gpu(tmp_path):
    bench = small_bench(tmp_path)
    cases = [case for case in fused.cases(bench) if not case.name.endswith("semidual_torch")]
    record = records.Record(tmp_path / "fused.json", records.environment(bench.device, True))
    records.run_piece("fused", cases, record, bench)
    assert {(row["status"], row["reason"]) for row in rows(tmp_path, "fused").values()} == {
        ("skipped", "the Triton kernel needs a GPU")
    }


@pytest.mark.slow
def test_kernel_in_the_interpreter(tmp_path):
    """Every way of the piece, a handful of joints; its times say nothing."""
    pytest.importorskip("triton")
    subprocess.run(
        [sys.executable, SCRIPT, *small(tmp_path), "--pieces", "fused"],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        check=True,
    )
    measured = rows(tmp_path, "fused")
    assert {row["status"] for row in measured.values()} == {"measured"}
    (agreement, timed) = (measured[f"{what}, 1 x 3 x 16 x 12, epsilon 0.1"]
                          for what in ("agreement", "time"))  # fmt: skip
    assert agreement["passed"]
    assert agreement["marginal_error"] <= 1e-6
    assert timed["bandwidth_share"] == timed["bytes_per_second"] / timed["copy_bandwidth"]
    shares = measured["share of a step, semidual_torch"]
    assert shares["share"] < 1  # of two noisy steps: it may be negative
    assert shares["loss_ms"]["median"] < shares["step_ms"]["median"]
    assert timed["ratio_torch"] > 0
    assert timed["ratio_pot"] > 0


def test_graphs_are_timed_against_the_steps_without(tmp_path, monkeypatch):
    """The captured step for real, as far as a CPU has one: see tests/training/cpu_graphs.py."""
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parent / "training"))
    import cpu_graphs

    made = cpu_graphs.install(monkeypatch)
    assert gpu.main([*small(tmp_path), "--pieces", "graphs"]) == 0
    (row,) = rows(tmp_path, "graphs").values()
    assert row["captured"] == 1
    # Forward and backward: five ways, one warm-up and three times each, and one that captures.
    assert made.replays == 2 * (5 * 4 + 1)
    assert row["ratio_plain"] > 0
    assert row["graphs_ms"]["low"] <= row["graphs_ms"]["median"]
    assert row["matching_share"] < 1


def test_device_cache_is_filled_and_right(tmp_path):
    pytest.importorskip("posematch.data.device_crops")
    command = [*small(tmp_path), "--runs", str(tmp_path / "runs"), "--pieces", "device_cache"]
    assert gpu.main(command) == 0
    for row in rows(tmp_path, "device_cache").values():
        assert row["status"] == "measured"
        assert row["grey_level_error"] < 1.5
        assert row["device_images_per_second"] > 0


def test_training_is_timed_against_its_bare_step(tmp_path):
    command = [*small(tmp_path), "--runs", str(tmp_path / "runs"), "--pieces", "train"]
    assert gpu.main(command) == 0
    assert list(rows(tmp_path, "train")) == ["matching", "gaussian_mse"]
    for row in rows(tmp_path, "train").values():
        assert row["share"] == row["trained_images_per_second"] / row["bare_images_per_second"]
        assert row["epoch_seconds"] > 0


def test_what_is_worth_most_comes_first():
    assert list(gpu.PIECES)[:3] == ["graphs", "device_cache", "train"]


@pytest.mark.slow
def test_step_and_pot(tmp_path):
    assert gpu.main([*small(tmp_path), "--pieces", "pot,step"]) == 0
    assert all(row["images_per_second"] > 0 for row in rows(tmp_path, "step").values()
               if row["status"] == "measured")  # fmt: skip
    assert rows(tmp_path, "pot")["agreement, epsilon 0.1"]["passed"]


@pytest.mark.slow
def test_training_goes_on_in_the_next_call(tmp_path):
    command = [*small(tmp_path), "--pieces", "training", "--seeds", "0", "--runs",
               str(tmp_path / "runs")]  # fmt: skip
    # The first call's time ends inside a training of many epochs, the second finishes it.
    gpu.main([*command, "--budget-s", "12", "--overrides", "trainer.max_epochs=30"])
    interrupted = rows(tmp_path, "training") if (tmp_path / "training.json").exists() else {}
    assert len(interrupted) < 3
    assert gpu.main([*command, "--overrides", "trainer.max_epochs=30"]) == 0
    done = rows(tmp_path, "training")
    assert list(done) == ["gaussian_mse, seed 0", "dot_mse, seed 0", "matching, seed 0"]
    for row in done.values():
        assert len(row["epochs"]) == 30
        assert row["figures"]["last"]
    assert len(list((tmp_path / "runs").glob("*/result.json"))) == 3


@pytest.mark.slow
def test_the_map_of_losses_goes_on_in_the_next_call(tmp_path):
    command = [*small(tmp_path), "--pieces", "map", "--runs", str(tmp_path / "runs")]
    assert gpu.main(command) == 0
    assert rows(tmp_path, "map")["sweep"]["trainings"] == 2
    assert gpu.main([*command, "--redo"]) == 0
    again = rows(tmp_path, "map")["sweep"]
    assert (again["trainings"], again["trainings_an_hour"]) == (2, 0)
