//! Reading everything: each byte of each pack that counts is held against its tag. Spec: spec/vault.md #checking.

use std::sync::Arc;

use muxfs::{ErrorKind, Result};

use crate::{
    keys::{Keys, PackName},
    pack::{Kind, Opened, TAG, open_item},
    vault::{Inner, Vault},
    wire::corrupt,
};

/// What was read.
#[derive(Debug, Default)]
pub struct Checked {
    /// Packs that were read, whole.
    pub packs: u64,
    /// What is wrong with which, in words.
    pub damaged: Vec<String>,
}

impl Vault {
    /// Reads every pack that counts, and opens everything in it. What was not flushed is not read. Changes nothing; but a block of
    /// which a piece is damaged is from then on replaced by whoever puts it again, as if somebody had asked for it.
    ///
    /// # Errors
    /// `Denied` where another has the vault by now; those of the store below; damage is no error but what it tells.
    pub async fn check(&self) -> Result<Checked> {
        let inner = &self.inner;
        inner.check_current()?;
        let mut checked = Checked::default();
        {
            let state = inner.state();
            checked.damaged.extend(state.read_only.clone());
            let unnamed = state.unreadable.iter().filter(|(number, _)| !state.names.contains_key(number));
            checked.damaged.extend(unnamed.map(|(number, why)| format!("pack {number}: {why}")));
        }
        for Object { kind, number, name, keys } in inner.objects().await {
            checked.packs += 1;
            match inner.check_pack(kind, number, &name, &keys).await {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::Corrupt => {
                    // Others flush meanwhile: what counts no more may be gone.
                    if inner.objects().await.iter().any(|counts| counts.name == name) {
                        checked.damaged.push(format!("{name}: {error:#}"));
                    }
                }
                Err(error) => return Err(error),
            }
        }
        let lost = {
            let state = inner.state();
            state.index.blocks().keys().filter(|key| !state.has_block(key)).count()
        };
        if lost > 0 {
            checked.damaged.push(format!("{lost} blocks have pieces that are damaged or lost"));
        }
        Ok(checked)
    }
}

/// An object that counts.
struct Object {
    kind: Kind,
    /// Its number, if it is a pack of data.
    number: Option<u64>,
    name: PackName,
    keys: Arc<Keys>,
}

impl Inner {
    /// Every object that counts.
    async fn objects(&self) -> Vec<Object> {
        let head = self.head.lock().await;
        let index_keys = head.current.index_keys();
        let other = |kind, name: &PackName| Object { kind, number: None, name: *name, keys: index_keys.clone() };
        let covers = head.current.superblock.covers.iter().map(|name| other(Kind::Cover, name));
        let runs = head.current.runs.runs.iter().flat_map(|run| run.objects.iter());
        let index = runs.map(|name| other(Kind::Index, name));
        let mut names = head.current.names();
        // What was found again where a part of the index is lost.
        for (number, name) in self.state().names.range(..=head.current.superblock.through) {
            names.entry(*number).or_insert(*name);
        }
        let ring = &head.current.ring;
        let data = names.into_iter().map(|(number, name)| {
            let keys = Arc::clone(ring.of(number));
            Object { kind: Kind::Data, number: Some(number), name, keys }
        });
        data.chain(covers).chain(index).collect()
    }

    async fn check_pack(self: &Arc<Self>, kind: Kind, number: Option<u64>, name: &PackName, keys: &Keys) -> Result<()> {
        let is_other = || corrupt("a pack is not what it is said to be");
        match kind {
            Kind::Data => {
                let loaded = self.load_whole(number.unwrap_or(0), name).await?;
                if number != Some(loaded.number) {
                    return Err(is_other());
                }
                let mut damaged = Vec::new();
                for (piece, offset) in &loaded.places {
                    let begin = *offset as usize;
                    let sealed = loaded.pack.get(begin..begin + (piece.kept_len + TAG) as usize).unwrap_or_default();
                    let mut sealed = sealed.to_vec();
                    let whole = open_item(&loaded.key, *offset, &mut sealed);
                    let whole = whole.and_then(|kept| self.shrinker.piece(piece.how, kept, piece.len));
                    if !whole.is_ok_and(|whole| self.piece_id(&whole) == piece.id) {
                        let place = self.state().index.place(&piece.id);
                        if place.is_some_and(|place| Some(place.number) == number && place.offset == *offset) {
                            damaged.push(piece.id);
                        }
                    }
                }
                if damaged.is_empty() { Ok(()) } else { Err(self.note_bad(&damaged, "a piece is damaged")) }
            }
            Kind::Index => self.load_parts(keys, name).await.map(drop),
            Kind::Cover => {
                let pack = self.load_object(name).await?;
                let opened = Opened::whole(&keys.pack(name), &pack, self.pack_len)?;
                if opened.trailer.kind == kind && opened.trailer.items_end == 0 { Ok(()) } else { Err(is_other()) }
            }
        }
    }
}
