"""Three maps a joint through everything: network, losses, flip test, decoding, pictures, table."""

from __future__ import annotations

import lightning.pytorch as pl
import pandas as pd
import pytest
import torch

from posematch.losses import UDPCombined
from posematch.training.build import build_datamodule, build_module
from posematch.training.run import train


def test_trains_measures_and_paints(composed):
    result = train(composed("loss=udp_combined", "data.convention=udp", "trainer.max_epochs=1"))
    metrics = pd.read_csv(result.folder.metrics)
    losses = [f"val/loss/{name}" for name in ("udp_combined", "gaussian_mse", "matching")]
    assert metrics[losses].notna().all(axis=None)
    assert result.folder.figure(0).is_file()
    table = pd.read_parquet(result.folder.predictions(0))
    assert table.joint.nunique() == 16
    assert table.score.between(0, 1).all()
    assert "UDPCombined" in result.folder.config.read_text()


@pytest.mark.parametrize("decoder", ["auto", "unblurred", "dark", "barycentre"])
def test_perfect_maps_score_a_hundred(composed, decoder):
    """As for the other losses: crop, offsets' signs in the flip test, decoder and metric agree."""
    choice = {"unblurred": ["decoder=udp_combined", "decoder.kernel=1"]}
    chosen = choice.get(decoder, [f"decoder={decoder}"])
    cfg = composed("experiment=udp", *chosen, "data.input_size=[128,128]", "measure=none")
    datamodule = build_datamodule(cfg)
    datamodule.setup("fit")
    module = build_module(cfg, datamodule)
    module.model.network = Oracle(module, datamodule)
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False,
                         enable_model_summary=False)  # fmt: skip
    trainer.validate(module, datamodule=datamodule, verbose=False)
    assert module.figures["val/PCKh@0.5"] > 99
    assert module.figures["val/loss/udp_combined"] == pytest.approx(0, abs=1e-9)
    # The other two have a disk of pixels to go by. The published blur mirrors offsets at the
    # border, which a kernel of 11 sees from a third of these maps of 32 pixels.
    least = {"unblurred": 97, "auto": 90}.get(decoder, 0)
    assert module.figures["val/PCKh@0.1"] > least


class Oracle(torch.nn.Module):
    """Paints the combined target of the joints, seen as the crop and its mirror image show them."""

    def __init__(self, module, datamodule):
        super().__init__()
        self.module = [module]  # not a submodule
        self.batches = iter(list(datamodule.val_dataloader()))
        self.permutation = list(datamodule.skeleton.flip_permutation)

    def forward(self, crops):
        module, batch = self.module[0], next(self.batches)
        mirrored_crop = batch["joints_crop"].clone()
        mirrored_crop[..., 0] = module.model.input_size[1] - 1 - mirrored_crop[..., 0]
        mirrored_hm = module.joints_hm({**batch, "joints_crop": mirrored_crop})
        views = torch.cat([module.joints_hm(batch), mirrored_hm[:, self.permutation]])
        disk, x, y = UDPCombined().targets(views, module.model.heatmap_size)
        maps = [disk.float(), x.expand_as(disk), y.expand_as(disk)]
        return torch.stack(maps, dim=2).flatten(1, 2)


def test_is_not_measured_on_networks_with_one_map_a_joint(composed):
    cfg = composed("loss=gaussian_mse", "+loss@measure.udp_combined=udp_combined")
    with pytest.warns(UserWarning, match=r"measure.udp_combined is left out: .* 3 maps a joint"):
        module = build_module(cfg, build_datamodule(cfg))
    assert "udp_combined" not in module.measured
    assert {"gaussian_mse", "matching"} <= set(module.measured)
