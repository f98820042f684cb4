//! Webhooks: each event is one POST.
//!
//! The request is Postrider's wire form (see [`Format`]) with `webhook-id`, `webhook-timestamp`
//! and, where secrets are set, `webhook-signature` by the Standard Webhooks specification. What the
//! answer means is in [`Answer::outcome_with`]; nothing here retries, waits or remembers, but for one
//! second try where a kept connection turns out to be closed (see [`Client::send`]).
//!
//! Bounds: the endpoint's `timeout` covers everything, `connect_timeout` what comes before the
//! request; an answer's head has at most 128 fields and 64 KiB, its body is read up to
//! `response_bytes_max`; a connection is kept for 30 s unused and 5 min in all.

mod answer;
mod asked;
mod auth;
mod batch;
mod client;
mod config;
mod connect;
mod egress;
pub mod guard;
mod handshake;
mod network;
mod oauth;
mod permanent;
mod pin;
mod pool;
mod proxy;
mod request;
mod resolve;
mod signers;
mod target;
mod text;
mod tls;
mod trust;
mod wire;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_ENCODING};
use http::{Method, StatusCode};
use postrider::delivery::{Cause, Nack, Outcome};
use postrider::sink::{Attempt, CheckContext, EgressFuture, Problem, Sink, SinkFactory};
use postrider::transform::Impossible;
use postrider::{Error, ErrorKind, Rate, Timestamp};
use tokio::time::Instant;

pub use answer::{Answer, retry_after};
pub use auth::AuthSettings;
pub use batch::{
    AnswerKind, BATCH_BYTES_MAX, BATCH_EVENTS_MAX, BATCH_LINGER_MAX, BatchSettings, Form,
};
pub use client::{
    CONNECT_TIMEOUT_DEFAULT, CONNECTIONS_IDLE_MAX_DEFAULT, Client, ClientError, Options,
    RESPONSE_BYTES_MAX_DEFAULT,
};
pub use config::{
    CONNECTIONS_IDLE_MAX_MAX, HEADERS_BYTES_MAX, HEADERS_MAX, HttpSettings, PERMANENT_MAX,
    RESPONSE_BYTES_MAX_MAX, SECRETS_MAX, SOURCE_BYTES_MAX, TransformSetting,
};
pub use handshake::{
    HANDSHAKE_EVERY_MAX, HANDSHAKE_EVERY_MIN, HANDSHAKE_ORIGIN_BYTES_MAX, HandshakeSettings,
};
pub use network::{NETWORK_ENTRIES_MAX, NetworkSettings};
pub use oauth::{ClientAuth, OAuth2Settings};
pub use permanent::Statuses;
pub use pool::{AGE_MAX, IDLE_MAX};
pub use proxy::InvalidProxy;
pub use request::{COMPRESS_FROM_BYTES, Compress, Format};
pub use resolve::{Resolve, SystemResolver};
pub use signers::Signature;
pub use target::{Forbidden, InvalidUrl, URL_BYTES_MAX};
pub use tls::Tls;
pub use trust::{MinVersion, PINS_MAX, TLS_FILE_BYTES_MAX, TlsSettings};

use auth::Auth;
use config::Checked;
use connect::Deadline;
use handshake::Handshake;
use request::{Stamp, Template};

/// Makes [`HttpSink`]s: `sink = "http"`, the default kind of endpoint.
#[derive(Clone, Copy, Debug, Default)]
pub struct HttpFactory;

impl SinkFactory for HttpFactory {
    type Settings = HttpSettings;

    fn name(&self) -> &'static str {
        "http"
    }

    fn check(&self, settings: &HttpSettings, context: &CheckContext<'_>) -> Vec<Problem> {
        settings.checked(context).err().unwrap_or_default()
    }

    fn target(&self, settings: &HttpSettings) -> String {
        settings.shown()
    }

    fn egress(&self, settings: &HttpSettings, context: &CheckContext<'_>) -> Option<EgressFuture> {
        let sink = HttpSink::new(settings, context);
        Some(Box::pin(async move {
            let sink = sink.map_err(|error| Nack::retry(Cause::Sink, error.to_string()))?;
            sink.client.egress().await
        }))
    }

    fn build(
        &self,
        settings: &HttpSettings,
        context: &CheckContext<'_>,
    ) -> Result<Arc<dyn Sink>, Error> {
        Ok(Arc::new(HttpSink::new(settings, context)?))
    }
}

