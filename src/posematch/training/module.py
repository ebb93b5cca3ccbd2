"""The Lightning module: trains a `PoseModel` and scores it; it knows the data and the metric."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from numpy.typing import NDArray
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import default_collate
from torchmetrics import MeanMetric

from posematch.arithmetic import put_off_checks
from posematch.data.crops import Batch
from posematch.data.datamodule import PoseDataModule
from posematch.data.people import People
from posematch.data.widths import have_widths
from posematch.decoding import Decoder, first_maps
from posematch.errors import PosematchError
from posematch.losses import HeatmapLoss
from posematch.losses.mass import logits
from posematch.metrics import metric_for
from posematch.metrics.compactness import Compactness, map_compactness
from posematch.metrics.risks import Risks
from posematch.model import PoseModel
from posematch.networks.checkpoint_files import RECORD
from posematch.networks.compiling import Compile, compile_network
from posematch.rendering import people_panel
from posematch.training.divergence import StepLosses, in_words, people_in_all, people_of
from posematch.training.fused import prefer_fused
from posematch.training.gathering import PredictionStore
from posematch.training.graphs import CapturedModel


class PoseModule(pl.LightningModule):
    """Trains a heatmap network with one loss; validates it with all of them.

    Parameters
    ----------
    model
        What is trained; its weights stand as ``network.*`` in checkpoints, and its record under
        ``model``.
    loss_name, loss
        What is minimised, and its name in ``val/loss/<name>``.
    measured
        Further losses, by name, measured on the validation maps in the same pass; one named as
        the training loss gives way to it. Where a joint has several maps, those of one map read
        the first.
    optimizer, schedule
        ``optimizer(parameter_groups)`` and ``schedule(optimizer, total_steps, steps_per_epoch)``.
    compiled
        Run the network through ``torch.compile``, see `posematch.networks.compiling`.
    reference_batch_size
        People per optimizer step that the learning rate was chosen for; where the training has
        more or fewer, the rate is scaled in proportion. None: the rate as it is.
    sigma
        Heatmap pixels of the Gaussian in Theorem 1, whose terms validation measures.
    decoders
        Further decoders by name; the last validation's maps are decoded by them, too.
    metric
        The main figure, see `posematch.metrics.metric_for`.
    """

    def __init__(
        self,
        model: PoseModel,
        loss_name: str,
        loss: HeatmapLoss,
        measured: Mapping[str, HeatmapLoss],
        optimizer: Callable[[list[dict[str, Any]]], Optimizer],
        schedule: Callable[..., LRScheduler],
        compiled: Compile = False,
        reference_batch_size: int | None = None,
        sigma: float = 2.0,
        decoders: Mapping[str, Decoder] | None = None,
        metric: str = "auto",
    ) -> None:
        super().__init__()
        self.model = model
        self.register_state_dict_post_hook(_short_names)  # type: ignore[no-untyped-call]
        self.register_load_state_dict_pre_hook(_long_names)  # type: ignore[no-untyped-call]
        compile_network(self.network, compiled)
        self.reference_batch_size = reference_batch_size
        self.loss_name = loss_name
        self.loss = loss
        self.measured = nn.ModuleDict({**measured, loss_name: loss})
        self.make_optimizer = optimizer
        self.make_schedule = schedule
        self.val_losses = {name: MeanMetric() for name in self.measured}
        self._val_losses = nn.ModuleList(self.val_losses.values())  # moves with the module
        self.compactness = Compactness()
        self.risks = Risks(sigma)
        self.decoders = dict(decoders or {})
        self.main_figure = metric
        self.predictions = PredictionStore()
        self.predictions_by_decoder = {name: PredictionStore() for name in self.decoders}
        self._decodes_by_all = False  # in this validation
        self.decoders_step = -1  # optimizer steps before the last validation that did
        # Logged, but no figures: the losses' second opinions, this process's; compactness; Theorem
        # 1's terms.
        self.opinions: dict[str, float] = {}
        self.figures: dict[str, float] = {}  # of the last validation ...
        self.figures_step = -1  # ... which was after so many optimizer steps
        # Of the last training step; numbers once `SkippedSteps` has fetched them.
        self.step_figures: dict[str, torch.Tensor | float] = {}
        self.step_losses = StepLosses()
        # Told by posematch.training.divergence.SkippedSteps, where a training has it.
        self.skips_steps = False
        self.step_skipped = False  # the last optimizer step
        self.skipped_steps = 0  # of this epoch
        self.last_checkpoint: Path | None = None
        # Told by posematch.training.graphs.CudaGraphs: what training steps run in place of `model`.
        self.captured: CapturedModel | None = None
        self._not_finite_people: list[int] = []  # of this validation, this process's

    @property
    def valid_people(self) -> People:
        datamodule = self.trainer.datamodule  # type: ignore[attr-defined]
        assert isinstance(datamodule, PoseDataModule)
        assert datamodule.valid is not None
        return datamodule.valid

    @property
    def network(self) -> nn.Module:
        """The model's."""
        return self.model.network

    @property
    def epochs_begun(self) -> int:
        """Epochs the training has worked on, an unfinished last one included."""
        progress: Any = self.trainer.fit_loop.epoch_progress
        return int(progress.current.started)

    def setup(self, stage: str) -> None:
        self._refuse_unknown_widths()
        self.metric = metric_for(self.valid_people, self.main_figure)

    def _refuse_unknown_widths(self) -> None:
        datamodule: PoseDataModule = self.trainer.datamodule  # type: ignore[attr-defined]
        for people in (datamodule.train, datamodule.valid):
            # A detector's boxes have no joints either: no loss is measured on them.
            if (
                people is None
                or not self.loss.takes_widths
                or not people.rows.visible.any()
                or have_widths(people)
            ):
                continue
            what = "area" if people.skeleton.oks_sigmas else "head"
            raise PosematchError(
                f"loss={self.loss_name} takes the width of each joint from the person's {what},"
                f" and nobody of the {people.split} split of {people.name} has one; set"
                " loss.widths=none, which is loss.scale_px for all."
            )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint[RECORD] = self.model.record.model_dump()

    def forward(self, crops: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) uint8 crops to (B, K, H/4, W/4) raw heatmaps."""
        heatmaps: torch.Tensor = self.model(crops)
        return heatmaps

    def joints_hm(self, batch: Batch) -> torch.Tensor:
        """(B, K, 2) the batch's dots in heatmap pixels."""
        return self.model.joints_hm(batch["joints_crop"])

    def targets(self, batch: Batch, loss: HeatmapLoss | None = None) -> tuple[torch.Tensor, ...]:
        """What a loss, by default the training's, takes of a batch after the heatmaps.

        (B, K, 2) dots in heatmap pixels, (B, K) visible, and where it takes them (B, K) widths.
        """
        loss = self.loss if loss is None else loss
        targets = self.joints_hm(batch), batch["visible"]
        if not loss.takes_widths:
            return targets
        return *targets, self.model.lengths_hm(batch["widths_crop"])

    @torch.no_grad()
    def picture(
        self, places: Sequence[int], captions: Sequence[str] | None = None
    ) -> NDArray[np.uint8]:
        """Validation people with predicted maps and skeletons, (H, W, 3) RGB.

        Parameters
        ----------
        places
            Which, in the order of `valid_people`.
        captions
            A line below each.
        """
        datamodule: PoseDataModule = self.trainer.datamodule  # type: ignore[attr-defined]
        dataset = datamodule.crops("valid")
        batch: Batch = default_collate([dataset[(0, index)] for index in places])
        training = self.training
        self.eval()
        with self.trainer.precision_plugin.val_step_context():
            found = self.model.estimate(batch["crop"])
        self.train(training)
        return people_panel(
            batch["crop"],
            found.maps.float().cpu(),
            found.joints_crop.float().cpu(),
            batch["joints_crop"],
            batch["visible"],
            found.scores.float().cpu(),
            self.valid_people.skeleton,
            self.model.convention,
            captions=captions,
        )

    def _tell_losses_the_epoch(self) -> None:
        # A validation of its own comes after the last epoch, or before the first.
        ended = self.trainer.state.fn != "fit"
        epoch = max(self.epochs_begun - 1, 0) if ended else self.current_epoch
        for loss in self.measured.values():
            assert isinstance(loss, HeatmapLoss)
            loss.start_epoch(epoch)
        self.model.meaning = self.loss.meaning

    def on_train_start(self) -> None:
        # Inside an epoch a resumed training goes on without on_train_epoch_start.
        self._tell_losses_the_epoch()
        for optimizer in self.trainer.optimizers:
            prefer_fused(optimizer)  # a checkpoint's state says what it was

    def on_train_epoch_start(self) -> None:
        self._tell_losses_the_epoch()

    def training_step(self, batch: Batch, batch_index: int) -> torch.Tensor:
        # A batch that does not count (`EpochSampler`) has no visible joint, so no weight in the
        # loss of all processes; only batch statistics over processes (sync_batchnorm) see its crop,
        # one person of the same batch once more.
        heatmaps = (self.captured or self)(batch["crop"])
        try:
            with put_off_checks(self._asks_later()) as checks:
                loss: torch.Tensor = self.loss(heatmaps, *self.targets(batch))
        except FloatingPointError as error:  # under DDP in all processes
            if not self.skips_steps:
                raise PosematchError(
                    f"Epoch {self.current_epoch + 1}, step {self.global_step}: {error}; lower"
                    " optimizer.lr or set trainer.gradient_clip_val."
                ) from error
            self.step_losses.spoilt = True
            self.step_losses.people += people_of(batch, error)
            self.step_figures = {}
            return self._nothing()
        self.step_losses.total = self.step_losses.total + loss.detach()
        self.step_losses.checks += [(batch, check) for check in checks]
        self.step_figures = {"train/loss": loss.detach()}
        for name, value in self.loss.health.items():
            self.step_figures[f"train/{self.loss_name}/{name}"] = value
        factor = self._part_of_group(batch_index)
        return loss if factor == 1 else loss * factor

    def _asks_later(self) -> bool:
        """Whether a step waits for the device once, at its end, instead of at each question.

        Not where processes must agree before they average their losses, nor where a gradient
        scaler would take a loss that is not finite for a scale that is too high.
        """
        scaler = getattr(self.trainer.precision_plugin, "scaler", None)
        return self.skips_steps and self.trainer.world_size == 1 and scaler is None

    def _nothing(self) -> torch.Tensor:
        """A loss whose gradient is 0 for every weight, whatever the weights and the maps are.

        Lightning takes no step without a loss under DDP, whose processes wait for each other's
        gradients, and a gradient scaler none without a gradient.
        """
        weights = [p.sum() for p in self.network.parameters() if p.requires_grad]
        return torch.stack(weights).sum() * 0

    def _part_of_group(self, batch_index: int) -> float:
        """What makes an optimizer step's gradient the mean over the batches that are in it.

        Lightning divides each loss by ``accumulate_grad_batches``, but the last group of an epoch
        may have fewer batches.
        """
        accumulate = self.trainer.accumulate_grad_batches
        first = batch_index - batch_index % accumulate
        return accumulate / min(accumulate, self.trainer.num_training_batches - first)

    def gradient_norm(self) -> torch.Tensor:
        """Norm of all gradients, before clipping: what the loss asked for."""
        return nn.utils.get_total_norm(
            [p.grad for p in self.network.parameters() if p.grad is not None]
        )

    def _is_last_validation(self) -> bool:
        """Whether the training ends here, as far as it is known before.

        Of what stops a training early this knows nothing; `posematch.training.run` validates once
        more then.
        """
        trainer = self.trainer
        if trainer.state.fn != "fit":
            return True
        epochs, steps = trainer.max_epochs, trainer.max_steps
        last_epoch = epochs is not None and 0 <= epochs <= trainer.current_epoch + 1
        return last_epoch or 0 <= steps <= trainer.global_step

    def on_validation_epoch_start(self) -> None:
        self._tell_losses_the_epoch()
        if self.trainer.world_size > 1:
            # Batch statistics differ between processes; the first one's go into the checkpoint.
            for buffer in self.network.buffers():
                torch.distributed.broadcast(buffer, src=0)
        self.metric.reset()
        self.compactness.reset()
        self.risks.reset()
        for store in (self.predictions, *self.predictions_by_decoder.values()):
            store.reset()
        self._decodes_by_all = self._is_last_validation()
        self.opinions = {}
        for mean in self.val_losses.values():
            mean.reset()
        self._not_finite_people = []

    def validation_step(self, batch: Batch, batch_index: int) -> torch.Tensor | None:
        """Score a batch; returns the maps that were decoded, for callbacks.

        None for a batch that does not count, which is scored by nobody: there is nothing in a
        validation's step that processes do together.
        """
        if not bool(batch["counted"].any()):
            return None
        all_heatmaps, maps = self.model.maps(batch["crop"])
        try:
            self._score(batch, batch_index, all_heatmaps, maps)
        except FloatingPointError as error:
            # Told at the end, by all processes together: the others may be in a collective by then.
            self._not_finite_people += people_of(batch, error)
        return maps

    def _score(
        self, batch: Batch, batch_index: int, all_heatmaps: torch.Tensor, maps: torch.Tensor
    ) -> None:
        visible, joints_hm = batch["visible"], self.joints_hm(batch)
        channels = self.loss.channels_per_joint
        # All read what the training's loss reads, its maps over its temperature: another one's
        # temperature is about that one's trainings.
        read = logits(first_maps(all_heatmaps, channels), self.loss.temperature)
        self.risks.update(read, joints_hm, visible)
        for name, loss in self.measured.items():
            assert isinstance(loss, HeatmapLoss)
            whole = loss.channels_per_joint == channels
            heatmaps = all_heatmaps if whole else first_maps(all_heatmaps, channels)
            if loss.measures_mass:
                heatmaps = self.loss.mass(heatmaps)
            else:
                heatmaps = logits(heatmaps, self.loss.temperature / loss.temperature)
            values = loss.per_joint(heatmaps, *self.targets(batch, loss))
            weights = loss.weights(joints_hm, visible, self.model.heatmap_size)
            self.val_losses[name].update(values, loss.selection(values, weights))
            if batch_index == 0:
                opinion = loss.second_opinion(heatmaps, joints_hm, visible)
                self.opinions |= {f"val/{name}/{key}": value for key, value in opinion.items()}
        decoded_hm, scores = self.model.decode(maps)
        joints_img = self.model.joints_img(decoded_hm, batch["crop_affine"])
        self.metric.update(batch["person_id"], joints_img, scores)
        compactness = map_compactness(self.model.first_maps(maps), joints_hm, visible)
        self.compactness.update(compactness, visible)
        columns = compactness._asdict()
        self.predictions.update(batch["person_id"], joints_img, scores, columns)
        for name, decoder in self.decoders.items() if self._decodes_by_all else ():
            decoded_hm, scores = self.model.decode(maps, decoder)
            joints_img = self.model.joints_img(decoded_hm, batch["crop_affine"])
            self.predictions_by_decoder[name].update(
                batch["person_id"], joints_img, scores, columns
            )

    def _refuse_not_finite(self) -> None:
        """Raise, in all processes, if the maps of validation people are not finite."""
        people = people_in_all(self._not_finite_people)
        if not people:
            return
        epoch = self.epochs_begun - 1 if self.trainer.state.fn != "fit" else self.current_epoch
        kept = self.last_checkpoint
        raise PosematchError(
            f"Epoch {max(epoch, 0) + 1}, step {self.global_step}: the network's maps of"
            f" {in_words(people, 'validation')} have NaN or inf; lower optimizer.lr or set"
            " trainer.gradient_clip_val"
            + (f"; the last checkpoint is kept: {kept}." if kept and kept.exists() else ".")
        )

    def on_validation_epoch_end(self) -> None:
        self._refuse_not_finite()
        # Collectives under DDP: every process takes part, every process gets the same figures.
        figures = {f"val/{name}": float(value) for name, value in self.metric.compute().items()}
        for name, mean in self.val_losses.items():
            value = float(mean.compute())
            if math.isfinite(value):  # not a number where no joint counts: a detector's boxes
                figures[f"val/loss/{name}"] = value
        compactness = self.compactness.compute()
        self.opinions |= {f"val/compactness/{name}": value for name, value in compactness.items()}
        self.opinions |= {f"val/theorem/{k}": v for k, v in self.risks.compute().items()}
        self.figures, self.figures_step = figures, self.trainer.global_step
        if self._decodes_by_all:
            self.decoders_step = self.trainer.global_step
        primary = f"val/{self.metric.primary}"
        for name, value in (figures | self.opinions).items():
            self.log(
                name,
                torch.tensor(value, dtype=torch.float64),
                prog_bar=name == primary,
                rank_zero_only=False,
                sync_dist=False,
            )

    def new_optimizer(self, scale: float = 1.0) -> Optimizer:
        """The optimizer of the network's weights, its learning rate times ``scale``.

        Raises
        ------
        PosematchError
            It refuses a value of its configuration.
        """
        matrices = [p for p in self.network.parameters() if p.requires_grad and p.ndim > 1]
        vectors = [p for p in self.network.parameters() if p.requires_grad and p.ndim <= 1]
        # Norms and biases are not decayed.
        try:
            optimizer = self.make_optimizer(
                [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}]
            )
        except ValueError as error:
            raise PosematchError(f"optimizer: {error}.") from error
        for group in optimizer.param_groups:
            group["lr"] *= scale
        prefer_fused(optimizer)
        return optimizer

    def new_schedule(
        self, optimizer: Optimizer, total_steps: int, steps_per_epoch: int
    ) -> LRScheduler:
        """The schedule of a training of so many optimizer steps."""
        return self.make_schedule(
            optimizer, total_steps=max(total_steps, 1), steps_per_epoch=steps_per_epoch
        )

    def names_of_moments(self, optimizer: Optimizer) -> set[str]:
        """What the optimizer remembers of each weight, by its own names.

        As it is set now: a schedule may have given it a momentum that its configuration has not.
        """
        weight = nn.Parameter(torch.zeros(1))
        weight.grad = torch.zeros(1)
        alike = self.make_optimizer([{"params": [weight]}])
        for key, value in optimizer.param_groups[0].items():
            if key not in ("params", "fused", "foreach"):
                alike.param_groups[0][key] = value
        alike.step()
        return set(alike.state[weight])

    def configure_optimizers(self) -> OptimizerLRScheduler:
        datamodule: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        scale = 1.0
        if self.reference_batch_size is not None:
            people = datamodule.batch_size * self.trainer.world_size
            scale = people * self.trainer.accumulate_grad_batches / self.reference_batch_size
        optimizer = self.new_optimizer(scale)
        # Not by Lightning's own count, which would start the loader's workers, and let them read
        # ahead, before a resumed training knows where it stands.
        steps = training_length(self.trainer, datamodule.train_batches())
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": self.new_schedule(optimizer, *steps), "interval": "step"},
        }


