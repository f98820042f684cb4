//! Endpoints: configured places that events go to, with the policy each is served by.

mod asks;
mod hold;
mod id;
mod order;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

pub use asks::NotAsked;
pub(crate) use asks::asks;
pub use hold::{Gone, Hold, WhenDisabled};
pub use id::{ENDPOINT_ID_BYTES_MAX, EndpointId, InvalidEndpointId};
pub use order::{OnDead, Order};

use crate::delivery::{Cause, Nack};
use crate::error::{Error, ErrorKind};
use crate::filter::Filter;
use crate::rate::Rate;
use crate::retry;
use crate::route::{InvalidPattern, Pattern};
use crate::sink::Sink;

/// Longest time one attempt may take unless the endpoint says otherwise (10 s, the guide's figure).
pub const TIMEOUT_DEFAULT: Duration = Duration::from_secs(10);
/// Longest timeout that an endpoint may ask for.
pub const TIMEOUT_MAX: Duration = Duration::from_mins(15);
/// Attempts under way at one endpoint unless it says otherwise.
pub const CONCURRENCY_DEFAULT: usize = 16;
/// Most attempts under way that an endpoint may ask for.
pub const CONCURRENCY_MAX: usize = 4096;

/// Most calls that adaptive concurrency grows to unless the endpoint says otherwise.
pub const ADAPTIVE_MAX_DEFAULT: usize = 256;

/// How many attempts may be under way at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Concurrency {
    /// So many, 1 to 4096.
    Fixed(usize),
    /// From `min` up to `max`, 1 to 4096: more while answers come as quickly as usual, fewer after
    /// timeouts and answers that ask for less.
    Adaptive {
        /// At least so many, and so many at first.
        min: usize,
        /// At most so many.
        max: usize,
    },
}

impl Concurrency {
    /// At most so many.
    pub fn max(self) -> usize {
        match self {
            Self::Fixed(calls) => calls,
            Self::Adaptive { max, .. } => max,
        }
    }
}

/// When an endpoint that fails is left alone for a while: after `failures` attempts that failed in a
/// row nothing is sent for `pause`; then a single delivery probes it, and while that fails too, the
/// pause doubles up to `pause_max`. What is owed waits meanwhile and uses up no attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Breaker {
    pub(crate) failures: u32,
    pub(crate) pause: Duration,
    pub(crate) pause_max: Duration,
}

impl Breaker {
    /// `failures`: at least 1; `pause`: at least 1 ms, at most `pause_max`, which is at most a day.
    pub fn new(failures: u32, pause: Duration, pause_max: Duration) -> Self {
        let pause_max = pause_max.clamp(Duration::from_millis(1), BREAKER_PAUSE_MAX);
        let pause = pause.clamp(Duration::from_millis(1), pause_max);
        Self { failures: failures.max(1), pause, pause_max }
    }
}

/// Longest pause of a breaker.
pub const BREAKER_PAUSE_MAX: Duration = Duration::from_hours(24);

/// After 20 failures in a row; 10 s, up to 5 min.
impl Default for Breaker {
    fn default() -> Self {
        Self { failures: 20, pause: Duration::from_secs(10), pause_max: Duration::from_mins(5) }
    }
}

/// How an endpoint is served. All values are checked by whoever makes one (config or builder).
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    /// Longest time one attempt may take, connecting and reading the answer included. Default 10 s.
    pub timeout: Duration,
    /// Most attempts under way at once. Default 16.
    pub concurrency: Concurrency,
    /// Most deliveries in a time. Default: as many as its concurrency lets through.
    pub rate: Option<Rate>,
    /// When it is left alone for a while; `None`: never. Default: [`Breaker::default`].
    pub breaker: Option<Breaker>,
    /// When failed attempts are made again.
    pub retry: retry::Policy,
    /// Which events keep their order. Default: none.
    pub order: Order,
    /// What happens behind an event that was given up, where an order is kept. Default: the next one
    /// follows.
    pub on_dead: OnDead,
    /// It is disabled when every attempt has failed for so long; `None`: never. At most
    /// [`DISABLE_AFTER_MAX`]. Default 5 days.
    pub disable_after: Option<Duration>,
    /// What happens to what is owed to it while it is disabled. Default: it is kept.
    pub when_disabled: WhenDisabled,
}

