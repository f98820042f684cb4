//! A client for one URL: guarded, pooled, bounded.

use std::error::Error as _;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::header::PROXY_AUTHORIZATION;
use http::{HeaderMap, HeaderValue, Method, Request, Uri};
use postrider::config::NetworkPolicy;
use postrider::delivery::{Cause, Nack};
use postrider::sink::Egress;

use super::answer::Answer;
use super::connect::{self, Deadline};
use super::egress;
use super::pool::{Body, Connection, Pool};
use super::proxy::{self, InvalidProxy, Proxy};
use super::resolve::{Resolve, SystemResolver};
use super::target::{Forbidden, InvalidUrl, Target};
use super::text::Text;
use super::tls::{self, Tls};
use super::trust::Trust;

/// Longest time for looking up, connecting and TLS together, unless said otherwise.
pub const CONNECT_TIMEOUT_DEFAULT: Duration = Duration::from_secs(5);
/// How much of an answer's body is read, unless said otherwise, in bytes.
pub const RESPONSE_BYTES_MAX_DEFAULT: usize = 64 << 10;
/// Most idle connections that are kept, unless said otherwise.
pub const CONNECTIONS_IDLE_MAX_DEFAULT: usize = 64;

/// How a [`Client`] behaves.
#[derive(Clone, Debug)]
pub struct Options {
    network: NetworkPolicy,
    connect_timeout: Duration,
    response_bytes_max: usize,
    connections_idle_max: usize,
    resolver: Option<Arc<dyn Resolve>>,
    tls: Option<Tls>,
    trust: Option<Trust>,
}

impl Options {
    /// The defaults, under `network`: a sink's factory finds it in its
    /// [`CheckContext`](postrider::sink::CheckContext).
    pub fn new(network: NetworkPolicy) -> Self {
        Self {
            network,
            connect_timeout: CONNECT_TIMEOUT_DEFAULT,
            response_bytes_max: RESPONSE_BYTES_MAX_DEFAULT,
            connections_idle_max: CONNECTIONS_IDLE_MAX_DEFAULT,
            resolver: None,
            tls: None,
            trust: None,
        }
    }

    /// Longest time for looking up, connecting and TLS together. Default 5 s.
    #[must_use]
    pub fn connect_timeout(mut self, limit: Duration) -> Self {
        self.connect_timeout = limit;
        self
    }

    /// How much of an answer's body is read, in bytes, before and after decoding; a longer one is
    /// cut there and its connection closed. Default 64 KiB.
    #[must_use]
    pub fn response_bytes_max(mut self, bytes: usize) -> Self {
        self.response_bytes_max = bytes;
        self
    }

    /// Most idle connections that are kept, each for at most 30 s; 0 opens one for each request.
    /// Default 64. How many are open at once is decided by who calls (an endpoint's `concurrency`).
    #[must_use]
    pub fn connections_idle_max(mut self, connections: usize) -> Self {
        self.connections_idle_max = connections;
        self
    }

    /// Looks names up with `resolver` instead of the operating system. Its answers are judged by
    /// the network policy like any.
    #[must_use]
    pub fn resolver(mut self, resolver: Arc<dyn Resolve>) -> Self {
        self.resolver = Some(resolver);
        self
    }

    /// Whom to trust for `https`. Default: [`Tls::platform`].
    #[must_use]
    pub fn tls(mut self, tls: Tls) -> Self {
        self.tls = Some(tls);
        self
    }

    /// Follows files; [`tls`](Self::tls) comes before it.
    #[must_use]
    pub(super) fn trust(mut self, trust: Option<Trust>) -> Self {
        self.trust = trust;
        self
    }
}

/// Whom to trust, where TLS is spoken.
#[derive(Debug)]
enum Whom {
    Fixed(Tls),
    Files(Trust),
}

