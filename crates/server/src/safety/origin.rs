//! Whether the page that sends a request is one of this server's.

use super::host::Host;

/// Whether an `Origin` header (`http://localhost:8188`) names the host that the request is for.
pub fn is_same(origin: &str, host: &Host) -> bool {
    let Some((scheme, authority)) = origin.split_once("://") else { return false };
    let standard = match scheme {
        "http" => 80,
        "https" => 443,
        _ => return false,
    };
    let Some(from) = Host::parse(authority) else { return false };
    from.name == host.name && from.port.unwrap_or(standard) == host.port.unwrap_or(standard)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_same_name_and_port_are_the_same() {
        let same = |origin: &str, host: &str| is_same(origin, &Host::parse(host).unwrap());
        assert!(same("http://localhost:8188", "localhost:8188"));
        assert!(same("https://box", "box:443"));
        assert!(same("http://[::1]:8188", "[::1]:8188"));
        for origin in [
            "null",
            "",
            "http://localhost:3000",
            "http://localhost",
            "http://127.0.0.1:8188",
            "http://evil.example:8188",
            "http://localhost:8188.evil.example",
            "file://localhost:8188",
            "http://localhost:8188/path",
        ] {
            assert!(!same(origin, "localhost:8188"), "{origin}");
        }
    }
}
