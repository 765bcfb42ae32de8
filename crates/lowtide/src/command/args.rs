//! The command line: sub-commands, and the flags they share.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;
use lowtide::train::{Preset, SettingsError};

use super::bench::BenchArgs;
use super::chat::ChatArgs;
use super::computing::{ArithmeticFlags, MachineFlags};
use super::convert::ConvertArgs;
use super::flags::{RunFlags, size};
use super::generate::GenerateArgs;
use super::merge::MergeArgs;

const EXIT_CODES: &str = "\
Exit codes: 0 done, 1 failed, 2 bad usage, 3 no plan fits the memory budget,\n\
130 interrupted (what was learned so far is saved).";

/// Fine-tune real language models where memory is shallow.
#[derive(Debug, Parser)]
#[command(name = "lowtide", version, arg_required_else_help = true, after_help = EXIT_CODES)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) job: Job,
}

/// What is to be done.
#[derive(Debug, Subcommand)]
pub(crate) enum Job {
    /// See the main job on a tiny model that is built in: no file needed, no network, no minute
    #[command(after_help = EXIT_CODES)]
    Quickstart(QuickstartArgs),
    /// Train an adapter on a frozen base
    #[command(visible_alias = "train", after_help = EXIT_CODES)]
    #[command(override_usage = "\
        lowtide finetune --model <PATH> --data <PATH> [OPTIONS]\n       \
        lowtide finetune --config <FILE> [OPTIONS]")]
    Finetune(Box<FinetuneArgs>),
    /// Show what a run would hold, byte by byte, and what each alternative would cost
    #[command(after_help = EXIT_CODES)]
    #[command(override_usage = "\
        lowtide plan --model <PATH> --data <PATH> [OPTIONS]\n       \
        lowtide plan --config <FILE> [OPTIONS]")]
    Plan(Box<PlanArgs>),
    /// Measure loss, perplexity and next-token accuracy of a base, or of a base with an adapter
    #[command(after_help = EXIT_CODES)]
    Eval(EvalArgs),
    /// Answer a prompt, or continue a text, with a base or a base with an adapter
    #[command(after_help = EXIT_CODES)]
    Generate(Box<GenerateArgs>),
    /// Talk with a base, or with a base with an adapter
    #[command(after_help = EXIT_CODES)]
    Chat(Box<ChatArgs>),
    /// Fold an adapter into its base, and say how much of it the written weights can hold
    #[command(after_help = EXIT_CODES)]
    Merge(Box<MergeArgs>),
    /// Write a base or an adapter as another kind of file, or a base with weights of another type
    #[command(after_help = EXIT_CODES)]
    Convert(Box<ConvertArgs>),
    /// Show what is in a model, an adapter or a data file
    #[command(after_help = EXIT_CODES)]
    Inspect(InspectArgs),
    /// Write the report of a run anew, or compare several runs on one page
    #[command(after_help = EXIT_CODES)]
    Report(ReportArgs),
    /// Let backends and instruction sets take turns on this machine, and say what it can do at best
    #[command(after_help = EXIT_CODES)]
    Bench(BenchArgs),
    /// Print a script that completes the command line in a shell
    Completions(CompletionsArgs),
    /// Write the man pages into a folder
    #[command(hide = true)]
    Man(ManArgs),
}

impl Job {
    pub(crate) fn voice(&self) -> Voice {
        match self {
            Self::Quickstart(args) => args.voice,
            Self::Finetune(args) => args.run.voice,
            Self::Plan(args) => args.run.voice,
            Self::Eval(args) => args.voice,
            Self::Generate(args) => args.voice,
            Self::Chat(args) => args.voice,
            Self::Merge(args) => args.voice,
            Self::Convert(args) => args.voice,
            Self::Inspect(args) => args.voice,
            Self::Report(args) => args.voice,
            Self::Bench(args) => args.voice(),
            Self::Completions(_) | Self::Man(_) => Voice::default(),
        }
    }
}

/// `lowtide quickstart`.
#[derive(Debug, Args)]
pub(crate) struct QuickstartArgs {
    /// Folder to write: the model, the examples and the adapter
    #[arg(long, short, value_name = "DIR", default_value = "lowtide-quickstart")]
    #[arg(help_heading = "Output")]
    pub(crate) output: PathBuf,
    /// Seed of shuffling and initialisation
    #[arg(long, value_name = "N", default_value_t = 0, help_heading = "Training")]
    #[arg(allow_negative_numbers = true)]
    pub(crate) seed: u64,
    /// Heap that may be held, such as 16MiB; if nothing fits, nothing starts
    #[arg(long, value_name = "SIZE", value_parser = size, help_heading = "Memory")]
    pub(crate) memory_budget: Option<String>,
    #[command(flatten)]
    pub(crate) machine: MachineFlags,
    #[command(flatten)]
    pub(crate) voice: Voice,
}

