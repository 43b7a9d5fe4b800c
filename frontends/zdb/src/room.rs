//! Room: how much memory the connections of a server have together, for what they send and for what they are sent.
//!
//! **Requests.** Bytes are counted as they come: a claimed length takes nothing, but for a client that has sent as much
//! before. When there is no room, connections stop reading, and requests that have been under way for long
//! ([`REQUEST_PATIENCE`]) are cut off, so that those who send slowly, or never meant to finish, cannot keep out all others.
//!
//! **Replies.** A value is read when there is room for the longest one, and keeps what it takes until it is sent; a client
//! that takes nothing of its replies for as long as [`stall_timeout`](crate::Options::stall_timeout) is cut off.

use std::{sync::Arc, time::Duration};

use tokio::sync::{AcquireError, Notify, OwnedSemaphorePermit, Semaphore};

use crate::request::{ARGUMENT_LEN_MAX, READ_LEN};

/// The bytes of requests on all connections together.
pub const REQUESTS_LEN_MAX: usize = 256 << 20;
/// The bytes of values that are being sent on all connections together.
pub const REPLIES_LEN_MAX: usize = 256 << 20;
/// What each connection may have without counting: it is read at once, and most requests are far shorter.
pub(crate) const FREE_LEN: usize = READ_LEN;
/// How long a request may take while others wait for room: one of the longest, over a link of 14 Mbit/s.
const REQUEST_PATIENCE: Duration = Duration::from_secs(5);
/// The unit, in bytes.
const UNIT: usize = 4096;
/// What the longest value takes.
#[allow(clippy::cast_possible_truncation, reason = "it is 2,048")]
const VALUE_UNITS: u32 = (ARGUMENT_LEN_MAX / UNIT) as u32;

/// The room of one server.
#[derive(Debug)]
pub(crate) struct Rooms {
    requests: Arc<Semaphore>,
    replies: Arc<Semaphore>,
    /// Told when somebody waits: time to look at one's own request.
    pub(crate) pressed: Notify,
    /// How long a request may take while others wait.
    pub(crate) patience: Duration,
}

impl Default for Rooms {
    fn default() -> Self {
        Self::new(REQUESTS_LEN_MAX, REPLIES_LEN_MAX, REQUEST_PATIENCE)
    }
}

impl Rooms {
    pub(crate) fn new(requests_len: usize, replies_len: usize, patience: Duration) -> Self {
        let units = |len: usize| Arc::new(Semaphore::new(len / UNIT));
        Self { requests: units(requests_len), replies: units(replies_len), pressed: Notify::new(), patience }
    }

    /// Waits for so many units for requests.
    pub(crate) async fn wait(&self, units: u32) -> Result<OwnedSemaphorePermit, AcquireError> {
        self.requests.clone().acquire_many_owned(units).await
    }

    /// Takes the room that the longest value takes, if there is any.
    pub(crate) fn try_for_value(&self) -> Option<OwnedSemaphorePermit> {
        self.replies.clone().try_acquire_many_owned(VALUE_UNITS).ok()
    }

    /// Waits for it.
    pub(crate) async fn for_value(&self) -> Result<OwnedSemaphorePermit, AcquireError> {
        self.replies.clone().acquire_many_owned(VALUE_UNITS).await
    }
}

/// Gives back what of the room for the longest value a value of `len` bytes does not take.
pub(crate) fn shrink(permit: &mut OwnedSemaphorePermit, len: usize) {
    drop(permit.split(permit.num_permits().saturating_sub(len.div_ceil(UNIT))));
}

/// The room that one connection has for its requests.
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
        match rooms.requests.clone().try_acquire_many_owned(missing) {
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
        let rooms = Rooms::new(FREE_LEN * 4, ARGUMENT_LEN_MAX, REQUEST_PATIENCE);
        let (mut one, mut other) = (Room::default(), Room::default());
        assert_eq!(one.fit(&rooms, FREE_LEN), 0);
        assert_eq!(rooms.requests.available_permits(), FREE_LEN * 4 / UNIT, "a little is free");
        assert_eq!(one.fit(&rooms, FREE_LEN * 2), 0);
        let missing = other.fit(&rooms, FREE_LEN * 3);
        assert_eq!(missing as usize, FREE_LEN * 3 / UNIT, "all of it, which there is not");
        assert_eq!(one.fit(&rooms, FREE_LEN), 0, "less than before");
        other.add(rooms.wait(missing).await.expect("there is room now"));
        assert_eq!((one.fit(&rooms, 0), other.fit(&rooms, 0)), (0, 0));
        assert_eq!(rooms.requests.available_permits(), FREE_LEN * 4 / UNIT);
    }

    #[tokio::test]
    async fn a_value_keeps_no_more_than_it_takes() {
        let rooms = Rooms::default();
        let mut permit = rooms.for_value().await.expect("there is room");
        shrink(&mut permit, UNIT + 1);
        assert_eq!(permit.num_permits(), 2);
        shrink(&mut permit, ARGUMENT_LEN_MAX);
        assert_eq!(permit.num_permits(), 2, "it grows no more");
        drop(permit);
        assert_eq!(rooms.replies.available_permits(), REPLIES_LEN_MAX / UNIT);
    }
}
