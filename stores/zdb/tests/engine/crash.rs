//! A crash at every call of the media: what was acknowledged is there, and of the rest the first part.

use std::sync::Arc;

use muxfs::{
    Error,
    testing::fault::{Crash, Dice},
};
use muxfs_zdb::{Engine, Mode, Setting};

use crate::{
    home::{CrashHome, options},
    model::{Model, compare, namespace, step},
};

/// What a run did before the machine stopped.
struct Run {
    /// The model after each operation.
    states: Vec<Model>,
    /// So many operations were durable.
    acknowledged: usize,
    /// Whether the namespace was made, durably.
    is_made: bool,
}

/// A workload: writes with a sync now and then, new files, compaction, and closing in the end.
async fn workload(home: Arc<CrashHome>, seed: u64, mode: Mode, history: bool) -> Run {
    let mut run = Run { states: vec![Model::new(mode)], acknowledged: 0, is_made: false };
    // The error is the crash.
    drop(work(home, seed, mode, history, &mut run).await);
    run
}

async fn work(home: Arc<CrashHome>, seed: u64, mode: Mode, history: bool, run: &mut Run) -> Result<(), Error> {
    let mut dice = Dice::new(seed);
    let engine = Engine::open(home, options()).await?;
    engine.create(b"crash").await?;
    let space = engine.namespace(b"crash").expect("it was made");
    engine.update(&space, Setting::Mode(mode)).await?;
    engine.update(&space, Setting::History(history)).await?;
    run.is_made = true;
    let mut model = Model::new(mode);
    for n in 0..60 {
        // One that fails was not appended: appending waits for the disk only where too much is waiting.
        step(&space, &mut model, &mut dice).await?;
        run.states.push(model.clone());
        if dice.roll(5) == 0 {
            space.durable().await?;
            run.acknowledged = run.states.len() - 1;
        }
        if n % 20 == 19 {
            space.jump().await?;
            space.compact().await?;
        }
    }
    engine.close().await?;
    run.acknowledged = run.states.len() - 1;
    Ok(())
}

/// Whether what is there after the crash is a state that the run went through, none before what was acknowledged.
async fn check(home: Arc<CrashHome>, run: &Run, mode: Mode, history: bool, at: u64) {
    let engine = Engine::open(home.clone(), options()).await.unwrap_or_else(|error| panic!("call {at}: {error:?}"));
    let Some(space) = engine.namespace(b"crash") else {
        assert!(!run.is_made, "call {at}: the namespace is gone");
        return;
    };
    if !run.is_made {
        return;
    }
    let mut why = String::new();
    let mut found = None;
    for (n, state) in run.states.iter().enumerate().skip(run.acknowledged).rev() {
        match compare(&space, state, history, history).await {
            Ok(()) => {
                found = Some(n);
                break;
            }
            Err(differs) => why = differs,
        }
    }
    let Some(found) = found else { panic!("call {at}: nothing from {} on: {why}", run.acknowledged) };
    // It goes on from there, and is there again.
    let mut model = run.states[found].clone();
    model.next_id = space.figures().next_id;
    let mut dice = Dice::new(at);
    for _ in 0..10 {
        step(&space, &mut model, &mut dice).await.expect("step");
    }
    engine.close().await.expect("close");
    let engine = Engine::open(home, options()).await.expect("open");
    let space = namespace(&engine, "crash", mode, history).await;
    assert_eq!(compare(&space, &model, history, history).await, Ok(()), "call {at}");
}

async fn every_call(mode: Mode, history: bool) {
    let seed = 5;
    let crash = Crash::never();
    let whole = workload(CrashHome::new(Arc::clone(&crash)), seed, mode, history).await;
    assert_eq!(whole.acknowledged, 60, "without a crash all is done");
    let calls = crash.calls();
    for at in 0..calls {
        let home = CrashHome::new(Crash::at(at));
        let run = workload(home.clone(), seed, mode, history).await;
        for seed in 0..2 {
            check(home.restart(at * 7 + seed, &Crash::never()), &run, mode, history, at).await;
        }
    }
}

#[tokio::test]
async fn a_crash_at_every_call_in_user_mode() {
    every_call(Mode::User, true).await;
}

#[tokio::test]
async fn a_crash_at_every_call_in_user_mode_without_history() {
    every_call(Mode::User, false).await;
}

#[tokio::test]
async fn a_crash_at_every_call_in_sequential_mode() {
    every_call(Mode::Sequential, true).await;
}

#[tokio::test]
async fn a_crash_at_every_call_in_sequential_mode_without_history() {
    every_call(Mode::Sequential, false).await;
}

/// Emptying is all or nothing: before the acknowledgement either all is there or nothing, afterwards nothing.
#[tokio::test]
async fn a_crash_while_a_namespace_is_emptied() {
    async fn work(home: Arc<CrashHome>) -> (bool, bool) {
        let run = async {
            let engine = Engine::open(home, options()).await?;
            let space = engine.default_namespace();
            for n in 0..10_u8 {
                space.set(&[n + 1], vec![n; 900].into(), Some(1)).await?;
            }
            space.durable().await?;
            let flushed = engine.flush(&space).await;
            Ok::<_, Error>(flushed.is_ok())
        };
        match run.await {
            Ok(flushed) => (true, flushed),
            Err(_) => (false, false),
        }
    }
    let crash = Crash::never();
    work(CrashHome::new(Arc::clone(&crash))).await;
    let (mut kept, mut gone) = (0, 0);
    for at in 0..crash.calls() {
        let home = CrashHome::new(Crash::at(at));
        let (is_set, is_flushed) = work(home.clone()).await;
        let engine = Engine::open(home.restart(at, &Crash::never()), options()).await.expect("open");
        let count = engine.default_namespace().len();
        match (is_set, is_flushed) {
            (true, true) => assert_eq!(count, 0, "call {at}"),
            (true, false) => assert!(count == 0 || count == 10, "call {at}: {count} keys"),
            _ => {}
        }
        kept += u64::from(is_set && count == 10);
        gone += u64::from(is_set && count == 0);
    }
    assert!(kept > 0 && gone > 0, "both were met: {kept} and {gone}");
}
