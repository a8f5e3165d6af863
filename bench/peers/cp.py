"""cp as archive_command, as the manual of PostgreSQL has it: nothing is compressed, and nothing is synced."""

from driver.peer import ARCHIVING, Peer, said


class Cp(Peer):
    name = "cp"
    measures = ARCHIVING | {"replay"}

    def version(self):
        return said("cp", "--version").split()[-1]

    def archive(self):
        return [f"archive_command = 'test ! -f {self.place}/%f && cp %p {self.place}/%f'"]

    def replay(self, data):
        return [f"restore_command = 'cp {self.place}/%f \"%p\"'"]
