"""Base backups of a running server, and their restores. All contenders take the same steps on the same cluster."""

import os
import shutil

from driver.meter import Meter
from driver.process import run, tree_memory

DEADLINE = 1800


def step(bench, peer, full, measure):
    """A backup, by a server that archives as the contender wants it to."""
    server = bench.material.big
    if full:
        peer.fresh(server.data)
    server.configure(peer.archive())
    server.start()
    try:
        # What was stored is then the backup and the WAL that belongs to it.
        server.query("SELECT pg_switch_wal()")
        server.wait_archived()
        stored = peer.bytes()
        meter = Meter(bench, peer, server)
        log = os.path.join(bench.work, "backup.log")
        command = peer.backup(server, full)

        def look(sitter):
            meter.look(server.memory, lambda: tree_memory(sitter))

        wall, cpu = run(command, bench.env, log, DEADLINE, look)
        cpu += server.cpu() - meter.server_cpu
        others = meter.others(cpu)
        return [meter.sample(measure, wall, cpu, others=others, bytes=peer.bytes() - stored)]
    finally:
        server.stop()


def restore(bench, peer, measure):
    target = os.path.join(bench.work, "restored")
    try:
        meter = Meter(bench, peer)
        log = os.path.join(bench.work, "restore.log")
        command = peer.restore(target)
        if not peer.syncs:
            command = ["bash", "-c", f'"$@" && sync -f {target}', "restore", *command]
        wall, cpu = run(command, bench.env, log, DEADLINE, lambda sitter: meter.look(lambda: tree_memory(sitter)))
        others = meter.others(cpu)
        if not os.path.exists(os.path.join(target, "global/pg_control")):
            raise AssertionError(f"{peer.label()} restored no pg_control")
        return [meter.sample(measure, wall, cpu, others=others)]
    finally:
        shutil.rmtree(target, ignore_errors=True)


def change(bench, sql):
    """A change that all contenders back up then. Its WAL is nobody's."""
    server = bench.material.big
    server.configure(["archive_command = 'true'"])
    server.start()
    try:
        for statement in sql:
            server.query(statement)
        server.query("CHECKPOINT")
        server.wait_archived()
    finally:
        server.stop()


def change_one(bench):
    change(bench, [f"UPDATE pgbench_accounts SET abalance = abalance + 1 WHERE aid <= 1000 * {bench.scale}", "VACUUM pgbench_accounts"])


def change_half(bench):
    # A page has 61 rows. One of each second page.
    change(bench, ["UPDATE pgbench_accounts SET abalance = abalance + 1 WHERE aid % 122 = 0", "VACUUM pgbench_accounts"])
