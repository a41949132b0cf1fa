//! From the text of a config file to a `ClusterConf`.
//!
//! Always: every key of the file is set, retired, or an error with file, line, key and the nearest known key.

use std::ops::Range;
use std::path::Path;

use curvine_types::{Error, ErrorKind, Result};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::catalogue::{KeyInfo, Section};
use crate::conf::ClusterConf;
use crate::retired::{self, Fate};

impl ClusterConf {
    /// Reads `path`, or else the file that `CURVINE_CONF_FILE` names, or else nothing but the defaults; then the environment.
    /// The second value: warnings for the log.
    pub fn load(path: Option<&Path>) -> Result<(Self, Vec<String>)> {
        Self::load_with(path, |_, _| Ok(()))
    }

    pub(crate) fn read_file(path: &Path) -> Result<(Self, Vec<String>)> {
        let text = std::fs::read_to_string(path).map_err(|source| {
            Error::new(ErrorKind::Config, "cannot read the config file").with("file", path.display()).caused_by(source)
        })?;
        Self::read(&text, &path.display().to_string())
    }

    /// Reads the text of a file; `file` is its name for messages. The environment has no say.
    pub fn parse(text: &str, file: &str) -> Result<(Self, Vec<String>)> {
        let (mut conf, warnings) = Self::read(text, file)?;
        conf.fill_addresses();
        conf.validate()?;
        Ok((conf, warnings))
    }

    fn read(text: &str, file: &str) -> Result<(Self, Vec<String>)> {
        let source = Source { text, file };
        let document = DeTable::parse(text).map_err(|error| {
            let at = error.span().unwrap_or(0..0);
            source.error(&at, &error.message().replace('\n', ", "))
        })?;
        let mut conf = Self::default();
        let mut warnings = Vec::new();
        for (name, value) in document.get_ref() {
            match value.get_ref() {
                DeValue::Table(table) => conf.read_section(&source, name, table, &mut warnings)?,
                _ => conf.read_key(&source, "", name, value, &mut warnings)?,
            }
        }
        Ok((conf, warnings))
    }

    fn read_section(
        &mut self,
        source: &Source<'_>,
        name: &Spanned<std::borrow::Cow<'_, str>>,
        table: &DeTable<'_>,
        warnings: &mut Vec<String>,
    ) -> Result<()> {
        let section = name.get_ref().as_ref();
        if self.section(section).is_none() {
            if let Some(Fate::Warn(why)) = retired::fate(section, "*") {
                warnings.push(source.warning(&name.span(), &format!("section [{section}] has no effect: {why}")));
                return Ok(());
            }
            let known: Vec<&str> =
                self.sections().iter().map(|section| section.name()).filter(|name| !name.is_empty()).collect();
            let message = format!("unknown section [{section}]{}", suggestion(section, &known));
            return Err(source.error(&name.span(), &message).with("key", section));
        }
        for (key, value) in table {
            self.read_key(source, section, key, value, warnings)?;
        }
        Ok(())
    }

    fn read_key(
        &mut self,
        source: &Source<'_>,
        section: &str,
        name: &Spanned<std::borrow::Cow<'_, str>>,
        value: &Spanned<DeValue<'_>>,
        warnings: &mut Vec<String>,
    ) -> Result<()> {
        let key = name.get_ref().as_ref();
        let full = if section.is_empty() { key.to_string() } else { format!("{section}.{key}") };
        match self.section(section).and_then(|section| section.set(key, value.get_ref())) {
            Some(Ok(())) => return Ok(()),
            Some(Err(expected)) => {
                let have = source.text.get(value.span()).unwrap_or_default();
                let message = format!("malformed value {have}, expected {expected}");
                return Err(source.error(&value.span(), &message).with("key", full));
            }
            None => {}
        }
        match retired::fate(section, key) {
            Some(Fate::Warn(why)) => {
                warnings.push(source.warning(&name.span(), &format!("{full} has no effect: {why}")));
                Ok(())
            }
            Some(Fate::MustBeFalse(why)) if value.get_ref().as_bool() == Some(false) || is_text(value, "false") => {
                let _ = why;
                Ok(())
            }
            Some(Fate::MustBeFalse(why)) => Err(source.error(&name.span(), why).with("key", full)),
            None => {
                let infos = self.section(section).map(|section| section.infos()).unwrap_or_default();
                let known: Vec<&str> = infos.iter().map(|info| info.name).collect();
                let place =
                    if section.is_empty() { "before the first section".into() } else { format!("in [{section}]") };
                let elsewhere = self.elsewhere(section, key);
                let hint = elsewhere.unwrap_or_else(|| suggestion(key, &known));
                Err(source.error(&name.span(), &format!("unknown key {key} {place}{hint}")).with("key", full))
            }
        }
    }

