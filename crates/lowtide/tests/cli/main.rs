//! The command as a user meets it: flags in, text, JSON, files and exit codes out.

mod adapters;
mod benches;
mod converts;
mod home;
mod hub;
mod inspects;
mod killed;
mod merges;
mod packaging;
#[cfg(unix)]
mod pauses;
mod place;
mod pooled;
mod quickstart;
mod ranks;
mod refused;
mod reports;
mod resumes;
mod runs;
mod speech;
