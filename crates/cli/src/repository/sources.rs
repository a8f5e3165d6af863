//! Sources of WAL-G's settings besides the environment: its configuration file, and a directory with a file for each variable.
//!
//! These settings become the environment of this process, which executes itself again for that: core reads secrets there, as it
//! does in the server, and no other place has to know of them. The second time nothing is left to add.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::Metadata;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::unistd::{User, geteuid};
use walarchive_core::{Error, Result};

use super::config_file;
use super::names::{is_known, is_secret};
use super::setting_flags::CommandLine;

/// The largest file that is read, in bytes.
const LIMIT: u64 = 1 << 20;

/// Global flags: the places.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Sources {
    /// WAL-G's configuration file; by default that of WALG_CONFIG_PATH, or ~/.walg.json, .toml, .yaml or .yml. The environment
    /// overrides it.
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// A directory with a file for each variable, as for envdir(8). It overrides the environment.
    #[arg(long, global = true, value_name = "DIR")]
    pub envdir: Option<PathBuf>,
    /// Do without WALG_NETWORK_RATE_LIMIT and WALG_DISK_RATE_LIMIT.
    #[arg(long, global = true)]
    pub turbo: bool,
}

/// Names a configuration file.
const CONFIG_PATH: &str = "WALG_CONFIG_PATH";

/// The settings that --turbo switches off.
const LIMITS: [&str; 2] = ["WALG_NETWORK_RATE_LIMIT", "WALG_DISK_RATE_LIMIT"];

type Environment = BTreeMap<OsString, OsString>;

impl Sources {
    /// Add the settings of these sources to the environment of this process. Returns when nothing is to be added, with the flags
    /// that a later call, such as restore_command, needs to find the same settings. The command line is that of this call.
    pub fn adopt(&self, line: CommandLine) -> Result<Vec<OsString>> {
        let mut flags = Vec::new();
        let before: Environment = std::env::vars_os().collect();
        let mut after = before.clone();
        let mut remarks = Vec::new();
        if let Some(directory) = &self.envdir {
            read_envdir(directory, &mut after, &mut remarks)?;
            flags.extend(["--envdir".into(), absolute(directory)?.into()]);
        }
        let secrets = line.secrets();
        after.extend(line.settings);
        let of_variable = after.get(OsStr::new(CONFIG_PATH)).filter(|path| !path.is_empty());
        let file = self.config.clone().or_else(|| of_variable.map(PathBuf::from));
        if let Some(file) = file.or_else(|| default_file(&mut remarks)) {
            read_config(&file, &mut after, &mut remarks)?;
            flags.extend(["--config".into(), absolute(&file)?.into()]);
        }
        if self.turbo {
            LIMITS.iter().for_each(|name| drop(after.remove(OsStr::new(name))));
        }
        if after == before {
            remarks
                .iter()
                .for_each(|remark| eprintln!("walarchive: warning: {remark}"));
            return Ok(flags);
        }
        if !secrets.is_empty() {
            // Without these flags the second call does not know of it.
            eprintln!(
                "walarchive: warning: everybody on this machine could see secrets on the command line: {}\n\
                 HINT:  Set the variables, or write the secrets into the configuration file.",
                secrets.join(", ")
            );
        }
        let mut arguments = line.arguments.into_iter();
        let mut again = Command::new("/proc/self/exe");
        again.arg0(arguments.next().unwrap_or_else(|| "walarchive".into()));
        again.args(arguments).env_clear().envs(&after);
        Err(Error::io("start", "/proc/self/exe", again.exec()))
    }
}

fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).map_err(|error| Error::io("open", path, error))
}

/// The file in the user's home. HOME may be that of another user, as after `su` without a dash.
fn default_file(remarks: &mut Vec<String>) -> Option<PathBuf> {
    let home = std::env::var_os("HOME")
        .filter(|home| !home.is_empty())
        .map(PathBuf::from);
    let home = home.or_else(|| Some(User::from_uid(geteuid()).ok()??.dir))?;
    let named = |ending: &str| home.join(format!(".walg.{ending}"));
    let found = config_file::ENDINGS.into_iter().map(named).find(|file| file.is_file());
    let other = ["properties", "props", "hcl", "env", "ini"]
        .into_iter()
        .map(named)
        .find(|file| file.is_file());
    if let (None, Some(other)) = (&found, other) {
        remarks.push(format!(
            "configuration file \"{}\" is not read\nHINT:  Write it as JSON, YAML or TOML.",
            other.display()
        ));
    }
    found
}

