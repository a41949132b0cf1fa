//! The names under which options of a store are known.
//!
//! Always: whatever may be a credential, also under a name that nobody knows, counts as one.

use std::collections::BTreeMap;

use curvine_types::units::parse_duration;
use curvine_types::{Error, ErrorKind, Result, Secret};

use crate::Policy;

/// An option of S3: its own name, its other names, whether it is a credential.
pub(crate) struct Known {
    pub(crate) name: &'static str,
    others: &'static [&'static str],
    secret: bool,
}

/// Every option, each also accepted with `s3.` before it.
#[rustfmt::skip]
pub(crate) const S3_OPTIONS: [Known; 11] = [
    Known { name: "endpoint_url", others: &["endpoint", "endpoint-url"], secret: false },
    Known { name: "region_name", others: &["region", "region-name"], secret: false },
    Known { name: "path_style", others: &["force.path.style", "force_path_style", "force-path-style", "path-style", "path.style.access"], secret: false },
    Known { name: "list_objects_version", others: &[], secret: false },
    Known { name: "retry_times", others: &["retry-times", "retries"], secret: false },
    Known { name: "connect_timeout", others: &["connect-timeout"], secret: false },
    Known { name: "read_timeout", others: &["read-timeout"], secret: false },
    Known { name: "anonymous", others: &["allow_anonymous"], secret: false },
    Known { name: "access", others: &["credentials.access", "access_key", "access-key", "access_key_id"], secret: true },
    Known { name: "secret", others: &["credentials.secret", "secret_key", "secret-key", "secret_access_key"], secret: true },
    Known { name: "session_token", others: &["credentials.session_token", "session-token", "credentials.token"], secret: true },
];

fn known(name: &str) -> Option<&'static Known> {
    let name = name.trim().to_ascii_lowercase();
    let bare = name.strip_prefix("s3.").unwrap_or(&name);
    S3_OPTIONS.iter().find(|option| option.name == bare || option.others.contains(&bare))
}

/// Whether the option's value must not be shown.
fn is_secret(name: &str) -> bool {
    let lower = name.to_ascii_lowercase();
    let suspicious = ["secret", "token", "password", "passwd", "credential", "access", "private", "sas"];
    known(name).map_or_else(|| suspicious.iter().any(|part| lower.contains(part)), |option| option.secret)
}

/// Parts options into those that may be shown and those that may not; known names become the option's own name.
pub fn split_secrets(options: BTreeMap<String, String>) -> (BTreeMap<String, String>, BTreeMap<String, Secret>) {
    let mut open = BTreeMap::new();
    let mut secrets = BTreeMap::new();
    for (name, value) in options {
        let own = known(&name).map_or(name.clone(), |option| option.name.to_string());
        if is_secret(&name) {
            secrets.insert(own, Secret::new(value));
        } else {
            open.insert(own, value);
        }
    }
    (open, secrets)
}

/// The policy as the options of a mount change it.
pub(crate) fn policy_of(options: &BTreeMap<String, String>, mut policy: Policy) -> Result<Policy> {
    let wrong = |name: &str, value: &str| {
        Error::new(ErrorKind::Config, "malformed option of the under file system")
            .with("option", name)
            .with("have", value)
    };
    for (name, value) in options {
        let (Some(option), value) = (known(name), value.trim()) else { continue };
        let duration = || parse_duration(value).map_err(|error| wrong(name, value).caused_by(error));
        match option.name {
            _ if value.is_empty() => {}
            "retry_times" => policy.retries = value.parse().map_err(|_| wrong(name, value))?,
            "connect_timeout" => policy.connect_timeout = duration()?,
            // What a reader waits for altogether is not the store's to say.
            "read_timeout" => policy.attempt_timeout = duration()?.min(policy.timeout),
            _ => {}
        }
    }
    Ok(policy)
}

/// Options by their own names, the empty ones left out. An unknown name is an error that lists the known ones; its value is
/// not shown.
pub(crate) fn s3_options(
    options: &BTreeMap<String, String>,
    secrets: &BTreeMap<String, Secret>,
) -> Result<BTreeMap<&'static str, Secret>> {
    let all = options.iter().map(|(name, value)| (name, Secret::new(value.trim())));
    let all = all.chain(secrets.iter().map(|(name, value)| (name, value.clone())));
    let mut found = BTreeMap::new();
    for (name, value) in all {
        let option = known(name).ok_or_else(|| unknown(name, S3_OPTIONS.iter().map(|option| option.name)))?;
        if value.is_empty() {
            continue;
        }
        if found.insert(option.name, value).is_some() {
            return Err(Error::new(ErrorKind::Config, "an option of the under file system is given twice")
                .with("option", option.name));
        }
    }
    Ok(found)
}

/// The error for a name that means nothing.
pub(crate) fn unknown<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Error {
    let known = known.collect::<Vec<_>>().join(" ");
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
            let (open, secrets) = split_secrets(map(&[(spelling, "v")]));
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
            let (open, secrets) = split_secrets(map(&[(spelling, "v")]));
            assert!(open.is_empty() && secrets.contains_key(own), "{spelling}");
        }
    }

    #[test]
    fn retries_and_timeouts_of_a_mount_are_its_own() {
        let policy = Policy::default();
        let changed = policy_of(&map(&[("s3.retry_times", "7"), ("read_timeout", "3s"), ("x", "y")]), policy).unwrap();
        assert_eq!((changed.retries, changed.attempt_timeout.as_secs()), (7, 3));
        assert_eq!(policy_of(&map(&[("read_timeout", "1h")]), policy).unwrap().attempt_timeout, policy.timeout);
        assert!(policy_of(&map(&[("retry_times", "many")]), policy).unwrap_err().to_string().contains("retry_times"));
    }

    #[test]
    fn an_unknown_name_that_smells_of_a_credential_is_one() {
        let (open, secrets) = split_secrets(map(&[("oss.accessKeySecret", "v"), ("color", "red")]));
        assert_eq!((open.len(), secrets.len()), (1, 1));
        assert!(open.contains_key("color"));
    }

    #[test]
    fn an_unknown_option_lists_the_known_ones_and_hides_its_value() {
        let error = s3_options(&map(&[("colour", "r3d")]), &BTreeMap::new()).unwrap_err().to_string();
        assert!(error.contains("colour") && error.contains("endpoint_url") && !error.contains("r3d"), "{error}");
    }

    #[test]
    fn an_option_under_two_names_is_refused_and_an_empty_one_is_not_there() {
        let twice = s3_options(&map(&[("s3.region", "a"), ("region_name", "b")]), &BTreeMap::new());
        assert!(twice.unwrap_err().to_string().contains("twice"));
        assert!(s3_options(&map(&[("region_name", "")]), &BTreeMap::new()).unwrap().is_empty());
    }
}
