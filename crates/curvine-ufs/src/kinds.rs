//! The kinds of under file systems: their schemes, the cargo feature that has them, and the names of their options.
//!
//! Always: the table knows all kinds, also those that are not built in, so that their options are understood and their
//! credentials are kept secret wherever a mount is typed.

/// An option: its own name, its other names, whether it is a credential.
pub(crate) struct Known {
    pub(crate) name: &'static str,
    pub(crate) others: &'static [&'static str],
    pub(crate) secret: bool,
}

/// One kind of store.
pub(crate) struct Kind {
    /// What a url begins with; the first one is its own name.
    pub(crate) schemes: &'static [&'static str],
    /// The cargo feature that builds it in; empty: it always is.
    pub(crate) feature: &'static str,
    /// What may stand before each option.
    pub(crate) prefixes: &'static [&'static str],
    pub(crate) options: &'static [Known],
    /// Names that begin so are handed on as they are.
    pub(crate) passes: &'static [&'static str],
}

impl Kind {
    pub(crate) fn name(&self) -> &'static str {
        self.schemes[0]
    }

    /// The option of that name, in lower case and with or without a prefix.
    pub(crate) fn option(&self, name: &str) -> Option<&'static Known> {
        let name = name.trim().to_ascii_lowercase();
        let bare = self.prefixes.iter().find_map(|prefix| name.strip_prefix(prefix)).unwrap_or(&name);
        self.options.iter().find(|option| option.name == bare || option.others.contains(&bare))
    }

    pub(crate) fn passes(&self, name: &str) -> bool {
        self.passes.iter().any(|prefix| name.starts_with(prefix))
    }
}

