use super::*;

fn lookup<'a>(variables: &'a [(&'a str, &'a str)]) -> impl Fn(&str) -> Option<String> + 'a {
    |name| {
        let found = variables.iter().find(|(key, _)| *key == name);
        found.map(|(_, value)| (*value).to_owned())
    }
}

#[test]
fn prefixes_become_urls() {
    for (variables, expected) in [
        (&[("WALG_S3_PREFIX", "s3://b/p")][..], "s3://b/p"),
        (&[("WALG_GS_PREFIX", "gs://b/p")], "gs://b/p"),
        (&[("WALG_AZ_PREFIX", "azure://c/p")], "az://c/p"),
        (&[("WALG_SWIFT_PREFIX", "swift://c/p")], "swift://c/p"),
        (&[("WALG_FILE_PREFIX", "/a b")], "file:///a%20b"),
        (&[("WALG_SSH_PREFIX", "ssh://h/p")], "sftp://h/p"),
        (
            &[
                ("WALG_SSH_PREFIX", "ssh://h/p/"),
                ("SSH_USERNAME", "u"),
                ("SSH_PORT", "2222"),
            ],
            "sftp://u@h:2222/p",
        ),
        (
            &[
                ("WALG_SSH_PREFIX", "ssh://me@h:22/p"),
                ("SSH_USERNAME", "u"),
                ("SSH_PORT", "2222"),
            ],
            "sftp://me@h:22/p",
        ),
    ] {
        let found = url(&lookup(variables)).expect("found");
        assert_eq!(found.as_deref(), Some(expected), "{variables:?}");
    }
    assert_eq!(url(&lookup(&[])).expect("asked"), None);
    for variables in [
        &[("WALG_FILE_PREFIX", "relative")][..],
        &[("WALG_SSH_PREFIX", "h/p")],
        &[("WALG_SSH_PREFIX", "ssh://h/p"), ("SSH_PORT", "ssh")],
    ] {
        url(&lookup(variables)).expect_err("refused");
    }
}

#[test]
fn a_folder_is_below_any_prefix_and_wal_e_has_names_too() {
    for (variables, expected) in [
        (&[("WALE_S3_PREFIX", "s3://b/p")][..], "s3://b/p"),
        (
            &[("WALE_S3_PREFIX", "s3://e"), ("WALG_S3_PREFIX", "s3://g/")],
            "s3://g/",
        ),
        (
            &[("WALG_S3_PREFIX", "s3://b/p/"), ("WALG_STORAGE_PREFIX", "/a/b/")],
            "s3://b/p/a/b",
        ),
        (
            &[("WALG_FILE_PREFIX", "/d"), ("WALG_STORAGE_PREFIX", "x")],
            "file:///d/x",
        ),
        (&[("WALG_FILE_PREFIX", "/d"), ("WALG_STORAGE_PREFIX", "/")], "file:///d"),
    ] {
        let found = url(&lookup(variables)).expect("found");
        assert_eq!(found.as_deref(), Some(expected), "{variables:?}");
    }
}

#[test]
fn what_has_no_effect_is_named_once() {
    let remarks = |variables: &[(&str, &str)]| {
        let variables: Vec<_> = variables
            .iter()
            .map(|(name, value)| (OsString::from(name), OsString::from(value)))
            .collect();
        super::remarks(&variables)
    };
    let understood = [
        ("WALG_S3_PREFIX", "s3://b"),
        ("WALG_S3_SSE", "x"),
        ("WALG_S3_SSE_C", "x"),
        ("WALG_COMPRESSION_METHOD", "lz4"),
        ("WALG_STORAGE_PREFIX", "x"),
        ("WALG_UPLOAD_CONCURRENCY", "16"),
        ("WALG_DELTA_MAX_STEPS", "6"),
        ("PATH", "/bin"),
    ];
    assert_eq!(remarks(&understood), [""; 0]);
    let found = remarks(&[("WALG_UPLOAD_WAL_METADATA", "BULK"), ("WALE_X", "y"), ("WALG_Y", "")]);
    assert_eq!(found.len(), 1);
    assert!(
        found[0].contains("have no effect: WALE_X, WALG_UPLOAD_WAL_METADATA\n"),
        "{found:?}"
    );
    assert_eq!(
        remarks(&[("WALG_COMPRESSION_METHOD", "brotli"), ("WALG_ZSTD_LEVEL", "best")]),
        [""; 0]
    );
    let found = remarks(&[("WALG_COMPRESSION_METHOD", "gzip")]);
    assert!(found.len() == 1 && !found[0].contains("gzip"), "{found:?}");
    let found = remarks(&[
        ("WALG_FILE_PREFIX", "/d"),
        ("WALG_GS_PREFIX", "gs://b"),
        ("WALE_GS_PREFIX", "gs://c"),
    ]);
    assert_eq!(
        found,
        ["WALG_GS_PREFIX is used; ignored: WALE_GS_PREFIX, WALG_FILE_PREFIX"]
    );
}

