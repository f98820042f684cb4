//! Which addresses may be connected to: public ones, and what the operator allowed beside them.
//!
//! Endpoint URLs come from users; without this a webhook is a way into the sender's own network
//! (server-side request forgery). The table is the union of IANA's special-purpose registries
//! (<https://www.iana.org/assignments/iana-ipv4-special-registry>, `…/iana-ipv6-special-registry`)
//! and the RFCs named with each row. Forms of IPv6 that carry an IPv4 address are judged by what
//! they carry.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use postrider::config::NetworkPolicy;

/// Whether `address` is public.
///
/// # Errors
/// What kind of address it is instead, as in `loopback 127/8 (RFC 1122)`.
pub fn verdict(address: IpAddr) -> Result<(), &'static str> {
    match address {
        IpAddr::V4(v4) => verdict_v4(v4),
        IpAddr::V6(v6) => verdict_v6(v6),
    }
}

/// Why [`permit`] refuses an address that the operator denied.
pub const DENIED: &str = "in a network of deny";

/// Completes "the network policy forbids …: " with "it is" or the like and the reason of a refusal.
pub(super) fn reason(reason: &str) -> String {
    if reason == DENIED { reason.to_owned() } else { format!("{reason}, not a public address") }
}

/// The IPv4 address that a connection to this IPv6 address ends at.
fn carried(address: IpAddr) -> Option<IpAddr> {
    let IpAddr::V6(v6) = address else { return None };
    match v6.segments() {
        [0, 0, 0, 0, 0, 0xffff, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] => {
            Some(Ipv4Addr::from((u32::from(high) << 16) | u32::from(low)).into())
        }
        _ => None,
    }
}

/// Whether `address` may be connected to: `policy` does not deny it, and it is public or allowed.
///
/// # Errors
/// [`DENIED`], or as [`verdict`].
pub fn permit(address: IpAddr, policy: &NetworkPolicy) -> Result<(), &'static str> {
    if policy.denies(address) || carried(address).is_some_and(|carried| policy.denies(carried)) {
        return Err(DENIED);
    }
    // An IPv4-mapped address reaches the very machine that its IPv4 address does.
    if policy.allows(address) || policy.allows(address.to_canonical()) {
        return Ok(());
    }
    verdict(address)
}

fn verdict_v4(address: Ipv4Addr) -> Result<(), &'static str> {
    Err(match address.octets() {
        [0, ..] => "this network 0/8 (RFC 791)",
        [10, ..] => "private 10/8 (RFC 1918)",
        [100, 64..=127, ..] => "carrier-grade NAT 100.64/10 (RFC 6598)",
        [127, ..] => "loopback 127/8 (RFC 1122)",
        [169, 254, ..] => "link-local 169.254/16 (RFC 3927; cloud metadata)",
        [172, 16..=31, ..] => "private 172.16/12 (RFC 1918)",
        [192, 0, 0, _] => "IETF protocol assignments 192.0.0/24 (RFC 6890)",
        [192, 0, 2, _] | [198, 51, 100, _] | [203, 0, 113, _] => "documentation (RFC 5737)",
        [192, 88, 99, _] => "6to4 relay anycast 192.88.99/24 (RFC 7526)",
        [192, 168, ..] => "private 192.168/16 (RFC 1918)",
        [198, 18..=19, ..] => "benchmarking 198.18/15 (RFC 2544)",
        [224..=239, ..] => "multicast 224/4 (RFC 5771)",
        [255, 255, 255, 255] => "limited broadcast (RFC 8190)",
        [240..=255, ..] => "reserved 240/4 (RFC 1112)",
        _ => return Ok(()),
    })
}

fn verdict_v6(address: Ipv6Addr) -> Result<(), &'static str> {
    let [.., high, low] = address.segments();
    let embedded = Ipv4Addr::from((u32::from(high) << 16) | u32::from(low));
    Err(match address.segments() {
        [0, 0, 0, 0, 0, 0, 0, 0] => "unspecified ::/128 (RFC 4291)",
        [0, 0, 0, 0, 0, 0, 0, 1] => "loopback ::1/128 (RFC 4291)",
        // IPv4-mapped (RFC 4291 §2.5.5.2) and the well-known NAT64 prefix (RFC 6052) do reach the
        // embedded address.
        [0, 0, 0, 0, 0, 0xffff, ..] | [0x64, 0xff9b, 0, 0, 0, 0, ..] => {
            return verdict_v4(embedded);
        }
        // Deprecated, and routed nowhere but where somebody means to get past a filter.
        [0, 0, 0, 0, 0, 0, ..] => "IPv4-compatible ::/96 (RFC 4291, deprecated)",
        [0, 0, 0, 0, 0xffff, 0, ..] => "IPv4-translated ::ffff:0:0:0/96 (RFC 2765)",
        [0x64, 0xff9b, 1, ..] => "local-use NAT64 64:ff9b:1::/48 (RFC 8215)",
        [0x100, 0, 0, 0, ..] => "discard-only 100::/64 (RFC 6666)",
        [0x100, 0, 0, 1, ..] => "dummy prefix 100:0:0:1::/64 (RFC 9780)",
        [0x2001, 0, ..] => "Teredo 2001::/32 (RFC 4380)",
        [0x2001, 0..=0x1ff, ..] => "IETF protocol assignments 2001::/23 (RFC 2928)",
        [0x2001, 0xdb8, ..] | [0x3fff, 0..=0xfff, ..] => "documentation (RFC 3849, RFC 9637)",
        [0x2002, ..] => "6to4 2002::/16 (RFC 3056)",
        [0x5f00, ..] => "segment routing 5f00::/16 (RFC 9602)",
        [0xfc00..=0xfdff, ..] => "unique local fc00::/7 (RFC 4193)",
        [0xfe80..=0xfebf, ..] => "link-local fe80::/10 (RFC 4291)",
        [0xfec0..=0xfeff, ..] => "site-local fec0::/10 (RFC 3879, deprecated)",
        [0xff00..=0xffff, ..] => "multicast ff00::/8 (RFC 4291)",
        // All of global unicast that is given out (IANA IPv6 address space registry).
        [0x2000..=0x3fff, ..] => return Ok(()),
        _ => "outside global unicast 2000::/3 (RFC 4291)",
    })
}

/// What a host name means before any DNS is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NameKind {
    /// `localhost` and all below it: loopback, whatever DNS says (RFC 6761 §6.3).
    Loopback,
    /// A cloud's metadata service, which hands out the machine's credentials.
    Metadata,
    /// Any other name: its addresses decide.
    Ordinary,
}

/// The address behind every name of [`NameKind::Metadata`]: whoever allows it allows the names.
pub(super) const METADATA: IpAddr = IpAddr::V4(Ipv4Addr::new(169, 254, 169, 254));
/// Where [`NameKind::Loopback`] leads.
pub(super) const LOOPBACK: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];

/// Sorts a lower-case host name without a trailing dot.
pub(super) fn kind_of(name: &str) -> NameKind {
    const METADATA_NAMES: [&str; 4] =
        ["metadata.google.internal", "metadata.goog", "metadata", "instance-data.ec2.internal"];
    if name == "localhost" || name.ends_with(".localhost") {
        NameKind::Loopback
    } else if METADATA_NAMES.contains(&name) {
        NameKind::Metadata
    } else {
        NameKind::Ordinary
    }
}
