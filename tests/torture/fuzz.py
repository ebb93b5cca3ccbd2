"""Random changes of good inputs, thousands of them, through each parser of strangers' files.

    python tests/torture/fuzz.py PARSER [PARSER ...] [--minutes 10] [--seed N] [--good FOLDER]
    python tests/torture/fuzz.py PARSER --seed N --only K     # one input again, with its traceback

PARSER is one of inputs/parsers.py, or ``all``. A parser may return or raise PosematchError (a
script: exit with a code); anything else, more than 5 s of the processor or more than 1.5 GiB is a
failure, which is printed once with what reproduces it. Exit code 1 if there is one.
"""

from __future__ import annotations

import argparse
import mmap
import os
import random
import resource
import shutil
import signal
import struct
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parent))

from inputs.case import Good
from inputs.harness import MOST_CPU_S, MOST_MIB, REPOSITORY, Harness

sys.path.insert(0, str(REPOSITORY / "src"))

from inputs.parsers import PARSERS, Parser
from inputs.worker import imported

_BATCH = 500  # inputs of a process, or so many seconds
_BATCH_S = 30.0
_MOST_WALL_S = 60.0
_MOST_BYTES = 6 * 2**30
_STATE = struct.Struct("qdq")  # input at work, processor time when it began, inputs that were fine


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parsers", nargs="+", choices=[*PARSERS, "all"])
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int)
    parser.add_argument("--good", type=Path, help="folder to make the good instance in, or use it")
    given = parser.parse_args()
    names = list(PARSERS) if "all" in given.parsers else given.parsers
    with tempfile.TemporaryDirectory() as scratch:
        root = given.good or Path(scratch) / "made"
        if not (root / "good").exists():
            with Harness(root):  # makes it
                pass
        good = Good.at(root / "good")
        imported(REPOSITORY)  # once, not in each process
        failed = False
        for name in names:
            work = Path(scratch) / name
            if given.only is not None:
                _again(PARSERS[name](good, work), given.seed, given.only)
                continue
            failed |= _fuzz(name, PARSERS[name](good, work), given.seed, given.minutes)
            shutil.rmtree(work)
    raise SystemExit(failed)


def _generator(seed: int, index: int) -> random.Random:
    return random.Random(f"{seed}/{index}")


def _fuzz(name: str, parser: Parser, seed: int, minutes: float) -> bool:
    shared = mmap.mmap(-1, _STATE.size)
    began, index, told = time.monotonic(), 0, Counter[str]()
    while time.monotonic() - began < 60 * minutes:
        done, failures = _batch(parser, seed, index, shared)
        for failure, at in failures:
            told[failure] += 1
            if told[failure] == 1:
                print(f"{name}: {failure}; again with {name} --seed {seed} --only {at}", flush=True)
        index += max(done, 1)
    seconds = time.monotonic() - began
    print(
        f"{name}: {index} inputs in {seconds:.0f} s, {index / seconds:.1f} a second, seed {seed};"
        f" {len(told)} kinds of failures, {sum(told.values())} inputs",
        flush=True,
    )
    return bool(told)


def _batch(
    parser: Parser, seed: int, first: int, shared: mmap.mmap
) -> tuple[int, list[tuple[str, int]]]:
    """So many inputs in a process of its own: how many, and what failed at which."""
    log = parser.folder / "failures"
    log.unlink(missing_ok=True)
    shared[:] = _STATE.pack(first, 0.0, 0)
    child = os.fork()
    if child == 0:
        _in_child(parser, seed, first, shared, log)
    at_work, since, reason = first, time.monotonic(), ""
    while True:
        pid, status, _ = os.wait4(child, os.WNOHANG)
        if pid:
            break
        index, _, _ = _STATE.unpack(shared[:])
        if index != at_work:
            at_work, since = index, time.monotonic()
        if time.monotonic() - since > _MOST_WALL_S:
            reason = f"still ran after {_MOST_WALL_S:.0f} s"
            os.kill(child, signal.SIGKILL)
            _, status, _ = os.wait4(child, 0)
            break
        time.sleep(0.02)
    index, _, _ = _STATE.unpack(shared[:])
    lines = log.read_text("utf-8").splitlines() if log.exists() else []
    failures = [(line.partition(" ")[2], int(line.partition(" ")[0])) for line in lines]
    if status != 0:
        ended = os.waitstatus_to_exitcode(status)
        failures.append((reason or f"the process died ({ended})", index))
    return index - first + (status != 0), failures


def _in_child(parser: Parser, seed: int, first: int, shared: mmap.mmap, log: Path) -> None:
    code = 1
    try:
        used = int(Path("/proc/self/statm").read_text("ascii").split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + _MOST_BYTES,) * 2)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        # A decoder in C may not come back: the kernel ends it.
        nothing = os.open(os.devnull, os.O_RDWR)
        for handle in (0, 1, 2):
            os.dup2(nothing, handle)
        began = time.monotonic()
        with log.open("a", encoding="utf-8", buffering=1) as failures:
            for index in range(first, first + _BATCH):
                shared[:] = _STATE.pack(index, time.process_time(), index - first)
                parser.change(_generator(seed, index))
                start = time.process_time()
                failure = _failure(parser)
                took = time.process_time() - start
                peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
                if not failure and took > MOST_CPU_S:
                    failure = f"took more than {MOST_CPU_S:.0f} s of the processor"
                if peak > MOST_MIB:
                    failure = f"took more than {MOST_MIB:.0f} MiB {failure}"
                if failure:
                    print(index, failure.replace("\n", " "), file=failures)
                shared[:] = _STATE.pack(index + 1, time.process_time(), index - first)
                if peak > MOST_MIB or time.monotonic() - began > _BATCH_S:
                    break
        code = 0
    finally:
        os._exit(code)


def _failure(parser: Parser) -> str:
    """What the parser raised that it may not, or nothing."""
    from posematch.errors import PosematchError

    try:
        parser.parse()
    except PosematchError as error:
        sentence = str(error)
        if "\n" in sentence or not sentence.endswith((".", "?")):
            return f"not one sentence: {type(error).__name__} of {_place(error)}"
    except SystemExit as ended:
        if ended.code not in (None, 0, 1, 2):
            return f"exit code {ended.code}"
    except BaseException as error:
        return f"{type(error).__name__} at {_place(error)}"
    return ""


def _place(error: BaseException) -> str:
    """The last place in our code, and where it was raised."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [one for one in frames if "posematch" in one.filename] or frames
    return " < ".join(f"{Path(one.filename).name}:{one.lineno}" for one in (frames[-1], ours[-1]))


def _again(parser: Parser, seed: int, index: int) -> None:
    from posematch.errors import PosematchError

    print(f"changed: {parser.change(_generator(seed, index))}")
    try:
        print(f"read: {str(parser.parse())[:500]}")
    except PosematchError as error:
        print(f"refused: {error}")


if __name__ == "__main__":
    main()
