"""Steps whose loss or gradient is not finite: skipped, counted, kept for reproduction, and the end.

Nothing of such a step stays: no weight, no moment of the optimizer, no running statistic, no
average of weights. It takes its turn in the schedule and among the batches, so that what follows
is what would have followed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import lightning.pytorch as pl
import torch

from posematch.arithmetic import FiniteCheck, NotFiniteError
from posematch.console import tell
from posematch.data.crops import Batch
from posematch.errors import PosematchError
from posematch.files import replacing
from posematch.runs.folder import RunFolder
from posematch.training.loggers import takes_values

if TYPE_CHECKING:  # it imports from here
    from posematch.training.module import PoseModule

DUMP_VERSION = 1
_KEPT_DUMPS = 3  # each is as large as the network
_TOLD_ROWS = 3
_NAMED_PEOPLE = 5


@dataclass
class StepLosses:
    """What the batches of one optimizer step have come to, in this process.

    Attributes
    ----------
    total
        Sum of their losses, those that could be computed.
    spoilt
        Whether one could not.
    people
        Whose maps or loss are not finite there.
    checks
        Those that were put off, with their batches.
    """

    total: torch.Tensor | float = 0.0
    spoilt: bool = False
    people: list[int] = field(default_factory=list)
    checks: list[tuple[Batch, FiniteCheck]] = field(default_factory=list)

    def sum(self, device: torch.device) -> torch.Tensor:
        """`total`, NaN where a loss could not be computed or a check would raise; no waiting."""
        total = torch.as_tensor(math.nan if self.spoilt else self.total, device=device)
        for _, check in self.checks:
            total = total + check.total * 0
        return total

    def ask(self) -> None:
        """Ask what was put off, so that `people` and `spoilt` are known."""
        for batch, check in self.checks:
            try:
                check.ask()
            except FloatingPointError as error:
                self.spoilt = True
                self.people += people_of(batch, error)
        self.checks = []


class SkippedSteps(pl.Callback):
    """Skips each optimizer step whose loss or gradient is not finite; too many in a row end it.

    With gradient accumulation a loss that is not finite takes its whole group along. A gradient
    that overflows in half precision while the scale is above 1 is the scaler's ordinary search
    for a scale and is left to it.

    Parameters
    ----------
    folder
        The run's; the first step of each row is written to its ``divergence/``.
    most
        So many in a row end the training.
    save
        Writes the last checkpoint.
    """

    def __init__(self, folder: RunFolder, most: int, save: Callable[[pl.Trainer], None]) -> None:
        self.folder = folder
        self.save = save
        self.most = most
        self.in_epoch = 0
        self.in_a_row = 0
        self.first_step = self.first_epoch = 0  # of the row
        self.people: list[int] = []  # of the row
        self._rows_told = 0
        self._batches: list[Batch] = []  # of this optimizer step
        self._buffers: list[list[torch.Tensor]] = []  # of each kind of number
        self._before: list[
            list[torch.Tensor]
        ] = []  # the buffers' values before this optimizer step

    def state_dict(self) -> dict[str, Any]:
        return {
            "in_epoch": self.in_epoch,
            "in_a_row": self.in_a_row,
            "first_step": self.first_step,
            "first_epoch": self.first_epoch,
            "people": list(self.people),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.in_epoch = int(state_dict["in_epoch"])
        self.in_a_row = int(state_dict["in_a_row"])
        self.first_step = int(state_dict["first_step"])
        self.first_epoch = int(state_dict["first_epoch"])
        self.people = [int(one) for one in state_dict["people"]]

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        module = _pose(pl_module)
        module.skips_steps = True
        module.last_checkpoint = self.folder.last_checkpoint

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        module = _pose(pl_module)
        module.skipped_steps = self.in_epoch  # a resumed training may begin inside an epoch
        # Each kind by itself: a list of several kinds is copied tensor by tensor, of which HRNet's
        # batch normalisations have a thousand.
        by_kind: dict[torch.dtype, list[torch.Tensor]] = {}
        for buffer in module.network.buffers():
            by_kind.setdefault(buffer.dtype, []).append(buffer)
        self._buffers = list(by_kind.values())
        self._before = [[one.clone() for one in kind] for kind in self._buffers]

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.in_epoch = _pose(pl_module).skipped_steps = 0

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if batch_idx % trainer.accumulate_grad_batches == 0:
            if self.in_a_row >= self.most:
                # Here, where the loops count all earlier batches and not this one.
                sentence = self._sentence()
                self.in_a_row = 0  # who resumes may try as many
                self.save(trainer)
                raise PosematchError(sentence)
            _pose(pl_module).step_losses = StepLosses()
            self._copy(self._before, self._buffers)
            self._batches = []
        self._batches.append(batch)

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        module = _pose(pl_module)
        norm = module.gradient_norm()
        norm_now, losses_now = self._everywhere(module, norm)
        if math.isfinite(norm_now) and math.isfinite(losses_now):
            module.step_skipped = False
            self.in_a_row, self.people, self._batches = 0, [], []
            return
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        if math.isfinite(losses_now) and scaler is not None and scaler.get_scale() > 1:
            del module.step_figures["train/grad_norm"]
            return
        for parameter in module.parameters():
            parameter.grad = None  # an optimizer passes over what has none
        self._copy(self._buffers, self._before)
        module.step_figures = {}
        self._refuse_broken_weights(trainer, module)
        self._count(trainer, module, "gradient" if math.isfinite(losses_now) else "loss")

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        module = _pose(pl_module)
        every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
        if (batch_idx + 1) % max(every, 1) == 0:
            module.loss.check_health()
        if takes_values(trainer):
            # On the CPU: a number would be copied to the device, which is to wait for it.
            skipped = torch.tensor(float(module.skipped_steps))
            pl_module.log("train/skipped_steps", skipped, batch_size=len(batch["crop"]))

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # The epoch's own checkpoint has these weights. None ever changed: no training either.
        if self.in_a_row and self.in_a_row >= min(self.most, trainer.global_step):
            raise PosematchError(self._sentence())

    @staticmethod
    def _copy(into: list[list[torch.Tensor]], values: list[list[torch.Tensor]]) -> None:
        for targets, sources in zip(into, values, strict=True):
            torch._foreach_copy_(targets, sources)

    @staticmethod
    def _everywhere(module: PoseModule, norm: torch.Tensor) -> tuple[float, float]:
        """The gradient's norm and the sum of losses, finite if they are in all processes.

        Waits for the device, once, and fetches the step's figures on this occasion.
        """
        total = module.step_losses.sum(module.device)
        sums = torch.stack([norm.detach().to(module.device).float(), total.float()])
        if _distributed():
            torch.distributed.all_reduce(sums)
        figures = {**module.step_figures, "train/grad_norm": norm.detach()}
        values = [torch.as_tensor(one).detach().double().view(1) for one in figures.values()]
        norm_now, losses_now, *fetched = torch.cat([sums.double(), *values]).tolist()
        module.step_figures = dict(zip(figures, fetched, strict=True))
        return norm_now, losses_now

    def _count(self, trainer: pl.Trainer, module: PoseModule, cause: str) -> None:
        """Take down a step that is skipped; its gradients are gone, the buffers as before it."""
        losses = module.step_losses
        losses.ask()
        if _any_process(losses.spoilt):
            people = people_in_all(losses.people)
        else:
            people = people_in_all([i for one in self._batches for i in one["person_id"].tolist()])
        step, epoch = trainer.global_step, trainer.current_epoch
        first = self.in_a_row == 0
        if first:
            self.first_step, self.first_epoch, self.people = step, epoch, []
        self.in_a_row += 1
        self.in_epoch += 1
        self.people = list(dict.fromkeys([*self.people, *people]))
        module.step_skipped, module.skipped_steps = True, self.in_epoch
        if not first:
            return
        kept = self._dump(trainer, module, cause, people)
        if trainer.is_global_zero and self._rows_told < _TOLD_ROWS:
            self._rows_told += 1
            last = "; later ones are only counted, in metrics.csv"
            tell(
                f"Epoch {epoch + 1}, step {step}: the {cause} is NaN or infinite with"
                f" {in_words(people)}; the step is skipped ({kept})"
                f"{last if self._rows_told == _TOLD_ROWS else ''}."
            )

    def _refuse_broken_weights(self, trainer: pl.Trainer, module: PoseModule) -> None:
        """Raise if the steps before have made a weight infinite: there is nothing to go on with."""
        name = first_nonfinite(module.network.named_parameters())
        if name is None:  # the same in all processes
            return
        kept = self.folder.last_checkpoint
        raise PosematchError(
            f"Epoch {trainer.current_epoch + 1}, step {trainer.global_step}: the weight {name} has"
            " become NaN or infinite; lower optimizer.lr or set trainer.gradient_clip_val"
            + (f"; the last checkpoint is kept: {kept}." if kept.exists() else ".")
        )

    def _dump(self, trainer: pl.Trainer, module: PoseModule, cause: str, people: list[int]) -> str:
        """Write what reproduces the step; what is there, in words."""
        batches = [{k: v.cpu() for k, v in one.items()} for one in self._batches]  # type: ignore[attr-defined]
        # Those of one process after those of another; a network without a common batch
        # normalisation meets them one by one in the training, too.
        batches = [one for part in _from_all(batches) for one in part]
        if not trainer.is_global_zero:
            return ""
        path = self.folder.dump(trainer.global_step)
        content = {
            "version": DUMP_VERSION,
            "epoch": trainer.current_epoch,
            "step": trainer.global_step,
            "cause": cause,
            "people": people,
            "precision": str(trainer.precision),
            "processes": trainer.world_size,
            "loss": module.loss_name,
            "convention": module.model.convention,
            "network": {name: value.cpu() for name, value in module.network.state_dict().items()},
            "batches": batches,
        }
        try:
            with replacing(path) as file:
                torch.save(content, file)
            older = sorted(self.folder.divergence.glob("step=*.pt"))
            for one in [other for other in older if other != path][: 1 - _KEPT_DUMPS]:
                one.unlink()
        except OSError as error:  # the training is worth more
            return f"{path} cannot be written: {error.strerror}"
        return f"{path} reproduces it: scripts/replay_step.py run={self.folder.path}"

    def _sentence(self) -> str:
        last = self.first_step + self.in_a_row - 1
        steps = f"step {last}"
        if self.in_a_row > 1:
            steps = f"steps {self.first_step} to {last}, {self.in_a_row} in a row,"
        # The last one is about to be written, of weights that may have led here.
        dump, kept = self.folder.dump(self.first_step), self.folder.previous_checkpoint
        reproduced = (
            f"; {dump} reproduces the first (scripts/replay_step.py run={self.folder.path})"
            if dump.exists()
            else ""
        )
        return (
            f"Epoch {self.first_epoch + 1}, {steps} had a loss or gradient that is NaN or infinite,"
            f" with {in_words(self.people)}{reproduced}; the weights are those from before, and the"
            " last finite checkpoint is kept: lower optimizer.lr or set trainer.gradient_clip_val,"
            f" and start from an earlier one with checkpoint={kept}."
        )


def first_nonfinite(named_tensors: Iterable[tuple[str, torch.Tensor]]) -> str | None:
    """Name of the first tensor that holds NaN or inf, or None.

    Parameters
    ----------
    named_tensors
        As ``state_dict().items()``; tensors of integers hold neither.

    Returns
    -------
    One pass over the memory where all is finite; a device is waited for once per kind of tensor.
    """
    named = [
        (name, tensor.detach())
        for name, tensor in named_tensors
        if tensor.is_floating_point() or tensor.is_complex()
    ]
    kinds: dict[Any, list[torch.Tensor]] = {}
    for _, tensor in named:
        kinds.setdefault((tensor.device, tensor.dtype), []).append(tensor)
    # A norm is finite only if all values are; it may overflow where they are.
    norms = (torch.stack(torch._foreach_norm(tensors)).sum() for tensors in kinds.values())
    if all(math.isfinite(float(norm)) for norm in norms):
        return None
    return next((name for name, tensor in named if not bool(tensor.isfinite().all())), None)


def people_of(batch: Batch, error: FloatingPointError) -> list[int]:
    """Ids of the people of a batch whom an error is about; all of them where it does not say."""
    ids: list[int] = batch["person_id"].tolist()
    return [ids[row] for row in error.samples] if isinstance(error, NotFiniteError) else ids


def in_words(people: Sequence[int], kind: str = "") -> str:
    """Ids of people in a sentence: the first few, and how many they are."""
    what = f"{kind} ".lstrip() + ("person" if len(people) == 1 else "people")
    if not people:
        return f"unnamed {what}"
    named = ", ".join(str(one) for one in people[:_NAMED_PEOPLE])
    more = len(people) - _NAMED_PEOPLE
    return f"{len(people)} {what} ({named}{f' and {more} more' if more > 0 else ''})"


def people_in_all(ids: Sequence[int]) -> list[int]:
    """Ids of all processes, ascending, each once; a collective."""
    return sorted({one for part in _from_all(list(ids)) for one in part})


def _from_all(own: Any) -> list[Any]:
    """What each process has, in their order; a collective."""
    if not _distributed():
        return [own]
    everything: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(everything, own)
    return everything


def _any_process(here: bool) -> bool:
    return any(_from_all(here))


def _distributed() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def _pose(module: pl.LightningModule) -> PoseModule:
    return cast("PoseModule", module)
