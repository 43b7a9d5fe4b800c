//! The key of a mount whose blocks are elsewhere, and what is encrypted with it: the blocks, and what the mount keeps beside them.
//!
//! Spec: spec/s3-store.md #on-this-machine.

use std::{path::Path, sync::Arc};

use muxfs::{
    BlockStore, Env, Error, ErrorKind, Result,
    block::Encrypt,
    media::{Media, SealedMedia},
};
use muxfs_zstor::KeyRing;

const OP: &str = "mount.key";

/// The key of a mount; or none, and nothing of it is encrypted.
#[derive(Debug)]
pub(crate) struct Sealing {
    keys: Option<KeyRing>,
}

impl Sealing {
    /// Reads the key in a file; without one nothing is encrypted.
    ///
    /// # Errors
    /// `BadKey` if it is missing, or is being replaced for another mount; those of [`KeyRing::load`].
    pub(crate) fn load(file: Option<&Path>) -> Result<Self> {
        let Some(file) = file else { return Ok(Self { keys: None }) };
        let refused = |why: &str| Err(Error::new(ErrorKind::BadKey, OP).at(file.display()).because(why));
        match KeyRing::load(file)? {
            Some(keys) if keys.has_older() => refused(
                "muxfs key rotate is replacing this key for another mount, and nothing of this one is encrypted anew: put the key that it \
                 was made with into a file of its own",
            ),
            Some(keys) => Ok(Self { keys: Some(keys) }),
            None => refused(
                "the key is missing: bring it back from where you keep a copy; for a new store, muxfs key new makes one",
            ),
        }
    }

    /// Encrypts blocks, where a key is there, and looks first whether what is there is encrypted with it.
    ///
    /// # Errors
    /// As [`Encrypt::check_key`].
    pub(crate) async fn blocks(&self, blocks: Arc<dyn BlockStore>) -> Result<Arc<dyn BlockStore>> {
        let Some(keys) = &self.keys else { return Ok(blocks) };
        let encrypt = Encrypt::new(blocks, keys.for_bucket("blocks"));
        encrypt.check_key().await?;
        Ok(Arc::new(encrypt))
    }

    /// Encrypts what a mount keeps beside its blocks, where these are; `part` says what it is.
    pub(crate) fn media(&self, part: &str, media: Arc<dyn Media>, env: &Env) -> Arc<dyn Media> {
        match &self.keys {
            Some(keys) => Arc::new(SealedMedia::new(media, keys.for_bucket(part), env.clone())),
            None => media,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use muxfs_zstor::RootKey;

    use super::*;

    /// A mount of kind `sqlite` or `redis` took the newest key of a file that was being replaced for `/zstor`: what it wrote from
    /// then on could be read with that key alone, what it had before with the older one.
    #[test]
    fn a_key_that_is_being_replaced_is_refused() {
        let dir = tempfile::tempdir().expect("a directory");
        let (one, other) = (dir.path().join("one"), dir.path().join("other"));
        let env = crate::instance::env();
        RootKey::make(&one, &env).expect("made");
        RootKey::make(&other, &env).expect("made");
        Sealing::load(Some(&one)).expect("one key");
        let line = |file| {
            let text = fs::read_to_string(file).expect("read");
            text.lines().find(|line| line.starts_with("muxfs-key 1")).expect("a key").replace("key 1", "key 2")
        };
        let both = format!("{}\n{}\n", line(&one), line(&other));
        fs::write(&one, both).expect("written");
        let error = Sealing::load(Some(&one)).expect_err("two keys");
        assert_eq!(error.kind(), ErrorKind::BadKey);
        assert!(format!("{error:#}").contains("into a file of its own"), "{error:#}");
        fs::remove_file(&one).expect("removed");
        let error = Sealing::load(Some(&one)).expect_err("no key");
        assert!(error.kind() == ErrorKind::BadKey && format!("{error:#}").contains("missing"), "{error:#}");
        Sealing::load(None).expect("nothing is encrypted");
    }
}