    /// A key that exists, but in another section.
    fn elsewhere(&self, section: &str, key: &str) -> Option<String> {
        let found = self.keys().into_iter().find(|info| info.name == key && info.section != section)?;
        Some(match found.section {
            "" => ", it belongs before the first section".to_string(),
            section => format!(", it belongs in [{section}]"),
        })
    }

    /// Every key with its present value, in the order of the reference.
    pub fn keys(&self) -> Vec<KeyInfo> {
        self.sections().into_iter().flat_map(|section| section.infos()).collect()
    }

    /// A config file with the keys that differ from the defaults.
    pub fn to_toml(&self) -> String {
        let mut text = String::new();
        let mut section = "";
        let defaults = Self::default().keys();
        for (info, default) in self.keys().into_iter().zip(defaults) {
            if info.value == default.value {
                continue;
            }
            if info.section != section {
                section = info.section;
                text += &format!("\n[{section}]\n");
            }
            text += &format!("{} = {}\n", info.name, info.value);
        }
        text.trim_start().to_string()
    }

    pub(crate) fn sections(&self) -> [&dyn AnySection; 9] {
        [
            &self.general,
            &self.master,
            &self.journal,
            &self.worker,
            &self.client,
            &self.fuse,
            &self.log,
            &self.cli,
            &self.security,
        ]
    }

    pub(crate) fn section(&mut self, name: &str) -> Option<&mut dyn AnySection> {
        let section: &mut dyn AnySection = match name {
            "" => &mut self.general,
            "master" => &mut self.master,
            "journal" => &mut self.journal,
            "worker" => &mut self.worker,
            "client" => &mut self.client,
            "fuse" => &mut self.fuse,
            "log" => &mut self.log,
            "cli" => &mut self.cli,
            "security" => &mut self.security,
            _ => return None,
        };
        Some(section)
    }
}

/// A `Section` of any type.
pub(crate) trait AnySection {
    fn name(&self) -> &'static str;
    fn about(&self) -> &'static str;
    fn infos(&self) -> Vec<KeyInfo>;
    fn set(&mut self, key: &str, value: &DeValue<'_>) -> Option<Result<(), String>>;
}

impl<S: Section> AnySection for S {
    fn name(&self) -> &'static str {
        S::NAME
    }
    fn about(&self) -> &'static str {
        S::ABOUT.trim_ascii()
    }
    fn infos(&self) -> Vec<KeyInfo> {
        self.keys()
    }
    fn set(&mut self, key: &str, value: &DeValue<'_>) -> Option<Result<(), String>> {
        Section::set(self, key, value)
    }
}

fn is_text(value: &Spanned<DeValue<'_>>, text: &str) -> bool {
    value.get_ref().as_str() == Some(text)
}

/// "; did you mean x?" if something is near enough.
pub(crate) fn suggestion(name: &str, known: &[&str]) -> String {
    let near = known.iter().map(|known| (strsim::jaro_winkler(name, known), known)).max_by(|a, b| a.0.total_cmp(&b.0));
    match near {
        Some((score, known)) if score > 0.75 => format!(", did you mean {known}?"),
        _ if known.is_empty() => String::new(),
        _ => ", see docs/CONFIGURATION.md for the known ones".to_string(),
    }
}

/// The text that is read, to say where in it something is.
struct Source<'a> {
    text: &'a str,
    file: &'a str,
}

impl Source<'_> {
    fn line(&self, at: &Range<usize>) -> usize {
        let before = self.text.as_bytes().get(..at.start).unwrap_or(self.text.as_bytes());
        1 + before.iter().filter(|byte| **byte == b'\n').count()
    }

    fn error(&self, at: &Range<usize>, message: &str) -> Error {
        Error::new(ErrorKind::Config, message).with("file", self.file).with("line", self.line(at))
    }

    fn warning(&self, at: &Range<usize>, message: &str) -> String {
        format!("{message} (file={}, line={})", self.file, self.line(at))
    }
}
