//! Opening a namespace: from index files what they tell, from the log the rest.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use muxfs::{
    Error, ErrorKind, Result,
    log::{Log, LogHead, LogOptions, LogPos, Record},
    media::{Media, Segment, SegmentId},
};
use tokio::sync::Mutex as AsyncMutex;
use tokio_util::task::TaskTracker;

use super::{Faults, STRIPE_COUNT, Store, StoreOptions};
use crate::{
    index::IndexFile,
    state::{Change, Hasher, State},
};

/// The kind of log that a namespace is.
const KIND: &str = "zdbdata";
/// How long the header of a log's segment is: one that is no longer holds nothing.
const SEGMENT_HEADER_LEN: u32 = 64;

/// Where a namespace is.
#[derive(Debug, Clone)]
pub(crate) struct StoreMedia {
    pub(crate) data: Arc<dyn Media>,
    pub(crate) index: Arc<dyn Media>,
}

/// What index files tell.
struct Indexed {
    state: State,
    /// The place behind the last record that they tell of.
    covered: Option<LogPos>,
    faults: u64,
}

impl Store {
    /// Makes a namespace in two empty media, durably.
    pub(crate) async fn create(media: StoreMedia, options: StoreOptions) -> Result<Arc<Self>> {
        let log = Log::open(Arc::clone(&media.data), options.log_options(), |_, _| Ok(())).await?;
        let store = Self::with(log, media, options.clone(), State::new(options.mode));
        // From here on an empty log is one whose files were lost.
        store.note(0).await?;
        store.sync().await?;
        Ok(store)
    }

    /// Opens a namespace.
    pub(crate) async fn open(media: StoreMedia, options: StoreOptions) -> Result<Arc<Self>> {
        let log_options = options.log_options();
        let Some(start) = Log::start(&media.data, &log_options).await? else {
            return Err(Error::new(ErrorKind::Corrupt, "zdb.open").because("its data files are missing"));
        };
        let hasher = Hasher::new(&start.identity);
        let Indexed { state, covered, mut faults } = Self::load(&media, &options, start.first, start.identity).await?;
        let opened = Self::replay(&media, &options, &hasher, state, covered).await;
        let (log, state) = match opened {
            // An index file may say more than the log, where both passed their checks: the log is the truth.
            Err(error) if error.kind() == ErrorKind::Corrupt && covered.is_some() => {
                tracing::warn!(%error, cause = format!("{error:#}"), "the index of a namespace is built from its log");
                faults += 1;
                Self::replay(&media, &options, &hasher, State::new(options.mode), None).await?
            }
            opened => opened?,
        };
        let store = Self::with(log, media, options, state);
        store.index_faults.failed_checks.store(faults, Ordering::Relaxed);
        store.list_files().await?;
        store.upkeep_in_background();
        Ok(store)
    }

    fn with(log: Log, media: StoreMedia, options: StoreOptions, state: State) -> Arc<Self> {
        Arc::new(Self {
            hasher: Hasher::new(&log.identity()),
            log,
            index: media.index,
            data: media.data,
            options,
            state: Mutex::new(state),
            stripes: (0..STRIPE_COUNT).map(|_| AsyncMutex::new(())).collect(),
            upkeep: AsyncMutex::new(()),
            compacting: AsyncMutex::new(()),
            closing: AtomicBool::new(false),
            keeps_history: AtomicBool::new(true),
            tasks: TaskTracker::new(),
            offsets: Mutex::new(None),
            data_faults: Faults::default(),
            index_faults: Faults::default(),
            read_len: AtomicU64::new(0),
            written_len: AtomicU64::new(0),
        })
    }

