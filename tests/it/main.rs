//! End-to-end tests over public interfaces, as a user has them: real sockets, real processes.

mod cli;
mod contract;
mod crash;
mod defaults;
mod demo_events;
mod docs;
mod doctor;
mod file;
mod http;
mod net;
mod order;
mod past;
mod plugin;
mod publish;
mod signatures;
mod stdout;
mod store;
mod swap;
mod transform;
