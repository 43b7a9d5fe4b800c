//! A machine that stops at any call of its disk: what opens is the state of a flush, the last that was acknowledged or one
//! that was under way.

use std::collections::BTreeSet;

use muxfs::{
    ErrorKind, Result,
    block::{Segments, SegmentsOptions},
    heads::LogHeads,
    testing::fault::{Crash, CrashMedia},
};

use super::*;

#[derive(Debug)]
struct Disks {
    data: Arc<CrashMedia>,
    index: Arc<CrashMedia>,
    heads: Arc<CrashMedia>,
}

impl Disks {
    fn new(crash: &Arc<Crash>) -> Self {
        let media = || Arc::new(CrashMedia::new(crash.clone()));
        Self { data: media(), index: media(), heads: media() }
    }

    fn restart(&self, seed: u64, crash: &Arc<Crash>) -> Self {
        let media = |media: &CrashMedia, n| Arc::new(media.restart(seed * 3 + n, crash.clone()));
        Self { data: media(&self.data, 0), index: media(&self.index, 1), heads: media(&self.heads, 2) }
    }

    async fn place(&self, seed: u64) -> Result<VaultPlace> {
        let env = Clock::default().env(seed);
        let blocks = Segments::open(self.data.clone(), self.index.clone(), SegmentsOptions::default(), &env).await?;
        let heads = LogHeads::open(self.heads.clone(), &env).await?;
        Ok(place(Arc::new(blocks), Arc::new(heads), env))
    }
}

/// Which blocks there were at the last flush that returned, and which there may be besides.
#[derive(Debug, Default)]
struct Model {
    is_made: bool,
    flushed: BTreeSet<usize>,
    trying: BTreeSet<usize>,
    next: usize,
}

fn bytes(n: usize) -> Bytes {
    block(n, [100, 40_000, 3_000, 0, 70_000][n % 5])
}

/// Opens what there is, holds it against the model, and goes on until something fails.
async fn live(disks: &Disks, model: &mut Model, seed: u64) -> Result<()> {
    let place = disks.place(seed).await?;
    let vault = match Vault::open(place.clone(), &password()).await {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            assert!(!model.is_made, "a vault that was made is gone");
            Vault::create(place, &password(), &options()).await?
        }
        opened => opened?,
    };
    model.is_made = true;
    let found: BTreeSet<usize> = {
        let keys: Vec<_> = vault.keys().try_collect().await?;
        let number = |key: BlockKey| String::from_utf8_lossy(&key.as_bytes()[4..]).parse().expect("a number");
        keys.into_iter().map(number).collect()
    };
    assert!(found == model.flushed || found == model.trying, "{found:?} is neither of {model:?}");
    for n in &found {
        assert!(vault.get(&key(*n)).await? == Some(bytes(*n)), "block {n}");
    }
    model.flushed = found;
    for round in 0..4 {
        let mut now = model.flushed.clone();
        for n in model.next..model.next + 3 {
            vault.put(&key(n), bytes(n)).await?;
            now.insert(n);
        }
        model.next += 3;
        if let Some(first) = now.first().copied().filter(|_| round % 2 == 1) {
            vault.delete(&key(first)).await?;
            now.remove(&first);
        }
        model.trying.clone_from(&now);
        vault.flush().await?;
        model.flushed = now;
        if round == 1 {
            vault.rekey(&password()).await?;
        }
    }
    vault.compact().await?;
    while !vault.rekey_some(u64::from(PACK_LEN_MIN)).await?.is_done {
        assert_eq!(all(&vault).await?.len(), model.flushed.len());
    }
    let damaged = vault.check().await?.damaged;
    assert_eq!(damaged, Vec::<String>::new());
    Ok(())
}

#[tokio::test]
async fn a_crash_at_any_call_leaves_the_state_of_a_flush() {
    let calls = {
        let crash = Crash::never();
        live(&Disks::new(&crash), &mut Model::default(), 0).await.expect("nothing stops it");
        crash.calls()
    };
    // Every call where somebody has the time.
    let step = if std::env::var_os("MUXFS_VAULT_ALL_CRASHES").is_some() { 1 } else { (calls / 60).max(1) };
    for first in (0..calls).step_by(usize::try_from(step).expect("few")) {
        let mut model = Model::default();
        let mut crash = Crash::at(first);
        let mut disks = Disks::new(&crash);
        for round in 0..4 {
            let seed = first * 10 + round;
            if let Err(error) = live(&disks, &mut model, seed).await {
                assert!(crash.happened(), "{error:#}");
                assert!(
                    !matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::BadKey),
                    "a crash is no damage: {error:#}"
                );
            }
            crash = if round < 2 { Crash::at((first * 7 + round * 13) % calls) } else { Crash::never() };
            disks = disks.restart(seed, &crash);
        }
    }
}
