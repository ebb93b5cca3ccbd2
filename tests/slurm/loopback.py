"""A SLURM of one node on loopback, of Debian's packages, in a folder of its own."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

DAEMONS = ("munged", "slurmctld", "slurmd")
CPUS = 3  # of the node; more than there may be, since jobs of tests wait more than they compute

CONFIGURATION = """
ClusterName=loopback
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/run/munge.sock,cred_expire=10,ttl=60
SlurmctldPort={port}
SlurmdPort={node_port}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/run/slurmctld.pid
SlurmdPidFile={folder}/run/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
MpiDefault=none
ReturnToService=2
KillWait=60
MinJobAge=600
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} State=UNKNOWN
PartitionName=all Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


def missing() -> str:
    """Why there can be no cluster here; empty if there can."""
    lacking = [one for one in (*DAEMONS, "srun", "sbatch") if _program(one) is None]
    if lacking:
        return f"no {', '.join(lacking)} (apt-get install slurm-wlm munge)"
    return "" if os.geteuid() == 0 else "slurmd starts jobs as root only"


@contextlib.contextmanager
def cluster(folder: Path) -> Iterator[dict[str, str]]:
    """Start the daemons; yields the environment in which commands find them, and stops all."""
    host = socket.gethostname().partition(".")[0]
    for one in ("state", "spool", "run"):
        (folder / one).mkdir(parents=True)
    for one in (folder, folder / "run"):
        one.chmod(0o755)
    key = folder / "munge.key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o400)
    conf = folder / "slurm.conf"
    port, node_port = _free_ports()
    conf.write_text(
        CONFIGURATION.format(
            host=host, folder=folder, user="root", port=port, node_port=node_port, cpus=CPUS
        )
    )
    run = folder / "run"
    commands = (
        ["munged", "--foreground", "--force", f"--key-file={key}", f"--socket={run}/munge.sock",
         f"--pid-file={run}/munged.pid", f"--seed-file={folder}/munge.seed",
         f"--log-file={folder}/munged.log"],
        ["slurmctld", "-D", "-f", str(conf)],
        ["slurmd", "-D", "-f", str(conf)],
    )  # fmt: skip
    environment = {k: v for k, v in os.environ.items() if not k.startswith("SLURM")}
    environment["SLURM_CONF"] = str(conf)
    with contextlib.ExitStack() as stack:
        for name, *words in commands:
            program = _program(name)
            assert program is not None
            output = stack.enter_context((folder / f"{name}.out").open("w"))
            process = subprocess.Popen(
                [program, *words], stdout=output, stderr=subprocess.STDOUT, env=environment,
                start_new_session=True,
            )  # fmt: skip
            stack.callback(_end, process)
            until(lambda: (run / "munge.sock").exists(), "munged")
        stack.callback(_cancel_all, environment)
        until(lambda: "idle" in _said(["sinfo", "--noheader"], environment), "the node")
        yield environment


def queue(environment: dict[str, str]) -> dict[str, str]:
    """State of each job."""
    said = _said(["squeue", "--array", "--noheader", "--states=all", "--format=%i %T"], environment)
    return dict(line.split() for line in said.splitlines())


def until(what, of: str, seconds: float = 120) -> None:
    ends = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < ends, f"waited {seconds} s for {of}"
        time.sleep(0.5)


def _said(command: list[str], environment: dict[str, str]) -> str:
    return subprocess.run(command, env=environment, capture_output=True, text=True).stdout


def _cancel_all(environment: dict[str, str]) -> None:
    alive = {"PENDING", "RUNNING", "COMPLETING"}
    if jobs := [job for job, state in queue(environment).items() if state in alive]:
        subprocess.run(["scancel", "--signal=KILL", *jobs], env=environment, check=False)
        subprocess.run(["scancel", *jobs], env=environment, check=False)
        until(lambda: not alive & set(queue(environment).values()), "jobs to end")


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _program(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


def _free_ports() -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(2)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
