//! The object stores that are reached by OpenDAL's adapters: what their options mean to these.
//!
//! Always: the only thing that is of one kind here is how its adapter is made; all else is `ObjectStoreUfs`.

use std::sync::Arc;

use curvine_types::{Error, ErrorKind, Result};
use opendal::raw::normalize_path;
use opendal::{HttpTransporter, OperationContext, Operator};

use crate::checked_transport::{CheckedTransport, ListingForm};
use crate::error::from_store;
use crate::http_client::client;
use crate::object_store::ObjectStoreUfs;
use crate::objects::Objects;
use crate::options::Options;
use crate::policy::Policy;
use crate::{Counters, Ufs};

/// Makes the adapter of a kind; `None`: it is not built in.
pub(crate) fn open(
    kind: &str,
    url: &str,
    options: &Options,
    policy: &Policy,
    counters: Arc<Counters>,
) -> Result<Option<Arc<dyn Ufs>>> {
    let place = Place { url, options };
    let form = match kind {
        "gcs" => ListingForm::Json("storage#objects"),
        "azblob" => ListingForm::Xml("EnumerationResults"),
        _ => ListingForm::Xml("ListBucketResult"),
    };
    let Some(operator) = place.operator(kind)? else { return Ok(None) };
    let transport = HttpTransporter::new(CheckedTransport::new(client(policy)?, form));
    let operator = operator.with_context(OperationContext::new().with_http_transport(transport));
    let objects = Objects::new(operator, url, options.secrets.clone(), counters);
    Ok(Some(Arc::new(ObjectStoreUfs::new(objects))))
}

/// Bucket and root of `bucket/prefix`.
#[allow(dead_code, reason = "a build may have none of these stores")]
pub(crate) fn bucket_and_root(url: &str) -> Result<(&str, String)> {
    let config = |message: &str| Error::new(ErrorKind::Config, message).with("url", url);
    let (_, place) = url.split_once("://").unwrap_or(("", url));
    let (bucket, prefix) = place.split_once('/').unwrap_or((place, ""));
    if bucket.is_empty() {
        return Err(config("the url of an object store names a bucket, such as s3://bucket/prefix"));
    }
    let root = normalize_path(prefix);
    if root.trim_end_matches('/') != prefix.trim_end_matches('/') {
        return Err(config("the prefix must not have empty parts or spaces at its ends"));
    }
    Ok((bucket, root))
}

/// Where a store is, and what was given to reach it.
#[allow(dead_code, reason = "a build may have none of these stores")]
struct Place<'a> {
    url: &'a str,
    options: &'a Options,
}

#[allow(dead_code, reason = "a build may have none of these stores")]
impl Place<'_> {
    fn operator(&self, kind: &str) -> Result<Option<Operator>> {
        match kind {
            #[cfg(feature = "oss")]
            "oss" => self.oss().map(Some),
            #[cfg(feature = "cos")]
            "cos" => self.cos().map(Some),
            #[cfg(feature = "gcs")]
            "gcs" => self.gcs().map(Some),
            #[cfg(feature = "azblob")]
            "azblob" => self.azblob().map(Some),
            _ => Ok(None),
        }
    }

    /// Bucket and root directory.
    fn bucket(&self) -> Result<(String, String)> {
        let (bucket, root) = bucket_and_root(self.url)?;
        Ok((bucket.to_string(), format!("/{root}")))
    }

    fn built(&self, built: opendal::Result<Operator>) -> Result<Operator> {
        built.map_err(|error| from_store(&error, "", &self.options.secrets).with("url", self.url))
    }

    /// The address that was given, or the one that belongs to the region.
    fn endpoint_or(&self, of_region: impl Fn(&str) -> String) -> Result<Option<String>> {
        let given = self.options.endpoint()?.map(str::to_string);
        Ok(given.or_else(|| self.options.get("region_name").map(of_region)))
    }
}

#[cfg(any(feature = "oss", feature = "cos"))]
fn missing(what: &str) -> Error {
    Error::new(ErrorKind::Config, "an option of the under file system is missing").with("option", what)
}

