//! Whether what several clients were told can have happened at one place, one call after the other.
//!
//! A [`Call`] is what a client asked and was told, with the moments at which it began and returned. [`check`] looks for an
//! order of the calls in which each is told what a [`Model`] says at that point, and in which a call that had returned
//! before another one began comes before it. Where there is one, the history is linearizable (Herlihy and Wing 1990); where
//! there is none, [`Refuted`] shows the few calls that cannot be put in order.
//!
//! The search is that of Wing and Gong: any call may come next that no other must precede. What was reached before, the
//! same calls in another order and the same state after them, is not searched again (Lowe 2017). A history is cut where
//! nothing was under way, so its length costs nothing but time.
//!
//! **Copies.** A client that is told from a cache may be behind those who ask the source, and ahead of them where it
//! changed something itself, for as long as the change has not returned. Such a read ([`Role::Copy`]) must show each change
//! of what it looks at ([`Model::concerns`]) that had returned when it began, and none that began after it returned; it
//! need not agree with other reads on changes that were under way. That is what is called a regular register, where
//! [`Role::Read`] is an atomic one.

use std::{
    collections::HashSet,
    fmt::{self, Debug},
    hash::Hash,
};

/// What a single client at a time would be told.
pub trait Model {
    /// All that an answer may depend on.
    type State: Clone + Eq + Hash + Debug;
    /// What was asked, and what was told.
    type Op: Debug;

    /// The state after `op`; `None` where `op` would have been told something else.
    fn step(&self, state: &Self::State, op: &Self::Op) -> Option<Self::State>;

    /// Whether no other call is told anything else for `op`, whenever it happened: what only looks.
    fn looks(&self, op: &Self::Op) -> bool;

    /// Whether it may matter to `op`, which is no change but leads to another state, if `change` came before it or after
    /// it. Saying yes where it does not costs time, and nothing else.
    fn disturbs(&self, change: &Self::Op, op: &Self::Op) -> bool {
        let _ = (change, op);
        true
    }

    /// Whether `change` would change in `state` what a copy is of that tells `copy`. Where it cannot be known yet, yes.
    fn concerns(&self, state: &Self::State, change: &Self::Op, copy: &Self::Op) -> bool {
        let _ = (state, change, copy);
        true
    }
}

/// How a call is ordered among others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// It changes what others are told: at one moment between its beginning and its return.
    Change,
    /// It is told what is so at one moment between its beginning and its return.
    Read,
    /// It may be told from a copy, which has each change of that that had returned when it began.
    Copy,
}

/// What one client asked and was told. Moments are of one clock for all clients.
#[derive(Debug, Clone)]
pub struct Call<Op> {
    /// The client.
    pub who: String,
    /// How it is ordered among others.
    pub role: Role,
    /// What it asked and was told.
    pub op: Op,
    /// When it began.
    pub begun: u64,
    /// When it returned; `None` where it never did, and may have happened at any time or not at all.
    pub returned: Option<u64>,
}

impl<Op> Call<Op> {
    fn end(&self) -> u64 {
        self.returned.unwrap_or(u64::MAX)
    }
}

/// Calls that cannot be put in order, whichever of `states` they began in: as few as could be found.
#[derive(Debug)]
pub struct Refuted<S, Op> {
    /// What it may have been before them.
    pub states: Vec<S>,
    /// By their beginnings.
    pub calls: Vec<Call<Op>>,
}

impl<S: Debug, Op: Debug> fmt::Display for Refuted<S, Op> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "no order explains these calls. Before them it was one of:")?;
        for state in &self.states {
            writeln!(f, "    {state:?}")?;
        }
        writeln!(f, "from, to, who, role, what:")?;
        for Call { who, role, op, begun, returned } in &self.calls {
            let returned = returned.map_or_else(|| "-".to_owned(), |returned| returned.to_string());
            writeln!(f, "    {begun:>8} {returned:>8}  {who:<10} {role:?} {op:?}")?;
        }
        Ok(())
    }
}

/// The states that calls may have led to, or the calls that nothing explains.
pub type Explained<S, Op> = Result<Vec<S>, Box<Refuted<S, Op>>>;

