//! The embedded store: the contract of every store over a real folder, and what it promises beyond:
//! nothing acknowledged is lost, wherever a crash or a failing disk stops it.

mod log_store {
    mod asked;
    mod basics;
    mod bus;
    mod crafted;
    mod crash;
    mod doctor;
    mod every_call;
    mod faults;
    mod forged;
    mod freeing;
    mod golden;
    mod history;
    mod ledger;
    mod machine;
    mod model;
    mod outside;
    mod promises;
}
