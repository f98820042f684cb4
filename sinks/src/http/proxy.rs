//! Through a forward proxy (RFC 9110 §9.3.6, RFC 9112 §3.2.2): a tunnel for https, requests in
//! absolute form for http.

use std::fmt;
use std::io;

use http::uri::{Authority, Scheme};
use http::{HeaderValue, Uri};
use postrider::config::NetworkPolicy;
use postrider::delivery::{Cause, Nack};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::connect::Deadline;
use super::target::Target;

/// Largest head of a proxy's answer to CONNECT, in bytes.
const ANSWER_BYTES_MAX: usize = 16 << 10;

/// A proxy that the configuration names. Those of the environment are never used.
#[derive(Clone, Debug)]
pub(super) struct Proxy {
    pub(super) place: Target,
}

/// Why a proxy cannot be used; holds no password.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidProxy {
    pub(super) message: String,
    pub(super) remedy: String,
}

impl fmt::Display for InvalidProxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for InvalidProxy {}

impl Proxy {
    /// The proxy of a policy, which must permit the proxy's own address and port.
    pub(super) fn of(policy: &NetworkPolicy) -> Result<Option<Self>, InvalidProxy> {
        let Some(url) = policy.proxy() else { return Ok(None) };
        let invalid = |message: String| InvalidProxy {
            message,
            remedy: "write \"http://HOST:PORT\" or \"http://USER:PASSWORD@HOST:PORT\"".to_owned(),
        };
        let place = Target::parse(url.expose())
            .map_err(|error| invalid(format!("the proxy is no URL that can be used: {error}")))?;
        if place.tls || place.uri != "/" {
            let why = "the proxy must be an http URL without path and query";
            return Err(invalid(why.to_owned()));
        }
        place.permit_place(policy).map_err(|forbidden| InvalidProxy {
            message: format!("the proxy cannot be used: {forbidden}"),
            remedy: forbidden.remedy().to_owned(),
        })?;
        Ok(Some(Self { place }))
    }

    /// What it wants to know about us.
    pub(super) fn authorization(&self) -> Option<&HeaderValue> {
        self.place.authorization.as_ref()
    }

    /// Host and port, as `egress` names it.
    pub(super) fn name(&self) -> String {
        authority(&self.place)
    }

    /// Has the proxy open a tunnel to `target` on a fresh connection to it.
    pub(super) async fn tunnel(
        &self,
        tcp: &mut TcpStream,
        target: &Target,
        deadline: Deadline,
    ) -> Result<(), Nack> {
        let to = authority(target);
        let mut request = format!("CONNECT {to} HTTP/1.1\r\nhost: {to}\r\n").into_bytes();
        if let Some(value) = self.authorization() {
            request.extend_from_slice(b"proxy-authorization: ");
            request.extend_from_slice(value.as_bytes());
            request.extend_from_slice(b"\r\n");
        }
        request.extend_from_slice(b"\r\n");
        let name = self.name();
        let failed = |cause, why: &str| {
            Nack::retry(cause, format!("the proxy {name} opens no tunnel to {to}: {why}"))
        };
        let doing = || format!("waiting for the tunnel of the proxy {name} to {to}");
        let asked = async {
            tcp.write_all(&request).await?;
            head(tcp).await
        };
        let status = match deadline.step(doing, asked).await? {
            Ok(status) => status,
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                return Err(failed(Cause::Protocol, "its answer is not valid HTTP"));
            }
            Err(error) => return Err(failed(Cause::Closed, &error.kind().to_string())),
        };
        match status {
            200..=299 => Ok(()),
            407 => Err(failed(Cause::Connect, "it answered 407: it wants a user and a password")),
            status => Err(failed(Cause::Connect, &format!("it answered {status}"))),
        }
    }
}

/// Reads the head of the answer to CONNECT and nothing beyond, and returns its status.
async fn head(tcp: &mut TcpStream) -> io::Result<u16> {
    let invalid = || io::Error::from(io::ErrorKind::InvalidData);
    let mut head = Vec::with_capacity(256);
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() == ANSWER_BYTES_MAX {
            return Err(invalid());
        }
        // Byte by byte, once per connection: what follows belongs to the tunnel.
        head.push(tcp.read_u8().await?);
    }
    let line = head.split(|&byte| byte == b'\r').next().unwrap_or_default();
    let status = line.strip_prefix(b"HTTP/1.1 ").or_else(|| line.strip_prefix(b"HTTP/1.0 "));
    let digits = status.and_then(|status| status.get(..3)).ok_or_else(invalid)?;
    let digits = std::str::from_utf8(digits).map_err(|_| invalid())?;
    digits.parse().map_err(|_| invalid())
}

/// Host and port, the port always (RFC 9110 §7.1).
fn authority(target: &Target) -> String {
    match &target.host {
        super::target::Host::Ip(address) => {
            std::net::SocketAddr::new(*address, target.port).to_string()
        }
        super::target::Host::Name(name) => format!("{name}:{}", target.port),
    }
}

/// The request target in absolute form.
pub(super) fn absolute(target: &Target) -> Uri {
    let authority =
        Authority::from_maybe_shared(bytes::Bytes::copy_from_slice(target.authority.as_bytes()))
            .expect("host and port of a URL are an authority");
    let mut parts = target.uri.clone().into_parts();
    parts.scheme = Some(Scheme::HTTP);
    parts.authority = Some(authority);
    Uri::from_parts(parts).expect("scheme, authority and path make a URI")
}