/// The states that `calls`, in any order that explains them, may have led to from one of `states`.
///
/// ```
/// use muxfs::testing::linear::{Call, Model, Role, check};
/// #[derive(Debug)]
/// enum Op { Set(u8), Is(u8) }
/// struct Cell;
/// impl Model for Cell {
///     type State = u8;
///     type Op = Op;
///     fn step(&self, state: &u8, op: &Op) -> Option<u8> {
///         match op {
///             Op::Set(new) => Some(*new),
///             Op::Is(told) => (told == state).then_some(*state),
///         }
///     }
///     fn looks(&self, op: &Op) -> bool {
///         matches!(op, Op::Is(_))
///     }
/// }
/// let call = |role, op, begun, returned| Call { who: "one".into(), role, op, begun, returned: Some(returned) };
/// let seen_while_set = [call(Role::Change, Op::Set(1), 0, 3), call(Role::Read, Op::Is(0), 1, 2)];
/// assert!(check(&Cell, vec![0], seen_while_set).is_ok_and(|states| states == [1]));
/// let set_but_not_seen = [call(Role::Change, Op::Set(1), 0, 1), call(Role::Read, Op::Is(0), 2, 3)];
/// assert!(check(&Cell, vec![0], set_but_not_seen).is_err());
/// ```
///
/// # Errors
/// The calls that cannot be put in order.
pub fn check<M: Model>(
    model: &M,
    mut states: Vec<M::State>,
    calls: impl IntoIterator<Item = Call<M::Op>>,
) -> Explained<M::State, M::Op> {
    let mut calls: Vec<Call<M::Op>> = calls.into_iter().collect();
    calls.sort_by_key(|call| call.begun);
    while !calls.is_empty() {
        let later = calls.split_off(first_rest(&calls));
        let ends = explore(model, &states, &calls.iter().collect::<Vec<_>>());
        if ends.is_empty() {
            let kept = shrink(model, &states, &calls);
            let mut kept = kept.into_iter();
            calls.retain(|_| kept.next().unwrap_or_default());
            return Err(Box::new(Refuted { states, calls }));
        }
        (states, calls) = (ends.into_iter().collect(), later);
    }
    Ok(states)
}

/// How many of the calls, which are sorted by their beginnings, come before nothing is under way for the first time.
fn first_rest<Op>(calls: &[Call<Op>]) -> usize {
    let mut busy_until = 0;
    calls
        .iter()
        .enumerate()
        .find_map(|(index, call)| {
            let rests = index > 0 && call.begun > busy_until;
            busy_until = busy_until.max(call.end());
            rests.then_some(index)
        })
        .unwrap_or(calls.len())
}

/// Which of the calls were taken already.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Taken(Vec<u64>);

impl Taken {
    fn none(count: usize) -> Self {
        Self(vec![0; count.div_ceil(64)])
    }

    fn has(&self, index: usize) -> bool {
        self.0[index / 64] >> (index % 64) & 1 == 1
    }

    fn take(&mut self, index: usize) {
        self.0[index / 64] |= 1 << (index % 64);
    }
}

/// Some calls, of which some were taken, and where that led.
struct Place<'a, M: Model> {
    model: &'a M,
    calls: &'a [&'a Call<M::Op>],
    taken: Taken,
    state: M::State,
}

impl<M: Model> Place<'_, M> {
    fn waiting(&self) -> impl Iterator<Item = (usize, &Call<M::Op>)> {
        self.calls.iter().enumerate().filter(|(index, _)| !self.taken.has(*index)).map(|(index, call)| (index, *call))
    }

    /// Whether `first` must be taken before `then`.
    fn precedes(&self, first: &Call<M::Op>, then: &Call<M::Op>) -> bool {
        first.end() < then.begun
            && match (first.role, then.role) {
                (Role::Copy, Role::Change) => self.model.concerns(&self.state, &then.op, &first.op),
                (Role::Change, Role::Copy) => self.model.concerns(&self.state, &first.op, &then.op),
                (Role::Copy, _) | (_, Role::Copy) => false,
                _ => true,
            }
    }

    /// Where taking a call leads; `None` while another must come first, or where it would be told something else.
    fn after(&self, call: &Call<M::Op>) -> Option<M::State> {
        let is_next = !self.waiting().any(|(_, first)| self.precedes(first, call));
        is_next.then(|| self.model.step(&self.state, &call.op)).flatten()
    }

    /// Whether a call that can be taken gains nothing by being taken later.
    fn may_absorb(&self, call: &Call<M::Op>) -> bool {
        let disturbs = |other: &Call<M::Op>| other.role == Role::Change && self.model.disturbs(&other.op, &call.op);
        let disturbed = || self.waiting().any(|(_, other)| other.begun <= call.end() && disturbs(other));
        self.model.looks(&call.op) || call.role != Role::Change && !disturbed()
    }

    /// Takes every call that gains nothing by being taken later.
    fn absorb(&mut self) {
        let next = |place: &Self| {
            let mut ready = place.waiting().filter(|(_, call)| place.may_absorb(call));
            ready.find_map(|(index, call)| Some((index, place.after(call)?)))
        };
        while let Some((index, state)) = next(self) {
            self.taken.take(index);
            self.state = state;
        }
    }
}

