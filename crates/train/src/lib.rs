//! From settings to an adapter: prepare data, plan, check the budget, reserve, train, evaluate,
//! save.
//!
//! [`finetune`], [`plan`] and [`evaluate`] are whole jobs over [`Settings`]; they report through
//! [`Event`]s and print nothing. Below them, [`Prepared`] joins a base file to a model, [`RunPlan`]
//! is every byte a run will hold, and [`Trainer`] is a reserved run that takes steps.
//!
//! Bases and adapters are opened by `lowtide-runtime`, on which this crate stands; it knows no
//! instruction set and nothing of the inside of a block.
#![forbid(unsafe_code)]

mod adapter_io;
mod adapter_type;
mod batch;
mod batches;
mod board;
mod checkpoint_file;
mod checkpointing;
mod clipping;
mod control;
mod energy;
mod error;
mod evaluate;
mod gradient;
mod groups;
mod init;
mod job;
mod log;
mod metrics;
mod micro_batch;
mod pace;
mod param_dtype;
mod place;
mod planner;
mod precision;
mod prepare;
mod ranks;
pub mod report;
mod resume;
mod room;
mod rss;
mod run;
mod samples;
mod sensitivity;
mod settings;
mod softmax;
mod sparse_updates;
mod start;
mod state_place;
mod streaming;
mod thin;
mod timing;
mod trainer;
mod update_rule;
mod warning;

pub use adapter_io::save_adapter;
pub use adapter_type::AdapterType;
pub use batch::BatchBuffers;
pub use clipping::Clip;
pub use control::{Control, PauseCause};
pub use error::TrainError;
pub use evaluate::{EvalSettings, Evaluation, evaluate, evaluate_telling, evaluate_with};
pub use gradient::Gradient;
pub use init::initialise;
pub use lowtide_runtime::{OpenBase, RuntimeError, load_adapter, registry};
pub use metrics::{
    DataReport, Event, PackingReport, Phase, PlanReport, PlanRow, StepReport, Summary, WorstCase,
};
pub use param_dtype::PARAM_DTYPES;
pub use planner::{Needs, RunPlan};
pub use precision::Precision;
pub use prepare::{Prepared, PreparedData};
pub use ranks::{AdaptiveRank, RanksLeft};
pub use resume::{ResumeError, SavedRun};
pub use room::{BudgetSource, GroupLimit};
pub use rss::{Memory, Watch, memory_now};
pub use run::{finetune, finetune_until, finetune_with, plan, sensitivity};
pub use sensitivity::{BudgetReport, Proposal, SensitivityReport, SiteSensitivity};
pub use settings::{
    BudgetError, COUNT_MAX, PatternTable, Preset, Settings, SettingsError, check_window,
    parse_bytes,
};
pub use softmax::{Softmax, SoftmaxError, UnionBytes, UnionReport};
pub use sparse_updates::SparseUpdates;
pub use state_place::STATE_PLACES;
pub use streaming::StreamWeights;
pub use timing::{BlockTimes, Times};
pub use trainer::{Trainer, Update};
pub use update_rule::OPTIMIZERS;
pub use warning::Warning;
