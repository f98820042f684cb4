//! The receiver: two addresses, a thread of its own, and the handle that ends it.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError, atomic::AtomicUsize, mpsc},
    thread,
    time::Duration,
};

use tokio::{runtime::Handle, sync::oneshot};

use crate::{
    Answers, Builder, Capture, Error, Matcher, Response, Wait,
    script::{Scripts, Step, steps},
    store::{Store, Totals},
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
}

/// What the tasks of a receiver share with its handle.
pub(crate) struct Shared {
    pub(crate) store: Store,
    pub(crate) scripts: Scripts,
    pub(crate) keyring: Keyring,
    pub(crate) limits: Limits,
    /// Bytes of bodies that are on their way in.
    pub(crate) inflight: AtomicUsize,
    pub(crate) token: String,
    pub(crate) capture: SocketAddr,
    pub(crate) admin: SocketAddr,
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

    /// Where to send for that bin: `http://127.0.0.1:PORT/bin`. Any path may follow.
    pub fn url(&self, bin: &str) -> String {
        format!("http://{}/{bin}", self.shared.capture)
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
        self.set(steps(answers), false)
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
        self.set(steps(answers), true)
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

    fn set(self, steps: Vec<Step>, append: bool) -> Self {
        if let Err(error) = self.receiver.shared.scripts.set(&self.bin, steps, append) {
            panic!("{error}");
        }
        self
    }
}