/// Until when an endpoint that fails is not disabled, unless said otherwise.
pub const DISABLE_AFTER_DEFAULT: Duration = Duration::from_hours(5 * 24);
/// Longest such time: so long is known which attempts failed.
pub const DISABLE_AFTER_MAX: Duration = Duration::from_hours(7 * 24);

impl Default for Policy {
    fn default() -> Self {
        Self {
            timeout: TIMEOUT_DEFAULT,
            concurrency: Concurrency::Fixed(CONCURRENCY_DEFAULT),
            rate: None,
            breaker: Some(Breaker::default()),
            retry: retry::Policy::default(),
            order: Order::default(),
            on_dead: OnDead::default(),
            disable_after: Some(DISABLE_AFTER_DEFAULT),
            when_disabled: WhenDisabled::default(),
        }
    }
}

/// One configured place: which events it asks for, its sink, its policy.
///
/// ```
/// # use postrider::testing::RecordingSink;
/// use postrider::Endpoint;
///
/// # let sink = RecordingSink::default();
/// let endpoint = Endpoint::builder("audit", sink).events(["match", "model.*"])?.build();
/// # Ok::<(), postrider::Error>(())
/// ```
#[derive(Clone)]
pub struct Endpoint {
    pub(crate) id: EndpointId,
    pub(crate) name: Arc<str>,
    pub(crate) enabled: bool,
    pub(crate) events: Vec<Pattern>,
    pub(crate) filter: Option<Filter>,
    pub(crate) policy: Policy,
    pub(crate) sink: Arc<dyn Sink>,
    /// Tells changed settings of the sink from unchanged ones, across restarts. `None`: built in code.
    pub(crate) fingerprint: Option<u16>,
}

impl Endpoint {
    /// An endpoint named `name` that delivers through `sink`; it asks for every event (`*`) until
    /// told otherwise. Its id comes from the name unless set.
    pub fn builder(name: impl Into<String>, sink: impl Sink) -> EndpointBuilder {
        Self::builder_shared(name, Arc::new(sink))
    }

    /// As [`builder`](Self::builder), for a sink that is already shared.
    pub fn builder_shared(name: impl Into<String>, sink: Arc<dyn Sink>) -> EndpointBuilder {
        EndpointBuilder {
            id: None,
            name: name.into(),
            enabled: true,
            events: vec![Pattern::all()],
            filter: None,
            policy: Policy::default(),
            sink,
        }
    }

    /// The id.
    pub fn id(&self) -> &EndpointId {
        &self.id
    }

    /// The name for people.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether deliveries are attempted; a disabled endpoint's are held.
    pub fn enabled(&self) -> bool {
        self.enabled
    }

    /// The events it asks for.
    pub fn events(&self) -> &[Pattern] {
        &self.events
    }

    /// Which of these events it really gets; `None`: all.
    pub fn filter(&self) -> Option<&Filter> {
        self.filter.as_ref()
    }

    /// Asks whether the place can be reached, within the endpoint's timeout; delivers nothing.
    ///
    /// # Errors
    /// The failure that a delivery would meet now.
    pub async fn check(&self) -> Result<(), Nack> {
        let timeout = self.policy.timeout;
        tokio::time::timeout(timeout, self.sink.check()).await.unwrap_or_else(|_| {
            Err(Nack::retry(Cause::Timeout, format!("no answer within {timeout:?}")))
        })
    }

    /// How it is served.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoint")
            .field("id", &self.id)
            .field("name", &self.name)
            .field("enabled", &self.enabled)
            .field("events", &self.events)
            .field("filter", &self.filter)
            .field("policy", &self.policy)
            .finish_non_exhaustive()
    }
}

/// Makes an [`Endpoint`].
#[must_use = "a builder does nothing until built"]
pub struct EndpointBuilder {
    id: Option<EndpointId>,
    name: String,
    enabled: bool,
    events: Vec<Pattern>,
    filter: Option<Filter>,
    policy: Policy,
    sink: Arc<dyn Sink>,
}

impl EndpointBuilder {
    /// Sets the id (default: from the name, see [`EndpointId::from_name`]).
    pub fn id(mut self, id: EndpointId) -> Self {
        self.id = Some(id);
        self
    }

