//! The user's SQL: a file that nobody else can have written, and a role that can read the restored databases, and no more.

use std::fs::{self, File, Metadata, OpenOptions};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use nix::fcntl::OFlag;
use walarchive_core::repository::drills::{DrillCheck, DrillStatus};
use walarchive_core::{Error, Result};

use super::checks::{SESSION, program};
use super::scratch::Scratch;
use super::server::Server;

/// The first version with a role that can read all tables.
const READS_ALL_SINCE: u32 = 14;
/// The first version with a role that can read all statistics and settings.
const MONITORS_SINCE: u32 = 10;

/// The settings of a database or a role would end what takes long.
const PATIENT: &str = "-c statement_timeout=0 -c lock_timeout=0";

/// What a server says to somebody who may not connect, and not because of damage.
const NOT_LET_IN: [&str; 5] = [
    "role \"",
    "database \"",
    "permission denied for database",
    "too many connections",
    "is not currently accepting connections",
];

/// Open the file. Its statements, and the commands of psql in it, do what this user may: nobody else may be able to write them, or to
/// put something else in their place. Links are followed, as those of mounted configuration are.
pub fn open(path: &Path) -> Result<File> {
    let failed = |error| Error::io("read", path, error);
    let real = fs::canonicalize(path).map_err(failed)?;
    let refused = |what: String| {
        Error::config(
            what,
            "The drill runs what is in that file. Let the file, and each directory on its way, belong to the user of the drill or \
             to root, and let nobody else write there (chmod go-w).",
        )
    };
    let us = nix::unistd::geteuid().as_raw();
    // The link, if it is one, is in another directory than the file.
    let named_in = fs::canonicalize(directory(path)).map_err(failed)?;
    for directory in directory(&real).ancestors().chain(named_in.ancestors()) {
        let meta = fs::metadata(directory).map_err(|error| Error::io("read", directory, error))?;
        // In a sticky one, such as /tmp, others cannot rename what is ours.
        let is_sticky = meta.mode() & 0o1000 != 0;
        if let Some(fault) = fault(&meta, us, is_sticky) {
            let (file, directory) = (path.display(), directory.display());
            return Err(refused(format!(
                "directory \"{directory}\" of SQL file \"{file}\" {fault}"
            )));
        }
    }
    // A pipe would let it wait.
    let flags = (OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).bits();
    let opened = OpenOptions::new().read(true).custom_flags(flags).open(&real);
    let file = opened.map_err(failed)?;
    let meta = file.metadata().map_err(failed)?;
    let link = fs::symlink_metadata(path).map_err(failed)?;
    let fault = match meta.is_file() {
        true => fault(&meta, us, false).or_else(|| fault(&link, us, true)),
        false => Some("is not a regular file"),
    };
    match fault {
        None => Ok(file),
        Some(fault) => Err(refused(format!("SQL file \"{}\" {fault}", path.display()))),
    }
}

/// The directory of a file.
fn directory(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

fn fault(meta: &Metadata, us: u32, may_be_shared: bool) -> Option<&'static str> {
    match (meta.uid(), meta.mode()) {
        (owner, _) if owner != us && owner != 0 => Some("is owned by neither the user of the drill nor root"),
        (_, mode) if mode & 0o022 != 0 && !may_be_shared => Some("can be written by others"),
        _ => None,
    }
}

/// Run the file, up to the first statement that fails: as a role of the cluster, or as one that is made for it.
pub async fn run(
    scratch: &Scratch,
    server: &Server,
    superuser: &str,
    run_as: Option<&str>,
    database: &str,
    path: &Path,
) -> Result<DrillCheck> {
    let file = open(path)?;
    let role = match run_as {
        Some(role) => role.to_owned(),
        None => make_role(scratch, server, superuser, database).await?,
    };
    let mut psql = server.client("psql", Some(&role));
    psql.env("PGOPTIONS", PATIENT);
    psql.args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", database, "-f", "-"]);
    // What was looked at is read, whatever has its name by now.
    psql.stdin(file).current_dir(directory(path));
    let mut ended = program("sql", scratch, psql).await?;
    if ended.status == DrillStatus::Failed {
        if is_not_let_in(&ended.detail) {
            return Err(Error::refused(
                format!("could not run the SQL of the drill: {}", ended.detail),
                "Name a role that may log in with --run-as or walarchive.drill_sql_role, and a database with --database.",
            ));
        }
        if run_as.is_none() && ended.detail.contains("permission denied") {
            ended.detail += "\nName a role with --run-as or walarchive.drill_sql_role.";
        }
    }
    // It has read its standard input.
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    ended.detail = ended.detail.replace("psql:<stdin>:", &format!("psql:{name}:"));
    Ok(ended)
}

/// Has psql not come to the file, and the server said why? That is a mistake of whoever chose the role, and none of the backup.
fn is_not_let_in(said: &str) -> bool {
    said.starts_with("psql: ") && NOT_LET_IN.iter().any(|words| said.contains(words))
}

