//! The receiver: two addresses, a thread of its own, and the handle that ends it.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError, atomic::AtomicUsize, mpsc},
    thread,
    time::Duration,
};

use tokio::{
    runtime::Handle,
    sync::{oneshot, watch},
    time::Instant,
};

use crate::{
    Answers, Builder, Capture, Error, Matcher, Response, Wait,
    forward::Forwards,
    net::Gate,
    script::{Fault, Scenario, Scripts, steps},
    store::{Store, TooManyBins, Totals},
    tls::{Authority, TlsFault},
    verify::{self, Explanation, Keyring, Secret},
    wait::Wanted,
};

/// How long a wait lasts when nothing is said.
pub(crate) const WAIT_DEFAULT: Duration = Duration::from_secs(10);
/// How long going out of scope waits for the receiver's thread; only a closure that blocks makes
/// it last.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// What is bounded, and can be set.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) captures_max: usize,
    pub(crate) bytes_max: usize,
    pub(crate) body_bytes_max: usize,
    pub(crate) inflight_bytes_max: usize,
    pub(crate) body_timeout: Duration,
    pub(crate) idle_timeout: Duration,
    pub(crate) forward_timeout: Duration,
}

/// What the tasks of a receiver share with its handle.
pub(crate) struct Shared {
    pub(crate) store: Store,
    pub(crate) scripts: Scripts,
    pub(crate) keyring: Keyring,
    pub(crate) forwards: Forwards,
    pub(crate) limits: Limits,
    /// Bytes of bodies that are on their way in.
    pub(crate) inflight: AtomicUsize,
    pub(crate) token: String,
    pub(crate) capture: SocketAddr,
    pub(crate) admin: SocketAddr,
    /// Whether the capture address speaks TLS.
    pub(crate) tls: bool,
    /// Signs for the addresses that do.
    pub(crate) authority: Option<Authority>,
    /// Further addresses that capture, with a handshake that is bad on purpose.
    pub(crate) bad_tls: Vec<(TlsFault, SocketAddr)>,
    /// How the addresses that capture accept.
    pub(crate) gate: watch::Sender<Gate>,
}

impl Shared {
    /// Where to send for that bin.
    pub(crate) fn url(&self, bin: &str) -> String {
        let scheme = if self.tls { "https" } else { "http" };
        format!("{scheme}://{}/{bin}", self.capture)
    }
}

/// A running receiver.
///
/// It works on a thread of its own, so it goes on answering while the test's thread is busy or
/// its clock paused. When it goes out of scope its ports are free and its connections closed by
/// the time that `drop` returns.
pub struct Receiver {
    pub(crate) shared: Arc<Shared>,
    pub(crate) runtime: Handle,
    /// Dropped to end the thread.
    pub(crate) stop: Option<oneshot::Sender<()>>,
    /// Closed when the thread has let go of everything.
    pub(crate) stopped: Mutex<mpsc::Receiver<()>>,
    pub(crate) thread: thread::ThreadId,
}

impl Receiver {
    /// Starts a receiver on free ports of 127.0.0.1.
    ///
    /// # Errors
    /// When the system has no port or no thread to give.
    pub async fn start() -> Result<Self, Error> {
        Self::builder().start().await
    }

    /// For a receiver with settings of its own.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// Where to send for that bin: `http://127.0.0.1:PORT/bin`, `https` with
    /// [TLS](Builder::tls). Any path may follow.
    pub fn url(&self, bin: &str) -> String {
        self.shared.url(bin)
    }

    /// With [TLS](Builder::tls), good or [bad](Builder::bad_tls): the certificate, as PEM, that the sender under test must trust.
    /// It is good for loopback names only.
    pub fn ca_pem(&self) -> Option<&str> {
        self.shared.authority.as_ref().map(Authority::pem)
    }

    /// Where to send for that bin so that the TLS handshake goes wrong in this way; `None` where
    /// [`Builder::bad_tls`] did not ask for it.
    pub fn bad_tls_url(&self, fault: TlsFault, bin: &str) -> Option<String> {
        let found = self.shared.bad_tls.iter().find(|(one, _)| *one == fault);
        found.map(|(_, addr)| format!("https://{addr}/{bin}"))
    }

    /// Refuses connections to the addresses that capture for so long; those that are open stay.
    /// It begins at once and returns before; zero ends it.
    pub fn refuse_for(&self, duration: Duration) {
        let end = Instant::now().checked_add(duration).filter(|_| !duration.is_zero());
        self.shared.gate.send_modify(|gate| gate.refuse_until = end);
    }

    /// From now on a new connection waits so long before anything is read from it.
    pub fn accept_delay(&self, delay: Duration) {
        self.shared.gate.send_modify(|gate| gate.delay = delay);
    }

