"""Does a study go through the time limit of a SLURM job and into the next one? Writes result.md.

python run.py, as root on Debian with `apt-get install slurm-wlm munge`. It starts munge, SLURM's controller and two
nodes on this machine, and submits conf/cluster/slurm.sbatch with a time limit that the study does not keep.
"""

import contextlib
import os
import re
import secrets
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from hpsearch.state.folder import StudyFolder
from hpsearch.state.outcome import read_summary

HERE = Path(__file__).parent
SCRIPT = HERE.parents[1] / "conf" / "cluster" / "slurm.sbatch"
LIMIT_MINUTES, SIGNAL_SECONDS = 3, 90  # of a job: its time limit, and how long before that it is told
STUDY = ("task=rotten_tomatoes", "study=slurm", "budget=150s", "budget.validation_examples=200")
PATIENCE_SECONDS = 1200
INSIDE = "HPSEARCH_NODES_HAVE_NAMES"
CONFIG = """
ClusterName=try
SlurmctldHost={host}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={root}/munge.socket
CredType=cred/munge
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
ReturnToService=2
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmctldPort={port}
SlurmctldPidFile={root}/ctld.pid
SlurmdPidFile={root}/%n.pid
SlurmctldLogFile={root}/ctld.log
SlurmdLogFile={root}/%n.log
SlurmdSpoolDir={root}/spool-%n
StateSaveLocation={root}/state
SlurmdParameters=config_overrides
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={first} CPUs={cpus} State=UNKNOWN
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={second} CPUs={cpus} State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@contextlib.contextmanager
def slurm(root: Path) -> Iterator[dict[str, str]]:
    """The environment for commands of a SLURM of this machine, with two nodes."""
    key = root / "munge.key"
    key.write_bytes(secrets.token_bytes(128))
    key.chmod(0o400)
    host, ports = socket.gethostname(), {name: free_port() for name in ("port", "first", "second")}
    for name in ("state", "spool-n1", "spool-n2"):
        (root / name).mkdir()
    config = root / "slurm.conf"
    config.write_text(CONFIG.format(root=root, host=host, cpus=os.cpu_count(), **ports))
    environment = os.environ | {"SLURM_CONF": str(config)}
    munge = ["munged", "--foreground", "--force", f"--key-file={key}", f"--socket={root}/munge.socket"]
    munge += [f"--pid-file={root}/munge.pid", f"--log-file={root}/munge.log", f"--seed-file={root}/munge.seed"]
    daemons = []
    with open(root / "daemons.log", "wb") as log:
        for command in (munge, ["slurmctld", "-D"], ["slurmd", "-D", "-N", "n1"], ["slurmd", "-D", "-N", "n2"]):
            daemons.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log))
            time.sleep(2)
    try:
        yield environment
    finally:
        for daemon in reversed(daemons):
            daemon.terminate()
            daemon.wait(60)


def main() -> None:
    """Submit the job, wait for its end, and say how it went."""
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        root.chmod(0o755)
        work = root / "work"
        work.mkdir()
        with slurm(root) as environment:
            given = environment | {"HPSEARCH_BIN": str(Path(sys.executable).parent), "HF_HUB_OFFLINE": "1"}
            asked = ["sbatch", "--parsable", "--nodes=2", "--cpus-per-task=1", f"--time={LIMIT_MINUTES}"]
            asked += [f"--signal=B:TERM@{SIGNAL_SECONDS}", "--output=out", str(SCRIPT), *STUDY]
            job = subprocess.run(asked, env=given, cwd=work, check=True, capture_output=True, text=True).stdout.strip()
            began, shown = time.monotonic(), ""
            while not re.search(r"JobState=(COMPLETED|FAILED|CANCELLED|TIMEOUT|NODE_FAIL)", shown):
                assert time.monotonic() - began < PATIENCE_SECONDS, (work / "out").read_text()
                time.sleep(5)
                show = ["scontrol", "show", "job", job]
                shown = subprocess.run(show, env=environment, check=True, capture_output=True, text=True).stdout
            seconds = time.monotonic() - began
        said, logs = (work / "out").read_text(), (root / "daemons.log").read_text()
        fields = dict(re.findall(r"(JobState|Restarts|ExitCode)=(\S+)", shown))
        summary = read_summary(StudyFolder.of(work / "runs", "slurm"))
        assert summary is not None, f"{shown}\n{said}\n{logs}"
        version = subprocess.run(["sinfo", "--version"], capture_output=True, text=True, check=True).stdout.strip()
        lines = [
            "| SLURM | nodes | time limit | jobs | state | exit code | seconds in all | hours asked | hours taken "
            "| saved by signal | trials | failed |",
            "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
            f"| {version} | 2 | {LIMIT_MINUTES} min, told {SIGNAL_SECONDS} s before | {int(fields['Restarts']) + 1} "
            f"| {fields['JobState']} | {fields['ExitCode']} | {seconds:.0f} | {3600 * (summary.hours or 0):.0f} s "
            f"| {summary.total_seconds:.0f} s | {said.count('is interrupted and saved')} | {summary.trials.all} "
            f"| {summary.trials.failed} |",
        ]
        (HERE / "result.md").write_text("\n".join(lines) + "\n")
        print("\n".join(lines))


def where_nodes_have_names() -> None:
    """Run this script where n1 and n2 are names of this machine, which nobody else sees."""
    hosts = Path(tempfile.mkdtemp()) / "hosts"
    hosts.write_text(Path("/etc/hosts").read_text() + "127.0.0.1 n1 n2\n")
    command = f"mount --bind {hosts} /etc/hosts && exec {sys.executable} {Path(__file__).resolve()}"
    os.execvpe("unshare", ["unshare", "--mount", "sh", "-c", command], os.environ | {INSIDE: "1"})


if __name__ == "__main__":
    main() if INSIDE in os.environ else where_nodes_have_names()
