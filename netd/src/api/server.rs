//! Routes: each turns HTTP into a message for the daemon's task, and its reply into HTTP. Decides nothing.

use std::{fs, io::ErrorKind, os::unix::fs::FileTypeExt, path::Path};

use anyhow::{Context, Result, bail};
use axum::{
    Json, Router,
    body::Bytes,
    extract::{Path as InPath, Query, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use nix::sys::{
    socket::{getsockopt, sockopt::PeerCredentials},
    stat::{Mode, umask},
};
use serde::de::DeserializeOwned;
use tokio::{net::UnixListener, sync::mpsc::Sender};

use super::{ErrorBody, events};
use crate::{
    daemon::{Events, Failure, FlowFilter, Message, Request, ask},
    model::Rejection,
};

/// Root and its group may ask, others may not.
const MODE: Mode = Mode::S_IRUSR.union(Mode::S_IWUSR).union(Mode::S_IRGRP).union(Mode::S_IWGRP);

type Daemon = State<Sender<Message>>;

/// Listens on `path`. A socket that a dead daemon left is replaced; one that a daemon answers on is not.
pub async fn listen(path: &Path) -> Result<UnixListener> {
    match fs::symlink_metadata(path) {
        Ok(metadata) if !metadata.file_type().is_socket() => bail!("{} exists and is no socket", path.display()),
        Ok(_) => replace_dead(path).await?,
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(error).with_context(|| format!("cannot look at {}", path.display())),
    }
    // The mode is there with the socket: nobody can come in between.
    let before = umask(Mode::all().difference(MODE));
    let listener = UnixListener::bind(path);
    umask(before);
    listener.with_context(|| format!("cannot listen on {}", path.display()))
}

async fn replace_dead(path: &Path) -> Result<()> {
    match tokio::net::UnixStream::connect(path).await {
        Ok(stream) => {
            let pid = getsockopt(&stream, PeerCredentials).map_or(0, |peer| peer.pid());
            bail!("a daemon (pid {pid}) answers on {} already", path.display())
        }
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
            fs::remove_file(path).with_context(|| format!("cannot remove the dead socket {}", path.display()))
        }
        Err(error) => Err(error).with_context(|| format!("cannot tell who answers on {}", path.display())),
    }
}

/// Every route.
pub fn router(daemon: Sender<Message>, events: Events) -> Router {
    Router::new()
        .route("/v1/networks", get(networks).post(create_network).delete(prune_networks))
        .route("/v1/networks/{name}", get(network).post(set_network).delete(remove_network))
        .route("/v1/networks/{name}/subnets", post(renumber_network))
        .route("/v1/endpoints", get(endpoints).post(attach))
        .route("/v1/endpoints/{name}", get(endpoint).delete(detach))
        .route("/v1/endpoints/{name}/networks", post(connect).delete(disconnect))
        .route("/v1/endpoints/{name}/allowances", post(allow).delete(deny))
        .route("/v1/endpoints/{name}/ports", post(publish).delete(unpublish))
        .route("/v1/nodes", get(nodes))
        .route("/v1/nodes/{name}", get(node).post(drain_node).delete(remove_node))
        .route("/v1/nodes-verified", get(verify))
        .route("/v1/keys", post(rekey))
        .route("/v1/neighbours", get(neighbours))
        .route("/v1/flows", get(flows).delete(end_flows))
        .route("/v1/status", get(status))
        .route("/v1/doctor", get(doctor))
        .route("/v1/exposure", get(exposure))
        .fallback(async || refusal(StatusCode::NOT_FOUND, "there is no such route".to_owned()))
        .method_not_allowed_fallback(async || {
            refusal(StatusCode::METHOD_NOT_ALLOWED, "this route does not take this method".to_owned())
        })
        .with_state(daemon)
        .merge(Router::new().route("/v1/events", get(events::stream)).with_state(events))
}

async fn networks(State(daemon): Daemon) -> Response {
    reply(&daemon, Request::Networks).await
}

async fn create_network(State(daemon): Daemon, body: Bytes) -> Response {
    reply_to(&daemon, read(&body).map(Request::CreateNetwork)).await
}

async fn network(State(daemon): Daemon, InPath(name): InPath<String>) -> Response {
    reply(&daemon, Request::Network(name)).await
}

async fn set_network(State(daemon): Daemon, InPath(name): InPath<String>, body: Bytes) -> Response {
    reply_to(&daemon, read(&body).map(|change| Request::SetNetwork(name, change))).await
}

async fn renumber_network(State(daemon): Daemon, InPath(name): InPath<String>, body: Bytes) -> Response {
    reply_to(&daemon, read(&body).map(|order| Request::RenumberNetwork(name, order))).await
}

async fn remove_network(State(daemon): Daemon, InPath(name): InPath<String>) -> Response {
    reply(&daemon, Request::RemoveNetwork(name)).await
}

async fn prune_networks(State(daemon): Daemon, Query(pairs): Query<Vec<(String, String)>>) -> Response {
    let labels = pairs.into_iter().map(|(key, value)| match key.as_str() {
        "label" => Ok(value),
        _ => Err(Rejection::UnknownFilter(key, "label".into())),
    });
    reply_to(&daemon, labels.collect::<Result<_, _>>().map(Request::PruneNetworks)).await
}

async fn endpoints(State(daemon): Daemon) -> Response {
    reply(&daemon, Request::Endpoints).await
}

async fn attach(State(daemon): Daemon, body: Bytes) -> Response {
    reply_to(&daemon, read(&body).map(Request::Attach)).await
}

async fn endpoint(State(daemon): Daemon, InPath(name): InPath<String>) -> Response {
    reply(&daemon, Request::Endpoint(name)).await
}

async fn detach(State(daemon): Daemon, InPath(name): InPath<String>) -> Response {
    reply(&daemon, Request::Detach(name)).await
}

async fn connect(State(daemon): Daemon, InPath(name): InPath<String>, body: Bytes) -> Response {
    reply_to(&daemon, read(&body).map(|order| Request::Connect(name, order))).await
}

async fn disconnect(State(daemon): Daemon, InPath(name): InPath<String>, body: Bytes) -> Response {
    reply_to(&daemon, read(&body).map(|order| Request::Disconnect(name, order))).await
}

async fn publish(State(daemon): Daemon, InPath(name): InPath<String>, body: Bytes) -> Response {
    reply_to(&daemon, read(&body).map(|order| Request::Publish(name, order))).await
}

async fn unpublish(State(daemon): Daemon, InPath(name): InPath<String>, body: Bytes) -> Response {
    reply_to(&daemon, read(&body).map(|order| Request::Unpublish(name, order))).await
}

async fn allow(State(daemon): Daemon, InPath(name): InPath<String>, body: Bytes) -> Response {
    reply_to(&daemon, read(&body).map(|order| Request::Allow(name, order))).await
}

async fn deny(State(daemon): Daemon, InPath(name): InPath<String>, body: Bytes) -> Response {
    reply_to(&daemon, read(&body).map(|order| Request::Deny(name, order))).await
}

async fn nodes(State(daemon): Daemon) -> Response {
    reply(&daemon, Request::Nodes).await
}

async fn node(State(daemon): Daemon, InPath(name): InPath<String>) -> Response {
    reply(&daemon, Request::Node(name)).await
}

async fn drain_node(State(daemon): Daemon, InPath(name): InPath<String>, body: Bytes) -> Response {
    reply_to(&daemon, read(&body).map(|change| Request::DrainNode(name, change))).await
}

async fn remove_node(State(daemon): Daemon, InPath(name): InPath<String>) -> Response {
    reply(&daemon, Request::RemoveNode(name)).await
}

async fn neighbours(State(daemon): Daemon) -> Response {
    reply(&daemon, Request::Neighbours).await
}

async fn rekey(State(daemon): Daemon) -> Response {
    reply(&daemon, Request::Rekey).await
}

async fn verify(State(daemon): Daemon) -> Response {
    reply(&daemon, Request::Verify).await
}

async fn flows(State(daemon): Daemon, Query(filter): Query<Vec<(String, String)>>) -> Response {
    reply_to(&daemon, FlowFilter::new(filter).map(Request::Flows)).await
}

async fn end_flows(State(daemon): Daemon, Query(filter): Query<Vec<(String, String)>>) -> Response {
    reply_to(&daemon, FlowFilter::of_some(filter).map(Request::EndFlows)).await
}

async fn doctor(State(daemon): Daemon) -> Response {
    reply(&daemon, Request::Doctor).await
}

async fn exposure(State(daemon): Daemon) -> Response {
    reply(&daemon, Request::Exposure).await
}

async fn status(State(daemon): Daemon) -> Response {
    reply(&daemon, Request::Status).await
}

fn read<T: DeserializeOwned>(body: &Bytes) -> Result<T, Rejection> {
    serde_json::from_slice(body).map_err(|error| Rejection::BadRequest(error.to_string()))
}

async fn reply_to(daemon: &Sender<Message>, request: Result<Request, Rejection>) -> Response {
    match request {
        Ok(request) => reply(daemon, request).await,
        Err(rejection) => failure(Failure::Refused(rejection)),
    }
}

async fn reply(daemon: &Sender<Message>, request: Request) -> Response {
    match ask(daemon, request).await {
        Ok(reply) => Json(reply).into_response(),
        Err(error) => failure(error),
    }
}

pub(super) fn failure(failure: Failure) -> Response {
    match failure {
        Failure::Refused(rejection) => {
            let status = StatusCode::from_u16(rejection.status()).unwrap_or(StatusCode::BAD_REQUEST);
            refusal(status, rejection.to_string())
        }
        Failure::Failed(error) => refusal(StatusCode::INTERNAL_SERVER_ERROR, format!("{error:#}").replace('\n', " ")),
    }
}

fn refusal(status: StatusCode, error: String) -> Response {
    (status, Json(ErrorBody { error })).into_response()
}
