//! HTTP/2: streams of one connection, each a request. Framing is the h2 crate's; what a request
//! looked like is written down as HTTP/1.1 would have it.

use std::{
    future::poll_fn,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use h2::{
    Reason, RecvStream, SendStream,
    server::{Builder, SendResponse},
};
use hyper::{
    HeaderMap, Request,
    header::{CONTENT_ENCODING, CONTENT_LENGTH, DATE, HeaderName, HeaderValue},
    http::request::Parts,
};
use tokio::{
    select,
    sync::mpsc,
    task::JoinSet,
    time::{sleep, timeout},
};

use super::{
    Headers, Problem,
    io::Wire,
    parse::HEAD_BYTES_MAX,
    relay::checked,
    reply::Bomb,
    serve::{Collected, Connection, Facts, Kept, stalled, stopped, too_large},
    timeline::{Closer, Late},
};
use crate::script::{Answer, Fault};

/// What a client sends first (RFC 9113 §3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const STREAMS_MAX: u32 = 256;
/// How much a sender may send of one body, and of all bodies, before we have taken it.
const WINDOW_BYTES: u32 = 1 << 20;
/// The largest piece of a body of ours.
const PIECE: usize = 64 << 10;

/// Whether the connection begins with HTTP/2 (by prior knowledge), told from its first bytes.
pub(super) async fn is_preface(wire: &mut Wire) -> bool {
    loop {
        let seen = wire.buf.len().min(PREFACE.len());
        if wire.buf[..seen] != PREFACE[..seen] {
            return false;
        }
        if seen == PREFACE.len() {
            return true;
        }
        // An end or a failure is met again, and told, by who reads on.
        if !matches!(wire.fill_or_idle().await, Ok(1..)) {
            return false;
        }
    }
}

/// What a stream asks of its connection.
enum Order {
    Goaway(u32),
    /// The end of the connection, with a reset or without.
    End {
        reset: bool,
    },
}

/// Serves streams until the connection ends; says who ended it.
pub(super) async fn serve(connection: Arc<Connection>, wire: Wire) -> Closer {
    let idle = connection.shared.limits.idle_timeout;
    let reset_on_close = wire.reset_switch();
    let handshake = Builder::new()
        .max_concurrent_streams(STREAMS_MAX)
        .max_header_list_size(HEAD_BYTES_MAX as u32)
        .initial_window_size(WINDOW_BYTES)
        .initial_connection_window_size(4 * WINDOW_BYTES)
        .handshake::<_, Bytes>(wire);
    let mut streams = match timeout(idle, handshake).await {
        Ok(Ok(streams)) => streams,
        Ok(Err(error)) => return closer_of(&error),
        Err(_) => return Closer::Receiver,
    };
    let (orders, mut ordered) = mpsc::channel(16);
    let mut tasks = JoinSet::new(); // Ended with the connection.
    let open = Arc::new(AtomicUsize::new(0));
    let mut ours = false;
    loop {
        select! {
            accepted = streams.accept() => match accepted {
                None if ours => return Closer::Receiver,
                None => return Closer::Sender,
                Some(Err(error)) => return closer_of(&error),
                Some(Ok((request, respond))) => {
                    let (connection, orders) = (connection.clone(), orders.clone());
                    let open = Open::new(open.clone());
                    tasks.spawn(async move {
                        stream(&connection, request, respond, &orders).await;
                        drop(open);
                    });
                }
            },
            Some(order) = ordered.recv() => match order {
                Order::Goaway(code) => {
                    ours = true;
                    streams.abrupt_shutdown(Reason::from(code));
                }
                Order::End { reset: true } => {
                    reset_on_close.store(true, Ordering::Relaxed);
                    return Closer::ReceiverReset;
                }
                Order::End { reset: false } => return Closer::Receiver,
            },
            Some(_) = tasks.join_next() => {}
            () = sleep(idle), if open.load(Ordering::Relaxed) == 0 && !ours => {
                ours = true;
                streams.graceful_shutdown();
            }
        }
    }
}

fn closer_of(error: &h2::Error) -> Closer {
    tracing::debug!(error = %error, "HTTP/2 connection ended");
    match error.get_io() {
        Some(_) => Closer::SenderReset,
        None if error.is_remote() => Closer::Sender,
        None => Closer::Receiver,
    }
}

/// Counts a stream while it is open.
struct Open(Arc<AtomicUsize>);

impl Open {
    fn new(count: Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn stream(
    connection: &Connection,
    request: Request<RecvStream>,
    respond: SendResponse<Bytes>,
    orders: &mpsc::Sender<Order>,
) {
    let (parts, body) = request.into_parts();
    let target = parts.uri.path_and_query().map_or("", |target| target.as_str());
    let facts = Facts {
        head: head_of(&parts, target),
        method: parts.method.as_str(),
        target,
        version: "HTTP/2",
        first_byte: connection.accepted.elapsed(),
    };
    let mut exchange = Exchange { respond, orders, late: Late::default(), connection };
    let record = match connection.record(facts) {
        Ok(record) => record,
        Err(answer) => {
            drop(collect(connection, &parts, body, None).await);
            exchange.answer(answer).await;
            return;
        }
    };
    exchange.late = connection.follow(&record);
    let script = connection.shared.scripts.find(&record.bin);
    if let Some(early) = script.and_then(|script| script.early(&record)) {
        if let Some(Fault::CloseIn { after_bytes, reset }) = early.fault {
            let body = collect(connection, &parts, body, Some(after_bytes)).await;
            connection.take_cut(record, body);
            let _ = orders.send(Order::End { reset }).await;
        } else {
            connection.take_cut(record, stopped());
            // Where its window is not opened again the sender is stuck.
            let _ = poll_fn(|cx| exchange.respond.poll_reset(cx)).await;
            drop(body);
        }
        return;
    }
    let body = collect(connection, &parts, body, None).await;
    if let Some(answer) = connection.take(record, body).await {
        if !answer.delay.is_zero() {
            select! {
                biased;
                () = sleep(answer.delay) => {}
                _ = poll_fn(|cx| exchange.respond.poll_reset(cx)) => return,
            }
        }
        exchange.answer(answer).await;
    }
}

/// The head as HTTP/1.1 would have it: `:authority` as `host`; values of the same name follow
/// each other where the first of them stood.
fn head_of(parts: &Parts, target: &str) -> Bytes {
    let mut head = format!("{} {target} HTTP/2\r\n", parts.method).into_bytes();
    let mut line = |name: &[u8], value: &[u8]| {
        for part in [name, b": ", value, b"\r\n"] {
            head.extend_from_slice(part);
        }
    };
    if let Some(authority) = parts.uri.authority() {
        line(b"host", authority.as_str().as_bytes());
    }
    for (name, value) in &parts.headers {
        line(name.as_str().as_bytes(), value.as_bytes());
    }
    head.extend_from_slice(b"\r\n");
    head.into()
}

fn lines_of(trailers: &HeaderMap) -> Headers {
    let mut lines = Vec::new();
    for (name, value) in trailers {
        for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
            lines.extend_from_slice(part);
        }
    }
    lines.extend_from_slice(b"\r\n");
    Headers::of_lines(lines.into())
}

/// Trailer lines as HTTP/2 has them; a line that it cannot have is left out.
fn map_of(trailers: &Headers) -> HeaderMap {
    trailers.iter().filter_map(|(name, value)| checked(name, value)).collect()
}

/// Reads the body; `cut` is after how many bytes a fault ends it.
async fn collect(
    connection: &Connection,
    parts: &Parts,
    mut body: RecvStream,
    cut: Option<u64>,
) -> Collected {
    let shared = &connection.shared;
    let max = shared.limits.body_bytes_max;
    let claimed = parts.headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok());
    let claimed = claimed.and_then(|text| text.parse().ok()).unwrap_or(0);
    if claimed > max as u64 && parts.headers.contains_key("expect") {
        let (problem, why) = too_large(max);
        return Collected::refused(problem, why);
    }
    let mut kept = Kept::new(shared, claimed);
    let limit = shared.limits.body_timeout;
    let broke =
        || (Problem::Incomplete, "the stream ended before the body was complete".to_owned());
    let ended = loop {
        if let Some(cut) = cut.filter(|&cut| kept.read() >= cut) {
            let why = format!("ended behind {cut} bytes of the body, as the fault asks for");
            break Err((Problem::CutOff, why));
        }
        match timeout(limit, body.data()).await {
            Err(_) => break Err(stalled(limit)),
            Ok(Some(Err(_))) => break Err(broke()),
            Ok(Some(Ok(data))) => {
                let left = cut.map_or(u64::MAX, |cut| cut - kept.read());
                let taken = data.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                if let Err(problem) = kept.add(&data[..taken]) {
                    break Err(problem);
                }
                let _ = body.flow_control().release_capacity(data.len());
            }
            Ok(None) => match timeout(limit, body.trailers()).await {
                Err(_) => break Err(stalled(limit)),
                Ok(Err(_)) => break Err(broke()),
                Ok(Ok(trailers)) => {
                    break Ok(trailers.map_or_else(Headers::default, |map| lines_of(&map)));
                }
            },
        }
    };
    kept.done(ended)
}

/// The answering side of a stream.
struct Exchange<'a> {
    respond: SendResponse<Bytes>,
    orders: &'a mpsc::Sender<Order>,
    late: Late,
    connection: &'a Connection,
}

