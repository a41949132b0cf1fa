//! The manifests as strict validation and Fluid's code take them.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;

use crate::{guard, schema};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../curvine-docker/fluid/cache-runtime")
}

fn documents(file: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    serde_norway::Deserializer::from_str(&text)
        .map(|document| Value::deserialize(document).unwrap_or_else(|error| panic!("{}: {error}", file.display())))
        .collect()
}

fn manifests(folder: &Path) -> Vec<(PathBuf, Value)> {
    let entries = std::fs::read_dir(folder).expect("the folder of the manifests").flatten().map(|entry| entry.path());
    let files = entries.filter(|path| path.extension().is_some_and(|extension| extension == "yaml"));
    files.flat_map(|file| documents(&file).into_iter().map(move |document| (file.clone(), document))).collect()
}

fn class(folder: &Path) -> Value {
    documents(&folder.join("curvine-cache-runtime-class.yaml")).remove(0)
}

/// Pod specs of a class, by component.
fn pods(class: &Value) -> Vec<(&str, &Value)> {
    let topology = class["topology"].as_object().expect("a topology");
    topology
        .iter()
        .map(|(name, component)| {
            let template = component.get("template").or_else(|| component.get("podTemplateSpec")).expect("a template");
            (name.as_str(), &template["spec"])
        })
        .collect()
}

#[test]
fn every_manifest_passes_strict_validation_against_fluids_schemas() {
    for (path, older) in [(folder(), false), (folder().join("seed-branch"), true)] {
        let (kinds, found) = (schema::kinds(older), manifests(&path));
        assert!(found.len() >= 4, "{}", path.display());
        for (file, document) in found {
            let kind = document["kind"].as_str().unwrap_or_default();
            let known = kinds.iter().find(|(name, _)| name == kind);
            let (_, schema) =
                known.unwrap_or_else(|| panic!("{}: a {kind} that the test does not know", file.display()));
            schema::check(&document, schema, kind).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        }
    }
}

#[test]
fn the_validation_finds_what_kubectl_would_refuse() {
    let kinds = schema::kinds(false);
    let (_, schema) = kinds.iter().find(|(name, _)| name == "CacheRuntimeClass").expect("the class");
    let good = class(&folder());
    let mut bad = good.clone();
    let entries = bad["topology"]["master"]["executionEntries"].as_object_mut().expect("entries");
    let entry = entries.remove("reportSummary").expect("an entry");
    entries.insert("ReportSummary".into(), entry);
    assert!(schema::check(&good, schema, "class").is_ok());
    assert!(schema::check(&bad, schema, "class").unwrap_err().contains("ReportSummary"));
    let mut bad = good.clone();
    bad["topology"]["worker"]["template"]["spec"]["containers"][0]["name"] = Value::Null;
    assert!(schema::check(&bad, schema, "class").is_err());
    let mut bad = good;
    bad.as_object_mut().expect("an object").remove("fileSystemType");
    assert!(schema::check(&bad, schema, "class").unwrap_err().contains("fileSystemType"));
}

