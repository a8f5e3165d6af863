"""barman-cloud: the commands with which Barman's users archive to S3 without a Barman server. gzip is what it
has on Debian: python3-snappy does not work with this Python."""

import shutil

from driver.peer import ARCHIVING, FULL, Peer, said
from driver.stores import BUCKET


class BarmanCloud(Peer):
    name = "barman-cloud"
    stores = ("S3",)
    measures = ARCHIVING | FULL | {"replay"}
    # A second for each segment.
    slow = frozenset({"drain", "drain_text", "replay"})

    @classmethod
    def missing(cls, bench):
        return None if shutil.which("barman-cloud-backup") else "barman-cloud-backup was not found"

    def version(self):
        return said("barman-cloud-backup", "--version").split()[-1]

    def place_words(self):
        return ["--endpoint-url", self.store.endpoint], [f"s3://{BUCKET}/{self.place}", "bench"]

    def archive(self):
        flags, where = self.place_words()
        return [f"archive_command = '{' '.join(['barman-cloud-wal-archive', '--gzip', *flags, *where])} %p'"]

    def backup(self, server, full):
        flags, where = self.place_words()
        connection = ["--host", self.bench.work, "--user", "postgres", "--immediate-checkpoint"]
        return ["barman-cloud-backup", "--gzip", "--jobs", str(self.bench.cores), "--name", "full", *connection, *flags, *where]

    def restore(self, target):
        flags, where = self.place_words()
        return ["barman-cloud-restore", *flags, *where, "full", target]

    def replay(self, data):
        flags, where = self.place_words()
        return [f"restore_command = '{' '.join(['barman-cloud-wal-restore', *flags, *where])} %f \"%p\"'"]
