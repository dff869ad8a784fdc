//! What is taken away when several do it at once, before somebody who answers as the daemon would.

use std::{
    future::IntoFuture,
    path::PathBuf,
    sync::{Arc, Mutex},
};

use serde_json::json;
use tokio::sync::mpsc;

use super::*;
use crate::{
    api::{listen, router},
    cli::supervise,
    daemon::{Events, Message, Reply, Request},
    model::Rejection,
};

/// A run directory, with all that `netd run -d` leaves of endpoint `job` in it, and its namespace's path.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        fs::create_dir_all(place.path("etc/job")).unwrap();
        fs::create_dir_all(place.path("logs")).unwrap();
        fs::write(place.path("logs/job.log"), "said").unwrap();
        fs::write(place.path("netd-job"), "").unwrap();
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// What is there of `job`: namespace, files and output.
    fn left(&self) -> [bool; 3] {
        ["netd-job", "etc/job", "logs/job.log"].map(|name| self.path(name).exists())
    }

    fn client(&self) -> Client {
        Client::new(self.path("netd.sock"))
    }

    /// An endpoint of a command that has ended.
    fn endpoint(&self, name: &str, netns: &str) -> EndpointView {
        let view = json!({
            "name": name, "id": format!("id of {name}"), "netns": self.path(netns), "netns_made": true, "mode": "own",
            "state": "exited", "pid": null, "pid_started": null, "command": ["true"], "dns": [], "labels": {},
            "networks": [], "ports": [], "created": ""
        });
        serde_json::from_value(view).unwrap()
    }

    /// Answers from here on: `listed` exist, and `shown` are still shown to those who ask for them, though somebody else has detached
    /// them before they can be detached once more. Tells what was detached.
    async fn serve(&self, listed: Vec<EndpointView>, shown: Vec<EndpointView>) -> Arc<Mutex<Vec<String>>> {
        let (requests, mut inbox) = mpsc::channel::<Message>(4);
        let listener = listen(&self.path("netd.sock")).await.unwrap();
        tokio::spawn(axum::serve(listener, router(requests, Events::default())).into_future());
        let detached = Arc::new(Mutex::new(Vec::new()));
        let told = Arc::clone(&detached);
        tokio::spawn(async move {
            while let Some(Message { request, reply }) = inbox.recv().await {
                let unknown = |name: &str| Rejection::UnknownEndpoint(name.to_owned()).into();
                let answer = match request {
                    Request::Endpoints => Ok(Reply::Endpoints(listed.clone())),
                    Request::Endpoint(name) => {
                        let found = listed.iter().chain(&shown).find(|endpoint| endpoint.name == name);
                        found.cloned().map(Reply::Endpoint).ok_or_else(|| unknown(&name))
                    }
                    Request::Detach(name) if listed.iter().any(|endpoint| endpoint.name == name) => {
                        detached.lock().unwrap().push(name);
                        Ok(Reply::Done {})
                    }
                    Request::Detach(name) => Err(unknown(&name)),
                    other => panic!("{other:?}"),
                };
                let _ = reply.send(answer);
            }
        });
        told
    }
}

#[tokio::test]
async fn what_somebody_else_is_removing_does_not_keep_the_next_name_from_being_removed() {
    let place = Place::new();
    let (job, other) = (place.endpoint("job", "netd-job"), place.endpoint("other", "netd-other"));
    let detached = place.serve(vec![other], vec![job]).await;

    rm(&place.client(), true, &["job", "other"].map(str::to_owned)).await.unwrap();

    assert_eq!(*detached.lock().unwrap(), ["other"]);
    assert_eq!(place.left(), [false; 3]);
    let unknown = rm(&place.client(), true, &["nosuch".to_owned()]).await.unwrap_err().to_string();
    assert_eq!(unknown, "there is no endpoint nosuch");
}

#[tokio::test]
async fn a_daemon_that_is_being_restarted_when_a_command_ends_is_waited_for() {
    let place = Place::new();
    let job = place.endpoint("job", "netd-job");
    let client = place.client();
    assert!(supervise::removed(&client, &job, 1).await.unwrap_err().to_string().starts_with("no daemon answers"));
    assert_eq!(place.left(), [true; 3]);

    let (removed, detached) =
        tokio::join!(supervise::removed(&client, &job, 60), place.serve(vec![job.clone()], vec![]));

    removed.unwrap();
    assert_eq!(*detached.lock().unwrap(), ["job"]);
    assert_eq!(place.left(), [false; 3]);
}

#[tokio::test]
async fn what_a_command_leaves_whose_endpoint_was_detached_is_taken_away() {
    let place = Place::new();
    let job = place.endpoint("job", "netd-job");
    let detached = place.serve(vec![], vec![]).await;

    supervise::removed(&place.client(), &job, 1).await.unwrap();

    assert!(detached.lock().unwrap().is_empty());
    assert_eq!(place.left(), [false; 3]);
}

#[tokio::test]
async fn what_another_endpoint_has_by_then_stays() {
    let place = Place::new();
    let job = place.endpoint("job", "netd-job");
    let in_its_namespace = place.endpoint("other", "netd-job");
    let of_its_name = EndpointView { id: "id of another".to_owned(), ..place.endpoint("job", "netd-another") };
    let detached = place.serve(vec![in_its_namespace, of_its_name], vec![]).await;

    supervise::removed(&place.client(), &job, 1).await.unwrap();
    clear_path(&place.client(), &job.netns).await.unwrap();

    assert!(detached.lock().unwrap().is_empty());
    assert_eq!(place.left(), [true; 3]);
}

#[tokio::test]
async fn what_somebody_else_has_in_hand_is_left_to_them() {
    let place = Place::new();
    let job = place.endpoint("job", "netd-job");
    place.serve(vec![], vec![]).await;
    let held = sandbox::hold(&job.netns).unwrap();

    clear(&place.client(), &job).await.unwrap();
    clear_path(&place.client(), &job.netns).await.unwrap();

    assert!(held.is_at(&job.netns));
    assert_eq!(place.left(), [true; 3]);
}

#[tokio::test]
async fn a_path_that_nobody_has_is_made_free() {
    let place = Place::new();
    let netns = place.path("netd-job");
    place.serve(vec![], vec![]).await;

    clear_path(&place.client(), &netns).await.unwrap();

    assert!(!netns.exists());
}
