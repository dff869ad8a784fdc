//! Stories of packets through one host in memory, each file about one question.

mod edges;
mod errors;
mod fill;
mod fragments;
mod guard;
mod lifetime;
mod names;
mod passing;
mod policy;
mod properties;
mod races;
mod schedules;
mod sctp;
mod shortage;
mod sources;
mod translation;
mod within;
