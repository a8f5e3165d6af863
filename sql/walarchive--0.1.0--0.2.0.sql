\echo Use "ALTER EXTENSION walarchive UPDATE" to load this file. \quit

-- Views and functions that are made anew lose their privileges. Name them, because a job that nobody watches may need them.
DO LANGUAGE plpgsql $walarchive$
DECLARE
    lost text;
BEGIN
    WITH members (class, oid, label, owner, acl) AS (
        SELECT 'pg_catalog.pg_proc'::pg_catalog.regclass, p.oid,
               pg_catalog.format('FUNCTION %I.%I(%s)', s.nspname, p.proname,
                                 pg_catalog.pg_get_function_identity_arguments(p.oid)),
               p.proowner, p.proacl
          FROM pg_catalog.pg_proc AS p
          JOIN pg_catalog.pg_namespace AS s ON s.oid OPERATOR(pg_catalog.=) p.pronamespace
         WHERE NOT p.proname OPERATOR(pg_catalog.=) ANY (
                   ARRAY['walarchive_backup_mark', 'walarchive_backup_push', 'walarchive_check', 'walarchive_take_over']
                   ::pg_catalog.name[])
         UNION ALL
        SELECT 'pg_catalog.pg_class'::pg_catalog.regclass, c.oid,
               pg_catalog.format('%I.%I', s.nspname, c.relname), c.relowner, c.relacl
          FROM pg_catalog.pg_class AS c
          JOIN pg_catalog.pg_namespace AS s ON s.oid OPERATOR(pg_catalog.=) c.relnamespace
    )
    SELECT pg_catalog.string_agg(
               pg_catalog.format('GRANT %s ON %s TO %s;', a.privilege_type, m.label,
                                 CASE WHEN a.grantee OPERATOR(pg_catalog.=) 0::pg_catalog.oid THEN 'PUBLIC'
                                      ELSE a.grantee::pg_catalog.regrole::pg_catalog.text END),
               ' ' ORDER BY m.label)
      INTO lost
      FROM members AS m
      JOIN pg_catalog.pg_depend AS d ON d.objid OPERATOR(pg_catalog.=) m.oid
       AND d.classid OPERATOR(pg_catalog.=) m.class
       AND d.refclassid OPERATOR(pg_catalog.=) 'pg_catalog.pg_extension'::pg_catalog.regclass
       AND d.deptype OPERATOR(pg_catalog.=) 'e'
      JOIN pg_catalog.pg_extension AS e ON e.oid OPERATOR(pg_catalog.=) d.refobjid
       AND e.extname OPERATOR(pg_catalog.=) 'walarchive'
     CROSS JOIN LATERAL pg_catalog.aclexplode(m.acl) AS a
     WHERE a.grantee OPERATOR(pg_catalog.<>) m.owner
       -- Not what the extension itself has granted, and does again below.
       AND NOT EXISTS (
               SELECT FROM pg_catalog.pg_init_privs AS i
                CROSS JOIN LATERAL pg_catalog.aclexplode(i.initprivs) AS own
                WHERE i.objoid OPERATOR(pg_catalog.=) m.oid
                  AND i.classoid OPERATOR(pg_catalog.=) m.class
                  AND own.grantee OPERATOR(pg_catalog.=) a.grantee
                  AND own.privilege_type OPERATOR(pg_catalog.=) a.privilege_type);
    IF lost IS NOT NULL THEN
        RAISE WARNING 'privileges on views and functions of walarchive that were made anew are gone'
            USING DETAIL = pg_catalog.concat('Granted before: ', lost),
                  HINT = 'Grant those again that are still needed.';
    END IF;
END
$walarchive$;

DROP VIEW @extschema@.walarchive_backups, @extschema@.walarchive_status, @extschema@.walarchive_progress;
DROP FUNCTION @extschema@.walarchive_archiver_status();
DROP FUNCTION @extschema@.walarchive_backup_list();
DROP FUNCTION @extschema@.walarchive_backup_progress();
DROP FUNCTION @extschema@.walarchive_wal_show();
DROP FUNCTION @extschema@.walarchive_recovery_windows();
DROP FUNCTION @extschema@.walarchive_wal_verify(text[]);
DROP FUNCTION @extschema@.walarchive_backup_verify(text);
DROP FUNCTION @extschema@.walarchive_delete_retain(integer, text, timestamptz, boolean);
DROP FUNCTION @extschema@.walarchive_delete_before(text, text, boolean);
DROP FUNCTION @extschema@.walarchive_delete_target(text, text, boolean);
DROP FUNCTION @extschema@.walarchive_delete_everything(boolean, boolean);
DROP FUNCTION @extschema@.walarchive_delete_garbage(text, boolean);
DROP FUNCTION @extschema@.walarchive_delete_outside_window(interval, boolean);
DROP FUNCTION @extschema@.walarchive_delete_gfs(integer, integer, integer, integer, boolean);

