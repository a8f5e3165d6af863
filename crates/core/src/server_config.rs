//! `walarchive.*` in the data directory's postgresql.conf.
