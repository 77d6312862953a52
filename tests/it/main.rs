//! The tests that run the built program on real packages; `make test` makes what they need.

mod linker;
mod support;
