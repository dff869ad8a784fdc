//! A web server that tells its name and whom it sees.

use std::io::{BufRead, BufReader, Write};

use super::{super::Node, Server};

impl Node {
    /// Serves HTTP on `port`: every request is answered with `NAME sees ADDRESS`.
    #[track_caller]
    pub fn serve_http(&self, port: u16) -> Server {
        let name = self.name().to_owned();
        self.serve_tcp(port, move |mut stream| {
            let Ok(peer) = stream.peer_addr() else { return };
            let Ok(reading) = stream.try_clone() else { return };
            let mut lines = BufReader::new(reading).lines();
            if !lines.any(|line| line.is_ok_and(|line| line.is_empty())) {
                return;
            }
            let body = format!("{name} sees {}\n", peer.ip().to_canonical());
            let head = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nConnection: close\r\n";
            let _ = write!(stream, "{head}Content-Length: {}\r\n\r\n{body}", body.len());
        })
    }
}
