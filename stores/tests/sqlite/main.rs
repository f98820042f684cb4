//! The SQLite store: the contract, and what a database adds to it.

mod contract;