/// The content of a regular file, or of a link to one.
fn content(file: &Path) -> Result<(Vec<u8>, Metadata)> {
    let failed = |error| Error::io("read", file, error);
    let meta = std::fs::metadata(file).map_err(|error| Error::io("open", file, error))?;
    if !meta.is_file() || meta.len() > LIMIT {
        return Err(Error::config(
            format!("\"{}\" is not a file of settings", file.display()),
            "Give a regular file with names and values.",
        ));
    }
    refuse_if_anybody_writes(file, &meta)?;
    let mut content = Vec::new();
    let opened = std::fs::File::open(file).map_err(|error| Error::io("open", file, error))?;
    opened.take(LIMIT).read_to_end(&mut content).map_err(failed)?;
    Ok((content, meta))
}

/// Anybody who can write there decides where the data goes.
fn refuse_if_anybody_writes(path: &Path, meta: &Metadata) -> Result<()> {
    if meta.mode() & 0o002 == 0 {
        return Ok(());
    }
    Err(Error::config(
        format!("\"{}\" can be written by everybody", path.display()),
        "Remove that permission: whoever can write there decides where the data goes.",
    ))
}

fn remark_if_anybody_reads(path: &Path, meta: &Metadata, remarks: &mut Vec<String>) {
    if meta.mode() & 0o004 != 0 {
        remarks.push(format!(
            "\"{}\" contains credentials and can be read by everybody\nHINT:  Set its mode to 0600, or to 0640.",
            path.display()
        ));
    }
}

/// The settings of a configuration file alone, as far as they are text.
pub(super) fn settings_of_file(file: &Path) -> Result<Vec<(String, String)>> {
    let (mut environment, mut remarks) = (Environment::new(), Vec::new());
    read_config(file, &mut environment, &mut remarks)?;
    remarks
        .iter()
        .for_each(|remark| eprintln!("walarchive: warning: {remark}"));
    let text = |(name, value): (OsString, OsString)| Some((name.into_string().ok()?, value.into_string().ok()?));
    Ok(environment.into_iter().filter_map(text).collect())
}

/// As in Viper, the environment comes first, and an empty variable counts as not set.
fn read_config(file: &Path, environment: &mut Environment, remarks: &mut Vec<String>) -> Result<()> {
    let (bytes, meta) = content(file)?;
    let text = String::from_utf8(bytes).map_err(|_| {
        Error::config(
            format!("configuration file \"{}\" is not UTF-8", file.display()),
            "Write it in UTF-8.",
        )
    })?;
    let settings = config_file::parse(file, &text)?;
    if settings
        .iter()
        .any(|(name, value)| is_secret(name) && !value.is_empty())
    {
        remark_if_anybody_reads(file, &meta, remarks);
    }
    for (name, value) in settings {
        if !is_known(&name) || value.is_empty() || value.as_bytes().contains(&0) {
            continue;
        }
        let place = environment.entry(name.into()).or_default();
        if place.is_empty() {
            *place = value;
        }
    }
    Ok(())
}

