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

@include objects.sql without walarchive_backup_mark walarchive_backup_push walarchive_check walarchive_take_over
