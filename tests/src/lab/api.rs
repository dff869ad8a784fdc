//! Requests to a daemon's socket without a command line between: what it takes is the daemon's own time.

use std::{
    io::{self, Read, Write},
    os::unix::net::UnixStream,
};

use serde_json::Value;

use super::Netd;

impl Netd {
    /// Sends a request over the daemon's socket and reads its reply.
    ///
    /// # Panics
    /// When the daemon does not answer, or refuses.
    #[track_caller]
    pub fn ask(&self, method: &str, path: &str, body: &Value) -> Value {
        let answer = exchange(&self.host().path("/run/netd/netd.sock"), method, path, body);
        let answer = answer.unwrap_or_else(|error| panic!("{method} {path}: {error}"));
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
        assert!(head.starts_with("HTTP/1.1 2"), "{method} {path}: {answer}");
        serde_json::from_str(body).unwrap_or_else(|error| panic!("{method} {path}: {error} in {body}"))
    }
}

fn exchange(socket: &std::path::Path, method: &str, path: &str, body: &Value) -> io::Result<String> {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let mut stream = UnixStream::connect(socket)?;
    let length = body.len();
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nHost: netd\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}
