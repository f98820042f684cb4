//! nginx as a receiver: it answers at once, and counts requests itself.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::Failure;

const START_MAX: Duration = Duration::from_secs(10);

/// A running nginx with one worker; ends with this value.
pub(crate) struct Nginx {
    child: Child,
    pub(crate) port: u16,
    _folder: tempfile::TempDir,
}

impl Nginx {
    /// `None` where there is no nginx on this machine: `cargo xtask setup` installs it.
    pub(crate) fn start() -> Result<Option<Self>, Failure> {
        let folder = tempfile::tempdir()?;
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let root = folder.path().display();
        let config = format!(
            "daemon off;\nworker_processes 1;\npid {root}/pid;\nerror_log {root}/error.log;\n\
             events {{ worker_connections 1024; }}\n\
             http {{\n\
               access_log off;\n\
               keepalive_requests 1000000000;\n\
               client_body_temp_path {root}/body;\n proxy_temp_path {root}/proxy;\n\
               fastcgi_temp_path {root}/fastcgi;\n uwsgi_temp_path {root}/uwsgi;\n\
               scgi_temp_path {root}/scgi;\n\
               server {{\n\
                 listen 127.0.0.1:{port};\n\
                 location /bench {{ return 200 '{{\"received\":true}}'; }}\n\
                 location /status {{ stub_status; }}\n\
               }}\n\
             }}\n"
        );
        let file = folder.path().join("nginx.conf");
        fs::write(&file, config)?;
        let mut command = Command::new("nginx");
        command.arg("-p").arg(folder.path()).arg("-c").arg(&file).stderr(Stdio::null());
        let child = match command.spawn() {
            Ok(child) => child,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(format!("start nginx: {error}").into()),
        };
        let nginx = Self { child, port, _folder: folder };
        let until = Instant::now() + START_MAX;
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            if Instant::now() > until {
                return Err("start nginx: it does not listen".into());
            }
            std::thread::sleep(Duration::from_millis(5)); // tidy: allow(sleep): another program starts
        }
        Ok(Some(nginx))
    }

    /// Requests so far, by its own count, those for this count included.
    pub(crate) fn requests(&self) -> Result<u64, Failure> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port))?;
        stream.write_all(b"GET /status HTTP/1.0\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        // "server accepts handled requests", and on the next line their numbers.
        let numbers = answer.lines().find(|line| line.starts_with(' ')).unwrap_or_default();
        let requests = numbers.split_whitespace().nth(2).ok_or("read nginx's count")?;
        Ok(requests.parse()?)
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // SIGTERM, so that the master ends its worker.
        if let Some(id) =
            i32::try_from(self.child.id()).ok().and_then(rustix::process::Pid::from_raw)
        {
            let _ = rustix::process::kill_process(id, rustix::process::Signal::TERM);
        }
        let _ = self.child.wait();
    }
}
