"""Options of a training take effect."""

from __future__ import annotations

import functools

import pandas as pd
import pytest
import torch
from light import LIGHT

from posematch.errors import PosematchError
from posematch.training.build import build_datamodule, build_module, build_trainer
from posematch.training.module import PoseModule
from posematch.training.run import train


@pytest.fixture
def composed(composed):
    return functools.partial(composed, *LIGHT)


def weights(folder):
    return torch.load(folder.last_checkpoint, weights_only=True)


def test_ema_scores_and_saves_the_average(composed):
    plain, averaged = train(composed()), train(composed("callbacks=ema"))
    # The same steps ...
    losses = [pd.read_csv(one.folder.metrics)["train/loss"] for one in (plain, averaged)]
    pd.testing.assert_series_equal(*losses)
    saved = weights(averaged.folder)
    # ... whose weights are kept for going on, while the average is what is saved and scored.
    for name, tensor in weights(plain.folder)["state_dict"].items():
        torch.testing.assert_close(saved["current_model_state"][name], tensor, rtol=0, atol=0)
    head = "network.to_heatmaps.weight"
    assert not torch.equal(saved["state_dict"][head], saved["current_model_state"][head])
    assert averaged.losses != plain.losses


def test_accumulated_batches_are_the_large_batch(composed):
    """Without normalisation statistics, two batches of 2 have the gradient of one of 4 if the same
    number of joints counts in each; here the loss's mean is over joints, so nearly."""
    common = ("backbone.freeze_norm=true", "trainer.max_epochs=1", "data.train_people=8",
              "augmentation/geometry=none", "loss=gaussian_mse", "optimizer.lr=1e-3")  # fmt: skip
    large = train(composed(*common, "data.batch_size=4"))
    small = train(composed(*common, "data.batch_size=2", "trainer.accumulate_grad_batches=2"))
    plain = train(composed(*common, "data.batch_size=2"))
    states = [weights(one.folder) for one in (large, small, plain)]
    assert [state["global_step"] for state in states] == [2, 2, 4]
    head = [state["state_dict"]["network.to_heatmaps.bias"] for state in states]
    assert (head[1] - head[0]).norm() < 0.2 * (head[2] - head[0]).norm()


@pytest.mark.slow
@pytest.mark.parametrize("how", ["true", "regional"])
def test_compile_gives_the_same_training(composed, how):
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    plain = train(composed("trainer.max_epochs=1"))
    compiled = train(composed("trainer.max_epochs=1", f"compile={how}"))
    assert torch._dynamo.utils.counters["frames"]["ok"] > 0
    first, second = (pd.read_csv(one.folder.metrics)["train/loss"][0] for one in (plain, compiled))
    assert second == pytest.approx(first, rel=1e-3)


def test_compile_is_asked_of_the_network(composed):
    cfg = composed("compile=true")
    assert build_module(cfg, build_datamodule(cfg)).network._compiled_call_impl is not None
    cfg = composed("compile=regional")
    network = build_module(cfg, build_datamodule(cfg)).network
    names = [name for name, one in network.named_modules() if one._compiled_call_impl is not None]
    assert names == [f"backbone.layer{stage}.0" for stage in (1, 2, 3, 4)]
    with pytest.raises(PosematchError, match=r"compile=perhaps must be true or false or one of"):
        train(composed("compile=perhaps"))


def test_sync_batchnorm_is_left_out_where_ddp_refuses_it(composed):
    cfg = composed("trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2")
    assert cfg.trainer.sync_batchnorm
    build_module(cfg, build_datamodule(cfg))  # resolves precision=auto, too
    assert build_trainer(cfg).strategy._layer_sync is None


@pytest.mark.skipif(not torch.cuda.is_available(), reason="SyncBatchNorm computes on GPUs alone")
def test_sync_batchnorm_replaces_the_normalisation(composed):
    cfg = composed("trainer=ddp", "trainer.accelerator=gpu", "trainer.devices=1")
    module = build_module(cfg, build_datamodule(cfg))
    trainer = build_trainer(cfg)
    synced = trainer.strategy._layer_sync.apply(module)
    kinds = {type(layer) for layer in synced.network.modules() if "BatchNorm" in str(type(layer))}
    assert kinds == {torch.nn.SyncBatchNorm}


