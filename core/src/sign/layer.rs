//! A tower layer that lets only signed requests through to a receiver's own service.

use std::error::Error as StdError;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Either, Full, LengthLimitError, Limited};
use tower_layer::Layer;
use tower_service::Service;

use super::verify::{judged, verify};
use super::{
    HEADER_ID, HEADER_SIGNATURE, HEADER_TIMESTAMP, Key, Refused, SignedHeaders, TOLERANCE_DEFAULT,
};
use crate::clock::{Clock as _, SystemClock};

/// Largest body that [`VerifyLayer`] reads where nothing else is said, in bytes.
pub const BODY_BYTES_MAX_DEFAULT: usize = 1 << 20;

/// Puts a check of Standard Webhooks (`v1` and `v1a`) in front of a service: for axum's
/// `Router::layer`, hyper and whatever else speaks tower.
///
/// The whole body is read before the service is called, since all of it is signed; the service gets
/// the same bytes as `Full<Bytes>`, and the request's head as it came. What is not let through is
/// answered in plain text that says why:
///
/// | status | when |
/// |---|---|
/// | 401 | a [`Refused`] reason; the body is not read where a header is missing or the time is off |
/// | 413 | the body is larger than [`body_bytes_max`](Self::body_bytes_max) |
/// | 400 | the body broke off |
///
/// It remembers no ids: dropping what came twice by its `webhook-id` is the service's. It sets no
/// limit on the time that a body takes: put a timeout in front of it.
///
/// # Cancel safety
/// A dropped call has not reached the service, or is dropped inside of it.
///
/// # Examples
/// ```
/// use postrider::sign::{Key, VerifyLayer};
/// use tower_layer::Layer;
///
/// # fn app<S>(service: S, secret: &str) -> Result<(), postrider::sign::InvalidKey> {
/// let keys: Vec<Key> = vec![secret.parse()?]; // Several while a secret is rotated.
/// let checked = VerifyLayer::new(keys).body_bytes_max(64 << 10).layer(service);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct VerifyLayer(Arc<Rules>);

#[derive(Clone, Debug)]
struct Rules {
    keys: Vec<Key>,
    body_bytes_max: usize,
    tolerance: Duration,
}

impl VerifyLayer {
    /// Lets through what one of `keys` has signed; nothing where there are none.
    pub fn new(keys: impl Into<Vec<Key>>) -> Self {
        Self(Arc::new(Rules {
            keys: keys.into(),
            body_bytes_max: BODY_BYTES_MAX_DEFAULT,
            tolerance: TOLERANCE_DEFAULT,
        }))
    }

    /// The largest body that is read, in bytes. Default: [`BODY_BYTES_MAX_DEFAULT`] (1 MiB).
    pub fn body_bytes_max(mut self, bytes: usize) -> Self {
        Arc::make_mut(&mut self.0).body_bytes_max = bytes;
        self
    }

    /// How far a message's time may be from now. Default: [`TOLERANCE_DEFAULT`] (5 minutes).
    pub fn tolerance(mut self, tolerance: Duration) -> Self {
        Arc::make_mut(&mut self.0).tolerance = tolerance;
        self
    }
}

impl<S> Layer<S> for VerifyLayer {
    type Service = Verify<S>;

    fn layer(&self, inner: S) -> Verify<S> {
        Verify { inner, rules: self.0.clone() }
    }
}

/// What [`VerifyLayer`] makes of a service.
#[derive(Clone, Debug)]
pub struct Verify<S> {
    inner: S,
    rules: Arc<Rules>,
}

impl<S, B, R> Service<Request<B>> for Verify<S>
where
    S: Service<Request<Full<Bytes>>, Response = Response<R>> + Clone + Send + 'static,
    S::Future: Send,
    B: http_body::Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn StdError + Send + Sync>>,
{
    type Response = Response<Either<R, Full<Bytes>>>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        // The clone was not polled: it takes the place of the one that was.
        let clone = self.inner.clone();
        let mut ready = std::mem::replace(&mut self.inner, clone);
        let rules = self.rules.clone();
        Box::pin(async move {
            match rules.read(request).await {
                Ok(request) => Ok(ready.call(request).await?.map(Either::Left)),
                Err((status, why)) => Ok(answer(status, why)),
            }
        })
    }
}

impl Rules {
    async fn read<B>(
        &self,
        request: Request<B>,
    ) -> Result<Request<Full<Bytes>>, (StatusCode, String)>
    where
        B: http_body::Body,
        B::Error: Into<Box<dyn StdError + Send + Sync>>,
    {
        let refuse = |why: Refused| (StatusCode::UNAUTHORIZED, why.to_string());
        let (head, body) = request.into_parts();
        let headers = signed(&head.headers);
        let now = SystemClock.now();
        judged(headers, now, self.tolerance).map_err(refuse)?;

        let max = self.body_bytes_max;
        let large =
            || (StatusCode::PAYLOAD_TOO_LARGE, format!("the body has more than {max} bytes"));
        if body.size_hint().lower() > max as u64 {
            return Err(large());
        }
        let body = match Limited::new(body, max).collect().await {
            Ok(body) => body.to_bytes(),
            Err(error) if error.is::<LengthLimitError>() => return Err(large()),
            Err(_) => return Err((StatusCode::BAD_REQUEST, "the body broke off".to_owned())),
        };
        verify(&self.keys, headers, &body, now, self.tolerance).map_err(refuse)?;
        Ok(Request::from_parts(head, Full::new(body)))
    }
}