    /// Applies index files from the first data file on, up to one that has none.
    async fn load(media: &StoreMedia, options: &StoreOptions, first: SegmentId, identity: [u8; 12]) -> Result<Indexed> {
        let mut indexed = Indexed { state: State::new(options.mode), covered: None, faults: 0 };
        let lens: BTreeMap<SegmentId, u64> =
            media.index.segments().await?.iter().map(|segment| (segment.id, segment.len)).collect();
        let newest = media.data.segments().await?.last().map(|segment| segment.id);
        for segment in data_files(media, first).await? {
            let (Ok(file), Some(len)) = (u32::try_from(segment.id.0), lens.get(&segment.id)) else { break };
            // A file has its index file when there is a newer one. In a copy that was made meanwhile it may be the newest, and
            // there may be zeros in it of what was being written.
            if newest == Some(segment.id) {
                break;
            }
            let before = indexed.state.ends.keys().next_back().copied();
            let index = match IndexFile::read(&media.index, file, *len).await? {
                Some(index) if index.identity == identity && index.mode == options.mode => index,
                _ => {
                    tracing::warn!(file, "an index file is damaged and built anew");
                    indexed.faults += 1;
                    break;
                }
            };
            // Between the two, or before the first, a file is missing: the log knows, and says so when it is replayed.
            if index.before.filter(|before| u64::from(*before) >= first.0) != before {
                break;
            }
            if u64::from(index.end) > segment.len {
                return Err(Error::new(ErrorKind::Corrupt, "zdb.open")
                    .at(segment.id)
                    .because("the data file is shorter than its index file says"));
            }
            indexed.state.load(&index);
            indexed.covered = Some(LogPos { segment: segment.id, offset: index.end });
        }
        Ok(indexed)
    }

    /// Opens the log and applies what index files do not tell of.
    async fn replay(
        media: &StoreMedia,
        options: &StoreOptions,
        hasher: &Hasher,
        mut state: State,
        covered: Option<LogPos>,
    ) -> Result<(Log, State)> {
        let each = |pos: LogPos, record: Record| {
            let body_len = u32::try_from(record.body.len()).unwrap_or(u32::MAX);
            let record = LogHead { pos, head: record.head, body_len };
            let Some((change, _)) = Change::of(hasher, options.mode, &record) else {
                return Err(Error::new(ErrorKind::Corrupt, "zdb.open")
                    .at(pos)
                    .because("the record is none of a namespace of this mode"));
            };
            state.apply(&change);
            Ok(())
        };
        let data = Arc::clone(&media.data);
        let log = match covered {
            Some(from) => Log::open_from(data, options.log_options(), from, each).await?,
            None => Log::open(data, options.log_options(), each).await?,
        };
        if state.ends.is_empty() {
            return Err(Error::new(ErrorKind::Corrupt, "zdb.open")
                .because("its data files hold nothing, not even what every namespace begins with"));
        }
        Ok((log, state))
    }

    /// Takes note of files without records, and removes index files that have no data file.
    async fn list_files(&self) -> Result<()> {
        let media = StoreMedia { data: Arc::clone(&self.data), index: Arc::clone(&self.index) };
        let files = data_files(&media, self.log.first()).await?;
        {
            let mut state = self.lock();
            for file in files.iter().filter_map(|segment| u32::try_from(segment.id.0).ok()) {
                if !state.ends.contains_key(&file) {
                    state.set_end(file, SEGMENT_HEADER_LEN);
                }
            }
        }
        for segment in self.index.segments().await? {
            let is_of_a_file = u32::try_from(segment.id.0).is_ok_and(|file| self.lock().ends.contains_key(&file));
            if !is_of_a_file && let Err(error) = self.index.remove(segment.id).await {
                tracing::warn!(%error, "an index file without its data file is left over");
            }
        }
        Ok(())
    }
}

impl StoreOptions {
    fn log_options(&self) -> LogOptions {
        LogOptions { segment_len_max: self.file_len_max, ..LogOptions::new(KIND, &self.env) }
    }
}

impl State {
    fn load(&mut self, index: &IndexFile) {
        if let crate::state::Places::Keys(table) = &mut self.places {
            let count = |is: fn(&Change) -> bool| index.entries.iter().filter(|change| is(change)).count() as u64;
            let (made, gone) =
                (count(|change| change.before.is_none()), count(|change| change.kind == crate::record::Kind::Delete));
            table.reserve(made.saturating_sub(gone));
        }
        for change in &index.entries {
            self.apply(change);
        }
        self.next_id = self.next_id.max(index.next_id);
        self.set_end(index.file, index.end);
        self.indexed.insert(index.file);
    }
}

/// The data files that may hold something, ascending.
async fn data_files(media: &StoreMedia, first: SegmentId) -> Result<Vec<Segment>> {
    let mut segments = media.data.segments().await?;
    segments.retain(|segment| segment.id >= first && segment.len > u64::from(SEGMENT_HEADER_LEN));
    Ok(segments)
}
