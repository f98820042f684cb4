//! The receiver over real sockets, and the program as a child process. The senders here are raw
//! sockets and other people's clients, so that what is compared is what was on the wire.

mod admin;
mod answers;
mod bounds;
mod checks;
mod faults;
mod fidelity;
mod forward;
mod lifecycle;
mod program;
mod scenarios;
mod signatures;
mod store;
mod support;
mod tls;
mod waits;