-- A function that is dropped loses its privileges, and CREATE OR REPLACE does not rename an argument. Roles that take backups keep
-- the right to call this function.
UPDATE pg_catalog.pg_proc
   SET proargnames = pg_catalog.array_replace(proargnames, 'full', 'full_backup')
 WHERE oid OPERATOR(pg_catalog.=)
       '@extschema@.walarchive_backup_push(boolean, jsonb, boolean, boolean, text)'::pg_catalog.regprocedure;

ALTER FUNCTION @extschema@.walarchive_check() CALLED ON NULL INPUT;
ALTER FUNCTION @extschema@.walarchive_take_over() CALLED ON NULL INPUT;

-- What the server does now, for monitoring.

CREATE FUNCTION @extschema@.walarchive_archiver_status() RETURNS TABLE (
    uploader_pid integer,
    uploader_state text,
    uploader_start_time timestamptz,
    storage text,
    last_archived_wal text,
    last_archived_time timestamptz,
    archived_count bigint,
    failed_count bigint,
    bytes_read bigint,
    bytes_stored bigint,
    uploading integer,
    uploaded_ahead integer,
    ready_files bigint,
    ready_bytes bigint,
    oldest_ready timestamptz,
    bytes_per_second bigint,
    drained_seconds double precision,
    last_archive_error text,
    last_archive_error_time timestamptz,
    next_backup_time timestamptz,
    last_backup_outcome text,
    last_backup_name text,
    last_backup_time timestamptz,
    last_backup_error text,
    scheduler_error text,
    last_retention_outcome text,
    last_retention_summary text,
    last_retention_time timestamptz,
    last_retention_error text,
    lease_state text,
    lease_epoch bigint,
    lease_holder text
)
LANGUAGE c VOLATILE PARALLEL RESTRICTED
AS 'MODULE_PATHNAME', 'walarchive_archiver_status_0_2_wrapper';
COMMENT ON FUNCTION @extschema@.walarchive_archiver_status() IS
    'the state of archiving and of backups since the server started; see the view walarchive_status';
REVOKE ALL ON FUNCTION @extschema@.walarchive_archiver_status() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION @extschema@.walarchive_archiver_status() TO pg_monitor;

CREATE FUNCTION @extschema@.walarchive_backfill_status() RETURNS TABLE (
    backfill_state text,
    backfill_waiting bigint,
    backfilled_count bigint,
    backfill_lost text,
    backfill_error text,
    kept_from text,
    kept_bytes bigint
)
LANGUAGE c VOLATILE PARALLEL RESTRICTED
AS 'MODULE_PATHNAME', 'walarchive_backfill_status_wrapper';
COMMENT ON FUNCTION @extschema@.walarchive_backfill_status() IS
    'the WAL of before a promotion, and what is kept until it is archived; see the view walarchive_status';
REVOKE ALL ON FUNCTION @extschema@.walarchive_backfill_status() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION @extschema@.walarchive_backfill_status() TO pg_monitor;

CREATE FUNCTION @extschema@.walarchive_tail_status() RETURNS TABLE (
    tail_state text,
    tail_lsn pg_lsn,
    tail_time timestamptz,
    tail_error text,
    tail_error_time timestamptz
)
LANGUAGE c VOLATILE PARALLEL RESTRICTED
AS 'MODULE_PATHNAME', 'walarchive_tail_status_wrapper';
COMMENT ON FUNCTION @extschema@.walarchive_tail_status() IS
    'how far WAL of the present segment is stored; see the view walarchive_status';
REVOKE ALL ON FUNCTION @extschema@.walarchive_tail_status() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION @extschema@.walarchive_tail_status() TO pg_monitor;

CREATE FUNCTION @extschema@.walarchive_drill_status() RETURNS TABLE (
    next_drill_time timestamptz,
    last_drill_outcome text,
    last_drill_time timestamptz,
    last_drill_error text,
    last_proven_restore timestamptz
)
LANGUAGE c VOLATILE PARALLEL RESTRICTED
AS 'MODULE_PATHNAME', 'walarchive_drill_status_wrapper';
COMMENT ON FUNCTION @extschema@.walarchive_drill_status() IS
    'the restore drills since the server started; see the view walarchive_status';
REVOKE ALL ON FUNCTION @extschema@.walarchive_drill_status() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION @extschema@.walarchive_drill_status() TO pg_monitor;

