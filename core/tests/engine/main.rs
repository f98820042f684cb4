//! The engine through the bus, in paused time. Most modules began with a bug.

mod alerts;
mod basics;
mod batch_max_panics;
mod clock_jump;
mod close_in_use;
mod faulty_store;
mod filter;
mod gone_after_replace;
mod gone_restart;
mod in_flight;
mod linger;
mod order;
mod pace;
mod permits;
mod readded;
mod refresh;
mod set_endpoints_dropped;
