//! Tests of the chat templates.

use std::time::{Duration, SystemTime};

use serde_json::json;

use super::*;

fn template(source: &str) -> ChatTemplate {
    ChatTemplate::new(source, Some("<s>"), Some("</s>")).unwrap()
}

fn render(source: &str) -> String {
    let messages = [Message::new("user", "Hi"), Message::new("assistant", "Ho")];
    template(source).render(&messages, RenderOptions::default()).unwrap()
}

fn failure_of(source: &str) -> TemplateError {
    template(source).render(&[Message::new("user", "Hi")], RenderOptions::default()).unwrap_err()
}

#[test]
fn blocks_are_trimmed_on_both_sides() {
    let source = "{% for m in messages %}\n    {% if true %}\n{{ m.role }}\n    {% endif %}\n  x\n\
        {% endfor %}\nend\n";
    assert_eq!(render(source), "user\n  x\nassistant\n  x\nend");
    assert_eq!(render("a\n  {%+ if true %}b{% endif %}\n"), "a\n  b");
    assert_eq!(render("a \n{%- if true -%}\n b {%- endif %} c"), "ab c");
}

#[test]
fn python_is_spoken() {
    assert_eq!(render("{{ ' x '.strip() ~ 'a,b'.split(',')[-1] ~ 'AB'.lower() }}"), "xbab");
    assert_eq!(render("{{ messages[0].get('name', 'none') }}{{ messages[1:] | length }}"), "none1");
    assert_eq!(render("{{ true }} {{ none }} {{ 1.0 }} {{ [1, 'a'] }}"), "True None 1.0 [1, 'a']");
    assert_eq!(render("{{ missing }}|{{ tools is none }}|{{ missing is defined }}"), "|True|False");
    let keep = "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}\
        {% if m.role == 'user' %}{% continue %}{% endif %}{% break %}{% endfor %}{{ ns.n }}";
    assert_eq!(render(keep), "2");
    assert_eq!(render("{{ bos_token }}{{ messages[0]['content'] }}{{ eos_token }}"), "<s>Hi</s>");
    assert_eq!(
        render("{% for k, v in messages[0].items() %}{{ k }}={{ v }};{% endfor %}"),
        "role=user;content=Hi;"
    );
}

#[test]
fn absent_tokens_are_undefined() {
    let source = "{{ bos_token is defined }}{{ bos_token }}";
    let template = ChatTemplate::new(source, None, None).unwrap();
    assert_eq!(template.render(&[], RenderOptions::default()).unwrap(), "False");
}

