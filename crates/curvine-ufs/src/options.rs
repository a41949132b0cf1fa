//! The names under which options of a store are known.
//!
//! Always: whatever may be a credential, also under a name that nobody knows, counts as one.

use std::collections::BTreeMap;
use std::sync::Arc;

use curvine_types::units::parse_duration;
use curvine_types::{Error, ErrorKind, Result, Secret};

use crate::Policy;
use crate::kinds::{Kind, Known, kind_of};

/// Whether the value of an option that no table has must not be shown.
fn is_suspicious(name: &str) -> bool {
    let lower = name.to_ascii_lowercase();
    let suspicious = ["secret", "token", "password", "passwd", "credential", "access", "private", "sas"];
    suspicious.iter().any(|part| lower.contains(part))
}

/// Parts options of the store at `url` into those that may be shown and those that may not; known names become the option's
/// own name.
pub fn split_secrets(
    url: &str,
    options: BTreeMap<String, String>,
) -> (BTreeMap<String, String>, BTreeMap<String, Secret>) {
    let kind = kind_of(url);
    let mut open = BTreeMap::new();
    let mut secrets = BTreeMap::new();
    for (name, value) in options {
        let known = kind.and_then(|kind| kind.option(&name));
        let own = known.map_or(name.clone(), |option| option.name.to_string());
        if known.map_or_else(|| is_suspicious(&name), |option| option.secret) {
            secrets.insert(own, Secret::new(value));
        } else {
            open.insert(own, value);
        }
    }
    (open, secrets)
}

/// What was given to a store, by the options' own names.
#[allow(dead_code, reason = "a build may have no store that asks for all of it")]
pub(crate) struct Options {
    values: BTreeMap<&'static str, String>,
    /// Names that the kind hands on, with their values.
    pub(crate) passed: BTreeMap<String, String>,
    /// Values that no message may show.
    pub(crate) secrets: Arc<[Secret]>,
}

#[allow(dead_code, reason = "a build may have no store that asks for all of it")]
impl Options {
    /// The empty ones are left out. An unknown name is an error that lists the known ones; its value is not shown.
    pub(crate) fn new(
        kind: &'static Kind,
        options: &BTreeMap<String, String>,
        secrets: &BTreeMap<String, Secret>,
    ) -> Result<Self> {
        let all = options.iter().map(|(name, value)| (name, Secret::new(value.trim())));
        let all = all.chain(secrets.iter().map(|(name, value)| (name, value.clone())));
        let (mut values, mut passed, mut hidden) = (BTreeMap::new(), BTreeMap::new(), Vec::new());
        for (name, value) in all {
            let text = std::str::from_utf8(value.expose()).map_err(|_| {
                Error::new(ErrorKind::Config, "an option of the under file system is not text").with("option", name)
            })?;
            let text = text.trim().to_string();
            let Some(option) = kind.option(name) else {
                if !kind.passes(name) {
                    return Err(unknown(name, kind));
                }
                if secrets.contains_key(name) && !text.is_empty() {
                    hidden.push(value);
                }
                passed.insert(name.clone(), text);
                continue;
            };
            if text.is_empty() {
                continue;
            }
            if option.secret {
                hidden.push(value);
            }
            if values.insert(option.name, text).is_some() {
                return Err(Error::new(ErrorKind::Config, "an option of the under file system is given twice")
                    .with("option", option.name));
            }
        }
        Ok(Self { values, passed, secrets: hidden.into() })
    }