#[test]
fn the_classes_are_as_fluid_needs_them() {
    for path in [folder(), folder().join("seed-branch")] {
        let class = class(&path);
        assert_eq!(class["metadata"]["name"], "curvine");
        let pods = pods(&class);
        // A missing one that is not disabled ends Fluid's controller.
        assert_eq!(pods.iter().map(|(name, _)| *name).collect::<Vec<_>>(), ["client", "master", "worker"]);
        for (component, spec) in pods {
            let containers = spec["containers"].as_array().expect("containers");
            assert_eq!(containers.len(), 1, "Fluid gives environment and volumes to the first container only");
            let container = &containers[0];
            assert_eq!(
                (&container["name"], &container["image"]),
                (&Value::from(component), &Value::from("curvine:latest"))
            );
            // Otherwise a locally built image is pulled from a registry that does not have it.
            assert_eq!(container["imagePullPolicy"], "IfNotPresent");
            // Fluid takes them away after the start, and restarts the pods for it.
            assert!(container.get("resources").is_none());
            assert_eq!(container["args"], serde_json::json!(["fluid", component]));
            assert_eq!(container["readinessProbe"]["exec"]["command"][2], "probe");
            let mounted =
                container["volumeMounts"].as_array().expect("mounts").iter().map(|mount| mount["name"].as_str());
            let volumes: Vec<_> =
                spec["volumes"].as_array().expect("volumes").iter().map(|v| v["name"].as_str()).collect();
            assert!(mounted.into_iter().all(|name| volumes.contains(&name)), "{component}");
            let secret =
                spec["volumes"].as_array().expect("volumes").iter().find(|volume| volume.get("secret").is_some());
            assert_eq!(secret.expect("the cluster secret")["secret"]["optional"], true);
            assert_eq!(secret.expect("the cluster secret")["secret"]["defaultMode"], 0o400);
            if component == "worker" {
                let drain = class["topology"]["worker"]["options"]["drain_timeout"].as_str().unwrap_or_default();
                let drain: u64 = drain.strip_suffix('s').and_then(|text| text.parse().ok()).expect("seconds");
                assert!(
                    spec["terminationGracePeriodSeconds"].as_u64() > Some(drain + 20),
                    "it is killed while it drains"
                );
            }
            if component == "client" {
                // The API server refuses Bidirectional mounts without it.
                assert_eq!(container["securityContext"]["privileged"], true);
                assert_eq!(container["lifecycle"]["preStop"]["exec"]["command"][2], "unmount");
            }
        }
        let text = std::fs::read_to_string(path.join("curvine-dataset-example.yaml")).expect("the example");
        assert!(!text.contains("format_"), "nothing is ever formatted");
    }
}

#[test]
fn fluid_executes_the_commands_of_the_class() {
    let class = class(&folder());
    let entries = class["topology"]["master"]["executionEntries"].as_object().expect("entries");
    assert_eq!(entries.keys().collect::<Vec<_>>(), ["mountUFS", "reportSummary"]);
    let loads = class["dataOperationSpecs"].as_array().expect("operations").iter();
    for entry in entries.values().chain(loads) {
        let command: Vec<&str> =
            entry["command"].as_array().expect("a command").iter().flat_map(Value::as_str).collect();
        assert_eq!(guard::refuses(&command), None, "{command:?}");
        assert_eq!(command[..2], ["/usr/local/bin/curvine", "fluid"]);
    }
    // Each command gives up before Fluid does, which leaves it running.
    for (name, entry) in entries {
        let limit: u64 = entry["command"][4].as_str().and_then(|text| text.strip_suffix('s')).unwrap().parse().unwrap();
        assert!(entry["timeout"].as_u64().unwrap() > limit, "{name}");
    }
    assert_eq!(class["dataOperationSpecs"][0]["name"], "DataLoad");
}

#[test]
fn the_example_is_two_workers_that_fit_on_one_node_and_a_volume_that_can_be_written() {
    for path in [folder(), folder().join("seed-branch")] {
        let example = documents(&path.join("curvine-dataset-example.yaml"));
        let (dataset, runtime) = (&example[0], &example[1]);
        assert_eq!(dataset["metadata"]["name"], runtime["metadata"]["name"]);
        assert_eq!(dataset["spec"]["accessModes"], serde_json::json!(["ReadWriteMany"]));
        assert_eq!(dataset["spec"]["placement"], "Shared");
        assert_eq!(runtime["spec"]["worker"]["replicas"], 2);
        let pod = documents(&path.join("test_pod.yaml")).remove(0);
        assert_eq!(pod["metadata"]["name"], "test-curvine");
        assert_eq!(pod["spec"]["containers"][0]["volumeMounts"][0]["mountPath"], "/data");
        assert_eq!(pod["spec"]["volumes"][0]["persistentVolumeClaim"]["claimName"], "curvine-demo");
    }
}
