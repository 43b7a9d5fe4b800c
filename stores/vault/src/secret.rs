//! A secret of 256 bits, alone on a page of memory that is never written to swap.

use std::{
    fmt,
    sync::{Arc, Once},
};

use memmap2::MmapMut;
use muxfs::Env;
use zeroize::{Zeroize as _, Zeroizing};

const LEN: usize = 32;

/// 256 bits that nobody else is to know. Zeroed when the last clone is dropped, never printed.
#[derive(Clone)]
pub(crate) struct Secret(Arc<Page>);

/// Where the bytes are.
enum Page {
    /// Pages of its own: what else is locked, and when, does not matter.
    Own(MmapMut),
    /// Where the system has no more of them.
    Shared(Zeroizing<[u8; LEN]>),
}

impl Secret {
    pub(crate) fn new(bytes: &[u8; LEN]) -> Self {
        Self::filled(|to| to.copy_from_slice(bytes))
    }

    pub(crate) fn draw(env: &Env) -> Self {
        Self::filled(|to| (env.fill)(to))
    }

    /// One that `fill` writes where it stays.
    pub(crate) fn filled(fill: impl FnOnce(&mut [u8])) -> Self {
        let page = match MmapMut::map_anon(LEN) {
            Ok(mut map) => {
                if let Err(error) = map.lock() {
                    tell_once(&error);
                }
                fill(&mut map);
                Page::Own(map)
            }
            Err(error) => {
                tell_once(&error);
                let mut bytes = Zeroizing::new([0; LEN]);
                fill(&mut *bytes);
                Page::Shared(bytes)
            }
        };
        Self(Arc::new(page))
    }

    pub(crate) fn as_bytes(&self) -> &[u8; LEN] {
        match &*self.0 {
            Page::Own(map) => map.first_chunk().expect("it was made that long"),
            Page::Shared(bytes) => bytes,
        }
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        self.as_bytes() == other.as_bytes()
    }
}

impl Eq for Secret {}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        if let Self::Own(map) = self {
            map.zeroize();
        }
    }
}

/// Says that keys can be written to swap.
fn tell_once(error: &std::io::Error) {
    static TOLD: Once = Once::new();
    TOLD.call_once(|| {
        tracing::warn!(
            "the keys of a vault cannot be locked in memory, and may be written to swap: raise the limit of locked memory (ulimit -l, \
             LimitMEMLOCK), or have no swap that is not encrypted: {error}"
        );
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_page_is_locked_as_the_system_tells() {
        let locked = || {
            let status = std::fs::read_to_string("/proc/self/smaps").ok()?;
            let kib = status
                .lines()
                .filter_map(|line| line.strip_prefix("Locked:")?.split_whitespace().next()?.parse::<u64>().ok());
            Some(kib.sum::<u64>())
        };
        let secret = Secret::new(&[7; LEN]);
        assert_eq!((secret.as_bytes(), format!("{secret:?}").as_str()), (&[7; LEN], "Secret(..)"));
        assert!(secret == secret.clone() && secret != Secret::new(&[8; LEN]));
        match locked() {
            Some(kib) if matches!(&*secret.0, Page::Own(_)) => assert!(kib >= 4, "{kib} KiB are locked"),
            _ => muxfs::testing::skip("this system does not tell what is locked in memory"),
        }
    }
}
