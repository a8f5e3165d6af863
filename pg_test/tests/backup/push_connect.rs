//! How `walarchive backup-push` connects: passwords, the password file, services, TLS. Whether it has connected is told by what
//! it says next: the data directory that is given does not exist.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::unistd::User;
use walarchive_pg_test::push;
use walarchive_pg_test::site::Site;
use walarchive_testkit::{Cluster, Output, run};

const CONNECTED: &str = "\"/nowhere\" is not a data directory that can be read";

/// An address of this process's own: its tests' servers do not meet those of another process.
fn address() -> String {
    let pid = std::process::id();
    format!("127.{}.{}.{}", 1 + (pid >> 16) % 200, (pid >> 8) % 256, 2 + pid % 250)
}

/// A program that tries to connect by these variables.
fn try_with(site: &Site, variables: &[(&str, &str)]) -> Output {
    let mut command = site.walarchive(&["backup-push", "/nowhere"]);
    run(command.envs(variables.iter().copied()).env("HOME", site.dir().path()))
}

#[track_caller]
fn connects(site: &Site, variables: &[(&str, &str)]) {
    let output = try_with(site, variables);
    assert!(output.stderr.contains(CONNECTED), "{variables:?} {output:?}");
}

#[track_caller]
fn fails(site: &Site, variables: &[(&str, &str)], why: &str) {
    let output = try_with(site, variables);
    assert!(
        output.code == Some(1) && output.stderr.contains(why) && output.stderr.contains("HINT:  "),
        "{variables:?} {output:?}"
    );
}

/// A file that belongs to the user who runs the programs.
fn file(site: &Site, name: &str, content: &str, mode: u32) -> PathBuf {
    let path = site.dir().join(name);
    fs::write(&path, content).expect("written");
    fs::set_permissions(&path, Permissions::from_mode(mode)).expect("set");
    let owner = fs::metadata(site.dir().path()).expect("there");
    use std::os::unix::fs::MetadataExt;
    chown(&path, Some(owner.uid()), Some(owner.gid())).expect("changed");
    path
}

fn hba(cluster: &Cluster, lines: &str) {
    fs::write(
        cluster.datadir().join("pg_hba.conf"),
        format!("local all postgres trust\n{lines}"),
    )
    .expect("written");
    cluster.reload();
}

/// The one who made the socket may be anybody, if its directory is open to all.
#[test]
fn the_user_of_the_server_is_the_one_that_is_required() {
    use std::os::unix::fs::MetadataExt;
    let site = Site::on_files();
    let primary = push::primary(&site, &[]);
    let uid = fs::metadata(primary.datadir()).expect("there").uid();
    let user = User::from_uid(uid.into())
        .expect("looked up")
        .expect("it has a name")
        .name;
    let (host, port) = (primary.socket_dir().to_string_lossy(), primary.port().to_string());
    let with = |peer| {
        let server = [("PGHOST", &*host), ("PGPORT", &*port), ("PGUSER", "postgres")];
        [&server[..], &[("PGREQUIREPEER", peer)]].concat()
    };
    connects(&site, &with(&user));
    fails(&site, &with("daemon"), "PGREQUIREPEER is \"daemon\"");
}

