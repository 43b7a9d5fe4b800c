//! Room for what has not come in whole: a connection's share of the memory for unfinished records.
//!
//! Bytes of calls that run are counted by the server's budget; a record of which a part is missing is no call yet, and a
//! peer may take as long as it likes over the rest. So its bytes are counted here, as they come; the claim of a length
//! takes nothing, but for a peer that has sent as much before. When there is no room, connections stop reading, and records
//! that have been under way for long ([`RECORD_PATIENCE`]) are cut off, so that those who send slowly, or never meant to
//! finish, cannot keep out all others.

use std::{sync::Arc, time::Duration};

use tokio::sync::{AcquireError, Notify, OwnedSemaphorePermit, Semaphore};

/// The bytes of unfinished records on all connections together.
pub const UNFINISHED_LEN_MAX: usize = 256 << 20;
/// What each connection may have without counting: it is read at once, and most calls are far shorter.
pub(crate) const FREE_LEN: usize = 32 * 1024;
/// How long a record may take while others wait for room: one of the longest, over a link of 2 Mbit/s.
const RECORD_PATIENCE: Duration = Duration::from_secs(5);
/// The unit, in bytes.
const UNIT: usize = 4096;

/// The room of one server.
#[derive(Debug)]
pub(crate) struct Rooms {
    units: Arc<Semaphore>,
    /// Told when somebody waits: time to look at one's own record.
    pub(crate) pressed: Notify,
    /// How long a record may take while others wait.
    pub(crate) patience: Duration,
}

impl Default for Rooms {
    fn default() -> Self {
        Self::new(UNFINISHED_LEN_MAX, RECORD_PATIENCE)
    }
}

impl Rooms {
    pub(crate) fn new(len_max: usize, patience: Duration) -> Self {
        Self { units: Arc::new(Semaphore::new(len_max / UNIT)), pressed: Notify::new(), patience }
    }

    /// Waits for so many units.
    pub(crate) async fn wait(&self, units: u32) -> Result<OwnedSemaphorePermit, AcquireError> {
        self.units.clone().acquire_many_owned(units).await
    }
}

/// The room that one connection has.
#[derive(Debug, Default)]
pub(crate) struct Room(Option<OwnedSemaphorePermit>);

impl Room {
    fn held(&self) -> usize {
        self.0.as_ref().map_or(0, OwnedSemaphorePermit::num_permits)
    }

    /// Takes or gives back what makes it room for `len` bytes; the units that are missing.
    pub(crate) fn fit(&mut self, rooms: &Rooms, len: usize) -> u32 {
        let wanted = if len <= FREE_LEN { 0 } else { len.div_ceil(UNIT) };
        let held = self.held();
        if wanted <= held {
            drop(self.0.as_mut().and_then(|permit| permit.split(held - wanted)));
            return 0;
        }
        let missing = u32::try_from(wanted - held).unwrap_or(u32::MAX);
        match rooms.units.clone().try_acquire_many_owned(missing) {
            Ok(permit) => {
                self.add(permit);
                0
            }
            Err(_) => missing,
        }
    }

    /// Whether it takes any from the others.
    pub(crate) fn is_used(&self) -> bool {
        self.held() > 0
    }

    /// Takes in what was waited for.
    pub(crate) fn add(&mut self, more: OwnedSemaphorePermit) {
        match &mut self.0 {
            Some(permit) => permit.merge(more),
            none => *none = Some(more),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn room_is_taken_as_bytes_come_and_given_back() {
        let rooms = Rooms::new(FREE_LEN * 4, RECORD_PATIENCE);
        let (mut one, mut other) = (Room::default(), Room::default());
        assert_eq!(one.fit(&rooms, FREE_LEN), 0);
        assert_eq!(rooms.units.available_permits(), FREE_LEN * 4 / UNIT, "a little is free");
        assert_eq!(one.fit(&rooms, FREE_LEN * 2), 0);
        assert_eq!(other.fit(&rooms, FREE_LEN + 1), 0);
        let missing = other.fit(&rooms, FREE_LEN * 3);
        assert_eq!(missing as usize, FREE_LEN * 2 / UNIT - 1);
        assert_eq!(one.fit(&rooms, FREE_LEN), 0, "less than before");
        other.add(rooms.wait(missing).await.expect("there is room now"));
        assert_eq!(rooms.units.available_permits(), FREE_LEN / UNIT);
        assert_eq!((one.fit(&rooms, 0), other.fit(&rooms, 0)), (0, 0));
        assert_eq!(rooms.units.available_permits(), FREE_LEN * 4 / UNIT);
    }
}
