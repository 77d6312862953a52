//! docker (skeleton)
