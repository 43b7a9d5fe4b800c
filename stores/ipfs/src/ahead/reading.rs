//! Reading the CARs that come: each block verified, and one of those that were asked for.

use std::{collections::HashMap, io, ops::Range, sync::Arc, time::Duration};

use futures_util::{Stream, StreamExt as _, stream};
use muxfs::{BlockKey, Cid, Codec, Error, ErrorKind, Name, Result, block::Checked, car::Reader};
use tokio::time::{Instant, sleep};
use tokio_util::io::StreamReader;

use super::{
    coming::State,
    files::{File, PLACE_COUNT_MAX, children},
};
use crate::{gateway::Gateway, health::Source, http::Answer};

/// Who reads in order asks for several parts at once, in any order: so long the first of them is waited for.
const GATHER: Duration = Duration::from_millis(1);
/// So many blocks are checked at once.
const CHECK_COUNT: usize = 4;

/// Why a CAR ended before its end.
enum Broken {
    /// The gateway does not give it, and what follows from that is known.
    Refused(Error),
    /// It broke off, or stood still.
    Off(Error),
    /// It sent what is no block of the CID before it.
    Lie(Error),
    /// It sent what was not asked for.
    Stranger(Error),
}

/// Reads a CAR of a file.
pub(super) async fn file(file: Arc<File>, source: Arc<Source>, state: Arc<State>) {
    let Some(gateway) = source.gateway.clone() else { return };
    let read = async {
        sleep(GATHER).await;
        let range = state.ask();
        let asked = Instant::now();
        let to = i64::try_from(range.end).is_ok().then_some(range.end);
        // Of a file that is not known the range may be none.
        let is_known = !state.awaits(&BlockKey::from(&file.cid));
        let answer = gateway.car_of_file(&file.cid, range.start, to, is_known).await.map_err(Broken::Refused)?;
        source.health().answered(asked.elapsed());
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
        Ok(())
    };
    let ended = tokio::select! {
        ended = read => ended,
        () = state.left() => Ok(()),
    };
    if ended.is_err() && !state.is_over() {
        file.failed();
    }
    close(ended, &source, &gateway, &state).await;
}

/// Reads a CAR of what a path leads through.
pub(super) async fn path(root: Cid, parts: Vec<Name>, source: Arc<Source>, state: Arc<State>) {
    let Some(gateway) = source.gateway.clone() else { return };
    let read = async {
        let asked = Instant::now();
        let answer = gateway.car_of_path(&root, &parts).await.map_err(Broken::Refused)?;
        source.health().answered(asked.elapsed());
        let mut sections = std::pin::pin!(sections(answer, &gateway));
        while let Some(section) = sections.next().await {
            let (_, block) = section?;
            state.keep_passed(block).map_err(Broken::Off)?;
        }
        Ok(())
    };
    let ended = tokio::select! {
        ended = read => ended,
        () = state.left() => Ok(()),
    };
    close(ended, &source, &gateway, &state).await;
}

/// Draws the consequences, and keeps what came for as long as it is asked for.
async fn close(ended: Result<(), Broken>, source: &Source, gateway: &Gateway, state: &State) {
    if !state.is_over() {
        match &ended {
            Ok(()) => gateway.car_ended(),
            Err(Broken::Refused(_)) => {}
            Err(Broken::Off(_)) => gateway.car_failed(),
            Err(Broken::Lie(_)) => source.health().lied(Instant::now()),
            Err(Broken::Stranger(_)) => gateway.leave_cars(),
        }
    }
    state.end();
    if let Err(Broken::Refused(error) | Broken::Off(error) | Broken::Lie(error) | Broken::Stranger(error)) = ended {
        let (error, from) = (format!("{error:#}"), gateway.url());
        tracing::debug!(error, %from, "a CAR broke off: its blocks are asked for");
    }
    state.idle().await;
    state.clear();
}

/// The blocks of a CAR in their order, several checked at once while more is read.
fn sections<'a>(
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
        Self { root, wanted, linked }
    }

    fn take(&mut self, cid: &Cid, block: &Checked) -> Result<Part, Broken> {
        let refuse = |why| Broken::Stranger(Error::new(ErrorKind::Corrupt, "ahead.read").at(cid).because(why));
        let Some(range) = self.linked.get(block.key()).cloned() else {
            return Err(refuse("a block that is none of what was asked for of the file"));
        };
        let children = (cid.codec() == Some(Codec::DagPb)).then(|| children(block.block(), range.start)).flatten();
        let Some(children) = children else { return Ok(Part::Leaf(range.end)) };
        let mut first = None;
        for (child, range) in children {
            if range.start < self.wanted.end && range.end > self.wanted.start {
                first.get_or_insert(range.start);
                self.linked.entry(BlockKey::from(&child)).or_insert(range);
            }
        }
        let first = first.unwrap_or(range.start);
        if self.linked.len() > PLACE_COUNT_MAX {
            return Err(refuse("a file of more parts than are kept in mind"));
        }
        Ok(if *block.key() == self.root { Part::Root(first) } else { Part::Node(first) })
    }
}
