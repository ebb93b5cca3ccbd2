"""Files whose author means harm: to run something, to read or delete elsewhere, to fill memory."""

from __future__ import annotations

import io
import os
import pickle
import shutil
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import scipy.io
import torch

from inputs.case import LAST, MAPS, TABLE, VALID, Bench, Case, Command
from inputs.malformed import edit_yaml

_REFUSED = ("config.yaml", "_target_", "posematch")


# --- targets: what a configuration names is made, so a stranger's names what it likes


def _touching(bench: Bench) -> dict[str, Any]:
    """Leaves ``executed`` beside the case's folders."""
    return {"_target_": "torch.utils.collect_env.run", "command": f"touch {bench.canary}"}


_PLACES: dict[str, Callable[[Any, Any], Any]] = {
    # Where in a run's configuration the target is put.
    "optimizer": lambda config, target: config.update(optimizer=target),
    "loss": lambda config, target: config.update(loss={"name": "dot_mse", **target}),
    "loss_mask": lambda config, target: config["loss"].update(mask=target),
    "loss_argument": lambda config, target: config["loss"].update(epsilon=target),
    "decoder": lambda config, target: config.update(decoder=target),
    "decoder_argument": lambda config, target: config["decoder"].update(edge_rule=target),
    "schedule": lambda config, target: config.update(schedule=target),
    "backbone": lambda config, target: config.update(backbone=target),
    "backbone_name": lambda config, target: config["backbone"].update(name=target),
    "data": lambda config, target: config.update(data={**config["data"], **target}),
    "data_spec": lambda config, target: config["data"].update(spec=target),
    "data_geometry": lambda config, target: config["data"].update(geometry=target),
    "data_root": lambda config, target: config["data"].update(root=target),
    "in_a_list": lambda config, target: config["data"].update(input_size=[target, 64]),
    "callbacks": lambda config, target: config.update(callbacks={"ema": target}),
    "decoders": lambda config, target: config.update(decoders={"mine": target}),
    "measure": lambda config, target: config.update(measure={"mine": target}),
    "logger": lambda config, target: config.update(logger={"mine": target}),
}
_TARGETS = (
    "os.system",
    "subprocess.check_output",
    "builtins.eval",
    "posematch.training.run.shutil.rmtree",
    "posematch.runs.folder.subprocess.getoutput",
    "posematch.runs.finished.pd.read_pickle",
    "posematch.networks.checkpoints.torch.load",
    "posematch.data.synthetic.ensure_synthetic",
    "posematch.files.write_text",
    "posematch.losses.DotMSE.__init__.__globals__",
    "posematch.evaluation.export.save_weights",
    "hydra.utils.instantiate",
    "timm.create_model",
)


def targets() -> Iterator[Case]:
    for place, put in _PLACES.items():
        for how in ("evaluate", "export") if place.startswith("backbone") else ("evaluate",):

            def make(bench: Bench, put: Any = put, how: str = how) -> Command:
                run = bench.run()
                target = _touching(bench)
                edit_yaml(bench, run / "config.yaml", lambda config: put(config, target))
                if how == "export":
                    return _export(bench, run)
                return bench.evaluate_checkpoint(run)

            # Of parts that scoring does not make, nothing need be said.
            yield Case(f"target-{place}-{how}", "hostile", make, (), "either")
    for target in _TARGETS:

        def make_target(bench: Bench, target: str = target) -> Command:
            run, victim = bench.run(), bench.new_victim() / "thesis"
            command = f"touch {bench.canary}"
            edit_yaml(
                bench,
                run / "config.yaml",
                lambda config: config.update(
                    decoder={"_target_": target, "_args_": [_argument(target, victim, command)]}
                ),
            )
            return bench.evaluate_checkpoint(run)

        yield Case(f"target-{target}", "hostile", make_target, _REFUSED)

    def own_package(bench: Bench) -> Command:
        run = bench.run()
        package = bench.inputs / "theirs"
        bench.replace(package / "__init__.py", f"open({str(bench.canary)!r}, 'w')")
        edit_yaml(
            bench, run / "config.yaml", lambda c: c.update(decoder={"_target_": "theirs.Decoder"})
        )
        # The folder a command is given in is no place to import from.
        shutil.copytree(package, _made(bench.out) / "theirs")
        return bench.evaluate_checkpoint(run)

    yield Case("target-package-in-the-working-folder", "hostile", own_package, _REFUSED)

    def by_resume(bench: Bench) -> Command:
        run = bench.run()
        edit_yaml(bench, run / "config.yaml", lambda c: c.update(optimizer=_touching(bench)))
        return bench.resume(run)

    yield Case("target-resume", "hostile", by_resume, ("resume=", "config.yaml"))

    def by_interpolation(bench: Bench) -> Command:
        run = bench.run()
        edit_yaml(bench, run / "config.yaml", lambda c: c["decoder"].update(
            _target_="${oc.env:HOME}"))  # fmt: skip
        return bench.evaluate_checkpoint(run)

    yield Case("target-from-the-environment", "hostile", by_interpolation, _REFUSED)


