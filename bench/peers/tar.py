"""tar and zstd: what reading, compressing and writing take, without a backup's duties. It cannot be restored to a running server."""

from driver.peer import FULL, Peer, said


class Tar(Peer):
    name = "tar and zstd"
    measures = FULL

    def version(self):
        return said("tar", "--version").split()[-1]

    def backup(self, server, full):
        script = 'tar -C "$1" --exclude=./pg_wal/* -c . | zstd -1 -T0 -q -o "$2" && sync "$2"'
        return ["bash", "-o", "pipefail", "-c", script, "backup", server.data, f"{self.place}/base.tar.zst"]

    def restore(self, target):
        script = 'mkdir -m 700 "$2" && zstd -dcq "$1" | tar -xC "$2"'
        return ["bash", "-o", "pipefail", "-c", script, "restore", f"{self.place}/base.tar.zst", target]
