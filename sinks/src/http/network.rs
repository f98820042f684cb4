//! What an endpoint may say about its own network: less than the bus permits, never more.

use std::net::IpAddr;

use postrider::config::{NetworkPolicy, Secret};
use postrider::sink::Problem;
use schemars::JsonSchema;
use serde::Deserialize;

use super::proxy::Proxy;

/// Most networks in an endpoint's `deny`, and ports in its `ports`.
pub const NETWORK_ENTRIES_MAX: usize = 1000;

/// The endpoint's own `network`. It holds on top of the `[network]` section: an endpoint may come
/// from a user, so it can forbid more, and allow nothing that the section forbids.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(rename = "HttpNetwork")]
pub struct NetworkSettings {
    /// Networks or addresses that are not connected to, beside those of `network.deny`.
    #[schemars(length(max = 1000))]
    pub deny: Vec<String>,
    /// The ports that may be connected to, of those that `network.ports` permits. Absent: all of
    /// these.
    #[schemars(length(min = 1, max = 1000))]
    pub ports: Option<Vec<u16>>,
    /// Whether plain http is forbidden. `false` does not undo `network.https_only`.
    pub https_only: bool,
    /// Local addresses to send from, in place of `network.bind_address`: one of IPv4, one of IPv6
    /// or both.
    #[schemars(length(max = 2))]
    pub bind_address: Vec<String>,
    /// A forward proxy to connect through, as `http://HOST:PORT` or
    /// `http://USER:PASSWORD@HOST:PORT`; only where `network.proxy` names none.
    pub proxy: Option<Secret>,
}

impl NetworkSettings {
    /// `policy`, narrowed.
    pub(super) fn narrow(
        &self,
        policy: &NetworkPolicy,
        problems: &mut Vec<Problem>,
    ) -> NetworkPolicy {
        let mut narrowed = policy.clone();
        if self.deny.len() > NETWORK_ENTRIES_MAX {
            let found = self.deny.len();
            let message = format!("expected at most {NETWORK_ENTRIES_MAX} networks, found {found}");
            problems.push(Problem::new("network.deny", message));
        } else {
            for (index, network) in self.deny.iter().enumerate() {
                match narrowed.clone().deny(network) {
                    Ok(more) => narrowed = more,
                    Err(error) => {
                        let key = format!("network.deny.{index}");
                        problems.push(Problem::new(key, error.to_string()));
                    }
                }
            }
        }
        if let Some(ports) = &self.ports {
            if ports.is_empty() || ports.len() > NETWORK_ENTRIES_MAX {
                let found = ports.len();
                let message = format!("expected 1 to {NETWORK_ENTRIES_MAX} ports, found {found}");
                problems.push(Problem::new("network.ports", message));
            }
            narrowed = narrowed.only_ports(ports.iter().copied());
        }
        if self.https_only {
            narrowed = narrowed.https_only();
        }
        let mut own: Vec<IpAddr> = Vec::new();
        for (index, text) in self.bind_address.iter().enumerate() {
            let key = format!("network.bind_address.{index}");
            match text.parse::<IpAddr>() {
                Ok(address) if own.iter().any(|it| it.is_ipv4() == address.is_ipv4()) => {
                    let problem = Problem::new(key, "a second address of the same family");
                    problems.push(problem.remedy("give one of IPv4, one of IPv6 or both"));
                }
                Ok(address) => own.push(address),
                Err(_) => {
                    let message = "expected an address such as \"198.51.100.7\"";
                    problems.push(Problem::new(key, message));
                }
            }
        }
        if !own.is_empty() {
            narrowed = narrowed.bind(own);
        }
        match &self.proxy {
            Some(_) if policy.proxy().is_some() => {
                let message = "the [network] section has a proxy, which no endpoint goes around";
                problems.push(Problem::new("network.proxy", message).remedy("take it out"));
            }
            Some(proxy) => narrowed = narrowed.through(proxy.clone()),
            None => {}
        }
        if let Err(invalid) = Proxy::of(&narrowed) {
            let problem = Problem::new("network.proxy", invalid.message);
            problems.push(problem.remedy(invalid.remedy));
        }
        narrowed
    }
}
