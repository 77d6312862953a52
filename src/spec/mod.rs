//! spec (skeleton)
