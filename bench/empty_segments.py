"""empty_segments.py DATADIR COUNT: puts COUNT segments before the first one of a new cluster into its pg_wal, each with a page header
and holes, and marks them as ready to be archived. They are on timeline 1, as the cluster is, in logs that come long after its own."""

import os
import struct
import subprocess
import sys

data, count = sys.argv[1], int(sys.argv[2])
control = dict(
    line.split(":", 1) for line in subprocess.run(["pg_controldata", data], capture_output=True, text=True, check=True).stdout.splitlines()
)
system, size = int(control["Database system identifier"]), int(control["Bytes per WAL segment"])
with open(next(os.path.join(data, "pg_wal", n) for n in os.listdir(os.path.join(data, "pg_wal")) if len(n) == 24), "rb") as wal:
    magic = struct.unpack("<H", wal.read(2))[0]
a_log = (1 << 32) // size
# Far from where the server writes.
first = 0x100 * a_log
for number in range(first, first + count):
    name = f"{1:08X}{number // a_log:08X}{number % a_log:08X}"
    with open(os.path.join(data, "pg_wal", name), "wb") as segment:
        # magic, XLP_LONG_HEADER, timeline, address, nothing left of a record; system identifier, sizes of segments and of pages
        segment.write(struct.pack("<HHIQI4xQII", magic, 2, 1, number * size, 0, system, size, 8192))
        segment.truncate(size)
    open(os.path.join(data, "pg_wal", "archive_status", name + ".ready"), "w").close()
