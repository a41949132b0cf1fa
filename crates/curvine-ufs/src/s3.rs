//! Object stores that speak S3, through OpenDAL.
//!
//! Always: what all stores of objects do alike is done by `Objects`; here are the names of the options, and how things are stored.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use curvine_types::{Error, ErrorKind, Result};
use futures::FutureExt;
use futures::future::BoxFuture;
use opendal::{HttpTransporter, OperationContext, Operator, services};

use crate::checked_transport::{CheckedTransport, ListingForm};
use crate::error::from_store;
use crate::http_client::client;
use crate::objects::Objects;
use crate::options::Options;
use crate::policy::Policy;
use crate::s3_multipart::{Access, Multipart};
use crate::services::bucket_and_root;
use crate::{Condition, Counters, Expect, ListPage, Object, Sink, Source, SurveyMark, SurveyPage, Ufs, Wanted};

/// Region told to a store of one's own that does not care.
const REGION_DEFAULT: &str = "us-east-1";

pub(crate) struct S3Ufs {
    pub(crate) objects: Objects,
    pub(crate) multipart: Arc<Multipart>,
    /// Whether the store knows conditions on writes; assumed until it says that it does not.
    pub(crate) conditional: AtomicBool,
}

impl S3Ufs {
    pub(crate) fn open(url: &str, options: Options, policy: &Policy, counters: Arc<Counters>) -> Result<Self> {
        let (bucket, root) = bucket_and_root(url)?;
        let secrets = options.secrets.clone();
        let options = S3Options::new(&options)?;
        let builder = options.apply(services::S3::default().bucket(bucket).root(&format!("/{root}")), bucket);
        let operator = Operator::new(builder).map_err(|error| from_store(&error, "", &secrets).with("url", url))?;
        let client = client(policy)?;
        let transport =
            HttpTransporter::new(CheckedTransport::new(client.clone(), ListingForm::Xml("ListBucketResult")));
        let access = options.access(bucket, &root);
        let multipart = Multipart::new(access, client, transport.clone(), policy, counters.clone(), secrets.clone());
        let operator = operator.with_context(OperationContext::new().with_http_transport(transport));
        Ok(Self {
            objects: Objects::new(operator, url, secrets, counters),
            multipart: Arc::new(multipart),
            conditional: AtomicBool::new(true),
        })
    }
}

struct S3Options {
    values: BTreeMap<&'static str, String>,
    path_style: Option<bool>,
    anonymous: bool,
    list_v1: bool,
}

impl S3Options {
    fn new(options: &Options) -> Result<Self> {
        let list_v1 = match options.get("list_objects_version") {
            None | Some("v2" | "2") => false,
            Some("v1" | "1") => true,
            Some(_) => return Err(Error::new(ErrorKind::Config, "list_objects_version must be v1 or v2")),
        };
        options.keys()?;
        options.endpoint()?;
        Ok(Self {
            values: options.values().clone(),
            path_style: options.flag("path_style")?,
            anonymous: options.anonymous()?,
            list_v1,
        })
    }

    /// The same for requests that OpenDAL does not make.
    fn access(&self, bucket: &str, root: &str) -> Access {
        let value = |name: &str| self.values.get(name).cloned();
        let endpoint = value("endpoint_url");
        let is_amazon = endpoint.as_deref().is_none_or(|endpoint| endpoint.contains("amazonaws.com"));
        let by_environment = || ["AWS_REGION", "AWS_DEFAULT_REGION"].iter().find_map(|name| std::env::var(name).ok());
        let region = value("region_name").or_else(|| is_amazon.then(by_environment).flatten());
        let region = region.unwrap_or_else(|| REGION_DEFAULT.to_string());
        let endpoint = match endpoint {
            Some(endpoint) if endpoint.contains("://") => endpoint,
            Some(endpoint) => format!("https://{endpoint}"),
            None => format!("https://s3.{region}.amazonaws.com"),
        };
        // As OpenDAL takes it.
        let endpoint = endpoint.trim_end_matches('/').replace(&format!("//{bucket}."), "//");
        let endpoint = match endpoint.as_str() {
            "https://s3.amazonaws.com" => format!("https://s3.{region}.amazonaws.com"),
            _ => endpoint,
        };
        let base = match self.path_style.unwrap_or(!is_amazon || bucket.contains('.')) {
            true => format!("{endpoint}/{bucket}"),
            false => endpoint.replacen("://", &format!("://{bucket}."), 1),
        };
        let keys = match (value("access"), value("secret")) {
            (Some(access), Some(secret)) => Some((access, secret, value("session_token"))),
            _ => None,
        };
        Access { base, prefix: root.trim_matches('/').to_string(), region, keys, anonymous: self.anonymous }
    }