@pytest.mark.parametrize(("accumulate", "factor"), [(1, 0.5), (3, 1.5)])
def test_learning_rate_scales_with_the_batch(composed, accumulate, factor):
    options = ("schedule=hrnet", "optimizer.lr=1e-3", "reference_batch_size=8",
               f"trainer.accumulate_grad_batches={accumulate}", "trainer.max_epochs=1")  # fmt: skip
    metrics = pd.read_csv(train(composed(*options)).folder.metrics)
    assert metrics["train/learning_rate"][0] == pytest.approx(1e-3 * factor)


def test_scaled_rate_warms_up(composed):
    options = ("schedule=hrnet", "schedule.warmup_steps=1000", "optimizer.lr=1e-3",
               "reference_batch_size=2", "trainer.max_epochs=1")  # fmt: skip
    rate = pd.read_csv(train(composed(*options)).folder.metrics)["train/learning_rate"][0]
    assert rate < 0.02 * 2e-3


def test_fine_tuning_starts_from_the_weights_with_another_head(composed, capsys):
    first = train(composed())
    source = weights(first.folder)["state_dict"]
    frozen = ("optimizer.lr=0", "optimizer.weight_decay=0", "trainer.max_epochs=1")
    start = f"checkpoint={first.folder.last_checkpoint}"
    cfg = composed("data.skeleton=coco", start, *frozen)
    tuned = weights(train(cfg).folder)["state_dict"]
    assert "to_heatmaps" in capsys.readouterr().out
    assert tuned["network.to_heatmaps.weight"].shape[0] == 17
    for name, tensor in source.items():
        if name.endswith("weight") and "to_heatmaps" not in name:
            torch.testing.assert_close(tuned[name], tensor, rtol=0, atol=0)


def test_early_stopping_stops(composed, capsys):
    result = train(composed("callbacks=early_stopping", "callbacks.early_stopping.patience=2",
                            "optimizer.lr=0", "trainer.max_epochs=20"))  # fmt: skip
    # The first validation sets the mark, two more do not pass it by an inch of statistics.
    assert len(pd.read_csv(result.folder.metrics)) < 20
    assert "Stopped early" in capsys.readouterr().err


def test_callbacks_combine(composed):
    cfg = composed("callbacks=[ema,early_stopping]", "trainer.max_epochs=1")
    assert set(cfg.callbacks) == {"ema", "early_stopping"}
    train(cfg)


def test_debug_one_step(composed):
    result = train(composed("debug=one_step", "trainer.max_epochs=5"))
    metrics = pd.read_csv(result.folder.metrics)
    assert list(metrics.step) == [1]
    # One batch of validation people.
    assert result.protocol.endswith("4 of 8 people")


def test_debug_overfit_takes_eight_people_without_augmentation(composed):
    cfg = composed(
        "debug=overfit", "data.batch_size=8", "trainer.max_epochs=10", "loss=gaussian_mse"
    )
    assert cfg.augmentation.geometry is None
    metrics = pd.read_csv(train(cfg).folder.metrics)
    assert metrics.step.iloc[-1] == 10  # one step an epoch: the eight people are the batch
    assert metrics["train/loss"].iloc[-1] < metrics["train/loss"].iloc[0]


def test_debug_profile_says_where_time_goes(composed):
    result = train(composed("debug=profile", "trainer.max_steps=3", "trainer.max_epochs=1"))
    tables = list((result.folder.path / "profile").glob("*.txt"))
    assert tables
    assert "convolution" in "".join(table.read_text() for table in tables)


def test_pictures_show_the_averaged_weights(composed, monkeypatch):
    """What is drawn is what is scored."""
    drawn = []
    draw = PoseModule.picture

    def noting(module, people):
        drawn.append(module.network.to_heatmaps.weight.clone())
        return draw(module, people)

    monkeypatch.setattr(PoseModule, "picture", noting)
    result = train(composed("callbacks=ema", "pictures.every_n_epochs=1"))
    saved = weights(result.folder)["state_dict"]["network.to_heatmaps.weight"]
    assert torch.equal(drawn[-1], saved)
