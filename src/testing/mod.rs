//! The laws of the seams, a model file system and fault injection (feature `testing`).
