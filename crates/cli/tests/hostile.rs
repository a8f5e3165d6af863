//! Stores that do harm: what they answer must not crash the binary, fill the memory, or lead it to another host.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use walarchive_testkit::{Answer, Background, HttpMock, Output, Request, TestDir, TlsFiles};

const SEGMENT: &str = "000000010000000000000003";
/// Recovery would wait for a better answer.
const FETCH: [&str; 5] = ["wal-fetch", "--patience", "0", SEGMENT, "there"];
/// The limit of the binary's address space, in bytes: far above its needs, far below what the stores send.
const MEMORY: u64 = 1 << 30;
const SOON: Duration = Duration::from_secs(120);

/// Where containers get their credentials.
const ECS: [(&str, &str); 2] = [
    ("AWS_CONTAINER_CREDENTIALS_FULL_URI", "HERE/ecs"),
    ("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", "DIR/token"),
];

/// The kinds of store: their URL, options and credentials.
const STORES: [&str; 4] = ["s3", "gs", "az", "swift"];

struct Site {
    dir: TestDir,
    mock: HttpMock,
    /// The certificates that the binary is to trust, where the store speaks TLS.
    trusted: Option<PathBuf>,
}

impl Site {
    fn new(answer: impl Fn(&Request) -> Answer + Send + Sync + 'static) -> Site {
        let dir = TestDir::new();
        std::fs::write(dir.join("token"), "hunter2").expect("written");
        Site {
            dir,
            mock: HttpMock::start(answer),
            trusted: None,
        }
    }

    fn run(&self, store: &str, env: &[(&str, &str)], args: &[&str]) -> Output {
        let (scheme, plain) = match self.trusted {
            Some(_) => ("https", "allow_http=false".to_owned()),
            None => ("http", "allow_http=true".to_owned()),
        };
        let here = format!("{scheme}://127.0.0.1:{}", self.mock.port());
        let data = self.dir.subdir("data");
        let mut command = Command::new("prlimit");
        command.arg(format!("--as={MEMORY}")).arg("--core=0");
        command.arg(env!("CARGO_BIN_EXE_walarchive")).args(args);
        command.arg("--storage").arg(format!("{store}://bucket/prefix"));
        command
            .env_clear()
            .env("PATH", std::env::var("PATH").unwrap_or_default());
        command.env("HOME", self.dir.path()).current_dir(data);
        let mut options = vec![plain];
        if let Some(file) = &self.trusted {
            options.push(format!("ca_cert_file={}", file.display()));
        }
        let auth = format!("{here}/auth/v1.0");
        match store {
            "s3" => {
                options.push(format!("aws_endpoint={here}"));
                options.push("aws_region=us-east-1".to_owned());
                if env.is_empty() {
                    command.env("AWS_ACCESS_KEY_ID", "k").env("AWS_SECRET_ACCESS_KEY", "s");
                    command.env("AWS_SESSION_TOKEN", "t");
                }
            }
            "gs" => {
                options.push(format!("google_base_url={here}"));
                options.push("google_skip_signature=true".to_owned());
            }
            "az" => {
                options.push("azure_storage_account_name=account".to_owned());
                options.push(format!("azure_endpoint={here}/account"));
                if env.is_empty() {
                    command.env("AZURE_STORAGE_SAS_TOKEN", "?sv=2022-11-02&sig=hunter2");
                }
            }
            _ if env.is_empty() => {
                command
                    .env("ST_AUTH", &auth)
                    .env("ST_USER", "u")
                    .env("ST_KEY", "hunter2");
            }
            _ => {}
        }
        for option in options {
            command.arg("--storage-option").arg(option);
        }
        for (name, value) in env {
            let dir = self.dir.path().display().to_string();
            command.env(name, value.replace("HERE", &here).replace("DIR", &dir));
        }
        Background::spawn(&mut command, None).wait(SOON)
    }

    /// The binary ends by itself, without success.
    #[track_caller]
    fn fails(&self, store: &str, env: &[(&str, &str)], args: &[&str]) -> String {
        let output = self.run(store, env, args);
        let said = format!("{store} {args:?}: {output:?}");
        assert_eq!(output.signal, None, "{said}");
        assert!(output.code.is_some_and(|code| code != 0), "{said}");
        assert!(!output.stderr.contains("memory allocation"), "{said}");
        assert!(!output.stderr.contains("hunter2"), "{said}");
        assert!(output.stderr.len() < 8000, "{} bytes are said", output.stderr.len());
        println!("{store}: {}", output.stderr);
        output.stderr
    }
}

