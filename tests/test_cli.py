"""What Hydra's command line does is still done, and values are checked by annotations."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from lightning.pytorch import Trainer
from omegaconf import DictConfig, OmegaConf
from pydantic import Field

from posematch.app.commands import command
from posematch.app.composition import register_resolvers
from posematch.app.objects import check_arguments, make
from posematch.app.sentences import one_sentence_errors
from posematch.app.settings import SETTINGS, check_settings, check_type
from posematch.app.signatures import signature_of
from posematch.errors import PosematchError, is_out_of_memory

REPOSITORY = Path(__file__).resolve().parents[1]

CONF = {
    "train.yaml": "defaults: [_self_, data: one, override hydra/job_logging: none,"
    " override hydra/hydra_logging: none]\n"
    "debug: {traceback: false}\n"
    "hydra: {output_subdir: null, run: {dir: .}, sweep: {dir: sweep, subdir: .}}\n",
    "data/one.yaml": "_target_: builtins.dict\nnumber: 1\n",
    "data/two.yaml": "_target_: builtins.dict\nnumber: 2\n",
}


@pytest.fixture
def called(tmp_path, monkeypatch):
    """Run a verb with arguments; the configurations it was given."""
    for name, content in CONF.items():
        (tmp_path / "conf" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "conf" / name).write_text(content)
    monkeypatch.chdir(tmp_path)
    # Some of Hydra's options set up logging, to this test's stderr.
    monkeypatch.setattr(logging.root, "handlers", list(logging.root.handlers))
    monkeypatch.setattr(logging.root, "level", logging.root.level)

    def run(*arguments: str) -> list[DictConfig]:
        seen: list[DictConfig] = []

        @command("train", tmp_path / "conf")
        def verb(cfg: DictConfig) -> Any:
            seen.append(cfg)
            return cfg.data.number

        verb(arguments)
        return seen

    return run


def test_the_scripts_own_folder_is_composed(called):
    assert [one.data.number for one in called()] == [1]
    assert [one.data.number for one in called("data=two")] == [2]


def test_a_sweep_gets_what_the_task_returns(called, tmp_path):
    """Optuna's result file has the returned figure: 2 is the highest of the two."""
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    seen = called(
        "-m",
        "hydra/sweeper=optuna",
        "hydra/sweeper/sampler=grid",
        "hydra.sweeper.direction=maximize",
        "hydra.sweeper.n_jobs=1",
        "data=one,two",
    )
    assert sorted(one.data.number for one in seen) == [1, 2]
    result = OmegaConf.load(tmp_path / "sweep" / "optimization_results.yaml")
    assert result.best_value == 2


def test_options_stand_anywhere(called, capsys):
    assert called("data=two", "--cfg", "job", "data.number=5") == []
    assert "number: 5" in capsys.readouterr().out
    assert len(called("data=one,two", "-m", "data.number=5")) == 2


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        (["--help"], "one, two"),
        (["--cfg", "job"], "number: 1"),
        (["--cfg", "job", "--package", "data"], "number: 1"),
        (["--info", "defaults"], "data/one"),
        (["--hydra-help"], "--multirun"),
    ],
)
def test_hydras_own_options_work(called, capsys, arguments, shown):
    assert called(*arguments) == []
    assert shown in capsys.readouterr().out


def test_tab_completion(called, capsys, monkeypatch):
    monkeypatch.setenv("COMP_LINE", "python train.py data=t")
    monkeypatch.setenv("COMP_CWORD", "2")
    called("-sc", "query=bash")
    assert "data=two" in capsys.readouterr().out


def test_a_folder_of_ones_own(called, tmp_path):
    (tmp_path / "own" / "data").mkdir(parents=True)
    (tmp_path / "own" / "data" / "three.yaml").write_text("_target_: builtins.dict\nnumber: 3\n")
    assert called("data=three", "--config-dir", "own")[0].data.number == 3


def test_a_key_that_an_interpolation_reads_may_be_added(called):
    seen = called("+scale=7", "data.number=${scale}")
    assert seen[0].data.number == 7


