//! From the options of class, runtime and component, which are texts, to keys of the config.
//!
//! An option is `section.key`, or a key of the component's own sections. Always: what means nothing is a warning that names it
//! and the nearest known key; a value that its key cannot take is an error; no value is ever shown.

use std::collections::BTreeMap;

use curvine_config::{ClusterConf, SetText};
use curvine_types::{Error, ErrorKind, Result};

use crate::identity::Component;

/// Where a bare key of a component is looked for, in this order.
fn sections(component: Component) -> &'static [&'static str] {
    match component {
        Component::Master => &["master", "journal", "", "security", "log"],
        Component::Worker => &["worker", "", "security", "log"],
        Component::Client => &["fuse", "client", "", "security", "log"],
    }
}

const ALL_SECTIONS: [&str; 9] = ["", "master", "journal", "worker", "client", "fuse", "log", "cli", "security"];

/// Names that manifests of the existing image use.
fn known_by(component: Component, name: &str, text: &str) -> Option<(&'static str, &'static str, String)> {
    match (component, name) {
        (Component::Master, "journal_port" | "raft_port") => Some(("journal", "rpc_port", text.to_string())),
        (Component::Master, "master_port") => Some(("master", "rpc_port", text.to_string())),
        (Component::Worker, "worker_port") => Some(("worker", "rpc_port", text.to_string())),
        (_, "debug") if text == "true" => Some(("log", "level", "debug".to_string())),
        (_, "debug") if text == "false" => Some(("log", "level", "info".to_string())),
        _ => None,
    }
}

/// Sets what `options` say for `component`; warnings are added to.
pub fn apply(
    conf: &mut ClusterConf,
    component: Component,
    options: &BTreeMap<String, String>,
    warnings: &mut Vec<String>,
) -> Result<()> {
    for (name, text) in options {
        let text = text.trim();
        let outcome = match known_by(component, name, text) {
            Some((section, key, text)) => conf.set_text(section, key, &text),
            None => match name.rsplit_once('.') {
                Some((section, key)) => conf.set_text(section, key, text),
                None => set_bare(conf, component, name, text),
            },
        };
        match outcome {
            SetText::Done => {}
            SetText::Retired(why) => warnings.push(format!("option {name} has no effect: {why}")),
            SetText::Unknown(near) => {
                let hint = near.map(|near| format!(", did you mean {near}?")).unwrap_or_default();
                warnings.push(format!("unknown option {name} of the {} is ignored{hint}", component.name()));
            }
            SetText::Malformed(expected) => {
                return Err(Error::new(ErrorKind::Config, format!("malformed option, expected {expected}"))
                    .with("option", name)
                    .with("component", component.name()));
            }
        }
    }
    Ok(())
}

fn set_bare(conf: &mut ClusterConf, component: Component, name: &str, text: &str) -> SetText {
    let mut best = SetText::Unknown(None);
    for section in sections(component) {
        match conf.set_text(section, name, text) {
            SetText::Unknown(near) => {
                if matches!(best, SetText::Unknown(None)) {
                    best = SetText::Unknown(near);
                }
            }
            SetText::Retired(why) => best = SetText::Retired(why),
            done_or_malformed => return done_or_malformed,
        }
    }
    // Options of the whole runtime come to every component: one that means something to another is no mistake.
    let elsewhere = |section: &&&str| conf.keys().iter().any(|info| info.section == **section && info.name == name);
    if matches!(best, SetText::Unknown(_)) && ALL_SECTIONS.iter().any(|section| elsewhere(&section)) {
        return SetText::Done;
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(component: Component, pairs: &[(&str, &str)]) -> (ClusterConf, Vec<String>) {
        let mut conf = ClusterConf::default();
        let options = pairs.iter().map(|(name, text)| (name.to_string(), text.to_string())).collect();
        let mut warnings = Vec::new();
        apply(&mut conf, component, &options, &mut warnings).unwrap();
        (conf, warnings)
    }

    #[test]
    fn numbers_come_as_texts_and_are_read_by_their_keys() {
        let (conf, warnings) = set(
            Component::Master,
            &[("rpc_port", "9995"), ("journal_port", "9996"), ("lease_time", "5s"), ("client.rpc_timeout_ms", "1500")],
        );
        assert_eq!((conf.master.rpc_port, conf.journal.rpc_port), (9995, 9996));
        assert_eq!(conf.client.rpc_timeout_ms.as_millis(), 1500);
        assert!(warnings.is_empty(), "{warnings:?}");
        let (conf, _) = set(Component::Worker, &[("rpc_port", "9997"), ("disk_threads", "16")]);
        assert_eq!((conf.worker.rpc_port, conf.worker.disk_threads), (9997, 16));
    }

    #[test]
    fn options_of_the_client_reach_the_mount() {
        let (conf, warnings) = set(Component::Client, &[("io_threads", "3"), ("debug", "true"), ("cached_names", "7")]);
        assert_eq!((conf.fuse.io_threads, conf.log.level.as_str(), conf.client.cached_names), (3, "debug", 7));
        assert!(warnings.is_empty());
    }

    #[test]
    fn what_means_nothing_is_named_with_the_nearest_known_key() {
        let (_, warnings) =
            set(Component::Master, &[("rpc_prot", "1"), ("format_master", "true"), ("audit_logging_enabled", "true")]);
        assert!(warnings.iter().any(|line| line.contains("rpc_prot") && line.contains("rpc_port?")), "{warnings:?}");
        assert!(warnings.iter().any(|line| line.contains("format_master") && line.contains("never")
            || line.contains("nothing is ever formatted")));
        assert!(warnings.iter().any(|line| line.contains("audit_logging_enabled")));
    }

    #[test]
    fn an_option_of_the_whole_runtime_that_another_component_knows_is_no_mistake() {
        let (conf, warnings) = set(Component::Master, &[("disk_threads", "16")]);
        assert!(warnings.is_empty(), "{warnings:?}");
        assert_eq!(conf.worker.disk_threads, ClusterConf::default().worker.disk_threads);
    }

    #[test]
    fn a_malformed_value_is_an_error_that_does_not_show_it() {
        let options = BTreeMap::from([("rpc_port".to_string(), "s3cr3t".to_string())]);
        let error = apply(&mut ClusterConf::default(), Component::Master, &options, &mut Vec::new()).unwrap_err();
        assert!(error.to_string().contains("rpc_port") && !error.to_string().contains("s3cr3t"), "{error}");
    }
}
