//! The receiver of the HTTP benchmark: a minimal hyper server in a process of its own, so that its
//! CPU time is not the sender's.
//!
//! It is this same program. It prints its port, answers each line on its standard input with the
//! requests and bytes it has received so far, and ends with that input.

use std::io::{self, BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

use crate::Failure;

/// The argument that makes this program the receiver.
pub(crate) const FLAG: &str = "receive";

/// What has been received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Received {
    pub(crate) requests: u64,
    /// Names and values of headers, and bodies.
    pub(crate) bytes: u64,
}

/// A running receiver; ends with this value.
pub(crate) struct Receiver {
    child: Child,
    ask: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
    pub(crate) port: u16,
}

impl Receiver {
    pub(crate) fn start() -> Result<Self, Failure> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg(format!("--{FLAG}")).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn()?;
        let ask = child.stdin.take();
        let answers = BufReader::new(child.stdout.take().ok_or("read the receiver's output")?);
        let mut receiver = Self { child, ask, answers, port: 0 };
        receiver.port = receiver.read()?.parse()?;
        Ok(receiver)
    }

    fn read(&mut self) -> Result<String, Failure> {
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        Ok(line.trim_end().to_owned())
    }

    pub(crate) fn received(&mut self) -> Result<Received, Failure> {
        let ask = self.ask.as_mut().ok_or("ask the receiver")?;
        ask.write_all(b"\n")?;
        let line = self.read()?;
        let (requests, bytes) = line.split_once(' ').ok_or("read the receiver's count")?;
        Ok(Received { requests: requests.parse()?, bytes: bytes.parse()? })
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.ask = None;
        // It ends by itself once its input has; killed, it ends for certain.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[derive(Default)]
struct Counts {
    requests: AtomicU64,
    bytes: AtomicU64,
}

/// The receiving process.
pub(crate) fn main() -> ExitCode {
    let serve = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(serve())
    };
    match serve() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: failed to receive: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn serve() -> io::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("{}", listener.local_addr()?.port());
    let counts = Arc::<Counts>::default();
    let told = Arc::clone(&counts);
    std::thread::spawn(move || tell(&told));
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let counts = Arc::clone(&counts);
        let service = service_fn(move |request| answer(request, Arc::clone(&counts)));
        let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
        // A sender that hangs up ends its connection; what is missing shows in the counts.
        tokio::spawn(connection);
    }
}

async fn answer(
    request: Request<Incoming>,
    counts: Arc<Counts>,
) -> hyper::Result<Response<Full<Bytes>>> {
    let (head, body) = request.into_parts();
    let body = body.collect().await?.to_bytes();
    let headers = head.headers.iter().map(|(name, value)| name.as_str().len() + value.len());
    let bytes = headers.sum::<usize>() + body.len();
    counts.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    counts.requests.fetch_add(1, Ordering::Relaxed);
    Ok(Response::new(Full::new(Bytes::from_static(br#"{"received":true}"#))))
}

/// Answers the other process until it ends, and this one with it.
fn tell(counts: &Counts) {
    for _ in io::stdin().lines().map_while(Result::ok) {
        let (requests, bytes) =
            (counts.requests.load(Ordering::Relaxed), counts.bytes.load(Ordering::Relaxed));
        println!("{requests} {bytes}");
    }
    std::process::exit(0);
}
