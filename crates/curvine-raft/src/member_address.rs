//! How a replica is reached, as the membership keeps it: by the other masters, and by clients and workers.

use std::fmt;

/// The two addresses of a member, each `host:port`, resolved anew at each connect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberAddress {
    /// Of its log.
    pub log: String,
    /// Of its RPC.
    pub rpc: String,
}

impl MemberAddress {
    /// Reads the text of the membership. One that names a single address stands for both.
    pub fn parse(text: &str) -> Self {
        let (log, rpc) = text.split_once(';').unwrap_or((text, text));
        Self { log: log.to_string(), rpc: rpc.to_string() }
    }
}

impl fmt::Display for MemberAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{};{}", self.log, self.rpc)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_addresses_survive_and_one_stands_for_two() {
        let both = MemberAddress { log: "m0:8996".into(), rpc: "m0:8995".into() };
        assert_eq!(MemberAddress::parse(&both.to_string()), both);
        let one = MemberAddress::parse("m0:8995");
        assert_eq!((one.log.as_str(), one.rpc.as_str()), ("m0:8995", "m0:8995"));
    }
}
