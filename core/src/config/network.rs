//! The `[network]` section: which addresses may be connected to.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;

/// Which addresses a sink may connect to beside public ones.
///
/// What counts as public is decided by the sink that connects; this only carries what the operator
/// allowed on top. Default: nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NetworkPolicy {
    allow: Vec<IpNet>,
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
        let parsed = network
            .parse::<IpNet>()
            .or_else(|_| network.parse::<IpAddr>().map(IpNet::from))
            .map_err(|_| InvalidNetwork { found: network.chars().take(64).collect() })?;
        self.allow.push(parsed);
        Ok(self)
    }

    /// The networks allowed beside public addresses.
    pub fn allowed(&self) -> &[IpNet] {
        &self.allow
    }

    /// Whether the operator allowed this address by name.
    pub fn allows(&self, address: IpAddr) -> bool {
        self.allow.iter().any(|network| network.contains(&address))
    }
}
