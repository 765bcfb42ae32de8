//! Where contenders meet: who they are, what the machine can do, and how long is timed.

use crate::{Ceiling, Clock, Contender, Measured, Pace, Row, Work, alternate};

/// What every suite is given.
pub struct Stand<'a> {
    /// Who takes turns; ratios are to the first.
    pub contenders: &'a [Contender<'a>],
    /// What the machine can do, by threads.
    pub ceilings: &'a [Ceiling],
    /// Tells time.
    pub clock: &'a dyn Clock,
    /// How long and how often is timed.
    pub pace: Pace,
    /// Hears what is about to be timed.
    pub on_start: &'a dyn Fn(&str),
    /// Hears each row as it is there.
    pub on_row: &'a dyn Fn(&Row),
}

/// What is to be timed.
pub(crate) struct Task<'t> {
    pub(crate) suite: &'static str,
    pub(crate) name: &'t str,
    pub(crate) work: Work,
    pub(crate) tokens: Option<u64>,
    /// Of each contender, where something is planned.
    pub(crate) planned: &'t [u64],
}

impl Stand<'_> {
    /// Lets all contenders do a task in turns. `call(c, n)` lets contender `c` do it `n` times.
    pub(crate) fn time(&self, task: &Task<'_>, call: &mut dyn FnMut(usize, usize)) -> Row {
        (self.on_start)(task.name);
        let timings = alternate(self.clock, self.pace, self.contenders.len(), call);
        let measured = |(index, timing)| {
            let Contender { label, threads, .. } = self.contenders[index];
            let ceiling = self.ceilings.iter().find(|ceiling| ceiling.threads == threads);
            let measured = Measured::of(label, timing, task.work, task.tokens, ceiling);
            Measured { planned_bytes: task.planned.get(index).copied(), ..measured }
        };
        let row = Row {
            suite: task.suite.into(),
            name: task.name.to_owned(),
            work: task.work,
            tokens: task.tokens,
            results: timings.into_iter().enumerate().map(measured).collect(),
        };
        (self.on_row)(&row);
        row
    }
}