/// Why a [`Client`] could not be made. Holds neither credentials nor the query.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ClientError {
    /// Not an `http` or `https` URL.
    Url(InvalidUrl),
    /// The network policy forbids the host, whatever DNS says.
    Forbidden(Forbidden),
    /// The policy's proxy is wrong or forbidden.
    Proxy(InvalidProxy),
    /// TLS cannot be set up on this machine.
    Tls(String),
}

impl std::fmt::Display for ClientError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Url(error) => error.fmt(f),
            Self::Forbidden(error) => error.fmt(f),
            Self::Proxy(error) => error.fmt(f),
            Self::Tls(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for ClientError {}

/// Sends requests to one URL.
///
/// Made for sinks that speak HTTP, ours and others': it connects only where the network policy
/// allows, checks the very address it connects to, follows no redirect, heeds no proxy of the
/// environment, bounds time and bytes, and reports failures as a [`Nack`] whose message names the
/// step and holds no secret. Connections are kept and used again; each client has its own, so that
/// endpoints cannot harm each other.
///
/// ```no_run
/// # async fn example(network: &postrider::config::NetworkPolicy) -> Result<(), Box<dyn std::error::Error>> {
/// use std::time::Duration;
///
/// use http::{HeaderMap, HeaderValue, Method, header::CONTENT_TYPE};
/// use postrider_sinks::http::{Client, Options};
///
/// let client = Client::new("https://hooks.example.com/T0/B0", Options::new(network.clone()))?;
/// let mut headers = HeaderMap::new();
/// headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
/// let body = r#"{"text":"hello"}"#.into();
/// match client.send(Method::POST, &headers, body, Duration::from_secs(10)).await {
///     Ok(answer) => println!("{} {:?}", answer.status, answer.body),
///     Err(nack) => println!("failed: {}", nack.message()),
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Client {
    target: Target,
    /// What requests name: as in the target, or in absolute form for a proxy.
    uri: Uri,
    proxy: Option<Proxy>,
    network: NetworkPolicy,
    connect_timeout: Duration,
    response_bytes_max: usize,
    resolver: Arc<dyn Resolve>,
    tls: Option<Whom>,
    pool: Arc<Pool>,
    resent: AtomicU64,
}

/// How an exchange on a connection failed.
enum Failed {
    /// The connection was gone before a byte of an answer: on a kept one, nobody's failure.
    Unanswered(Nack),
    Final(Nack),
}

impl Client {
    /// A client for `url`. Connects to nothing yet.
    ///
    /// # Errors
    /// A URL that is wrong or forbidden; TLS that cannot be set up.
    pub fn new(url: &str, options: Options) -> Result<Self, ClientError> {
        let target = Target::parse(url).map_err(ClientError::Url)?;
        Self::of(target, options)
    }

    pub(super) fn of(target: Target, options: Options) -> Result<Self, ClientError> {
        target.permit(&options.network).map_err(ClientError::Forbidden)?;
        let tls = match (target.tls, options.tls) {
            (false, _) => None,
            (true, Some(tls)) => Some(Whom::Fixed(tls)),
            (true, None) => Some(match options.trust {
                Some(trust) => Whom::Files(trust),
                None => Whom::Fixed(Tls::platform().map_err(ClientError::Tls)?),
            }),
        };
        let proxy = Proxy::of(&options.network).map_err(ClientError::Proxy)?;
        let uri = match &proxy {
            Some(_) if !target.tls => proxy::absolute(&target),
            _ => target.uri.clone(),
        };
        Ok(Self {
            target,
            uri,
            proxy,
            network: options.network,
            connect_timeout: options.connect_timeout,
            response_bytes_max: options.response_bytes_max,
            resolver: options.resolver.unwrap_or_else(|| Arc::new(SystemResolver::default())),
            tls,
            pool: Pool::new(options.connections_idle_max),
            resent: AtomicU64::new(0),
        })
    }

    /// Sends one request and reads the answer, all within `timeout`.
    ///
    /// `host` and, from the URL's user and password, `authorization` are added where `headers` lack
    /// them; `content-length` is always right and must not be among them.
    ///
    /// A kept connection that the receiver closes before the first byte of an answer is not the
    /// receiver's failure: the request is then sent again, once, on a new connection, and counted
    /// in [`resent`](Self::resent).
    ///
    /// A body in gzip is decoded, asked for or not, and its `content-encoding` and `content-length`
    /// are then gone from the answer's headers; any other coding is left as it is.
    ///
    /// # Errors
    /// What happened, where no answer came: any answer with a whole head is `Ok`, but for a success
    /// whose body broke off.
    ///
    /// # Cancel safety
    /// Safe for the client: the connection is closed. The receiver may have read the request.
    pub async fn send(
        &self,
        method: Method,
        headers: &HeaderMap,
        body: Bytes,
        timeout: Duration,
    ) -> Result<Answer, Nack> {
        let head = || {
            let mut head = self.target.head();
            head.extend(headers.clone());
            head
        };
        self.exchange(&method, &head, body, Deadline::after(timeout, timeout)).await
    }

    /// As [`send`](Self::send), for headers that are complete; `head` is called once per try.
    pub(super) async fn exchange(
        &self,
        method: &Method,
        head: &(dyn Fn() -> HeaderMap + Sync),
        body: Bytes,
        deadline: Deadline,
    ) -> Result<Answer, Nack> {
        let request = || {
            let mut request = Request::new(Body::new(body.clone()));
            *request.method_mut() = method.clone();
            *request.uri_mut() = self.uri.clone();
            *request.headers_mut() = head();
            if !self.target.tls
                && let Some(value) = self.proxy.as_ref().and_then(Proxy::authorization)
            {
                request.headers_mut().insert(PROXY_AUTHORIZATION, value.clone());
            }
            request
        };
        if let Some(connection) = self.pool.take().await {
            match self.exchange_on(connection, request(), deadline).await {
                Ok(answer) => return Ok(answer),
                Err(Failed::Final(nack)) => return Err(nack),
                Err(Failed::Unanswered(_)) => {
                    self.resent.fetch_add(1, Ordering::Relaxed);
                    tracing::debug!("a kept connection was closed; sending again on a new one");
                }
            }
        }
        let connection = self.connect(deadline).await?;
        match self.exchange_on(connection, request(), deadline).await {
            Ok(answer) => Ok(answer),
            Err(Failed::Final(nack) | Failed::Unanswered(nack)) => Err(nack),
        }
    }

    /// Connects, speaks TLS where the URL says so, and closes the connection again.
    ///
    /// # Errors
    /// What a request would meet up to the point where it is sent.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn probe(&self) -> Result<(), Nack> {
        self.connect(Deadline::after(self.connect_timeout, self.connect_timeout)).await.map(drop)
    }

    /// From where the receiver would see connections come. Looks a name up, judges its addresses,
    /// and sends nothing to them.
    ///
    /// # Errors
    /// A name that does not resolve, an address that is forbidden or to which no route leads.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn egress(&self) -> Result<Egress, Nack> {
        let limit = self.connect_timeout;
        let deadline = Deadline::after(limit, limit);
        egress::find(&self.target, self.proxy.as_ref(), &self.network, &*self.resolver, deadline)
            .await
    }

    /// Closes the idle connections; those in use are closed when they come back.
    pub fn close(&self) {
        self.pool.close();
    }

    /// How many requests were sent again since the client was made, because the receiver had closed
    /// the kept connection they went out on. A number that grows with the load says that its
    /// keep-alive is shorter than the time between requests.
    pub fn resent(&self) -> u64 {
        self.resent.load(Ordering::Relaxed)
    }

    /// The `host` header of its requests.
    pub(super) fn authority(&self) -> &HeaderValue {
        &self.target.authority
    }

    /// The URL without credentials and query.
    pub fn shown(&self) -> String {
        self.target.to_string()
    }

    async fn connect(&self, deadline: Deadline) -> Result<Connection, Nack> {
        let limit = self.connect_timeout;
        let deadline = deadline.min(Deadline::after(limit, limit));
        let tls = self.tls.as_ref().map(|whom| match whom {
            Whom::Fixed(tls) => tls.clone(),
            Whom::Files(trust) => trust.current(),
        });
        let (peer, wire) = connect::open(
            &self.target,
            self.proxy.as_ref(),
            &self.network,
            &*self.resolver,
            tls.as_ref(),
            deadline,
        )
        .await?;
        let mark = wire.mark.clone();
        let (sender, io) = connect::handshake(wire)
            .await
            .map_err(|error| failure(&error, peer, Waiting::Answer))?;
        Ok(self.pool.adopt(sender, io, peer, mark))
    }

    async fn exchange_on(
        &self,
        mut connection: Connection,
        request: Request<Body>,
        deadline: Deadline,
    ) -> Result<Answer, Failed> {
        let peer = connection.peer;
        connection.mark.clear();
        let sending = connection.sender.try_send_request(request);
        let doing = || format!("waiting for the answer of {peer}");
        let response = deadline.step(doing, sending).await.map_err(Failed::Final)?;
        let (head, body) = match response {
            Ok(response) => response.into_parts(),
            Err(mut error) => {
                // Not even begun to be written, or written and not answered with a single byte.
                let untouched = error.take_message().is_some() || !connection.mark.is_set();
                let nack = failure(error.error(), peer, Waiting::Answer);
                return Err(if untouched && nack.cause() == Cause::Closed {
                    Failed::Unanswered(nack)
                } else {
                    Failed::Final(nack)
                });
            }
        };
        let (status, mut headers) = (head.status, head.headers);
        let doing = || format!("reading the answer of {peer}");
        let mut text = Text::new(&headers, self.response_bytes_max);
        let read = deadline.step(doing, text.fill(body)).await;
        let answer = |text: Text, complete| {
            let body = text.finish(&mut headers);
            Answer { status, headers, body, complete, peer, hint: "" }
        };
        let broken = match read {
            Ok(Ok(complete)) => {
                if complete {
                    self.pool.put(connection);
                }
                return Ok(answer(text, complete));
            }
            Ok(Err(error)) => failure(&error, peer, Waiting::Body),
            Err(timed_out) => timed_out,
        };
        if status.is_success() {
            // It may not have been taken over whole.
            Err(Failed::Final(broken.status(status.as_u16())))
        } else {
            // A failure stays one however much of its text arrives.
            Ok(answer(text, false))
        }
    }
}

