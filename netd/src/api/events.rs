//! `GET /v1/events`: one JSON object a line, for as long as the client listens.

use std::convert::Infallible;

use axum::{
    body::{Body, Bytes},
    extract::{Query, State},
    http::header::CONTENT_TYPE,
    response::{IntoResponse, Response},
};
use futures_util::stream;

use super::server::failure;
use crate::daemon::{EventWish, Events, Failure, Listener};

/// Streams the events that the query wishes for: `since`, `until`, and filters, any of them several times.
pub async fn stream(State(events): State<Events>, Query(pairs): Query<Vec<(String, String)>>) -> Response {
    match EventWish::new(pairs) {
        Ok(wish) => {
            let lines = stream::unfold(events.listen(wish), next_line);
            ([(CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(lines)).into_response()
        }
        Err(rejection) => failure(Failure::Refused(rejection)),
    }
}

async fn next_line(mut listener: Listener) -> Option<(Result<Bytes, Infallible>, Listener)> {
    let event = listener.next().await?;
    let mut line = serde_json::to_vec(&*event).unwrap_or_default();
    line.push(b'\n');
    Some((Ok(line.into()), listener))
}
