//! Where to: a URL taken apart once, so that a request only copies what it needs.

use std::fmt;
use std::net::IpAddr;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use http::header::{AUTHORIZATION, HOST};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Uri};
use percent_encoding::percent_decode_str;
use postrider::config::NetworkPolicy;
use url::{Position, Url};

use super::guard::{self, NameKind};

/// Longest URL, in bytes.
pub const URL_BYTES_MAX: usize = 8 << 10;

/// A checked `http` or `https` URL. `Display` shows it without credentials and query.
#[derive(Clone)]
pub(super) struct Target {
    pub(super) host: Host,
    pub(super) port: u16,
    pub(super) tls: bool,
    /// Path and query in origin form (RFC 9112 §3.2.1), byte for byte as the URL has them.
    pub(super) uri: Uri,
    /// The `host` header: with the port where it is not the scheme's own.
    pub(super) authority: HeaderValue,
    /// The URL's user and password as `Basic` credentials (RFC 7617).
    pub(super) authorization: Option<HeaderValue>,
    shown: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Host {
    Ip(IpAddr),
    /// Lower case, in ASCII (IDNA), without a trailing dot.
    Name(String),
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => address.fmt(f),
            Self::Name(name) => name.fmt(f),
        }
    }
}

/// Why a text is no URL that can be delivered to; never repeats it, since it may hold a password.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidUrl(String);

impl fmt::Display for InvalidUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "expected a URL such as https://example.com/webhook: {}", self.0)
    }
}

impl std::error::Error for InvalidUrl {}

/// A URL that the network policy forbids whatever DNS says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forbidden {
    message: String,
    remedy: String,
}

impl Forbidden {
    /// What to do where it is meant, as in `… put allow = ["127.0.0.1/32"] under [network]`.
    pub fn remedy(&self) -> &str {
        &self.remedy
    }
}

impl fmt::Display for Forbidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Forbidden {}

impl Target {
    /// Parses by the WHATWG rules, as browsers do: `http://127.1/` is `127.0.0.1`, names become
    /// ASCII, a fragment is dropped.
    pub(super) fn parse(text: &str) -> Result<Self, InvalidUrl> {
        if text.len() > URL_BYTES_MAX {
            return Err(InvalidUrl(format!(
                "it has {} bytes, at most {URL_BYTES_MAX} are taken",
                text.len()
            )));
        }
        let url = Url::parse(text).map_err(|error| InvalidUrl(error.to_string()))?;
        let tls = match url.scheme() {
            "https" => true,
            "http" => false,
            _ => return Err(InvalidUrl("the scheme is neither http nor https".to_owned())),
        };
        let host = match url.host() {
            Some(url::Host::Ipv4(address)) => Host::Ip(address.into()),
            Some(url::Host::Ipv6(address)) => Host::Ip(address.into()),
            Some(url::Host::Domain(name)) => {
                let name = name.strip_suffix('.').unwrap_or(name);
                if name.is_empty() {
                    return Err(InvalidUrl("the host is empty".to_owned()));
                }
                Host::Name(name.to_owned())
            }
            None => return Err(InvalidUrl("the host is missing".to_owned())),
        };
        let path = &url[Position::BeforePath..Position::AfterQuery];
        let path = path.parse::<PathAndQuery>().map_err(|_| {
            InvalidUrl("its path or query holds a character that HTTP forbids".to_owned())
        })?;
        let authority = HeaderValue::from_str(&url[Position::BeforeHost..Position::AfterPort])
            .map_err(|_| InvalidUrl("its host holds a character that HTTP forbids".to_owned()))?;
        Ok(Self {
            host,
            port: url.port_or_known_default().expect("http and https have a known port"),
            tls,
            uri: Uri::from(path),
            authority,
            authorization: basic(&url),
            shown: redacted(&url),
        })
    }

    /// What the URL says in the head of a request, `host` first (RFC 9110 §7.2).
    pub(super) fn head(&self) -> HeaderMap {
        let mut headers = HeaderMap::with_capacity(16);
        headers.insert(HOST, self.authority.clone());
        if let Some(authorization) = &self.authorization {
            headers.insert(AUTHORIZATION, authorization.clone());
        }
        headers
    }

