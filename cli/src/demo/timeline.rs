//! The demo's timeline: what happened when, shown while it happens and kept for the report.

use std::{io::IsTerminal, time::Duration};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use jiff::Timestamp;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::messages::{self, Lang, Text};

/// Part of the demo that an entry belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Chapter {
    /// Everything is started.
    Prepare,
    /// Story one.
    Kernel,
    /// Story two.
    SiteLoss,
    /// Story three.
    Energy,
    /// The end.
    End,
}

impl Chapter {
    /// Its heading.
    pub fn heading(self) -> Text {
        match self {
            Self::Prepare => messages::chapter_prepare(),
            Self::Kernel => messages::chapter_kernel(),
            Self::SiteLoss => messages::chapter_site(),
            Self::Energy => messages::chapter_energy(),
            Self::End => messages::chapter_end(),
        }
    }
}

/// What kind of event an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Mark {
    /// Worth knowing.
    Note,
    /// The demo broke something, on purpose.
    Fault,
    /// The demo did something else, on purpose.
    Act,
    /// The product did something.
    Step,
    /// It ended well.
    Good,
    /// It did not end well.
    Bad,
}

/// One entry.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Entry {
    /// When, in milliseconds since the start of the demo.
    #[serde(rename = "at_ms", serialize_with = "as_millis")]
    pub at: Duration,
    /// Part of the demo.
    pub chapter: Chapter,
    /// Kind.
    pub mark: Mark,
    /// What happened.
    pub text: Text,
}

fn as_millis<S: serde::Serializer>(at: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(super::traffic::millis(*at))
}

/// The timeline.
pub struct Timeline {
    /// Start of the demo, for durations.
    pub origin: Instant,
    /// Start of the demo, for people and queries.
    pub began: Timestamp,
    /// Language of the terminal.
    pub lang: Lang,
    color: bool,
    to_stderr: bool,
    bar: ProgressBar,
    entries: Mutex<Vec<Entry>>,
    waiting: Mutex<(Option<Text>, String)>,
}

impl Timeline {
    /// A timeline that begins now. With `quiet_stdout` standard output is left to JSON and people read standard error.
    pub fn begin(lang: Lang, quiet_stdout: bool) -> Self {
        let terminal = if quiet_stdout { std::io::stderr().is_terminal() } else { std::io::stdout().is_terminal() };
        let target = match (terminal, quiet_stdout) {
            (false, _) => ProgressDrawTarget::hidden(),
            (true, true) => ProgressDrawTarget::stderr(),
            (true, false) => ProgressDrawTarget::stdout(),
        };
        let bar = ProgressBar::with_draw_target(None, target);
        if let Ok(style) = ProgressStyle::with_template("{spinner:.green} {elapsed:>4} {wide_msg}") {
            bar.set_style(style);
        }
        bar.enable_steady_tick(Duration::from_millis(120));
        Self {
            origin: Instant::now(),
            began: Timestamp::now(),
            lang,
            color: terminal && std::env::var_os("NO_COLOR").is_none(),
            to_stderr: quiet_stdout,
            bar,
            entries: Mutex::default(),
            waiting: Mutex::default(),
        }
    }

    /// Time since the start of the demo.
    pub fn elapsed(&self) -> Duration {
        self.origin.elapsed()
    }

    /// Something happened now.
    pub fn say(&self, chapter: Chapter, mark: Mark, text: Text) {
        let entry = Entry { at: self.elapsed(), chapter, mark, text };
        let mut entries = self.entries.lock();
        if entries.last().is_none_or(|last| last.chapter != chapter) {
            self.print(&format!("\n{}", self.paint("1", chapter.heading().get(self.lang))));
        }
        let (sign, code) = match mark {
            Mark::Note => ("·", "2"),
            Mark::Fault => ("✗", "1;33"),
            Mark::Act => ("↻", "1;34"),
            Mark::Step => ("→", "36"),
            Mark::Good => ("✓", "1;32"),
            Mark::Bad => ("!", "1;31"),
        };
        let time = self.paint("2", &format!("{:>6.1} s", entry.at.as_secs_f64()));
        self.print(&format!("{time}  {} {}", self.paint(code, sign), entry.text.get(self.lang)));
        entries.push(entry);
    }

    /// Something happened now, whatever part of the demo this is.
    pub fn interject(&self, mark: Mark, text: Text) {
        let chapter = self.entries.lock().last().map_or(Chapter::Prepare, |last| last.chapter);
        self.say(chapter, mark, text);
    }

    /// Text below or above the timeline that is no event.
    pub fn print(&self, text: &str) {
        if self.bar.is_hidden() {
            if self.to_stderr { eprintln!("{text}") } else { println!("{text}") }
        } else {
            self.bar.println(text);
        }
    }

    /// What is waited for, in the progress line; `None` when nothing is.
    pub fn waiting(&self, what: Option<Text>) {
        self.waiting.lock().0 = what;
        self.redraw();
    }

    /// What the clients see, in the progress line.
    pub fn clients(&self, status: String) {
        self.waiting.lock().1 = status;
        self.redraw();
    }

    fn redraw(&self) {
        let waiting = self.waiting.lock();
        let what = waiting.0.as_ref().map(|text| text.get(self.lang)).unwrap_or_default();
        let between = if what.is_empty() || waiting.1.is_empty() { "" } else { "  ·  " };
        self.bar.set_message(format!("{what}{between}{}", waiting.1));
    }

    /// Ends the progress line.
    pub fn end(&self) {
        self.bar.finish_and_clear();
    }

    /// Everything so far.
    pub fn entries(&self) -> Vec<Entry> {
        self.entries.lock().clone()
    }

    /// Text in an ANSI style, where the terminal shows colours.
    pub fn paint(&self, code: &str, text: &str) -> String {
        if self.color { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_keep_their_order_their_chapter_and_both_languages() {
        let timeline = Timeline::begin(Lang::En, true);
        timeline.say(Chapter::Prepare, Mark::Note, messages::plane_ready("http://x"));
        timeline.say(Chapter::Kernel, Mark::Fault, messages::kernel_fault("a-1", 2));
        timeline.end();
        let entries = timeline.entries();
        assert_eq!(entries.iter().map(|e| e.chapter).collect::<Vec<_>>(), [Chapter::Prepare, Chapter::Kernel]);
        assert!(entries[0].at <= entries[1].at && entries[1].text.zh.contains("内核"));
    }
}
