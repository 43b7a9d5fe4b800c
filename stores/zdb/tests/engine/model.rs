//! What a namespace is to its clients, and that ours is: random operations, and every way to open it again.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use muxfs::testing::fault::Dice;
use muxfs_zdb::{Delete, Direction, Engine, Mode, Namespace, Page, ScanLimit, Set, Setting};

use crate::home::{TestHome, open};

/// All values that a key has had since it was last made, the oldest first, and where the last one is in the order.
type Values = (Vec<(Bytes, u32)>, u64);

/// A namespace, as plainly as can be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Model {
    pub(crate) mode: Mode,
    pub(crate) keys: BTreeMap<Vec<u8>, Values>,
    pub(crate) next_id: u64,
    order: u64,
}

impl Model {
    pub(crate) fn new(mode: Mode) -> Self {
        Self { mode, keys: BTreeMap::new(), next_id: 0, order: 0 }
    }

    pub(crate) fn value(&self, key: &[u8]) -> Option<&(Bytes, u32)> {
        self.keys.get(key)?.0.last()
    }

    /// The key that it has then; `None` if it has this value already.
    pub(crate) fn set(&mut self, key: &[u8], value: Bytes, timestamp: u32) -> Option<Vec<u8>> {
        if self.value(key).is_some_and(|(there, _)| *there == value) {
            return None;
        }
        let is_new = !self.keys.contains_key(key);
        let key = if self.mode == Mode::Sequential && key.is_empty() {
            self.next_id.to_le_bytes().to_vec()
        } else {
            key.to_vec()
        };
        self.next_id += u64::from(is_new || self.mode == Mode::Sequential);
        self.order += 1;
        let (values, order) = self.keys.entry(key.clone()).or_default();
        values.push((value, timestamp));
        *order = self.order;
        Some(key)
    }

    pub(crate) fn delete(&mut self, key: &[u8]) -> bool {
        self.keys.remove(key).is_some()
    }

    /// The keys in the order of a scan.
    pub(crate) fn listed(&self) -> Vec<(Vec<u8>, usize, u32)> {
        let mut keys: Vec<_> = self.keys.iter().collect();
        match self.mode {
            Mode::User => keys.sort_by_key(|(_, (_, order))| *order),
            Mode::Sequential => keys.sort_by_key(|(key, _)| id_of(key)),
        }
        let listed = keys.into_iter().filter_map(|(key, (values, _))| {
            let (value, timestamp) = values.last()?;
            Some((key.clone(), value.len(), *timestamp))
        });
        listed.collect()
    }
}

fn id_of(key: &[u8]) -> u64 {
    u64::from_le_bytes(key.try_into().expect("8 bytes"))
}

/// All keys as scans in pages of a few give them.
pub(crate) async fn listed(namespace: &Namespace, direction: Direction, count: usize) -> Vec<(Vec<u8>, usize, u32)> {
    let mut all = Vec::new();
    let mut cursor: Option<[u8; 17]> = None;
    let limit = ScanLimit { count, ..ScanLimit::default() };
    loop {
        match namespace.scan(direction, cursor.as_ref().map(|cursor| &cursor[..]), limit).await.expect("scan") {
            Page::Keys { next, keys } => {
                assert!(!keys.is_empty());
                all.extend(keys.iter().map(|key| (key.key.to_vec(), key.len as usize, key.timestamp)));
                cursor = Some(next);
            }
            Page::End => return all,
            Page::BadCursor => panic!("a cursor that was given is good"),
        }
    }
}

/// Whether a namespace is what the model says, for every call that reads; history too if it `keeps` it. Returns what
/// differs.
pub(crate) async fn compare(
    namespace: &Namespace,
    model: &Model,
    keeps_order: bool,
    keeps: bool,
) -> Result<(), String> {
    // A compaction that goes on beside it lets a key be given twice.
    let sorted = |mut keys: Vec<_>| {
        if !keeps_order && model.mode == Mode::User {
            keys.sort();
            keys.dedup();
        }
        keys
    };
    let scanned = sorted(listed(namespace, Direction::Forward, 3).await);
    let expected = sorted(model.listed());
    if scanned != expected {
        return Err(format!("a scan gives {scanned:?}, not {expected:?}"));
    }
    let mut back = listed(namespace, Direction::Backward, 2).await;
    back.reverse();
    let back = sorted(back);
    if back != expected {
        return Err(format!("a scan backward gives {back:?}, not {expected:?}"));
    }
    if namespace.len() != model.keys.len() as u64 {
        return Err(format!("{} keys, not {}", namespace.len(), model.keys.len()));
    }
    let data_len: usize = expected.iter().map(|(_, len, _)| len).sum();
    if namespace.figures().data_len != data_len as u64 {
        return Err(format!("{} bytes of values, not {data_len}", namespace.figures().data_len));
    }
    for (key, (values, _)) in &model.keys {
        let (value, timestamp) = values.last().expect("a value");
        let entry = namespace.get(key).await.map_err(|error| format!("{error:?}"))?;
        if entry.as_ref().map(|entry| (&entry.value, entry.timestamp)) != Some((value, *timestamp)) {
            return Err(format!("{key:?} has {entry:?}, not {value:?}"));
        }
        let known = namespace.key(key).await.expect("key").expect("it is there");
        assert_eq!((known.len as usize, known.timestamp), (value.len(), *timestamp));
        assert_eq!(namespace.check(key).await.expect("check"), Some(true));
        if keeps {
            let mut at = None;
            for (value, timestamp) in values.iter().rev() {
                let version = namespace.history(key, at).await.expect("history");
                let Some(version) = version else { return Err(format!("{key:?} has no more history")) };
                if (&version.value, version.timestamp) != (value, *timestamp) {
                    return Err(format!("{key:?} had {version:?}, not {value:?}"));
                }
                at = version.previous;
            }
            if at.is_some() {
                return Err(format!("{key:?} has more history than it had values"));
            }
        }
    }
    Ok(())
}

