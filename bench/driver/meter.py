"""One measurement: its time, its CPU and its memory, and what the rest of the machine did meanwhile."""

import os
import time

from driver import machine

EVERY = 0.05


class Meter:
    def __init__(self, bench, peer, server=None):
        """server: one that runs already, and whose work for the contender counts."""
        self.bench, self.peer, self.server = bench, peer, server
        # What was written before is not on this measurement's bill.
        os.sync()
        self.highest = 0
        self.looked = 0.0
        self.server_cpu = server.cpu() if server else 0.0
        self.server_memory = server.memory() if server else 0
        self.own, self.store_cpu = time.process_time(), peer.store.cpu()
        self.busy = machine.busy()[0]
        self.begun = time.monotonic()

    def look(self, *memories):
        """Notes the highest sum of these; at most so often that looking costs nothing."""
        now = time.monotonic()
        if now - self.looked >= EVERY:
            self.looked = now
            self.highest = max(self.highest, sum(memory() for memory in memories))

    def others(self, cpu):
        """The share of all cores that neither the contender, nor the store, nor we have used."""
        wall = time.monotonic() - self.begun
        known = cpu + self.peer.store.cpu() - self.store_cpu + time.process_time() - self.own
        # The clock of processes has steps of 10 ms: a few of them are nothing.
        foreign = machine.busy()[0] - self.busy - known - 0.02
        return max(0.0, foreign / wall / self.bench.cores)

    def sample(self, measure, wall, cpu, **more):
        return {
            "measure": measure,
            "contender": self.peer.name,
            "store": self.peer.store.kind,
            "wall": wall,
            "cpu": cpu,
            "memory": self.highest or None,
            **more,
        }