#[test]
fn wal_gs_compression_counts_if_it_can_be_written() {
    for (method, written, read) in [
        ("lz4", Some(Compression::Lz4), Some(Format::Lz4)),
        ("lzma", Some(Compression::Lzma(1)), Some(Format::Lzma)),
        ("zstd", Some(Compression::Zstd(1)), Some(Format::Zstd)),
        ("none", Some(Compression::Plain), Some(Format::Plain)),
        ("brotli", Some(Compression::Brotli(1)), Some(Format::Brotli)),
        ("gzip", None, None),
    ] {
        let variables = [(COMPRESSION, method)];
        let found = compression(&lookup(&variables)).transpose().expect(method);
        assert_eq!(found, written, "{method}");
        assert_eq!(format(&lookup(&variables)), read, "{method}");
    }
    assert!(compression(&lookup(&[(LEVEL, "7")])).is_none() && format(&lookup(&[])).is_none());
}

#[test]
fn a_level_belongs_to_its_method() {
    let with = |method, name, level| {
        let variables = [(COMPRESSION, method), (name, level)];
        compression(&lookup(&variables)).expect("a method").ok()
    };
    for (method, name, level, expected) in [
        ("zstd", LEVEL, "7", Some(Compression::Zstd(7))),
        ("brotli", LEVEL, "11", Some(Compression::Brotli(11))),
        ("lz4", LEVEL, "9", Some(Compression::Lz4)),
        ("zstd", ZSTD_LEVEL, "Best", Some(Compression::Zstd(11))),
        ("brotli", ZSTD_LEVEL, "best", Some(Compression::Brotli(1))),
        ("zstd", LEVEL, "99", None),
        ("zstd", LEVEL, "high", None),
        ("zstd", ZSTD_LEVEL, "worst", None),
    ] {
        assert_eq!(with(method, name, level), expected, "{method} {name} {level}");
    }
}

fn options(url: &str, given: &str, variables: &[(&str, &str)]) -> String {
    let mut options = given.parse().expect("options");
    add_options(url, &mut options, &lookup(variables)).expect("added");
    options.to_string()
}

#[test]
fn variables_become_options_of_their_store() {
    let all: Vec<(&str, &str)> = RULES
        .iter()
        .flat_map(|rule| rule.variables.first())
        .map(|name| (*name, "true"))
        .chain(
            SECRETS
                .iter()
                .flat_map(|(_, names)| *names)
                .map(|name| (*name, "hunter2")),
        )
        .collect();
    for scheme in ["s3", "gs", "az", "swift", "sftp", "file"] {
        let found = options(&format!("{scheme}://x"), "", &all);
        assert!(!found.contains("hunter2"), "{found}");
        for rule in RULES.iter() {
            if let Some(option) = rule.options.first().filter(|option| **option != "aws_profile") {
                let there = format!(",{found}").contains(&format!(",{option}="));
                assert_eq!(there, rule.scheme == scheme, "{option} in {found}");
            }
        }
    }
    let variables = [
        ("AWS_ENDPOINT", "h:9000"),
        ("AWS_S3_FORCE_PATH_STYLE", "false"),
        ("AWS_PROFILE", "p"),
        ("WALG_S3_SSE", "aws:kms"),
    ];
    assert_eq!(
        options("s3://b", "aws_region=eu", &variables),
        "aws_endpoint=https://h:9000,aws_profile=p,aws_region=eu,aws_server_side_encryption=aws:kms,\
         aws_virtual_hosted_style_request=true"
    );
    assert_eq!(
        options(
            "swift://c",
            "",
            &[("OS_AUTH_URL", "http://h:5000/v3"), ("OS_TENANT_NAME", "t")]
        ),
        "allow_http=true,os_auth_url=http://h:5000/v3,os_project_name=t"
    );
}

/// The table of the manual is made from the code; this test prints it when they differ.
#[test]
fn the_manual_tells_the_same() {
    let mut table = String::from("| variable | becomes |\n|---|---|\n");
    let code = |names: &[&str]| {
        names
            .iter()
            .map(|name| format!("`{name}`"))
            .collect::<Vec<_>>()
            .join(", ")
    };
    for key in WAL_G_KEYS {
        table.push_str(&format!(
            "| `{key}` | nothing: a [key](encryption.md#keys), read where it is |\n"
        ));
    }
    for prefix in PREFIXES {
        table.push_str(&format!("| `{prefix}` | the storage |\n"));
    }
    for rule in RULES.iter() {
        let option = match rule.options.first() {
            Some(option)
                if std::ptr::fn_addr_eq(rule.convert, super::rules::opposite as fn(&str) -> Option<String>) =>
            {
                format!("`{option}`, the opposite")
            }
            Some(option) => format!("`{option}`"),
            None => "part of the storage".to_owned(),
        };
        table.push_str(&format!("| {} | {option} |\n", code(rule.variables)));
    }
    for secret in SECRETS.iter().flat_map(|(_, names)| *names) {
        table.push_str(&format!("| `{secret}` | nothing: read where it is |\n"));
    }
    let manual = include_str!("../../../../../docs/wal-g.md");
    assert!(manual.contains(&table), "docs/wal-g.md needs this table:\n{table}");
}
