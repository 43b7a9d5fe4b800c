//! The attribute tree: the POSIX metadata of a committed tree, by inode, in blocks of dag-cbor beside the content.