def _argument(target: str, victim: Path, command: str) -> Any:
    if target.endswith(("rmtree", "ensure_synthetic", "write_text", "save_weights")):
        return str(victim)
    if target.endswith("eval"):
        return f"__import__('os').system({command!r})"
    return [command] if "check_output" in target else command


def _export(bench: Bench, run: Path) -> Command:
    arguments = [f"checkpoint={run}", "layout=posematch", "output=x.pth"]
    return Command("export_weights", arguments)


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


# --- pickles


class _Touch:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.system, (f"touch {self.path}",))


def pickles() -> Iterator[Case]:
    def weights(bench: Bench, suffix: str, how: str) -> Command:
        file = bench.inputs / f"weights{suffix}"
        content = {"state_dict": {"a": torch.zeros(1)}, "more": _Touch(bench.canary)}
        if how == "plain":
            file.write_bytes(pickle.dumps(content))
        else:
            torch.save(content, file, _use_new_zipfile_serialization=how == "zip")
        return bench.evaluate_weights(file)

    for suffix in (".ckpt", ".pth"):
        for how in ("zip", "legacy", "plain"):
            yield Case(
                f"pickle{suffix}-{how}",
                "hostile",
                lambda bench, suffix=suffix, how=how: weights(bench, suffix, how),
                (f"weights{suffix}",),
            )

    def resumed(bench: Bench) -> Command:
        run = bench.run()
        content = torch.load(run / LAST, map_location="cpu", weights_only=True)
        (run / LAST).unlink()
        torch.save(content | {"callbacks": {"x": _Touch(bench.canary)}}, run / LAST)
        return bench.resume(run)

    yield Case("pickle-resume", "hostile", resumed, ("last.ckpt", "resume="))

    def npz(bench: Bench) -> Command:
        run = bench.run()
        with np.load(run / MAPS) as stored:
            arrays = dict(stored)
        (run / MAPS).unlink()
        arrays["image"] = np.array([_Touch(bench.canary)] * len(arrays["peaks"]), object)
        np.savez(run / MAPS, **arrays)
        other = bench.copy(bench.good.runs["other"], "a")
        return bench.qualitative(other, run)

    yield Case("pickle-npz", "hostile", npz, ("epoch=000.npz",))

    def pickled_instead(bench: Bench) -> Command:
        run = bench.run()
        bench.replace(run / MAPS, pickle.dumps(_Touch(bench.canary)))
        other = bench.copy(bench.good.runs["other"], "a")
        return bench.qualitative(other, run)

    yield Case("pickle-named-npz", "hostile", pickled_instead, ("epoch=000.npz",))

    def parquet(bench: Bench) -> Command:
        run = bench.run()
        table = pq.read_table(run / TABLE)
        (run / TABLE).unlink()
        extension = b"arrow.py_extension_type"
        fields = [
            field.with_metadata({b"ARROW:extension:name": extension,
                                 b"ARROW:extension:metadata": pickle.dumps(_Touch(bench.canary))})
            for field in table.schema
        ]  # fmt: skip
        schema = pa.schema(fields, {b"pandas": pickle.dumps(_Touch(bench.canary))})
        pq.write_table(pa.table(table.columns, schema=schema), run / TABLE)
        return bench.evaluate_run(run)

    yield Case("pickle-parquet-metadata", "hostile", parquet, (), "either")

    def yaml_tag(bench: Bench) -> Command:
        run = bench.run()
        text = f"a: !!python/object/apply:os.system ['touch {bench.canary}']\n"
        bench.replace(run / "config.yaml", text)
        return bench.evaluate_checkpoint(run)

    yield Case("yaml-python-tag", "hostile", yaml_tag, ("config.yaml",))

    def mat_object(bench: Bench) -> Command:
        file = bench.inputs / "p.mat"
        scipy.io.savemat(file, {"preds": np.array([[{"x": 1}]], object)})
        return bench.evaluate_predictions(file)

    yield Case("mat-objects", "hostile", mat_object, ("p.mat",))


# --- paths


def _mpii_and_a_photo_outside(bench: Bench, how: str) -> tuple[Path, str]:
    """A data set, and a name by which a photo of the victim's would be found from it."""
    photo = sorted((bench.new_victim() / "mpii/images").iterdir())[0]
    root = bench.copy(bench.good.mpii, "mpii")
    if how == "link":
        (root / "link.jpg").symlink_to(photo)
        return root, "link.jpg"
    return root, str(photo) if how == "absolute" else f"../../victim/mpii/images/{photo.name}"


