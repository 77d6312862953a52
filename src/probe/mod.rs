//! probe (skeleton)
