//! The tests that run the built program on real packages; `make test` makes what they need.

mod cache;
mod cli_errors;
mod compression;
mod conda_meta;
mod determinism;
mod diff;
mod docker;
mod faults;
mod faulty;
mod gate;
mod image;
mod inputs;
mod linker;
mod lock;
mod lock_life;
mod mini;
mod odd_packages;
mod pip_lock;
mod plan;
mod push;
mod pyc;
mod registry;
mod solve;
mod support;
mod validator;
mod wheel_install;
