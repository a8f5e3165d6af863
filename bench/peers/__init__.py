"""The contenders. One that is given by its path in the environment joins the same run."""

import os

from peers.barman_cloud import BarmanCloud
from peers.basic_archive import BasicArchive
from peers.cp import Cp
from peers.pg_basebackup import PgBasebackup
from peers.pgbackrest import PgBackRest, PgBackRestSync
from peers.postgres import Postgres
from peers.tar import Tar
from peers.wal_g import WalG
from peers.walarchive import Walarchive, WalPush
from peers.zstd import Zstd


def contenders():
    found = [Walarchive, WalPush, PgBackRest, PgBackRestSync, BarmanCloud, PgBasebackup, BasicArchive, Cp, Zstd, Tar, Postgres]
    if path := os.environ.get("PGBACKREST_BINARY"):
        found[4:4] = [PgBackRest.at(path), PgBackRestSync.at(path)]
    if path := os.environ.get("WALG_BINARY"):
        found[4:4] = [WalG.at(path)]
    return found