def _name_photos(run: Path, name: str) -> None:
    """All kept heatmaps of a run are of this photo."""
    with np.load(run / MAPS) as stored:
        arrays = dict(stored)
    (run / MAPS).unlink()
    arrays["image"] = np.array([name] * len(arrays["peaks"]))
    np.savez(run / MAPS, **arrays)


def _of(data: str, **stored: Any) -> Callable[[dict[str, Any]], None]:
    """A change of a configuration: its data are MPII's or COCO's, somewhere."""

    def change(config: dict[str, Any]) -> None:
        for key in ("spec", "skeleton"):
            del config["data"][key]
        config["data"].update(stored, _target_=f"posematch.data.datamodule.{data}DataModule")

    return change


def paths() -> Iterator[Case]:
    def best(bench: Bench) -> Command:
        run, victim = bench.run(), bench.new_victim()
        content = torch.load(run / LAST, map_location="cpu", weights_only=True)
        (run / LAST).unlink()
        # Of Lightning's own, which earlier versions had, and of each of ours.
        content["callbacks"]["ModelCheckpoint{'monitor': 'val/PCKh@0.5', 'mode': 'max'}"] = {}
        for state in content["callbacks"].values():
            state.update(
                dirpath=str(run / "checkpoints"),
                best_model_path=str(victim / "thesis"),
                last_model_path=str(victim / "thesis"),
                kth_best_model_path=str(victim / "thesis"),
                best_k_models={str(victim / "thesis"): torch.tensor(-1.0)},
                best_model_score=torch.tensor(-1.0),
            )
        # The schedule of a training of two epochs, or it would be refused for that.
        (schedule,) = content["lr_schedulers"]
        schedule["total_steps"] *= 2
        for phase in schedule["_schedule_phases"]:
            phase["end_step"] = 2 * (phase["end_step"] + 1) - 1
        torch.save(content, run / LAST)
        (run / "result.json").unlink()
        # An epoch that is still to come, so that there is something to save over it.
        edit_yaml(bench, run / "config.yaml", lambda c: c["trainer"].update(max_epochs=2))
        command = bench.train(f"resume={run}", "trainer.max_epochs=2")
        return Command(command.script, command.arguments, command.named, writes_inputs=True)

    yield Case("best_model_path", "hostile", best, ("last.ckpt", "resume="), "either")

    def stored_root(bench: Bench, how: str) -> Command:
        victim = bench.new_victim()
        a, b = bench.run(), bench.run("other")
        stored = {"root": str(victim / "mpii"), "cache_folder": str(victim / "cache")}
        for run in (a, b):
            edit_yaml(bench, run / "config.yaml", lambda c: c["data"].update(stored, name="mpii"))
            table = pd.read_parquet(run / TABLE)
            (run / TABLE).unlink()
            name = sorted((victim / "mpii/images").iterdir())[0].name
            table.assign(image=f"images/{name}").to_parquet(run / TABLE)
            _name_photos(run, f"images/{name}")
        if how == "compare":
            return bench.compare(a, b, "people=2")
        if how == "qualitative":
            return bench.qualitative(a, b)
        return bench.report(bench.inputs, "joints=1")

    for how in ("compare", "qualitative", "report"):
        yield Case(
            f"stored-data-root-{how}",
            "hostile",
            lambda bench, how=how: stored_root(bench, how),
            (),
            "either",
        )

    def checkpoint_root(bench: Bench) -> Command:
        run, victim = bench.run(), bench.new_victim()
        edit_yaml(bench, run / "config.yaml", _of("MPII", root=str(victim / "mpii")))
        arguments = [f"checkpoint={run}", "data.workers=0", "trainer.accelerator=cpu"]
        return Command("evaluate", arguments)

    yield Case("stored-data-root-evaluate", "hostile", checkpoint_root, ("data.root",), "refused")

    def drawn_elsewhere(bench: Bench) -> Command:
        run, victim = bench.run(), bench.new_victim()
        edit_yaml(bench, run / "config.yaml", lambda c: c["data"].update(root=str(victim)))
        arguments = [f"checkpoint={run}", "data.workers=0", "trainer.accelerator=cpu"]
        return Command("evaluate", arguments)

    yield Case("stored-root-to-draw-into", "hostile", drawn_elsewhere, ("data.root",), "refused")

    def cache(bench: Bench) -> Command:
        """A cache belongs below the root that the user names, wherever the run says."""
        run, victim = bench.run(), bench.new_victim()
        stored = {"cache": True, "cache_folder": str(victim / "cache")}
        edit_yaml(bench, run / "config.yaml", lambda c: c["data"].update(stored))
        root = bench.copy(bench.good.data, "data")
        command = bench.evaluate_checkpoint(run, f"data.root={root}")
        arguments = [one for one in command.arguments if str(bench.good.data) not in one]
        return Command("evaluate", arguments, (), writes_inputs=True)

    yield Case("stored-cache-folder", "hostile", cache, (), "either")

    for how in ("up", "absolute", "link"):

        def photo_name(bench: Bench, how: str = how) -> Command:
            victim = bench.new_victim()
            photo = sorted((victim / "mpii/images").iterdir())[0]
            root = bench.copy(bench.good.mpii, "mpii")
            name = str(photo) if how == "absolute" else f"../../../victim/mpii/images/{photo.name}"
            bench.edit_json(root / "annot/valid.json", lambda c: c[0].update(image=name))
            weights = bench.copy(bench.good.runs["mpii"] / LAST, "weights.ckpt")
            return bench.evaluate_weights(weights, root)

        def coco_name(bench: Bench, how: str = how) -> Command:
            victim = bench.new_victim()
            photo = sorted((victim / "mpii/images").iterdir())[0]
            root = bench.copy(bench.good.coco, "coco")
            name = str(photo) if how == "absolute" else f"../../../victim/mpii/images/{photo.name}"
            bench.edit_json(root / VALID, lambda c: c["images"][0].update(file_name=name))
            weights = bench.copy(bench.good.runs["coco"] / LAST, "weights.ckpt")
            return bench.evaluate_coco(weights, root)

        if how != "link":  # in the user's own folder: the user's word (SECURITY.md)
            yield Case(f"mpii-photo-{how}", "hostile", photo_name, (".jpg",))
            yield Case(f"coco-photo-{how}", "hostile", coco_name, (Path(VALID).name, ".jpg"))

        def maps_image(bench: Bench, how: str = how) -> Command:
            root, name = _mpii_and_a_photo_outside(bench, how)
            a, b = bench.run(), bench.run("other")
            for run in (a, b):
                _name_photos(run, name)
            return bench.qualitative(a, b, f"data_root={root}")

        yield Case(f"maps-photo-{how}", "hostile", maps_image, (), "either")

        def table_image(bench: Bench, how: str = how) -> Command:
            root, name = _mpii_and_a_photo_outside(bench, how)
            a, b = bench.run(), bench.run("other")
            for run in (a, b):
                table = pd.read_parquet(run / TABLE)
                (run / TABLE).unlink()
                table.assign(image=name).to_parquet(run / TABLE)
            return bench.compare(a, b, "people=2", "data=mpii", f"data.root={root}")

        yield Case(f"table-photo-{how}", "hostile", table_image, (), "either")

    for file in ("config.yaml", "environment.json", "result.json", "metrics.csv", TABLE):

        def linked(bench: Bench, file: str = file) -> Command:
            run, victim = bench.run(), bench.new_victim()
            shutil.copy(run / file, victim / Path(file).name)
            (run / file).unlink()
            (run / file).symlink_to(victim / Path(file).name)
            if file == "metrics.csv":
                bench.copy(bench.good.runs["other"], "run_other")
                return bench.report(bench.inputs, "joints=0")
            return bench.evaluate_run(run)

        yield Case(f"link-{file}", "hostile", linked, (Path(file).name,))

    def linked_checkpoint(bench: Bench) -> Command:
        run, victim = bench.run(), bench.new_victim()
        shutil.copy(run / LAST, victim / "last.ckpt")
        (run / LAST).unlink()
        (run / LAST).symlink_to(victim / "last.ckpt")
        return bench.evaluate_checkpoint(run)

    yield Case("link-last.ckpt", "hostile", linked_checkpoint, ("last.ckpt",))

    def linked_folder(bench: Bench) -> Command:
        run, victim = bench.run(), bench.new_victim()
        shutil.move(run / "predictions", victim / "predictions")
        (run / "predictions").symlink_to(victim / "predictions")
        return bench.evaluate_run(run)

    yield Case("link-predictions-folder", "hostile", linked_folder, ("predictions", "run_mpii"))

    def linked_output(bench: Bench) -> Command:
        """A run folder in which resuming would write through a link."""
        run, victim = bench.run(), bench.new_victim()
        (run / "figures").rename(run / "old")
        (run / "figures").symlink_to(victim / "thesis")
        command = bench.resume(run)
        return Command(command.script, command.arguments, command.named, writes_inputs=True)

    yield Case("link-to-write-through", "hostile", linked_output, (), "either")

    for how in ("external", "soft", "virtual", "raw"):

        def h5_link(bench: Bench, how: str = how) -> Command:
            victim = bench.new_victim()
            file = bench.inputs / "p.h5"
            with h5py.File(file, "w") as content:
                if how == "external":
                    content["preds"] = h5py.ExternalLink(str(victim / "p.h5"), "/preds")
                elif how == "soft":
                    content["out"] = h5py.ExternalLink(str(victim / "p.h5"), "/")
                    content["preds"] = h5py.SoftLink("/out/preds")
                elif how == "virtual":
                    layout = h5py.VirtualLayout((8, 16, 2), "f8")
                    layout[:] = h5py.VirtualSource(str(victim / "p.h5"), "preds", (8, 16, 2))
                    content.create_virtual_dataset("preds", layout)
                else:
                    content.create_dataset(
                        "preds", (8, 16, 2), "f8", external=[(str(victim / "p.h5"), 0, 2048)]
                    )
            return bench.evaluate_predictions(file)

        yield Case(f"h5-{how}", "hostile", h5_link, ("p.h5",))

    def annotations_outside(bench: Bench) -> Command:
        run, victim = bench.run("coco"), bench.new_victim()
        stored = {"valid_annotations": str(victim / "config.yaml"), "valid_images": str(victim)}
        edit_yaml(bench, run / "config.yaml", _of("COCO", name="coco", **stored))
        root = bench.copy(bench.good.coco, "coco")
        arguments = [f"checkpoint={run}", f"data.root={root}", "data.workers=0"]
        return Command("evaluate", [*arguments, "trainer.accelerator=cpu"])

    yield Case("stored-annotations-outside", "hostile", annotations_outside,
               ("valid_annotations", "config.yaml"))  # fmt: skip