impl Exchange<'_> {
    async fn answer(&mut self, answer: Answer) {
        let end = match answer.fault {
            Some(Fault::Hang) => {
                let _ = poll_fn(|cx| self.respond.poll_reset(cx)).await;
                return;
            }
            Some(Fault::Reset | Fault::CloseOut { reset: true, .. }) => Order::End { reset: true },
            Some(Fault::CloseOut { .. }) => Order::End { reset: false },
            Some(Fault::Goaway { code }) => Order::Goaway(code),
            Some(Fault::RstStream { code }) => return self.respond.send_reset(Reason::from(code)),
            Some(
                Fault::BadStatusLine { .. }
                | Fault::BadChunk
                | Fault::Interim { .. }
                | Fault::DripHead { .. }
                | Fault::HugeHead { .. },
            ) => return self.respond.send_reset(Reason::PROTOCOL_ERROR),
            _ => {
                self.late.began(self.connection.accepted);
                match self.send(answer).await {
                    Ok(()) => self.late.ended(self.connection.accepted),
                    Err(error) => tracing::debug!(error = %error, "an answer was not taken"),
                }
                return;
            }
        };
        let _ = self.orders.send(end).await;
    }

    async fn send(&mut self, answer: Answer) -> Result<(), h2::Error> {
        let Answer { status, headers, mut body, fault, relayed, .. } = answer;
        let bomb = match fault {
            Some(Fault::Bomb { bytes }) => Bomb::new(bytes).ok(),
            _ => None,
        };
        let length = match (&fault, &bomb) {
            (_, Some(bomb)) => i128::from(bomb.bytes()),
            (Some(Fault::HugeBody { bytes }), _) => i128::from(*bytes),
            (Some(Fault::WrongLength { by }), _) => (body.len() as i128 + i128::from(*by)).max(0),
            _ => body.len() as i128,
        };
        let mut response = hyper::Response::new(());
        *response.status_mut() = status;
        let map = response.headers_mut();
        headers.into_iter().filter(|(name, _)| is_allowed(name)).for_each(|(name, value)| {
            map.append(name, value);
        });
        if bomb.is_some() {
            map.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        }
        // What a target says of its length where it sends nothing (HEAD, 304) is not told on.
        if status.as_u16() != 204 && !(relayed.is_some() && body.is_empty()) {
            map.insert(CONTENT_LENGTH, HeaderValue::from(length as u64));
        }
        let date = httpdate::fmt_http_date(std::time::SystemTime::now());
        if let Ok(date) = HeaderValue::from_str(&date) {
            map.entry(DATE).or_insert(date);
        }
        let plain = fault.is_none() && matches!(status.as_u16(), 204 | 304) || body.is_empty();
        if plain && bomb.is_none() && !matches!(fault, Some(Fault::HugeBody { .. })) {
            return self.respond.send_response(response, true).map(drop);
        }
        let mut send = self.respond.send_response(response, false)?;
        if let Some(bomb) = bomb {
            push(&mut send, Bytes::from_static(Bomb::HEAD)).await?;
            let block = Bytes::from(bomb.block);
            for _ in 0..bomb.blocks {
                push(&mut send, block.clone()).await?;
            }
            push(&mut send, bomb.tail.into()).await?;
        } else {
            match fault {
                Some(Fault::HugeBody { bytes }) => {
                    let piece = Bytes::from(vec![b'x'; PIECE]);
                    let mut left = bytes;
                    while left > 0 {
                        let now = left.min(PIECE as u64);
                        push(&mut send, piece.slice(..now as usize)).await?;
                        left -= now;
                    }
                }
                Some(Fault::DripBody { bytes, every_ms }) => {
                    while !body.is_empty() {
                        push(&mut send, body.split_to(bytes.clamp(1, body.len()))).await?;
                        sleep(Duration::from_millis(every_ms)).await;
                    }
                }
                Some(Fault::TruncateBody { after_bytes }) => {
                    body.truncate(usize::try_from(after_bytes).unwrap_or(usize::MAX));
                    push(&mut send, body).await?;
                }
                _ => push(&mut send, body).await?,
            }
        }
        match relayed.map(|relayed| map_of(&relayed.trailers)).filter(|map| !map.is_empty()) {
            Some(trailers) => send.send_trailers(trailers),
            None => send.send_data(Bytes::new(), true),
        }
    }
}

/// Headers that belong to a connection have no place here (RFC 9113 §8.2.2).
fn is_allowed(name: &HeaderName) -> bool {
    !matches!(name.as_str(), "connection" | "keep-alive" | "proxy-connection" | "upgrade")
}

/// Sends as the other side opens its window.
async fn push(send: &mut SendStream<Bytes>, mut data: Bytes) -> Result<(), h2::Error> {
    while !data.is_empty() {
        send.reserve_capacity(data.len().min(PIECE));
        match poll_fn(|cx| send.poll_capacity(cx)).await {
            Some(Ok(room)) => {
                let now = room.min(data.len());
                send.send_data(data.split_to(now), false)?;
            }
            Some(Err(error)) => return Err(error),
            None => return Err(Reason::CANCEL.into()),
        }
    }
    Ok(())
}
