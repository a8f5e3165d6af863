-- What a monitoring user looks at. The functions below the views take their caller's rights, so he needs both.

CREATE VIEW @extschema@.walarchive_backups AS
    SELECT * FROM @extschema@.walarchive_backup_list();

CREATE VIEW @extschema@.walarchive_status AS
    SELECT worker_pid,
           worker_state,
           worker_started,
           storage,
           last_archived_wal,
           last_archived_time,
           archived_count,
           failed_count,
           bytes_in,
           bytes_out,
           uploading,
           uploaded_ahead,
           ready_files,
           ready_bytes,
           pg_catalog.clock_timestamp() OPERATOR(pg_catalog.-) oldest_ready AS oldest_ready_age,
           bytes_per_second,
           pg_catalog.make_interval(secs => drained_seconds) AS drained_in,
           last_error,
           last_error_time,
           next_backup,
           last_backup_outcome,
           last_backup_name,
           last_backup_time,
           last_backup_error,
           last_retention,
           last_retention_time,
           lease_state,
           lease_epoch,
           lease_holder
      FROM @extschema@.walarchive_archiver_status();

CREATE VIEW @extschema@.walarchive_progress AS
    SELECT * FROM @extschema@.walarchive_backup_progress();

REVOKE ALL ON FUNCTION walarchive_backup_push(boolean, jsonb, boolean, boolean, text) FROM PUBLIC;
REVOKE ALL ON FUNCTION walarchive_check() FROM PUBLIC;
REVOKE ALL ON FUNCTION walarchive_backup_list() FROM PUBLIC;
REVOKE ALL ON FUNCTION walarchive_wal_show() FROM PUBLIC;
REVOKE ALL ON FUNCTION walarchive_recovery_windows() FROM PUBLIC;
REVOKE ALL ON FUNCTION walarchive_backup_mark(text, boolean) FROM PUBLIC;
REVOKE ALL ON FUNCTION walarchive_delete_retain(integer, text, timestamptz, boolean) FROM PUBLIC;
REVOKE ALL ON FUNCTION walarchive_delete_before(text, text, boolean) FROM PUBLIC;
REVOKE ALL ON FUNCTION walarchive_delete_target(text, text, boolean) FROM PUBLIC;
REVOKE ALL ON FUNCTION walarchive_delete_everything(boolean, boolean) FROM PUBLIC;
REVOKE ALL ON FUNCTION walarchive_delete_garbage(text, boolean) FROM PUBLIC;
REVOKE ALL ON FUNCTION walarchive_delete_outside_window(interval, boolean) FROM PUBLIC;
REVOKE ALL ON FUNCTION walarchive_delete_gfs(integer, integer, integer, integer, boolean) FROM PUBLIC;
REVOKE ALL ON FUNCTION walarchive_take_over() FROM PUBLIC;
REVOKE ALL ON FUNCTION walarchive_wal_verify(text[]) FROM PUBLIC;
REVOKE ALL ON FUNCTION walarchive_backup_verify(text) FROM PUBLIC;
REVOKE ALL ON FUNCTION walarchive_archiver_status() FROM PUBLIC;
REVOKE ALL ON FUNCTION walarchive_backup_progress() FROM PUBLIC;

GRANT EXECUTE ON FUNCTION walarchive_backup_list() TO pg_monitor;
GRANT EXECUTE ON FUNCTION walarchive_wal_show() TO pg_monitor;
GRANT EXECUTE ON FUNCTION walarchive_recovery_windows() TO pg_monitor;
GRANT EXECUTE ON FUNCTION walarchive_wal_verify(text[]) TO pg_monitor;
GRANT EXECUTE ON FUNCTION walarchive_archiver_status() TO pg_monitor;
GRANT EXECUTE ON FUNCTION walarchive_backup_progress() TO pg_monitor;
GRANT SELECT ON @extschema@.walarchive_backups, @extschema@.walarchive_status, @extschema@.walarchive_progress TO pg_monitor;
