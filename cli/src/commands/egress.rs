//! `postrider egress`: which addresses should a receiver let in?

use std::collections::BTreeSet;
use std::net::IpAddr;

use postrider::delivery::Nack;
use postrider::sink::{CheckContext, Egress};
use postrider_sinks::http::guard;
use serde::Serialize;

use super::config;
use crate::args::Args;
use crate::output::Output;
use crate::{Exit, Failure};

#[derive(Serialize)]
struct Report<'a> {
    /// Of all endpoints together.
    addresses: BTreeSet<IpAddr>,
    endpoints: Vec<Line<'a>>,
}

#[derive(Serialize)]
struct Line<'a> {
    id: &'a str,
    name: &'a str,
    target: String,
    /// `bind_address`, `route` or `proxy`; `None` where it connects to nothing or it failed.
    source: Option<&'static str>,
    addresses: Vec<IpAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    proxy: Option<String>,
    /// Whether one of the addresses is not public, so that the receiver must see another.
    nat: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

pub(crate) async fn run(args: &Args, output: &Output) -> Result<Exit, Failure> {
    let config = config(args, output)?;
    let mut found = Vec::new();
    for endpoint in &config.endpoints {
        let context = CheckContext::new(&endpoint.id, &endpoint.name, &config.network);
        found.push(endpoint.sink.egress(&context).map(tokio::spawn));
    }
    let mut lines = Vec::new();
    for (endpoint, found) in config.endpoints.iter().zip(found) {
        let found = match found {
            None => None,
            Some(found) => Some(found.await.map_err(|error| {
                Failure::failed(format!("failed to ask endpoint {:?}: {error}", endpoint.name))
            })?),
        };
        let target = endpoint.sink.target();
        lines.push(Line::new(endpoint.id.as_str(), &endpoint.name, target, found));
    }

    for line in &lines {
        output.line(line.text())?;
    }
    if lines.is_empty() {
        output.line("no endpoint is configured")?;
    }
    let routed = lines.iter().any(|line| line.source == Some("route"));
    if lines.iter().any(|line| line.nat) {
        output.line(
            "An address that is not public is not what the receiver sees: it sees the public \
             address of the NAT or gateway on the way. Ask whoever runs that network for it.",
        )?;
    } else if routed {
        output.line(
            "Routes can change, and a NAT on the way changes what the receiver sees. To send from \
             one address always, set bind_address under [network].",
        )?;
    }
    let failed = lines.iter().filter(|line| line.error.is_some()).count();
    let addresses = lines.iter().flat_map(|line| line.addresses.iter().copied()).collect();
    output.json(&Report { addresses, endpoints: lines })?;
    if failed > 0 {
        return Err(Failure::failed(format!("{failed} of the endpoints could not be told")));
    }
    Ok(Exit::Done)
}

impl<'a> Line<'a> {
    fn new(
        id: &'a str,
        name: &'a str,
        target: String,
        found: Option<Result<Egress, Nack>>,
    ) -> Self {
        let (mut source, mut addresses, mut proxy, mut error) = (None, Vec::new(), None, None);
        match found {
            None => {}
            Some(Ok(Egress::Bound(bound))) => (source, addresses) = (Some("bind_address"), bound),
            Some(Ok(Egress::Routed(routed))) => (source, addresses) = (Some("route"), routed),
            Some(Ok(Egress::Proxy(place))) => (source, proxy) = (Some("proxy"), Some(place)),
            Some(Ok(other)) => error = Some(format!("this version cannot tell {other:?}")),
            Some(Err(nack)) => error = Some(nack.message().to_owned()),
        }
        // Within one machine nothing is translated.
        let is_translated = |it: &IpAddr| !it.is_loopback() && guard::verdict(*it).is_err();
        let nat = addresses.iter().any(is_translated);
        Self { id, name, target, source, addresses, proxy, nat, error }
    }

    fn text(&self) -> String {
        let Self { name, target, .. } = self;
        if let Some(error) = &self.error {
            return format!("{name}: cannot be told: {error}");
        }
        if let Some(proxy) = &self.proxy {
            return format!("{name}: the addresses of the proxy {proxy}, to {target}");
        }
        let how = match self.source {
            None => return format!("{name}: connects to nothing ({target})"),
            Some("route") => "picked by the route",
            Some(configured) => configured,
        };
        let addresses: Vec<String> = self
            .addresses
            .iter()
            .map(|&address| match guard::verdict(address) {
                Ok(()) => address.to_string(),
                Err(kind) => format!("{address} (not public: {kind})"),
            })
            .collect();
        format!("{name}: {} ({how}), to {target}", addresses.join(", "))
    }
}
