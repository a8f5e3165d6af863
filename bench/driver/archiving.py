"""Archiving: a backlog, one segment, and the start of a server with a backlog."""

import ctypes
import os
import statistics
import struct
import threading
import time

from driver.meter import Meter
from driver.process import Failed

IN_MOVED_TO, IN_CREATE, IN_IGNORED = 0x80, 0x100, 0x8000


def drain(bench, peer, source, measure):
    """From the start of the server until nothing waits. The repository stays: the replay reads it."""
    data = os.path.join(bench.work, "drain")
    server = source.copy(data)
    try:
        waiting = len(server.ready())
        peer.fresh(data)
        server.configure(peer.archive())
        meter = Meter(bench, peer)
        server.start()
        server.wait_archived(600, lambda: meter.look(server.memory))
        wall, cpu = time.monotonic() - server.sat.begun, server.cpu()
        others = meter.others(cpu)
        server.stop()
        return [meter.sample(measure, wall / waiting, cpu / waiting, bytes=peer.bytes(), others=others, segments=waiting)]
    finally:
        server.crash()
        server.remove()


def start(bench, peer, source, measure):
    """From the start of the program until it takes connections, while the backlog begins to be archived."""
    data = os.path.join(bench.work, "start")
    server = source.copy(data)
    try:
        peer.fresh(data)
        server.configure(peer.archive())
        meter = Meter(bench, peer)
        wall = server.start()
        cpu = server.cpu()
        return [meter.sample(measure, wall, cpu, others=meter.others(cpu), segments=len(server.ready()))]
    finally:
        server.crash()
        server.remove()
        peer.discard()


class Watch(threading.Thread):
    """When a file appeared in a directory, or was renamed in it: the clock of files has steps that are too coarse."""

    def __init__(self, directory):
        super().__init__(daemon=True)
        libc = ctypes.CDLL(None, use_errno=True)
        self.file = libc.inotify_init1(os.O_CLOEXEC)
        if libc.inotify_add_watch(self.file, directory.encode(), IN_CREATE | IN_MOVED_TO) < 0:
            raise OSError(ctypes.get_errno(), "inotify_add_watch", directory)
        self.seen = {}
        self.changed = threading.Condition()
        self.start()

    def run(self):
        while True:
            events = os.read(self.file, 65536)
            now, at = time.monotonic(), 0
            with self.changed:
                while at < len(events):
                    _, mask, _, length = struct.unpack_from("iIII", events, at)
                    if mask & IN_IGNORED:
                        # The directory was removed.
                        os.close(self.file)
                        return
                    name = events[at + 16 : at + 16 + length].rstrip(b"\0").decode()
                    self.seen.setdefault(name, now)
                    at += 16 + length
                self.changed.notify_all()

    def wait_for(self, name, deadline):
        with self.changed:
            if not self.changed.wait_for(lambda: name in self.seen, deadline):
                raise Failed(f"{name} did not appear in {deadline} s")
            return self.seen[name]


def idle(bench, peer):
    """From .ready to .done of single segments of a server that does nothing else."""
    data = os.path.join(bench.work, "one")
    server = bench.material.idle.copy(data)
    times = []
    try:
        peer.fresh(data)
        server.configure(peer.archive())
        server.start()
        server.query("INSERT INTO t SELECT generate_series(1, 20000)")
        watch = Watch(server.path("pg_wal/archive_status"))
        count = 6 if bench.quick else 20
        meter = Meter(bench, peer, server)
        for at in range(count + 1):
            server.query("INSERT INTO t SELECT generate_series(1, 20000)")
            segment = server.query("SELECT pg_walfile_name(pg_switch_wal())")
            done = watch.wait_for(segment + ".done", 60)
            # The first one pays for what is made once.
            if at > 0:
                times.append(done - watch.seen[segment + ".ready"])
        others = meter.others(server.cpu() - meter.server_cpu)
        return [meter.sample("idle", statistics.median(times), None, others=others)]
    finally:
        server.crash()
        server.remove()
        peer.discard()