#[cfg(feature = "oss")]
impl Place<'_> {
    fn oss(&self) -> Result<Operator> {
        let (bucket, root) = self.bucket()?;
        if self.options.flag("data.lake.storage.enable")? == Some(true) {
            let message = "OSS-HDFS is not supported, only OSS: leave data.lake.storage.enable away";
            return Err(Error::new(ErrorKind::NotSupported, message));
        }
        let endpoint =
            self.endpoint_or(|region| format!("https://oss-{}.aliyuncs.com", region.trim_start_matches("oss-")))?;
        let endpoint = endpoint.ok_or_else(|| missing("endpoint_url"))?;
        let mut builder = opendal::services::Oss::default().bucket(&bucket).root(&root).endpoint(&endpoint);
        let by_path = self.options.flag("path_style")?;
        let by_host = self.options.flag("second.level.domain.enable")?;
        if by_path.or(by_host.map(|by_host| !by_host)).unwrap_or(false) {
            builder = builder.addressing_style("path");
        }
        if let Some((access, secret, token)) = self.options.keys()? {
            builder = builder.access_key_id(access).access_key_secret(secret);
            if let Some(token) = token {
                builder = builder.security_token(token);
            }
        }
        if self.options.anonymous()? {
            builder = builder.skip_signature();
        }
        self.built(Operator::new(builder))
    }
}

#[cfg(feature = "cos")]
impl Place<'_> {
    fn cos(&self) -> Result<Operator> {
        let (bucket, root) = self.bucket()?;
        let endpoint = self.endpoint_or(|region| format!("https://cos.{region}.myqcloud.com"))?;
        let endpoint = endpoint.ok_or_else(|| missing("endpoint_url"))?;
        let mut builder = opendal::services::Cos::default().bucket(&bucket).root(&root).endpoint(&endpoint);
        if let Some((access, secret, token)) = self.options.keys()? {
            builder = builder.secret_id(access).secret_key(secret).disable_config_load();
            if let Some(token) = token {
                builder = builder.security_token(token);
            }
        }
        self.built(Operator::new(builder))
    }
}

#[cfg(feature = "gcs")]
impl Place<'_> {
    fn gcs(&self) -> Result<Operator> {
        let (bucket, root) = self.bucket()?;
        let mut builder = opendal::services::Gcs::default().bucket(&bucket).root(&root);
        if let Some(endpoint) = self.options.endpoint()? {
            builder = builder.endpoint(endpoint);
        }
        if let Some(scope) = self.options.get("scope") {
            builder = builder.scope(scope);
        }
        if let Some(path) = self.options.get("credential_path") {
            builder = builder.credential_path(path);
        }
        if let Some(credential) = self.options.get("service_account") {
            builder = builder.credential(&in_base64(credential));
        }
        if let Some(token) = self.options.get("token") {
            builder = builder.token(token.to_string());
        }
        if self.options.anonymous()? {
            builder = builder.skip_signature().disable_config_load().disable_vm_metadata();
        }
        self.built(Operator::new(builder))
    }
}

/// The adapter takes a service account's JSON in base64 only; here it may also be plain.
#[cfg(feature = "gcs")]
fn in_base64(credential: &str) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    if !credential.starts_with('{') {
        return credential.to_string();
    }
    let encode = |three: &[u8]| -> [char; 4] {
        let bits = three.iter().fold(0u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - three.len()));
        std::array::from_fn(|at| match at <= three.len() {
            true => LETTERS[(bits >> (18 - 6 * at) & 63) as usize] as char,
            false => '=',
        })
    };
    credential.as_bytes().chunks(3).flat_map(encode).collect()
}

#[cfg(feature = "azblob")]
impl Place<'_> {
    fn azblob(&self) -> Result<Operator> {
        let (container, root) = self.bucket()?;
        let account = self.options.get("account_name");
        let endpoint = self.options.endpoint()?.map(str::to_string);
        let endpoint = endpoint.or_else(|| account.map(|account| format!("https://{account}.blob.core.windows.net")));
        let mut builder = opendal::services::Azblob::default().container(&container).root(&root);
        if let Some(endpoint) = endpoint {
            builder = builder.endpoint(&endpoint);
        }
        if let Some(account) = account {
            builder = builder.account_name(account);
        }
        if let Some(key) = self.options.get("account_key") {
            builder = builder.account_key(key);
        }
        if let Some(token) = self.options.get("sas_token") {
            builder = builder.sas_token(token.trim_start_matches('?'));
        }
        if self.options.anonymous()? {
            builder = builder.skip_signature();
        }
        self.built(Operator::new(builder))
    }
}

#[cfg(all(test, feature = "gcs"))]
mod tests {
    use super::*;

    #[test]
    fn a_plain_service_account_is_encoded_and_an_encoded_one_left() {
        assert_eq!(in_base64("{}"), "e30=");
        assert_eq!(in_base64("{\"a\":1}"), "eyJhIjoxfQ==");
        assert_eq!(in_base64("{ab"), "e2Fi");
        assert_eq!(in_base64("e30="), "e30=");
    }
}
