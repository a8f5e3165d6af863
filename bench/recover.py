"""Starts a server that recovers, waits until its replay is done, stops it, and prints seconds of replay and of CPU.

All processes count, also those that the server's children have left behind: this process is their reaper.
"""

import ctypes
import os
import re
import resource
import signal
import subprocess
import sys
import time

PR_SET_CHILD_SUBREAPER = 36
DEADLINE = 900

data = sys.argv[1]
log_path = data + ".log"
ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
with open(log_path, "wb") as log:
    server = subprocess.Popen(["postgres", "-D", data], stdout=log, stderr=log, stdin=subprocess.DEVNULL)


def text():
    with open(log_path, errors="replace") as log:
        return log.read()


def when(what):
    found = re.search(r"^([\d.]+) LOG:  " + what, text(), re.M)
    return float(found.group(1)) if found else None


begun = time.monotonic()
while when("database system is ready to accept connections") is None:
    if server.poll() is not None or time.monotonic() - begun > DEADLINE:
        sys.stderr.write(text()[-3000:])
        server.poll() is None and server.send_signal(signal.SIGQUIT)
        sys.exit("recovery did not end")
    time.sleep(0.05)
took = when("redo done at") - when("starting archive recovery")
server.send_signal(signal.SIGINT)
while True:
    try:
        os.waitpid(-1, 0)
    except ChildProcessError:
        break
usage = resource.getrusage(resource.RUSAGE_CHILDREN)
os.unlink(log_path)
print(f"{took:.2f} {usage.ru_utime + usage.ru_stime:.2f}")
