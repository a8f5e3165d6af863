"""The clusters that are archived, backed up and recovered: made once, then copied."""

import os
import time

from driver.process import Failed
from driver.server import Server

# Rows as an application has them: half structure, half text that hardly compresses.
TEXT = """
INSERT INTO docs SELECT n, jsonb_build_object('id', n, 'customer', md5(n::text), 'mail', md5(random()::text) || '@example.com',
        'price', round((random() * 1000)::numeric, 2), 'tags', jsonb_build_array(md5(random()::text), substr(md5(random()::text), 1, 6)),
        'at', clock_timestamp()),
    translate(md5(random()::text) || md5(random()::text), '0123456789abcdef', substr('etaoinshrdlucmfw', 1 + (random() * 4)::int))
        || encode(sha256(random()::text::bytea), 'base64')
    FROM generate_series(1, 20000) n
"""


# While a cluster is made. What is measured later begins with a sync of everything.
MAKING = ["fsync = off", "archive_command = 'false'"]


def until(server, segments, write, deadline=900):
    end = time.monotonic() + deadline
    while len(server.ready()) < segments:
        write()
        if time.monotonic() > end:
            raise Failed(f"no {segments} segments after {deadline} s")


class Material:
    def __init__(self, bench):
        self.bench = bench
        self.waiting = self.crashed = self.text = self.base = self.idle = self.big = None
        # The newest one of pgbench's backlog.
        self.last_segment = None

    def path(self, name):
        return os.path.join(self.bench.work, name)

    def cluster(self, name, *settings):
        server = Server(self.bench, self.path(name))
        server.initdb()
        server.configure([*MAKING, *settings])
        return server

    def make_pgbench(self):
        """The base of a recovery; the same with a backlog, stopped in order; and with a backlog, crashed."""
        bench = self.bench
        bench.say(f"writing {bench.segments} segments with pgbench")
        server = self.cluster("full", "archive_mode = off")
        server.start()
        bench.quiet(["pgbench", "-i", "-s", "10", "-q"])
        server.query("CHECKPOINT")
        server.stop()
        # Recovery begins here, and nothing from before is archived.
        control = bench.quiet(["pg_controldata", "-D", server.data])
        redo = next(line.split()[-1] for line in control.split("\n") if line.startswith("Latest checkpoint's REDO WAL file"))
        bench.quiet(["pg_archivecleanup", server.path("pg_wal"), redo])
        self.base = server.copy(self.path("base"))
        os.unlink(self.base.path("pg_wal", redo))
        server.configure(MAKING)
        server.start()

        def write():
            # Full page images after each checkpoint make more WAL of the same work.
            server.query("CHECKPOINT")
            bench.quiet(["pgbench", "-n", "-c", "4", "-t", "250", "-M", "prepared"])

        until(server, bench.segments, write)
        server.query("CHECKPOINT")
        # What the start after a crash replays: about four segments.
        bench.quiet(["pgbench", "-n", "-c", "4", "-t", "1500", "-M", "prepared"])
        server.crash()
        self.crashed = server.copy(self.path("crashed"))
        server.start()
        # The tables are not needed any more, and a small cluster is copied quickly.
        server.query("DROP TABLE pgbench_accounts, pgbench_branches, pgbench_history, pgbench_tellers")
        server.query("SELECT pg_switch_wal()")
        server.query("CHECKPOINT")
        server.stop()
        self.waiting, self.last_segment = server, max(server.ready())

    def make_text(self):
        bench = self.bench
        bench.say(f"writing {bench.segments} segments of JSON and random text")
        server = self.cluster("text")
        server.start()
        server.query("CREATE TABLE docs (id int, doc jsonb, note text)")
        until(server, bench.segments, lambda: server.query(TEXT))
        server.query("DROP TABLE docs")
        server.query("SELECT pg_switch_wal()")
        server.query("CHECKPOINT")
        server.stop()
        self.text = server

    def make_idle(self):
        server = self.cluster("idle")
        server.start()
        server.query("CREATE TABLE t (a int)")
        # PostgreSQL does not archive what is not full.
        server.query("CHECKPOINT")
        server.configure([*MAKING, "archive_command = 'true'"])
        server.query("SELECT pg_reload_conf()")
        server.query("SELECT pg_switch_wal()")
        server.wait_archived()
        server.stop()
        self.idle = server

    def make_big(self):
        bench = self.bench
        bench.say(f"filling a cluster with pgbench -s {bench.scale}")
        server = self.cluster("big", "archive_mode = off")
        server.start()
        bench.quiet(["pgbench", "-i", "-s", str(bench.scale), "-q"])
        server.query("CREATE EXTENSION IF NOT EXISTS walarchive")
        server.query("CHECKPOINT")
        server.stop()
        control = bench.quiet(["pg_controldata", "-D", server.data])
        redo = next(line.split()[-1] for line in control.split("\n") if line.startswith("Latest checkpoint's REDO WAL file"))
        bench.quiet(["pg_archivecleanup", server.path("pg_wal"), redo])
        server.configure(["archive_command = 'true'"])
        self.big = server

    def make(self, measures):
        if measures & {"drain", "start", "start_crashed", "replay"}:
            self.make_pgbench()
        if "drain_text" in measures:
            self.make_text()
        if "idle" in measures:
            self.make_idle()
        if measures & {"full", "delta_none", "delta_one", "delta_half", "restore", "restore_chain"}:
            self.make_big()
