//! The fields that Fluid's CRDs and Kubernetes know, as strict validation sees them: what is not here is refused.
//!
//! Written from the CRDs of Fluid v1.1 (and of its branch generic-cache-runtime) and the pod types of Kubernetes, as far as the
//! manifests of this project use them.

use serde_json::{Map, Value, json};

/// `"s"` text, `"i"` whole number, `"b"` truth value, `"q"` quantity, `{"*": X}` map of any names, `[X]` list, objects of known
/// fields; a name that ends in `!` is required.
pub fn check(value: &Value, schema: &Value, at: &str) -> Result<(), String> {
    match schema {
        Value::String(kind) => {
            let right = match kind.as_str() {
                "s" => value.is_string(),
                "i" => value.is_i64(),
                "b" => value.is_boolean(),
                "q" => value.is_string() || value.is_i64(),
                _ => unreachable!("a kind of the schema"),
            };
            if right { Ok(()) } else { Err(format!("{at}: {value} is no {kind}")) }
        }
        Value::Array(item) => {
            let list = value.as_array().ok_or_else(|| format!("{at}: no list"))?;
            list.iter().enumerate().try_for_each(|(number, value)| check(value, &item[0], &format!("{at}[{number}]")))
        }
        Value::Object(fields) => check_object(value, fields, at),
        _ => unreachable!("a schema"),
    }
}

fn check_object(value: &Value, fields: &Map<String, Value>, at: &str) -> Result<(), String> {
    let object = value.as_object().ok_or_else(|| format!("{at}: no object"))?;
    if let Some(any) = fields.get("*") {
        return object.iter().try_for_each(|(name, value)| check(value, any, &format!("{at}.{name}")));
    }
    for (name, value) in object {
        let known = fields.get(name).or_else(|| fields.get(&format!("{name}!")));
        check(value, known.ok_or_else(|| format!("unknown field {at}.{name}"))?, &format!("{at}.{name}"))?;
    }
    let missing = fields.keys().filter_map(|name| name.strip_suffix('!')).find(|name| !object.contains_key(*name));
    missing.map_or(Ok(()), |name| Err(format!("{at}.{name} is required")))
}

fn metadata() -> Value {
    json!({ "name!": "s", "namespace": "s", "labels": { "*": "s" }, "annotations": { "*": "s" } })
}

fn pod_template() -> Value {
    json!({ "metadata": { "labels": { "*": "s" }, "annotations": { "*": "s" } }, "spec!": pod_spec() })
}

fn pod_spec() -> Value {
    let exec = json!({ "exec": { "command!": ["s"] } });
    let mut probe = exec.clone();
    for name in ["periodSeconds", "timeoutSeconds", "failureThreshold", "initialDelaySeconds"] {
        probe[name] = json!("i");
    }
    let resources = json!({ "requests": { "*": "q" }, "limits": { "*": "q" } });
    let container = json!({
        "name!": "s", "image!": "s", "imagePullPolicy": "s", "command": ["s"], "args": ["s"], "resources": resources,
        "env": [{ "name!": "s", "value": "s", "valueFrom": { "fieldRef": { "fieldPath!": "s" } } }],
        "ports": [{ "name": "s", "containerPort!": "i" }],
        "readinessProbe": probe,
        "lifecycle": { "preStop": exec },
        "securityContext": { "privileged": "b", "runAsUser": "i" },
        "volumeMounts": [{ "name!": "s", "mountPath!": "s", "readOnly": "b", "mountPropagation": "s" }],
    });
    json!({
        "restartPolicy": "s", "terminationGracePeriodSeconds": "i", "priorityClassName": "s",
        "automountServiceAccountToken": "b", "tolerations": [{ "operator": "s" }],
        "containers!": [container], "volumes": [volume()],
    })
}

fn volume() -> Value {
    json!({
        "name!": "s",
        "emptyDir": {}, "hostPath": { "path!": "s", "type": "s" },
        "secret": { "secretName!": "s", "optional": "b", "defaultMode": "i" },
        "persistentVolumeClaim": { "claimName!": "s" },
    })
}

