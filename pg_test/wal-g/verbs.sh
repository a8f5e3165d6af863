#!/bin/bash
# WAL-G's documented command lines, one after the other, on a server that is made for it: backups and deltas, lists, marks, restores
# with tablespaces and to a point in time, partial ones, a copy, single objects, and every way to delete.
#
#   WALG_BINARY=/path/to/wal-g PG_BIN=/usr/lib/postgresql/15/bin pg_test/wal-g/verbs.sh DIRECTORY
#
# The server is of PostgreSQL 9.6 or later. If it comes without psql, the one on PATH is taken.
# DIRECTORY must not exist; not to be run as root. The lists that the binary prints go to stdout, without what differs from run to
# run: times, LSNs, sizes, names of segments. verbs.out has what WAL-G of August 2026 prints. What goes wrong ends it.
set -euo pipefail

walg=${WALG_BINARY:?is not set}
bin=${PG_BIN:?is not set}
work=${1:?is missing: the directory to work in}
mkdir "$work"
work=$(cd "$work" && pwd)
psql=$bin/psql
[[ -x $psql ]] || psql=psql
# 9 for 9.6.
major=$("$bin/postgres" --version | sed -E 's/[^0-9]*([0-9]+).*/\1/')

export PGOPTIONS="-c client_min_messages=warning"
export PGDATA=$work/data PGHOST=$work PGPORT=${PGPORT:-54321} PGDATABASE=postgres PGUSER=postgres TZ=UTC LC_ALL=C
export WALG_FILE_PREFIX=$work/repository WALG_COMPRESSION_METHOD=lz4 WALG_LOG_LEVEL=ERROR HOME=$work
mkdir "$WALG_FILE_PREFIX" "$work/fast"
log=$work/log

step() { printf '\n# %s\n' "$*" | tee -a "$log"; }
fail() {
    echo "FAILED: $*" >&2
    exit 1
}
# The binary; what it says on stderr goes into the log.
w() { "$walg" "$@" 2>>"$log"; }
# The same for a verb whose words on stdout are its own.
quietly() { "$walg" "$@" >>"$log" 2>&1 || fail "$*"; }
refused() { ! "$walg" "$@" >>"$log" 2>&1 || fail "$* was not refused"; }
sql() { "$psql" -XAtq -v ON_ERROR_STOP=1 "$@"; }
query() { sql -c "$1"; }
# Functions of WAL, with the names that they had up to 9.6.
switch_wal=pg_switch_wal walfile_name=pg_walfile_name current_lsn=pg_current_wal_lsn redo_lsn=redo_lsn
if ((major < 10)); then
    switch_wal=pg_switch_xlog walfile_name=pg_xlogfile_name current_lsn=pg_current_xlog_location redo_lsn=redo_location
fi
# Take out what differs from run to run.
steady() {
    awk 1 | sed -E \
        -e 's/(base_)[0-9A-F]{24}_D_[0-9A-F]{24}/\1DELTA/g' -e 's/(base_)[0-9A-F]{24}/\1FULL/g' \
        -e 's/[0-9A-F]{8}\.(history|partial)/TLI.\1/g' -e 's/[0-9A-F]{24}(\.[0-9A-F]{8})?/SEGMENT/g' \
        -e 's/[0-9]{4}-[0-9]{2}-[0-9]{2}[T ][0-9:.]+( ?Z| \+0000 UTC)?/TIME/g' \
        -e 's/[A-Z][a-z]+day, [0-9]{2}-[A-Z][a-z]{2}-[0-9]{2} [0-9:]{8} UTC/TIME/g' \
        -e 's/\b[0-9A-F]+\/[0-9A-F]+\b/LSN/g' \
        -e 's/"(start_lsn|finish_lsn|switch_point_lsn|system_identifier|pg_version|uncompressed_size|compressed_size)":[0-9]+/"\1":0/g' \
        -e 's/"(segments_count|segment_range_size)":[0-9]+/"\1":0/g' \
        -e 's/^(obj +)[0-9]+/\10/' \
        -e "s#$work#WORK#g" -e 's/[ \t]+/ /g' -e 's/-+/-/g' -e 's/ $//'
}
backups() { w backup-list --json 2>>"$log" | grep -o '"backup_name":"[^"]*"' | cut -d'"' -f4; }
newest() { backups | tail -n 1; }
counted() { backups | wc -l | tr -d ' '; }
expect() { [[ $1 == "$2" ]] || fail "$3: $1 instead of $2"; }
# All WAL so far is in the archive.
archived() {
    local segment deadline=$((SECONDS + 120))
    query "CREATE TABLE IF NOT EXISTS ticks (t timestamptz); INSERT INTO ticks VALUES (now())"
    segment=$(query "SELECT $walfile_name($switch_wal())")
    until [[ $(query "SELECT coalesce(max(last_archived_wal), '') >= '$segment' FROM pg_stat_archiver") == t ]]; do
        ((SECONDS < deadline)) || fail "$segment is not archived"
        sleep 0.1
    done
    # Something lies between the end of the archive and the server's position.
    query "INSERT INTO ticks VALUES (now())"
}
start() { "$bin/pg_ctl" -D "$1" -o "-p ${2:-$PGPORT} -k $work" -l "$1.log" -w -t 120 start >>"$log" || {
    cat "$1.log" >&2
    fail "the server on $1 does not start"
}; }
stop() { "$bin/pg_ctl" -D "$1" -m fast -w -t 120 stop >>"$log"; }
trap '"$bin/pg_ctl" -D "$PGDATA" -m immediate stop >>"$log" 2>&1 || true; for d in "$work"/restored*/ "$work"/standby/; do "$bin/pg_ctl" -D "$d" -m immediate stop >>"$log" 2>&1 || true; done' EXIT

