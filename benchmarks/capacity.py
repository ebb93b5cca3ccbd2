"""What Table 1 on COCO takes on 1, 8 and 64 GPUs, from parts that were measured one by one.

    python benchmarks/capacity.py [--gpus 1 8 64] [--batch 128] [--source photos|cache]

A model and no measurement: no machine of ours has trained on the whole of COCO, or on two GPUs.
Each part says where it comes from; ``assumed`` ones are round figures to be replaced by your
machine's (``posematch train ... dry_run=true`` measures a step, ``--set NAME=VALUE`` takes it).
"""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass

MEASURED, KNOWN, ASSUMED = "measured", "known", "assumed"


@dataclass(frozen=True)
class Part:
    """A figure and where it comes from."""

    value: float
    unit: str
    origin: str
    source: str


PARTS = {
    "step_32": Part(209, "images/s a GPU", MEASURED,
                    "HRNet-W48, 384 x 288, bf16, eager, batch 32, one H100"),
    "step_128": Part(496, "images/s a GPU", MEASURED, "the same at batch 128"),
    "loader_photos": Part(177, "people/s a core", MEASURED,
                          "MPII subset's photos, 256 x 256"),
    "loader_cache": Part(349, "people/s a core", MEASURED, "its crop cache, 256 x 256"),
    "train_people": Part(149_813, "people", KNOWN, "COCO train2017, with keypoints"),
    "train_photos": Part(56_599, "photos", KNOWN, "of these people"),
    "valid_boxes": Part(104_125, "boxes", KNOWN, "val2017, detector of person AP 56.4"),
    "epochs": Part(210, "epochs", KNOWN, "HRNet's recipe"),
    "parameters": Part(63.6e6, "weights", KNOWN, "HRNet-W48 with its head"),
    "losses": Part(3, "losses", KNOWN, "gaussian_mse, dot_mse, matching"),
    "seeds": Part(3, "seeds", KNOWN, "conf/experiment/ablation.yaml"),
    "photo_kib": Part(160, "KiB a photo", ASSUMED, "18 GiB of train2017 over 118 k photos"),
    "cache_kib": Part(66, "KiB a person", MEASURED,
                      "136 MiB for 2,074 people of the MPII subset at 256 px, resolution 1"),
    "larger_crop": Part(384 * 288 / 256**2, "times the work and bytes a person", ASSUMED,
                        "of 384 x 288 over 256 x 256, as the pixels"),
    "valid_every": Part(10, "epochs", ASSUMED, "trainer.check_val_every_n_epoch=10"),
    "forward_share": Part(1 / 3, "of a training step's work", ASSUMED,
                          "forward without backward; twice with the flip test"),
    "spare": Part(1.3, "times the loader's mean", ASSUMED, "so that the GPU never waits for it"),
    "bus_gbit": Part(2400, "Gbit/s between GPUs of a node", ASSUMED, "NVLink, all-reduce"),
    "network_gbit": Part(100, "Gbit/s a node", ASSUMED, "one adapter"),
    "hidden": Part(0.7, "of the all-reduce", ASSUMED, "runs under the backward pass"),
    "hop_us": Part(20, "us a process", ASSUMED, "latency of a ring's step, 4 buckets"),
    "startup_s": Part(120, "s", ASSUMED, "of a training, reading and checking"),
}  # fmt: skip
_GPUS_A_NODE = 8
_BUCKETS = 4
_KIND_OF_STEP = 32, 128


@dataclass(frozen=True)
class Plan:
    """One way to use the GPUs.

    Attributes
    ----------
    gpus, processes
        In all, and of one training; ``gpus / processes`` trainings run side by side.
    step_ms, efficiency
        Of an optimizer step, and of it what one GPU alone would take.
    hours
        Until all trainings are done.
    gpu_hours
        That are paid for.
    cores, disk_gib, read_mib_s, network_gbit
        A node: loader cores, photos or cache, reading, all-reduce while it steps.
    """

    gpus: int
    processes: int
    step_ms: float
    efficiency: float
    hours: float
    gpu_hours: float
    cores: float
    disk_gib: float
    read_mib_s: float
    network_gbit: float


def images_a_second(parts: dict[str, float], batch: float) -> float:
    """Speed of one GPU at a batch: a step is a fixed part and one for each image.

    Through the two measured points: at batch 32 the step is bound by the host.
    """
    small, large = _KIND_OF_STEP
    at_small, at_large = small / parts["step_32"], large / parts["step_128"]
    each = (at_large - at_small) / (large - small)
    fixed = at_small - small * each
    return batch / (fixed + batch * each)