#[test]
fn passwords_come_from_the_environment_or_from_the_file() {
    let site = Site::on_files();
    let primary = push::primary(&site, &[]);
    primary.psql("CREATE ROLE scram LOGIN SUPERUSER PASSWORD 'se:cret'");
    primary.psql("SET password_encryption = md5; CREATE ROLE md5 LOGIN SUPERUSER PASSWORD 'se:cret'");
    primary.psql("CREATE ROLE plain LOGIN SUPERUSER PASSWORD 'se:cret'");
    hba(
        &primary,
        "local all scram scram-sha-256\nlocal all md5 md5\nlocal all plain password\n",
    );
    let (host, port) = (
        primary.socket_dir().to_string_lossy().into_owned(),
        primary.port().to_string(),
    );
    let server = |user: &'static str| vec![("PGHOST", host.as_str()), ("PGPORT", port.as_str()), ("PGUSER", user)];
    for user in ["scram", "md5", "plain"] {
        let with = |password: &'static str| [server(user), vec![("PGPASSWORD", password)]].concat();
        connects(&site, &with("se:cret"));
        fails(&site, &with("wrong"), "password authentication failed");
        fails(&site, &server(user), "asks for the password of role");
    }
    let output = try_with(&site, &[server("scram"), vec![("PGPASSWORD", "hunter2")]].concat());
    assert!(!output.stderr.contains("hunter2"), "{output:?}");
    // The password file: its place, its line, its permissions.
    let line = format!("{host}:{port}:*:scram:se\\:cret\n");
    let named = file(&site, "passwords", &format!("other:*:*:*:no\n{line}"), 0o600);
    let named = named.to_string_lossy();
    connects(&site, &[server("scram"), vec![("PGPASSFILE", &named)]].concat());
    file(&site, ".pgpass", &line, 0o640);
    let output = try_with(&site, &server("scram"));
    assert!(output.stderr.contains("the password file is not used"), "{output:?}");
    assert!(output.stderr.contains("asks for the password of role"), "{output:?}");
    file(&site, ".pgpass", &line, 0o600);
    connects(&site, &server("scram"));
    // A service says everything.
    let service = format!("[one]\nhost={host}\nport={port}\nuser=scram\ndbname=postgres\n");
    file(&site, ".pg_service.conf", &service, 0o600);
    connects(&site, &[("PGSERVICE", "one"), ("PGPORT", "1")]);
    fails(
        &site,
        &[("PGSERVICE", "two")],
        "there is no definition of service \"two\"",
    );
    // A list of hosts: the first one is not there.
    let hosts = format!("/nowhere,{host}");
    connects(
        &site,
        &[
            ("PGHOST", &hosts),
            ("PGPORT", &port),
            ("PGUSER", "scram"),
            ("PGTARGETSESSIONATTRS", "read-write"),
        ],
    );
    fails(
        &site,
        &[server("postgres"), vec![("PGTARGETSESSIONATTRS", "standby")]].concat(),
        "it is not of the kind that PGTARGETSESSIONATTRS asks for",
    );
    fails(
        &site,
        &[("PGHOST", "/nowhere")],
        "could not connect to the server at socket",
    );
    fails(
        &site,
        &[server("postgres"), vec![("PGDATABASE", "nowhere")]].concat(),
        "database \"nowhere\" does not exist",
    );
}

