//! The SQLite store: the contract, and what a database adds to it.

mod contract;
mod differential;
mod failures;
mod history;
mod kill;
mod outbox;
mod reopen;
mod shared;
mod support;
mod tables;