fn object(kind: &str, rest: Value) -> (String, Value) {
    let mut schema = json!({ "apiVersion!": "s", "kind!": "s", "metadata!": metadata() });
    for (name, value) in rest.as_object().expect("an object") {
        schema[name] = value.clone();
    }
    (kind.to_string(), schema)
}

fn dataset() -> (String, Value) {
    let encrypted = json!([{ "name!": "s", "valueFrom!": { "secretKeyRef!": { "name!": "s", "key!": "s" } } }]);
    let mount = json!({
        "mountPoint!": "s", "name": "s", "path": "s", "options": { "*": "s" }, "encryptOptions": encrypted,
        "readOnly": "b", "shared": "b",
    });
    object(
        "Dataset",
        json!({ "spec!": {
        "mounts": [mount], "accessModes": ["s"], "placement": "s", "sharedOptions": { "*": "s" },
        "sharedEncryptOptions": encrypted,
    } }),
    )
}

fn runtime(level: Value, with_volumes: bool) -> (String, Value) {
    let mut component = json!({
        "disabled": "b", "options": { "*": "s" }, "replicas": "i", "nodeSelector": { "*": "s" },
        "env": [{ "name!": "s", "value": "s" }],
        "runtimeVersion": { "image": "s", "imageTag": "s", "imagePullPolicy": "s" },
    });
    let mut spec = json!({ "runtimeClassName!": "s", "options": { "*": "s" } });
    if with_volumes {
        component["volumeMounts"] = json!([{ "name!": "s", "mountPath!": "s", "readOnly": "b" }]);
        spec["volumes"] = json!([volume()]);
    }
    let mut worker = component.clone();
    worker["tieredStore"] = json!({ "levels": [level] });
    let mut client = component.clone();
    client.as_object_mut().expect("an object").remove("replicas");
    spec["master"] = component;
    spec["worker"] = worker;
    spec["client"] = client;
    object("CacheRuntime", json!({ "spec!": spec }))
}

/// The kinds of a folder of manifests: of Fluid's master, or of its older branch.
pub fn kinds(older: bool) -> Vec<(String, Value)> {
    let (level, class) = if older { (older_level(), older_class()) } else { (level(), class()) };
    vec![
        dataset(),
        runtime(level, !older),
        class,
        object("Pod", json!({ "spec!": pod_spec() })),
        object("Secret", json!({ "type": "s", "stringData": { "*": "s" } })),
        object(
            "DaemonSet",
            json!({ "spec!": {
            "selector!": { "matchLabels!": { "*": "s" } }, "template!": pod_template(),
        } }),
        ),
        object(
            "DataLoad",
            json!({ "spec!": {
            "dataset!": { "name!": "s", "namespace": "s" }, "loadMetadata": "b", "target": [{ "path!": "s", "replicas": "i" }],
        } }),
        ),
    ]
}

fn level() -> Value {
    json!({
        "high": "s", "low": "s",
        "emptyDir": { "quota!": "q", "medium": "s" }, "processMemory": { "quota!": "q" },
        "hostPath": { "paths!": ["s"], "quotas!": ["q"], "type": "s" },
    })
}

fn class() -> (String, Value) {
    let entry = json!({ "command!": ["s"], "timeout": "i" });
    let component = json!({
        "options": { "*": "s" }, "template!": pod_template(), "service": { "headless": {} },
        "dependencies": { "secretMount": { "enabled": "b" } },
        "executionEntries": { "mountUFS": entry, "reportSummary": entry },
    });
    object(
        "CacheRuntimeClass",
        json!({
            "fileSystemType!": "s",
            "dataOperationSpecs": [{ "name!": "s", "image": "s", "command": ["s"], "args": ["s"] }],
            "topology!": { "master": component, "worker": component, "client": component },
        }),
    )
}

fn older_level() -> Value {
    json!({ "quota": "s", "path": "s", "high": "s", "low": "s" })
}

fn older_class() -> (String, Value) {
    let component = json!({
        "options": { "*": "s" }, "workloadType!": { "apiVersion!": "s", "kind!": "s" }, "podTemplateSpec!": pod_template(),
        "service": { "headless": {} }, "dependencies": { "encryptOption": {} },
    });
    object(
        "CacheRuntimeClass",
        json!({
            "fileSystemType!": "s", "topology!": { "master": component, "worker": component, "client": component },
        }),
    )
}
