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

    async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, CallError> {
        let stream = UnixStream::connect(&self.socket).await.map_err(|error| match error.kind() {
            ErrorKind::NotFound | ErrorKind::ConnectionRefused => CallError::NoDaemon(self.socket.clone()),
            _ => CallError::Failed(
                anyhow::Error::new(error).context(format!("cannot connect to {}", self.socket.display())),
            ),
        })?;
        let (status, bytes) = exchange(stream, method, path, body)
            .await
            .with_context(|| format!("the daemon on {} broke off", self.socket.display()))?;
        if !(200..300).contains(&status) {
            let told: Result<ErrorBody, _> = serde_json::from_slice(&bytes);
            let error = told.map_or_else(|_| format!("the daemon answered {status}"), |body| body.error);
            return Err(CallError::Refused(status, error));
        }
        Ok(serde_json::from_slice(&bytes).context("the daemon's answer is not understood: is it of this version?")?)
    }
}

async fn exchange(stream: UnixStream, method: Method, path: &str, body: &impl Serialize) -> Result<(u16, Bytes)> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", "netd")
        .header("content-type", "application/json")
        .body(Full::new(Bytes::from(serde_json::to_vec(body)?)))?;
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
