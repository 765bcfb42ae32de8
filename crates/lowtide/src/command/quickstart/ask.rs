//! Prompts in, answers out.

use std::ops::ControlFlow;
use std::path::Path;

use lowtide::backend::Backend;
use lowtide::data::Message;
use lowtide::runtime::{
    Prompt, Request, RuntimeError, Sampling, SessionSettings, Stop, with_session,
};

use super::outcome::Answer;

/// Tokens of prompt and answer together: the longest have half as many.
const CONTEXT: usize = 128;

/// The held-out prompts, not answered.
pub(super) fn held_out(lines: &str) -> Vec<Answer> {
    let parsed = |line| serde_json::from_str(line).expect("the embedded examples are sound");
    lines.lines().map(parsed).collect()
}

/// The answers of a base, or of a base with an adapter: the likeliest token each time. `None` when
/// `go_on`, which hears how many prompts are done, says no.
pub(super) fn answers(
    model: &Path,
    adapter: Option<&Path>,
    prompts: &[&str],
    backend: &dyn Backend,
    go_on: &mut dyn FnMut(usize) -> bool,
) -> Result<Option<Vec<String>>, RuntimeError> {
    let settings = SessionSettings {
        model: model.to_owned(),
        adapter: adapter.map(Path::to_owned),
        context: Some(CONTEXT),
        ..SessionSettings::default()
    };
    let request = Request { sampling: Sampling::GREEDY, max_tokens: CONTEXT, ..Request::default() };
    with_session(&settings, backend, |session| {
        let mut answers = Vec::with_capacity(prompts.len());
        for (done, prompt) in prompts.iter().enumerate() {
            let mut heard = |_: &str| match go_on(done) {
                true => ControlFlow::Continue(()),
                false => ControlFlow::Break(()),
            };
            let prompt = [Message::new("user", prompt)];
            let answer = session.complete(Prompt::Chat(&prompt), &request, &mut heard)?;
            if answer.stop == Stop::Interrupted {
                return Ok(None);
            }
            answers.push(answer.text);
        }
        Ok(Some(answers))
    })
}