/// As envdir(8) does: the first line of a file is the value, without trailing blanks. A zero byte stands for a new line. An empty
/// file removes the variable.
fn read_envdir(directory: &Path, environment: &mut Environment, remarks: &mut Vec<String>) -> Result<()> {
    let failed = |error| Error::io("read", directory, error);
    refuse_if_anybody_writes(directory, &std::fs::metadata(directory).map_err(failed)?)?;
    for entry in std::fs::read_dir(directory).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let Some(name) = entry
            .file_name()
            .to_str()
            .filter(|name| is_known(name))
            .map(str::to_owned)
        else {
            continue;
        };
        let file = entry.path();
        let (bytes, meta) = content(&file)?;
        if is_secret(&name) {
            remark_if_anybody_reads(&file, &meta, remarks);
        }
        if bytes.is_empty() {
            environment.remove(OsStr::new(&name));
            continue;
        }
        let line = bytes
            .split(|byte| *byte == b'\n')
            .next()
            .unwrap_or_default()
            .trim_ascii_end();
        let value: Vec<u8> = line.iter().map(|byte| if *byte == 0 { b'\n' } else { *byte }).collect();
        environment.insert(name.into(), OsStr::from_bytes(&value).to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn write(path: &Path, text: &[u8], mode: u32) {
        std::fs::write(path, text).expect("written");
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("set");
    }

    fn environment(pairs: &[(&str, &str)]) -> Environment {
        pairs.iter().map(|(name, value)| (name.into(), value.into())).collect()
    }

    #[test]
    fn the_environment_comes_before_the_file_and_the_directory_before_that() {
        let dir = tempfile::tempdir().expect("a directory");
        let at = |name: &str| dir.path().join(name);
        write(
            &at("c.json"),
            br#"{"WALG_S3_PREFIX": "s3://file", "AWS_REGION": "file", "AWS_PROFILE": "file", "PATH": "/evil",
                 "LD_PRELOAD": "/evil.so", "SSH_PORT": 2222, "WALG_X=Y": "z"}"#,
            0o600,
        );
        let given = [
            ("AWS_REGION", "env"),
            ("AWS_PROFILE", ""),
            ("PATH", "/bin"),
            ("ST_KEY", "env"),
        ];
        let (mut found, mut remarks) = (environment(&given), Vec::new());
        read_config(&at("c.json"), &mut found, &mut remarks).expect("read");
        let expected = [
            ("AWS_PROFILE", "file"),
            ("AWS_REGION", "env"),
            ("PATH", "/bin"),
            ("SSH_PORT", "2222"),
            ("ST_KEY", "env"),
            ("WALG_S3_PREFIX", "s3://file"),
        ];
        assert_eq!(found, environment(&expected));
        let again = found.clone();
        read_config(&at("c.json"), &mut found, &mut remarks).expect("read");
        assert_eq!(found, again, "the second time nothing is added");

        std::fs::create_dir(at("env")).expect("made");
        write(&at("env/AWS_REGION"), b"dir  \t\nsecond line\n", 0o600);
        write(&at("env/ST_KEY"), b"", 0o600);
        write(&at("env/OS_PASSWORD"), b"two\0lines\n", 0o600);
        write(&at("env/PATH"), b"/evil", 0o600);
        std::fs::create_dir(at("env/..data")).expect("made");
        std::os::unix::fs::symlink(at("env/AWS_REGION"), at("env/WALG_GS_PREFIX")).expect("linked");
        read_envdir(&at("env"), &mut found, &mut remarks).expect("read");
        let get = |name: &str| found.get(OsStr::new(name)).and_then(|value| value.to_str());
        assert_eq!(get("AWS_REGION"), Some("dir"));
        assert_eq!(get("WALG_GS_PREFIX"), Some("dir"));
        assert_eq!(get("ST_KEY"), None);
        assert_eq!(get("OS_PASSWORD"), Some("two\nlines"));
        assert_eq!(get("PATH"), Some("/bin"));
        assert_eq!(remarks, [""; 0]);
    }

    #[test]
    fn permissions_are_looked_at() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("c.yaml");
        let read = |mode: u32, text: &[u8]| {
            write(&file, text, mode);
            let mut remarks = Vec::new();
            read_config(&file, &mut Environment::new(), &mut remarks).map(|()| remarks.len())
        };
        assert_eq!(read(0o644, b"AWS_REGION: x").expect("read"), 0);
        assert_eq!(read(0o640, b"AWS_SECRET_ACCESS_KEY: x").expect("read"), 0);
        assert_eq!(read(0o644, b"aws_secret_access_key: x").expect("read"), 1);
        assert_eq!(read(0o644, b"AWS_SHARED_CREDENTIALS_FILE: x").expect("read"), 0);
        let error = read(0o666, b"AWS_REGION: x").expect_err("refused");
        assert!(error.to_string().ends_with("can be written by everybody"), "{error}");
        let mut environment = Environment::new();
        let error = read_config(dir.path(), &mut environment, &mut Vec::new()).expect_err("a directory");
        assert!(error.hint().is_some(), "{error}");
    }
}