# recovery DIRECTORY [SETTING...]: what WAL-G's manual tells to write after a backup-fetch. Up to 11 it is a file of its own.
recovery() {
    local directory=$1 file=$1/postgresql.auto.conf setting
    shift
    if ((major < 12)); then
        file=$directory/recovery.conf
        : >"$file"
    else
        touch "$directory/recovery.signal"
    fi
    {
        printf "restore_command = '\"%s\" wal-fetch \"%%f\" \"%%p\"'\n" "$walg"
        printf "recovery_target_action = promote\n"
        for setting; do printf '%s\n' "$setting"; done
    } >>"$file"
    printf 'archive_mode = off\n' >>"$directory/postgresql.auto.conf"
}
# Start a restored server on a port of its own, wait until its recovery is over, and ask it.
ask_restored() {
    local directory=$1 port=$((PGPORT + 1)) deadline=$((SECONDS + 120))
    start "$directory" $port
    until [[ $(PGPORT=$port query "SELECT pg_is_in_recovery()") == f ]]; do
        ((SECONDS < deadline)) || fail "recovery in $directory does not end"
        sleep 0.1
    done
    PGPORT=$port sql -d "${3:-postgres}" -c "$2"
    stop "$directory"
}

step "a server that archives with wal-push"
"$bin/initdb" -D "$PGDATA" -U postgres -A trust -k >>"$log"
cat >>"$PGDATA/postgresql.conf" <<CONF
listen_addresses = ''
wal_level = replica
archive_mode = on
archive_command = '"$walg" wal-push "%p"'
hot_standby = on
autovacuum = off
fsync = off
CONF
start "$PGDATA"
query "CREATE DATABASE shop"
query "CREATE DATABASE other"
query "CREATE TABLESPACE fast LOCATION '$work/fast'"
query "CREATE TABLE t (a int)"
query "CREATE TABLE f (a int) TABLESPACE fast"
sql -d shop -c "CREATE TABLE items (a int)"
sql -d other -c "CREATE TABLE things (a int)"
grow() {
    query "INSERT INTO t SELECT generate_series(1, 1000)"
    query "INSERT INTO f SELECT generate_series(1, 1000)"
    sql -d shop -c "INSERT INTO items SELECT generate_series(1, 1000)"
    sql -d other -c "INSERT INTO things SELECT generate_series(1, 1000)"
    query "CHECKPOINT"
}
grow

step "backup-list without backups"
w backup-list | steady
w backup-list --json | steady

step "backup-push: full, deltas, full with user data"
quietly backup-push "$PGDATA"
full=$(newest)
grow
WALG_DELTA_MAX_STEPS=6 quietly backup-push "$PGDATA"
grow
WALG_DELTA_MAX_STEPS=6 quietly backup-push "$PGDATA"
delta=$(newest)
[[ $full != *_D_* && $delta == *_D_* ]] || fail "these are no full and no delta: $full, $delta"
query "SELECT pg_create_restore_point('here')" >>"$log"
grow
quietly backup-push "$PGDATA" --full --add-user-data '{"release": 7}'
second=$(newest)
grow
WALG_DELTA_MAX_STEPS=6 quietly backup-push "$PGDATA" --delta-from-name "$full"
archived
expect "$(counted)" 5 "backups"

