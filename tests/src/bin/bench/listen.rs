//! A receiver on a thread of its own, in this process.

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::sync::oneshot::{self, Sender};

use crate::Failure;

/// Starts it; `answer` makes each answer. Returns its port; it ends with what is returned beside.
pub(crate) fn listen<F, A>(answer: F) -> Result<(u16, Sender<()>), Failure>
where
    F: Fn(Request<Incoming>) -> A + Clone + Send + 'static,
    A: Future<Output = hyper::Result<Response<Full<Bytes>>>> + Send + 'static,
{
    let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    listener.set_nonblocking(true)?;
    let port = listener.local_addr()?.port();
    let (stop, stopped) = oneshot::channel::<()>();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::spawn(move || {
        runtime.block_on(async move {
            tokio::select! {
                _ = stopped => Ok(()),
                ended = accept(listener, answer) => ended,
            }
        })
    });
    Ok((port, stop))
}

async fn accept<F, A>(listener: std::net::TcpListener, answer: F) -> std::io::Result<()>
where
    F: Fn(Request<Incoming>) -> A + Clone + Send + 'static,
    A: Future<Output = hyper::Result<Response<Full<Bytes>>>> + Send + 'static,
{
    let listener = TcpListener::from_std(listener)?;
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let service = service_fn(answer.clone());
        tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
    }
}

/// The number in the payload `{"n":NUMBER}` of a request.
pub(crate) async fn number(body: Incoming) -> hyper::Result<Option<usize>> {
    let body = body.collect().await?.to_bytes();
    let text = String::from_utf8_lossy(&body);
    let number = text.rsplit_once("\"n\":").map(|(_, rest)| rest.trim_end_matches('}'));
    Ok(number.and_then(|number| number.parse().ok()))
}
