//! What the resolver says: names of the model, whose question is answered how, and what is kept of others' answers.
//!
//! Invariant: nothing here performs IO or knows the time; chance and moments are arguments. `resolver` is the shell around it.

mod cache;
mod directory;
mod hosts;
mod resolv_conf;
mod respond;

pub use cache::{Cache, Found, Key};
pub use directory::{Directory, Forwarding};
pub use hosts::hosts;
pub use resolv_conf::{ResolvConf, Server};
pub use respond::{Asked, Question, Relay, failure, relayed, respond, written};