step "backup-list"
w backup-list | steady
w backup-list --pretty | steady
w backup-list --json | steady
w backup-list --detail | steady | sed -E 's/^(base_[A-Z]+ .*) [^ ]+ (WORK[^ ]*) [0-9]+/\1 HOST \2 VERSION/'
w backup-list --detail --json | steady | sed -E 's/"hostname":"[^"]*"/"hostname":""/g'
w backup-list --detail --json --pretty | grep -c '"backup_name"'

step "wal-show and wal-verify"
w wal-show | steady | sed -E 's/\| [0-9]+ \| [0-9]+ \| OK/| N | N | OK/'
w wal-show --without-backups | steady | sed -E 's/\| [0-9]+ \| [0-9]+ \| OK/| N | N | OK/'
w wal-show --detailed-json | grep -o '"status":"[A-Z_]*"'
w wal-verify integrity | steady | sed -E 's/\| [0-9]+ \| FOUND/| N | FOUND/'
w wal-verify timeline
w wal-verify integrity timeline --json | steady
w wal-verify integrity --backup-name "$second" --json | steady
position=$(query "SELECT $current_lsn()")
w wal-verify integrity --lsn "$position" --timeline 1 --json | steady

step "backup-mark"
quietly backup-mark "$delta"
w backup-list --detail --json | grep -o '"is_permanent":[a-z]*'
refused backup-mark "$full" -i
quietly backup-mark -i "$delta"
quietly backup-mark "$second"
w backup-list --detail --json | grep -o '"is_permanent":[a-z]*'
refused backup-mark base_000000010000000000000000
quietly backup-mark -i "$(backups | sed -n 2p)"
quietly backup-mark -i "$full"

step "backup-fetch with a restore specification, to a point in time"
oid=$(query "SELECT oid FROM pg_tablespace WHERE spcname = 'fast'")
specification() {
    mkdir -p "$2"
    printf '{"base_prefix": "%s", "tablespaces": ["%s"], "%s": {"loc": "%s", "link": "pg_tblspc/%s"}}\n' \
        "$1" "$oid" "$oid" "$2" "$oid" >"$work/specification.json"
}
specification "$work/restored1" "$work/fast1"
quietly backup-fetch "$work/restored1" "$delta" --restore-spec "$work/specification.json"
recovery "$work/restored1" "recovery_target_name = 'here'"
ask_restored "$work/restored1" "SELECT (SELECT count(*) FROM t), (SELECT count(*) FROM f)"
[[ -n $(ls "$work/fast1") ]] || fail "the tablespace is not where the specification says"

step "backup-fetch of the newest, to the end of the archive"
specification "$work/restored2" "$work/fast2"
quietly backup-fetch "$work/restored2" LATEST --restore-spec "$work/specification.json" --reverse-unpack --skip-redundant-tars
recovery "$work/restored2"
ask_restored "$work/restored2" "SELECT (SELECT count(*) FROM t), (SELECT count(*) FROM f)"

step "backup-fetch by user data, and with a mask"
specification "$work/restored3" "$work/fast3"
quietly backup-fetch "$work/restored3" --target-user-data '{"release": 7}' --restore-spec "$work/specification.json"
recovery "$work/restored3" "recovery_target = immediate"
ask_restored "$work/restored3" "SELECT (SELECT count(*) FROM t), (SELECT count(*) FROM f)"
specification "$work/restored4" "$work/fast4"
quietly backup-fetch "$work/restored4" "$second" --restore-spec "$work/specification.json" --mask 'base/*/PG_VERSION'
(cd "$work/restored4" && find . -type f | sed -E 's#base/[0-9]+#base/OID#' | sort -u)

step "backup-fetch of one database"
specification "$work/restored5" "$work/fast5"
quietly backup-fetch "$work/restored5" "$second" --restore-spec "$work/specification.json" --restore-only shop
recovery "$work/restored5" "recovery_target = immediate"
ask_restored "$work/restored5" "SELECT count(*) FROM items" shop

