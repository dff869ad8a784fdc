//! Stories of packets through one host in memory, each file about one question.

mod edges;
mod encrypted;
mod errors;
mod extensions;
mod fill;
mod firewall;
mod fragments;
mod guard;
mod icc;
mod lifetime;
mod mesh;
mod names;
mod neighbours;
mod passing;
mod policy;
mod properties;
mod published;
mod races;
mod routed;
mod schedules;
mod sctp;
mod shortage;
mod sources;
mod spanning;
mod translation;
mod within;
