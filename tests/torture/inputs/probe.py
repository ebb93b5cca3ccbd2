"""A script that misbehaves, so that it is known what the harness would see."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from inputs.case import Bench, Case, Command


def main() -> None:
    """Do what the first argument says to what the second names."""
    deed, victim = sys.argv[1], Path(sys.argv[2])
    DEEDS[deed][0](victim)
    print("Refused.", file=sys.stderr)
    raise SystemExit(1)


def _spin(victim: Path) -> None:
    until = time.process_time() + 6
    while time.process_time() < until:
        pass


def _raise(victim: Path) -> None:
    raise ValueError(str(victim))


def _connect(victim: Path) -> None:
    with socket.socket() as one:
        one.connect_ex(("127.0.0.1", 9))


# What is done, and a word of the fault that has to be found.
DEEDS: dict[str, tuple[Callable[[Path], object], str]] = {
    "nothing": (lambda victim: None, ""),
    "read": (lambda victim: (victim / "thesis/chapter.tex").read_text("utf-8"), "canary: read"),
    "read_in_c": (lambda victim: cv2.imread(str(victim / "photo.png")), "canary: read"),
    "read_elsewhere": (lambda victim: Path(victim.parent / "stdout").read_bytes(), "read (open)"),
    "list": (lambda victim: list(victim.iterdir()), "canary: read"),
    "delete": (lambda victim: shutil.rmtree(victim / "thesis"), "changed the canaries"),
    "delete_input": (lambda victim: (victim.parent / "in/file").unlink(), "changed its inputs"),
    "write": (lambda victim: (victim / "new").write_text("x", "utf-8"), "canary: changed"),
    "execute": (lambda victim: os.system(f"touch {victim.parent / 'executed'}"), "executed"),
    "start": (lambda victim: subprocess.run(["true"], check=True), "start (subprocess.Popen)"),
    "connect": (_connect, "connect"),
    "spin": (_spin, "of the processor"),
    "fill_memory": (lambda victim: np.ones(2**27 + 2**24), "MiB"),
    "raise": (_raise, "traceback: ValueError"),
    "escape": (lambda victim: print("\x1b[31m"), "control character"),
    "two_sentences": (lambda victim: print("One.", file=sys.stderr), "not one sentence"),
}


def probe(deed: str) -> Case:
    """The case of a deed; it is to be refused with a sentence that says so."""

    def make(bench: Bench) -> Command:
        bench.replace(bench.inputs / "file", "x")
        photo = next(iter((bench.good.mpii / "images").iterdir()))
        shutil.copy(photo, bench.new_victim() / "photo.png")
        return Command("probe", [deed, str(bench.victim)])

    return Case(deed, "probe", make, ("Refused",))