/// All states in which the calls can end.
fn explore<M: Model>(model: &M, states: &[M::State], calls: &[&Call<M::Op>]) -> HashSet<M::State> {
    let mut ends = HashSet::new();
    let mut known = HashSet::new();
    let mut open: Vec<(Taken, M::State)> =
        states.iter().map(|state| (Taken::none(calls.len()), state.clone())).collect();
    while let Some((taken, state)) = open.pop() {
        let mut place = Place { model, calls, taken, state };
        place.absorb();
        if !known.insert((place.taken.clone(), place.state.clone())) {
            continue;
        }
        if place.waiting().all(|(_, call)| call.returned.is_none()) {
            ends.insert(place.state.clone());
        }
        for (index, call) in place.waiting() {
            if let Some(next) = place.after(call) {
                let mut taken = place.taken.clone();
                taken.take(index);
                open.push((taken, next));
            }
        }
    }
    ends
}

/// Which of the calls are needed to see that there is no order: those up to the first return that nothing explains, but
/// for calls that change nothing and are not missed.
fn shrink<M: Model>(model: &M, states: &[M::State], calls: &[Call<M::Op>]) -> Vec<bool> {
    let fails = |cut: &[Call<&M::Op>], kept: &[bool]| {
        let kept: Vec<_> = cut.iter().zip(kept).filter(|(_, kept)| **kept).map(|(call, _)| call).collect();
        explore(&ByRef(model), states, &kept).is_empty()
    };
    let mut returns: Vec<u64> = calls.iter().filter_map(|call| call.returned).collect();
    returns.sort_unstable();
    let until = |end: u64| -> (Vec<Call<&M::Op>>, Vec<bool>) {
        let cut = calls.iter().map(|call| Call {
            who: String::new(),
            role: call.role,
            op: &call.op,
            begun: call.begun,
            returned: call.returned.filter(|returned| *returned <= end),
        });
        (cut.collect(), calls.iter().map(|call| call.begun <= end).collect())
    };
    // What an order explains up to some return, it explains up to each before.
    let explained = returns.partition_point(|end| {
        let (cut, kept) = until(*end);
        !fails(&cut, &kept)
    });
    let (cut, mut kept) = until(returns.get(explained).copied().unwrap_or(u64::MAX));
    for index in 0..calls.len() {
        if kept[index] && model.looks(cut[index].op) {
            kept[index] = false;
            kept[index] = !fails(&cut, &kept);
        }
    }
    kept
}

/// A model whose calls are borrowed.
struct ByRef<'a, M>(&'a M);

