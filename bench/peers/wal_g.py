"""WAL-G, whose path is in WALG_BINARY: zstd at its fastest level, as many uploads as walarchive has."""

import os

from driver.peer import ARCHIVING, DELTA, FULL, Peer, said
from driver.stores import BUCKET, REGION


class WalG(Peer):
    binary = ""
    name = "WAL-G"
    stores = ("file", "S3")
    measures = ARCHIVING | FULL | DELTA | {"replay"}

    @classmethod
    def at(cls, path):
        return type(cls.__name__, (cls,), {"binary": path})

    @classmethod
    def missing(cls, bench):
        return None if os.access(cls.binary, os.X_OK) else f"{cls.binary} is no program"

    def version(self):
        return said(self.binary, "--version").removeprefix("wal-g version ").split("\t")[0]

    def command(self, *words):
        settings = {
            "WALG_COMPRESSION_METHOD": "zstd",
            "WALG_ZSTD_LEVEL": "fastest",
            "WALG_UPLOAD_CONCURRENCY": "8",
            "WALG_LOG_LEVEL": "ERROR",
            "WALG_DELTA_MAX_STEPS": "10",
        }
        if self.store.kind == "file":
            settings["WALG_FILE_PREFIX"] = self.place
        else:
            settings |= {
                "WALG_S3_PREFIX": f"s3://{BUCKET}/{self.place}",
                "AWS_ENDPOINT": self.store.endpoint,
                "AWS_REGION": REGION,
                "AWS_S3_FORCE_PATH_STYLE": "true",
                "WALG_S3_CA_CERT_FILE": self.store.certificate,
            }
        return ["env", *(f"{key}={value}" for key, value in settings.items()), self.binary, *words]

    def archive(self):
        return [f"archive_command = '{' '.join(self.command('wal-push'))} %p'"]

    def backup(self, server, full):
        return self.command("backup-push", server.data, *(["--full"] if full else []))

    def restore(self, target):
        return self.command("backup-fetch", target, "LATEST")

    def replay(self, data):
        return [f"restore_command = '{' '.join(self.command('wal-fetch'))} %f \"%p\"'"]
