//! Settings of a receiver, and its start.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::{Arc, Mutex, atomic::AtomicUsize, mpsc},
    thread,
    time::Duration,
};

use tokio::{
    net::TcpListener,
    runtime::{self, Handle},
    sync::{oneshot, watch},
};

use crate::{
    Answers, Error, ErrorKind, Receiver, admin, capture,
    forward::Forwards,
    net::{self, Gate},
    receiver::{Limits, Shared},
    script::{
        Scenario, Scripts,
        file::{self, Told},
        steps,
    },
    store::{Store, TooManyBins},
    tls::{Authority, TlsFault},
    token,
    verify::{Keyring, SECRETS_MAX, Secret},
};

/// Connections at once to the capture address; the next ones wait to be accepted.
const CAPTURE_CONNECTIONS_MAX: usize = 4096;
/// Connections at once to the admin address.
const ADMIN_CONNECTIONS_MAX: usize = 256;

/// Settings of a receiver that is to be started.
pub struct Builder {
    capture: SocketAddr,
    admin: SocketAddr,
    token: Option<String>,
    threads: usize,
    limits: Limits,
    scripts: Vec<(String, Scenario)>,
    tls: bool,
    bad_tls: Vec<TlsFault>,
    store: Option<PathBuf>,
    scenario_files: Vec<PathBuf>,
    secrets: Vec<String>,
    forwards: Vec<(String, String)>,
}

impl Default for Builder {
    fn default() -> Self {
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let limits = Limits {
            captures_max: 100_000,
            bytes_max: 256 << 20,
            body_bytes_max: 64 << 20,
            inflight_bytes_max: 256 << 20,
            body_timeout: Duration::from_mins(1),
            idle_timeout: Duration::from_mins(1),
            forward_timeout: Duration::from_secs(30),
        };
        Self {
            capture: any,
            admin: any,
            token: None,
            threads: 1,
            limits,
            scripts: Vec::new(),
            tls: false,
            bad_tls: Vec::new(),
            store: None,
            scenario_files: Vec::new(),
            secrets: Vec::new(),
            forwards: Vec::new(),
        }
    }
}

impl std::fmt::Debug for Builder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { capture, admin, limits, .. } = self;
        let mut debug = f.debug_struct("Builder");
        debug.field("capture", capture).field("admin", admin).field("limits", limits);
        debug.finish_non_exhaustive()
    }
}

impl Builder {
    /// Where to capture. Default 127.0.0.1 and any free port.
    pub fn listen(mut self, addr: SocketAddr) -> Self {
        self.capture = addr;
        self
    }

    /// Where to serve the admin API. Default 127.0.0.1 and any free port.
    pub fn admin(mut self, addr: SocketAddr) -> Self {
        self.admin = addr;
        self
    }

    /// The token for the admin API: visible ASCII. Default an unguessable one.
    pub fn token(mut self, token: impl Into<String>) -> Self {
        self.token = Some(token.into());
        self
    }

    /// What a bin answers from the start, as [`On::respond`](crate::On::respond).
    pub fn script(mut self, bin: impl Into<String>, answers: impl Answers) -> Self {
        self.scripts.push((bin.into(), Scenario::of(steps(answers))));
        self
    }

    /// What a bin answers from the start, by rules.
    pub fn scenario(mut self, bin: impl Into<String>, scenario: Scenario) -> Self {
        self.scripts.push((bin.into(), scenario));
        self
    }

