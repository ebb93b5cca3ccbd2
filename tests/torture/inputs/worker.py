"""A process that has imported everything and runs a script's ``main`` in a fork for each case.

    python worker.py REPOSITORY

reads a request a line from standard input and answers with a line of json. Importing torch takes
seconds, a fork milliseconds; what a case does to memory, limits and modules ends with its fork.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import json
import os
import pkgutil
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from inputs import probe
from inputs.watch import FolderWatch, record_events

MOST_WALL_S = 60.0
# Far above what is allowed, so that a bomb is seen for what it is and the machine survives.
_MOST_BYTES = 6 * 2**30
CRASHED = 70  # exit code of a traceback
_SYSTEM = ("/proc", "/sys", "/dev", "/usr", "/lib", "/lib64", "/etc", "/bin", "/opt")


def serve(repository: Path) -> None:
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    mains = imported(repository)
    print(json.dumps("ready"), file=answers, flush=True)
    own = Path(__file__).resolve().parent
    packages = (Path(folder).resolve() for folder in sys.path if folder)
    harmless = [*map(Path, _SYSTEM), repository, own, Path(sys.base_prefix), *packages]
    harmless.append(Path(sys.prefix))
    for line in sys.stdin:
        request = json.loads(line)
        print(json.dumps(_run(mains, request, harmless)), file=answers, flush=True)


def imported(repository: Path) -> dict[str, Callable[[], None]]:
    """All of posematch is imported; the scripts' ``main`` by their names."""
    if str(repository / "src") not in sys.path:
        sys.path.insert(0, str(repository / "src"))
    package = importlib.import_module("posematch")
    assert Path(str(package.__file__)).is_relative_to(repository), package.__file__
    for module in pkgutil.walk_packages(package.__path__, "posematch."):
        with contextlib.suppress(ImportError):  # what needs a GPU
            importlib.import_module(module.name)
    mains = {"probe": probe.main}
    for file in sorted((repository / "scripts").glob("*.py")):
        spec = importlib.util.spec_from_file_location(file.stem, file)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        with contextlib.suppress(ImportError):  # of an optional package
            spec.loader.exec_module(module)
            mains[file.stem] = module.main
    return mains


def _run(
    mains: dict[str, Callable[[], None]], request: dict[str, Any], harmless: list[Path]
) -> dict[str, Any]:
    folder = Path(request["folder"])
    watch = FolderWatch(folder / "victim")
    began = time.monotonic()
    child = os.fork()
    if child == 0:
        _be_the_case(mains[request["script"]], request["arguments"], folder, harmless)
    with contextlib.suppress(OSError):
        os.setpgid(child, child)  # whoever of the two comes first
    hung = False
    while True:
        pid, status, used = os.wait4(child, os.WNOHANG)
        if pid:
            break
        if time.monotonic() - began > request.get("most_wall_s", MOST_WALL_S):
            hung = True
            os.kill(child, signal.SIGKILL)
            _, status, used = os.wait4(child, 0)
            break
        time.sleep(0.005)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)  # what it left running
    return {
        "code": os.waitstatus_to_exitcode(status),
        "hung": hung,
        "wall_s": time.monotonic() - began,
        "cpu_s": used.ru_utime + used.ru_stime,
        "peak_mib": used.ru_maxrss / 2**10,
        "touched": watch.close(),
    }


def _be_the_case(
    main: Callable[[], None], arguments: list[str], folder: Path, harmless: list[Path]
) -> None:
    """Run it, write down what came out, and end this process whatever happens."""
    code = CRASHED
    try:
        os.setpgid(0, 0)
        for handle, name in ((1, "stdout"), (2, "stderr")):
            os.dup2(os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), handle)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        events = os.open(folder / "events", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        used = int(Path("/proc/self/statm").read_text("ascii").split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + _MOST_BYTES,) * 2)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        os.environ["TMPDIR"] = str(folder / "tmp")
        os.environ["HOME"] = str(folder / "home")
        import tempfile

        tempfile.tempdir = None
        os.chdir(folder / "out")
        sys.argv = ["script.py", *arguments]
        record_events(events, harmless)
        main()
        code = 0
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(BaseException):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    serve(Path(sys.argv[1]).resolve())
