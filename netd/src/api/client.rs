//! The client of the daemon: one request, one connection.

use std::{
    io::ErrorKind,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use http_body_util::{BodyExt, Full};
use hyper::{Method, Request, body::Bytes, client::conn::http1};
use hyper_util::rt::TokioIo;
use serde::{Serialize, de::DeserializeOwned};
use thiserror::Error;
use tokio::net::UnixStream;

use super::ErrorBody;

/// Why there is no answer, or none that was hoped for.
#[derive(Debug, Error)]
pub enum CallError {
    /// Nobody listens.
    #[error("no daemon answers on {}: is `netd daemon` running?", .0.display())]
    NoDaemon(PathBuf),
    /// The daemon says no.
    #[error("{1}")]
    Refused(u16, String),
    /// Anything else. All of it is in its sentence, so that it is not a source too, which would be told twice.
    #[error("{0:#}")]
    Failed(anyhow::Error),
}

impl From<anyhow::Error> for CallError {
    fn from(error: anyhow::Error) -> Self {
        Self::Failed(error)
    }
}

const NOT_UNDERSTOOD: &str = "the daemon's answer is not understood: is it of this version?";

/// Where the daemon is asked.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
}

impl Client {
    /// Asks on this socket.
    pub fn new(socket: PathBuf) -> Self {
        Self { socket }
    }

    /// The socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Reads.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, CallError> {
        self.call(Method::GET, path, &()).await
    }

    /// Asks for something to be made.
    pub async fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T, CallError> {
        self.call(Method::POST, path, body).await
    }

    /// Asks for something to be taken away.
    pub async fn delete<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T, CallError> {
        self.call(Method::DELETE, path, body).await
    }

    /// Reads lines, each a value, as they come, for as long as `each` says yes; `begun` when the daemon agrees.
    pub async fn follow<T: DeserializeOwned>(
        &self,
        path: &str,
        begun: impl FnOnce(),
        mut each: impl FnMut(T) -> Result<bool>,
    ) -> Result<(), CallError> {
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(self.connect().await?)).await.context("no HTTP")?;
        let connection = tokio::spawn(connection);
        let broke_off = || format!("the daemon on {} broke off", self.socket.display());
        let request = request(Method::GET, path, &())?;
        let mut response = sender.send_request(request).await.with_context(broke_off)?;
        let status = response.status().as_u16();
        if !(200..300).contains(&status) {
            return Err(refused(status, &response.into_body().collect().await.with_context(broke_off)?.to_bytes()));
        }
        begun();
        let mut rest = Vec::new();
        while let Some(frame) = response.frame().await {
            let Ok(bytes) = frame.with_context(broke_off)?.into_data() else { continue };
            rest.extend_from_slice(&bytes);
            while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = rest.drain(..=end).collect();
                if !each(serde_json::from_slice(&line).context(NOT_UNDERSTOOD)?)? {
                    connection.abort();
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, CallError> {
        let stream = self.connect().await?;
        let (status, bytes) = exchange(stream, method, path, body)
            .await
            .with_context(|| format!("the daemon on {} broke off", self.socket.display()))?;
        if !(200..300).contains(&status) {
            return Err(refused(status, &bytes));
        }
        Ok(serde_json::from_slice(&bytes).context(NOT_UNDERSTOOD)?)
    }

    async fn connect(&self) -> Result<UnixStream, CallError> {
        UnixStream::connect(&self.socket).await.map_err(|error| match error.kind() {
            ErrorKind::NotFound | ErrorKind::ConnectionRefused => CallError::NoDaemon(self.socket.clone()),
            _ => CallError::Failed(
                anyhow::Error::new(error).context(format!("cannot connect to {}", self.socket.display())),
            ),
        })
    }
}

async fn exchange(stream: UnixStream, method: Method, path: &str, body: &impl Serialize) -> Result<(u16, Bytes)> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let request = request(method, path, body)?;
    let answer = async {
        let response = sender.send_request(request).await?;
        let status = response.status().as_u16();
        anyhow::Ok((status, response.into_body().collect().await?.to_bytes()))
    };
    tokio::pin!(answer, connection);
    tokio::select! {
        answer = &mut answer => answer,
        ended = &mut connection => {
            ended?;
            answer.await
        }
    }
}

fn request(method: Method, path: &str, body: &impl Serialize) -> Result<Request<Full<Bytes>>> {
    let request = Request::builder().method(method).uri(path).header("host", "netd");
    let body = Full::new(Bytes::from(serde_json::to_vec(body)?));
    Ok(request.header("content-type", "application/json").body(body)?)
}

fn refused(status: u16, body: &Bytes) -> CallError {
    let told: Result<ErrorBody, _> = serde_json::from_slice(body);
    CallError::Refused(status, told.map_or_else(|_| format!("the daemon answered {status}"), |body| body.error))
}