step "backup-fetch of one table"
specification "$work/restored8" "$work/fast8"
quietly backup-fetch "$work/restored8" "$second" --restore-spec "$work/specification.json" --restore-only shop/items
recovery "$work/restored8" "recovery_target = immediate"
ask_restored "$work/restored8" "SELECT count(*) FROM items" shop

step "copy"
mkdir "$work/elsewhere"
printf '{"WALG_FILE_PREFIX": "%s"}\n' "$WALG_FILE_PREFIX" >"$work/from.json"
printf '{"WALG_FILE_PREFIX": "%s"}\n' "$work/elsewhere" >"$work/to.json"
chmod 600 "$work/from.json" "$work/to.json"
quietly copy --from "$work/from.json" --to "$work/to.json" --backup-name "$delta"
(export WALG_FILE_PREFIX=$work/elsewhere; w backup-list | steady)
quietly copy --from "$work/from.json" --to "$work/to.json" --with-history
(export WALG_FILE_PREFIX=$work/elsewhere; w backup-list | steady)
(
    export WALG_FILE_PREFIX=$work/elsewhere
    specification "$work/restored6" "$work/fast6"
    quietly backup-fetch "$work/restored6" LATEST --restore-spec "$work/specification.json"
    recovery "$work/restored6"
    ask_restored "$work/restored6" "SELECT (SELECT count(*) FROM t), (SELECT count(*) FROM f)"
)

step "st"
echo "some text" >"$work/text"
quietly st put "$work/text" notes/text --no-compress
quietly st put "$work/text" notes/packed
refused st put "$work/text" notes/packed
quietly st put "$work/text" notes/packed --force
w st cat notes/text
w st cat notes/packed.lz4 --decompress
quietly st get notes/packed.lz4 "$work/got"
cat "$work/got"
w st ls notes | steady
w st ls -r notes | steady
w st ls | grep -v walarchive_005 | steady
quietly st check read notes/text
refused st check read notes/nothing
quietly st check write
quietly st rm notes
refused st rm notes

step "delete: first shown, then done"
quietly delete retain 2
quietly delete retain FULL 1
refused delete retain 1
expect "$(counted)" 5 "backups after dry runs"
quietly delete target "$(newest)" --confirm
expect "$(counted)" 4 "backups after delete target"
quietly backup-mark -i "$second"
quietly delete target --target-user-data '{"release": 7}' --confirm
expect "$(counted)" 3 "backups after delete target --target-user-data"
refused delete target base_000000010000000000000000 --confirm
quietly backup-push "$PGDATA" --full
kept=$(newest)
grow
WALG_DELTA_MAX_STEPS=6 quietly backup-push "$PGDATA"
last=$(newest)
refused delete before "$last" --confirm
quietly delete before FIND_FULL "$last" --confirm
expect "$(counted)" 2 "backups after delete before FIND_FULL"
w backup-list | steady
quietly backup-mark "$kept"
quietly backup-push "$PGDATA" --full
sleep 1.1
moment=$(date -u +%Y-%m-%dT%H:%M:%SZ)
sleep 1.1
quietly backup-push "$PGDATA" --full
quietly delete before "$moment" --use-sentinel-time --confirm
expect "$(counted)" 2 "backups after delete before a time: the permanent one stays"
quietly backup-push "$PGDATA" --full
quietly delete retain FIND_FULL 1 --confirm
expect "$(counted)" 2 "backups after delete retain FIND_FULL"
quietly backup-push "$PGDATA" --full
quietly delete retain 1 --after "$moment" --confirm
expect "$(counted)" 3 "backups after delete retain --after"
quietly delete retain FULL 1 --confirm
expect "$(counted)" 2 "backups after delete retain FULL"
quietly delete garbage
quietly delete garbage ARCHIVES --confirm
quietly delete garbage BACKUPS --confirm
quietly delete garbage --confirm
expect "$(counted)" 2 "backups after delete garbage"
refused delete everything --confirm
expect "$(counted)" 2 "backups after delete everything, which a permanent one prevents"
quietly delete everything FORCE --confirm
expect "$(counted)" 0 "backups after delete everything FORCE"
w backup-list --json | steady
quietly backup-push "$PGDATA"
archived
expect "$(counted)" 1 "backups after all were deleted"

# Nothing of what follows is about tablespaces.
query "DROP TABLE f"
query "DROP TABLESPACE fast"
grow() { query "INSERT INTO t SELECT generate_series(1, 1000)"; query "CHECKPOINT"; }