    pub(crate) fn values(&self) -> &BTreeMap<&'static str, String> {
        &self.values
    }

    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(String::as_str)
    }

    /// An option that is true or false.
    pub(crate) fn flag(&self, name: &str) -> Result<Option<bool>> {
        match self.get(name) {
            None => Ok(None),
            Some("true" | "1" | "yes") => Ok(Some(true)),
            Some("false" | "0" | "no") => Ok(Some(false)),
            Some(_) => Err(Error::new(ErrorKind::Config, "an option must be true or false").with("option", name)),
        }
    }

    /// The address of an HTTP service; one without a scheme is taken as it is.
    pub(crate) fn endpoint(&self) -> Result<Option<&str>> {
        let endpoint = self.get("endpoint_url");
        let other = endpoint.and_then(|endpoint| endpoint.split_once("://"));
        if other.is_some_and(|(scheme, _)| scheme != "http" && scheme != "https") {
            return Err(Error::new(ErrorKind::Config, "endpoint_url must begin with http:// or https://")
                .with("endpoint_url", endpoint.unwrap_or_default()));
        }
        Ok(endpoint)
    }

    /// Access, secret and session token, which come together or not at all.
    pub(crate) fn keys(&self) -> Result<Option<(&str, &str, Option<&str>)>> {
        let config = |message: &str| Err(Error::new(ErrorKind::Config, message));
        match (self.get("access"), self.get("secret"), self.get("session_token")) {
            (Some(access), Some(secret), token) => Ok(Some((access, secret, token))),
            (None, None, None) => Ok(None),
            (None, None, Some(_)) => config("a session token needs access and secret"),
            _ => config("access and secret must be given together"),
        }
    }

    /// Whether requests are to carry no credentials.
    pub(crate) fn anonymous(&self) -> Result<bool> {
        let anonymous = self.flag("anonymous")?.unwrap_or(false);
        if anonymous && !self.secrets.is_empty() {
            return Err(Error::new(ErrorKind::Config, "anonymous access takes no credentials"));
        }
        Ok(anonymous)
    }
}

/// The policy as the options of a mount change it.
pub(crate) fn policy_of(options: &Options, mut policy: Policy) -> Result<Policy> {
    let wrong = |name: &str, value: &str| {
        Error::new(ErrorKind::Config, "malformed option of the under file system")
            .with("option", name)
            .with("have", value)
    };
    let duration = |name: &str| {
        let parsed =
            options.get(name).map(|value| parse_duration(value).map_err(|error| wrong(name, value).caused_by(error)));
        parsed.transpose()
    };
    if let Some(value) = options.get("retry_times") {
        policy.retries = value.parse().map_err(|_| wrong("retry_times", value))?;
    }
    policy.connect_timeout = duration("connect_timeout")?.unwrap_or(policy.connect_timeout);
    // What a reader waits for altogether is not the store's to say.
    policy.attempt_timeout = duration("read_timeout")?.map_or(policy.attempt_timeout, |time| time.min(policy.timeout));
    Ok(policy)
}

