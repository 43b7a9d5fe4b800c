//! Reading the CARs that come: each block verified, and one of those that were asked for.

use std::{
    collections::{HashMap, HashSet},
    io,
    ops::Range,
    sync::Arc,
    time::Duration,
};

use futures_util::{Stream, StreamExt as _, stream};
use muxfs::{BlockKey, Cid, Codec, Error, ErrorKind, Name, Result, block::Checked, car::Reader};
use tokio::time::{Instant, sleep};
use tokio_util::io::StreamReader;

use super::{
    coming::State,
    files::{File, PLACE_COUNT_MAX, children},
};
use crate::{
    Undecided,
    cars::{NoCar, Of},
    gateway::Gateway,
    health::Source,
    http::Answer,
};

/// Who reads in order asks for several parts at once, in any order: so long the first of them is waited for.
const GATHER: Duration = Duration::from_millis(1);
/// So many blocks are checked at once.
const CHECK_COUNT: usize = 4;

/// Why a CAR ended before its end.
pub(super) enum Broken {
    /// The gateway does not give it.
    Refused(NoCar),
    /// It broke off, stood still, or ended before all of it had come.
    Off(Error),
    /// It sent what is no block of the CID before it.
    Lie(Error),
    /// It sent what was not asked for.
    Stranger(Error),
}

impl Broken {
    fn error(&self) -> &Error {
        match self {
            Self::Refused(why) => why.error(),
            Self::Off(error) | Self::Lie(error) | Self::Stranger(error) => error,
        }
    }

    pub(super) fn into_error(self) -> Error {
        match self {
            Self::Refused(why) => why.into_error(),
            Self::Off(error) | Self::Lie(error) | Self::Stranger(error) => error,
        }
    }
}

/// Reads a CAR of a file.
pub(super) async fn file(file: Arc<File>, source: Arc<Source>, state: Arc<State>) {
    let Some(gateway) = source.gateway.clone() else { return };
    // Of a file that is not known the range may be none.
    let is_known = !state.awaits(&BlockKey::from(&file.cid));
    let read = async {
        sleep(GATHER).await;
        let range = state.ask();
        let asked = Instant::now();
        let to = i64::try_from(range.end).is_ok().then_some(range.end);
        let answer = answered(&source, asked, gateway.car_of_file(&file.cid, range.start, to).await)?;
        let mut parts = Parts::new(&file.cid, range);
        let mut sections = std::pin::pin!(sections(answer, &gateway));
        while let Some(section) = sections.next().await {
            let (cid, block) = section?;
            match parts.take(&cid, &block)? {
                Part::Root(first) => {
                    state.begin(first);
                    // Who asks for leaves has it.
                    if state.awaits(block.key()) {
                        state.keep(block, first).await;
                    }
                }
                Part::Node(next) | Part::Leaf(next) => state.keep(block, next).await,
            }
        }
        parts.end()
    };
    let ended = tokio::select! {
        ended = read => Some(ended),
        () = state.left() => None,
    };
    let is_of_file = match &ended {
        None | Some(Ok(())) => false,
        Some(Err(Broken::Refused(why))) => matches!(why, NoCar::Here(_)),
        Some(Err(Broken::Off(_) | Broken::Lie(_) | Broken::Stranger(_))) => true,
    };
    if is_of_file && !state.is_over() {
        file.failed();
    }
    close(Of::File, is_known, ended, (&source, &gateway), &state).await;
}

/// Reads a CAR of what a path leads through.
pub(super) async fn path(root: Cid, parts: Vec<Name>, source: Arc<Source>, state: Arc<State>) {
    let Some(gateway) = source.gateway.clone() else { return };
    let read = async {
        let asked = Instant::now();
        let answer = answered(&source, asked, gateway.car_of_path(&root, &parts).await)?;
        let mut sections = std::pin::pin!(sections(answer, &gateway));
        while let Some(section) = sections.next().await {
            let (_, block) = section?;
            state.keep_passed(block).map_err(Broken::Off)?;
        }
        if state.is_empty() { Err(short()) } else { Ok(()) }
    };
    let ended = tokio::select! {
        ended = read => Some(ended),
        () = state.left() => None,
    };
    close(Of::Path, true, ended, (&source, &gateway), &state).await;
}

/// What the order of sources learns of an answer.
pub(super) fn answered<'a>(
    source: &Source,
    asked: Instant,
    answer: Result<Answer<'a>, NoCar>,
) -> Result<Answer<'a>, Broken> {
    let now = Instant::now();
    match &answer {
        Err(NoCar::Later(..)) => {}
        Err(NoCar::Down(_)) => source.health().failed(asked, now),
        Err(NoCar::Here(error)) if Undecided::is_cause_of(error) => source.health().outrun(now - asked),
        Ok(_) | Err(NoCar::Here(_) | NoCar::Never(_)) => source.health().answered(now - asked),
    }
    answer.map_err(Broken::Refused)
}