CREATE FUNCTION @extschema@.walarchive_synchronous_status() RETURNS TABLE (
    synchronous_state text,
    synchronous_lsn pg_lsn,
    synchronous_since timestamptz,
    synchronous_error text
)
LANGUAGE c VOLATILE PARALLEL RESTRICTED
AS 'MODULE_PATHNAME', 'walarchive_synchronous_status_wrapper';
COMMENT ON FUNCTION @extschema@.walarchive_synchronous_status() IS
    'the store as a synchronous standby of this server; see the view walarchive_status';
REVOKE ALL ON FUNCTION @extschema@.walarchive_synchronous_status() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION @extschema@.walarchive_synchronous_status() TO pg_monitor;

-- A view uses its owner's rights on tables but its caller's rights on functions, so a monitoring role needs both.
CREATE VIEW @extschema@.walarchive_status AS
    SELECT uploader_pid,
           uploader_state,
           uploader_start_time,
           storage,
           last_archived_wal,
           last_archived_time,
           archived_count,
           failed_count,
           bytes_read,
           bytes_stored,
           uploading,
           uploaded_ahead,
           ready_files,
           ready_bytes,
           pg_catalog.clock_timestamp() OPERATOR(pg_catalog.-) oldest_ready AS oldest_ready_age,
           bytes_per_second,
           pg_catalog.make_interval(secs => drained_seconds) AS drained_in,
           last_archive_error,
           last_archive_error_time,
           next_backup_time,
           last_backup_outcome,
           last_backup_name,
           last_backup_time,
           last_backup_error,
           scheduler_error,
           last_retention_outcome,
           last_retention_summary,
           last_retention_time,
           last_retention_error,
           lease_state,
           lease_epoch,
           lease_holder,
           backfill_state,
           backfill_waiting,
           backfilled_count,
           backfill_lost,
           backfill_error,
           kept_from,
           kept_bytes,
           tail_state,
           tail_lsn,
           tail_time,
           tail_error,
           tail_error_time,
           next_drill_time,
           last_drill_outcome,
           last_drill_time,
           last_drill_error,
           last_proven_restore,
           synchronous_state,
           synchronous_lsn,
           synchronous_since,
           synchronous_error
      FROM @extschema@.walarchive_archiver_status(),
           @extschema@.walarchive_backfill_status(),
           @extschema@.walarchive_tail_status(),
           @extschema@.walarchive_drill_status(),
           @extschema@.walarchive_synchronous_status();
COMMENT ON VIEW @extschema@.walarchive_status IS
    'one row: the state of archiving and of backups since the server started';
COMMENT ON COLUMN @extschema@.walarchive_status.uploader_pid IS 'process ID of the uploader; null while none runs';
COMMENT ON COLUMN @extschema@.walarchive_status.uploader_state IS 'idle, uploading, stuck or not running';
COMMENT ON COLUMN @extschema@.walarchive_status.uploader_start_time IS 'when the uploader started';
COMMENT ON COLUMN @extschema@.walarchive_status.storage IS 'walarchive.storage; null if it is not set';
COMMENT ON COLUMN @extschema@.walarchive_status.last_archived_wal IS 'the WAL file that was archived last';
COMMENT ON COLUMN @extschema@.walarchive_status.last_archived_time IS 'when it was archived';
COMMENT ON COLUMN @extschema@.walarchive_status.archived_count IS 'WAL files that were archived';
COMMENT ON COLUMN @extschema@.walarchive_status.failed_count IS 'attempts that failed';
COMMENT ON COLUMN @extschema@.walarchive_status.bytes_read IS 'bytes of WAL files that were read for archiving';
COMMENT ON COLUMN @extschema@.walarchive_status.bytes_stored IS 'bytes of the objects that were written for them';
COMMENT ON COLUMN @extschema@.walarchive_status.uploading IS 'WAL files that are being uploaded';
COMMENT ON COLUMN @extschema@.walarchive_status.uploaded_ahead IS
    'WAL files that are stored, and that the archiver has not asked for yet';
COMMENT ON COLUMN @extschema@.walarchive_status.ready_files IS 'WAL files that wait for the archiver';
COMMENT ON COLUMN @extschema@.walarchive_status.ready_bytes IS 'the size of these files';
COMMENT ON COLUMN @extschema@.walarchive_status.oldest_ready_age IS 'how long the oldest of them has been waiting';
COMMENT ON COLUMN @extschema@.walarchive_status.bytes_per_second IS 'bytes per second that the uploads of WAL have moved lately';
COMMENT ON COLUMN @extschema@.walarchive_status.drained_in IS
    'how long until nothing waits any more, at this speed; null if nothing waits or nothing moves';
