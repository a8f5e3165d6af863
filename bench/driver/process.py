"""Processes that are measured: CPU time and memory of a program and of all that it starts."""

import json
import os
import pwd
import re
import select
import signal
import subprocess
import sys
import time

TICK = os.sysconf("SC_CLK_TCK")
SITTER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "sitter.py")
# Of PostgreSQL's processes those that a server has in any case. Their memory is nobody's merit.
STANDING = re.compile(
    r"\S*postgres -D|postgres: (.*: )?(checkpointer|background writer|walwriter|autovacuum|logical replication|startup|io worker)"
)


class Failed(Exception):
    """A program of a contender failed, or did not end in time."""


def as_server():
    """Arguments for Popen: a server must not run as root."""
    if os.geteuid() != 0:
        return {}
    user = pwd.getpwnam("postgres")
    return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": os.getgrouplist("postgres", user.pw_gid)}


def children(pid):
    found = []
    try:
        for task in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{task}/children") as file:
                found += [int(child) for child in file.read().split()]
    except OSError:
        pass
    return found


def descendants(pid):
    found, todo = [], children(pid)
    while todo:
        one = todo.pop()
        found.append(one)
        todo += children(one)
    return found


def stat(pid):
    """What follows a process's name in its stat: state, parent, ..."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(") ")[2].split()
    except OSError:
        return None


def tree_cpu(pid):
    """CPU seconds of all processes below this one, ended ones too, without its own."""
    own = stat(pid)
    ticks = int(own[13]) + int(own[14]) if own else 0
    for one in descendants(pid):
        fields = stat(one)
        if fields:
            ticks += sum(int(field) for field in fields[11:15])
    return ticks / TICK


def tree_memory(pid):
    """Bytes of anonymous memory of all processes below this one, but for PostgreSQL's standing ones."""
    total = 0
    for one in descendants(pid):
        try:
            with open(f"/proc/{one}/cmdline", "rb") as file:
                title = file.read().replace(b"\0", b" ").decode(errors="replace")
            if STANDING.match(title):
                continue
            with open(f"/proc/{one}/status") as file:
                found = re.search(r"^RssAnon:\s+(\d+) kB", file.read(), re.M)
            total += int(found.group(1)) * 1024 if found else 0
        except OSError:
            pass
    return total


class Sat:
    """A command under a sitter."""

    def __init__(self, command, env, log):
        with open(log, "ab") as output:
            self.sitter = subprocess.Popen(
                [sys.executable, "-S", "-E", SITTER, *map(str, command)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=output,
                env=env,
                cwd=os.path.dirname(log),
                **as_server(),
            )
        self.pid = self.sitter.pid
        line = self.sitter.stdout.readline()
        if not line:
            raise Failed(f"{command[0]} did not start")
        first = json.loads(line)
        self.begun, self.command_pid = first["begun"], first["pid"]
        self.last = None

    def ended(self, timeout):
        """How it ended, or None if it runs after so many seconds."""
        if self.last is None and select.select([self.sitter.stdout], [], [], timeout)[0]:
            line = self.sitter.stdout.readline()
            self.sitter.wait()
            self.last = json.loads(line) if line else {"status": -1, "wall": 0.0, "cpu": 0.0}
        return self.last

    def kill(self):
        """Ends it and all that it has started. The sitter ends by itself when nothing is left that could still write."""
        end = time.monotonic() + 5
        while time.monotonic() < end:
            for pid in descendants(self.pid):
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
            if self.ended(0.05):
                return
        self.sitter.kill()
        self.sitter.wait()


def tail_of(log, lines=12):
    with open(log, errors="replace") as file:
        return "".join(file.readlines()[-lines:])


def run(command, env, log, deadline, sample=lambda: None):
    """Runs a command to its end; seconds and CPU seconds of it. Calls sample() with its sitter's id now and then."""
    begun = time.monotonic()
    sat = Sat(command, env, log)
    try:
        while not sat.ended(0.05):
            sample(sat.pid)
            if time.monotonic() - begun > deadline:
                raise Failed(f"{command[0]} did not end in {deadline} s")
    except BaseException:
        sat.kill()
        raise
    if sat.last["status"] != 0:
        raise Failed(f"{' '.join(map(str, command))} ended with {sat.last['status']}:\n{tail_of(log)}")
    return sat.last["wall"], sat.last["cpu"]