/// That a CAR came to its end, and not all that was asked for with it.
fn short() -> Broken {
    Broken::Off(Error::new(ErrorKind::Unavailable, "ahead.read").because("it ended before all had come"))
}

/// What follows from how a CAR ended that was asked for then; `is_sure` says whether what was asked for is there for sure.
pub(super) fn learn(
    of: Of,
    is_sure: bool,
    ended: Result<(), &Broken>,
    (source, gateway): (&Source, &Gateway),
    asked: Instant,
) {
    let cars = gateway.cars();
    match ended {
        Ok(()) => cars.worked(of),
        Err(Broken::Refused(why)) => cars.refused(of, why, asked, is_sure),
        Err(Broken::Off(_)) => cars.failed(of, asked),
        Err(Broken::Lie(_)) => source.health().lied(Instant::now()),
        Err(Broken::Stranger(_)) => cars.leave(),
    }
}

/// Draws the consequences, and keeps what came for as long as it is asked for. `ended` is `None` where nobody wanted more of it.
async fn close(
    of: Of,
    is_sure: bool,
    ended: Option<Result<(), Broken>>,
    (source, gateway): (&Source, &Gateway),
    state: &State,
) {
    if let Some(ended) = ended.as_ref().filter(|_| !state.is_over()) {
        learn(of, is_sure, ended.as_ref().copied(), (source, gateway), state.begun);
    }
    state.end();
    if let Some(Err(broken)) = ended {
        let (error, from) = (format!("{:#}", broken.error()), gateway.url());
        tracing::debug!(error, %from, "a CAR broke off: its blocks are asked for");
    }
    state.idle().await;
    state.clear();
}

/// The blocks of a CAR in their order, several checked at once while more is read.
pub(super) fn sections<'a>(
    answer: Answer<'a>,
    gateway: &'a Gateway,
) -> impl Stream<Item = Result<(Cid, Checked), Broken>> + Send + 'a {
    let pieces = stream::try_unfold(answer, |mut answer| async move {
        let piece = answer.next_in_time().await.map_err(io::Error::other)?;
        let Some(piece) = piece else {
            drop(answer.end());
            return Ok(None);
        };
        Ok::<_, io::Error>(Some((piece, answer)))
    });
    let source = StreamReader::new(Box::pin(pieces));
    let reader = stream::once(Reader::open(source));
    let sections = reader.flat_map(|reader| match reader {
        Ok(reader) => stream::try_unfold(reader, |mut reader| async move {
            Ok(reader.next_unverified().await?.map(|section| (section, reader)))
        })
        .boxed(),
        Err(error) => stream::once(async { Err(error) }).boxed(),
    });
    let checked = sections.map(move |section| async move {
        let section = section.map_err(Broken::Off)?;
        let checked = gateway.checks().check(&section.cid, section.block).await;
        // What its CID holds nobody asks for.
        let is_own = section.cid.identity().is_some();
        checked
            .map(|block| (!is_own).then_some((section.cid, block)))
            .map_err(|error| Broken::Lie(Error::new(error.kind(), "ahead.check").at(section.cid).because(error)))
    });
    checked.buffered(CHECK_COUNT).filter_map(|section| async { section.transpose() })
}

/// The parts of a file that may come.
struct Parts {
    root: BlockKey,
    wanted: Range<u64>,
    linked: HashMap<BlockKey, Range<u64>>,
    /// Those that have to come, and have not yet.
    missing: HashSet<BlockKey>,
}

/// What a block is to the file.
enum Part {
    /// The root, and a node, of which what is wanted begins with the part that begins there.
    Root(u64),
    /// See [`Root`](Part::Root).
    Node(u64),
    /// A leaf that ends there.
    Leaf(u64),
}

impl Parts {
    fn new(file: &Cid, wanted: Range<u64>) -> Self {
        let root = BlockKey::from(file);
        let linked = HashMap::from([(root.clone(), 0..u64::MAX)]);
        Self { missing: HashSet::from([root.clone()]), root, wanted, linked }
    }

    fn take(&mut self, cid: &Cid, block: &Checked) -> Result<Part, Broken> {
        let refuse = |why| Broken::Stranger(Error::new(ErrorKind::Corrupt, "ahead.read").at(cid).because(why));
        let Some(range) = self.linked.get(block.key()).cloned() else {
            return Err(refuse("a block that is none of what was asked for of the file"));
        };
        // One that comes again leads nowhere new.
        let is_first = self.missing.remove(block.key());
        let children = (cid.codec() == Some(Codec::DagPb)).then(|| children(block.block(), range.start)).flatten();
        let Some(children) = children else { return Ok(Part::Leaf(range.end)) };
        let mut first = None;
        for (child, range) in children {
            if range.start < self.wanted.end && range.end > self.wanted.start {
                first.get_or_insert(range.start);
                // What its CID holds, and what is of no length, nobody has to send.
                if is_first && !range.is_empty() && child.identity().is_none() {
                    self.missing_too(&child);
                }
                self.linked.entry(BlockKey::from(&child)).or_insert(range);
            }
        }
        let first = first.unwrap_or(range.start);
        if self.linked.len() > PLACE_COUNT_MAX {
            return Err(refuse("a file of more parts than are kept in mind"));
        }
        Ok(if *block.key() == self.root { Part::Root(first) } else { Part::Node(first) })
    }