fn openssl(args: &[&str], dir: &Path) {
    let output = Command::new("openssl")
        .args(args)
        .current_dir(dir)
        .output()
        .expect("openssl");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// An authority, a certificate for `db.test`, and one for a client.
fn certificates(dir: &Path) {
    let key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
    let new = |name: &str, subject: &str, more: &[&str]| {
        let (key_file, out) = (format!("{name}.key"), format!("{name}.crt"));
        let base = [
            "req", "-x509", "-days", "2", "-subj", subject, "-keyout", &key_file, "-out", &out,
        ];
        openssl(&[&base[..], &key, more].concat(), dir);
    };
    new("ca", "/CN=authority", &[]);
    new("other", "/CN=other", &[]);
    for (name, subject, extension) in [
        ("server", "/CN=db.test", "subjectAltName=DNS:db.test"),
        ("client", "/CN=cert", "extendedKeyUsage=clientAuth"),
    ] {
        let leaf = [
            "-CA",
            "ca.crt",
            "-CAkey",
            "ca.key",
            "-addext",
            extension,
            "-addext",
            "basicConstraints=critical,CA:FALSE",
        ];
        new(name, subject, &leaf);
    }
}

#[test]
fn tls_is_as_sslmode_says() {
    let site = Site::on_files();
    let configured = run(site.pg().program("pg_config").arg("--configure")).expect_success();
    if !configured.contains("openssl") {
        assert_ne!(site.pg().major(), 15, "Debian's PostgreSQL knows TLS");
        eprintln!("skipped: PostgreSQL {} was built without TLS", site.pg().major());
        return;
    }
    let dir = site.dir().subdir("tls");
    certificates(&dir);
    for entry in fs::read_dir(&dir).expect("read") {
        let name = entry.expect("an entry").file_name();
        let name = name.to_string_lossy();
        let content = fs::read_to_string(dir.join(name.as_ref())).expect("read");
        file(&site, &format!("tls/{name}"), &content, 0o600);
    }
    let at = |name: &str| dir.join(name).to_string_lossy().into_owned();
    let address = address();
    let primary = push::builder(&site, "primary")
        .setting("ssl", "on")
        .setting("ssl_cert_file", &at("server.crt"))
        .setting("ssl_key_file", &at("server.key"))
        .setting("ssl_ca_file", &at("ca.crt"))
        .server_setting("listen_addresses", &address)
        .start();
    primary.psql("CREATE ROLE tls LOGIN SUPERUSER");
    primary.psql("CREATE ROLE plain LOGIN SUPERUSER");
    primary.psql("CREATE ROLE cert LOGIN SUPERUSER");
    hba(
        &primary,
        "hostssl all tls all trust\nhostnossl all plain all trust\nhostssl all cert all cert\n",
    );
    let port = primary.port().to_string();
    let (ca, other, client, key) = (at("ca.crt"), at("other.crt"), at("client.crt"), at("client.key"));
    let with = |user: &'static str, more: &[(&'static str, &str)]| -> Vec<(String, String)> {
        let base = [
            ("PGHOSTADDR", address.as_str()),
            ("PGHOST", "db.test"),
            ("PGPORT", &port),
            ("PGUSER", user),
        ];
        let all = base.iter().chain(more.iter());
        all.map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect()
    };
    let good = |variables: Vec<(String, String)>| {
        let variables: Vec<(&str, &str)> = variables
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect();
        connects(&site, &variables);
    };
    let bad = |variables: Vec<(String, String)>, why: &str| {
        let variables: Vec<(&str, &str)> = variables
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect();
        fails(&site, &variables, why);
    };
    // The client finds out the server's demands.
    for mode in ["allow", "prefer"] {
        good(with("tls", &[("PGSSLMODE", mode)]));
        good(with("plain", &[("PGSSLMODE", mode)]));
    }
    good(with("plain", &[("PGSSLMODE", "disable")]));
    bad(with("tls", &[("PGSSLMODE", "disable")]), "no pg_hba.conf entry");
    good(with("tls", &[("PGSSLMODE", "require")]));
    bad(with("plain", &[("PGSSLMODE", "require")]), "no pg_hba.conf entry");
    // Whom to trust, and under which name. The server's name is in the certificate, and its address is not.
    for mode in ["verify-ca", "verify-full"] {
        good(with("tls", &[("PGSSLMODE", mode), ("PGSSLROOTCERT", &ca)]));
        bad(
            with("tls", &[("PGSSLMODE", mode), ("PGSSLROOTCERT", &other)]),
            "certificate",
        );
        bad(with("tls", &[("PGSSLMODE", mode)]), "there are no root certificates");
    }
    bad(
        with("tls", &[("PGSSLMODE", "require"), ("PGSSLROOTCERT", &other)]),
        "certificate",
    );
    good(with(
        "tls",
        &[
            ("PGSSLMODE", "verify-ca"),
            ("PGSSLROOTCERT", &ca),
            ("PGHOST", "else.test"),
        ],
    ));
    bad(
        with(
            "tls",
            &[
                ("PGSSLMODE", "verify-full"),
                ("PGSSLROOTCERT", &ca),
                ("PGHOST", "else.test"),
            ],
        ),
        "certificate",
    );
    bad(with("tls", &[("PGSSLMODE", "full")]), "which is no mode");
    // The system's own authorities, which SSL_CERT_FILE names. They are of use with the name only.
    let system = |mode: &'static str, authorities: &str, host: &str| {
        let variables = [
            ("PGSSLMODE", mode),
            ("PGSSLROOTCERT", "system"),
            ("SSL_CERT_FILE", authorities),
            ("PGHOST", host),
        ];
        with("tls", &variables)
    };
    good(system("verify-full", &ca, "db.test"));
    bad(system("verify-full", &other, "db.test"), "certificate");
    bad(system("verify-full", &ca, "else.test"), "certificate");
    for mode in ["require", "verify-ca"] {
        bad(system(mode, &ca, "db.test"), "PGSSLMODE is not \"verify-full\"");
    }
    // The client's own certificate.
    let own = [
        ("PGSSLMODE", "require"),
        ("PGSSLCERT", client.as_str()),
        ("PGSSLKEY", key.as_str()),
    ];
    good(with("cert", &own));
    bad(with("cert", &own[..1]), "certificate");
    fs::set_permissions(&key, Permissions::from_mode(0o644)).expect("set");
    bad(with("cert", &own), "can be read by its group or by others");
}
