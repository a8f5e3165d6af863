//! The variables, and the option that each becomes.

/// How variables become options.
pub(super) struct Rule {
    /// It counts for URLs with this scheme.
    pub scheme: &'static str,
    /// The first one that is set counts.
    pub variables: &'static [&'static str],
    /// The option, and other names of it that the user may have given.
    pub options: &'static [&'static str],
    /// None if the value cannot be one.
    pub convert: fn(&str) -> Option<String>,
}

const fn rule(scheme: &'static str, variables: &'static [&'static str], options: &'static [&'static str]) -> Rule {
    Rule {
        scheme,
        variables,
        options,
        convert: as_it_is,
    }
}

const fn endpoint(scheme: &'static str, variables: &'static [&'static str], options: &'static [&'static str]) -> Rule {
    Rule {
        convert: with_scheme,
        ..rule(scheme, variables, options)
    }
}

const fn path(scheme: &'static str, variables: &'static [&'static str], options: &'static [&'static str]) -> Rule {
    Rule {
        convert: absolute,
        ..rule(scheme, variables, options)
    }
}

pub(super) const RULES: [Rule; 32] = [
    endpoint(
        "s3",
        &["AWS_ENDPOINT", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"],
        &[
            "aws_endpoint",
            "endpoint",
            "aws_endpoint_url",
            "endpoint_url",
            "aws_endpoint_url_s3",
        ],
    ),
    rule(
        "s3",
        &["AWS_REGION", "AWS_DEFAULT_REGION"],
        &["aws_region", "region", "aws_default_region", "default_region"],
    ),
    Rule {
        convert: opposite,
        ..rule(
            "s3",
            &["AWS_S3_FORCE_PATH_STYLE"],
            &["aws_virtual_hosted_style_request", "virtual_hosted_style_request"],
        )
    },
    rule("s3", &["AWS_PROFILE"], &["aws_profile", "profile"]),
    path("s3", &["AWS_SHARED_CREDENTIALS_FILE"], &["aws_shared_credentials_file"]),
    path("s3", &["AWS_CONFIG_FILE"], &["aws_config_file"]),
    path("s3", &["WALG_S3_CA_CERT_FILE"], &["ca_cert_file", "aws_ca_cert_file"]),
    rule(
        "s3",
        &["WALG_S3_SSE"],
        &["aws_server_side_encryption", "server_side_encryption"],
    ),
    rule("s3", &["WALG_S3_SSE_KMS_ID"], &["aws_sse_kms_key_id", "sse_kms_key_id"]),
    rule(
        "s3",
        &["WALG_S3_STORAGE_CLASS"],
        &["aws_storage_class", "storage_class"],
    ),
    path(
        "gs",
        &["GOOGLE_APPLICATION_CREDENTIALS"],
        &[
            "google_application_credentials",
            "application_credentials",
            "google_service_account",
        ],
    ),
    rule(
        "az",
        &["AZURE_STORAGE_ACCOUNT", "AZURE_STORAGE_ACCOUNT_NAME"],
        &["azure_storage_account_name", "azure_storage_account", "account_name"],
    ),
    rule("az", &["AZURE_ENVIRONMENT_NAME"], &["azure_environment_name"]),
    endpoint("swift", &["OS_AUTH_URL"], &["os_auth_url"]),
    rule("swift", &["OS_USERNAME"], &["os_username"]),
    rule("swift", &["OS_PROJECT_NAME", "OS_TENANT_NAME"], &["os_project_name"]),
    rule("swift", &["OS_USER_DOMAIN_NAME"], &["os_user_domain_name"]),
    rule("swift", &["OS_PROJECT_DOMAIN_NAME"], &["os_project_domain_name"]),
    rule("swift", &["OS_PROJECT_ID", "OS_TENANT_ID"], &["os_project_id"]),
    rule("swift", &["OS_USER_ID"], &["os_user_id"]),
    rule("swift", &["OS_USER_DOMAIN_ID"], &["os_user_domain_id"]),
    rule("swift", &["OS_PROJECT_DOMAIN_ID"], &["os_project_domain_id"]),
    rule(
        "swift",
        &["OS_APPLICATION_CREDENTIAL_ID"],
        &["os_application_credential_id"],
    ),
    path("swift", &["OS_CACERT"], &["os_cacert", "ca_cert_file"]),
    rule("swift", &["OS_REGION_NAME"], &["os_region_name"]),
    endpoint("swift", &["OS_STORAGE_URL"], &["os_storage_url"]),
    endpoint("swift", &["ST_AUTH"], &["st_auth"]),
    rule("swift", &["ST_USER"], &["st_user"]),
    path("sftp", &["SSH_PRIVATE_KEY_PATH"], &["sftp_private_key_path"]),
    path("sftp", &["SSH_KNOWN_HOSTS"], &["sftp_known_hosts"]),
    // For the URL, which has places for them.
    rule("sftp", &["SSH_USERNAME"], &[]),
    rule("sftp", &["SSH_PORT"], &[]),
];

/// The variables that core takes from the environment by itself, as they hold secrets or belong to one process only.
pub(super) const SECRETS: [(&str, &[&str]); 5] = [
    (
        "s3",
        &[
            "AWS_ACCESS_KEY_ID",
            "AWS_SECRET_ACCESS_KEY",
            "AWS_SESSION_TOKEN",
            "WALG_S3_SSE_C",
        ],
    ),
    ("gs", &[]),
    (
        "az",
        &[
            "AZURE_STORAGE_ACCESS_KEY",
            "AZURE_STORAGE_KEY",
            "AZURE_STORAGE_SAS_TOKEN",
        ],
    ),
    ("swift", &["OS_PASSWORD", "OS_APPLICATION_CREDENTIAL_SECRET", "ST_KEY"]),
    ("sftp", &["SSH_PASSWORD", "SSH_PRIVATE_KEY_PASSPHRASE"]),
];

fn as_it_is(value: &str) -> Option<String> {
    Some(value.to_owned())
}

/// WAL-G takes an endpoint without a scheme.
fn with_scheme(value: &str) -> Option<String> {
    Some(match value.contains("://") {
        true => value.to_owned(),
        false => format!("https://{value}"),
    })
}

/// A restore_command runs in another directory.
fn absolute(value: &str) -> Option<String> {
    std::path::absolute(value).ok()?.into_os_string().into_string().ok()
}

pub(super) fn opposite(value: &str) -> Option<String> {
    match value.to_ascii_lowercase().as_str() {
        "true" | "1" | "t" => Some("false".to_owned()),
        "false" | "0" | "f" => Some("true".to_owned()),
        _ => None,
    }
}