    /// What bins answer from the start, from a TOML, YAML or JSON file of at most 16 MiB; its
    /// language is in the README. Goes before [`script`](Self::script) and
    /// [`scenario`](Self::scenario).
    pub fn scenario_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.scenario_files.push(path.into());
        self
    }

    /// The capture address speaks TLS (1.2, 1.3), and HTTP/2 where the sender offers it. The
    /// certificate is for `localhost`, `127.0.0.1` and `::1`; what it is to be trusted by is
    /// [`Receiver::ca_pem`].
    pub fn tls(mut self) -> Self {
        self.tls = true;
        self
    }

    /// Opens a further address that captures, on a free port, whose TLS handshake is bad in this
    /// way: [`Receiver::bad_tls_url`]. May be called for each.
    pub fn bad_tls(mut self, fault: TlsFault) -> Self {
        if !self.bad_tls.contains(&fault) {
            self.bad_tls.push(fault);
        }
        self
    }

    /// Keeps captures, and the authority of [TLS](Self::tls), in this folder across restarts; it
    /// is made where there is none, and one receiver at a time has it. Default: in memory only.
    pub fn store(mut self, dir: impl Into<PathBuf>) -> Self {
        self.store = Some(dir.into());
        self
    }

    /// A secret with which senders sign, for bins without secrets of their own
    /// ([`On::secrets`](crate::On::secrets)); the first call gives the current one, at most 16.
    pub fn secret(mut self, secret: impl Into<String>) -> Self {
        self.secrets.push(secret.into());
        self
    }

    /// From the start the bin passes its requests on to this URL, as
    /// [`On::forward`](crate::On::forward); one that is no target is told by
    /// [`start`](Self::start).
    pub fn forward(mut self, bin: impl Into<String>, url: impl Into<String>) -> Self {
        self.forwards.push((bin.into(), url.into()));
        self
    }

    /// How long forwarding a request may take, from the connection to the end of the answer; then
    /// the sender gets 504. Default 30 s.
    pub fn forward_timeout(mut self, timeout: Duration) -> Self {
        self.limits.forward_timeout = timeout;
        self
    }

    /// How many threads serve. Default 1, which is right beside a test.
    pub fn threads(mut self, threads: usize) -> Self {
        self.threads = threads.max(1);
        self
    }

    /// How many captures are held; the oldest make room. Default 100,000.
    pub fn captures_max(mut self, captures: usize) -> Self {
        self.limits.captures_max = captures.max(1);
        self
    }

    /// How many bytes all captures take in memory, about; the oldest make room. Default 256 MiB.
    pub fn bytes_max(mut self, bytes: usize) -> Self {
        self.limits.bytes_max = bytes;
        self
    }

    /// How many bytes of one body are kept; a larger one is answered 413. Default 64 MiB.
    pub fn body_bytes_max(mut self, bytes: usize) -> Self {
        self.limits.body_bytes_max = bytes;
        self
    }

    /// How many bytes of bodies may be on their way in at once, over all connections; a request
    /// beyond is answered 503. Default 256 MiB.
    pub fn inflight_bytes_max(mut self, bytes: usize) -> Self {
        self.limits.inflight_bytes_max = bytes;
        self
    }

    /// For how long nothing may come of a body that was begun; then the answer is 408. Default
    /// one minute.
    pub fn body_timeout(mut self, timeout: Duration) -> Self {
        self.limits.body_timeout = timeout;
        self
    }

    /// For how long (up to twice as long) a connection may be without a complete request head and
    /// without one that is being answered; then it is closed. Default one minute.
    pub fn idle_timeout(mut self, timeout: Duration) -> Self {
        self.limits.idle_timeout = timeout;
        self
    }

    /// Starts it; when this returns, both addresses accept.
    ///
    /// # Errors
    /// [`Bind`](ErrorKind::Bind) where an address cannot be had, [`Invalid`](ErrorKind::Invalid)
    /// for a token that no header can hold, a URL that is no target to forward to, a secret that has not 1 to 4096 bytes and a scenario
    /// file that breaks a rule.
    ///
    /// # Cancel safety
    /// Dropped, nothing stays.
    pub async fn start(self) -> Result<Receiver, Error> {
        let token = match &self.token {
            Some(token) => token::checked(token)?,
            None => token::made()?,
        };
        let (ready, started) = oneshot::channel();
        let (stop, stopping) = oneshot::channel();
        let (done, stopped) = mpsc::channel();
        let thread = thread::Builder::new()
            .name("mock-receiver".to_owned())
            .spawn(move || {
                run(self, token, ready, stopping);
                drop(done); // Tells the handle that everything is closed.
            })
            .map_err(|error| Error::new(ErrorKind::Start, "no thread to be had").because(error))?;
        let id = thread.thread().id();
        let (shared, runtime) = started.await.map_err(|_| {
            Error::new(ErrorKind::Start, "the receiver's thread ended before it was ready")
        })??;
        let stopped = Mutex::new(stopped);
        Ok(Receiver { shared, runtime, stop: Some(stop), stopped, thread: id })
    }
}

type Started = Result<(Arc<Shared>, Handle), Error>;

/// The receiver's thread: serves until the handle lets go of `stopping`'s other end.
fn run(
    builder: Builder,
    token: String,
    ready: oneshot::Sender<Started>,
    stopping: oneshot::Receiver<()>,
) {
    let threads = match builder.threads {
        1 => runtime::Builder::new_current_thread().enable_all().build(),
        n => runtime::Builder::new_multi_thread().worker_threads(n).enable_all().build(),
    };
    let runtime = match threads {
        Ok(runtime) => runtime,
        Err(error) => {
            let _ = ready
                .send(Err(Error::new(ErrorKind::Start, "no runtime to be had").because(error)));
            return;
        }
    };
    runtime.block_on(async {
        match serve(builder, token).await {
            Ok(shared) => {
                // Where nobody takes it, `stopping` is at its end already.
                let _ = ready.send(Ok((shared, Handle::current())));
                let _ = stopping.await;
            }
            Err(error) => drop(ready.send(Err(error))),
        }
    });
    // The runtime ends here: every task is dropped, with its connection or listener.
}

