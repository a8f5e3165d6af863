"""The machine: what it is, and how busy it is with other things while something is measured."""

import hashlib
import multiprocessing
import os
import platform
import re
import subprocess
import time

TICK = os.sysconf("SC_CLK_TCK")
CORES = len(os.sched_getaffinity(0))
BLOCK = b"walarchive" * 100_000
# What the rest of the machine may do during a measurement before it counts as disturbed, as a share of all cores.
QUIET = 0.05


def busy():
    """CPU seconds that the whole machine has worked since its start, and those that the host took from it."""
    with open("/proc/stat") as file:
        user, nice, system, _, _, irq, softirq, steal = map(int, file.readline().split()[1:9])
    return (user + nice + system + irq + softirq) / TICK, steal / TICK


def spin(_):
    """A fixed piece of work: seconds by the clock, and CPU seconds."""
    wall, cpu = time.monotonic(), time.process_time()
    for _ in range(150):
        hashlib.sha256(BLOCK).digest()
    return time.monotonic() - wall, time.process_time() - cpu


def look():
    """The noise before a round: the load, what others do while we sleep, and the same work on all cores at once."""
    before, stolen = busy()
    time.sleep(0.5)
    after, stolen_after = busy()
    with multiprocessing.Pool(CORES) as pool:
        spins = pool.map(spin, range(CORES), 1)
    walls, cpus = zip(*spins, strict=True)
    return {
        "load": os.getloadavg()[0],
        "busy": max(0.0, (after - before) / 0.5 / CORES),
        "stolen": max(0.0, (stolen_after - stolen) / 0.5 / CORES),
        "spin_wall_ms": 1000 * sum(walls) / len(walls),
        "spin_cpu_ms": 1000 * sum(cpus) / len(cpus),
    }


def warnings(looks, disturbed, samples):
    """Why these figures are not to be trusted, in words."""
    found = []
    most = max(look["busy"] for look in looks)
    if most > QUIET:
        found.append(f"other programs took up to {most:.0%} of the cores before a round")
    if max(look["stolen"] for look in looks) > 0.02:
        found.append("the host of this virtual machine took CPU time from it")
    slow = max(look["spin_wall_ms"] / look["spin_cpu_ms"] for look in looks)
    if slow > 1.1:
        found.append(f"the spin took {slow:.2f} times its CPU time: the cores were shared")
    spins = [look["spin_cpu_ms"] for look in looks]
    if max(spins) > 1.1 * min(spins):
        found.append(f"the speed of the cores changed: the same spin took {min(spins):.0f} to {max(spins):.0f} ms of CPU time")
    if disturbed > samples * 0.1:
        found.append(f"others worked during {disturbed} of {samples} measurements, on more than {QUIET:.0%} of the cores")
    return found


def first(pattern, path, default="?"):
    try:
        with open(path) as file:
            found = re.search(pattern, file.read(), re.M)
    except OSError:
        return default
    return found.group(1).strip() if found else default


def describe(work):
    def output(*command):
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()

    return {
        "processor": first(r"^model name\s*:(.*)", "/proc/cpuinfo"),
        "cores": CORES,
        "memory_gb": round(int(first(r"^MemTotal:\s*(\d+)", "/proc/meminfo", "0")) / 1024 / 1024),
        "kernel": platform.release(),
        "system": first(r'^PRETTY_NAME="(.*)"', "/etc/os-release"),
        "file_system": output("findmnt", "-no", "FSTYPE", "-T", work),
    }