impl<'a, M: Model> Model for ByRef<'a, M>
where
    M::Op: 'a,
{
    type State = M::State;
    type Op = &'a M::Op;

    fn step(&self, state: &M::State, op: &&'a M::Op) -> Option<M::State> {
        self.0.step(state, op)
    }

    fn looks(&self, op: &&'a M::Op) -> bool {
        self.0.looks(op)
    }

    fn disturbs(&self, change: &&'a M::Op, op: &&'a M::Op) -> bool {
        self.0.disturbs(change, op)
    }

    fn concerns(&self, state: &M::State, change: &&'a M::Op, copy: &&'a M::Op) -> bool {
        self.0.concerns(state, change, copy)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::fault::Dice;

    #[derive(Debug, Clone, Copy, PartialEq)]
    enum Op {
        Set(u8),
        Is(u8),
    }
    use Op::{Is, Set};
    use Role::{Change, Copy, Read};

    struct Cell;

    impl Model for Cell {
        type State = u8;
        type Op = Op;

        fn step(&self, state: &u8, op: &Op) -> Option<u8> {
            match op {
                Set(new) => Some(*new),
                Is(told) => (told == state).then_some(*state),
            }
        }

        fn looks(&self, op: &Op) -> bool {
            matches!(op, Is(_))
        }
    }

    type Row = (Role, Op, u64, u64);

    fn calls(rows: &[Row]) -> Vec<Call<Op>> {
        let call = |&(role, op, begun, returned): &Row| Call {
            who: String::new(),
            role,
            op,
            begun,
            returned: (returned > 0).then_some(returned),
        };
        rows.iter().map(call).collect()
    }

    fn ends(rows: &[Row]) -> Option<Vec<u8>> {
        let mut ends = check(&Cell, vec![0], calls(rows)).ok()?;
        ends.sort_unstable();
        Some(ends)
    }

    #[test]
    fn a_change_that_returned_is_seen_by_all() {
        for role in [Read, Copy] {
            assert_eq!(ends(&[(Change, Set(1), 1, 2), (role, Is(1), 3, 4)]), Some(vec![1]));
            assert_eq!(ends(&[(Change, Set(1), 1, 2), (role, Is(0), 3, 4)]), None, "{role:?}");
        }
    }

    #[test]
    fn nothing_is_seen_before_it_begins() {
        for role in [Read, Copy] {
            assert_eq!(ends(&[(role, Is(1), 1, 2), (Change, Set(1), 3, 4)]), None, "{role:?}");
        }
    }

    #[test]
    fn what_overlaps_comes_in_any_order() {
        assert_eq!(ends(&[(Change, Set(1), 1, 9), (Change, Set(2), 2, 8)]), Some(vec![1, 2]));
        let told = [(Change, Set(1), 1, 9), (Change, Set(2), 2, 8), (Read, Is(1), 3, 4), (Read, Is(2), 5, 6)];
        assert_eq!(ends(&told), Some(vec![2]));
    }

    /// Once somebody has seen a change that is under way, whoever asks the source sees it; who has a copy may not.
    #[test]
    fn reads_agree_and_copies_need_not() {
        let told = |role| [(Change, Set(1), 1, 9), (Read, Is(1), 2, 3), (role, Is(0), 4, 5)];
        assert_eq!(ends(&told(Read)), None);
        assert_eq!(ends(&told(Copy)), Some(vec![1]));
        let ahead = [(Change, Set(1), 1, 9), (Copy, Is(1), 2, 3), (Read, Is(0), 4, 5)];
        assert_eq!(ends(&ahead), Some(vec![1]));
        // But not behind what had returned, whatever else is under way.
        let behind = [(Change, Set(1), 1, 2), (Change, Set(2), 1, 9), (Copy, Is(0), 4, 5)];
        assert_eq!(ends(&behind), None);
    }

    #[test]
    fn what_never_returned_happened_late_or_not_at_all() {
        assert_eq!(ends(&[(Change, Set(1), 1, 0), (Read, Is(0), 2, 3)]), Some(vec![0, 1]));
        assert_eq!(ends(&[(Change, Set(1), 1, 0), (Read, Is(0), 2, 3), (Read, Is(1), 4, 5)]), Some(vec![1]));
        assert_eq!(ends(&[(Change, Set(1), 1, 0), (Read, Is(1), 2, 3), (Read, Is(0), 4, 5)]), None);
    }

    /// What came before a rest, reads that fit, and what began later are not shown.
    #[test]
    fn what_is_refuted_is_shown_without_the_rest() {
        let mut rows = vec![(Change, Set(7), 1, 2), (Read, Is(7), 3, 4)];
        rows.extend([(Change, Set(1), 10, 12), (Read, Is(7), 11, 18), (Change, Set(2), 12, 14)]);
        rows.extend([(Read, Is(7), 15, 30), (Read, Is(2), 16, 17), (Change, Set(3), 20, 40)]);
        let refuted = check(&Cell, vec![0], calls(&rows)).expect_err("7 was overwritten twice");
        assert_eq!(refuted.states, [7]);
        let shown: Vec<Op> = refuted.calls.iter().map(|call| call.op).collect();
        assert_eq!(shown, [Set(1), Set(2), Is(7), Set(3)]);
        assert!(refuted.to_string().contains("Is(7)"), "{refuted}");
    }

    /// Whether some order explains all calls, found by trying each.
    fn explained(rest: &mut Vec<Call<Op>>, state: u8) -> bool {
        let precedes = |a: &Call<Op>, b: &Call<Op>| {
            let unordered = a.role != Change && b.role != Change && (a.role == Copy || b.role == Copy);
            a.end() < b.begun && !unordered
        };
        if rest.iter().all(|call| call.returned.is_none()) {
            return true;
        }
        (0..rest.len()).any(|index| {
            let call = rest.remove(index);
            let is_next = !rest.iter().any(|other| precedes(other, &call));
            let next = Cell.step(&state, &call.op).filter(|_| is_next);
            let explained = next.is_some_and(|next| explained(rest, next));
            rest.insert(index, call);
            explained
        })
    }

    #[test]
    fn the_search_finds_what_trying_every_order_finds() {
        let mut dice = Dice::new(0x11ea);
        let mut refuted = 0;
        for _ in 0..4000 {
            let rows: Vec<Row> = (0..2 + dice.roll(5))
                .map(|_| {
                    let value = u8::try_from(dice.roll(3)).expect("small");
                    let role = [Change, Read, Copy][dice.roll(3)];
                    let begun = 1 + dice.roll(12) as u64;
                    let returned = if dice.roll(8) == 0 { 0 } else { begun + 1 + dice.roll(6) as u64 };
                    (role, if role == Change { Set(value) } else { Is(value) }, begun, returned)
                })
                .collect();
            let expected = explained(&mut calls(&rows), 0);
            assert_eq!(ends(&rows).is_some(), expected, "{rows:?}");
            refuted += usize::from(!expected);
        }
        assert!((500..3500).contains(&refuted), "both kinds are tried: {refuted}");
    }
}
