"""pg_basebackup: compressed by the server, and unpacked by tar."""

from driver.peer import FULL, Peer, said


class PgBasebackup(Peer):
    name = "pg_basebackup"
    measures = FULL

    def version(self):
        return said(f"{self.bench.bindir}/pg_basebackup", "--version").split()[2]

    def backup(self, server, full):
        compress = f"--compress=server-zstd:level=1,workers={self.bench.cores}"
        return ["pg_basebackup", "-D", self.place, "-Ft", "-X", "none", "-c", "fast", compress]

    def restore(self, target):
        script = 'mkdir -m 700 "$2" && zstd -dcq "$1/base.tar.zst" | tar -xC "$2"'
        return ["bash", "-o", "pipefail", "-c", script, "restore", self.place, target]
