//! Which addresses a callback may reach, and the resolver that hands out no others: what is judged is what is connected
//! to, so a name that changes its address between a look and a call gains nothing.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use millrace_api::{CallbackHosts, Listing};
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use url::Host;

/// What lies at an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    /// The internet.
    Public,
    /// A private network, the cluster's own included, and what is set aside for special uses.
    Private,
    /// This machine, its link, and the services there that hand out credentials.
    Never,
}

/// A host that may not be reached where it leads.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum AddressError {
    /// It is not on the list (the list is looked at before, so only a redirect could come here).
    #[error("host {0} is not allowed; the consumer's queue.allow.callbackHosts must list it")]
    NotListed(String),
    /// All its addresses are private, and a pattern allows it.
    #[error(
        "{host} leads to {address}, a private address; it is reached only if the consumer's queue.allow.callbackHosts lists {host} in full"
    )]
    Private {
        /// The name.
        host: String,
        /// One of its addresses.
        address: IpAddr,
    },
    /// All its addresses are this machine or its link.
    #[error(
        "{host} leads to {address}, which no name may lead to: this machine, its link or a metadata service; if that is meant, name the address itself in the URL and in the consumer's queue.allow.callbackHosts"
    )]
    Never {
        /// The name.
        host: String,
        /// One of its addresses.
        address: IpAddr,
    },
}

/// Resolves only what callbacks may reach. An address in place of a name never comes here: the list must have it as it is.
#[derive(Debug, Clone)]
pub(super) struct Guard {
    pub(super) hosts: CallbackHosts,
}

impl Resolve for Guard {
    fn resolve(&self, name: Name) -> Resolving {
        let host = name.as_str().to_owned();
        let listing = self.hosts.listing(&Host::Domain(&host));
        Box::pin(async move {
            let Some(listing) = listing else { return Err(AddressError::NotListed(host).into()) };
            let found = tokio::net::lookup_host((host.as_str(), 0)).await?;
            let fine = sift(&host, listing, found)?;
            Ok(Box::new(fine.into_iter()) as Addrs)
        })
    }
}

/// The addresses that a name listed like this may lead to; an error if it has only others.
fn sift(
    host: &str,
    listing: Listing,
    found: impl IntoIterator<Item = SocketAddr>,
) -> Result<Vec<SocketAddr>, AddressError> {
    // who lists `localhost` means it
    let own_name = host.trim_end_matches('.').eq_ignore_ascii_case("localhost");
    let (mut fine, mut refused) = (Vec::new(), None);
    for address in found {
        let (ip, host) = (address.ip(), host.to_owned());
        match place(ip) {
            Place::Public => fine.push(address),
            Place::Private if listing == Listing::Full => fine.push(address),
            Place::Never if listing == Listing::Full && own_name && ip.to_canonical().is_loopback() => {
                fine.push(address);
            }
            Place::Private => refused = Some(AddressError::Private { host, address: ip }),
            Place::Never => refused = Some(AddressError::Never { host, address: ip }),
        }
    }
    match refused {
        Some(error) if fine.is_empty() => Err(error),
        _ => Ok(fine),
    }
}

fn place(address: IpAddr) -> Place {
    match address {
        IpAddr::V4(v4) => place_v4(v4),
        IpAddr::V6(v6) => place_v6(v6),
    }
}

/// By the IANA registry of special-purpose IPv4 addresses.
fn place_v4(address: Ipv4Addr) -> Place {
    match address.octets() {
        // "this" network; loopback; multicast, reserved and broadcast; link-local with the metadata services; and
        // Azure's own link to its hosts, which is public in name only
        [0 | 127 | 224..=255, ..] | [169, 254, ..] | [168, 63, 129, 16] => Place::Never,
        // RFC 1918; shared by carriers (and clusters); protocol assignments; documentation; 6to4 relays; benchmarks
        [10, ..]
        | [172, 16..=31, ..]
        | [192, 168, ..]
        | [100, 64..=127, ..]
        | [192, 0, 0 | 2, _]
        | [198, 51, 100, _]
        | [203, 0, 113, _]
        | [192, 88, 99, _]
        | [198, 18 | 19, ..] => Place::Private,
        _ => Place::Public,
    }
}