async fn serve(builder: Builder, token: String) -> Result<Arc<Shared>, Error> {
    let (capture, capture_addr) = bind(builder.capture, "--listen").await?;
    let (admin, admin_addr) = bind(builder.admin, "--admin").await?;
    let mut told = Vec::new();
    for path in &builder.scenario_files {
        told.extend(file::read(path)?);
    }
    let signs = builder.tls || !builder.bad_tls.is_empty();
    let Limits { captures_max, bytes_max, .. } = builder.limits;
    let (store, authority) = match &builder.store {
        Some(dir) => (
            Store::open(captures_max, bytes_max, dir)?,
            signs.then(|| Authority::kept(dir)).transpose()?,
        ),
        None => (Store::new(captures_max, bytes_max), signs.then(Authority::made).transpose()?),
    };
    let good = authority.as_ref().filter(|_| builder.tls);
    let acceptor = good.map(|authority| authority.acceptor(None)).transpose()?;
    let mut bad_tls = Vec::new();
    let mut bad_listeners = Vec::new();
    if let Some(authority) = &authority {
        for fault in builder.bad_tls {
            let any = SocketAddr::new(builder.capture.ip(), 0);
            let (listener, addr) = bind(any, "--listen").await?;
            bad_tls.push((fault, addr));
            bad_listeners.push((listener, authority.acceptor(Some(fault))?));
        }
    }
    if builder.secrets.len() > SECRETS_MAX {
        let text = format!("there are at most {SECRETS_MAX} secrets (--secret)");
        return Err(Error::new(ErrorKind::Invalid, text));
    }
    let secrets = builder.secrets.into_iter().map(Secret::new).collect::<Result<_, _>>()?;
    let shared = Arc::new(Shared {
        store,
        scripts: Scripts::default(),
        keyring: Keyring::new(secrets),
        forwards: Forwards::default(),
        limits: builder.limits,
        inflight: AtomicUsize::new(0),
        token,
        capture: capture_addr,
        admin: admin_addr,
        tls: builder.tls,
        authority,
        bad_tls,
        gate: watch::Sender::default(),
    });
    let full = |error: TooManyBins| Error::new(ErrorKind::Invalid, error.to_string());
    for Told { bin, scenario, fault, notes } in told {
        if let Some(scenario) = scenario {
            shared.scripts.set(&bin, scenario).map_err(full)?;
        }
        shared.scripts.fault(&bin, fault).map_err(full)?;
        shared.scripts.note(&bin, notes).map_err(full)?;
    }
    for (bin, url) in &builder.forwards {
        shared.forwards.set(bin, url, capture_addr)?;
    }
    for (bin, scenario) in builder.scripts {
        shared.scripts.set(&bin, scenario).map_err(full)?;
    }
    for (listener, acceptor) in bad_listeners {
        let state = shared.clone();
        let gate = shared.gate.subscribe();
        let max = CAPTURE_CONNECTIONS_MAX;
        tokio::spawn(net::accept(listener, max, gate, move |stream, peer, number| {
            capture::serve(state.clone(), Some(acceptor.clone()), stream, peer, number)
        }));
    }
    let state = shared.clone();
    let gate = shared.gate.subscribe();
    let max = CAPTURE_CONNECTIONS_MAX;
    tokio::spawn(net::accept(capture, max, gate, move |stream, peer, number| {
        capture::serve(state.clone(), acceptor.clone(), stream, peer, number)
    }));
    let state = shared.clone();
    let (_, open) = watch::channel(Gate::default());
    tokio::spawn(net::accept(admin, ADMIN_CONNECTIONS_MAX, open, move |stream, _, _| {
        admin::serve(state.clone(), stream)
    }));
    Ok(shared)
}

async fn bind(addr: SocketAddr, flag: &str) -> Result<(TcpListener, SocketAddr), Error> {
    let failed = |error: io::Error| {
        let remedy = match error.kind() {
            io::ErrorKind::AddrInUse => "another program has it; choose another port with",
            io::ErrorKind::PermissionDenied => "not allowed; choose a port above 1023 with",
            _ => "choose another address with",
        };
        let message = format!("cannot listen on {addr}: {remedy} {flag} (port 0: any free one)");
        Error::new(ErrorKind::Bind, message).because(error)
    };
    let listener = TcpListener::bind(addr).await.map_err(failed)?;
    let addr = listener.local_addr().map_err(failed)?;
    Ok((listener, addr))
}
