//! One question to several servers: who is asked when, and whose answer counts.

use std::{collections::VecDeque, future::Future, io, iter, net::SocketAddr, time::Duration};

use tokio::{task::JoinSet, time::timeout};
use tracing::debug;

/// How long one server has for itself before the next one is asked as well.
const HEAD_START: Duration = Duration::from_millis(300);

/// How long they all have before each is asked once more: a datagram may have been lost.
const AGAIN: Duration = Duration::from_millis(1_200);

/// The first answer of any server. Each has a head start on the next; one that fails has none. `None` when all have failed.
pub async fn race<T, F>(servers: &[SocketAddr], ask: impl Fn(SocketAddr) -> F) -> Option<T>
where
    T: Send + 'static,
    F: Future<Output = io::Result<T>> + Send + 'static,
{
    let mut next: VecDeque<(SocketAddr, Duration)> = turns(servers).collect();
    let mut asked = JoinSet::new();
    loop {
        let head_start = match next.pop_front() {
            Some((server, head_start)) => {
                asked.spawn(ask(server));
                head_start
            }
            // As long as the caller waits.
            None => Duration::MAX,
        };
        match timeout(head_start, asked.join_next()).await {
            Ok(Some(Ok(Ok(answer)))) => return Some(answer),
            Ok(Some(Ok(Err(error)))) => debug!(%error, "a server has no answer"),
            Ok(Some(Err(_)) | None) => {}
            Err(_) => continue,
        }
        if asked.is_empty() && next.is_empty() {
            return None;
        }
    }
}

/// Who is asked after whom, each with the time until the next one's turn.
fn turns(servers: &[SocketAddr]) -> impl Iterator<Item = (SocketAddr, Duration)> {
    let round = iter::repeat_n(HEAD_START, servers.len().saturating_sub(1)).chain([AGAIN]);
    let waits = round.chain(iter::repeat(HEAD_START));
    servers.iter().chain(servers).copied().zip(waits)
}

#[cfg(test)]
mod tests;