    /// Has one more that has to come, unless it came.
    fn missing_too(&mut self, child: &Cid) {
        let key = BlockKey::from(child);
        if !self.linked.contains_key(&key) {
            self.missing.insert(key);
        }
    }

    /// Whether all came, at the end.
    fn end(&self) -> Result<(), Broken> {
        if self.missing.is_empty() { Ok(()) } else { Err(short()) }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use muxfs::{
        block::{Checks, Mem},
        cid_of,
        dag::{
            pb::{PbLink, PbNode},
            unixfs::{UnixfsData, UnixfsType},
        },
    };

    use super::*;

    fn node(children: &[(Cid, u64)]) -> (Cid, Bytes) {
        let mut message = UnixfsData::new(UnixfsType::File);
        message.blocksizes = children.iter().map(|(_, len)| *len).collect();
        message.filesize = Some(message.blocksizes.iter().sum());
        let link = |(cid, len): &(Cid, u64)| PbLink { cid: *cid, name: Some(Bytes::new()), tsize: Some(*len) };
        let node = PbNode { links: children.iter().map(link).collect(), data: Some(message.encode().into()) };
        let block = node.encode();
        (cid_of(Codec::DagPb, &block), block)
    }

    /// A gateway that is gone is left out as for blocks; that it gives no CAR, or not now, is no failure of it.
    #[tokio::test(start_paused = true)]
    async fn who_cannot_be_reached_for_a_car_is_left_out() {
        let error = || Error::new(ErrorKind::Unavailable, "a test");
        let now = Instant::now();
        let whys: [fn(Error) -> NoCar; 4] =
            [NoCar::Here, NoCar::Never, |error| NoCar::Later(error, Instant::now()), NoCar::Down];
        for (why, is_left_out) in whys.into_iter().zip([false, false, false, true]) {
            let source = Source::new(Arc::new(Mem::default()), None);
            for _ in 0..3 {
                assert!(answered(&source, now, Err(why(error()))).is_err());
            }
            assert_eq!(source.health().rests(now), is_left_out);
        }
    }

    /// One that ends early is not whole, wherever that is. What comes but once in it counts for all its places, and neither
    /// what is of no length nor what its CID holds is waited for.
    #[tokio::test]
    async fn a_car_is_whole_when_all_that_was_asked_for_came() {
        let leaves: Vec<Bytes> = (0..3).map(|n: u8| Bytes::from(vec![n; 100])).collect();
        let cids: Vec<Cid> = leaves.iter().map(|leaf| cid_of(Codec::Raw, leaf)).collect();
        let empty = cid_of(Codec::Raw, b"");
        let held = Cid::from_bytes(&[1, 0x55, 0, 1, b'x']).expect("a CID that holds its block");
        let (inner, inner_block) = node(&[(cids[1], 100), (cids[0], 100), (empty, 0), (held, 1)]);
        let (root, root_block) = node(&[(cids[0], 100), (inner, 301), (cids[2], 100)]);
        let all = [(root, root_block), (cids[0], leaves[0].clone()), (inner, inner_block)];
        let all = all.into_iter().chain([(cids[1], leaves[1].clone()), (cids[2], leaves[2].clone())]);
        let all: Vec<_> = all.collect();
        let is_whole = async |wanted: Range<u64>, sent: &[usize]| {
            let mut parts = Parts::new(&root, wanted);
            for at in sent {
                let (cid, block) = &all[*at];
                let block = Checks::new().check(cid, block.clone()).await.expect("its own");
                assert!(parts.take(cid, &block).is_ok(), "{at}");
            }
            parts.end().is_ok()
        };
        assert!(is_whole(0..u64::MAX, &[0, 1, 2, 3, 4]).await);
        for len in 0..4 {
            assert!(!is_whole(0..u64::MAX, &[0, 1, 2, 3, 4][..len]).await, "{len}");
        }
        assert!(is_whole(0..u64::MAX, &[0, 1, 1, 2, 3, 1, 4, 2]).await, "some came again");
        assert!(is_whole(410..420, &[0, 4]).await && is_whole(120..130, &[0, 2, 3]).await);
        assert!(is_whole(1000..2000, &[0]).await, "behind its end is nothing");
        assert!(!is_whole(120..130, &[0, 2]).await);
    }
}
