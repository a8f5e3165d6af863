"""sitter.py COMMAND...: runs a command and waits for it and for all that it leaves behind.

It is the reaper of every process below it, so that the CPU time of a daemon counts, too. Standard output gets two lines of JSON: when
the command began, by the machine's monotonic clock, and how it ended.
"""

import ctypes
import json
import os
import resource
import subprocess
import sys
import time

PR_SET_CHILD_SUBREAPER = 36


def main():
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    # The terminal's interrupt is the driver's matter: it stops servers in order.
    os.setpgid(0, 0)
    begun = time.monotonic()
    # What the command says goes to standard error, which is a file.
    child = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL, stdout=2)
    print(json.dumps({"pid": child.pid, "begun": begun}), flush=True)
    status = ended = None
    while True:
        try:
            pid, code = os.wait()
        except ChildProcessError:
            break
        if pid == child.pid:
            ended = time.monotonic()
            status = os.waitstatus_to_exitcode(code)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(json.dumps({"status": status, "wall": ended - begun, "cpu": used.ru_utime + used.ru_stime}), flush=True)


main()