/// `lowtide finetune`.
#[derive(Debug, Args)]
pub(crate) struct FinetuneArgs {
    #[command(flatten)]
    pub(crate) run: RunArgs,
    /// Print the resolved configuration, with the plan in its comments, and do nothing else
    #[arg(long, help_heading = "Output")]
    pub(crate) dry_run: bool,
}

/// What `finetune` and `plan` share.
#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    #[command(flatten)]
    pub(crate) flags: RunFlags,
    /// TOML file whose keys are the flags' names; flags win over it
    #[arg(long, short, value_name = "FILE", help_heading = "Input and output")]
    pub(crate) config: Option<PathBuf>,
    /// Defaults for a kind of machine: phone (256MiB, half of the time), pi (512MiB), laptop
    /// (2GiB); flags and the configuration file win over them
    #[arg(long, value_name = "NAME", help_heading = "Machine")]
    #[arg(value_parser = Preset::ALL.map(Preset::name))]
    pub(crate) preset: Option<String>,
    #[command(flatten)]
    pub(crate) machine: MachineFlags,
    #[command(flatten)]
    pub(crate) voice: Voice,
}

impl RunArgs {
    /// Refuses what a run that goes on from the save in a folder that is named has no use for.
    /// Beside a bare `--resume` the same line may begin the run.
    ///
    /// # Errors
    /// [`SettingsError::BadValue`] naming the flag.
    pub(crate) fn check_beside_save(&self) -> Result<(), SettingsError> {
        if self.flags.resumed().is_none() {
            return Ok(());
        }
        let bad = |field, found: String, expected| {
            Err(SettingsError::BadValue { field, found, expected })
        };
        if let Some(preset) = &self.preset {
            let expected = "none beside a folder to resume, whose run has its settings";
            return bad("preset", preset.clone(), expected);
        }
        if let Some(adapter) = self.flags.init_adapter() {
            let expected = "none beside a folder to resume, whose run has its adapter";
            return bad("init-adapter", adapter.display().to_string(), expected);
        }
        Ok(())
    }
}

/// `lowtide plan`.
#[derive(Debug, Args)]
pub(crate) struct PlanArgs {
    #[command(flatten)]
    pub(crate) run: RunArgs,
    /// Take the gradients of a few batches, show what each linear promises, and propose what to
    /// freeze
    #[arg(long)]
    pub(crate) sensitivity: bool,
}

/// `lowtide eval`.
#[derive(Debug, Args)]
pub(crate) struct EvalArgs {
    /// Base: a Hugging Face folder, a .gguf file, or a hub id such as org/name
    #[arg(long, short, value_name = "PATH", help_heading = "Input")]
    pub(crate) model: PathBuf,
    /// Adapter, a folder or a .gguf file; without one, the bare base is measured
    #[arg(long, short, alias = "adapter-path", value_name = "PATH", help_heading = "Input")]
    pub(crate) adapter: Option<PathBuf>,
    /// A .jsonl or .txt file, or a folder: its test.jsonl, else valid.jsonl, else train.jsonl
    #[arg(long, short, value_name = "PATH", help_heading = "Input")]
    pub(crate) data: PathBuf,
    /// Tokens of the longest sequence; longer examples are truncated
    #[arg(long, aliases = ["max-seq-length", "max-length"], value_name = "TOKENS")]
    #[arg(default_value_t = 512, help_heading = "Evaluation")]
    #[arg(allow_negative_numbers = true)]
    pub(crate) max_seq_len: usize,
    /// Sequences of a batch
    #[arg(long, value_name = "N", default_value_t = 1, help_heading = "Evaluation")]
    #[arg(allow_negative_numbers = true)]
    pub(crate) batch_size: usize,
    /// The most of the last tokens that a token sees, itself included, as in training
    #[arg(long, value_name = "TOKENS", help_heading = "Evaluation")]
    #[arg(allow_negative_numbers = true)]
    pub(crate) sliding_window: Option<usize>,
    #[command(flatten, next_help_heading = "Evaluation")]
    pub(crate) packing: PackingFlags,
    #[command(flatten, next_help_heading = "Evaluation")]
    pub(crate) mask: MaskFlags,
    /// Heap that may be held, such as 256MiB; if nothing fits, nothing starts
    #[arg(long, value_name = "SIZE", value_parser = size, help_heading = "Memory")]
    pub(crate) memory_budget: Option<String>,
    /// Read weights ahead and let go of them block by block; auto: where they do not fit in memory
    #[arg(long, value_name = "WHEN", default_value = "auto", help_heading = "Memory")]
    #[arg(value_parser = ["auto", "on", "off"])]
    pub(crate) stream_weights: String,
    #[command(flatten)]
    pub(crate) arithmetic: ArithmeticFlags,
    #[command(flatten)]
    pub(crate) machine: MachineFlags,
    #[command(flatten)]
    pub(crate) voice: Voice,
}