COMMENT ON COLUMN @extschema@.walarchive_status.last_archive_error IS 'why archiving failed last';
COMMENT ON COLUMN @extschema@.walarchive_status.last_archive_error_time IS 'when it failed';
COMMENT ON COLUMN @extschema@.walarchive_status.next_backup_time IS 'when the next scheduled backup is due; null if none is';
COMMENT ON COLUMN @extschema@.walarchive_status.last_backup_outcome IS
    'how the last backup ended: succeeded, failed, canceled, or missed because another one ran at its time';
COMMENT ON COLUMN @extschema@.walarchive_status.last_backup_name IS 'its name, if it had one';
COMMENT ON COLUMN @extschema@.walarchive_status.last_backup_time IS 'when it ended';
COMMENT ON COLUMN @extschema@.walarchive_status.last_backup_error IS 'why it failed; null if it succeeded';
COMMENT ON COLUMN @extschema@.walarchive_status.scheduler_error IS
    'why no backup can be scheduled now; null if nothing is wrong or walarchive.backup_schedule is empty';
COMMENT ON COLUMN @extschema@.walarchive_status.last_retention_outcome IS
    'how walarchive.retention was applied last: succeeded, failed or canceled';
COMMENT ON COLUMN @extschema@.walarchive_status.last_retention_summary IS 'what it deleted; null if it failed';
COMMENT ON COLUMN @extschema@.walarchive_status.last_retention_time IS 'when it ended';
COMMENT ON COLUMN @extschema@.walarchive_status.last_retention_error IS 'why it failed; null if it succeeded';
COMMENT ON COLUMN @extschema@.walarchive_status.lease_state IS
    'whether this server may write into the repository, as far as it knows: held, waiting, lost, standby or none';
COMMENT ON COLUMN @extschema@.walarchive_status.lease_epoch IS 'the number of the lease, which grows with each change of the writer';
COMMENT ON COLUMN @extschema@.walarchive_status.lease_holder IS 'the server that writes: host and data directory';
COMMENT ON COLUMN @extschema@.walarchive_status.backfill_state IS
    'what is done about WAL of before the promotion of this server: looking, archiving, done or incomplete; null if nothing is';
COMMENT ON COLUMN @extschema@.walarchive_status.backfill_waiting IS 'files of it that are still to be archived';
COMMENT ON COLUMN @extschema@.walarchive_status.backfilled_count IS 'files of it that this server has archived';
COMMENT ON COLUMN @extschema@.walarchive_status.backfill_lost IS 'segments of it that are neither in the archive nor in pg_wal';
COMMENT ON COLUMN @extschema@.walarchive_status.backfill_error IS
    'why it is not archived yet, or why a standby does not know what is archived';
COMMENT ON COLUMN @extschema@.walarchive_status.kept_from IS
    'the oldest WAL file that is kept because it is not archived; null if none is';
COMMENT ON COLUMN @extschema@.walarchive_status.kept_bytes IS 'the size of the WAL from there on';
COMMENT ON COLUMN @extschema@.walarchive_status.tail_state IS
    'whether WAL of the present segment is stored: storing, waiting for older segments, failing, recovery or off';
COMMENT ON COLUMN @extschema@.walarchive_status.tail_lsn IS 'all WAL up to here is in the store; null if that is not known';
COMMENT ON COLUMN @extschema@.walarchive_status.tail_time IS 'all that was written before this moment is in the store';
COMMENT ON COLUMN @extschema@.walarchive_status.tail_error IS 'why it could not be stored; null if it could';
COMMENT ON COLUMN @extschema@.walarchive_status.tail_error_time IS 'when that was';
COMMENT ON COLUMN @extschema@.walarchive_status.next_drill_time IS 'when the next scheduled restore drill is due; null if none is';
COMMENT ON COLUMN @extschema@.walarchive_status.last_drill_outcome IS
    'how the last scheduled restore drill of this server ended: succeeded or failed';
COMMENT ON COLUMN @extschema@.walarchive_status.last_drill_time IS 'when it ended';
COMMENT ON COLUMN @extschema@.walarchive_status.last_drill_error IS 'why it failed; null if it succeeded';
COMMENT ON COLUMN @extschema@.walarchive_status.last_proven_restore IS
    'when the last restore drill ended that went well, on any host, as far as this server knows';
COMMENT ON COLUMN @extschema@.walarchive_status.synchronous_state IS
    'whether commits wait for the store: off, connecting, catching up, synchronous, waiting or degraded';
COMMENT ON COLUMN @extschema@.walarchive_status.synchronous_lsn IS
    'everything before this LSN is in the store; null if that is not known';
