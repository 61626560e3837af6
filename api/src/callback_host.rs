//! `queue.allow.callbackHosts`: which hosts a message's `callback_url` may name.

use std::net::IpAddr;
use std::str::FromStr;

use url::{Host, Url};

/// One entry of the list: `hooks.example.com`, `*.example.com`, `203.0.113.7` or `2001:db8::7`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CallbackHost {
    /// This host or address and no other.
    Full(Host),
    /// Any host below this domain, not the domain itself.
    Below(String),
}

/// Why a text is not such an entry.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a host; write hooks.example.com, *.example.com or an address, without scheme, port, path and brackets"
)]
pub struct CallbackHostError(String);

impl FromStr for CallbackHost {
    type Err = CallbackHostError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || CallbackHostError(text.to_owned());
        match text.parse() {
            Ok(IpAddr::V4(address)) => return Ok(Self::Full(Host::Ipv4(address))),
            Ok(IpAddr::V6(address)) => return Ok(Self::Full(Host::Ipv6(address))),
            Err(_) => {}
        }
        let (below, name) = text.strip_prefix("*.").map_or((false, text), |domain| (true, domain));
        if name.contains('*') {
            return Err(wrong());
        }
        match Host::parse(name) {
            Ok(Host::Domain(domain)) if bare(&domain).is_empty() => Err(wrong()),
            Ok(Host::Domain(domain)) if below => Ok(Self::Below(bare(&domain).to_owned())),
            Ok(Host::Domain(domain)) => Ok(Self::Full(Host::Domain(bare(&domain).to_owned()))),
            // `127.1` and `0x7f000001` are addresses to a browser and names to a reader
            Ok(_) | Err(_) => Err(wrong()),
        }
    }
}

/// How a host came to be allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Listing {
    /// By a `*.` entry: its owner may give it any address, so only public ones are for it.
    Below,
    /// Itself.
    Full,
}

/// The whole list, read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CallbackHosts(Vec<CallbackHost>);

impl CallbackHosts {
    /// Reads the list; each entry that is not one is told with its place.
    pub fn parse(list: &[String]) -> Result<Self, Vec<(usize, CallbackHostError)>> {
        let (mut hosts, mut wrong) = (Vec::with_capacity(list.len()), Vec::new());
        for (index, entry) in list.iter().enumerate() {
            match entry.parse() {
                Ok(host) => hosts.push(host),
                Err(error) => wrong.push((index, error)),
            }
        }
        if wrong.is_empty() { Ok(Self(hosts)) } else { Err(wrong) }
    }

    /// How this host is allowed, if it is.
    pub fn listing(&self, host: &Host<&str>) -> Option<Listing> {
        self.0.iter().filter_map(|entry| entry.listing(host)).max()
    }

    /// A URL that may be called; else why it may not.
    pub fn permit(&self, url: &str) -> Result<Url, CallbackUrlError> {
        let url = Url::parse(url).map_err(|e| CallbackUrlError::NotAUrl(e.to_string()))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(CallbackUrlError::NotAUrl(format!("scheme {}", url.scheme())));
        }
        let Some(host) = url.host() else { return Err(CallbackUrlError::NotAUrl("no host".into())) };
        if self.listing(&host).is_none() {
            return Err(CallbackUrlError::NotAllowed(host.to_string()));
        }
        Ok(url)
    }
}

/// Why a URL is not called.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallbackUrlError {
    /// Not a URL that can be called.
    #[error("not an http or https URL: {0}")]
    NotAUrl(String),
    /// Its host is not on the list.
    #[error("host {0} is not allowed; the consumer's queue.allow.callbackHosts must list it")]
    NotAllowed(String),
}

impl CallbackHost {
    fn listing(&self, host: &Host<&str>) -> Option<Listing> {
        match (self, host) {
            (Self::Full(Host::Domain(own)), Host::Domain(name)) => (own == bare(name)).then_some(Listing::Full),
            (Self::Full(Host::Ipv4(own)), Host::Ipv4(address)) => (own == address).then_some(Listing::Full),
            (Self::Full(Host::Ipv6(own)), Host::Ipv6(address)) => (own == address).then_some(Listing::Full),
            (Self::Below(domain), Host::Domain(name)) => {
                let above = bare(name).strip_suffix(domain.as_str())?.strip_suffix('.')?;
                (!above.is_empty()).then_some(Listing::Below)
            }
            _ => None,
        }
    }
}

/// A name without the root's dot.
fn bare(name: &str) -> &str {
    name.strip_suffix('.').unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts(list: &[&str]) -> CallbackHosts {
        CallbackHosts::parse(&list.iter().map(|&entry| entry.to_owned()).collect::<Vec<_>>()).unwrap()
    }

    #[test]
    fn a_url_is_permitted_by_its_host_alone() {
        let list = hosts(&["hooks.example.com", "*.example.org", "127.0.0.1", "2001:db8::7", "Bücher.example."]);
        for url in [
            "https://hooks.example.com/done?job=7",
            "http://HOOKS.example.com.:8080/",
            "https://a.example.org",
            "https://a.b.example.org",
            "http://127.0.0.1:9/",
            "http://2130706433/",
            "http://[2001:db8:0::7]/",
            "https://xn--bcher-kva.example/",
        ] {
            assert!(list.permit(url).is_ok(), "{url}: {:?}", list.permit(url));
        }
        for url in [
            "https://example.org",
            "https://.example.org",
            "https://badexample.org",
            "https://example.com",
            "https://hooks.example.com.evil.test/",
            "https://hooks.example.com@evil.test/",
            "https://evil.test/?hooks.example.com",
            "http://localhost/",
            "http://127.0.0.2/",
            "http://[::ffff:127.0.0.1]/",
        ] {
            assert!(matches!(list.permit(url), Err(CallbackUrlError::NotAllowed(_))), "{url}: {:?}", list.permit(url));
        }
        for url in ["hooks.example.com", "ftp://hooks.example.com/", "file:///etc/passwd", "https://", ""] {
            assert!(matches!(list.permit(url), Err(CallbackUrlError::NotAUrl(_))), "{url}");
        }
    }

    #[test]
    fn an_entry_in_full_goes_before_a_pattern() {
        let list = hosts(&["*.example.com", "hooks.example.com"]);
        assert_eq!(list.listing(&Host::Domain("hooks.example.com")), Some(Listing::Full));
        assert_eq!(list.listing(&Host::Domain("other.example.com")), Some(Listing::Below));
        assert_eq!(list.listing(&Host::Domain("example.com")), None);
    }

    #[test]
    fn an_entry_that_is_no_host_is_told_with_its_place() {
        let wrong = ["", ".", "*", "*.", "*.*.com", "a.*.com", "https://a.com", "a.com:443", "a.com/x", "a b", "[::1]"];
        let list: Vec<String> = ["fine.test"].iter().chain(&wrong).map(|&entry| entry.to_owned()).collect();
        let told = CallbackHosts::parse(&list).unwrap_err();
        assert_eq!(told.iter().map(|(at, _)| *at).collect::<Vec<_>>(), (1..list.len()).collect::<Vec<_>>());
        for odd in ["127.1", "0x7f000001", "*.127.0.0.1"] {
            assert!(odd.parse::<CallbackHost>().is_err(), "{odd}");
        }
    }
}