def test_a_wrong_sweep_leaves_no_folder(called, tmp_path):
    with pytest.raises(SystemExit):
        called("-m", "data=one,two", "data.nmber=1")
    assert not (tmp_path / "sweep").exists()


def test_a_bug_keeps_its_traceback_and_says_so():
    with pytest.raises(ZeroDivisionError) as raised, one_sentence_errors():
        _ = 1 / 0
    assert "mistake in the code" in raised.value.__notes__[0]


def test_stopping_is_a_word(capsys):
    with pytest.raises(SystemExit) as ended, one_sentence_errors():
        raise KeyboardInterrupt
    assert ended.value.code == 1
    assert capsys.readouterr().err == "Stopped.\n"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU to fill")
def test_gpu_without_memory_left(capsys):
    with pytest.raises(SystemExit), one_sentence_errors():
        torch.empty(2**50, device="cuda")
    assert "lower data.batch_size" in capsys.readouterr().err


def composed(*overrides: str) -> DictConfig:
    register_resolvers()
    with initialize_config_dir(str(REPOSITORY / "conf"), version_base="1.3"):
        return compose("train", overrides=list(overrides))


def test_settings_are_keys_of_the_configuration():
    cfg = composed()
    absent = [key for key in SETTINGS if OmegaConf.select(cfg, key, default=cfg) is cfg]
    assert absent == []
    check_settings(cfg)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("seed=-1", "seed=-1 must be an integer between 0 and 2^32 - 1"),
        ("pictures.people=0", "must be an integer of at least 1"),
        ("dry_run=maybe", "dry_run=maybe must be true or false"),
        ("debug.traceback=maybe", "must be true or false"),
        ("loss.name=a/b", "must be a name"),
        ("loss.name=", "must be a name"),
        ("sweep=a/b", "must be a name of letters, digits, . _ + - or null"),
        ("trainer.max_epochs=ten", "trainer.max_epochs=ten must be an integer or null"),
        ("trainer.max_epochs=0", "trainer.max_epochs=0 must be at least 1"),
        ("trainer.max_epochs=-1", "would never end"),
        ("~trainer.max_epochs", "would never end"),
        ("trainer.limit_val_batches=0", "must be a positive share or number"),
        ("trainer.check_val_every_n_epoch=0", "must be an integer of at least 1"),
        ("trainer.gradient_clip_val=-1", "must be a number of at least 0 or null"),
    ],
)
def test_wrong_settings(override, words):
    with pytest.raises(PosematchError) as told:
        check_settings(composed(override))
    assert words in str(told.value)


def test_a_training_limited_by_steps_alone_ends():
    check_settings(composed("trainer.max_epochs=-1", "trainer.max_steps=5"))


@dataclass
class Part:
    size: int


class Base:
    def __init__(self, part: Part | None = None, names: Sequence[str] = ()) -> None:
        self.part = part


class Example(Base):
    def __init__(
        self,
        number: float,
        count: int = 0,
        mode: Literal["a", "b"] = "a",
        pair: tuple[int, int] = (1, 2),
        ranges: list[tuple[float, float]] | None = None,
        folder: Path | None = None,
        array: np.ndarray | None = None,
        small: Annotated[int, Field(le=3, description="an integer of at most 3")] = 0,
        **rest: Any,
    ) -> None:
        super().__init__(**rest)