COMMENT ON COLUMN @extschema@.walarchive_status.synchronous_since IS 'since when the state is this one; null while it is off';
COMMENT ON COLUMN @extschema@.walarchive_status.synchronous_error IS 'why commits are not synchronous, or wait';
REVOKE ALL ON @extschema@.walarchive_status FROM PUBLIC;
GRANT SELECT ON @extschema@.walarchive_status TO pg_monitor;

CREATE FUNCTION @extschema@.walarchive_backup_progress() RETURNS TABLE (
    pid integer,
    backup_name text,
    phase text,
    bytes_done bigint,
    bytes_total bigint,
    bytes_stored bigint,
    files_done bigint,
    files_total bigint,
    bytes_per_second bigint,
    start_time timestamptz,
    estimated_stop_time timestamptz,
    waiting_for text,
    corrupt_pages bigint
)
LANGUAGE c VOLATILE PARALLEL RESTRICTED
AS 'MODULE_PATHNAME', 'walarchive_backup_progress_wrapper';
COMMENT ON FUNCTION @extschema@.walarchive_backup_progress() IS
    'the backup that this server takes now; see the view walarchive_progress';
REVOKE ALL ON FUNCTION @extschema@.walarchive_backup_progress() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION @extschema@.walarchive_backup_progress() TO pg_monitor;

CREATE VIEW @extschema@.walarchive_progress AS
    SELECT * FROM @extschema@.walarchive_backup_progress();
COMMENT ON VIEW @extschema@.walarchive_progress IS 'the backup that this server takes now; no row if it takes none';
COMMENT ON COLUMN @extschema@.walarchive_progress.pid IS 'process ID of the backup; pg_cancel_backend() with it cancels the backup';
COMMENT ON COLUMN @extschema@.walarchive_progress.backup_name IS 'its name, once it has one';
COMMENT ON COLUMN @extschema@.walarchive_progress.phase IS
    'starting, waiting for checkpoint, copying files, writing manifest, waiting for WAL, writing sentinel or applying retention';
COMMENT ON COLUMN @extschema@.walarchive_progress.bytes_done IS 'bytes read';
COMMENT ON COLUMN @extschema@.walarchive_progress.bytes_total IS 'bytes to read, as planned';
COMMENT ON COLUMN @extschema@.walarchive_progress.bytes_stored IS 'bytes handed to the store';
COMMENT ON COLUMN @extschema@.walarchive_progress.files_done IS 'files read';
COMMENT ON COLUMN @extschema@.walarchive_progress.files_total IS 'files to read, as planned';
COMMENT ON COLUMN @extschema@.walarchive_progress.bytes_per_second IS 'bytes per second read lately; null while that is not known';
COMMENT ON COLUMN @extschema@.walarchive_progress.start_time IS 'when the backup was asked for';
COMMENT ON COLUMN @extschema@.walarchive_progress.estimated_stop_time IS 'when all files will be copied, at this speed';
COMMENT ON COLUMN @extschema@.walarchive_progress.waiting_for IS 'the WAL file for which the backup waits';
COMMENT ON COLUMN @extschema@.walarchive_progress.corrupt_pages IS 'pages with a wrong checksum, so far';
REVOKE ALL ON @extschema@.walarchive_progress FROM PUBLIC;
GRANT SELECT ON @extschema@.walarchive_progress TO pg_monitor;

-- What the repository holds.

CREATE FUNCTION @extschema@.walarchive_backup_list() RETURNS TABLE (
    backup_name text,
    start_time timestamptz,
    stop_time timestamptz,
    start_lsn pg_lsn,
    stop_lsn pg_lsn,
    timeline integer,
    uncompressed_size bigint,
    compressed_size bigint,
    parent text,
    chain text[],
    hostname text,
    data_directory text,
    pg_version integer,
    system_identifier bigint,
    is_permanent boolean,
    user_data jsonb,
    corrupt_pages bigint,
    left_out text[],
    restorable boolean,
    problem text,
    proven timestamptz
)
LANGUAGE c VOLATILE PARALLEL RESTRICTED
AS 'MODULE_PATHNAME', 'walarchive_backup_list_0_2_wrapper';
COMMENT ON FUNCTION @extschema@.walarchive_backup_list() IS
    'the base backups of the repository, oldest first; see the view walarchive_backups';
REVOKE ALL ON FUNCTION @extschema@.walarchive_backup_list() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION @extschema@.walarchive_backup_list() TO pg_monitor;

CREATE VIEW @extschema@.walarchive_backups AS
    SELECT * FROM @extschema@.walarchive_backup_list();
