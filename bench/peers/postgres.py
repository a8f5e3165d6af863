"""PostgreSQL alone: a backlog that nobody archives, and a recovery that finds all its WAL in pg_wal. The floor for the others."""

import os
import shutil

from driver.peer import Peer, said


class Postgres(Peer):
    name = "PostgreSQL alone"
    measures = frozenset({"start", "start_crashed", "replay"})

    def version(self):
        return said(f"{self.bench.bindir}/postgres", "--version").split()[2]

    def archive(self):
        return ["archive_command = ''"]

    def replay(self, data):
        waiting = self.bench.material.waiting
        for name in waiting.ready():
            shutil.copy(waiting.path("pg_wal", name), os.path.join(data, "pg_wal", name))
        self.bench.own(data)
        return ["restore_command = 'false'"]
