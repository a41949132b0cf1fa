//! Where a peer listens: `host:port`, or `unix:/path`.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use curvine_types::{Error, ErrorKind, Result};

/// Where a peer listens. A host name is resolved anew at each connect.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Address {
    /// `host:port`; an IPv6 address stands in brackets.
    Tcp(String),
    /// The socket's path.
    Unix(PathBuf),
}

impl FromStr for Address {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let invalid = |message: &str| Error::new(ErrorKind::InvalidArgument, message).with("text", text);
        if let Some(path) = text.strip_prefix("unix:") {
            if path.is_empty() {
                return Err(invalid("the path of a unix socket is missing; write unix:/path"));
            }
            return Ok(Address::Unix(path.into()));
        }
        let (host, port) =
            text.rsplit_once(':').ok_or_else(|| invalid("not an address; write host:port or unix:/path"))?;
        let host_ok = !host.is_empty() && (!host.contains(':') || (host.starts_with('[') && host.ends_with(']')));
        if !host_ok || port.parse::<u16>().is_err() {
            return Err(invalid("not an address; write host:port, [ipv6]:port or unix:/path"));
        }
        Ok(Address::Tcp(text.to_string()))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Tcp(text) => f.write_str(text),
            Address::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_survives_its_text_form() {
        for text in ["localhost:8995", "10.0.0.1:1", "[::1]:8997", "unix:/run/curvine.sock"] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
        }
        for bad in ["", "host", "host:", ":1", "host:70000", "::1:80", "unix:"] {
            assert_eq!(bad.parse::<Address>().unwrap_err().kind(), ErrorKind::InvalidArgument, "{bad}");
        }
    }
}
