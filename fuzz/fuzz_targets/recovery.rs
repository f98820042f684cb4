//! A whole folder of any bytes: opening serves or refuses it, what it serves can be settled, what it
//! accepts is there afterwards, and the doctor looks at it and salvages it; nothing panics.
#![no_main]

use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use postrider::store::log::doctor::Doctor;
use postrider_fuzz::{Memory, use_store};

fuzz_target!(|bytes: &[u8]| {
    let disk = Memory::unpack(bytes);
    let doctor = Doctor::of(Arc::new(disk.copy()));
    if let Ok(report) = doctor.examine() {
        // What cannot be salvaged, it says; what it salvages, it has checked.
        let _ = doctor.repair_to(&(Arc::new(Memory::default()) as _));
        let _ = report.records();
    }
    use_store(&disk);
});
