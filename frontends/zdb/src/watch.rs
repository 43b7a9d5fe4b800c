//! `WAIT`: who waits for a command on a namespace, and is told when another client ran it.
//!
//! Told is once what the command did is durable and its reply under way. Spec: spec/zdb.md #wait.

use std::sync::{
    Mutex, MutexGuard, PoisonError,
    atomic::{AtomicUsize, Ordering},
};

use tokio::sync::oneshot;

use crate::command::Command;

/// Everyone who waits.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    waiters: Mutex<Vec<Waiter>>,
    /// How many there are: commands look here first.
    count: AtomicUsize,
}

#[derive(Debug)]
struct Waiter {
    /// Of its connection: nobody hears of its own commands.
    connection: u64,
    namespace: u64,
    command: Command,
    told: oneshot::Sender<Command>,
}

/// A place among those who wait, which is given up when it is dropped.
#[derive(Debug)]
pub(crate) struct Place<'a> {
    watch: &'a Watch,
    connection: u64,
    /// Gives the command that was run.
    pub(crate) told: oneshot::Receiver<Command>,
}

impl Watch {
    fn waiters(&self) -> MutexGuard<'_, Vec<Waiter>> {
        self.waiters.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits from now on, for [`Command::Any`] for every command. A connection waits once at a time.
    pub(crate) fn wait(&self, connection: u64, namespace: u64, command: Command) -> Place<'_> {
        let (told, told_to) = oneshot::channel();
        self.waiters().push(Waiter { connection, namespace, command, told });
        self.count.fetch_add(1, Ordering::SeqCst);
        Place { watch: self, connection, told: told_to }
    }

    /// Whether anybody waits.
    pub(crate) fn is_used(&self) -> bool {
        self.count.load(Ordering::SeqCst) > 0
    }

    /// Tells those who wait for it that a connection ran a command.
    pub(crate) fn ran(&self, connection: u64, namespace: u64, command: Command) {
        let mut waiters = self.waiters();
        let told = waiters.extract_if(.., |waiter| {
            waiter.connection != connection
                && waiter.namespace == namespace
                && (waiter.command == command || waiter.command == Command::Any)
        });
        let count = told
            .map(|waiter| {
                // Who gave up just now needs it no more.
                waiter.told.send(command).ok();
            })
            .count();
        self.count.fetch_sub(count, Ordering::SeqCst);
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut waiters = self.watch.waiters();
        let before = waiters.len();
        waiters.retain(|waiter| waiter.connection != self.connection);
        self.watch.count.fetch_sub(before - waiters.len(), Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_client_on_the_same_namespace_is_heard_once() {
        let watch = Watch::default();
        let (mut set, mut any) = (watch.wait(1, 7, Command::Set), watch.wait(2, 7, Command::Any));
        watch.ran(1, 7, Command::Set);
        assert_eq!(any.told.try_recv(), Ok(Command::Set));
        assert!(set.told.try_recv().is_err(), "it was its own");
        watch.ran(3, 8, Command::Set);
        watch.ran(3, 7, Command::Get);
        assert!(set.told.try_recv().is_err());
        watch.ran(3, 7, Command::Set);
        assert_eq!(set.told.try_recv(), Ok(Command::Set));
        assert!(!watch.is_used());
        let given_up = watch.wait(1, 7, Command::Set);
        assert!(watch.is_used());
        drop(given_up);
        assert!(!watch.is_used());
    }
}
