//! A config that is put together by a program: keys set from text, as other systems know no types, and facts that are added
//! between the file and the environment.

use std::borrow::Cow;
use std::path::Path;

use curvine_types::Result;
use toml::de::{DeTable, DeValue};

use crate::conf::ClusterConf;
use crate::environment::{self, CONF_FILE_VARIABLE};
use crate::file::suggestion;
use crate::retired::{self, Fate};

/// What became of a key that was set from text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SetText {
    Done,
    /// The key is known and has no effect any more; why.
    Retired(&'static str),
    /// There is no such key in the section; the nearest known one.
    Unknown(Option<String>),
    /// The key is there, the value is not what it takes; what it expects.
    Malformed(String),
}

impl ClusterConf {
    /// As `load`, with `amend` after the file and before the environment: what it sets holds unless the environment says
    /// otherwise. It may add warnings.
    pub fn load_with(
        path: Option<&Path>,
        amend: impl FnOnce(&mut Self, &mut Vec<String>) -> Result<()>,
    ) -> Result<(Self, Vec<String>)> {
        let environment = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let named = path.map(Path::to_path_buf).or_else(|| environment(CONF_FILE_VARIABLE).map(Into::into));
        let (mut conf, mut warnings) = match &named {
            Some(path) => Self::read_file(path)?,
            None => Default::default(),
        };
        amend(&mut conf, &mut warnings)?;
        warnings.extend(conf.apply_environment(environment)?);
        conf.fill_addresses();
        conf.validate()?;
        Ok((conf, warnings))
    }

    /// Sets a key from text, as its own type reads it: `8995`, `true`, `128MB`; lists as in TOML or separated by commas.
    pub fn set_text(&mut self, section: &str, key: &str, text: &str) -> SetText {
        let Some(known) = self.section(section) else {
            let names: Vec<&str> = self.sections().iter().map(|section| section.name()).collect();
            return SetText::Unknown(nearest(section, &names));
        };
        let plain = DeValue::String(Cow::Borrowed(text));
        let expected = match known.set(key, &plain) {
            Some(Ok(())) => return SetText::Done,
            Some(Err(expected)) => expected,
            None => {
                if let Some(Fate::Warn(why) | Fate::MustBeFalse(why)) = retired::fate(section, key) {
                    return SetText::Retired(why);
                }
                let infos = known.infos();
                let names: Vec<&str> = infos.iter().map(|info| info.name).collect();
                return SetText::Unknown(nearest(key, &names));
            }
        };
        let list = text.split(',').map(|item| toml::Value::String(item.trim().to_string()).to_string());
        let literals = [text.to_string(), format!("[{}]", list.collect::<Vec<_>>().join(", "))];
        for literal in literals {
            let document = format!("x = {literal}");
            let Ok(table) = DeTable::parse(&document) else { continue };
            let Some(value) = table.get_ref().get("x") else { continue };
            if let Some(Ok(())) = known.set(key, value.get_ref()) {
                return SetText::Done;
            }
        }
        SetText::Malformed(expected)
    }
}

fn nearest(name: &str, known: &[&str]) -> Option<String> {
    suggestion(name, known).strip_prefix(", did you mean ").and_then(|rest| rest.strip_suffix('?')).map(str::to_string)
}

/// Whether the process runs under Fluid, which tells each component where its runtime's file is.
pub fn runs_under_fluid() -> bool {
    std::env::var_os(environment::FLUID_VARIABLE).is_some_and(|path| !path.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_set_from_text_by_its_own_type() {
        let mut conf = ClusterConf::default();
        for (section, key, text) in [
            ("master", "rpc_port", "9100"),
            ("worker", "memory_limit", "1.5GB"),
            ("worker", "data_dir", "[SSD:1GB]/a, /b"),
            ("client", "rpc_timeout_ms", "1500"),
            ("client", "master_addrs", "[\"m0:1\", \"m1:2\"]"),
            ("fuse", "clone_fd", "false"),
            ("fuse", "fuse_opts", "ro,nosuid"),
            ("", "cluster_id", "x"),
        ] {
            assert_eq!(conf.set_text(section, key, text), SetText::Done, "{key}");
        }
        assert_eq!((conf.master.rpc_port, conf.worker.memory_limit), (9100, 3 << 29));
        assert_eq!(conf.worker.data_dir.len(), 2);
        assert_eq!(conf.client.master_addrs, ["m0:1", "m1:2"]);
        assert_eq!((conf.fuse.clone_fd, conf.fuse.fuse_opts.len()), (false, 2));
    }

    #[test]
    fn what_cannot_be_set_says_why() {
        let mut conf = ClusterConf::default();
        let before = conf.clone();
        assert_eq!(conf.set_text("master", "rpc_prot", "1"), SetText::Unknown(Some("rpc_port".into())));
        assert_eq!(conf.set_text("mastr", "rpc_port", "1"), SetText::Unknown(Some("master".into())));
        assert_eq!(conf.set_text("master", "zzz", "1"), SetText::Unknown(None));
        assert!(matches!(conf.set_text("master", "rpc_port", "many"), SetText::Malformed(_)));
        assert!(matches!(conf.set_text("", "format_master", "true"), SetText::Retired(_)));
        assert!(matches!(conf.set_text("master", "audit_logging_enabled", "true"), SetText::Retired(_)));
        assert_eq!(conf, before);
    }
}
