//! The door from both sides: a client, a real socket, and someone who answers as the daemon's task would.

use std::{fs, future::IntoFuture, os::unix::fs::PermissionsExt, path::Path};

use serde_json::Value;
use tokio::sync::mpsc;

use super::*;
use crate::{
    daemon::{Events, Failure, Message, Reply, Request},
    model::Rejection,
};

/// Answers what tests ask, until nobody can.
async fn answer(mut inbox: mpsc::Receiver<Message>) {
    while let Some(Message { request, reply }) = inbox.recv().await {
        let answer = match request {
            Request::Networks => Ok(Reply::Networks(Vec::new())),
            Request::Network(name) => Err(Rejection::UnknownNetwork(name).into()),
            Request::CreateNetwork(order) => {
                order.name.parse().map_err(Failure::from).and_then(|name| Err(Rejection::NetworkExists(name).into()))
            }
            Request::Detach(name) if name == "c1" => Ok(Reply::Done {}),
            Request::Status => return drop(reply),
            _ => Err(Failure::Failed(anyhow::anyhow!("the kernel said\nno").context("cannot connect c1"))),
        };
        let _ = reply.send(answer);
    }
}

/// Serves at `path` from here on.
async fn serve(path: &Path) -> Client {
    let (requests, inbox) = mpsc::channel(4);
    let listener = listen(path).await.unwrap();
    tokio::spawn(axum::serve(listener, router(requests, Events::default())).into_future());
    tokio::spawn(answer(inbox));
    Client::new(path.to_owned())
}

fn refused(result: Result<Value, CallError>) -> (u16, String) {
    match result {
        Err(CallError::Refused(status, line)) => (status, line),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn replies_refusals_and_failures_reach_the_client_as_one_line() {
    let directory = tempfile::tempdir().unwrap();
    let client = serve(&directory.path().join("netd.sock")).await;
    let name = |name: &str| serde_json::json!({ "name": name });

    assert_eq!(client.get::<Value>("/v1/networks").await.unwrap(), serde_json::json!([]));
    assert_eq!(client.delete::<Value>("/v1/endpoints/c1", &()).await.unwrap(), serde_json::json!({}));
    let cases = [
        (client.get("/v1/networks/x").await, (404, "there is no network x")),
        (client.post("/v1/networks", &name("x")).await, (409, "network x exists already")),
        (client.post("/v1/networks", &name("a b")).await, (400, "`a b` is not a name: a letter or digit")),
        (client.post("/v1/networks", &7).await, (400, "the request is not understood: invalid type")),
        (client.post("/v1/networks", &serde_json::json!({ "nam": 1 })).await, (400, "the request is not understood")),
        (client.get("/v1/flows?colour=red").await, (400, "`colour` is not something to filter by")),
        (client.get("/v1/endpoints").await, (500, "cannot connect c1: the kernel said no")),
        (client.get("/v2/networks").await, (404, "there is no such route")),
        (client.delete("/v1/status", &()).await, (405, "this route does not take this method")),
        (client.get("/v1/status").await, (500, "the daemon is stopping")),
    ];
    for (result, (status, line)) in cases {
        let found = refused(result);
        assert_eq!(found.0, status, "{}", found.1);
        assert!(found.1.starts_with(line) && !found.1.contains('\n'), "{}", found.1);
    }
}

#[tokio::test]
async fn a_daemon_that_dies_over_a_request_is_told_of_once() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("netd.sock");
    let listener = tokio::net::UnixListener::bind(&path).unwrap();
    tokio::spawn(async move { while listener.accept().await.is_ok() {} });

    let error = Client::new(path).get::<Value>("/v1/networks").await.unwrap_err();

    let line = format!("{:#}", anyhow::Error::from(error));
    assert_eq!(line.matches("broke off").count(), 1, "{line}");
}

#[tokio::test]
async fn a_dead_socket_is_replaced_and_a_living_one_is_not() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("netd.sock");
    let client = Client::new(path.clone());
    assert!(matches!(client.get::<Value>("/v1/networks").await, Err(CallError::NoDaemon(_))));
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert!(matches!(client.get::<Value>("/v1/networks").await, Err(CallError::NoDaemon(_))));

    let client = serve(&path).await;

    client.get::<Value>("/v1/networks").await.unwrap();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
    let refusal = listen(&path).await.unwrap_err().to_string();
    assert_eq!(refusal, format!("a daemon (pid {}) answers on {} already", std::process::id(), path.display()));
    client.get::<Value>("/v1/networks").await.unwrap();
}

#[tokio::test]
async fn a_file_that_is_no_socket_is_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("netd.sock");
    fs::write(&path, "mine").unwrap();

    let refusal = listen(&path).await.unwrap_err().to_string();

    assert_eq!(refusal, format!("{} exists and is no socket", path.display()));
    assert_eq!(fs::read_to_string(&path).unwrap(), "mine");
}
