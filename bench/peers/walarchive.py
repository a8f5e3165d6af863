"""walarchive: in the server, and by archive_command as older servers run it. Its defaults, but for delta backups."""

import os

from driver.peer import ARCHIVING, DELTA, FULL, Peer, said
from driver.stores import BUCKET, REGION


class Walarchive(Peer):
    name = "walarchive"
    stores = ("file", "S3")
    measures = ARCHIVING | FULL | DELTA | {"replay"}
    syncs = True

    @classmethod
    def missing(cls, bench):
        return None if os.path.exists(f"{bench.bindir}/walarchive") else f"there is no walarchive in {bench.bindir}"

    def version(self):
        return said(f"{self.bench.bindir}/walarchive", "--version").split()[-1]

    def where(self):
        """The repository and its options, as the settings have them."""
        if self.store.kind == "file":
            return f"file://{self.place}", ""
        options = f"aws_endpoint={self.store.endpoint},aws_region={REGION},ca_cert_file={self.store.certificate}"
        return f"s3://{BUCKET}/{self.place}", options

    def flags(self):
        url, options = self.where()
        return ["--storage", url, *(["--storage-option", options] if options else [])]

    def settings(self):
        url, options = self.where()
        return [
            "shared_preload_libraries = 'walarchive'",
            f"walarchive.storage = '{url}'",
            f"walarchive.storage_options = '{options}'",
        ]

    def archive(self):
        return [*self.settings(), "archive_library = 'walarchive'", "walarchive.delta_max_steps = 10"]

    def backup(self, server, full):
        return ["psql", "-XqAt", "-v", "ON_ERROR_STOP=1", "-c", f"SELECT walarchive_backup_push(full_backup => {full})"]

    def restore(self, target):
        return ["walarchive", "backup-fetch", target, "LATEST", *self.flags(), "--quiet"]

    def replay(self, data):
        return [*self.settings(), "restore_command = 'walarchive wal-fetch %f \"%p\"'"]


class WalPush(Walarchive):
    name = "walarchive wal-push"
    measures = ARCHIVING

    def version(self):
        return ""

    def archive(self):
        return [f"archive_command = 'walarchive wal-push {' '.join(self.flags())} %p'"]