    /// The address that captures.
    pub fn addr(&self) -> SocketAddr {
        self.shared.capture
    }

    /// The root of the admin address: `http://127.0.0.1:PORT`.
    pub fn admin_url(&self) -> String {
        format!("http://{}", self.shared.admin)
    }

    /// The token for the admin address.
    pub fn token(&self) -> &str {
        &self.shared.token
    }

    /// The bin with that name, to say what it answers.
    pub fn on(&self, bin: impl Into<String>) -> On<'_> {
        On { receiver: self, bin: bin.into() }
    }

    /// What the bin has captured, oldest first, as far as it is still held.
    pub fn requests(&self, bin: &str) -> Vec<Capture> {
        self.shared.store.range(Some(bin), 0, usize::MAX)
    }

    /// The captures of all bins behind a sequence number, oldest first, at most `limit`: to
    /// follow what comes in, begin with 0 and go on with the last `seq`.
    pub fn after(&self, seq: u64, limit: usize) -> Vec<Capture> {
        self.shared.store.range(None, seq, limit)
    }

    /// The sequence number that was given last; 0 where none was.
    pub fn last_seq(&self) -> u64 {
        self.shared.store.last_seq()
    }

    /// Waits until something is captured behind this sequence number.
    ///
    /// # Cancel safety
    /// Changes nothing.
    pub async fn changed(&self, seq: u64) {
        loop {
            let changed = self.shared.store.changed();
            if !self.shared.store.range(None, seq, 1).is_empty() {
                return;
            }
            changed.await;
        }
    }

    /// How many captures were dropped to make room since the start.
    pub fn evicted(&self) -> u64 {
        self.shared.store.totals(None).map_or(0, |Totals { evicted, .. }| evicted)
    }

    /// Why captures are not written to their [folder](Builder::store) any more, where that failed;
    /// capturing goes on in memory.
    pub fn store_problem(&self) -> Option<String> {
        self.shared.store.broken()
    }

    /// Forgets what the bin has captured; its answers stay.
    pub fn clear(&self, bin: &str) {
        self.shared.store.clear(Some(bin));
    }

    /// What is known about the signatures of a request: whether they hold with the secrets of its
    /// bin ([`On::secrets`], [`Builder::secret`]), the bytes that were signed, and why they do not
    /// hold. Takes up to a second where the body is large and the signature wrong.
    pub fn signature(&self, capture: &Capture) -> Explanation {
        verify::explain(capture, &self.shared.keyring)
    }

    /// Waits for requests in that bin: `receiver.wait("orders").count(3).within(secs).await?`.
    pub fn wait(&self, bin: impl Into<String>) -> Wait {
        let (bin, matcher) = (bin.into(), Matcher::new());
        let wanted = Wanted { bin, count: 1, within: WAIT_DEFAULT, matcher };
        Wait { shared: self.shared.clone(), runtime: self.runtime.clone(), wanted }
    }

    /// Asserts that what each request stands for was taken over exactly once: that of the
    /// requests with the same key exactly one was answered with 2xx. Attempts that were answered
    /// otherwise, and requests that are not whole, may be any number. Returns the number of keys.
    ///
    /// # Panics
    /// With a list of the offenders: keys taken over more than once or never, and requests for
    /// which `key` gives `None`.
    #[track_caller]
    pub fn assert_exactly_once<K: Into<String>>(
        &self,
        bin: &str,
        key: impl Fn(&Capture) -> Option<K>,
    ) -> usize {
        let mut keys: BTreeMap<String, Vec<Capture>> = BTreeMap::new();
        let mut offences = Vec::new();
        for capture in self.requests(bin).into_iter().filter(|capture| capture.is_whole()) {
            match key(&capture) {
                Some(key) => keys.entry(key.into()).or_default().push(capture),
                None => offences.push(format!("no key: {}", *capture)),
            }
        }
        let keyless = offences.len();
        let mut offenders = 0;
        for (key, attempts) in &keys {
            let success = |status: u16| (200..300).contains(&status);
            let taken = match attempts.iter().filter(|c| c.status.is_some_and(success)).count() {
                1 => continue,
                0 => "never taken over".to_owned(),
                n => format!("taken over {n} times"),
            };
            offences.push(format!("{key:?} was {taken}:"));
            offences.extend(attempts.iter().map(|capture| format!("  {}", **capture)));
            offenders += 1;
        }
        assert!(
            offences.is_empty(),
            "bin {bin:?}: {offenders} of {} keys not taken over exactly once, {keyless} requests \
             without a key\n  {}",
            keys.len(),
            offences.join("\n  ")
        );
        keys.len()
    }

    /// [`assert_exactly_once`](Self::assert_exactly_once) with the value of a header as the key,
    /// such as `webhook-id`.
    ///
    /// # Panics
    /// As that does; a request without the header is an offender too.
    #[track_caller]
    pub fn assert_exactly_once_by(&self, bin: &str, header: &str) -> usize {
        self.assert_exactly_once(bin, |capture| capture.header(header).map(str::to_owned))
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        drop(self.stop.take());
        // A closure that owns its receiver lets it go on the receiver's own thread.
        if thread::current().id() != self.thread {
            let stopped = self.stopped.get_mut().unwrap_or_else(PoisonError::into_inner);
            let _ = stopped.recv_timeout(STOP_TIMEOUT);
        }
    }
}

