//! PostgreSQL's `backup_manifest`.
