//! Chat templates: compiled from any text and rendered with a small conversation.
#![no_main]

use libfuzzer_sys::fuzz_target;
use lowtide_data::{ChatTemplate, Message, RenderOptions};

fuzz_target!(|source: &str| {
    let Ok(template) = ChatTemplate::new(source, Some("<s>"), Some("</s>")) else { return };
    let messages = [("system", "Be brief."), ("user", "Hello?"), ("assistant", "Hello.")]
        .map(|(role, content)| Message::new(role, content));
    let _ = template.render_marked(&messages, RenderOptions::default());
    let options = RenderOptions { add_generation_prompt: true, tools: None };
    let _ = template.render(&messages[..2], options);
});
