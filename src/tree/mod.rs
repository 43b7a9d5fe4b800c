//! The working tree: a file system that can be written, over committed content and a journal of what changed since.
//!
//! Sits on [`Dag`](crate::dag::Dag) and [`log`](crate::log) and is a [`Vfs`](crate::vfs::Vfs). Its parts: [`attrs`], the
//! committed POSIX metadata beside the content; [`commit_node`], the block that ties both; [`inode`], the shared words.

pub(crate) mod attrs;
mod commit_node;
mod inode;