/// Makes a namespace with these settings, and opens it if there is one.
pub(crate) async fn namespace(engine: &Engine, name: &str, mode: Mode, history: bool) -> Arc<Namespace> {
    if let Some(there) = engine.namespace(name.as_bytes()) {
        return there;
    }
    engine.create(name.as_bytes()).await.expect("create");
    let space = engine.namespace(name.as_bytes()).expect("it was made");
    engine.update(&space, Setting::Mode(mode)).await.expect("mode");
    engine.update(&space, Setting::History(history)).await.expect("history");
    space
}

/// One random operation on both.
pub(crate) async fn step(namespace: &Namespace, model: &mut Model, dice: &mut Dice) -> Result<(), muxfs::Error> {
    let timestamp = u32::try_from(dice.roll(1 << 20)).expect("small");
    let there: Vec<Vec<u8>> = model.keys.keys().cloned().collect();
    let known = (!there.is_empty()).then(|| there[dice.roll(there.len())].clone());
    let key = match (model.mode, dice.roll(3)) {
        (_, 0 | 1) if known.is_some() => known.unwrap_or_default(),
        (Mode::User, _) => format!("key {}", dice.roll(40)).into_bytes(),
        (Mode::Sequential, _) => Vec::new(),
    };
    if dice.roll(4) == 0 {
        let deleted = namespace.delete(&key, Some(timestamp)).await?;
        assert_eq!(deleted, if model.delete(&key) { Delete::Deleted } else { Delete::Absent });
        return Ok(());
    }
    // Of few lengths and contents, so that some are set twice; and some longer than a file.
    let value = match dice.roll(20) {
        0 => vec![7; 6000],
        1 => Vec::new(),
        2..5 => dice.bytes(700),
        _ => vec![u8::try_from(dice.roll(3)).expect("small"); dice.roll(3) * 50],
    };
    let value = Bytes::from(value);
    let set = namespace.set(&key, value.clone(), Some(timestamp)).await?;
    let expected = model.set(&key, value, timestamp);
    assert_eq!(set, expected.map_or(Set::Same, |key| Set::Stored { key: key.into() }));
    Ok(())
}

/// Random operations; now and then the engine is closed, or killed, and opened again.
async fn random(seed: u64, mode: Mode, history: bool) {
    let mut dice = Dice::new(seed);
    let mut home = Arc::new(TestHome::default());
    let mut engine = open(home.clone()).await;
    let mut model = Model::new(mode);
    for n in 0..250 {
        let space = namespace(&engine, "model", mode, history).await;
        step(&space, &mut model, &mut dice).await.expect("step");
        match dice.roll(40) {
            0 => space.jump().await.expect("jump"),
            1 => drop(space.compact().await.expect("compact")),
            2 => {
                engine.close().await.expect("close");
                engine = open(home.clone()).await;
            }
            3 => {
                space.durable().await.expect("durable");
                home = TestHome::load(&home.image().await).await;
                engine = open(home.clone()).await;
            }
            4 => engine.reload(&space).await.expect("reload"),
            _ => {}
        }
        if n % 10 == 0 {
            let space = namespace(&engine, "model", mode, history).await;
            let same = compare(&space, &model, history, history).await;
            assert_eq!(same, Ok(()), "seed {seed}, after {n} operations");
            assert_eq!(space.figures().next_id, model.next_id, "seed {seed}, after {n} operations");
        }
    }
}

#[tokio::test]
async fn it_is_what_the_model_says() {
    for seed in 0..12 {
        for mode in [Mode::User, Mode::Sequential] {
            random(seed, mode, true).await;
            random(seed, mode, false).await;
        }
    }
}
