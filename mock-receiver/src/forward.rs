//! Forwarding: which bins have a target, and what a target answered.

use std::{
    collections::HashMap,
    fmt,
    net::SocketAddr,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use bytes::Bytes;
use hyper::Uri;

use crate::{
    Error, ErrorKind, Headers,
    capture::BIN_BYTES_MAX,
    store::{BINS_MAX, TooManyBins},
};

/// What came of forwarding a request: a field of its [`Record`](crate::Record).
#[derive(Clone)]
#[non_exhaustive]
pub struct Forwarded {
    /// The URL that it was forwarded to, with path and query.
    pub to: String,
    /// The target's status; `None` where no answer was read to its end.
    pub status: Option<u16>,
    /// The target's header lines as it sent them.
    pub headers: Headers,
    /// The target's trailer lines; usually empty.
    pub trailers: Headers,
    /// The body of its answer after the transfer coding.
    pub body: Bytes,
    /// Why the sender got an answer of ours (502, or 504 when the time was over).
    pub error: Option<String>,
    /// From the beginning of the connection to the end of the answer.
    pub duration: Duration,
}

impl Forwarded {
    /// What it costs in memory, about.
    pub(crate) fn cost(&self) -> usize {
        let lines = self.headers.head().len() + self.trailers.head().len();
        let error = self.error.as_ref().map_or(0, String::len);
        size_of::<Self>() + self.to.len() + lines + self.body.len() + error
    }
}

impl fmt::Debug for Forwarded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("Forwarded");
        debug.field("to", &self.to).field("status", &self.status).field("error", &self.error);
        debug.finish_non_exhaustive()
    }
}

/// A place to forward to: `http://HOST[:PORT][/PATH]`.
#[derive(Debug)]
pub(crate) struct Target {
    /// As a `host` header has it.
    pub(crate) authority: String,
    pub(crate) host: String,
    pub(crate) port: u16,
    /// Without a slash at its end, so that what is below the bin can follow.
    path: String,
}

impl Target {
    /// # Errors
    /// [`Invalid`](ErrorKind::Invalid), with what to write instead.
    pub(crate) fn parse(url: &str) -> Result<Self, Error> {
        let invalid = |why: &str| {
            // Not the text itself: it may hold a password.
            let text = format!("the URL to forward to {why}; it is http://HOST:PORT/PATH");
            Error::new(ErrorKind::Invalid, text)
        };
        let uri: Uri = url.parse().map_err(|_| invalid("is no URL"))?;
        match uri.scheme_str() {
            Some("http") => {}
            Some("https") => return Err(invalid("is https, which is not spoken to targets")),
            _ => return Err(invalid("does not begin with http://")),
        }
        let Some(authority) = uri.authority() else { return Err(invalid("has no host")) };
        if authority.as_str().contains('@') {
            return Err(invalid("holds a user name"));
        }
        if uri.query().is_some() {
            return Err(invalid("has a query, but that of each request is sent"));
        }
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        if host.is_empty() {
            return Err(invalid("has no host"));
        }
        let port = authority.port_u16().unwrap_or(80);
        let path = uri.path().trim_end_matches('/').to_owned();
        Ok(Self { authority: authority.to_string(), host, port, path })
    }

    /// Path and query for a request: what is below its bin, appended to the target's own path.
    pub(crate) fn path_and_query(&self, bin: &str, path: &str, query: Option<&str>) -> String {
        let below = path.strip_prefix('/').and_then(|path| path.strip_prefix(bin));
        let mut all = format!("{}{}", self.path, below.unwrap_or_default());
        if !all.starts_with('/') {
            all.insert(0, '/');
        }
        if let Some(query) = query {
            all.push('?');
            all.push_str(query);
        }
        all
    }

    /// Whether it is the receiver's own address, which would forward without end.
    fn is_own(&self, capture: SocketAddr) -> bool {
        let local = self.host == "localhost"
            || self.host.parse().is_ok_and(|ip: std::net::IpAddr| {
                ip == capture.ip() || ip.is_loopback() || ip.is_unspecified()
            });
        self.port == capture.port() && local
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}{}", self.authority, self.path)
    }
}

/// The bins that have a target. Only the program's command line and the library name targets:
/// who holds the token of the API cannot make the receiver send elsewhere.
#[derive(Default)]
pub(crate) struct Forwards {
    bins: RwLock<HashMap<String, Arc<Target>>>,
}

impl Forwards {
    pub(crate) fn find(&self, bin: &str) -> Option<Arc<Target>> {
        self.bins.read().unwrap_or_else(PoisonError::into_inner).get(bin).cloned()
    }

    /// From now on the bin forwards to that URL.
    ///
    /// # Errors
    /// [`Invalid`](ErrorKind::Invalid) for a URL that is no target, a name that no bin can have,
    /// and beyond the most bins.
    pub(crate) fn set(&self, bin: &str, url: &str, capture: SocketAddr) -> Result<(), Error> {
        let invalid = |text: String| Err(Error::new(ErrorKind::Invalid, text));
        if bin.is_empty() || bin.len() > BIN_BYTES_MAX || bin.contains(['/', '?']) {
            let why = format!("1 to {BIN_BYTES_MAX} bytes without / and ?");
            return invalid(format!("bin {bin:?} cannot forward: the name of a bin has {why}"));
        }
        let target = match Target::parse(url) {
            Ok(target) if target.is_own(capture) => {
                return invalid(format!("bin {bin:?} would forward to this receiver itself"));
            }
            Ok(target) => target,
            Err(error) => return invalid(format!("bin {bin:?} cannot forward: {error}")),
        };
        let mut bins = self.bins.write().unwrap_or_else(PoisonError::into_inner);
        if !bins.contains_key(bin) && bins.len() >= BINS_MAX {
            return invalid(TooManyBins.to_string());
        }
        bins.insert(bin.to_owned(), Arc::new(target));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::Target;

    #[test]
    fn what_is_below_the_bin_follows_the_path_of_the_target() {
        for (url, path, query, expect) in [
            ("http://a:1", "/app", None, "/"),
            ("http://a:1/", "/app/x/y", Some("q=1&q=%20"), "/x/y?q=1&q=%20"),
            ("http://a:1/base/", "/app", Some(""), "/base?"),
            ("http://a:1/base", "/app/", None, "/base/"),
            ("http://a:1/base", "/app//x", None, "/base//x"),
        ] {
            let target = Target::parse(url).expect("a target");
            assert_eq!(target.path_and_query("app", path, query), expect, "{url} {path}");
        }
    }

    #[test]
    fn what_is_no_target_is_refused_with_the_reason() {
        for (url, why) in [
            ("127.0.0.1:3000", "http://"),
            ("https://a", "https"),
            ("http://user:secret@a/", "user name"),
            ("http://a/?x=1", "query"),
            ("no url", "no URL"),
        ] {
            let error = Target::parse(url).expect_err(url).to_string();
            assert!(error.contains(why) && !error.contains("secret"), "{url}: {error}");
        }
        assert_eq!(Target::parse("http://[::1]:3000/x").expect("a target").host, "::1");
    }
}
