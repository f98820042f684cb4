//! The `[network]` section: which addresses may be connected to, and from where.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use super::Secret;

/// Where a sink may connect to, and which local address it sends from.
///
/// What counts as public is decided by the sink that connects; this only carries what the operator
/// said beside that. Default: public addresses, any port, http and https, the local address that
/// the system picks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NetworkPolicy {
    allow: Vec<IpNet>,
    deny: Vec<IpNet>,
    /// Sorted. `None`: any.
    ports: Option<Vec<u16>>,
    https_only: bool,
    bind_v4: Option<Ipv4Addr>,
    bind_v6: Option<Ipv6Addr>,
    proxy: Option<Secret>,
}

/// A text that is no network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidNetwork {
    found: String,
}

impl fmt::Display for InvalidNetwork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "expected a network such as \"127.0.0.0/8\" or \"::1/128\", found {:?}",
            self.found
        )
    }
}

impl std::error::Error for InvalidNetwork {}

impl NetworkPolicy {
    /// Only public addresses.
    pub fn public_only() -> Self {
        Self::default()
    }

    /// Allows one more network, such as `127.0.0.0/8`, or one address, such as `::1`.
    ///
    /// # Errors
    /// A text that is neither.
    pub fn allow(mut self, network: &str) -> Result<Self, InvalidNetwork> {
        self.allow.push(parse(network)?);
        Ok(self)
    }

    /// Denies one more network or address, public or [allowed](Self::allow): a denial always wins.
    ///
    /// # Errors
    /// A text that is neither.
    pub fn deny(mut self, network: &str) -> Result<Self, InvalidNetwork> {
        self.deny.push(parse(network)?);
        Ok(self)
    }

    /// Leaves only these ports, of those that were permitted before: a second call can take ports
    /// away and never add one.
    #[must_use]
    pub fn only_ports(mut self, ports: impl IntoIterator<Item = u16>) -> Self {
        let mut ports: Vec<u16> =
            ports.into_iter().filter(|&port| self.permits_port(port)).collect();
        ports.sort_unstable();
        ports.dedup();
        self.ports = Some(ports);
        self
    }

    /// Forbids plain http. There is no way back.
    #[must_use]
    pub fn https_only(mut self) -> Self {
        self.https_only = true;
        self
    }

    /// Sends from these local addresses, the last of each family, in place of those said before.
    /// With none, the system picks; with one family only, the other is not connected to.
    #[must_use]
    pub fn bind(mut self, addresses: impl IntoIterator<Item = IpAddr>) -> Self {
        (self.bind_v4, self.bind_v6) = (None, None);
        for address in addresses {
            match address {
                IpAddr::V4(address) => self.bind_v4 = Some(address),
                IpAddr::V6(address) => self.bind_v6 = Some(address),
            }
        }
        self
    }

    /// Connects through this forward proxy, an http URL that may hold a user and a password; checked
    /// by the sink that uses it.
    #[must_use]
    pub fn through(mut self, proxy: Secret) -> Self {
        self.proxy = Some(proxy);
        self
    }

    /// The forward proxy to connect through; `None` where connections are direct.
    pub fn proxy(&self) -> Option<&Secret> {
        self.proxy.as_ref()
    }

    /// The networks allowed beside public addresses.
    pub fn allowed(&self) -> &[IpNet] {
        &self.allow
    }

    /// Whether the operator allowed this address by name. [`denies`](Self::denies) comes first.
    pub fn allows(&self, address: IpAddr) -> bool {
        self.allow.iter().any(|network| network.contains(&address))
    }

    /// Whether the operator denied this address.
    pub fn denies(&self, address: IpAddr) -> bool {
        self.deny.iter().any(|network| network.contains(&address))
    }

    /// Whether this port may be connected to.
    pub fn permits_port(&self, port: u16) -> bool {
        self.ports.as_ref().is_none_or(|ports| ports.contains(&port))
    }

    /// Whether plain http is forbidden.
    pub fn is_https_only(&self) -> bool {
        self.https_only
    }

    /// The local addresses to send from, at most one of each family; none where the system picks.
    pub fn bound(&self) -> Vec<IpAddr> {
        let v4 = self.bind_v4.map(IpAddr::from);
        v4.into_iter().chain(self.bind_v6.map(IpAddr::from)).collect()
    }

    /// The local address to send to `peer` from; `None` where the system picks.
    ///
    /// # Errors
    /// The family of `peer`, as in `IPv6`, where only the other one has an address.
    pub fn bind_for(&self, peer: IpAddr) -> Result<Option<IpAddr>, &'static str> {
        let (own, family) = match peer {
            IpAddr::V4(_) => (self.bind_v4.map(IpAddr::from), "IPv4"),
            IpAddr::V6(_) => (self.bind_v6.map(IpAddr::from), "IPv6"),
        };
        match own {
            None if self.bind_v4.is_some() || self.bind_v6.is_some() => Err(family),
            own => Ok(own),
        }
    }
}

fn parse(network: &str) -> Result<IpNet, InvalidNetwork> {
    network
        .parse::<IpNet>()
        .or_else(|_| network.parse::<IpAddr>().map(IpNet::from))
        .map_err(|_| InvalidNetwork { found: network.chars().take(64).collect() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_only_ever_taken_away() {
        let any = NetworkPolicy::public_only();
        assert!(any.permits_port(22));
        let two = any.only_ports([443, 80, 443]);
        assert!(two.permits_port(80) && two.permits_port(443) && !two.permits_port(22));
        let one = two.only_ports([443, 22]);
        assert!(one.permits_port(443) && !one.permits_port(22) && !one.permits_port(80));
        assert!(!one.only_ports([22]).permits_port(443));
    }

    #[test]
    fn a_bound_family_leaves_the_other_unused() {
        let [v4, v6]: [IpAddr; 2] = ["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()];
        let policy = NetworkPolicy::public_only();
        assert_eq!((policy.bind_for(v4), policy.bind_for(v6)), (Ok(None), Ok(None)));
        let policy = policy.bind([v4]);
        assert_eq!((policy.bind_for(v4), policy.bind_for(v6)), (Ok(Some(v4)), Err("IPv6")));
        let policy = policy.bind([v6]);
        assert_eq!((policy.bind_for(v4), policy.bind_for(v6)), (Err("IPv4"), Ok(Some(v6))));
        assert_eq!(policy.bind([v6, v4]).bound(), [v4, v6]);
    }
}
