//! What the rest of the daemon is told of the nodes: who they are, whether this one is among them, and which others are kept though
//! they are not back yet.

use std::{collections::BTreeMap, sync::Arc};

use tokio::time::Instant;
use tracing::info;

use super::task::Task;
use crate::cluster::{View, keeping};

/// What was known when the node's lease was over, of others whose leases may have been too.
pub struct Kept {
    last: View,
    /// One lease after the node is back, in which the others come back; `None` until it is.
    until: Option<Instant>,
}

impl Task {
    /// Keeps the others as they were when this node's lease was over.
    pub fn keep_others(&mut self) {
        self.kept = Some(Kept { last: self.seen(), until: None });
    }

    /// Gives those that are kept until then to come back.
    pub fn keep_until(&mut self, then: Instant) {
        if let Some(kept) = &mut self.kept {
            kept.until = Some(then);
            self.publish();
        }
    }

    /// Until when others are kept; `None` where none are, or this node is not back itself.
    pub fn kept_until(&self) -> Option<Instant> {
        self.kept.as_ref().and_then(|kept| kept.until)
    }

    /// What the host is made by.
    fn seen(&self) -> View {
        match &self.kept {
            Some(kept) => keeping(&self.view, &kept.last),
            None => self.view.clone(),
        }
    }

    /// Tells what is known, and of whom that is only kept.
    pub fn publish(&self) {
        let view = Arc::new(self.seen());
        let until = self.kept_until();
        let absent = view.nodes().filter(|(name, _)| self.view.node(name).is_none());
        let absent: BTreeMap<_, _> = absent.map(|(name, node)| (name.clone(), node.vtep)).collect();
        self.news.send_modify(|news| {
            news.heard = Some(Instant::now());
            news.kept = until.filter(|_| !absent.is_empty()).map(|until| (absent, until));
            news.view = Some(view);
        });
    }

    /// Notes it. Says whether it is news.
    pub fn is_away(&self, why: &str) -> bool {
        let mut is_news = false;
        self.news.send_modify(|news| {
            is_news = news.away.as_ref().is_none_or(|(_, before)| before != why);
            let since = news.away.as_ref().map_or_else(Instant::now, |(since, _)| *since);
            news.away = Some((since, why.to_owned()));
        });
        is_news
    }

    pub fn is_back(&self) {
        self.news.send_modify(|news| {
            let Some(life) = self.life else { return };
            match news.away.take() {
                Some((since, _)) => {
                    info!(incarnation = life.incarnation, "among the nodes again after {:?}", since.elapsed())
                }
                None => info!(incarnation = life.incarnation, "among the nodes"),
            }
        });
    }
}
