//! The command lines of WAL-G's manual on servers of PostgreSQL 9.6 to 14.

use walarchive_pg_test::verbs;

#[test]
fn every_command_line_of_wal_g_works_with_an_older_server_and_prints_the_same() {
    verbs::check_verbs();
}
