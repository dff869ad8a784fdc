//! A change of the model, made true on the host: the whole of it, or nothing.

use std::collections::BTreeSet;

use anyhow::Result;
use tracing::{debug, error};

use super::{Daemon, allowances::denies, healing::closes};
use crate::{
    model::{self, Endpoint, Model, Name},
    plan::{exchange, part, there, touched},
    reconcile::{Kernel, State, Step, diff},
    reserve::Fresh,
};

/// What of the plan a change is looked at in.
enum Scope {
    /// All of it.
    Whole,
    /// What these endpoints have of it, which before the change is this.
    Part(BTreeSet<Name>, Box<State>),
}

impl<K: Kernel> Daemon<K> {
    /// Makes `next` the model, in the store and on the host, or leaves everything as it was.
    pub(super) async fn commit(&mut self, next: Model, fresh: Fresh) -> Result<()> {
        let scope = self.scope(&next);
        self.know_sandboxes(&next).await;
        // A namespace that has taken another's path has ended what is planned for that one.
        let scope = if self.is_as_planned { scope } else { Scope::Whole };
        let (steps, desired, narrowed) = self.due(&next, &scope);
        let denied = matches!(scope, Scope::Whole) && denies(&self.applied, &desired);

        self.store.write(&self.model, &next)?;
        let (mut trouble, mut failed) = (Vec::new(), Vec::new());
        let (mut steps, mut at_once) = (steps.into_iter(), true);
        while let Some(step) = steps.next() {
            if at_once && failed.is_empty() && matches!(step, Step::PutPublication(..)) {
                at_once = self.makes_true_at_once(&step, &mut steps);
                if at_once {
                    continue;
                }
            }
            let Err(error) = self.make_true(&step, &failed).await else {
                debug!("{step}");
                continue;
            };
            // What was due without this change is not its fault, nor is what that brings down; but a container that is not
            // connected is not attached.
            let brought_down = failed.iter().any(|failed| step.stands_on(failed));
            let due = || diff(&self.planned(&self.model), &self.applied).contains(&step);
            if !(brought_down && !matches!(step, Step::ConnectVeth(..)) || due()) {
                self.take_back(&next).await;
                return Err(error.context(format!("cannot {step}")));
            }
            trouble.push(format!("cannot {step}: {error:#}"));
            failed.push(step);
        }
        self.follow(next, &scope, fresh).await;
        match scope {
            _ if !trouble.is_empty() => {
                let supposed = self.planned(&self.model);
                self.applied = self.seen_or(supposed.clone()).await;
                (self.wanted, self.is_as_planned) = (Some(supposed), false);
                self.note_trouble(trouble);
            }
            Scope::Whole => (self.applied, self.wanted, self.is_as_planned) = (desired, None, true),
            Scope::Part(_, before) => exchange(&mut self.applied, &before, desired),
        }
        debug_assert!(
            !self.is_as_planned || self.applied == self.planned(&self.model),
            "a part is what it is of a whole"
        );
        if narrowed {
            self.end_what_is_closed();
        }
        if denied {
            self.end_denied_flows();
        }
        Ok(())
    }

    /// Takes a step and the next ones, as many as write publications, by one call. False if these are too few or it fails: then each
    /// is taken by itself.
    fn makes_true_at_once(&mut self, first: &Step, next: &mut std::vec::IntoIter<Step>) -> bool {
        let publication = |step: &Step| match step {
            Step::PutPublication(key, to) => Some((*key, *to)),
            _ => None,
        };
        let all: Vec<_> = std::iter::once(first).chain(next.as_slice()).map_while(publication).collect();
        let taken = all.len() > 1 && self.kernel.put_publications(&all).is_ok();
        if taken {
            next.take(all.len() - 1).chain([first.clone()]).for_each(|step| debug!("{step}"));
        }
        taken
    }