    /// Judges what can be judged without asking DNS: scheme, port, literal addresses and reserved
    /// names.
    pub(super) fn permit(&self, policy: &NetworkPolicy) -> Result<(), Forbidden> {
        let host = &self.host;
        if policy.is_https_only() && !self.tls {
            return Err(Forbidden {
                message: format!(
                    "the network policy forbids {host}: plain http, https_only is set"
                ),
                remedy: "use https, or take https_only out of [network] and the endpoint's network"
                    .to_owned(),
            });
        }
        self.permit_place(policy)
    }

    /// As [`permit`](Self::permit), whatever the scheme is.
    pub(super) fn permit_place(&self, policy: &NetworkPolicy) -> Result<(), Forbidden> {
        let Self { host, port, .. } = self;
        if !policy.permits_port(*port) {
            return Err(Forbidden {
                message: format!("the network policy forbids {host}: port {port} is not in ports"),
                remedy: format!(
                    "if it is meant, add {port} to ports under [network] and in the endpoint's network"
                ),
            });
        }
        let forbid = |reason: &str, allow: &str| {
            Err(Forbidden {
                message: format!(
                    "the network policy forbids {host}: it is {}",
                    guard::reason(reason)
                ),
                remedy: if reason == guard::DENIED {
                    "if it is meant, change deny under [network] or in the endpoint's network"
                        .to_owned()
                } else {
                    format!("if it is meant, put allow = [{allow}] under [network]")
                },
            })
        };
        match host {
            Host::Ip(address) => match guard::permit(*address, policy) {
                Ok(()) => Ok(()),
                Err(reason) => forbid(reason, &one(*address)),
            },
            Host::Name(name) => match guard::kind_of(name) {
                NameKind::Ordinary => Ok(()),
                NameKind::Metadata => match guard::permit(guard::METADATA, policy) {
                    Ok(()) => Ok(()),
                    Err(guard::DENIED) => forbid(guard::DENIED, ""),
                    Err(_) => forbid("a cloud metadata service", &one(guard::METADATA)),
                },
                NameKind::Loopback => {
                    if guard::LOOPBACK.iter().any(|&it| guard::permit(it, policy).is_ok()) {
                        return Ok(());
                    }
                    if guard::LOOPBACK.iter().any(|&it| policy.denies(it)) {
                        return forbid(guard::DENIED, "");
                    }
                    forbid("a name of this machine (RFC 6761)", r#""127.0.0.0/8", "::1/128""#)
                }
            },
        }
    }
}

/// The network of this one address, as TOML text.
fn one(address: IpAddr) -> String {
    format!("\"{address}/{}\"", if address.is_ipv4() { 32 } else { 128 })
}

/// Without credentials, and with the query's text hidden: keys travel in both.
impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

/// A URL for people: user, password and query hidden, fragment gone.
pub(super) fn redacted(url: &Url) -> String {
    let mut shown = url[..Position::AfterScheme].to_owned();
    shown.push_str("://");
    if !url.username().is_empty() || url.password().is_some() {
        shown.push_str("••••@");
    }
    shown.push_str(&url[Position::BeforeHost..Position::AfterPath]);
    if url.query().is_some() {
        shown.push_str("?••••");
    }
    shown
}

fn basic(url: &Url) -> Option<HeaderValue> {
    if url.username().is_empty() && url.password().is_none() {
        return None;
    }
    // `Url` keeps both percent-encoded; what is sent is what was meant.
    let mut pair: Vec<u8> = percent_decode_str(url.username()).collect();
    pair.push(b':');
    pair.extend(percent_decode_str(url.password().unwrap_or_default()));
    let mut value = HeaderValue::try_from(format!("Basic {}", BASE64_STANDARD.encode(pair)))
        .expect("base64 is made of visible ASCII");
    value.set_sensitive(true);
    Some(value)
}
