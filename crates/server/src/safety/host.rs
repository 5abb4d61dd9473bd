//! By which names a server may be called. A page whose name was made to lead to this machine (DNS rebinding) calls it by
//! its own.

use std::net::IpAddr;

use crate::config::{Access, Config};

/// The name and port of a `Host` header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// The name or address, in lower case; an IPv6 address without its brackets.
    pub name: String,
    /// The port, where it is there.
    pub port: Option<u16>,
}

impl Host {
    /// Reads `name`, `name:port`, `[address]:port`.
    pub fn parse(authority: &str) -> Option<Self> {
        let (name, rest) = match authority.strip_prefix('[') {
            Some(inner) => {
                let (address, rest) = inner.split_once(']')?;
                address.parse::<std::net::Ipv6Addr>().ok()?;
                (address, rest)
            }
            None => authority.split_at(authority.find(':').unwrap_or(authority.len())),
        };
        let port = match rest {
            "" => None,
            port => Some(port.strip_prefix(':')?.parse().ok()?),
        };
        let letter = |c: char| c.is_ascii_alphanumeric() || ".-_:%".contains(c);
        let is_name = !name.is_empty() && name.chars().all(letter);
        is_name.then(|| Self { name: name.trim_end_matches('.').to_ascii_lowercase(), port })
    }

    /// Whether a server that was started so may be called by this name. On a loopback address these are the names that
    /// lead there; elsewhere addresses and names that no other site can have: those without a dot, and of the local
    /// network.
    pub fn is_allowed(&self, config: &Config) -> bool {
        let name = self.name.as_str();
        if config.allowed_hosts.iter().any(|allowed| allowed.eq_ignore_ascii_case(name)) {
            return true;
        }
        let address: Option<IpAddr> = name.parse().ok();
        let here = name == "localhost" || name.ends_with(".localhost");
        match config.access {
            Access::Loopback => here || address.is_some_and(|address| address.is_loopback()),
            // Another site's page does not have the token.
            Access::Token(_) => true,
            Access::Insecure => {
                here || address.is_some() || !name.contains('.') || name.ends_with(".local")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(name: &str, port: Option<u16>) -> Option<Host> {
        Some(Host { name: name.to_owned(), port })
    }

    #[test]
    fn hosts_are_read() {
        assert_eq!(Host::parse("localhost:8188"), host("localhost", Some(8188)));
        assert_eq!(Host::parse("LocalHost."), host("localhost", None));
        assert_eq!(Host::parse("[::1]:80"), host("::1", Some(80)));
        for wrong in ["", ":80", "a:b", "a:99999", "[::1", "[x]", "a b", "a/b", "a@b", "a:1:2"] {
            assert_eq!(Host::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn names_that_lead_elsewhere_are_not_allowed() {
        let allowed = |name: &str, access: Access| {
            let config =
                Config { access, allowed_hosts: vec!["My.Box".into()], ..Config::default() };
            Host::parse(name).is_some_and(|host| host.is_allowed(&config))
        };
        for name in ["localhost", "a.localhost:1", "127.0.0.1", "127.9.9.9:8188", "[::1]", "my.box"]
        {
            assert!(allowed(name, Access::Loopback), "{name}");
            assert!(allowed(name, Access::Insecure), "{name}");
        }
        for name in
            ["evil.example", "localhost.evil.example", "192.168.0.7", "0.0.0.0", "2130706433"]
        {
            assert!(!allowed(name, Access::Loopback), "{name}");
        }
        for name in ["192.168.0.7", "box", "box.local", "[fe80::1]"] {
            assert!(allowed(name, Access::Insecure), "{name}");
        }
        assert!(!allowed("evil.example", Access::Insecure));
        assert!(allowed("evil.example", Access::Token("x".into())));
    }
}
