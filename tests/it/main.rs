//! The program from outside: one binary, so that it is linked once.

mod cli_errors;
mod faults;
mod faulty;
mod lock;
mod mini;
mod registry;
mod support;