fn signed(headers: &HeaderMap) -> SignedHeaders<'_> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    SignedHeaders {
        id: text(HEADER_ID),
        timestamp: text(HEADER_TIMESTAMP),
        signature: text(HEADER_SIGNATURE),
    }
}

fn answer<R>(status: StatusCode, why: String) -> Response<Either<R, Full<Bytes>>> {
    let mut answer = Response::new(Either::Right(Full::new(Bytes::from(why + "\n"))));
    *answer.status_mut() = status;
    let text = HeaderValue::from_static("text/plain; charset=utf-8");
    answer.headers_mut().insert(CONTENT_TYPE, text);
    answer
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::future::ready;

    use http_body_util::StreamBody;

    use super::*;
    use crate::sign::key_pair;

    /// Answers with what came: the id, a dot and the body.
    #[derive(Clone)]
    struct Echo;

    impl Service<Request<Full<Bytes>>> for Echo {
        type Response = Response<Full<Bytes>>;
        type Error = Infallible;
        type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, request: Request<Full<Bytes>>) -> Self::Future {
            Box::pin(async move {
                let id = request.headers()[HEADER_ID].as_bytes().to_vec();
                let body = request.into_body().collect().await?.to_bytes();
                Ok(Response::new(Full::new([&id, &b"."[..], &body].concat().into())))
            })
        }
    }

    const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

    async fn call<B>(layer: &VerifyLayer, request: Request<B>) -> (u16, Vec<u8>)
    where
        B: http_body::Body<Error: Into<Box<dyn StdError + Send + Sync>>, Data: Send>
            + Send
            + 'static,
    {
        let answer = layer.layer(Echo).call(request).await.unwrap();
        let status = answer.status().as_u16();
        (status, answer.into_body().collect().await.unwrap().to_bytes().to_vec())
    }

    fn request(key: &Key, late: i64, body: &'static [u8]) -> Request<Full<Bytes>> {
        let seconds = SystemClock.now().as_seconds() - late;
        Request::post("/")
            .header(HEADER_ID, "msg_1")
            .header(HEADER_TIMESTAMP, seconds)
            .header(HEADER_SIGNATURE, key.sign("msg_1", seconds, body).unwrap())
            .body(Full::from(body))
            .unwrap()
    }

    #[tokio::test]
    async fn lets_signed_bytes_through_unchanged() {
        let (secret, public) = key_pair([7; 32]);
        let keys: Vec<Key> = vec![SECRET.parse().unwrap(), public.parse().unwrap()];
        let layer = VerifyLayer::new(keys);
        for secret in [SECRET, &secret] {
            let request = request(&secret.parse().unwrap(), 0, b"\xff{ }\n");
            assert_eq!(call(&layer, request).await, (200, b"msg_1.\xff{ }\n".to_vec()));
        }
    }

    #[tokio::test]
    async fn refuses_what_is_not_signed_and_says_why() {
        let key: Key = SECRET.parse().unwrap();
        let layer = VerifyLayer::new([key.clone()]);
        let check = async |layer: &VerifyLayer, request, expect: &str| {
            let (status, told) = call(layer, request).await;
            assert_eq!((status, &*String::from_utf8(told).unwrap()), (401, expect));
        };
        let nothing_fits = "no signature fits the message and a known key\n";
        let mut changed = request(&key, 0, b"{}");
        *changed.body_mut() = Full::from(&b"[]"[..]);
        check(&layer, changed, nothing_fits).await;
        check(&VerifyLayer::new([]), request(&key, 0, b"{}"), nothing_fits).await;
        check(&layer, request(&key, 310, b"{}"), "the message is too old\n").await;
        let minute = layer.clone().tolerance(Duration::from_mins(1));
        check(&minute, request(&key, 70, b"{}"), "the message is too old\n").await;
        let mut bare = request(&key, 0, b"{}");
        bare.headers_mut().remove(HEADER_SIGNATURE);
        check(&layer, bare, "the header webhook-signature is missing\n").await;
    }

    #[tokio::test]
    async fn reads_bodies_to_a_bound() {
        type Frame = Result<http_body::Frame<Bytes>, std::io::Error>;
        let key: Key = SECRET.parse().unwrap();
        let layer = VerifyLayer::new([key.clone()]).body_bytes_max(4);
        assert_eq!(call(&layer, request(&key, 0, b"four")).await.0, 200);
        let (status, told) = call(&layer, request(&key, 0, b"fives")).await;
        assert_eq!((status, &*told), (413, &b"the body has more than 4 bytes\n"[..]));

        // Without a length ahead: endless, and it ends all the same.
        let frame = || -> Frame { Ok(http_body::Frame::data(Bytes::from_static(b"xxx"))) };
        let endless = futures_util::stream::repeat_with(frame);
        let sent = request(&key, 0, b"").map(|_| StreamBody::new(endless));
        assert_eq!(call(&layer, sent).await.0, 413);

        let broken = futures_util::stream::once(ready(Frame::Err(std::io::Error::other("gone"))));
        let sent = request(&key, 0, b"").map(|_| StreamBody::new(broken));
        assert_eq!(call(&layer, sent).await, (400, b"the body broke off\n".to_vec()));

        // Who does not sign at all makes us read nothing.
        let unread = futures_util::stream::poll_fn(|_| -> Poll<Option<Frame>> {
            panic!("the body was read")
        });
        let mut sent = request(&key, 0, b"").map(|_| StreamBody::new(unread));
        sent.headers_mut().remove(HEADER_SIGNATURE);
        assert_eq!(call(&layer, sent).await.0, 401);
    }
}
