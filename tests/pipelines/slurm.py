"""A real Slurm of one node, started for the tests: controller, node daemon and munge, all on this machine."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

PROGRAMS = ("slurmctld", "slurmd", "sbatch", "squeue", "munged")
_WAIT_S = 60.0
_CLUSTER = "pathopatch-tests"
_INSTALLED = Path("/etc/slurm/slurm.conf")  # where srun looks within a job, whose environment names no other place


class Unavailable(Exception):
    """There is no Slurm here."""


def require() -> None:
    """Raise unless Slurm is installed and this process may start it."""
    missing = [name for name in PROGRAMS if _program(name) is None]
    if missing:
        raise Unavailable(f"no {', '.join(missing)}: install slurmctld slurmd slurm-client munge")
    if os.getuid() != 0:
        raise Unavailable("a node daemon of one's own wants root")
    if _INSTALLED.exists() and f"ClusterName={_CLUSTER}\n" not in _INSTALLED.read_text(encoding="utf-8"):
        raise Unavailable(f"this machine has a Slurm of its own: {_INSTALLED}")


@contextmanager
def node(folder: Path) -> Iterator[dict[str, str]]:
    """Yield the environment in which sbatch and squeue find a node of two cores that is up."""
    require()
    host = socket.gethostname().split(".")[0]
    for name in ("state", "spool"):
        (folder / name).mkdir(parents=True)
    config = folder / "slurm.conf"
    controller, daemon = _free_port(), _free_port()
    config.write_text(
        f"""
ClusterName={_CLUSTER}
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmdPort={daemon}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
MailProg=/bin/true
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 RealMemory=8000 State=UNKNOWN
PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE State=UP
""",
        encoding="utf-8",
    )
    (folder / "cgroup.conf").write_text("CgroupPlugin=disabled\n", encoding="utf-8")
    environment = {**os.environ, "SLURM_CONF": str(config)}
    with ExitStack() as running:
        _INSTALLED.parent.mkdir(exist_ok=True)
        _INSTALLED.unlink(missing_ok=True)  # of tests that were killed
        _INSTALLED.symlink_to(config)
        running.callback(_INSTALLED.unlink, missing_ok=True)
        _start_munge(folder, running)
        for name in ("slurmctld", "slurmd"):
            _start([_program(name) or name, "-D", "-f", str(config)], folder / f"{name}.out", environment, running)
        _until_up(environment, folder)
        yield environment


def _program(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")


def _start_munge(folder: Path, running: ExitStack) -> None:
    """Start munged with a key of this node's own, as the user that it asks for."""
    user = pwd.getpwnam("munge")
    own = folder / "munge"
    own.mkdir(mode=0o755)
    key = own / "key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o400)
    for path in (own, key):
        os.chown(path, user.pw_uid, user.pw_gid)
    for parent in (folder, *folder.parents):  # munge looks at every folder above its socket
        if parent.stat().st_mode & 0o005 != 0o005:
            parent.chmod(parent.stat().st_mode | 0o055)
    command = [
        _program("munged") or "munged", "--foreground", "--force",
        f"--key-file={key}", f"--socket={folder}/munge.socket",
        f"--pid-file={own}/pid", f"--seed-file={own}/seed", f"--log-file={own}/log",
    ]  # fmt: skip
    _start(command, folder / "munged.out", dict(os.environ), running)
    _until(lambda: (folder / "munge.socket").exists(), folder)


def _start(command: list[str], log: Path, environment: dict[str, str], running: ExitStack) -> None:
    stream = running.enter_context(log.open("wb"))
    process = subprocess.Popen(command, stdout=stream, stderr=stream, env=environment)

    def end() -> None:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    running.callback(end)


def _until_up(environment: dict[str, str], folder: Path) -> None:
    def is_up() -> bool:
        sinfo = subprocess.run(
            ["sinfo", "-h", "-o", "%t"], env=environment, capture_output=True, text=True, check=False
        )
        return sinfo.stdout.strip() in ("idle", "mix", "alloc")

    _until(is_up, folder)


def _until(is_so: object, folder: Path) -> None:
    assert callable(is_so)
    deadline = time.monotonic() + _WAIT_S
    while not is_so():
        if time.monotonic() > deadline:
            outputs = "\n".join(
                f"{path.name}: {path.read_text(errors='replace')[-2000:]}" for path in folder.glob("*.out")
            )
            logs = "\n".join(
                f"{path.name}: {path.read_text(errors='replace')[-2000:]}" for path in folder.glob("*.log")
            )
            raise AssertionError(f"Slurm does not come up:\n{outputs}\n{logs}")
        time.sleep(0.3)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