COMMENT ON VIEW @extschema@.walarchive_backups IS 'the base backups of the repository, oldest first';
COMMENT ON COLUMN @extschema@.walarchive_backups.backup_name IS 'the name of the backup';
COMMENT ON COLUMN @extschema@.walarchive_backups.start_time IS 'when it started';
COMMENT ON COLUMN @extschema@.walarchive_backups.stop_time IS 'when all of its files were copied';
COMMENT ON COLUMN @extschema@.walarchive_backups.start_lsn IS 'where recovery from it begins';
COMMENT ON COLUMN @extschema@.walarchive_backups.stop_lsn IS 'the position that recovery must reach to be consistent';
COMMENT ON COLUMN @extschema@.walarchive_backups.timeline IS 'the timeline on which it was taken';
COMMENT ON COLUMN @extschema@.walarchive_backups.uncompressed_size IS
    'bytes of its files; for a delta backup, only of those that it contains itself';
COMMENT ON COLUMN @extschema@.walarchive_backups.compressed_size IS 'bytes that it takes in the store';
COMMENT ON COLUMN @extschema@.walarchive_backups.parent IS 'the backup on which this delta is based; null for a full backup';
COMMENT ON COLUMN @extschema@.walarchive_backups.chain IS
    'the backups that a restore of this delta needs beside it, from its parent to the full one; null for a full backup';
COMMENT ON COLUMN @extschema@.walarchive_backups.hostname IS 'the host of the server that took it';
COMMENT ON COLUMN @extschema@.walarchive_backups.data_directory IS 'the data directory of that server';
COMMENT ON COLUMN @extschema@.walarchive_backups.pg_version IS 'the version of that server, as server_version_num';
COMMENT ON COLUMN @extschema@.walarchive_backups.system_identifier IS 'the cluster, as in pg_control_system()';
COMMENT ON COLUMN @extschema@.walarchive_backups.is_permanent IS 'no retention deletes it';
COMMENT ON COLUMN @extschema@.walarchive_backups.user_data IS 'the user_data that walarchive_backup_push() was given';
COMMENT ON COLUMN @extschema@.walarchive_backups.corrupt_pages IS
    'pages with a wrong checksum in it; null if checksums were not verified';
COMMENT ON COLUMN @extschema@.walarchive_backups.left_out IS 'entries of the data directory that are not in it';
COMMENT ON COLUMN @extschema@.walarchive_backups.restorable IS
    'everything that a restore needs is in the repository, by the names of the objects';
COMMENT ON COLUMN @extschema@.walarchive_backups.problem IS 'why it cannot be restored';
COMMENT ON COLUMN @extschema@.walarchive_backups.proven IS 'when a restore drill of it last went well; null if none did';
REVOKE ALL ON @extschema@.walarchive_backups FROM PUBLIC;
GRANT SELECT ON @extschema@.walarchive_backups TO pg_monitor;

CREATE FUNCTION @extschema@.walarchive_wal_show() RETURNS TABLE (
    timeline integer,
    parent_timeline integer,
    switch_lsn pg_lsn,
    start_segment text,
    end_segment text,
    segment_range_size bigint,
    segments_count bigint,
    missing_segments text[],
    backups text[],
    status text,
    damaged_history text,
    tail_lsn pg_lsn,
    tail_time timestamptz,
    tail_epoch bigint
)
LANGUAGE c VOLATILE PARALLEL RESTRICTED
AS 'MODULE_PATHNAME', 'walarchive_wal_show_0_2_wrapper';
COMMENT ON FUNCTION @extschema@.walarchive_wal_show() IS
    'the WAL that is archived of each timeline, and what is missing; status is ok or lost_segments; tail_lsn is where the tail ends, if it goes on behind the last segment';
REVOKE ALL ON FUNCTION @extschema@.walarchive_wal_show() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION @extschema@.walarchive_wal_show() TO pg_monitor;

CREATE FUNCTION @extschema@.walarchive_recovery_windows() RETURNS TABLE (
    timeline integer,
    start_time timestamptz,
    end_time timestamptz,
    start_lsn pg_lsn,
    end_lsn pg_lsn,
    backup_name text,
    backup_count bigint,
    missing_after text
)
LANGUAGE c VOLATILE PARALLEL RESTRICTED
AS 'MODULE_PATHNAME', 'walarchive_recovery_windows_0_2_wrapper';
COMMENT ON FUNCTION @extschema@.walarchive_recovery_windows() IS
    'the times to which the cluster can be restored, the tail included: a row for each stretch of WAL without a gap';
REVOKE ALL ON FUNCTION @extschema@.walarchive_recovery_windows() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION @extschema@.walarchive_recovery_windows() TO pg_monitor;