/// Is it a page of a listing that is asked for?
fn is_listing(request: &Request) -> bool {
    let target = &request.target;
    ["list-type=2", "comp=list", "format=json"]
        .iter()
        .any(|mark| target.contains(mark))
}

/// A store that holds nothing else.
fn nothing(request: &Request) -> Answer {
    match request.target.as_str() {
        target if target.ends_with("/v1/a/bucket") => Answer::new(204, ""),
        target if target.contains("list-type=2") => Answer::new(200, "<ListBucketResult></ListBucketResult>"),
        target if target.contains("comp=list") => Answer::new(200, "<EnumerationResults><Blobs/></EnumerationResults>"),
        target if target.contains("format=json") => Answer::new(200, "[]"),
        _ => token(request).unwrap_or_else(|| Answer::new(404, "")),
    }
}

/// Swift's own way in, where one was asked for.
fn token(request: &Request) -> Option<Answer> {
    token_for("http", request)
}

fn token_for(scheme: &str, request: &Request) -> Option<Answer> {
    let host = request.header("host").unwrap_or_default();
    request.target.starts_with("/auth").then(|| {
        Answer::new(200, "")
            .header("X-Auth-Token", "hunter2")
            .header("X-Storage-Url", format!("{scheme}://{host}/v1/a"))
    })
}

#[test]
fn an_error_without_an_end_is_an_error() {
    for status in [404, 403, 400] {
        let site = Site::new(move |request| {
            token(request).unwrap_or_else(|| Answer::endless(status, "<Error><Code>Fault</Code><Message>", "lorem "))
        });
        for store in STORES {
            let said = site.fails(store, &[], &["backup-list"]);
            assert!(said.contains(&format!("{status}")), "{said}");
        }
    }
}

#[test]
fn a_listing_without_an_end_is_an_error() {
    let site = Site::new(|request| {
        let entry = "<Contents><Key>prefix/basebackups_005/x</Key><Size>1</Size>\
                     <LastModified>2026-11-19T10:00:00.000Z</LastModified></Contents>";
        let blob = "<Blob><Name>prefix/basebackups_005/x</Name><Properties>\
                    <Last-Modified>Wed, 21 Oct 2026 07:28:00 GMT</Last-Modified><Content-Length>1</Content-Length>\
                    <Content-Type>a</Content-Type></Properties></Blob>";
        let object = "{\"name\": \"prefix/basebackups_005/x\", \"bytes\": 1, \"hash\": \"h\", \
                      \"last_modified\": \"2026-11-21T06:34:25.123456\"},";
        let answer = match request.target.as_str() {
            target if target.contains("list-type=2") => Answer::endless(200, "<ListBucketResult>", entry),
            target if target.contains("comp=list") => Answer::endless(200, "<EnumerationResults><Blobs>", blob),
            target if target.contains("format=json") => Answer::endless(200, "[", object),
            _ => return nothing(request),
        };
        // As a listing does not, and an object does.
        answer.header("Last-Modified", "Wed, 21 Oct 2026 07:28:00 GMT")
    });
    for store in STORES {
        let said = site.fails(store, &[], &["backup-list"]);
        assert!(said.contains("more than") && said.contains("bytes"), "{said}");
    }
}

#[test]
fn pages_that_lead_to_themselves_are_an_error() {
    let site = Site::new(|request| match request.target.as_str() {
        target if target.contains("comp=list") => Answer::new(
            200,
            "<EnumerationResults><Blobs></Blobs><NextMarker>next</NextMarker></EnumerationResults>",
        ),
        target if target.contains("list-type=2") => Answer::new(
            200,
            "<ListBucketResult><IsTruncated>true</IsTruncated>\
             <NextContinuationToken>next</NextContinuationToken></ListBucketResult>",
        ),
        _ => nothing(request),
    });
    for store in ["s3", "gs", "az"] {
        let said = site.fails(store, &[], &["backup-list"]);
        assert!(said.contains("leads to itself"), "{said}");
    }
}

