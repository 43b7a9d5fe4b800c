//! The block of a commit: ties the content of a tree to its attributes and to the commits before it.