/// `lowtide inspect`.
#[derive(Debug, Args)]
pub(crate) struct InspectArgs {
    /// A model, an adapter, or data
    #[arg(value_name = "PATH")]
    pub(crate) path: PathBuf,
    /// List every tensor of a model or an adapter
    #[arg(long, help_heading = "Models and adapters")]
    pub(crate) tensors: bool,
    /// Show the whole chat template of a model
    #[arg(long, help_heading = "Models and adapters")]
    pub(crate) template: bool,
    /// Base whose tokenizer and chat template the data is read through
    #[arg(long, short, value_name = "PATH", help_heading = "Data")]
    pub(crate) model: Option<PathBuf>,
    /// Tokens beyond which training would cut an example
    #[arg(long, aliases = ["max-seq-length", "max-length"], value_name = "TOKENS")]
    #[arg(default_value_t = 512, help_heading = "Data")]
    pub(crate) max_seq_len: usize,
    #[command(flatten, next_help_heading = "Data")]
    pub(crate) mask: MaskFlags,
    #[command(flatten)]
    pub(crate) voice: Voice,
}

/// `lowtide report`.
#[derive(Debug, Args)]
pub(crate) struct ReportArgs {
    /// Folders that finetune wrote
    #[arg(value_name = "DIR", required = true)]
    pub(crate) folders: Vec<PathBuf>,
    /// File to write [default: report.html in the folder, or compare.html for several]
    #[arg(long, short, value_name = "FILE", help_heading = "Output")]
    pub(crate) output: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) voice: Voice,
}

/// `lowtide completions`.
#[derive(Debug, Args)]
pub(crate) struct CompletionsArgs {
    /// The shell
    pub(crate) shell: Shell,
}

/// `lowtide man`.
#[derive(Debug, Args)]
pub(crate) struct ManArgs {
    /// Folder to write lowtide.1 and a page for every sub-command into
    #[arg(value_name = "DIR")]
    pub(crate) folder: PathBuf,
}

/// Whether prompts carry loss; the last flag given counts.
#[derive(Clone, Copy, Debug, Default, Args)]
pub(crate) struct MaskFlags {
    /// Loss on responses only, for chat and completion data [default]
    #[arg(long, alias = "completion-only", overrides_with = "no_mask_prompt")]
    mask_prompt: bool,
    /// Loss on prompts too
    #[arg(long, overrides_with = "mask_prompt")]
    no_mask_prompt: bool,
}

impl MaskFlags {
    /// What was asked for, if anything was.
    pub(crate) fn given(self) -> Option<bool> {
        (self.mask_prompt || self.no_mask_prompt).then_some(self.mask_prompt)
    }
}

/// Whether examples share sequences; the last flag given counts.
#[derive(Clone, Copy, Debug, Default, Args)]
pub(crate) struct PackingFlags {
    /// Several examples in one sequence of up to --max-seq-len tokens; they stay apart
    #[arg(long, alias = "sample-packing", overrides_with = "no_packing")]
    packing: bool,
    /// Every example a sequence of its own [default]
    #[arg(long, overrides_with = "packing")]
    no_packing: bool,
}

impl PackingFlags {
    /// What was asked for, if anything was.
    pub(crate) fn given(self) -> Option<bool> {
        (self.packing || self.no_packing).then_some(self.packing)
    }
}

/// How much is said, and in which form.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Args)]
#[command(next_help_heading = "Output")]
pub(crate) struct Voice {
    /// One JSON object a line on standard output, and nothing else there
    #[arg(long)]
    pub(crate) json: bool,
    /// Only errors
    #[arg(long, short)]
    pub(crate) quiet: bool,
    /// Trace what happens on standard error
    #[arg(long, short, conflicts_with = "quiet")]
    pub(crate) verbose: bool,
}