    /// Sets which events it asks for, as patterns: `match`, `*`, `model.*`, `model.**`.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] for a pattern that breaks the rules of [`Pattern`].
    pub fn events<'a>(
        mut self,
        patterns: impl IntoIterator<Item = &'a str>,
    ) -> Result<Self, Error> {
        self.events = patterns
            .into_iter()
            .map(|text| {
                text.parse().map_err(|error: InvalidPattern| {
                    let what = format!("set up endpoint {:?}: {error}", self.name);
                    Error::new(ErrorKind::Config, what)
                })
            })
            .collect::<Result<_, _>>()?;
        Ok(self)
    }

    /// Sets which of the events that the patterns match it really gets. Default: all.
    ///
    /// Judged when an event is published: a filter that changes later does not change what was
    /// promised. A replay to this endpoint does not ask it.
    pub fn filter(mut self, filter: Filter) -> Self {
        self.filter = Some(filter);
        self
    }

    /// Sets whether deliveries are attempted (default) or held.
    pub fn enabled(mut self, enabled: bool) -> Self {
        self.enabled = enabled;
        self
    }

    /// Sets the longest time one attempt may take: at least 1 ms, at most 15 min. Default 10 s.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.policy.timeout = timeout.clamp(Duration::from_millis(1), TIMEOUT_MAX);
        self
    }

    /// Sets how many attempts may be under way at once: 1 to 4096. Default 16.
    pub fn concurrency(mut self, concurrency: usize) -> Self {
        self.policy.concurrency = Concurrency::Fixed(concurrency.clamp(1, CONCURRENCY_MAX));
        self
    }

    /// Lets the number of attempts under way follow how well they go, within these bounds: 1 to 4096.
    pub fn concurrency_between(mut self, min: usize, max: usize) -> Self {
        let max = max.clamp(1, CONCURRENCY_MAX);
        self.policy.concurrency = Concurrency::Adaptive { min: min.clamp(1, max), max };
        self
    }

    /// Sets the most deliveries in a time. Default: no bound.
    pub fn rate(mut self, rate: Rate) -> Self {
        self.policy.rate = Some(rate);
        self
    }

    /// Sets when it is left alone for a while; `None`: never.
    pub fn breaker(mut self, breaker: Option<Breaker>) -> Self {
        self.policy.breaker = breaker;
        self
    }

    /// Sets when failed attempts are made again.
    pub fn retry(mut self, retry: retry::Policy) -> Self {
        self.policy.retry = retry;
        self
    }

    /// Sets which events keep their order. Default: none. A bus refuses to open with another one where
    /// its store has no history, or is shared with other processes.
    pub fn order(mut self, order: Order) -> Self {
        self.policy.order = order;
        self
    }

    /// Sets what happens behind an event that was given up, where an order is kept. Default: the next
    /// one follows.
    pub fn on_dead(mut self, on_dead: OnDead) -> Self {
        self.policy.on_dead = on_dead;
        self
    }

    /// Sets after how long without a success, and with failures, it is disabled: at least 1 s, at most
    /// 7 days. `None`: never. Default 5 days.
    pub fn disable_after(mut self, time: Option<Duration>) -> Self {
        let clamp = |time: Duration| time.clamp(Duration::from_secs(1), DISABLE_AFTER_MAX);
        self.policy.disable_after = time.map(clamp);
        self
    }

    /// Sets what happens to what is owed to it while it is disabled. Default: it is kept.
    pub fn when_disabled(mut self, when_disabled: WhenDisabled) -> Self {
        self.policy.when_disabled = when_disabled;
        self
    }

    /// The endpoint.
    ///
    /// A name of which no id can be made (no ASCII letter or digit in it) gets the id `endpoint`;
    /// give such endpoints ids of their own.
    pub fn build(self) -> Endpoint {
        let id = self
            .id
            .or_else(|| EndpointId::from_name(&self.name))
            .unwrap_or_else(|| "endpoint".parse().expect("a valid id"));
        Endpoint {
            id,
            name: self.name.into(),
            enabled: self.enabled,
            events: self.events,
            filter: self.filter,
            policy: self.policy,
            sink: self.sink,
            fingerprint: None,
        }
    }
}