RIGHT: list[dict[str, Any]] = [
    {"number": 1},  # an integer is a number
    {"number": 1.5, "count": 3, "mode": "b", "pair": [3, 4]},
    {"ranges": [[0, 1], [0.5, 2]], "folder": "x"},
    {"array": [1, 2, 3]},  # not a plain type: not ours to judge
    {"part": None, "names": ["a"], "small": 3},
    {"part": {"_target_": f"{__name__}.Part", "size": 1}},
    {"_partial_": True},
]
WRONG: list[tuple[dict[str, Any], str]] = [
    ({"number": "fast"}, "example.number=fast must be a number"),
    ({"number": True}, "example.number=true must be a number"),
    ({"number": float("nan")}, "example.number=nan must be a number"),
    ({"count": 1.5}, "example.count=1.5 must be an integer"),
    ({"count": None}, "example.count=null must be an integer"),
    ({"mode": "c"}, "example.mode=c must be one of a, b"),
    ({"pair": [1, 2, 3]}, "example.pair=[1,2,3] must be a list of 2 integers"),
    ({"ranges": [1]}, "example.ranges=[1] must be a list of a list of 2 numbers or null"),
    ({"folder": 5}, "example.folder=5 must be text or null"),
    ({"names": ["a", 1]}, "example.names=[a,1] must be a list of texts"),
    ({"small": 4}, "example.small=4 must be an integer of at most 3"),
    ({"part": 5}, "example.part=5 must be a mapping whose _target_ makes Part"),
    ({"par": 5}, "example.par is no argument of Example; the nearest is example.part"),
    ({"count": "???"}, "example.count is not set: add example.count=... to the command"),
]


@pytest.mark.parametrize("values", RIGHT)
def test_values_that_fit(values):
    check_arguments(signature_of(Example), values, "example")


@pytest.mark.parametrize(("values", "told"), WRONG, ids=[told for _, told in WRONG])
def test_values_that_do_not_fit(values, told):
    with pytest.raises(PosematchError) as error:
        check_arguments(signature_of(Example), values, "example")
    assert str(error.value) == f"{told}."


def test_make_checks_what_it_makes_inside_too():
    target = f"{__name__}.Example"
    part = {"_target_": f"{__name__}.Part", "size": "big"}
    with pytest.raises(PosematchError, match=r"example\.part\.size=big must be an integer"):
        make({"_target_": target, "number": 1, "part": part}, "example")
    made = make({"_target_": target, "number": 1, "part": part | {"size": 2}}, "example")
    assert made.part == Part(2)


def test_annotations_of_other_projects_are_understood():
    """Real ones: a wrong refusal would take a user's option away."""
    check_arguments(
        signature_of(Trainer),
        {"devices": [0, 1], "max_time": {"hours": 1}, "precision": "16-mixed", "barebones": False,
         "limit_train_batches": 0.5, "profiler": None, "deterministic": "warn"},
        "trainer",
    )  # fmt: skip
    check_arguments(
        signature_of(torch.optim.AdamW), {"lr": 1, "betas": [0.9, 0.99], "fused": None}, "optimizer"
    )
    with pytest.raises(PosematchError, match="a list of 2 numbers"):
        check_arguments(signature_of(torch.optim.AdamW), {"betas": [0.9]}, "optimizer")


def test_a_type_that_says_nothing_of_plain_values_is_passed_over():
    check_type("x", 5, np.ndarray)
    check_type("x", 5, Any)
    check_type("x", 5, None)


@pytest.mark.parametrize(
    "text",
    [  # as torch 2.11 on an H100 said them, whose memory others held
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "cusolver error: CUSOLVER_STATUS_INTERNAL_ERROR, when calling `cusolverDnCreate(handle)`.",
        "Bad StatusOr access: RESOURCE_EXHAUSTED: : CUDA_ERROR_OUT_OF_MEMORY: out of memory",
        "CUDA error: out of memory",
        "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes",
    ],
)
def test_memory_that_a_library_asked_for_in_vain(text):
    assert is_out_of_memory(RuntimeError(text))
    assert not is_out_of_memory(ValueError(text))
    assert not is_out_of_memory(RuntimeError("shape mismatch"))


def test_a_stop_while_a_class_is_made_is_a_stop(capsys):
    """Python 3.11 wraps what ``__set_name__`` raises, Ctrl-C, too."""

    class Part:
        def __set_name__(self, *_: object) -> None:
            raise KeyboardInterrupt

    @one_sentence_errors()
    def made() -> None:
        try:
            type("Whole", (), {"part": Part()})
        except KeyboardInterrupt as stop:  # of 3.12 on, as it is
            raise RuntimeError("Error calling __set_name__") from stop

    with pytest.raises(SystemExit):
        made()
    assert capsys.readouterr().err == "Stopped.\n"
