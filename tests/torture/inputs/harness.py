"""Runs cases in a `worker` and says what is wrong with how they ended."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inputs.case import Bench, Case, Command, Good
from inputs.worker import CRASHED

# Of the tree under test; while the code is being worked on, another one's can be named.
REPOSITORY = Path(
    os.environ.get("POSEMATCH_TORTURE_REPO", Path(__file__).resolve().parents[3])
).resolve()
MOST_CPU_S = 5.0
MOST_MIB = 1536.0
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
# Where TMPDIR's name is as long as a case's: a training's place for sockets (processes.py).
_SOCKETS = re.compile(r"/tmp(/posematch-[a-z0-9_]{8}(/in-use)?)?")
_RAISED = re.compile(r"[A-Za-z_.]*(Error|Exception|Warning|Interrupt|Exit)\b")
# Programs that posematch itself asks about the machine and the checkout.
_ASKED = ("git ", "/sbin/ldconfig", "ldconfig", "lscpu", "uname")


@dataclass(frozen=True)
class Outcome:
    """How a case ended.

    Attributes
    ----------
    code
        Exit code; negative: the signal.
    stdout, stderr
        What it printed.
    cpu_s, wall_s, peak_mib
        Processor time, time and largest resident memory of the process, torch's 400 MiB included.
    faults
        What must not be, in words; empty where the case ended as it should.
    """

    code: int
    stdout: str
    stderr: str
    cpu_s: float
    wall_s: float
    peak_mib: float
    faults: tuple[str, ...]


class Harness:
    """A worker and the good instance that the cases start from; a context.

    Parameters
    ----------
    folder
        Everything is made below it; a good instance that is there is taken as it is.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "MPLBACKEND": "agg",
            "HF_HOME": str(folder / "hub"),
            "MPLCONFIGDIR": str(folder / "mpl"),
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("worker.py")), str(REPOSITORY)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        assert self._answer() == "ready"
        made = folder / "good"
        self.good = Good.at(made) if made.exists() else Good.made(made, self.command)

    def __enter__(self) -> Harness:
        return self

    def __exit__(self, *args: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the worker has died"
        return json.loads(line)

    def command(self, script: str, arguments: list[str], folder: Path) -> dict[str, Any]:
        """Run a script in a folder of its own: it has ``out``, ``tmp``, ``home``, ``victim``."""
        for name in ("out", "tmp", "home"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        assert self._process.stdin is not None
        request = {"script": script, "arguments": arguments, "folder": str(folder)}
        if limit := os.environ.get("POSEMATCH_TORTURE_WALL_S"):
            request["most_wall_s"] = float(limit)
        print(json.dumps(request), file=self._process.stdin, flush=True)
        answer = dict(self._answer())
        for name in ("stdout", "stderr"):
            answer[name] = (folder / name).read_bytes().decode("utf-8", "backslashreplace")
        events = (folder / "events").read_text("utf-8").splitlines()
        return answer | {"events": [json.loads(event) for event in events]}

    def run(self, case: Case, folder: Path) -> Outcome:
        """Make the case, run it, look at everything it did, and remove its folder."""
        bench = Bench(folder, self.good)
        try:
            command = case.make(bench)
            before = _manifest(bench.inputs), _manifest(bench.victim)
            answer = self.command(command.script, command.arguments, folder)
            faults = [*_faults_of_ending(case, answer), *_faults_of_deeds(bench, command, answer)]
            if _manifest(bench.inputs) != before[0] and not command.writes_inputs:
                faults.append(f"changed its inputs: {_differences(before[0], bench.inputs)}")
            if _manifest(bench.victim) != before[1]:
                faults.append(f"changed the canaries: {_differences(before[1], bench.victim)}")
            if strange := {path.name for path in folder.iterdir()} - bench.expected_names:
                faults.append(f"made {', '.join(sorted(strange))}: something was executed")
        finally:
            shutil.rmtree(folder)
        return Outcome(
            answer["code"],
            answer["stdout"],
            answer["stderr"],
            answer["cpu_s"],
            answer["wall_s"],
            answer["peak_mib"],
            tuple(faults),
        )


def _faults_of_ending(case: Case, answer: dict[str, Any]) -> list[str]:
    faults = []
    told, code = answer["stderr"].strip(), answer["code"]
    expected = {"refused": (1, 2), "works": (0,), "either": (0, 1, 2)}[case.ends]
    if answer["hung"]:
        faults.append(f"still ran after {answer['wall_s']:.0f} s")
    elif code == CRASHED or "Traceback" in told:
        lines = [line for line in told.splitlines() if _RAISED.match(line)]
        faults.append(f"traceback: {lines[-1][:300] if lines else told[-300:]}")
    elif code not in expected:
        faults.append(f"exit code {code}, not {' or '.join(map(str, expected))}")
    elif code:
        if told.count("\n") or not told.endswith((".", "?")):
            faults.append(f"not one sentence: {told[:600]!r}")
        elif case.says and not any(word in told for word in case.says):
            faults.append(f"names none of {case.says}: {told[:300]!r}")
        if answer["cpu_s"] > MOST_CPU_S:
            faults.append(f"took {answer['cpu_s']:.1f} s of the processor")
    if found := _CONTROL.search(answer["stdout"] + answer["stderr"]):
        faults.append(f"printed the control character {found.group()!r}")
    if answer["peak_mib"] > MOST_MIB:
        faults.append(f"took {answer['peak_mib']:.0f} MiB")
    return faults


def _faults_of_deeds(bench: Bench, command: Command, answer: dict[str, Any]) -> list[str]:
    faults = [f"canary: {touched}" for touched in answer["touched"]]
    own = [bench.out, bench.tmp, bench.home, bench.good.root.parent / "mpl"]
    readable = [*own, bench.inputs, *command.named, bench.good.root.parent / "hub"]
    writable = [*own, bench.inputs, *command.named] if command.writes_inputs else own
    for kind, event, what in answer["events"]:
        inside = (path for path in (readable if kind == "read" else writable))
        if kind in ("start", "connect"):
            fine = kind == "start" and what.startswith(_ASKED)
        elif kind == "library":
            fine = True
        else:
            fine = any(Path(what).is_relative_to(path.resolve()) for path in inside)
            fine |= what == os.devnull or bool(_SOCKETS.fullmatch(what))
        if not fine:
            faults.append(f"{kind} ({event}) {what[:200]}")
    return list(dict.fromkeys(faults))[:6]


def _manifest(folder: Path) -> dict[str, tuple[int, int, int]]:
    found = {}
    for path in sorted(folder.rglob("*")) if folder.exists() else ():
        status = path.lstat()
        # The time of a folder changes where a file is made in it and removed again.
        changed = 0 if path.is_dir() and not path.is_symlink() else status.st_mtime_ns
        found[str(path.relative_to(folder))] = (status.st_mode, changed, status.st_ino)
    return found


def _differences(before: dict[str, Any], folder: Path) -> str:
    after = _manifest(folder)
    names = [one for one in before.keys() | after.keys() if before.get(one) != after.get(one)]
    return ", ".join(sorted(names)[:5])
