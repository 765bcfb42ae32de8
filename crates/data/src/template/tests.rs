//! Tests of the chat templates.