# The names of weights in checkpoints are those of the first version, which had no model.
_LONG, _SHORT = "model.network.", "network."


def _short_names(
    module: nn.Module, state_dict: dict[str, Any], prefix: str, metadata: dict[str, Any]
) -> None:
    _rename(state_dict, prefix + _LONG, prefix + _SHORT)


def _long_names(module: nn.Module, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
    _rename(state_dict, prefix + _SHORT, prefix + _LONG)


def _rename(state_dict: dict[str, Any], old: str, new: str) -> None:
    """Give the names another beginning; the order of all stays."""
    renamed = [
        (new + name.removeprefix(old) if name.startswith(old) else name, state_dict[name])
        for name in state_dict
    ]
    state_dict.clear()
    state_dict.update(renamed)


def training_length(trainer: pl.Trainer, batches: int) -> tuple[int, int]:
    """Optimizer steps of a training, and of an epoch of so many batches."""
    batches = limited(batches, trainer.limit_train_batches)
    per_epoch = max(1, -(-batches // trainer.accumulate_grad_batches))
    epochs, most = trainer.max_epochs, trainer.max_steps
    if epochs is None or epochs < 0:
        return most, per_epoch
    total = per_epoch * epochs
    return (min(total, most) if most >= 0 else total), per_epoch


def limited(available: int, limit: float | int | None) -> int:
    """Batches under Lightning's ``limit_*_batches``: a share (float) or a number (int)."""
    if limit is None:
        return available
    return int(available * limit) if isinstance(limit, float) else min(available, limit)