impl std::fmt::Debug for Receiver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Shared { capture, admin, .. } = &*self.shared;
        let mut debug = f.debug_struct("Receiver");
        debug.field("capture", capture).field("admin", admin).finish_non_exhaustive()
    }
}

/// A bin of a running receiver, to say what it answers.
#[derive(Debug)]
pub struct On<'a> {
    receiver: &'a Receiver,
    bin: String,
}

impl On<'_> {
    /// From now on the bin answers this; see [`Answers`] for what it may be.
    ///
    /// # Panics
    /// Where there are 10,000 bins with answers already.
    pub fn respond(self, answers: impl Answers) -> Self {
        self.scenario(Scenario::of(steps(answers)))
    }

    /// From now on this decides what the bin answers: `respond` for a closure whose argument's
    /// type is not written out.
    ///
    /// # Panics
    /// As [`respond`](Self::respond).
    pub fn respond_with(self, decide: impl FnMut(&Capture) -> Response + Send + 'static) -> Self {
        self.respond(decide)
    }

    /// Behind what was said before the bin answers this, once each; the last repeats.
    ///
    /// # Panics
    /// As [`respond`](Self::respond).
    pub fn then(self, answers: impl Answers) -> Self {
        let appended = self.receiver.shared.scripts.append(&self.bin, steps(answers));
        self.done(appended)
    }

    /// From now on the bin answers by these rules.
    ///
    /// # Panics
    /// As [`respond`](Self::respond).
    pub fn scenario(self, scenario: Scenario) -> Self {
        let set = self.receiver.shared.scripts.set(&self.bin, scenario);
        self.done(set)
    }

    /// From now on this goes wrong with every answer of the bin, in the place of what goes wrong
    /// with the answer itself; `None`: nothing more.
    ///
    /// # Panics
    /// As [`respond`](Self::respond), and where the fault breaks its own bounds.
    pub fn fault(self, fault: impl Into<Option<Fault>>) -> Self {
        let fault = fault.into();
        if let Some(Err(error)) = fault.as_ref().map(Fault::check) {
            panic!("{error}");
        }
        let set = self.receiver.shared.scripts.fault(&self.bin, fault);
        self.done(set)
    }

    /// The secrets with which senders sign for this bin: the current one first, then those that are
    /// being rotated out. None: those of [`Builder::secret`] hold again.
    ///
    /// A secret is written as its scheme gives it out: `whsec_…` of Standard Webhooks, `whpk_…` for
    /// ed25519, any text for the others.
    ///
    /// # Panics
    /// For more than 16 secrets, and for one that has not 1 to 4096 bytes.
    #[track_caller]
    pub fn secrets<S: Into<String>>(self, secrets: impl IntoIterator<Item = S>) -> Self {
        let secrets: Result<Vec<_>, _> = secrets.into_iter().map(Secret::new).collect();
        let set = secrets.and_then(|secrets| self.receiver.shared.keyring.set(&self.bin, secrets));
        if let Err(error) = set {
            panic!("{error}");
        }
        self
    }

    /// From now on the bin passes its requests on to this URL, `http://HOST:PORT/PATH`, and what
    /// the target answers back; what is below the bin follows the URL's path. Rules of a scenario
    /// go before. Header lines go in order and case, `host` too, but for those of a connection
    /// (RFC 9110 §7.6.1). Both sides are on the capture: [`Record::forwarded`](crate::Record).
    ///
    /// # Panics
    /// For a URL that is none of these, or the receiver's own, and beyond 10,000 bins.
    #[track_caller]
    pub fn forward(self, url: impl AsRef<str>) -> Self {
        let shared = &self.receiver.shared;
        if let Err(error) = shared.forwards.set(&self.bin, url.as_ref(), shared.capture) {
            panic!("{error}");
        }
        self
    }

    fn done(self, set: Result<(), TooManyBins>) -> Self {
        if let Err(error) = set {
            panic!("{error}");
        }
        self
    }
}
