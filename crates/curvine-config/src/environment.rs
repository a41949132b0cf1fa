//! What the environment overrides: the host names that a container learns at its start, and where its secret is.

use curvine_types::{Error, ErrorKind, Result};

use crate::conf::ClusterConf;

/// Names the config file where no command line does.
pub const CONF_FILE_VARIABLE: &str = "CURVINE_CONF_FILE";
/// Fluid sets it in every container of a runtime.
pub(crate) const FLUID_VARIABLE: &str = "FLUID_RUNTIME_CONFIG_PATH";

impl ClusterConf {
    /// Applies `net_interface`, or else the host names of the environment; then the bind address. Returns warnings.
    pub(crate) fn apply_environment(&mut self, variable: impl Fn(&str) -> Option<String>) -> Result<Vec<String>> {
        let mut warnings = Vec::new();
        let names = ["CURVINE_MASTER_HOSTNAME", "CURVINE_WORKER_HOSTNAME", "CURVINE_CLIENT_HOSTNAME"];
        if self.general.net_interface.is_empty() {
            let [master, worker, client] = names.map(&variable);
            if let Some(name) = master {
                self.master.hostname = name.clone();
                self.journal.hostname = name;
            }
            if let Some(name) = worker {
                self.worker.hostname = name;
            }
            if let Some(name) = client {
                self.client.hostname = name;
            }
        } else {
            let address = interface_address(&self.general.net_interface)?;
            for name in names.into_iter().filter(|name| variable(name).is_some()) {
                warnings.push(format!("{name} is ignored because net_interface is set"));
            }
            for hostname in [
                &mut self.master.hostname,
                &mut self.journal.hostname,
                &mut self.worker.hostname,
                &mut self.client.hostname,
            ] {
                *hostname = address.clone();
            }
        }
        if let Some(address) = variable("ORPC_BIND_HOSTNAME") {
            self.general.bind_hostname = address;
        }
        self.apply_secret(&variable)?;
        Ok(warnings)
    }

    /// Fluid hands no secret to its components: without one a cluster of its runs as if the config allowed it, and every role
    /// says so in its log.
    fn apply_secret(&mut self, variable: &impl Fn(&str) -> Option<String>) -> Result<()> {
        if let Some(file) = variable("CURVINE_SECRET_FILE") {
            self.security.secret_file = file.into();
        }
        match variable("CURVINE_ALLOW_NO_SECRET").as_deref() {
            Some("true" | "1") => self.security.allow_no_secret = true,
            Some("false" | "0") => self.security.allow_no_secret = false,
            Some(other) => {
                return Err(Error::new(ErrorKind::Config, "CURVINE_ALLOW_NO_SECRET is either true or false")
                    .with("have", other));
            }
            None if variable(FLUID_VARIABLE).is_some() => self.security.allow_no_secret = true,
            None => {}
        }
        Ok(())
    }
}

/// The interface's address, IPv4 first.
fn interface_address(name: &str) -> Result<String> {
    let failed =
        |message: &str| Error::new(ErrorKind::Config, message).with("key", "net_interface").with("interface", name);
    let all = if_addrs::get_if_addrs().map_err(|source| failed("cannot list network interfaces").caused_by(source))?;
    let mut addresses: Vec<_> =
        all.iter().filter(|interface| interface.name == name).map(|interface| interface.ip()).collect();
    addresses.sort_by_key(|address| !address.is_ipv4());
    match addresses.first() {
        Some(address) => Ok(address.to_string()),
        None => {
            let mut known: Vec<&str> = all.iter().map(|interface| interface.name.as_str()).collect();
            known.dedup();
            Err(failed("no such network interface with an address").with("known", known.join(" ")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(variables: &[(&str, &str)]) -> Result<ClusterConf> {
        let mut conf = ClusterConf::default();
        let find = |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| value.to_string());
        conf.apply_environment(find).map(|_| conf)
    }

    #[test]
    fn a_cluster_under_fluid_may_have_no_secret_unless_that_is_forbidden() {
        assert!(!with(&[]).unwrap().security.allow_no_secret);
        assert!(with(&[(FLUID_VARIABLE, "/x")]).unwrap().security.allow_no_secret);
        let forbidden = with(&[(FLUID_VARIABLE, "/x"), ("CURVINE_ALLOW_NO_SECRET", "false")]).unwrap();
        assert!(!forbidden.security.allow_no_secret);
        let given = with(&[(FLUID_VARIABLE, "/x"), ("CURVINE_SECRET_FILE", "/nowhere/secret")]).unwrap();
        assert!(given.secret().unwrap_err().to_string().contains("/nowhere/secret"));
        assert!(with(&[("CURVINE_ALLOW_NO_SECRET", "perhaps")]).is_err());
    }
}
