"""A PostgreSQL server of the bench."""

import os
import shutil
import signal
import subprocess
import time

from driver.process import Failed, Sat, as_server, tail_of, tree_cpu, tree_memory

CONF = """
listen_addresses = ''
unix_socket_directories = '{socket}'
port = {port}
wal_level = replica
archive_mode = on
max_wal_size = 8GB
checkpoint_timeout = 1h
shared_buffers = 512MB
synchronous_commit = off
# A segment that was archived is removed, not reused: copies of a cluster share the files.
wal_recycle = off
log_line_prefix = '%n '
"""
PORT = 5432


class Server:
    def __init__(self, bench, data):
        self.bench, self.data = bench, data
        self.log = os.path.join(bench.work, "server.log")
        self.sat = None

    # Files

    def initdb(self):
        self.bench.quiet(
            ["initdb", *(["-k"] if self.bench.checksums else []), "-D", self.data, "-U", "postgres", "-A", "trust", "--no-sync"]
        )
        with open(self.path("postgresql.conf"), "a") as file:
            file.write(CONF.format(socket=self.bench.work, port=PORT))

    def path(self, *parts):
        return os.path.join(self.data, *parts)

    def configure(self, lines):
        self.bench.write(self.path("postgresql.auto.conf"), "\n".join(lines) + "\n")

    def ready(self):
        """WAL files that wait for the archiver."""
        return [name[:-6] for name in os.listdir(self.path("pg_wal/archive_status")) if name.endswith(".ready")]

    def copy(self, to):
        """A copy that shares the WAL files that wait: nobody writes into those any more."""
        shared = set(self.ready())
        wal = self.path("pg_wal")
        ignored = lambda where, names: [name for name in names if where == wal and name in shared]  # noqa: E731
        shutil.rmtree(to, ignore_errors=True)
        shutil.copytree(self.data, to, symlinks=True, ignore=ignored)
        for name in shared:
            os.link(self.path("pg_wal", name), os.path.join(to, "pg_wal", name))
        self.bench.own(to)
        return Server(self.bench, to)

    def remove(self):
        shutil.rmtree(self.data)

    # Running

    def start(self, deadline=120, look=lambda: None):
        """Seconds from the start of the program until it takes connections. Calls look() meanwhile."""
        if os.path.exists(self.log):
            os.unlink(self.log)
        self.sat = Sat(["postgres", "-D", self.data], self.bench.env, self.log)
        self.bench.servers.append(self)
        while not self.takes_connections():
            if self.sat.ended(0.002) or time.monotonic() - self.sat.begun > deadline:
                raise Failed(f"the server of {self.data} did not start:\n{tail_of(self.log)}")
            look()
        return time.monotonic() - self.sat.begun

    def takes_connections(self):
        try:
            with open(self.path("postmaster.pid")) as file:
                lines = file.read().split("\n")
        except OSError:
            return False
        return len(lines) > 7 and lines[7].strip() == "ready"

    def stop(self, how=signal.SIGINT, deadline=180):
        if self.sat is None:
            return
        sat, self.sat = self.sat, None
        self.bench.servers.remove(self)
        try:
            os.kill(sat.command_pid, how)
        except ProcessLookupError:
            pass
        if not sat.ended(deadline):
            sat.kill()
            raise Failed(f"the server of {self.data} did not stop in {deadline} s:\n{tail_of(self.log)}")

    def crash(self):
        """Stops it at once, and ends what a contender has started beside it."""
        if self.sat is None:
            return
        sat, self.sat = self.sat, None
        self.bench.servers.remove(self)
        end = time.monotonic() + 20
        try:
            os.kill(sat.command_pid, signal.SIGQUIT)
            while os.path.exists(self.path("postmaster.pid")) and time.monotonic() < end and not sat.ended(0.01):
                pass
        except ProcessLookupError:
            pass
        sat.kill()

    def cpu(self):
        return tree_cpu(self.sat.pid)

    def memory(self):
        return tree_memory(self.sat.pid)

    def wait_archived(self, deadline=300, look=lambda: None):
        """Until no WAL file waits for the archiver. A command that fails again and again is not waited for."""
        begun = looked = time.monotonic()
        while waiting := self.ready():
            look()
            now = time.monotonic()
            if now - looked > 1:
                looked = now
                if "failed too many times" in open(self.log, errors="replace").read():
                    raise Failed(f"the archiver fails:\n{tail_of(self.log)}")
            if now - begun > deadline:
                raise Failed(f"{len(waiting)} files still wait for the archiver:\n{tail_of(self.log)}")
            time.sleep(0.01)

    def query(self, sql):
        command = ["psql", "-XqAt", "-v", "ON_ERROR_STOP=1", "-c", sql]
        done = subprocess.run(
            command, env=self.bench.env, cwd=self.bench.work, stdin=subprocess.DEVNULL, capture_output=True, text=True, **as_server()
        )
        if done.returncode != 0:
            raise Failed(f"{sql}: {done.stderr.strip()}")
        return done.stdout.strip()
