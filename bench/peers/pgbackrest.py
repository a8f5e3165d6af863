"""pgBackRest: asynchronous archiving with as many processes as walarchive has uploads, zstd at the same level, bundles, and block
incremental backups where the version has them."""

import os
import re
import shutil

from driver.peer import ARCHIVING, DELTA, FULL, Peer, said
from driver.stores import BUCKET, KEY, REGION, SECRET


class PgBackRest(Peer):
    binary = "pgbackrest"
    name = "pgBackRest"
    stores = ("file", "S3")
    measures = ARCHIVING | FULL | DELTA | {"replay"}
    syncs = True
    ahead = True

    @classmethod
    def at(cls, path):
        """The same with a program that stands elsewhere."""
        version = said(path, "version").split()[-1]
        return type(cls.__name__, (cls,), {"binary": path, "name": cls.name.replace("pgBackRest", f"pgBackRest {version}")})

    @classmethod
    def missing(cls, bench):
        return None if shutil.which(cls.binary) else f"{cls.binary} was not found"

    def version(self):
        return said(self.binary, "version").split()[-1]

    def setup(self, data):
        bench = self.bench
        self.spool = bench.directory(f"{bench.work}/pgbackrest/{self.slug}")
        self.config = f"{self.spool}/pgbackrest.conf"
        number = tuple(map(int, re.findall(r"\d+", said(self.binary, "version"))[:2]))
        lines = [
            "[global]",
            "log-level-file=off",
            "log-level-console=error",
            f"lock-path={self.spool}",
            f"spool-path={self.spool}",
            "compress-type=zst",
            "compress-level=1",
            f"process-max={bench.cores}",
            "start-fast=y",
            "repo1-bundle=y",
            *(["repo1-block=y"] if number >= (2, 46) else []),
            *self.repository(),
            "[global:archive-push]",
            "process-max=8",
            *(["archive-async=y"] if self.ahead else []),
            "[global:archive-get]",
            "process-max=8",
            *(["archive-async=y"] if self.ahead else []),
            "[bench]",
            f"pg1-path={data}",
            f"pg1-socket-path={bench.work}",
            "pg1-user=postgres",
        ]
        bench.write(self.config, "\n".join(lines) + "\n")
        bench.quiet([*self.command(), "--no-online", "stanza-create"])

    def repository(self):
        if self.store.kind == "file":
            return [f"repo1-path={self.place}"]
        return [
            "repo1-type=s3",
            f"repo1-path=/{self.place}",
            f"repo1-s3-bucket={BUCKET}",
            "repo1-s3-endpoint=127.0.0.1",
            f"repo1-storage-port={self.store.port}",
            "repo1-s3-uri-style=path",
            f"repo1-s3-region={REGION}",
            f"repo1-s3-key={KEY}",
            f"repo1-s3-key-secret={SECRET}",
            # Before 2.46 it finds no address of a host in a certificate.
            "repo1-storage-verify-tls=n",
        ]

    def command(self):
        return [self.binary, f"--config={self.config}", "--stanza=bench"]

    def archive(self):
        return [f"archive_command = '{' '.join(self.command())} archive-push %p'"]

    def backup(self, server, full):
        return [*self.command(), f"--type={'full' if full else 'incr'}", "backup"]

    def restore(self, target):
        os.mkdir(target, 0o700)
        self.bench.own(target)
        return [*self.command(), f"--pg1-path={target}", "restore"]

    def replay(self, data):
        return [f"restore_command = '{' '.join(self.command())} --pg1-path={data} archive-get %f \"%p\"'"]


class PgBackRestSync(PgBackRest):
    """Without archive-async, as it is by default: a process for each segment, none ahead."""

    name = "pgBackRest, not async"
    measures = frozenset({"drain", "idle"})
    ahead = False

    def version(self):
        return ""