/// Posts events to one URL.
pub struct HttpSink {
    client: Client,
    template: Template,
    permanent: Vec<Statuses>,
    auth: Option<Auth>,
    batch: Option<BatchSettings>,
    handshake: Option<Handshake>,
}

impl HttpSink {
    /// A sink by `settings`; connects to nothing yet.
    ///
    /// # Errors
    /// [`ErrorKind::Sink`] with the first problem that [`HttpFactory::check`] finds, or where TLS
    /// cannot be set up.
    pub fn new(settings: &HttpSettings, context: &CheckContext<'_>) -> Result<Self, Error> {
        Self::with_options(settings, context, |options| options)
    }

    /// As [`new`](Self::new), with what no configuration can say: `change` may put in another
    /// resolver or other trust.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn with_options(
        settings: &HttpSettings,
        context: &CheckContext<'_>,
        change: impl FnOnce(Options) -> Options,
    ) -> Result<Self, Error> {
        let open = |why: String| {
            Error::new(ErrorKind::Sink, format!("open endpoint {:?}: {why}", context.name))
        };
        let checked = settings.checked(context).map_err(|problems| {
            let first = &problems[0];
            open(format!("{}: {}", first.key, first.message))
        })?;
        let Checked { target, options, template, permanent, auth, batch, handshake } = checked;
        let client =
            Client::of(target, change(options)).map_err(|error| open(error.to_string()))?;
        Ok(Self { client, template, permanent, auth, batch, handshake })
    }

    /// How many requests were sent again on a new connection: see [`Client::resent`].
    pub fn resent(&self) -> u64 {
        self.client.resent()
    }

    /// Sends one event.
    async fn post(&self, attempt: &Attempt) -> Outcome {
        let started = Instant::now();
        // The same event can never be brought into the form: nothing is gained by another try.
        let (stamp, body) = self.template.fill(attempt).map_err(unformed)?;
        let deadline = deadline(attempt);
        self.consent(attempt.now, deadline).await?;
        let answer = self.exchange(&stamp, body, deadline).await?;
        answer.outcome_with(attempt.now.after(started.elapsed()), &self.permanent)
    }

    /// Sends several events in as few requests as the bounds of a batch allow, one after the other.
    async fn post_all(&self, settings: &BatchSettings, attempts: &[Attempt]) -> Vec<Outcome> {
        let started = Instant::now();
        let deadline = deadline(&attempts[0]);
        let mut outcomes: Vec<Option<Outcome>> = vec![None; attempts.len()];
        let (mut places, mut bodies) = (Vec::new(), Vec::new());
        for (place, attempt) in attempts.iter().enumerate() {
            match self.template.body(&attempt.event) {
                Ok(body) => {
                    places.push(place);
                    bodies.push(body);
                }
                Err(why) => outcomes[place] = Some(Err(unformed(why))),
            }
        }
        for part in settings.split(&bodies) {
            let first = &attempts[places[part.start]];
            let ids: Vec<String> = places[part.clone()]
                .iter()
                .map(|at| attempts[*at].event.id().to_string())
                .collect();
            let mut stamp = Stamp::new();
            let body = settings.join(&bodies[part.clone()]);
            let body = self.template.finish(batch::id(&ids), first.now, &body, &mut stamp);
            // All parts share the time of the call.
            let sent = async {
                self.consent(first.now, deadline).await?;
                self.exchange(&stamp, body, deadline).await
            };
            let of_part = match sent.await {
                Ok(answer) => {
                    let now = first.now.after(started.elapsed());
                    settings.outcomes(&answer, &ids, now, &self.permanent)
                }
                Err(nack) => vec![Err(nack); ids.len()],
            };
            for (place, outcome) in places[part].iter().zip(of_part) {
                outcomes[*place] = Some(outcome);
            }
        }
        outcomes.into_iter().map(|outcome| outcome.expect("every place is in one part")).collect()
    }

    /// Where a handshake is configured: asks for the receiver's consent, unless there is one.
    async fn consent(&self, now: Timestamp, deadline: Deadline) -> Result<(), Nack> {
        match &self.handshake {
            Some(handshake) => handshake.consent(&self.client, now, deadline).await,
            None => Ok(()),
        }
    }

    /// Sends a request.
    async fn exchange(
        &self,
        stamp: &Stamp,
        body: Bytes,
        deadline: Deadline,
    ) -> Result<Answer, Nack> {
        let mut answer = self.exchange_authorized(stamp, body, deadline).await?;
        // What a receiver says to a coding that it does not know (RFC 9110 §15.5.16).
        let is_coded = stamp.iter().any(|(name, _)| *name == CONTENT_ENCODING);
        if is_coded && answer.status == StatusCode::UNSUPPORTED_MEDIA_TYPE {
            answer.hint = ": it may not know the coding of the body; take compress out";
        }
        Ok(answer)
    }

    /// Sends a request; one that is answered 401 once more, where there is another token to send.
    async fn exchange_authorized(
        &self,
        stamp: &Stamp,
        body: Bytes,
        deadline: Deadline,
    ) -> Result<Answer, Nack> {
        let Some(auth) = &self.auth else {
            let head = || self.template.head(stamp);
            return self.client.exchange(&Method::POST, &head, body, deadline).await;
        };
        let mut token = auth.header(deadline).await?;
        let mut is_second = false;
        loop {
            let head = || {
                let mut head = self.template.head(stamp);
                head.insert(AUTHORIZATION, token.clone());
                head
            };
            let answer = self.client.exchange(&Method::POST, &head, body.clone(), deadline).await?;
            if is_second || answer.status != StatusCode::UNAUTHORIZED {
                return Ok(answer);
            }
            match auth.other(&token, deadline).await? {
                Some(other) => (token, is_second) = (other, true),
                None => return Ok(answer),
            }
        }
    }
}