    /// A part, where that is known to be enough; what other hosts have is planned as a whole.
    fn scope(&self, next: &Model) -> Scope {
        let names = touched(&self.model, next, &self.choices.from);
        match names.filter(|_| self.is_as_planned && self.cluster.is_none()) {
            Some(names) => {
                let before = part(&self.model, &self.facts, &self.choices, &names);
                Scope::Part(names, Box::new(before))
            }
            None => Scope::Whole,
        }
    }

    /// The steps to `next`, what should exist then, and whether something is closed by it.
    fn due(&self, next: &Model, scope: &Scope) -> (Vec<Step>, State, bool) {
        let (before, desired) = match scope {
            Scope::Whole => (&self.applied, self.planned(next)),
            Scope::Part(names, before) => (&**before, part(next, &self.facts, &self.choices, names)),
        };
        let (steps, narrowed) = (diff(&desired, before), closes(before, &desired));
        (steps, desired, narrowed)
    }

    /// Has everything that follows the model follow it to `next`, as far as the change reaches.
    async fn follow(&mut self, next: Model, scope: &Scope, fresh: Fresh) {
        let before = std::mem::replace(&mut self.model, next);
        let has_ports =
            |model: &Model, name| model.endpoints.get(name).is_some_and(|endpoint| !endpoint.publications.is_empty());
        let opens = match scope {
            Scope::Whole => {
                self.kernel.know_names(self.directory());
                true
            }
            Scope::Part(names, _) => {
                let after = &self.model;
                let is_there = |endpoint: &Endpoint| there(endpoint, &self.facts).is_some();
                self.kernel.mend_names(&mut |directory| directory.follow(&before, after, names, is_there));
                names.iter().any(|name| has_ports(&before, name) || has_ports(after, name))
            }
        };
        self.rewrite_hosts(&before);
        self.tell_cluster();
        self.reservations.keep(fresh);
        if opens {
            self.follow_published_ports().await;
        }
        if matches!(scope, Scope::Whole) {
            self.note_warnings();
        }
    }

    /// Looks at the sandboxes of endpoints that are not as in the model that holds. Of one that cannot be looked at, what is
    /// known stays: the next look finds out.
    async fn know_sandboxes(&mut self, next: &Model) {
        let changed =
            next.endpoints.values().filter(|endpoint| self.model.endpoints.get(&endpoint.name) != Some(endpoint));
        for path in changed.map(|endpoint| endpoint.netns.clone()).collect::<BTreeSet<_>>() {
            if let Ok(sandbox) = self.kernel.sandbox(&path).await {
                let known = self.facts.sandboxes.insert(path, sandbox.clone());
                self.is_as_planned &= known.is_none_or(|known| known == sandbox);
            }
        }
    }

    /// What the host is; `supposed` if it cannot be seen just then, which the next look finds out.
    pub(super) async fn seen_or(&mut self, supposed: State) -> State {
        match self.kernel.observe().await {
            Ok(observed) => observed,
            Err(error) => {
                error!("cannot see what the host is: {error:#}");
                supposed
            }
        }
    }

    /// Puts the store and the host back to the model that holds. Somebody may have heard of the addresses that were given.
    async fn take_back(&mut self, failed: &Model) {
        self.is_as_planned = false;
        model::note_given_in_vain(&mut self.model, failed);
        if let Err(error) = self.store.write(failed, &self.model) {
            error!("cannot put the store back; a restart would try the failed change again: {error:#}");
        }
        let desired = self.planned(&self.model);
        let observed = match self.kernel.observe().await {
            Ok(observed) => observed,
            Err(error) => return error!("cannot see what a failed change left behind: {error:#}"),
        };
        let mut failed = Vec::new();
        for step in diff(&desired, &observed) {
            if let Err(error) = self.make_true(&step, &failed).await {
                error!("cannot {step} after a failed change: {error:#}");
                failed.push(step);
            }
        }
        self.is_as_planned = failed.is_empty();
        (self.applied, self.wanted) = if failed.is_empty() {
            (desired, None)
        } else {
            (self.kernel.observe().await.unwrap_or(observed), Some(desired))
        };
    }
}
