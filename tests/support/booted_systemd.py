"""A machine for tests: a real systemd, booted in half a second on a copy-on-write / .

It has the host's files and loopback, and processes, mounts, cgroups and a hostname of its
own. What it writes stays in memory and goes with it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Iterator, Mapping, Sequence

import pytest

from tests.support.command import wait_for

SYSTEMD = "/lib/systemd/systemd"
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
ENTER = "--mount --pid --net --ipc --uts --cgroup --root --wd"
# When this process dies, the launcher does, and then all that it has launched.
UNSHARE = (
    "setpriv --pdeathsig KILL unshare --fork --kill-child "
    "--mount --propagation private --pid --cgroup --uts --ipc"
)
# The kernel's own knobs stay out of its reach, and so does /proc/sys, below.
WITHOUT = "audit_control audit_read mac_admin mac_override sys_boot sys_module sys_rawio sys_time"

# A cgroup of its own must be entered before it can be the root of a cgroup namespace.
LAUNCH = 'echo $$ >"$1/cgroup.procs"; shift; exec "$@"'

BOOT = r"""
set -eu
base=$1 root=$1/root
shift
mount -t tmpfs -o mode=0755 machine "$base"
mkdir "$base/upper" "$base/work" "$root"
mount -t overlay -o "lowerdir=/,upperdir=$base/upper,workdir=$base/work" machine "$root"
rm -rf "$root"/etc/systemd/system/*.wants
: >"$root/etc/fstab"
mount -t proc proc "$root/proc"
mount --bind "$root/proc/sys" "$root/proc/sys"
mount -o remount,bind,ro "$root/proc/sys"
mount -t sysfs -o ro sysfs "$root/sys"
mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
mount -t tmpfs -o mode=0755 dev "$root/dev"
for name in null zero full random urandom tty; do
  : >"$root/dev/$name"
  mount --bind "/dev/$name" "$root/dev/$name"
done
mkdir "$root/dev/pts" "$root/dev/shm"
mount -t devpts -o newinstance,mode=620,ptmxmode=666 devpts "$root/dev/pts"
mount -t tmpfs -o mode=1777 shm "$root/dev/shm"
ln -s pts/ptmx "$root/dev/ptmx"
ln -s /proc/self/fd "$root/dev/fd"
mount -t tmpfs -o mode=0755 run "$root/run"
mount -t tmpfs -o mode=1777 tmp "$root/tmp"
while [ $# -gt 0 ]; do
  mkdir -p "$root$1"
  case $2 in
    *:*) mount -t overlay -o "lowerdir=$2" layers "$root$1" ;;
    *) mount --bind "$2" "$root$1" ;;
  esac
  shift 2
done
cd "$root"
pivot_root . mnt
umount -l /mnt
exec env -i container=test PATH="$PATH" setpriv --bounding-set="$BOUNDING_SET" \
  "$SYSTEMD" --unit=basic.target
"""


@dataclass(frozen=True)
class Machine:
    """A booted systemd. ``pid`` is that of its process 1, as the host counts."""

    pid: int

    def path(self, path: str) -> Path:
        """A file of the machine, for the host to read and write."""
        return Path(f"/proc/{self.pid}/root{path}")

    def write(self, path: str, text: str, mode: int = 0o644) -> None:
        self.path(path).parent.mkdir(parents=True, exist_ok=True)
        self.path(path).write_text(text)
        self.path(path).chmod(mode)

    def attempt(
        self, *command: str, user: str = "root"
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in there. ``stdout`` has both streams."""
        enter = ["nsenter", "--target", str(self.pid), *ENTER.split()]
        become = ["setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups"]
        bare = ["env", "-i", f"PATH={PATH}", "LC_ALL=C.UTF-8"]
        return subprocess.run(
            [*enter, *(become if user != "root" else ()), *bare, *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            check=False,
            timeout=240,
        )

    def run(self, *command: str) -> str:
        """What a command prints that must not fail."""
        done = self.attempt(*command)
        told = f"{command} ended with {done.returncode}: {done.stdout}"
        assert done.returncode == 0, told
        return done.stdout

    def sh(self, script: str) -> str:
        """What lines of shell print, none of which may fail."""
        return self.run("sh", "-ec", script)

    def show(self, unit: str, *properties: str) -> dict[str, str]:
        """What `systemctl show` tells of a unit."""
        told = self.run("systemctl", "show", unit, "--property", ",".join(properties))
        return dict(line.split("=", 1) for line in told.splitlines())

    def journal(self, *options: str) -> str:
        """The journal's messages, by journalctl's options."""
        self.run("journalctl", "--sync")
        return self.run("journalctl", "--all", "--output=cat", "--no-pager", *options)


def require(needs: Mapping[str, str]) -> None:
    """Skip the test where one of these programs is missing, and name its package."""
    for program, package in needs.items():
        if not shutil.which(program, path=PATH):
            pytest.skip(f"needs {package}")


@contextlib.contextmanager
def boot(mounts: Mapping[str, Sequence[Path]]) -> Iterator[Machine]:
    """Boot one, or skip the test where this host cannot.

    ``mounts`` says what is where in the machine: one folder of the host's is shared,
    several are layers, read-only, the first on top.
    """
    cgroup = _make_cgroup()
    folder = tempfile.mkdtemp(prefix="test-machine-")
    command = ["sh", "-c", LAUNCH, "launch", str(cgroup), *UNSHARE.split()]
    command += ["sh", "-c", BOOT, "boot", folder]
    for path, folders in mounts.items():
        command += [path, ":".join(map(str, folders))]
    bounding_set = ",".join(f"-{name}" for name in WITHOUT.split())
    process = subprocess.Popen(
        command,
        env={"PATH": PATH, "SYSTEMD": SYSTEMD, "BOUNDING_SET": bounding_set},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        yield _wait_for_boot(process)
    finally:
        # Process 1 first, so that its parent is still there to reap it.
        for pid in _children(process) or [process.pid]:
            os.kill(pid, signal.SIGKILL)
        process.communicate()
        wait_for(lambda: _is_removed(cgroup))
        Path(folder).rmdir()


def _make_cgroup() -> Path:
    """A fresh cgroup in the unified hierarchy."""
    if os.geteuid():
        pytest.skip("needs root")
    require({"systemctl": "systemd", "nsenter": "util-linux", "setpriv": "util-linux"})
    mounts = Path("/proc/self/mounts").read_text().splitlines()
    roots = [line.split()[1] for line in mounts if line.split()[2] == "cgroup2"]
    try:
        return Path(tempfile.mkdtemp(prefix="test-machine-", dir=roots[0]))
    except (IndexError, OSError) as error:
        pytest.skip(f"needs a cgroup2 hierarchy to write to ({error})")


def _is_removed(cgroup: Path) -> bool:
    try:
        for folder, _, _ in os.walk(cgroup, topdown=False):
            Path(folder).rmdir()
    except OSError:
        return False  # its processes are still about to end
    return True


def _children(process: subprocess.Popen[str]) -> list[int]:
    if process.poll() is not None:
        return []
    told = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
    return [int(pid) for pid in told.split()]


def _wait_for_boot(process: subprocess.Popen[str]) -> Machine:
    """The machine behind the launcher, once it is up."""
    end = time.monotonic() + 30
    while time.monotonic() < end:
        if process.poll() is not None:
            why = process.communicate()[0].strip()
            pytest.skip(f"cannot boot systemd here: {why}")
        for pid in _children(process):
            if _is_up(Machine(pid)):
                return Machine(pid)
        time.sleep(0.05)
    raise TimeoutError("not booted within 30 s")


def _is_up(machine: Machine) -> bool:
    if Path(f"/proc/{machine.pid}/comm").read_text() != "systemd\n":
        return False
    state = machine.attempt("systemctl", "is-system-running", "--wait").stdout
    return state.strip() in ("running", "degraded")
