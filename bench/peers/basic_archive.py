"""basic_archive: PostgreSQL's own archive library. It copies a segment into a directory and syncs it; nothing is compressed."""

import os
import subprocess

from driver.peer import ARCHIVING, Peer, said


class BasicArchive(Peer):
    name = "basic_archive"
    measures = ARCHIVING

    @classmethod
    def missing(cls, bench):
        libraries = subprocess.run([f"{bench.bindir}/pg_config", "--pkglibdir"], capture_output=True, text=True, check=True).stdout.strip()
        return None if os.path.exists(f"{libraries}/basic_archive.so") else f"{libraries} has no basic_archive"

    def version(self):
        return said(f"{self.bench.bindir}/postgres", "--version").split()[2]

    def archive(self):
        return ["archive_library = 'basic_archive'", f"basic_archive.archive_directory = '{self.place}'"]