fn unformed(why: Impossible) -> Nack {
    Nack::reject(Cause::Format, why.to_string())
}

/// The engine drops an attempt when its timeout is over; ending a little earlier lets the message
/// say which step it was.
fn deadline(attempt: &Attempt) -> Deadline {
    let timeout =
        attempt.timeout.saturating_sub((attempt.timeout / 50).min(Duration::from_millis(10)));
    Deadline::after(timeout, attempt.timeout)
}

/// Shows the URL without credentials and query.
impl std::fmt::Debug for HttpSink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "HttpSink({})", self.client.shown())
    }
}

#[async_trait]
impl Sink for HttpSink {
    async fn deliver(&self, batch: &[Attempt]) -> Vec<Outcome> {
        if let Some(settings) = self.batch.as_ref().filter(|_| !batch.is_empty()) {
            return self.post_all(settings, batch).await;
        }
        let mut outcomes = Vec::with_capacity(batch.len());
        for attempt in batch {
            outcomes.push(self.post(attempt).await);
        }
        outcomes
    }

    fn batch_max(&self) -> usize {
        self.batch.as_ref().map_or(1, |batch| batch.events as usize)
    }

    fn batch_linger(&self) -> Duration {
        self.batch.as_ref().map_or(Duration::ZERO, |batch| batch.linger.0)
    }

    fn rate_max(&self) -> Option<Rate> {
        self.handshake.as_ref().and_then(Handshake::rate_max)
    }

    async fn check(&self) -> Result<(), Nack> {
        self.client.probe().await
    }

    async fn close(&self) -> Result<(), Error> {
        self.client.close();
        Ok(())
    }
}