CREATE FUNCTION @extschema@.walarchive_restore_points(
    from_time timestamptz DEFAULT NULL,
    to_time timestamptz DEFAULT NULL,
    index_only boolean DEFAULT true
) RETURNS TABLE (
    kind text,
    name text,
    point_time timestamptz,
    lsn pg_lsn,
    timeline integer,
    restorable boolean
)
LANGUAGE c VOLATILE PARALLEL RESTRICTED
AS 'MODULE_PATHNAME', 'walarchive_restore_points_wrapper';
COMMENT ON FUNCTION @extschema@.walarchive_restore_points(timestamptz, timestamptz, boolean) IS
    'the restore points, and some of the commits, from one time to another; WAL that is not in the index is read with index_only => false';
REVOKE ALL ON FUNCTION @extschema@.walarchive_restore_points(timestamptz, timestamptz, boolean) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION @extschema@.walarchive_restore_points(timestamptz, timestamptz, boolean) TO pg_monitor;

-- Is everything in order?

COMMENT ON FUNCTION @extschema@.walarchive_check() IS
    'checks everything that archiving needs: a row for each check, with status ok, warning or failed';
REVOKE ALL ON FUNCTION @extschema@.walarchive_check() FROM PUBLIC;

CREATE FUNCTION @extschema@.walarchive_wal_verify(
    VARIADIC checks text[] DEFAULT '{integrity,timeline}'
) RETURNS TABLE (
    check_name text,
    status text,
    timeline integer,
    start_segment text,
    end_segment text,
    segments_count bigint,
    segment_status text,
    detail text
)
LANGUAGE c VOLATILE PARALLEL RESTRICTED
AS 'MODULE_PATHNAME', 'walarchive_wal_verify_0_2_wrapper';
COMMENT ON FUNCTION @extschema@.walarchive_wal_verify(text[]) IS
    'verifies the WAL in the repository by integrity, timeline, content, content:all or content:sample; status is ok, warning or failed';
REVOKE ALL ON FUNCTION @extschema@.walarchive_wal_verify(text[]) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION @extschema@.walarchive_wal_verify(text[]) TO pg_monitor;

CREATE FUNCTION @extschema@.walarchive_backup_verify(
    name text
) RETURNS TABLE (
    what text,
    status text,
    path text,
    detail text
)
LANGUAGE c VOLATILE PARALLEL RESTRICTED
AS 'MODULE_PATHNAME', 'walarchive_backup_verify_0_2_wrapper';
COMMENT ON FUNCTION @extschema@.walarchive_backup_verify(text) IS
    'reads all of a base backup, or of LATEST: a row for each finding, with status ok, warning or failed';
REVOKE ALL ON FUNCTION @extschema@.walarchive_backup_verify(text) FROM PUBLIC;

-- What writes into the repository.

COMMENT ON FUNCTION @extschema@.walarchive_backup_push(boolean, jsonb, boolean, boolean, text) IS
    'take a base backup in a background worker; returns its name, or null at once with wait => false';
REVOKE ALL ON FUNCTION @extschema@.walarchive_backup_push(boolean, jsonb, boolean, boolean, text) FROM PUBLIC;

CREATE FUNCTION @extschema@.walarchive_restore_test() RETURNS void
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'walarchive_restore_test_wrapper';
COMMENT ON FUNCTION @extschema@.walarchive_restore_test() IS
    'start a restore drill of the latest backup in the background; walarchive_status tells how it ended';
REVOKE ALL ON FUNCTION @extschema@.walarchive_restore_test() FROM PUBLIC;

COMMENT ON FUNCTION @extschema@.walarchive_backup_mark(text, boolean) IS
    'make a backup and those that it is based on permanent, or impermanent again; returns the names of those that changed';
REVOKE ALL ON FUNCTION @extschema@.walarchive_backup_mark(text, boolean) FROM PUBLIC;

COMMENT ON FUNCTION @extschema@.walarchive_take_over() IS
    'make this server the one that writes into the repository; returns the one that did before, or null if no other server did';
REVOKE ALL ON FUNCTION @extschema@.walarchive_take_over() FROM PUBLIC;

-- What deletes. Each of these only shows what it would delete, unless it is called with confirm => true.

CREATE TYPE @extschema@.walarchive_deletion AS (
    what text,
    key text,
    size bigint,
    why text,
    deleted boolean
);
COMMENT ON TYPE @extschema@.walarchive_deletion IS 'an object of the repository that is to be deleted, or was';
COMMENT ON COLUMN @extschema@.walarchive_deletion.what IS 'what the object is';
COMMENT ON COLUMN @extschema@.walarchive_deletion.key IS 'its name in the repository; a folder ends with a slash';
COMMENT ON COLUMN @extschema@.walarchive_deletion.size IS 'bytes that it takes in the store; 0 if that is not known';
COMMENT ON COLUMN @extschema@.walarchive_deletion.why IS 'why it is deleted';
COMMENT ON COLUMN @extschema@.walarchive_deletion.deleted IS 'whether it was deleted';