step "backup-push with its other flags, and settings as flags"
quietly backup-push "$PGDATA" --full --copy-composer -v -s --add-user-data '{"mark": "c"}'
marked=$(newest)
quietly backup-push "$PGDATA" -f -p --rating-composer
quietly backup-push "$PGDATA" --full --database-composer --pgport "$PGPORT" --walg-sentinel-user-data '{"mark": "d"}'
grow
WALG_DELTA_MAX_STEPS=6 quietly backup-push "$PGDATA" --delta-from-user-data '{"mark": "c"}'
[[ $(newest) == *_D_"${marked#base_}" ]] || fail "$(newest) is not based on $marked"
quietly backup-push "$PGDATA" --full --without-files-metadata --walg-compression-method lzma
archived
w backup-list --detail --json --walg-file-prefix="$WALG_FILE_PREFIX" | grep -oE '"is_permanent":[a-z]*|"user_data":[^}]*}'
find "$WALG_FILE_PREFIX/basebackups_005/$(newest)" -name 'part_*' | sed 's/.*\.//' | sort -u
(
    export WALG_FETCH_TARGET_USER_DATA='{"mark": "d"}'
    quietly backup-fetch "$work/restored7" --reverse-unpack
)
recovery "$work/restored7"
ask_restored "$work/restored7" "SELECT count(*) FROM t"

step "st with its other flags"
quietly st put "$work/text" notes/one --no-compress --no-encrypt
quietly st put -s notes/two <"$work/text"
quietly st get notes/two.lz4 "$work/raw" --no-decompress --no-decrypt
od -An -tx1 -N4 "$work/raw"
w st ls --glob 'not*' | steady
quietly st rm --glob 'notes/t*'
w st ls notes | steady
quietly st rm notes/one

step "catchup-push, catchup-list and catchup-fetch"
quietly backup-fetch "$work/standby" LATEST
rm -f "$work/standby/recovery.signal" "$work/standby/recovery.conf"
follow() {
    local file=$work/standby/postgresql.auto.conf
    if ((major < 12)); then
        file=$work/standby/recovery.conf
        printf 'standby_mode = on\n' >"$file"
    else
        touch "$work/standby/standby.signal"
    fi
    printf "restore_command = '\"%s\" wal-fetch \"%%f\" \"%%p\"'\n" "$walg" >>"$file"
}
follow
printf 'archive_mode = off\n' >>"$work/standby/postgresql.auto.conf"
# standby_has QUERY: until the standby answers the same as the primary.
standby_has() {
    local wanted deadline=$((SECONDS + 120))
    wanted=$(query "$1")
    until [[ $(PGPORT=$((PGPORT + 1)) query "$1" 2>>"$log") == "$wanted" ]]; do
        ((SECONDS < deadline)) || fail "the standby does not have what the primary has"
        sleep 0.1
    done
}
start "$work/standby" $((PGPORT + 1))
standby_has "SELECT count(*) FROM t"
PGPORT=$((PGPORT + 1)) query "CHECKPOINT"
redo=$(PGPORT=$((PGPORT + 1)) query "SELECT $redo_lsn FROM pg_control_checkpoint()")
stop "$work/standby"
grow
query "CREATE TABLE later AS SELECT generate_series(1, 5000) AS a"
query "CHECKPOINT"
archived
quietly catchup-push "$PGDATA" --from-lsn $(((16#${redo%/*} << 32) + 16#${redo#*/}))
w catchup-list | steady
w catchup-list --detail --json | grep -c '"backup_name"'
archived
quietly catchup-fetch "$work/standby" LATEST
follow
start "$work/standby" $((PGPORT + 1))
grow
archived
standby_has "SELECT (SELECT count(*) FROM t), (SELECT count(*) FROM later)"
PGPORT=$((PGPORT + 1)) query "SELECT (SELECT count(*) FROM t), (SELECT count(*) FROM later)"
stop "$work/standby"

step "delete garbage without a backup"
quietly delete everything FORCE --confirm
archived
stored_wal() { find "$WALG_FILE_PREFIX/wal_005" -type f 2>>"$log" | grep -q . && echo "WAL is there" || echo "no WAL is there"; }
# Without a backup nothing tells what is garbage, and nothing is deleted.
quietly delete garbage --confirm
stored_wal
quietly delete garbage --without-backup-check --confirm
stored_wal
stop "$PGDATA"
step "done"
