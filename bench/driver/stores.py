"""Stores on this machine: a directory, and an S3 server that speaks TLS, as those in the field do.

All contenders reach the S3 server through the same stunnel. CPU time of both is nobody's: what a store needs is not measured.
"""

import os
import random
import shutil
import socket
import subprocess
import time

from driver.process import Failed, as_server, tree_cpu

KEY, SECRET, REGION, BUCKET = "bench", "benchbench", "us-east-1", "bench"


def size_of(directory):
    """Bytes of all files below, hidden ones (the S3 server's own) left out."""
    total = 0
    for where, _, names in os.walk(directory):
        total += sum(os.lstat(os.path.join(where, name)).st_size for name in names if not name.startswith("."))
    return total


class Directory:
    kind = "file"

    def __init__(self, bench):
        self.bench = bench

    def start(self):
        pass

    def stop(self):
        pass

    def cpu(self):
        return 0.0

    def place(self, name):
        """An empty directory for a repository."""
        path = os.path.join(self.bench.work, "store", name)
        self.bench.directory(path)
        return path

    def discard(self, name):
        shutil.rmtree(os.path.join(self.bench.work, "store", name), ignore_errors=True)

    def bytes(self, name):
        return size_of(os.path.join(self.bench.work, "store", name))


class S3:
    kind = "S3"

    def __init__(self, bench, program):
        self.bench, self.program = bench, program
        self.root = os.path.join(bench.work, "s3")
        self.started = []
        self.certificate = os.path.join(bench.work, "s3.crt")

    def start(self):
        bench = self.bench
        plain = 20000 + random.randrange(20000)
        self.port = plain + 1
        self.endpoint = f"https://127.0.0.1:{self.port}"
        bench.directory(os.path.join(self.root, BUCKET))
        bench.quiet(
            "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -addext".split()
            + ["subjectAltName=IP:127.0.0.1,DNS:localhost", "-keyout", bench.work + "/s3.key", "-out", self.certificate]
        )
        bench.write(
            bench.work + "/stunnel.conf",
            "foreground = yes\npid =\ndebug = err\nsocket = l:TCP_NODELAY=1\nsocket = r:TCP_NODELAY=1\n"
            f"[s3]\naccept = 127.0.0.1:{self.port}\nconnect = 127.0.0.1:{plain}\ncert = {self.certificate}\nkey = {bench.work}/s3.key\n",
        )
        server = [self.program, "--host", "127.0.0.1", "--port", str(plain), "--access-key", KEY, "--secret-key", SECRET, self.root]
        for command in (server, ["stunnel", bench.work + "/stunnel.conf"]):
            with open(bench.work + "/s3.log", "ab") as log:
                env = dict(bench.env, RUST_LOG="error")
                process = subprocess.Popen(
                    command, env=env, cwd=bench.work, stdin=subprocess.DEVNULL, stdout=log, stderr=log, **as_server()
                )
            self.started.append(process)
        for port in (plain, self.port):
            self.wait_for(port)

    def wait_for(self, port, deadline=10):
        end = time.monotonic() + deadline
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                return
            except OSError:
                if time.monotonic() > end:
                    raise Failed("the S3 server did not start: " + open(self.bench.work + "/s3.log").read()) from None
                time.sleep(0.02)

    def stop(self):
        for process in self.started:
            process.terminate()
            process.wait()

    def cpu(self):
        return sum(tree_cpu(process.pid) for process in self.started)

    def place(self, name):
        """A prefix that nothing was written to."""
        return name

    def discard(self, name):
        shutil.rmtree(os.path.join(self.root, BUCKET, name), ignore_errors=True)

    def bytes(self, name):
        return size_of(os.path.join(self.root, BUCKET, name))
