//! The tests that run the built program on real packages; `make test` makes what they need.

mod conda_meta;
mod determinism;
mod docker;
mod image;
mod linker;
mod odd_packages;
mod support;
mod validator;