/// A view or a function that is called in the file may be anybody's of that cluster. A superuser would let it run programs and read
/// files of this machine.
async fn make_role(scratch: &Scratch, server: &Server, superuser: &str, database: &str) -> Result<String> {
    // No cluster has one of that name.
    let role = scratch.name().replace('-', "_");
    let mut psql = server.client("psql", Some(superuser));
    psql.env(
        "PGOPTIONS",
        format!("{SESSION} -c session_replication_role=replica -c default_transaction_read_only=off"),
    );
    psql.args([
        "-XqAt",
        "-v",
        "ON_ERROR_STOP=1",
        "-d",
        database,
        "-c",
        &grants(&role, server.major()),
    ]);
    let output = psql.output().await.map_err(|error| Error::io("run", "psql", error))?;
    match output.status.success() {
        true => Ok(role),
        false => Err(Error::refused(
            format!(
                "could not make a role for the SQL of the drill: {}",
                String::from_utf8_lossy(&output.stderr).trim()
            ),
            "Name a role of that cluster with --run-as.",
        )),
    }
}

/// What makes a role that reads everything. The name has letters, digits and underscores only.
fn grants(role: &str, major: u32) -> String {
    let each = |list: &str, grant: &str| {
        format!(
            "DO $$ DECLARE x text; BEGIN FOR x IN {list} LOOP EXECUTE 'GRANT {grant} TO {role}'; END LOOP; END $$;\n"
        )
    };
    let mut sql = format!("CREATE ROLE {role} LOGIN NOSUPERUSER BYPASSRLS;\n");
    sql += &each(
        "SELECT quote_ident(datname) FROM pg_database WHERE datallowconn",
        "CONNECT, TEMPORARY ON DATABASE ' || x || '",
    );
    if major >= MONITORS_SINCE {
        sql += &format!("GRANT pg_monitor TO {role};\n");
    }
    if major >= READS_ALL_SINCE {
        return sql + &format!("GRANT pg_read_all_data TO {role};\n");
    }
    let schemas =
        "SELECT quote_ident(nspname) FROM pg_namespace WHERE nspname !~ '^pg_' AND nspname <> 'information_schema'";
    for grant in [
        "USAGE ON SCHEMA",
        "SELECT ON ALL TABLES IN SCHEMA",
        "SELECT ON ALL SEQUENCES IN SCHEMA",
    ] {
        sql += &each(schemas, &format!("{grant} ' || x || '"));
    }
    sql
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn a_file_that_others_can_write_is_refused() {
        let place = tempfile::tempdir().expect("a directory");
        let path = place.path().join("x.sql");
        fs::write(&path, "SELECT 1;").expect("written");
        let chmod = |path: &Path, mode| fs::set_permissions(path, Permissions::from_mode(mode)).expect("set");
        for (mode, good) in [(0o600, true), (0o644, true), (0o664, false), (0o646, false)] {
            chmod(&path, mode);
            assert_eq!(open(&path).is_ok(), good, "{mode:o}");
        }
        chmod(&path, 0o600);
        let meta = fs::metadata(&path).expect("there");
        let stranger = meta.uid() + 1;
        assert_eq!(
            fault(&meta, stranger, false).is_some(),
            meta.uid() != 0,
            "a file of root is nobody's else"
        );
        // Others could rename it, or the link that leads to it, but not in a sticky directory.
        let links = place.path().join("links");
        fs::create_dir(&links).expect("created");
        symlink(&path, links.join("x.sql")).expect("linked");
        for directory in [place.path(), &links] {
            for (mode, good) in [
                (0o700, true),
                (0o770, false),
                (0o707, false),
                (0o1777, true),
                (0o700, true),
            ] {
                chmod(directory, mode);
                assert_eq!(open(&links.join("x.sql")).is_ok(), good, "{mode:o}");
            }
        }
        assert!(open(&place.path().join("none")).is_err());
        let pipe = place.path().join("pipe");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).expect("made");
        for other in [place.path(), &pipe] {
            let error = open(other).expect_err("not a file");
            assert!(error.to_string().contains("is not a regular file"), "{error}");
        }
    }

    #[test]
    fn who_may_not_connect_has_not_run_the_file() {
        let socket = "connection to server on socket \"/x/.s.PGSQL.5432\" failed: ";
        let said = |text: &str| is_not_let_in(&format!("psql: error: {socket}{text}"));
        assert!(said("FATAL:  role \"x\" does not exist") && said("FATAL:  role \"x\" is not permitted to log in"));
        assert!(said("FATAL:  permission denied for database \"x\""));
        assert!(!said(
            "FATAL:  could not open file \"base/5/1259\": No such file or directory"
        ));
        assert!(!is_not_let_in("psql:<stdin>:3: ERROR:  role \"x\" does not exist"));
    }

    #[test]
    fn a_role_can_read_in_each_version() {
        assert!(grants("r", 18).contains("GRANT pg_read_all_data TO r;"));
        let old = grants("r", 9);
        assert!(
            old.contains("EXECUTE 'GRANT SELECT ON ALL TABLES IN SCHEMA ' || x || ' TO r'"),
            "{old}"
        );
        assert!(
            !old.contains("pg_monitor") && !old.contains("pg_read_all_data"),
            "{old}"
        );
    }
}
