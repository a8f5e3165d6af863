"""What all parts of a run share: where its files are, as whom programs run, and the parameters."""

import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time

from driver.process import Failed, as_server
from driver.stores import KEY, REGION, S3, SECRET, Directory


class Bench:
    def __init__(self, options):
        self.segments, self.scale, self.rounds = options.segments, options.scale, options.rounds
        self.quick, self.checksums = options.quick, options.checksums
        self.cores = len(os.sched_getaffinity(0))
        self.servers = []
        self.begun = time.monotonic()
        bindir = subprocess.run([options.pg_config, "--bindir"], capture_output=True, text=True, check=True).stdout.strip()
        self.bindir = bindir
        # Short, as the path of a socket must be.
        self.work = tempfile.mkdtemp(prefix="walarchive-bench.", dir=options.work)
        self.own(self.work)
        os.chdir(self.work)
        self.stores = {"file": Directory(self), "S3": S3(self, options.s3_server)}
        self.env = {
            "PATH": f"{bindir}:/usr/local/bin:/usr/bin:/bin",
            "HOME": self.work,
            "LC_ALL": "C",
            "TZ": "UTC",
            "PGHOST": self.work,
            "PGPORT": "5432",
            "PGUSER": "postgres",
            "PGDATABASE": "postgres",
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_REGION": REGION,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CA_BUNDLE": self.stores["S3"].certificate,
        }

    def say(self, text):
        print(f"bench: {int(time.monotonic() - self.begun):4} s  {text}", file=sys.stderr, flush=True)

    # Files of the server's user

    def own(self, path):
        if os.geteuid() == 0:
            user = pwd.getpwnam("postgres")
            subprocess.run(["chown", "-Rh", f"{user.pw_uid}:{user.pw_gid}", path], check=True)

    def write(self, path, text, mode=0o600):
        with open(path, "w") as file:
            file.write(text)
        os.chmod(path, mode)
        self.own(path)

    def directory(self, path):
        os.makedirs(path, mode=0o700)
        at = path
        while at != self.work:
            self.own(at)
            at = os.path.dirname(at)
        return path

    def quiet(self, command, env=None):
        """Runs a command that is not measured."""
        done = subprocess.run(
            command, env=env or self.env, cwd=self.work, stdin=subprocess.DEVNULL, capture_output=True, text=True, **as_server()
        )
        if done.returncode != 0:
            raise Failed(f"{' '.join(map(str, command))} ended with {done.returncode}: {(done.stderr or done.stdout).strip()[-1500:]}")
        return done.stdout

    def end(self):
        for server in list(self.servers):
            try:
                server.stop(signal.SIGQUIT, 20)
            except Failed:
                pass
        self.stores["S3"].stop()
        os.chdir("/")
        shutil.rmtree(self.work, ignore_errors=True)
