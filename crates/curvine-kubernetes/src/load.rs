//! What a DataLoad of Fluid asks for, and where its cluster is: the pod is told neither by name.

use std::time::Duration;

use curvine_types::{Error, ErrorKind, Result};

use crate::identity::Identity;
use crate::masters;

/// How long one name may take to be resolved.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(3);
/// What Fluid adds to the name of a DataLoad.
const JOB: &str = "-loader-job";

/// The variables of a DataLoad.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    pub paths: Vec<String>,
    /// One for each path.
    pub replicas: Vec<u32>,
    pub metadata: bool,
}

impl Request {
    /// Reads them; what is malformed is an error that names the variable.
    pub fn of(variable: impl Fn(&str) -> Option<String>) -> Result<Self> {
        let wrong = |name: &str, have: &str| {
            Error::new(ErrorKind::Config, "malformed variable of a DataLoad").with("variable", name).with("have", have)
        };
        let list = |name: &str| variable(name).unwrap_or_default();
        let paths: Vec<String> = match list("FLUID_DATALOAD_DATA_PATH").as_str() {
            "" => vec!["/".to_string()],
            text => text.split(':').filter(|path| !path.is_empty()).map(str::to_string).collect(),
        };
        if let Some(path) = paths.iter().find(|path| !path.starts_with('/')) {
            return Err(wrong("FLUID_DATALOAD_DATA_PATH", path));
        }
        let text = list("FLUID_DATALOAD_PATH_REPLICAS");
        let replicas = text
            .split(':')
            .filter(|number| !number.is_empty())
            .map(|number| number.trim().parse().map_err(|_| wrong("FLUID_DATALOAD_PATH_REPLICAS", number)));
        let mut replicas = replicas.collect::<Result<Vec<u32>>>()?;
        replicas.resize(paths.len(), 1);
        let metadata = match list("FLUID_DATALOAD_METADATA").as_str() {
            "" | "false" => false,
            "true" => true,
            other => return Err(wrong("FLUID_DATALOAD_METADATA", other)),
        };
        Ok(Self { paths, replicas, metadata })
    }
}

/// `host` or `host:port` as somebody has written it for a data operation.
pub fn master_address(text: &str, port: u16) -> Result<String> {
    let host_alone = !text.contains(':') || (text.matches(':').count() > 1 && !text.starts_with('['));
    let address = if host_alone { crate::configure::address(text, port) } else { text.to_string() };
    address.parse::<curvine_rpc::Address>().map_err(|error| error.with("variable", "CURVINE_MASTER"))?;
    Ok(address)
}

/// Names that the runtime may have, the most likely first, from the name of a pod `<dataload>-loader-job-x2b4z`: a DataLoad is
/// usually named after its dataset, with something behind.
pub fn runtime_names(pod: &str) -> Vec<String> {
    let Some(end) = pod.find(JOB) else { return Vec::new() };
    let mut name = &pod[..end];
    let mut names = vec![name.to_string()];
    while let Some((shorter, _)) = name.rsplit_once('-') {
        names.push(shorter.to_string());
        name = shorter;
    }
    names
}

/// The masters of the runtime that this pod's name tells of, if DNS knows one. Asks for each name until one is known.
pub async fn find_masters(identity: &Identity, port: u16) -> Result<Vec<String>> {
    let names = runtime_names(&identity.pod);
    for name in &names {
        for host in masters::guesses(name, identity) {
            let lookup = tokio::time::timeout(RESOLVE_TIMEOUT, tokio::net::lookup_host((host.as_str(), port)));
            if let Ok(Ok(mut found)) = lookup.await
                && found.next().is_some()
            {
                tracing::info!(host, "found the master by the name of this pod");
                return Ok(masters::guesses(name, identity)
                    .iter()
                    .map(|host| crate::configure::address(host, port))
                    .collect());
            }
        }
    }
    Err(Error::new(
        ErrorKind::Config,
        "where is the cluster? this pod has no file of the runtime: name the DataLoad after its dataset (dataset-load), or set \
         CURVINE_MASTER=host:port in the command of the CacheRuntimeClass (env CURVINE_MASTER=... curvine fluid data-load)",
    )
    .with("pod", &identity.pod)
    .with("tried", names.join(" ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(variables: &[(&str, &str)]) -> Result<Request> {
        Request::of(|name| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| value.to_string()))
    }

    #[test]
    fn all_variables_are_read() {
        let request = request(&[
            ("FLUID_DATALOAD_METADATA", "true"),
            ("FLUID_DATALOAD_DATA_PATH", "/minio:/other/dir"),
            ("FLUID_DATALOAD_PATH_REPLICAS", "1:2"),
        ]);
        let want = Request { paths: vec!["/minio".into(), "/other/dir".into()], replicas: vec![1, 2], metadata: true };
        assert_eq!(request.unwrap(), want);
    }

    #[test]
    fn what_is_not_said_has_fluids_default_and_what_is_wrong_is_named() {
        assert_eq!(request(&[]).unwrap(), Request { paths: vec!["/".into()], replicas: vec![1], metadata: false });
        for (name, value) in [
            ("FLUID_DATALOAD_METADATA", "perhaps"),
            ("FLUID_DATALOAD_DATA_PATH", "relative"),
            ("FLUID_DATALOAD_PATH_REPLICAS", "two"),
        ] {
            assert!(request(&[(name, value)]).unwrap_err().to_string().contains(name));
        }
    }

    #[test]
    fn the_name_of_the_pod_tells_the_runtime() {
        assert_eq!(
            runtime_names("curvine-demo-load-loader-job-x2b4z"),
            ["curvine-demo-load", "curvine-demo", "curvine"]
        );
        assert!(runtime_names("something-else").is_empty());
    }

    #[test]
    fn the_master_may_be_named_with_and_without_its_port() {
        assert_eq!(master_address("m0.svc", 8995).unwrap(), "m0.svc:8995");
        assert_eq!(master_address("m0:7", 8995).unwrap(), "m0:7");
        assert_eq!(master_address("fd00::1", 8995).unwrap(), "[fd00::1]:8995");
        assert!(master_address("m0:many", 8995).is_err());
    }

    #[tokio::test]
    async fn a_pod_that_nobody_can_place_says_what_to_do() {
        let error = find_masters(&Identity { pod: "plain".into(), ..Identity::default() }, 8995).await.unwrap_err();
        assert!(error.to_string().contains("CURVINE_MASTER"));
    }
}