#[test]
fn credentials_without_an_end_are_an_error() {
    let site =
        Site::new(|_| Answer::endless(200, "{\"token\": {\"catalog\": [\"", "lorem ").header("X-Subject-Token", "t"));
    let keystone = [
        ("OS_AUTH_URL", "HERE/v3"),
        ("OS_USERNAME", "u"),
        ("OS_PASSWORD", "hunter2"),
        ("OS_PROJECT_NAME", "p"),
        ("OS_USER_DOMAIN_NAME", "Default"),
        ("OS_PROJECT_DOMAIN_NAME", "Default"),
    ];
    for (store, env) in [
        ("s3", &ECS[..]),
        ("s3", &[("AWS_METADATA_ENDPOINT", "HERE")][..]),
        ("az", &[("IDENTITY_ENDPOINT", "HERE/msi"), ("IDENTITY_HEADER", "h")][..]),
        ("swift", &keystone[..]),
    ] {
        let said = site.fails(store, env, &["backup-list"]);
        assert!(said.contains("more than") && said.contains("bytes"), "{said}");
    }
}

/// The length that a store announces for an object, and the bytes that it sends.
fn object(request: &Request, range: &str, length: &str) -> Answer {
    if !request.target.contains(SEGMENT) {
        return nothing(request);
    }
    Answer::endless(206, "", "lorem ")
        .header("Content-Range", range)
        .header("Content-Length", length)
        .header("ETag", "\"1\"")
        .header("Last-Modified", "Wed, 21 Oct 2026 07:28:00 GMT")
}

#[test]
fn an_object_longer_than_it_was_said_to_be_is_an_error() {
    let site = Site::new(|request| object(request, "bytes 0-99/100", "4000000000"));
    for store in ["s3", "gs", "az"] {
        let said = site.fails(store, &[], &FETCH);
        assert!(said.contains("more than the 100 bytes"), "{said}");
    }
    // Swift's way looks at no more than it asked for.
    site.fails("swift", &[], &FETCH);
}

#[test]
fn an_object_that_says_it_is_huge_takes_no_memory() {
    let huge = u64::MAX / 2;
    let site = Site::new(move |request| {
        let (range, length) = (format!("bytes 0-{}/{huge}", huge - 1), huge.to_string());
        object(request, &range, &length)
    });
    for store in STORES {
        site.fails(store, &[], &FETCH);
    }
}

#[test]
fn no_redirection_is_followed() {
    let other = HttpMock::start(|_| Answer::new(200, "<ListBucketResult></ListBucketResult>"));
    let place = format!("127.0.0.1:{}", other.port());
    for status in [301, 302, 303, 307, 308] {
        let location = format!("http://{place}/elsewhere?sig=hunter2");
        let site = Site::new(move |request| {
            let redirected = || Answer::new(status, "<html>moved</html>").header("Location", location.clone());
            token(request).unwrap_or_else(redirected)
        });
        for store in STORES {
            for args in [&["backup-list"][..], &FETCH] {
                let said = site.fails(store, &[], args);
                assert!(said.contains(&place) && said.contains("redirects to"), "{said}");
            }
        }
        assert!(site.fails("s3", &ECS, &["backup-list"]).contains(&place));
    }
    assert_eq!(other.requests().len(), 0, "{:?}", other.requests());
}

#[test]
fn a_bucket_of_another_region_is_told_from_a_redirection() {
    let site = Site::new(|_| {
        Answer::new(301, "<Error><Code>PermanentRedirect</Code></Error>")
            .header("x-amz-bucket-region", "eu-central-1")
            .header("Location", "http://127.0.0.1:1/")
    });
    let said = site.fails("s3", &[], &["backup-list"]);
    assert!(said.contains("is in another region"), "{said}");
    assert!(said.contains("aws_region=eu-central-1"), "{said}");
}

#[test]
fn an_error_that_is_called_a_success_is_an_error() {
    let error = "<?xml version=\"1.0\"?>\n<Error><Code>AccessDenied</Code><Message>no</Message></Error>";
    let page = "<html><body>Welcome to the network of this hotel</body></html>";
    for (body, says) in [(error, "AccessDenied"), (page, "<html>"), ("", "empty"), ("{}", "{}")] {
        let site = Site::new(move |request| match is_listing(request) {
            true => Answer::new(200, body),
            false => nothing(request),
        });
        for store in ["s3", "gs", "az"] {
            let said = site.fails(store, &[], &["backup-list"]);
            assert!(said.contains(says), "{said}");
        }
        site.fails("swift", &[], &["backup-list"]);
    }
}

