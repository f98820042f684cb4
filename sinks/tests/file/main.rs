//! The file sink on real files: rotation, outside hands, crashes, full disks.
#![cfg(feature = "file")]

#[path = "../common/mod.rs"]
mod common;
mod crash;
mod full;
mod lines;
mod outside;
mod rotation;
mod support;
mod warnings;