/// By the IANA registry of special-purpose IPv6 addresses. One that carries an IPv4 address leads where that one does.
fn place_v6(address: Ipv6Addr) -> Place {
    let carried = |high: u16, low: u16| place_v4(Ipv4Addr::from_bits((u32::from(high) << 16) | u32::from(low)));
    match address.segments() {
        // unspecified and loopback; link-local and multicast; the metadata and credential services of AWS
        [0, 0, 0, 0, 0, 0, 0, 0..=1] | [0xfe80..=0xfebf | 0xff00..=0xffff, ..] | [0xfd00, 0x0ec2, ..] => Place::Never,
        // IPv4-compatible and IPv4-mapped; NAT64, as public IPv4 hosts look in a network of IPv6 alone
        [0, 0, 0, 0, 0, 0 | 0xffff, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] => carried(high, low),
        // a network's own NAT64; 6to4
        [0x64, 0xff9b, 1, .., high, low] | [0x2002, high, low, ..] => carried(high, low).max(Place::Private),
        // protocol assignments, Teredo among them; documentation
        [0x2001, 0..=0x01ff | 0x0db8, ..] | [0x3fff, 0..=0x0fff, ..] => Place::Private,
        // all that was ever given to the internet
        [0x2000..=0x3fff, ..] => Place::Public,
        // unique local and whatever else
        _ => Place::Private,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn every_kind_of_address_has_its_place() {
        let public = [
            "8.8.8.8",
            "172.32.0.1",
            "100.128.0.1",
            "192.0.1.1",
            "223.255.255.255",
            "2600:1f18::1",
            "::ffff:8.8.8.8",
            "64:ff9b::808:808",
        ];
        let private = [
            "10.0.0.1",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.1.1",
            "100.64.0.1",
            "100.127.255.255",
            "100.100.100.200",
            "192.0.0.192",
            "192.0.2.1",
            "198.51.100.1",
            "203.0.113.1",
            "198.18.0.1",
            "198.19.255.255",
            "192.88.99.1",
            "fc00::1",
            "fd12:3456::1",
            "fec0::1",
            "2001:db8::1",
            "2001::1",
            "3fff::1",
            "100::1",
            "::ffff:10.0.0.1",
            "::10.0.0.1",
            "64:ff9b::a00:1",
            "64:ff9b:1::808:808",
            "2002:808:808::1",
        ];
        let never = [
            "127.0.0.1",
            "127.255.255.254",
            "0.0.0.0",
            "0.1.2.3",
            "169.254.169.254",
            "169.254.170.23",
            "168.63.129.16",
            "224.0.0.1",
            "239.255.255.255",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "fe80::1",
            "febf::1",
            "ff02::1",
            "fd00:ec2::254",
            "fd00:ec2::23",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "::127.0.0.1",
            "64:ff9b::a9fe:a9fe",
            "64:ff9b:1::a9fe:a9fe",
            "2002:7f00:1::1",
        ];
        for (addresses, wanted) in
            [(&public[..], Place::Public), (&private[..], Place::Private), (&never[..], Place::Never)]
        {
            for address in addresses {
                assert_eq!(place(ip(address)), wanted, "{address}");
            }
        }
    }

    /// A name, how it is listed, its addresses, and those of them that are handed out; none where it is refused.
    type Case<'a> = (&'a str, Listing, &'a [&'a str], Option<&'a [&'a str]>);

    #[test]
    fn a_name_reaches_what_its_listing_is_for() {
        let (public, private, metadata, loopback) = ("93.184.215.14", "10.1.2.3", "169.254.169.254", "127.0.0.1");
        let reached = |host: &str, listing, found: &[&str]| {
            let found: Vec<SocketAddr> = found.iter().map(|&text| SocketAddr::new(ip(text), 0)).collect();
            sift(host, listing, found).map(|fine| fine.iter().map(|a| a.ip().to_string()).collect::<Vec<_>>())
        };
        let table: [Case; 9] = [
            ("a.test", Listing::Below, &[public], Some(&[public])),
            ("a.test", Listing::Below, &[private], None),
            ("a.test", Listing::Below, &[private, public, metadata], Some(&[public])),
            ("a.test", Listing::Full, &[private, public], Some(&[private, public])),
            ("a.test", Listing::Full, &[metadata], None),
            ("a.test", Listing::Full, &[loopback, "::1", "::ffff:127.0.0.1"], None),
            ("localhost", Listing::Full, &[loopback, "::1"], Some(&[loopback, "::1"])),
            ("localhost", Listing::Full, &[metadata], None),
            ("localhost", Listing::Below, &[loopback], None),
        ];
        for (host, listing, found, wanted) in table {
            let reached = reached(host, listing, found);
            assert_eq!(
                reached.as_deref().ok(),
                wanted.map(|w| w.iter().map(|&a| a.to_owned()).collect::<Vec<_>>()).as_deref(),
                "{host} {listing:?} {found:?}"
            );
        }
        assert!(matches!(reached("a.test", Listing::Below, &[private]), Err(AddressError::Private { .. })));
        assert!(matches!(reached("a.test", Listing::Full, &[metadata]), Err(AddressError::Never { .. })));
    }

    #[tokio::test]
    async fn only_listed_names_are_looked_up() {
        let guard = |list: &[&str]| {
            let list: Vec<String> = list.iter().map(|&entry| entry.to_owned()).collect();
            Guard { hosts: CallbackHosts::parse(&list).unwrap() }
        };
        let localhost = || "localhost".parse::<Name>().unwrap();
        let found: Vec<_> = guard(&["localhost"]).resolve(localhost()).await.unwrap().collect();
        assert!(!found.is_empty() && found.iter().all(|a| a.ip().is_loopback()), "{found:?}");
        for list in [&["127.0.0.1"][..], &["*.localhost"], &[]] {
            let refused = guard(list).resolve(localhost()).await.err().unwrap();
            assert_eq!(refused.downcast_ref(), Some(&AddressError::NotListed("localhost".into())), "{list:?}");
        }
    }
}