/// A page of a listing of these names, as XML has them, if one of such a folder is asked for.
fn page(request: &Request, names: impl Fn(&str) -> Vec<String>) -> Option<Answer> {
    let target = request.target.replace("%2F", "/");
    let folders = ["wal_005", "basebackups_005"].into_iter();
    let folder = folders
        .filter(|_| is_listing(request))
        .find(|folder| target.contains(folder))?;
    let names = names(&format!("prefix/{folder}")).into_iter();
    let date = "Wed, 21 Oct 2026 07:28:00 GMT";
    let text = match target.as_str() {
        target if target.contains("list-type=2") => {
            let stamp = "<LastModified>2026-11-19T10:00:00.000Z</LastModified>";
            let entry = |name| format!("<Contents><Key>{name}</Key><Size>1</Size>{stamp}</Contents>");
            format!(
                "<ListBucketResult>{}</ListBucketResult>",
                names.map(entry).collect::<String>()
            )
        }
        target if target.contains("comp=list") => {
            let properties = format!(
                "<Properties><Last-Modified>{date}</Last-Modified><Content-Length>1</Content-Length>\
                 <Content-Type>a</Content-Type></Properties>"
            );
            let entry = |name| format!("<Blob><Name>{name}</Name>{properties}</Blob>");
            let blobs = names.map(entry).collect::<String>();
            format!("<EnumerationResults><Blobs>{blobs}</Blobs></EnumerationResults>")
        }
        // There is one page.
        target if target.contains("marker=prefix") => "[]".to_owned(),
        _ => {
            let entry = |name: String| {
                let name = name.replace("&#9;", "\\t").replace("&#27;", "\\u001b");
                let more = "\"bytes\": 1, \"hash\": \"h\", \"last_modified\": \"2026-11-21T06:34:25.1\"";
                format!("{{\"name\": \"{name}\", {more}}}")
            };
            format!("[{}]", names.map(entry).collect::<Vec<_>>().join(","))
        }
    };
    Some(Answer::new(200, text))
}

/// The names of objects that no key can have.
const ODD: [&str; 5] = ["//x", "/./x", "/../x", "/a&#9;b", "/a&#27;[1m"];

#[test]
fn names_that_are_no_keys_are_passed_over_and_named() {
    let names = |prefix: &str| {
        // Objects that browsers of stores make, and the segment that makes it a repository.
        let others = ["/".to_owned(), format!("/{SEGMENT}")];
        let names = ODD.map(str::to_owned).into_iter().chain(others);
        names.map(|name| format!("{prefix}{name}")).collect()
    };
    let site = Site::new(move |request| page(request, names).unwrap_or_else(|| nothing(request)));
    for store in STORES {
        for (verb, folder) in [("wal-show", "wal_005"), ("backup-list", "basebackups_005")] {
            let output = site.run(store, &[], &[verb]);
            let said = format!("{store} {verb}: {}{}", output.stdout, output.stderr);
            println!("{said}");
            assert!(output.success(), "{said}");
            for odd in ["//x", "/./x", "/../x", "/a\\tb", "/a\\u{1b}[1m"] {
                let name = format!("\"{store}://bucket/prefix/{folder}{odd}\"");
                assert_eq!(output.stderr.matches(&name).count(), 1, "{name}: {said}");
            }
        }
    }
}

#[test]
fn where_there_are_folders_only_wal_is_not_missing() {
    let names = |prefix: &str| {
        ["/", "/README", "/notes/"]
            .map(|name| format!("{prefix}{name}"))
            .to_vec()
    };
    let site = Site::new(move |request| page(request, names).unwrap_or_else(|| nothing(request)));
    for store in STORES {
        let output = site.run(store, &[], &FETCH);
        assert_eq!(output.code, Some(200), "{store}: {output:?}");
        assert!(
            output.stderr.contains("there is no repository in"),
            "{store}: {output:?}"
        );
    }
}

#[test]
fn a_server_whose_certificate_is_its_own_authority_is_trusted_where_it_is_named() {
    let dir = TestDir::new();
    let files = TlsFiles::self_signed(&dir);
    let names = |prefix: &str| vec![format!("{prefix}/{SEGMENT}")];
    let wal = move |request: &Request| {
        let found = page(request, names).or_else(|| token_for("https", request));
        found.unwrap_or_else(|| nothing(request))
    };
    let mut site = Site {
        mock: HttpMock::start_tls(&files, wal),
        trusted: Some(files.ca.clone()),
        dir,
    };
    for store in STORES {
        let output = site.run(store, &[], &["wal-show"]);
        assert!(
            output.success() && output.stdout.contains(SEGMENT),
            "{store}: {output:?}"
        );
    }
    // Another certificate of the same kind proves nothing.
    let elsewhere = TestDir::new();
    site.trusted = Some(TlsFiles::self_signed(&elsewhere).ca);
    for store in STORES {
        let said = site.fails(store, &[], &["wal-show"]);
        assert!(said.contains("certificate"), "{said}");
    }
}