CREATE FUNCTION @extschema@.walarchive_delete_retain(
    count integer,
    mode text DEFAULT 'full',
    after timestamptz DEFAULT NULL,
    confirm boolean DEFAULT false
) RETURNS SETOF @extschema@.walarchive_deletion
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'walarchive_delete_retain_wrapper';
COMMENT ON FUNCTION @extschema@.walarchive_delete_retain(integer, text, timestamptz, boolean) IS
    'keep the newest backups and what they need: mode is full to count full backups, find_full to keep the full backup of the oldest one, or null to count all';
REVOKE ALL ON FUNCTION @extschema@.walarchive_delete_retain(integer, text, timestamptz, boolean) FROM PUBLIC;

CREATE FUNCTION @extschema@.walarchive_delete_before(
    target text,
    mode text DEFAULT NULL,
    confirm boolean DEFAULT false
) RETURNS SETOF @extschema@.walarchive_deletion
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'walarchive_delete_before_wrapper';
COMMENT ON FUNCTION @extschema@.walarchive_delete_before(text, text, boolean) IS
    'delete what is older than a backup or a time: mode is null, or find_full to keep the full backup on which the target is based';
REVOKE ALL ON FUNCTION @extschema@.walarchive_delete_before(text, text, boolean) FROM PUBLIC;

CREATE FUNCTION @extschema@.walarchive_delete_target(
    name text,
    mode text DEFAULT NULL,
    confirm boolean DEFAULT false
) RETURNS SETOF @extschema@.walarchive_deletion
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'walarchive_delete_target_wrapper';
COMMENT ON FUNCTION @extschema@.walarchive_delete_target(text, text, boolean) IS
    'delete one backup and what depends on it, but no WAL: mode is null, or find_full to delete the full backup on which it is based, too';
REVOKE ALL ON FUNCTION @extschema@.walarchive_delete_target(text, text, boolean) FROM PUBLIC;

CREATE FUNCTION @extschema@.walarchive_delete_everything(
    force boolean DEFAULT false,
    confirm boolean DEFAULT false
) RETURNS SETOF @extschema@.walarchive_deletion
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'walarchive_delete_everything_wrapper';
COMMENT ON FUNCTION @extschema@.walarchive_delete_everything(boolean, boolean) IS
    'delete all backups and all WAL; permanent backups, and what walarchive has stored for itself, only with force => true';
REVOKE ALL ON FUNCTION @extschema@.walarchive_delete_everything(boolean, boolean) FROM PUBLIC;

CREATE FUNCTION @extschema@.walarchive_delete_garbage(
    what text DEFAULT NULL,
    confirm boolean DEFAULT false
) RETURNS SETOF @extschema@.walarchive_deletion
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'walarchive_delete_garbage_wrapper';
COMMENT ON FUNCTION @extschema@.walarchive_delete_garbage(text, boolean) IS
    'delete what no backup needs: archives is WAL, backups is what is left of backups that were never complete, null is both';
REVOKE ALL ON FUNCTION @extschema@.walarchive_delete_garbage(text, boolean) FROM PUBLIC;

CREATE FUNCTION @extschema@.walarchive_delete_outside_window(
    span interval,
    confirm boolean DEFAULT false
) RETURNS SETOF @extschema@.walarchive_deletion
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'walarchive_delete_outside_window_wrapper';
COMMENT ON FUNCTION @extschema@.walarchive_delete_outside_window(interval, boolean) IS
    'keep what a restore to any moment of this last span of time needs';
REVOKE ALL ON FUNCTION @extschema@.walarchive_delete_outside_window(interval, boolean) FROM PUBLIC;

CREATE FUNCTION @extschema@.walarchive_delete_gfs(
    days integer,
    weeks integer,
    months integer,
    years integer,
    confirm boolean DEFAULT false
) RETURNS SETOF @extschema@.walarchive_deletion
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'walarchive_delete_gfs_wrapper';
COMMENT ON FUNCTION @extschema@.walarchive_delete_gfs(integer, integer, integer, integer, boolean) IS
    'keep the newest backup of each of the last days, weeks, months and years that have one';
REVOKE ALL ON FUNCTION @extschema@.walarchive_delete_gfs(integer, integer, integer, integer, boolean) FROM PUBLIC;
