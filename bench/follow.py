"""follow.py OBJECTS SOCKETS RATE SECONDS NAME: writes segments on the server at port 5432, and looks how far the one at 5433 is."""

import os
import subprocess
import sys
import threading
import time

SEGMENT = 16 << 20
DEADLINE = 60

objects, sockets, rate, seconds, name = sys.argv[1], sys.argv[2], float(sys.argv[3]), float(sys.argv[4]), sys.argv[5]


class Session:
    """One psql that stays: to start one costs more than what is measured."""

    def __init__(self, port):
        command = ["psql", "-XqAt", "-h", sockets, "-p", str(port), "-U", "postgres", "-d", "postgres"]
        self.psql = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, sql):
        self.psql.stdin.write(sql + "; SELECT 'end'\n;\n")
        self.psql.stdin.flush()
        lines = []
        while (line := self.psql.stdout.readline()) not in ("end\n", ""):
            lines.append(line.strip())
        return lines[-1] if lines else ""


def archived():
    """The number of the segment behind the newest that is archived."""
    names = [entry.name[:24] for entry in os.scandir(objects) if entry.name[:8] == "00000001" and ".backup" not in entry.name]
    return max((int(n[8:16], 16) << 8 | int(n[16:24], 16) for n in names if len(n) == 24), default=0) + 1


def write():
    session, begun, written = Session(5432), time.monotonic(), 0
    # Nearly a segment of rows, and what is left of it.
    while not over.wait(max(0, begun + written / rate - time.monotonic())):
        session.ask("INSERT INTO t SELECT i, repeat('x', 100) FROM generate_series(1, 80000) i")
        session.ask("SELECT pg_switch_wal()")
        written += 1
        if written % 60 == 0:
            session.ask("TRUNCATE t")


def replayed():
    lsn = standby.ask("SELECT pg_last_wal_replay_lsn()")
    high, low = lsn.split("/")
    return (int(high, 16) << 32 | int(low, 16)) / SEGMENT


over = threading.Event()
standby = Session(5433)
deadline = time.monotonic() + DEADLINE
while archived() - replayed() > 1.05:
    if time.monotonic() > deadline:
        sys.exit("the standby does not catch up")
    time.sleep(0.2)
writer = threading.Thread(target=write)
writer.start()
lags, first, end = [], archived(), time.monotonic() + seconds
while time.monotonic() < end:
    before = archived()
    place = replayed()
    if archived() == before:
        lags.append(before - place)
    time.sleep(0.05)
over.set()
writer.join()
lags.sort()
above = sum(lag > 1.05 for lag in lags)
print(
    f"follow, {name}: {(archived() - first) / seconds:.2f} segments/s archived; behind by {lags[len(lags) // 2]:.2f} segments"
    f" (median), {lags[-1]:.2f} at most; {above} of {len(lags)} samples above one segment"
)