#[test]
fn tools_are_written_as_python_writes_json() {
    let tools = json!([{ "name": "f", "n": [1, 2.0, 1e-7, 1e16, -0.5], "é\"\n": null, "e": {} }]);
    let options = RenderOptions { add_generation_prompt: false, tools: Some(&tools) };
    let show = |source: &str| template(source).render(&[], options).unwrap();
    assert_eq!(
        show("{{ tools | tojson }}"),
        r#"[{"name": "f", "n": [1, 2.0, 1e-07, 1e+16, -0.5], "é\"\n": null, "e": {}}]"#
    );
    assert_eq!(
        show("{{ tools[0] | tojson(separators=[',', ':'], sort_keys=true) }}"),
        r#"{"e":{},"n":[1,2.0,1e-07,1e+16,-0.5],"name":"f","é\"\n":null}"#
    );
    assert_eq!(
        show("{{ {'a': [1], 'b': []} | tojson(indent=2) }}"),
        "{\n  \"a\": [\n    1\n  ],\n  \"b\": []\n}"
    );
    assert_eq!(show("{{ '<b>&' | tojson(ensure_ascii=False) }}"), r#""<b>&""#);
    let error = failure_of("{{ 1 | tojson(unknown=1) }}");
    assert!(matches!(error, TemplateError::Render { line: 1, .. }), "{error}");
}

#[test]
fn the_clock_is_the_one_given() {
    let at = |seconds, format: &str| {
        let moment = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let source = format!("{{{{ strftime_now('{format}') }}}}");
        let template = template(&source).with_clock(moment);
        template.render(&[], RenderOptions::default())
    };
    assert_eq!(at(1_732_233_845, "%d %b %Y, %H:%M:%S").unwrap(), "22 Nov 2024, 00:04:05");
    assert_eq!(
        at(951_782_400, "%A %-d %B %y %j %I%p %%").unwrap(),
        "Tuesday 29 February 00 060 12AM %"
    );
    assert_eq!(at(4_107_542_399, "%F %T %a %Z").unwrap(), "2100-02-28 23:59:59 Sun UTC");
    let error = at(0, "%Q").unwrap_err();
    assert!(error.to_string().contains("strftime_now: %Q is not understood"), "{error}");
    let now = template("{{ strftime_now('%Y') }}").render(&[], RenderOptions::default()).unwrap();
    assert!(now.parse::<u32>().unwrap() > 2023);
}

#[test]
fn generation_blocks_leave_the_text_alone_and_tell_their_place() {
    let source = "{% for m in messages %}\n<{{ m.role }}>\n  {%- if m.role == 'assistant' -%}\n\
        {%- generation -%}\n  {{ m.content }}\n{%- endgeneration -%}\n\
        \x20 {%- endif -%}\n!\n{% endfor %}";
    let tagless = source.replace("{%- generation -%}", "{%- if true -%}");
    let tagless = tagless.replace("{%- endgeneration -%}", "{%- endif -%}");
    let messages = [Message::new("user", "Hi"), Message::new("assistant", "Ho")];
    let marked = template(source);
    assert!(marked.marks_generation());
    let (text, spans) = marked.render_marked(&messages, RenderOptions::default()).unwrap();
    assert_eq!(text, render(&tagless));
    assert_eq!(spans.iter().map(|span| &text[span.clone()]).collect::<Vec<_>>(), ["Ho"]);

    let source = "x\n  {% generation %}\n y\n  {% endgeneration %}\nz";
    let tagless = source.replace("endgeneration", "endif").replace("generation", "if true");
    let (text, spans) = template(source).render_marked(&[], RenderOptions::default()).unwrap();
    assert_eq!(text, render(&tagless));
    assert_eq!(&text[spans[0].clone()], " y\n");
    assert!(!template("{% if generation %}{% endif %}").marks_generation());
}

#[test]
fn bad_templates_name_their_line() {
    let syntax = |source: &str| ChatTemplate::new(source, None, None).unwrap_err();
    let error = syntax("a\nb {% if %}");
    assert!(matches!(error, TemplateError::Syntax { line: 2, .. }), "{error}");
    let error = syntax("{% for m in messages %}\n");
    assert!(matches!(error, TemplateError::Syntax { .. }), "{error}");
    let error = syntax(&" ".repeat((1 << 20) + 1));
    assert_eq!(error, TemplateError::TooLong { bytes: 1_048_577, limit: 1_048_576 });
    let error = failure_of("\n\n{{ messages | nofilter }}");
    assert!(matches!(
        error,
        TemplateError::Syntax { line: 3, .. } | TemplateError::Render { line: 3, .. }
    ));
    let error = failure_of("\n{{ missing.deeper }}");
    assert!(matches!(error, TemplateError::Render { line: 2, .. }), "{error}");
    assert_eq!(
        failure_of("{% macro m() %}{{ raise_exception('no ' ~ 1) }}{% endmacro %}{{ m() }}"),
        TemplateError::Raised { message: "no 1".into() }
    );
}

#[test]
fn endless_work_is_stopped() {
    let source = "{% for a in range(9999) %}{% for b in range(9999) %}{% for c in range(9999) %}\
        {% endfor %}{% endfor %}{% endfor %}";
    let error = failure_of(source);
    assert!(matches!(error, TemplateError::Render { .. }), "{error}");
    let error = failure_of("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}");
    assert!(matches!(error, TemplateError::Render { .. }), "{error}");
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(128))]

    #[test]
    fn any_source_renders_or_fails_cleanly(
        source in "(\\{%-?|-?%\\}|\\{\\{|\\}\\}|\\{#|#\\}|generation|endgeneration|if|endif|\
            messages|for m in|endfor|set|macro|[a-z'|.\\[\\]() \n0-9]){0,24}"
    ) {
        if let Ok(template) = ChatTemplate::new(&source, None, None) {
            let _ = template.render_marked(&[Message::new("user", "x")], RenderOptions::default());
        }
    }
}
