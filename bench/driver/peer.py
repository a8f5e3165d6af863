"""What a contender is. Each has a small file in bench/peers, which says how its own manual wants it to be run.

A contender is measured in what it lists in `measures`. It is made once for each store, and keeps one repository there at a time.
"""

import itertools
import subprocess

ARCHIVING = {"drain", "drain_text", "idle", "start", "start_crashed"}
FULL = {"full", "restore"}
DELTA = {"delta_none", "delta_one", "delta_half", "restore_chain"}
serial = itertools.count(1)


class Peer:
    name = "?"
    stores = ("file",)
    measures = frozenset()
    # Of these, what a quick run has no time for.
    slow = frozenset()
    # Whether its restore returns only when the files are on the disk. If not, the bench syncs them, and that counts.
    syncs = False

    def __init__(self, bench, store):
        self.bench, self.store = bench, store
        self.slug = self.place = None

    @classmethod
    def missing(cls, bench):
        """What is not there for it to take part, in words; None if it can."""
        return None

    def version(self):
        return ""

    def label(self):
        return f"{self.name}, {self.store.kind}"

    def fresh(self, data):
        """An empty repository for the cluster in this directory; the one before is thrown away."""
        self.discard()
        self.slug = f"r{next(serial)}"
        self.place = self.store.place(self.slug)
        self.setup(data)

    def discard(self):
        if self.slug is not None:
            self.store.discard(self.slug)
        self.slug = None

    def bytes(self):
        return self.store.bytes(self.slug)

    # For each contender to define, as far as it is measured in it

    def setup(self, data):
        """Prepares the empty repository at self.place for the cluster in this directory."""

    def archive(self):
        """The lines of postgresql.conf that archive."""
        return ["archive_command = 'true'"]

    def backup(self, server, full):
        """The command that takes a backup of the running server; the full one first."""
        raise NotImplementedError

    def restore(self, target):
        """The command that restores the newest backup into this directory, which does not exist."""
        raise NotImplementedError

    def replay(self, data):
        """The lines of postgresql.conf with which the server of this directory fetches what was archived."""
        raise NotImplementedError


def said(*command):
    """The first line that a program says about its version."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return (done.stdout or done.stderr).strip().split("\n")[0]
