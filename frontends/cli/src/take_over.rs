//! What the directory of a mount says of other machines: that the one that wrote before is gone, and that its pins are.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use muxfs::{
    BlockStore, Result,
    block::{Keeping, check_pins},
};

use crate::{
    commands::put::host,
    host_file::{self, Mode, replace},
};

/// Says that the machine that wrote before is gone; an empty file in the mount's directory.
const TAKE_OVER: &str = "take-over";
/// Says that there are pins which nobody knows; an empty file in the mount's directory.
const PINS_LOST: &str = "pins-lost";

/// The file of a mount by which somebody says that the machine which wrote before is gone.
pub(crate) fn file(local: &Path) -> PathBuf {
    local.join(TAKE_OVER)
}

/// Says that the machine which wrote before is gone, also to what lies below a mount.
///
/// # Errors
/// The disk's.
pub(crate) fn ask(local: &Path) -> Result<()> {
    make(&file(local))
}

fn make(file: &Path) -> Result<()> {
    replace(file, b"", Mode::Given(0o600)).map_err(|error| host(file, error))
}

fn remove(file: &Path) -> Result<()> {
    host_file::remove(file).map_err(|error| host(file, error))
}

/// What was taken over needs to be said no more.
///
/// # Errors
/// The disk's.
pub(crate) fn is_over(local: &Path) -> Result<()> {
    remove(&file(local))
}

/// Has everything kept from here on, durably, before there is anything that could be collected.
///
/// # Errors
/// The disk's.
pub(crate) fn lose_pins(local: &Path) -> Result<()> {
    make(&local.join(PINS_LOST))
}

/// Has what is to go deleted again, where there are no pins.
///
/// # Errors
/// The disk's.
pub(crate) fn find_pins(local: &Path) -> Result<()> {
    remove(&local.join(PINS_LOST))
}

/// Forgets what was said of something that is there no more.
///
/// # Errors
/// The disk's.
pub(crate) fn forget(local: &Path) -> Result<()> {
    is_over(local).and(find_pins(local))
}

/// Whether there are pins that nobody knows.
pub(crate) fn has_lost_pins(local: &Path) -> bool {
    // Where that cannot be found out it is better to think so.
    check_pins(&local.join(PINS_LOST)).is_err()
}

/// The same blocks, of which none is deleted for as long as pins are lost.
pub(crate) fn keeping(blocks: Arc<dyn BlockStore>, local: &Path) -> Arc<dyn BlockStore> {
    Arc::new(Keeping::while_there(blocks, local.join(PINS_LOST)))
}