    fn apply(&self, mut builder: services::S3, bucket: &str) -> services::S3 {
        let value = |name: &str| self.values.get(name).map(String::as_str);
        let endpoint = value("endpoint_url");
        match (value("region_name"), endpoint) {
            (Some(region), _) => builder = builder.region(region),
            (None, Some(endpoint)) if !endpoint.contains("amazonaws.com") => builder = builder.region(REGION_DEFAULT),
            // Amazon: from the environment or the profile.
            (None, _) => {}
        }
        if let Some(endpoint) = endpoint {
            builder = builder.endpoint(endpoint);
        }
        // A bucket with dots has no certificate of its own.
        let amazon = endpoint.is_none_or(|endpoint| endpoint.contains("amazonaws.com"));
        if !self.path_style.unwrap_or(!amazon || bucket.contains('.')) {
            builder = builder.enable_virtual_host_style();
        }
        if self.list_v1 {
            builder = builder.disable_list_objects_v2();
        }
        if self.anonymous {
            return builder.skip_signature().disable_config_load().disable_ec2_metadata();
        }
        if let (Some(access), Some(secret)) = (value("access"), value("secret")) {
            builder = builder.access_key_id(access).secret_access_key(secret);
            builder = builder.disable_config_load().disable_ec2_metadata();
        }
        match value("session_token") {
            Some(token) => builder.session_token(token),
            None => builder,
        }
    }
}

impl Ufs for S3Ufs {
    fn stat<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<Object>>> {
        self.objects.stat(key).boxed()
    }

    fn list<'a>(&'a self, prefix: &'a str, start_after: &'a str, limit: usize) -> BoxFuture<'a, Result<ListPage>> {
        self.objects.list(prefix, start_after, limit).boxed()
    }

    fn fetch<'a>(&'a self, wanted: Wanted<'a>, sink: &'a dyn Sink) -> BoxFuture<'a, Result<()>> {
        self.objects.fetch(wanted, sink).boxed()
    }

    fn store<'a>(&'a self, key: &'a str, source: &'a dyn Source, when: &'a Condition) -> BoxFuture<'a, Result<Object>> {
        self.store_object(key, source, when).boxed()
    }

    fn abort<'a>(&'a self, key: &'a str, upload: &'a str) -> BoxFuture<'a, Result<()>> {
        self.multipart.abort(key, upload).boxed()
    }

    fn make_directory<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<()>> {
        self.objects.put_marker(key).boxed()
    }

    fn remove_directory<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<()>> {
        self.objects.remove_marker(key).boxed()
    }

    fn delete<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<()>> {
        self.objects.remove(key).boxed()
    }

    fn rename<'a>(&'a self, from: &'a str, to: &'a str, expect: &'a Expect) -> BoxFuture<'a, Result<Object>> {
        self.objects.move_object(from, to, expect).boxed()
    }

    fn rename_directory<'a>(&'a self, from: &'a str, to: &'a str, limit: u64) -> BoxFuture<'a, Result<u64>> {
        self.objects.move_directory(from, to, limit).boxed()
    }

    fn survey<'a>(&'a self, prefix: &'a str, from: &'a SurveyMark, limit: usize) -> BoxFuture<'a, Result<SurveyPage>> {
        self.objects.survey(prefix, from, limit).boxed()
    }

    fn counters(&self) -> &Counters {
        &self.objects.counters
    }
}
