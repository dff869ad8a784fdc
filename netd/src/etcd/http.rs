//! One connection to a member: questions as JSON, answers as bytes.

use http_body_util::{BodyExt, Full};
use hyper::{
    Method, Request, StatusCode,
    body::{Bytes, Incoming},
    client::conn::http1::{SendRequest, handshake},
    header::{AUTHORIZATION, CONTENT_TYPE, HOST},
};
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};

use super::{Member, Tls};

/// What a member says.
pub enum Answer {
    /// What was asked for.
    Good(Bytes),
    /// It will not.
    Refused {
        /// Whether that is for the token's sake.
        unknown_token: bool,
        /// Its own words.
        why: String,
    },
}

/// How the gateway says why not.
#[derive(Deserialize)]
struct Refusal {
    #[serde(default)]
    error: String,
    #[serde(default)]
    message: String,
}

/// A connection.
pub struct Connection {
    member: String,
    host: String,
    sender: SendRequest<Full<Bytes>>,
}

impl Connection {
    /// Connects.
    pub async fn open(member: &Member, tls: &Tls) -> Result<Self, String> {
        let failed = |error: &dyn std::fmt::Display| format!("{member}: {error}");
        let stream = TcpStream::connect((member.address(), member.port)).await.map_err(|error| failed(&error))?;
        // Questions are small and waited for.
        stream.set_nodelay(true).map_err(|error| failed(&error))?;
        let sender = if member.secure {
            started(tls.over(stream, member).await.map_err(|error| failed(&error))?).await
        } else {
            started(stream).await
        };
        let host = format!("{}:{}", member.host, member.port);
        Ok(Self { member: member.to_string(), host, sender: sender.map_err(|error| failed(&error))? })
    }

    /// Whether another question can be asked by it.
    pub fn is_open(&self) -> bool {
        !self.sender.is_closed()
    }

    /// Asks, and waits for the whole answer. An error is the member's, not the question's: another may have an answer.
    pub async fn ask(&mut self, path: &str, question: &impl Serialize, token: Option<&str>) -> Result<Answer, String> {
        let (status, body) = self.send(path, question, token).await?;
        let body = body.collect().await.map_err(|error| self.failed(&error))?.to_bytes();
        match status {
            StatusCode::OK => Ok(Answer::Good(body)),
            // No leader, no quorum, too many requests: of this member, for the moment.
            status if status.is_server_error() && status != StatusCode::NOT_IMPLEMENTED => {
                Err(self.failed(&said(&body)))
            }
            status => {
                let why = said(&body);
                let unknown_token = status == StatusCode::UNAUTHORIZED || why.contains("invalid auth token");
                Ok(Answer::Refused { unknown_token, why })
            }
        }
    }

    /// Asks for an answer that has no end.
    pub async fn stream(
        mut self,
        path: &str,
        question: &impl Serialize,
        token: Option<&str>,
    ) -> Result<Incoming, String> {
        let (status, body) = self.send(path, question, token).await?;
        if status == StatusCode::OK {
            return Ok(body);
        }
        let body = body.collect().await.map_err(|error| self.failed(&error))?.to_bytes();
        Err(self.failed(&said(&body)))
    }

    async fn send(
        &mut self,
        path: &str,
        question: &impl Serialize,
        token: Option<&str>,
    ) -> Result<(StatusCode, Incoming), String> {
        let question = serde_json::to_vec(question).map_err(|error| self.failed(&error))?;
        let mut request = Request::builder().method(Method::POST).uri(path).header(HOST, &self.host);
        // A member that loses its leader ends a watch, and does not leave it silent.
        request = request.header(CONTENT_TYPE, "application/json").header("Grpc-Metadata-hasleader", "true");
        if let Some(token) = token {
            request = request.header(AUTHORIZATION, token);
        }
        let request = request.body(Full::new(question.into())).map_err(|error| self.failed(&error))?;
        self.sender.ready().await.map_err(|error| self.failed(&error))?;
        let response = self.sender.send_request(request).await.map_err(|error| self.failed(&error))?;
        Ok((response.status(), response.into_body()))
    }

    fn failed(&self, error: &dyn std::fmt::Display) -> String {
        format!("{}: {error}", self.member)
    }
}

async fn started<S>(stream: S) -> Result<SendRequest<Full<Bytes>>, hyper::Error>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) = handshake(TokioIo::new(stream)).await?;
    // It ends with the sender, and what it ends with is told to whoever waits for an answer.
    tokio::spawn(async move { drop(connection.await) });
    Ok(sender)
}

/// The words of a refusal.
fn said(body: &Bytes) -> String {
    match serde_json::from_slice::<Refusal>(body) {
        Ok(refusal) if !refusal.message.is_empty() => refusal.message,
        Ok(refusal) if !refusal.error.is_empty() => refusal.error,
        _ => String::from_utf8_lossy(body).trim().chars().take(200).collect(),
    }
}
