//! code (skeleton)