/// What was awaited when a connection failed.
#[derive(Clone, Copy)]
enum Waiting {
    Answer,
    Body,
}

/// Maps hyper's failures.
fn failure(error: &hyper::Error, peer: std::net::SocketAddr, waiting: Waiting) -> Nack {
    let io = error.source().and_then(|source| source.downcast_ref::<io::Error>());
    let closed = error.is_incomplete_message()
        || error.is_canceled()
        || error.is_closed()
        || io.is_some_and(|io| {
            use io::ErrorKind::{
                BrokenPipe, ConnectionAborted, ConnectionReset, NotConnected, UnexpectedEof,
            };
            matches!(
                io.kind(),
                BrokenPipe | ConnectionAborted | ConnectionReset | NotConnected | UnexpectedEof
            )
        });
    if closed {
        let how = match io.map(io::Error::kind) {
            Some(io::ErrorKind::ConnectionReset) => "was reset by",
            _ => "was closed by",
        };
        let when = match waiting {
            Waiting::Answer => "before the head of the answer was complete",
            Waiting::Body => "before the body of the answer was complete",
        };
        return Nack::retry(Cause::Closed, format!("the connection {how} {peer} {when}"));
    }
    if let Some(tls) = io.and_then(|io| io.get_ref()?.downcast_ref::<rustls::Error>()) {
        return Nack::retry(Cause::Tls, format!("{}: {peer}", tls::words(tls)));
    }
    // Bytes of the answer never get into these texts.
    let what = io.map_or_else(|| error.to_string(), ToString::to_string);
    Nack::retry(Cause::Protocol, format!("the answer of {peer} is not valid HTTP: {what}"))
}