def all_reduce_ms(parts: dict[str, float], processes: int) -> float:
    """Time of an all-reduce of float32 gradients, by rings within a node and between nodes."""
    if processes == 1:
        return 0.0
    bits = parts["parameters"] * 32
    nodes = math.ceil(processes / _GPUS_A_NODE)
    within = min(processes, _GPUS_A_NODE)
    seconds = 2 * (within - 1) / within * bits / (parts["bus_gbit"] * 1e9)
    seconds += 2 * (nodes - 1) / nodes * bits / (parts["network_gbit"] * 1e9)
    return 1e3 * seconds + 1e-3 * _BUCKETS * parts["hop_us"] * processes


def plan(
    parts: dict[str, float], gpus: int, processes: int, batch: float, source: str = "photos"
) -> Plan:
    """Time and means of all trainings of the table with so many GPUs a training.

    Parameters
    ----------
    parts
        Values of `PARTS`.
    gpus, processes
        See `Plan`.
    batch
        People a step and GPU; the effective batch, and with it the recipe, changes with
        ``batch * processes``.
    source
        ``photos`` or ``cache``.
    """
    speed = images_a_second(parts, batch)
    alone_ms = 1e3 * batch / speed
    step_ms = alone_ms + (1 - parts["hidden"]) * all_reduce_ms(parts, processes)
    steps = math.ceil(parts["train_people"] / (batch * processes))
    validation = parts["valid_boxes"] * 2 * parts["forward_share"] / (speed * processes)
    epoch = steps * step_ms / 1e3 + validation / parts["valid_every"]
    training = (parts["epochs"] * epoch + parts["startup_s"]) / 3600
    trainings = int(parts["losses"] * parts["seeds"])
    side_by_side = max(1, gpus // processes)
    rounds = math.ceil(trainings / side_by_side)
    on_node = min(gpus, _GPUS_A_NODE)
    people = on_node * 1e3 * batch / step_ms
    kib = parts["photo_kib"]
    if source == "cache":
        kib = parts["cache_kib"] * parts["larger_crop"]
    stored = parts["train_people"] if source == "cache" else parts["train_photos"]
    nodes = math.ceil(processes / _GPUS_A_NODE)
    bits = 2 * (nodes - 1) / nodes * parts["parameters"] * 32
    return Plan(
        gpus=gpus,
        processes=processes,
        step_ms=step_ms,
        efficiency=alone_ms / step_ms,
        hours=rounds * training,
        gpu_hours=trainings * training * processes,
        cores=parts["spare"] * people * parts["larger_crop"] / parts[f"loader_{source}"],
        disk_gib=stored * kib / 2**20,
        read_mib_s=people * kib / 1024,
        network_gbit=bits / (step_ms / 1e3) / 1e9,
    )


def table(parts: dict[str, float], gpus: list[int], batch: float, source: str) -> list[str]:
    """Lines of a Markdown table: a training per GPU, per node, and over all."""
    lines = [
        "| GPUs | a training's | effective batch | step, ms | efficiency | hours | GPU hours"
        " | loader cores a node | disk a node, GiB | read, MiB/s | network, Gbit/s |",
        "|---" * 11 + "|",
    ]
    for number in gpus:
        for processes in sorted({1, min(number, _GPUS_A_NODE), number}):
            it = plan(parts, number, processes, batch, source)
            lines.append(
                f"| {number} | {processes} | {batch * processes:.0f} | {it.step_ms:.0f}"
                f" | {it.efficiency:.0%} | {it.hours:.0f} | {it.gpu_hours:.0f} | {it.cores:.0f}"
                f" | {it.disk_gib:.0f} | {it.read_mib_s:.0f} | {it.network_gbit:.0f} |"
            )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--gpus", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--batch", type=float, default=32, help="people a step and GPU")
    parser.add_argument("--source", choices=("photos", "cache"), default="photos")
    parser.add_argument("--set", nargs="+", default=[], metavar="NAME=VALUE")
    options = parser.parse_args()
    parts = {name: one.value for name, one in PARTS.items()}
    for one in options.set:
        name, _, value = one.partition("=")
        if name not in parts:
            parser.error(f"{name} is no part; there are {', '.join(parts)}")
        parts[name] = float(value)
    for name, one in PARTS.items():
        print(f"{name:14} {parts[name]:>14,.6g} {one.unit:30} {one.origin:9} {one.source}")
    print()
    print("\n".join(table(parts, options.gpus, options.batch, options.source)))


if __name__ == "__main__":
    main()