/// The error for a name that means nothing.
fn unknown(name: &str, kind: &Kind) -> Error {
    let own = kind.options.iter().map(|Known { name, .. }| name.to_string());
    let known = own.chain(kind.passes.iter().map(|prefix| format!("{prefix}*"))).collect::<Vec<_>>().join(" ");
    let known = if known.is_empty() { "none".to_string() } else { known };
    Error::new(ErrorKind::Config, "unknown option of the under file system").with("option", name).with("known", known)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect()
    }

    #[test]
    fn every_spelling_of_an_option_is_known() {
        for (spelling, own) in [
            ("s3.endpoint_url", "endpoint_url"),
            ("endpoint_url", "endpoint_url"),
            ("s3.region", "region_name"),
            ("s3.path_style", "path_style"),
            ("s3.retry_times", "retry_times"),
            ("connect-timeout", "connect_timeout"),
            ("s3.force.path.style", "path_style"),
        ] {
            let (open, secrets) = split_secrets("s3://b", map(&[(spelling, "v")]));
            assert_eq!((open.get(own).map(String::as_str), secrets.len()), (Some("v"), 0), "{spelling}");
        }
        for (spelling, own) in [
            ("s3.credentials.access", "access"),
            ("access-key", "access"),
            ("s3.access_key", "access"),
            ("secret", "secret"),
            ("secret-key", "secret"),
            ("S3.Secret_Key", "secret"),
            ("session_token", "session_token"),
        ] {
            let (open, secrets) = split_secrets("s3://b", map(&[(spelling, "v")]));
            assert!(open.is_empty() && secrets.contains_key(own), "{spelling}");
        }
    }

    fn parsed(url: &str, pairs: &[(&str, &str)]) -> Result<Options> {
        let (open, secrets) = split_secrets(url, map(pairs));
        Options::new(kind_of(url).unwrap(), &open, &secrets)
    }

    #[test]
    fn retries_and_timeouts_of_a_mount_are_its_own() {
        let policy = Policy::default();
        let changed = |pairs: &[(&str, &str)]| policy_of(&parsed("s3://b", pairs).unwrap(), policy);
        let own = changed(&[("s3.retry_times", "7"), ("read_timeout", "3s")]).unwrap();
        assert_eq!((own.retries, own.attempt_timeout.as_secs()), (7, 3));
        assert_eq!(changed(&[("read_timeout", "1h")]).unwrap().attempt_timeout, policy.timeout);
        assert!(changed(&[("retry_times", "many")]).unwrap_err().to_string().contains("retry_times"));
    }

    #[test]
    fn an_unknown_name_that_smells_of_a_credential_is_one() {
        for url in ["s3://b", "gopher://b"] {
            let (open, secrets) = split_secrets(url, map(&[("oss.accessKeySecret", "v"), ("color", "red")]));
            assert_eq!((open.len(), secrets.len()), (1, 1));
            assert!(open.contains_key("color"));
        }
    }

    #[test]
    fn every_kind_knows_its_credentials_under_all_their_names() {
        for (url, name, own) in [
            ("oss://b/p", "oss.accessKeyId", "access"),
            ("oss://b/p", "oss.accessKeySecret", "secret"),
            ("cos://b", "cos.credentials.secret", "secret"),
            ("cosn://b", "secret_id", "access"),
            ("gs://b", "gcs.service_account", "service_account"),
            ("azblob://c", "azure.account_key", "account_key"),
            ("az://c", "azblob.sas_token", "sas_token"),
            ("webhdfs://h:1", "webhdfs.delegation", "delegation"),
        ] {
            let (open, secrets) = split_secrets(url, map(&[(name, "v")]));
            assert!(open.is_empty() && secrets.contains_key(own), "{url} {name}");
        }
        let (open, secrets) =
            split_secrets("hdfs://ns", map(&[("hdfs.kerberos.keytab", "/k"), ("dfs.nameservices", "ns")]));
        assert_eq!((open.len(), secrets.len()), (2, 0));
    }

    #[test]
    fn what_belongs_to_hadoop_is_handed_on_and_nothing_else() {
        let options = parsed("hdfs://ns/p", &[("dfs.ha.namenodes.ns", "a,b"), ("hdfs.user", "u")]).unwrap();
        assert_eq!(options.passed, map(&[("dfs.ha.namenodes.ns", "a,b")]));
        assert_eq!(options.get("user"), Some("u"));
        let error = parsed("hdfs://ns/p", &[("colour", "r3d")]).err().unwrap().to_string();
        assert!(error.contains("kerberos.keytab") && error.contains("dfs.*") && !error.contains("r3d"), "{error}");
    }

    #[test]
    fn an_unknown_option_lists_the_known_ones_and_hides_its_value() {
        let error = parsed("s3://b", &[("colour", "r3d")]).err().unwrap().to_string();
        assert!(error.contains("colour") && error.contains("endpoint_url") && !error.contains("r3d"), "{error}");
        let error = parsed("file:///x", &[("colour", "r3d")]).err().unwrap().to_string();
        assert!(error.contains("known=none"), "{error}");
    }

    #[test]
    fn an_option_under_two_names_is_refused_and_an_empty_one_is_not_there() {
        let (s3, none) = (kind_of("s3://b").unwrap(), BTreeMap::new());
        let twice = Options::new(s3, &map(&[("s3.region", "a"), ("region_name", "b")]), &none);
        assert!(twice.err().unwrap().to_string().contains("twice"));
        assert_eq!(parsed("s3://b", &[("region_name", "")]).unwrap().get("region_name"), None);
    }
}
