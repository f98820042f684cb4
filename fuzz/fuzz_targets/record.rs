//! Frames, every record's body, index and checkpoint: any bytes are decoded or refused.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| postrider::store::log::fuzz::decode(bytes));
