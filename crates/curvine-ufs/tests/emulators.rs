//! Azure Blob and GCS against their emulators: `make test-emulators` runs this beside both (scripts/emulators.sh).

#![cfg(all(feature = "azblob", feature = "gcs"))]

#[path = "support/conformance.rs"]
mod conformance;
#[path = "support/writes.rs"]
mod writes;

use std::sync::Arc;

use conformance::{Traits, conform, seen_by};
use curvine_types::{ErrorKind, Result};
use curvine_ufs::{Condition, Expect, Ufs, open, split_secrets};

/// Of the one account that Azurite has; everybody knows it.
const AZURITE_KEY: &str = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";

fn opened(url: &str, given: &[(&str, &str)]) -> Result<Arc<dyn Ufs>> {
    let given = given.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
    let (options, secrets) = split_secrets(url, given);
    open(url, &options, &secrets)
}

fn address(variable: &str) -> String {
    std::env::var(variable).unwrap_or_else(|_| panic!("{variable}: run this by `make test-emulators`"))
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Azurite: make test-emulators"]
async fn azure_blob_conforms() {
    let endpoint = address("AZURITE_TEST_URL");
    let mut given = [
        ("azure.endpoint_url", endpoint.as_str()),
        ("azure.account_name", "devstoreaccount1"),
        ("azure.account_key", AZURITE_KEY),
    ];
    let ufs = opened("azblob://data/below", &given).unwrap();
    let other = opened("azblob://data/below", &given).unwrap();
    conform(&*ufs, Traits { shows_empty: true, escapes: true, conditions: true }, seen_by(other)).await;
    let error = opened("azblob://nothing/x", &given).unwrap().list("", "", 1).await.unwrap_err();
    assert!(error.to_string().contains("there is no such container"), "{error}");
    given[2].1 = "YW5vdGhlci1rZXktbmV2ZXItdG8tYmUtc2hvd24=";
    let error = opened("azblob://data/x", &given).unwrap().list("", "", 1).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");
    assert!(!format!("{error:?}").contains("YW5vdGhlci1"), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs an emulator of GCS: make test-emulators"]
async fn gcs_has_objects_and_versions() {
    let endpoint = address("GCS_TEST_URL");
    let given = [("gcs.endpoint_url", endpoint.as_str()), ("anonymous", "true")];
    let ufs = opened("gcs://data/below", &given).unwrap();
    // This emulator knows no conditions, and breaks off where the rest of the conformance test goes; the objects themselves it has.
    let content: Vec<u8> = (0..3_000_000u32).map(|i| (i * 7 + i / 251) as u8).collect();
    let stored = ufs.store("dir/name é.bin", &writes::Plain::new(&content, "t"), &Condition::Any).await.unwrap();
    let other = opened("gs://data/below", &given).unwrap();
    assert_eq!(other.list("", "", 10).await.unwrap().entries[0].key, "dir/");
    let listed = other.list("dir/", "", 10).await.unwrap().entries;
    assert_eq!((listed.len(), Expect::of(&listed[0])), (1, Expect::of(&stored)));
    let part = other.read(&stored.key, 70_000, 100_001, &Expect::of(&stored)).await.unwrap();
    assert!(part == content[70_000..170_001]);
    ufs.store("dir/name é.bin", &writes::Plain::new(b"other", "t2"), &Condition::Any).await.unwrap();
    let changed = other.read(&stored.key, 0, 5, &Expect::of(&stored)).await.unwrap_err();
    assert_eq!(changed.kind(), ErrorKind::VersionMismatch, "{changed}");
    ufs.delete("dir/name é.bin").await.unwrap();
    assert_eq!(other.stat("dir/name é.bin").await.unwrap(), None);
}
