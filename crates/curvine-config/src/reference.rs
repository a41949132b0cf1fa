//! `docs/CONFIGURATION.md`, made from the catalogue.

use crate::conf::ClusterConf;
use crate::retired::{Fate, RETIRED};

const HEAD: &str = "# Configuration

Generated from `crates/curvine-config`; write it anew with `curvine config reference`.

One TOML file, `curvine-cluster.toml`, serves all roles. It is named by `--conf` or by `CURVINE_CONF_FILE`; `etc/curvine-cluster.toml`
is a sample. An unknown or malformed key is an error that names file, line and key. Relative paths start at the working directory.

* **size**: `\"128MB\"`, `\"1.5GB\"`; powers of 1024; a bare number is bytes.
* **duration**: `\"300ms\"`, `\"10s\"`, `\"5m\"`, `\"24h\"`, `\"7d\"`. **milliseconds**: the same, or an integer.
* **host:port**: `\"host:8995\"` or `{ hostname = \"host\", port = 8995 }`.

Environment variables that override the file: `CURVINE_MASTER_HOSTNAME` (`[master]` and `[journal] hostname`), `CURVINE_WORKER_HOSTNAME`,
`CURVINE_CLIENT_HOSTNAME`, `ORPC_BIND_HOSTNAME` (`bind_hostname`), `CURVINE_SECRET_FILE` and `CURVINE_ALLOW_NO_SECRET` (`[security]`; under Fluid,
which sets `FLUID_RUNTIME_CONFIG_PATH`, `allow_no_secret` is `true` unless this says `false`).
";

/// The reference page.
pub fn reference() -> String {
    let mut page = HEAD.to_string();
    for section in ClusterConf::default().sections() {
        let title = if section.name().is_empty() {
            "Before the first section".into()
        } else {
            format!("`[{}]`", section.name())
        };
        page +=
            &format!("\n## {title}\n\n{}\n\n| key | type | default | meaning |\n|---|---|---|---|\n", section.about());
        for key in section.infos() {
            let doc = key.doc.replace('|', "\\|");
            page += &format!("| `{}` | {} | `{}` | {doc} |\n", key.name, key.kind, key.value);
        }
    }
    page += "\n## Retired keys\n\nAccepted with a warning, so that an existing file keeps working; they have no effect.\n\n";
    page += "| section | keys | why |\n|---|---|---|\n";
    for (section, keys, fate) in RETIRED {
        let names: Vec<String> = keys.iter().map(|key| format!("`{key}`")).collect();
        let why = match fate {
            Fate::Warn(why) => why.to_string(),
            Fate::MustBeFalse(why) => format!("`true` is an error: {why}"),
        };
        let section = if section.is_empty() { String::new() } else { format!("`[{section}]`") };
        page += &format!("| {section} | {} | {why} |\n", names.join(", "));
    }
    page
}