# --- bombs: small files that stand for more than any memory or patience


def _aliases() -> str:
    lines = ["a0: &a0 [" + ",".join(["x"] * 10) + "]"]
    lines += [f"a{k}: &a{k} [" + ",".join([f"*a{k - 1}"] * 10) + "]" for k in range(1, 12)]
    return "\n".join(lines) + "\n"


def _expanded(bench: Bench) -> dict[str, Any]:
    """Weights of the right names, one number each, that claim terabytes."""
    content = torch.load(bench.good.runs["mpii"] / LAST, map_location="cpu", weights_only=True)
    return {name: torch.zeros(1).expand(2**20, 2**20) for name in content["state_dict"]}


def _zip_bomb(path: Path, name: str, gigabytes: int = 2) -> None:
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open(name, "w", force_zip64=True) as file,
    ):
        for _ in range(gigabytes * 64):
            file.write(bytes(2**24))


def bombs() -> Iterator[Case]:
    for reader in ("evaluate_run", "evaluate_checkpoint", "resume"):

        def aliases(bench: Bench, reader: str = reader) -> Command:
            run = bench.run()
            text = (run / "config.yaml").read_text("utf-8")
            bench.replace(run / "config.yaml", _aliases() + text)
            return getattr(bench, reader)(run)

        yield Case(f"aliases-{reader}", "hostile", aliases, ("config.yaml",))

    def auto(bench: Bench, kind: str) -> Command:
        """One bad folder in the run root must not stop who resumes another run."""
        bad = bench.inputs / "runs" / "2099-01-01_bad"
        bad.mkdir(parents=True)
        if kind == "aliases":
            (bad / "config.yaml").write_text(_aliases(), "utf-8")
        elif kind == "pipe":
            os.mkfifo(bad / "config.yaml")
        elif kind == "nested":
            (bad / "config.yaml").write_text("[" * 100_000, "utf-8")
        elif kind == "list":
            (bad / "config.yaml").write_text("[1]", "utf-8")
        elif kind == "link":
            (bad / "config.yaml").symlink_to(bench.new_victim() / "config.yaml")
        command = bench.train("resume=auto", f"run_root={bench.inputs / 'runs'}")
        arguments = [one for one in command.arguments if one != "run_root=runs"]
        return Command(command.script, arguments, command.named, writes_inputs=True)

    for kind in ("aliases", "pipe", "nested", "list", "link"):
        yield Case(f"auto-{kind}", "hostile", lambda bench, kind=kind: auto(bench, kind), (),
                   "works")  # fmt: skip

    def config_dir(bench: Bench) -> Command:
        bench.replace(bench.inputs / "own" / "experiment" / "mine.yaml",
                      "# @package _global_\n" + _aliases())  # fmt: skip
        return bench.train("experiment=mine", f"--config-dir={bench.inputs / 'own'}")

    yield Case("aliases-config-dir", "hostile", config_dir, ("mine.yaml", "a0"))

    def multirun(bench: Bench) -> Command:
        """Every file of the folder is looked at for the nearest name, chosen or not."""
        bench.replace(bench.inputs / "own" / "loss" / "other.yaml", _aliases())
        os.mkfifo(bench.inputs / "own" / "loss" / "pipe.yaml")
        return bench.train("losss=mine", f"--config-dir={bench.inputs / 'own'}")

    yield Case("pipe-in-config-dir", "hostile", multirun, ("losss", "pipe.yaml", "other.yaml"))

    def expanded(bench: Bench) -> Command:
        file = bench.inputs / "weights.pth"
        torch.save(_expanded(bench), file)
        return bench.evaluate_weights(file)

    yield Case("checkpoint-expanded", "hostile", expanded, ("weights.pth",))

    def expanded_other(bench: Bench) -> Command:
        """The network's weights are right, and something else beside them is enormous."""
        file = bench.inputs / "weights.pth"
        content = torch.load(bench.good.runs["mpii"] / LAST, map_location="cpu", weights_only=True)
        torch.save({"state_dict": content["state_dict"],
                    "more": torch.zeros(1).expand(2**31)}, file)  # fmt: skip
        return bench.evaluate_weights(file)

    yield Case("checkpoint-expanded-beside", "hostile", expanded_other, ("weights.pth",), "either")

    def compressed(bench: Bench, entry: str) -> Command:
        file = bench.inputs / "weights.pth"
        torch.save({"a": torch.zeros(4)}, file)
        parts = {}
        with zipfile.ZipFile(file) as archive:
            parts = {one: archive.read(one) for one in archive.namelist()}
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
            for name, content in parts.items():
                with archive.open(name, "w", force_zip64=True) as out:
                    out.write(content)
                    for _ in range(128 if name.endswith(entry) else 0):
                        out.write(bytes(2**24))
        return bench.evaluate_weights(file)

    for entry in ("data/0", "data.pkl"):
        yield Case(
            f"checkpoint-compressed-{Path(entry).name}",
            "hostile",
            lambda bench, entry=entry: compressed(bench, entry),
            ("weights.pth",),
        )

    def pickle_bomb(bench: Bench) -> Command:
        """Memoised lists of lists, doubled thirty times, then compared."""
        file = bench.inputs / "weights.pth"
        content: Any = ["x"]
        for _ in range(60):
            content = [content, content]
        torch.save({"state_dict": content}, file)
        return bench.evaluate_weights(file)

    yield Case("checkpoint-doubled-lists", "hostile", pickle_bomb, ("weights.pth",))

    def long_name(bench: Bench) -> Command:
        """PyTorch looks for words in the name of what it refuses, in a time that grows squared."""
        file = bench.inputs / "weights.pth"
        torch.save({"a": torch.zeros(4)}, file)
        with zipfile.ZipFile(file) as archive:
            parts = {one: archive.read(one) for one in archive.namelist()}
        with zipfile.ZipFile(file, "w") as archive:
            for name, content in parts.items():
                refused = b"\x80\x02c" + b"a" * 500_000 + b"\nb\n."
                archive.writestr(name, refused if name.endswith("data.pkl") else content)
        return bench.evaluate_weights(file)

    yield Case("checkpoint-long-name", "hostile", long_name, ("weights.pth",))

    def big_integer(bench: Bench) -> Command:
        file = bench.inputs / "weights.pth"
        torch.save({"state_dict": {"a": torch.zeros(1)}, "n": 1 << 2_000_000}, file)
        return bench.evaluate_weights(file)

    yield Case("checkpoint-big-integer", "hostile", big_integer, ("weights.pth",))

    def parquet(bench: Bench, how: str) -> Command:
        run = bench.run()
        table = pd.read_parquet(run / TABLE)
        (run / TABLE).unlink()
        if how == "rows":
            row = pa.Table.from_pandas(table.iloc[:1], preserve_index=False)
            many = pa.concat_tables([row] * 2**16).combine_chunks()
            with pq.ParquetWriter(run / TABLE, row.schema, compression="zstd") as writer:
                for _ in range(400):
                    writer.write_table(many)
        else:
            wide = pa.array(["x" * 2**20] * len(table))
            whole = pa.Table.from_pandas(table, preserve_index=False)
            for column in range(40):
                whole = whole.append_column(f"more{column}", wide)
            pq.write_table(whole, run / TABLE, compression="zstd", use_dictionary=True)
        return bench.evaluate_run(run)

    for how in ("rows", "columns"):
        yield Case(
            f"parquet-{how}",
            "hostile",
            lambda bench, how=how: parquet(bench, how),
            ("epoch=000.parquet",),
            "refused" if how == "rows" else "either",  # columns that nobody reads may be left
        )

    def npz(bench: Bench, how: str) -> Command:
        run = bench.run()
        (run / MAPS).unlink()
        if how == "levels":
            header = io.BytesIO()
            shape = {"descr": "|u1", "fortran_order": False, "shape": (2**19, 16, 16, 16)}
            np.lib.format.write_array_header_1_0(header, shape)
            with zipfile.ZipFile(run / MAPS, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
                for name in ("person_id", "peaks", "crop_affine", "image"):
                    array = io.BytesIO()
                    np.save(array, np.zeros(2))
                    archive.writestr(f"{name}.npy", array.getvalue())
                with archive.open("levels.npy", "w", force_zip64=True) as file:
                    file.write(header.getvalue())
                    for _ in range(128):
                        file.write(bytes(2**24))
        else:
            _zip_bomb(run / MAPS, "person_id.npy")
        other = bench.copy(bench.good.runs["other"], "a")
        return bench.qualitative(other, run)

    for how in ("levels", "zeros"):
        yield Case(f"npz-{how}", "hostile", lambda bench, how=how: npz(bench, how),
                   ("epoch=000.npz",))  # fmt: skip

    def h5(bench: Bench) -> Command:
        file = bench.inputs / "p.h5"
        with h5py.File(file, "w") as content:
            content.create_dataset("preds", (2**26, 16, 2), "f8", compression="gzip", chunks=True)
        return bench.evaluate_predictions(file)

    yield Case("h5-claims-terabytes", "hostile", h5, ("p.h5",))

    def h5_chunk(bench: Bench) -> Command:
        """The right shape in one chunk that is inflated to a gigabyte first."""
        file = bench.inputs / "p.h5"
        with h5py.File(file, "w") as content:
            data = content.create_dataset("preds", (8, 16, 2), maxshape=(None, 16, 2), dtype="f8",
                                          chunks=(2**23, 16, 2), compression="gzip")  # fmt: skip
            del data
        return bench.evaluate_predictions(file)

    yield Case("h5-one-huge-chunk", "hostile", h5_chunk, ("p.h5",), "either")

    def mat(bench: Bench) -> Command:
        import zlib

        file = bench.inputs / "p.mat"
        inner = np.array([14, 8 + 8 + 16 + 8 + 8 + 2**31], np.uint32).tobytes()
        packer = zlib.compressobj(1)
        packed = packer.compress(inner)
        for _ in range(128):
            packed += packer.compress(bytes(2**24))
        packed += packer.flush()
        head = b"MATLAB 5.0 MAT-file".ljust(124) + (0x0100).to_bytes(2, "little") + b"IM"
        file.write_bytes(head + np.array([15, len(packed)], np.uint32).tobytes() + packed)
        return bench.evaluate_predictions(file)

    yield Case("mat-compressed", "hostile", mat, ("p.mat",))

    def mat_field(bench: Bench) -> Command:
        """A truth in which one field beside those that are read is three gigabytes of zeros."""
        root = bench.copy(bench.good.mpii, "mpii")
        file = root / "annot/gt_valid.mat"
        fields = {k: v for k, v in scipy.io.loadmat(file).items() if k[0] != "_"}
        file.unlink()
        fields["jnt_missing"] = np.zeros((16, 2**23), np.uint8)
        fields["pos_gt_src"] = np.broadcast_to(np.uint8(0), (16, 2, 2**23))
        fields["headboxes_src"] = np.broadcast_to(np.uint8(1), (2, 2, 2**23))
        scipy.io.savemat(file, fields, do_compression=True)
        return bench.evaluate_predictions(bench.copy(bench.good.predictions / "p.mat"), root)

    yield Case("mat-truth-of-millions", "hostile", mat_field, ("gt_valid.mat",))

    for name in ("result.json", "environment.json", "truth.json"):

        def deep(bench: Bench, name: str = name) -> Command:
            run = bench.run("coco")
            bench.replace(run / name, '{"a":' * 100_000 + "1" + "}" * 100_000)
            return bench.evaluate_run(run)

        yield Case(f"nested-{name}", "hostile", deep, (name,))

    def long_number(bench: Bench) -> Command:
        run = bench.run()
        bench.replace(run / "result.json", '{"epoch": ' + "9" * 4_000_000 + "}")
        return bench.evaluate_run(run)

    yield Case("json-long-number", "hostile", long_number, ("result.json",))

    def wide_csv(bench: Bench) -> Command:
        run = bench.run()
        bench.copy(bench.good.runs["other"], "run_other")
        bench.replace(run / "metrics.csv", "epoch," + "a," * 2_000_000 + "\n0\n")
        return bench.report(bench.inputs, "joints=0")

    yield Case("csv-of-two-million-columns", "hostile", wide_csv, ("metrics.csv",))

    def regex(bench: Bench) -> Command:
        """Names of joints that backtrack where a pattern is matched to them."""
        run = bench.run("coco")
        bench.edit_json(run / "truth.json", lambda c: c["categories"][0].update(
            keypoints=["left" * 200_000 + str(k) for k in range(17)]))  # fmt: skip
        return bench.evaluate_run(run)

    yield Case("joint-names-of-megabytes", "hostile", regex, ("truth.json",))

    def many_photos(bench: Bench) -> Command:
        run = bench.run()
        edit_yaml(bench, run / "config.yaml", lambda c: c["data"]["spec"].update(
            valid_photos=10**9))  # fmt: skip
        return bench.evaluate_checkpoint(run)

    yield Case("spec-of-a-billion-photos", "hostile", many_photos, ("valid_photos", "config.yaml"))


# --- what a terminal would obey, and names of the network

ESCAPE = "\x1b]0;pwned\x07\x1b[31m"
MARKUP = "[bold red]x[/bold red][/]"


def texts() -> Iterator[Case]:
    for name, text in (("escape", ESCAPE), ("markup", MARKUP), ("c1", "\x9b31m"),
                       ("direction", "\u202egnp.exe"), ("newline", "a\nDone. b"),
                       ("carriage", "real\rfake")):  # fmt: skip

        def in_protocol(bench: Bench, text: str = text) -> Command:
            run = bench.run()
            bench.edit_json(run / "result.json", lambda c: c.update(protocol=text))
            edit_yaml(bench, run / "config.yaml", lambda c: c["loss"].update(name=text))
            return bench.evaluate_run(run)

        yield Case(f"text-{name}-evaluate", "hostile", in_protocol, (), "either")

        def in_table(bench: Bench, text: str = text) -> Command:
            file = bench.copy(bench.good.predictions / "p.parquet")
            table = pd.read_parquet(file)
            file.unlink()
            table.assign(joint=[text if one == "pelvis" else one for one in table["joint"]]
                         ).to_parquet(file)  # fmt: skip
            return bench.evaluate_predictions(file)

        yield Case(f"text-{name}-joint", "hostile", in_table, (), "either")

        def in_names(bench: Bench, text: str = text) -> Command:
            file = bench.inputs / "weights.pth"
            torch.save({text: torch.zeros(1), "b": torch.zeros(2)}, file)
            return bench.evaluate_weights(file)

        yield Case(f"text-{name}-weights", "hostile", in_names, ("weights.pth",))

        def in_run(bench: Bench, text: str = text) -> Command:
            bench.copy(bench.good.runs["mpii"], "a")
            b = bench.copy(bench.good.runs["other"], "b")
            edit_yaml(bench, b / "config.yaml", lambda c: c["backbone"].update(name=text))
            return bench.compare(bench.inputs / "a", b)

        yield Case(f"text-{name}-compare", "hostile", in_run, ("backbone",))

        def in_path(bench: Bench, text: str = text) -> Command:
            folder = bench.copy(bench.good.runs["mpii"], text.replace("/", "-"))
            (folder / "result.json").unlink()
            return Command("evaluate", ["run='" + str(folder) + "'"])

        if name in ("markup", "escape"):
            said = (MARKUP.replace("/", "-"),) if name == "markup" else ("resume=", "is not fin")
            yield Case(f"text-{name}-path", "hostile", in_path, said)

        def in_photo(bench: Bench, text: str = text) -> Command:
            root = bench.copy(bench.good.mpii, "mpii")
            bench.edit_json(root / "annot/valid.json", lambda c: c[0].update(
                image=text.replace("/", "-") + ".jpg"))  # fmt: skip
            weights = bench.copy(bench.good.runs["mpii"] / LAST, "weights.ckpt")
            return bench.evaluate_weights(weights, root)

        yield Case(f"text-{name}-photo", "hostile", in_photo, (".jpg",))

    for name in ("hf-hub:someone/model", "hf_hub:someone/model", "local-dir:/etc", "../../etc"):

        def network(bench: Bench, name: str = name) -> Command:
            run = bench.run()
            edit_yaml(bench, run / "config.yaml", lambda c: c["backbone"].update(
                name=name, pretrained=True))  # fmt: skip
            return bench.evaluate_checkpoint(run)

        yield Case(f"network-{name}", "hostile", network, ("backbone", "config.yaml", name))

    def script(bench: Bench) -> Command:
        """A page of HTML that is opened in a browser."""
        run, other = bench.run(), bench.run("other")
        text = "<script>alert(1)</script>"
        edit_yaml(bench, run / "config.yaml", lambda c: c["loss"].update(name=text))
        del other
        return bench.report(bench.inputs, "joints=0")

    yield Case("html-in-a-name", "hostile", script, (), "either")

    def secret(bench: Bench) -> Command:
        """An interpolation that reads the environment of whoever scores the run."""
        run = bench.run()
        edit_yaml(bench, run / "config.yaml", lambda c: c["backbone"].update(
            name="${oc.env:HOME}"))  # fmt: skip
        return bench.evaluate_checkpoint(run)

    yield Case("interpolation-of-the-environment", "hostile", secret, ("config.yaml", "backbone"))


def hostile() -> Iterator[Case]:
    """All of this file."""
    for group in (targets, pickles, paths, bombs, texts):
        yield from group()
