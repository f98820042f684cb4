//! The file sink on real files: rotation, outside hands, crashes, full disks.
#![cfg(feature = "file")]

mod crash;
mod full;
mod lines;
mod outside;
mod rotation;
mod support;
mod warnings;
