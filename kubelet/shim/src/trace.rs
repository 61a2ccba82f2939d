//! Carries libcontainer's reasons to the shim: its errors name only the outermost step, its log events the cause.

use std::fmt::{Debug, Write};
use std::os::fd::{BorrowedFd, RawFd};

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

use crate::process::Report;

struct ToChannel(RawFd);

/// From now on, error events of this process (and those it forks) go to the channel.
pub fn install(channel: RawFd) {
    // A second installation can't happen: each helper is a fresh fork of a shim that has none.
    let _ = tracing::subscriber::set_global_default(ToChannel(channel));
}

impl Subscriber for ToChannel {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() == Level::ERROR
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut text = Text::default();
        event.record(&mut text);
        text.message.push_str(&text.fields);
        text.message.truncate(
            text.message
                .char_indices()
                .nth(1000)
                .map_or(text.message.len(), |(at, _)| at),
        );
        // SAFETY: the channel stays open until exec in every process that inherits this subscriber.
        let channel = unsafe { BorrowedFd::borrow_raw(self.0) };
        Report::Detail(text.message).send(channel, &[]);
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

#[derive(Default)]
struct Text {
    message: String,
    fields: String,
}

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        // Writing to a string can't fail.
        let _ = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            name => write!(self.fields, " {name}={value:?}"),
        };
    }
}
