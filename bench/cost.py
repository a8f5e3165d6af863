"""Runs a command, and prints its seconds, the seconds of CPU that it and its children took, and their largest memory in MB."""

import os
import sys
import time

begin = time.monotonic()
child = os.posix_spawnp(sys.argv[1], sys.argv[1:], os.environ)
_, status, used = os.wait4(child, 0)
wall = time.monotonic() - begin
print(f"{wall:.3f} {used.ru_utime + used.ru_stime:.3f} {used.ru_maxrss / 1024:.0f}")
sys.exit(os.waitstatus_to_exitcode(status) != 0)
