//! A trainer on the point of its next update: everything reserved, the adapter filled.

use lowtide_backend::Backend;
use lowtide_memory::Ledger;
use lowtide_model::Model;

use crate::job::{Job, Planned};
use crate::resume::{Progress, SavedRun};
use crate::softmax::Neighbours;
use crate::{TrainError, Trainer};

/// Reserves what was planned, and fills the adapter with what it starts or goes on from.
pub(crate) fn ready<'p, 'w>(
    job: &Job<'_>,
    model: &'p Model<'w, f32>,
    be: &'p dyn Backend<f32>,
    planned: Planned<'p>,
    neighbours: Option<&'p Neighbours>,
    resumed: Option<&SavedRun>,
    ledger: &mut Ledger,
) -> Result<Ready<'p, 'w>, TrainError> {
    let (settings, Planned { plan, clip, optimizer, report }) = (job.settings, planned);
    let mut trainer = Trainer::reserve(model, be, optimizer, plan, clip, settings.seed, ledger)?;
    trainer.open_scratch(&settings.scratch_dir(), ledger)?;
    if let (Some(neighbours), Some(union)) = (neighbours, &report.union) {
        trainer.set_neighbours(neighbours, union.words_max, ledger)?;
    }
    trainer.set_groups(&settings.groups(&model.sites)?, |decay| {
        job.rule.with_decay(decay).optimizer(optimizer.name())
    });
    if let Some(course) = report.adaptive_rank {
        trainer.set_adaptive_rank(course);
    }
    let room = report.streamed_bytes;
    let streams = room.is_some_and(|room| trainer.stream_weights(job.parts.clone(), room));
    match &job.init_adapter {
        Some(adapter) => {
            let (hyper, sites) = (job.base.file().hyper(), &model.sites);
            trainer.with_values(|values| adapter.fill(hyper, sites, values))?;
        }
        None => trainer.initialise(settings.seed),
    }
    let progress = match resumed {
        Some(run) => run.restore(job, &mut trainer)?,
        None => Progress::default(),
    };
    tracing::debug!(bytes = ledger.live().held(), step = progress.step, "reserved");
    if settings.mlock {
        trainer.lock()?;
    }
    Ok(Ready { trainer, streams, progress })
}

/// A trainer, and what is known of the run it belongs to.
pub(crate) struct Ready<'p, 'w> {
    pub(crate) trainer: Trainer<'p, 'w>,
    /// Whether weights are streamed.
    pub(crate) streams: bool,
    /// How far the run came already.
    pub(crate) progress: Progress,
}