const fn open(name: &'static str, others: &'static [&'static str]) -> Known {
    Known { name, others, secret: false }
}

const fn secret(name: &'static str, others: &'static [&'static str]) -> Known {
    Known { name, others, secret: true }
}

const ENDPOINT: Known = open("endpoint_url", &["endpoint", "endpoint-url"]);
const REGION: Known = open("region_name", &["region", "region-name"]);
const ANONYMOUS: Known = open("anonymous", &["allow_anonymous"]);
const RETRIES: Known = open("retry_times", &["retry-times", "retries"]);
const CONNECT: Known = open("connect_timeout", &["connect-timeout"]);
const READ: Known = open("read_timeout", &["read-timeout"]);
const USER: Known = open("user", &["user.name", "user_name", "username"]);
const ROOT: Known = open("root", &[]);
const ATOMIC: Known = open("atomic_write_dir", &[]);

const PATH_STYLE: Known = open(
    "path_style",
    &["force.path.style", "force_path_style", "force-path-style", "path-style", "path.style.access"],
);

#[rustfmt::skip]
const S3: &[Known] = &[
    ENDPOINT, REGION, PATH_STYLE,
    open("list_objects_version", &[]),
    RETRIES, CONNECT, READ, ANONYMOUS,
    secret("access", &["credentials.access", "access_key", "access-key", "access_key_id"]),
    secret("secret", &["credentials.secret", "secret_key", "secret-key", "secret_access_key"]),
    secret("session_token", &["credentials.session_token", "session-token", "credentials.token"]),
];

#[rustfmt::skip]
const HDFS: &[Known] = &[
    open("namenode", &[]), ROOT, USER, ATOMIC,
    open("conf_dir", &["hadoop_conf_dir", "config_dir"]),
    open("kerberos.principal", &["kerberos_principal"]),
    // Names of files, not what is in them.
    open("kerberos.keytab", &["kerberos_keytab"]),
    open("kerberos.ccache", &["kerberos.cache", "kerberos_ccache", "kerberos_ticket_cache_path"]),
    open("kerberos.krb5_conf", &["kerberos_krb5_conf"]),
    RETRIES, CONNECT, READ,
];

#[rustfmt::skip]
const WEBHDFS: &[Known] = &[
    ENDPOINT, ROOT, USER, ATOMIC,
    secret("delegation", &["delegation_token"]),
    RETRIES, CONNECT, READ,
];

#[rustfmt::skip]
const OSS: &[Known] = &[
    ENDPOINT, REGION, PATH_STYLE,
    open("data.endpoint", &[]),
    open("second.level.domain.enable", &[]),
    open("data.lake.storage.enable", &[]),
    RETRIES, CONNECT, READ, ANONYMOUS,
    secret("access", &["credentials.access", "accesskeyid", "access_key", "access-key", "access_key_id"]),
    secret("secret", &["credentials.secret", "accesskeysecret", "secret_key", "secret-key", "access_key_secret", "secret_access_key"]),
    secret("session_token", &["credentials.session_token", "session-token", "credentials.token", "security_token", "securitytoken"]),
];

#[rustfmt::skip]
const COS: &[Known] = &[
    ENDPOINT, REGION, RETRIES, CONNECT, READ,
    secret("access", &["credentials.access", "secret_id", "secretid", "access_key", "access-key", "access_key_id"]),
    secret("secret", &["credentials.secret", "secret_key", "secretkey", "secret-key", "secret_access_key"]),
    secret("session_token", &["credentials.session_token", "session-token", "credentials.token", "security_token"]),
];

#[rustfmt::skip]
const GCS: &[Known] = &[
    ENDPOINT, RETRIES, CONNECT, READ, ANONYMOUS,
    open("credential_path", &["credentials_path", "service_account_file", "google_application_credentials"]),
    open("scope", &[]),
    secret("service_account", &["credential", "credentials", "service_account_key", "credentials.json"]),
    secret("token", &["access_token"]),
];

#[rustfmt::skip]
const AZBLOB: &[Known] = &[
    ENDPOINT, RETRIES, CONNECT, READ, ANONYMOUS,
    open("account_name", &["account"]),
    secret("account_key", &["access_key", "credentials.secret"]),
    secret("sas_token", &["sas"]),
];

#[rustfmt::skip]
pub(crate) static KINDS: &[Kind] = &[
    Kind { schemes: &["file"], feature: "", prefixes: &[], options: &[], passes: &[] },
    Kind { schemes: &["s3", "s3a"], feature: "s3", prefixes: &["s3."], options: S3, passes: &[] },
    Kind { schemes: &["hdfs", "viewfs"], feature: "hdfs", prefixes: &["hdfs."], options: HDFS, passes: &["dfs.", "hadoop.", "fs.", "ipc."] },
    Kind { schemes: &["webhdfs", "swebhdfs"], feature: "webhdfs", prefixes: &["webhdfs.", "hdfs."], options: WEBHDFS, passes: &[] },
    Kind { schemes: &["oss"], feature: "oss", prefixes: &["oss.", "fs.oss."], options: OSS, passes: &[] },
    Kind { schemes: &["cos", "cosn"], feature: "cos", prefixes: &["cos."], options: COS, passes: &[] },
    Kind { schemes: &["gcs", "gs"], feature: "gcs", prefixes: &["gcs.", "gs."], options: GCS, passes: &[] },
    Kind { schemes: &["azblob", "az"], feature: "azblob", prefixes: &["azblob.", "azure."], options: AZBLOB, passes: &[] },
];

/// The kind of store that a url names.
pub(crate) fn kind_of(url: &str) -> Option<&'static Kind> {
    let (scheme, _) = url.split_once("://")?;
    KINDS.iter().find(|kind| kind.schemes.contains(&scheme))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_option_stands_in_the_documentation() {
        let text = include_str!("../../../docs/STORES.md");
        for kind in KINDS {
            assert!(text.contains(&format!("`{}://", kind.name())), "{}", kind.name());
            assert!(kind.feature.is_empty() || text.contains(&format!("`{}`", kind.feature)));
            let missing = kind.options.iter().find(|option| !text.contains(&format!("`{}`", option.name)));
            assert!(missing.is_none(), "{} {}", kind.name(), missing.map_or("", |option| option.name));
        }
    }

    #[test]
    fn no_name_means_two_options_and_no_scheme_two_kinds() {
        let mut schemes = BTreeSet::new();
        for kind in KINDS {
            assert!(kind.schemes.iter().all(|scheme| schemes.insert(*scheme)));
            let mut names = BTreeSet::new();
            for option in kind.options {
                for name in option.others.iter().chain([&option.name]) {
                    assert!(names.insert(*name) && *name == name.to_ascii_lowercase(), "{} {name}", kind.name());
                }
            }
        }
    }
}
