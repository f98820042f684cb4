//! The engine through the bus, in paused time. Each module beside `basics` began with a bug.

mod basics;
mod batch_max_panics;
mod clock_jump;
mod close_in_use;
mod faulty_store;
mod gone_after_replace;
mod gone_restart;
mod in_flight;
mod permits;
mod readded;
mod set_endpoints_dropped;
