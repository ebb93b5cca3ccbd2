"""Good inputs of every kind, or the refusals would mean little."""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np

from inputs.case import LAST, Bench, Case, Command


def healthy() -> Iterator[Case]:
    def case(name: str, kind: str, make: object) -> Case:
        return Case(f"good-{name}", kind, make, (), "works")  # type: ignore[arg-type]

    def weights(bench: Bench, name: str = "mpii"):  # type: ignore[no-untyped-def]
        return bench.copy(bench.good.runs[name] / LAST, "weights.ckpt")

    def both(bench: Bench):  # type: ignore[no-untyped-def]
        return bench.run(), bench.run("other")

    yield case("run", "run", lambda bench: bench.evaluate_run(bench.run()))
    yield case("run-coco", "run", lambda bench: bench.evaluate_run(bench.run("coco")))
    yield case("resume", "run", lambda bench: bench.resume(bench.run()))
    yield case("compare", "run", lambda bench: bench.compare(*both(bench), "people=1"))
    yield case("qualitative", "run", lambda bench: bench.qualitative(*both(bench)))
    yield case(
        "qualitative-with-photos",
        "run",
        lambda bench: bench.qualitative(*both(bench), photos=bench.good.data),
    )

    def report(bench: Bench) -> Command:
        both(bench)
        return bench.report(bench.inputs, "joints=1")

    yield case("report", "run", report)
    for name in ("mpii", "coco"):
        yield case(
            f"checkpoint-of-a-run-{name}",
            "checkpoint",
            lambda bench, name=name: bench.evaluate_checkpoint(bench.run(name)),
        )
    yield case("weights", "checkpoint", lambda bench: bench.evaluate_weights(weights(bench)))
    yield case("export", "checkpoint", lambda bench: bench.export(weights(bench)))
    yield case(
        "fine-tuning", "checkpoint", lambda bench: bench.train(f"checkpoint={weights(bench)}")
    )
    for name in ("p.mat", "p.h5", "p.json", "p.parquet"):
        yield case(
            name,
            "predictions",
            lambda bench, name=name: bench.evaluate_predictions(
                bench.copy(bench.good.predictions / name)
            ),
        )

    def coco(bench: Bench) -> Command:
        root = bench.copy(bench.good.coco, "coco")
        bench.copy(bench.good.predictions / "boxes.json", "coco/boxes.json")
        return bench.evaluate_coco(weights(bench, "coco"), root, "data.detections=boxes.json")

    yield case("coco-with-detections", "annotation", coco)

    def mpii(bench: Bench) -> Command:
        return bench.evaluate_weights(weights(bench), bench.copy(bench.good.mpii, "mpii"))

    yield case("mpii", "annotation", mpii)

    def png(bench: Bench) -> Command:
        root = bench.copy(bench.good.mpii, "mpii")
        for photo in (root / "images").iterdir():
            picture = np.asarray(cv2.imread(str(photo)))
            bench.replace(photo, bytes(cv2.imencode(".png", picture)[1]))
        return bench.evaluate_weights(weights(bench), root)

    yield case("photos-png", "image", png)

    def own_loss(bench: Bench) -> Command:
        text = "_target_: posematch.losses.DotMSE\nname: mine\n"
        bench.replace(bench.inputs / "own" / "loss" / "mine.yaml", text)
        command = bench.train("loss=mine", f"--config-dir={bench.inputs / 'own'}")
        kept = [one for one in command.arguments if one != "loss=dot_mse"]
        return Command(command.script, kept, command.named)

    yield case("config-dir", "config", own_loss)
