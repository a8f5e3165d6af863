"""zstd as archive_command: a process for each segment, the same level as walarchive. It syncs nothing."""

from driver.peer import ARCHIVING, Peer, said


class Zstd(Peer):
    name = "zstd -1"
    measures = ARCHIVING | {"replay"}

    def version(self):
        return said("zstd", "--version").split(" v")[-1].split(",")[0]

    def archive(self):
        return [f"archive_command = 'zstd -1 -q -f %p -o {self.place}/%f.zst'"]

    def replay(self, data):
        return [f"restore_command = 'zstd -dqf {self.place}/%f.zst -o \"%p\"'"]
